"""The context set of one viewer: ordered pairs, chosen classes, task. Knows nothing of Qt."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..errors import MedverseError
from .facts import PairFacts, Problem, inspect_pair, pair_mark
from .marks import is_scratch, unwrapped
from .pairing import Candidate, find_nnunet_pairs, pair_candidates, pair_files
from .rows import AlignmentStatus, FileSource, LayerSource, PairRow
from .snapshot import LayerRef
from .watch import CHECK_DELAY, Immediately, LayerWatch, Runner

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

REINSPECT_DELAY = 0.2


class ContextSetModel:
    """Rows of context pairs and what is to be learnt from them.

    Signals
    -------
    rows_changed()
        Rows came, went or changed places.
    row_changed(row)
        What a row shows has changed.
    aligning_changed()
        A pair is being aligned to be looked at, or is no longer.
    choice_changed()
        Available or chosen classes, or the task.
    edited()
        A prediction made before would come out differently now. Undo and scripted edits are
        not told here but by `watch.touched`, for whoever can compare.
    """

    rows_changed = Signal()
    row_changed = Signal(object)
    choice_changed = Signal()
    edited = Signal()
    aligning_changed = Signal()

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner = runner or Immediately()
        self._rows: list[PairRow] = []
        self._chosen: tuple[int, ...] | None = None
        self._last_choice: tuple[Any, ...] = ()
        self.aligning = False
        self.watch = LayerWatch()
        self.watch.changed.connect(self._on_layer_changed)
        self.watch.touched.connect(self._on_layer_touched)
        self.watch.renamed.connect(self._on_layer_renamed)

    # ---- reading

    @property
    def rows(self) -> tuple[PairRow, ...]:
        return tuple(self._rows)

    @property
    def task(self) -> str | None:
        """ "labels" or "image": that of the first enabled row."""
        return next((r.task for r in self._rows if r.enabled and not r.blocked and r.task), None)

    @property
    def active(self) -> tuple[PairRow, ...]:
        """Enabled rows that can be used together."""
        task = self.task
        return tuple(
            r for r in self._rows if r.enabled and not r.blocked and r.task in (None, task)
        )

    @property
    def available_classes(self) -> tuple[int, ...]:
        """Label values above 0 in the active rows, ascending."""
        found = {c for r in self.active if r.facts for c in r.facts.counts}
        return tuple(sorted(found))

    @property
    def chosen_classes(self) -> tuple[int, ...] | None:
        """The classes picked by the user; None means all."""
        return self._chosen

    @property
    def effective_classes(self) -> tuple[int, ...]:
        """The classes that a prediction would have."""
        available = self.available_classes
        if self._chosen is None:
            return available
        return tuple(c for c in self._chosen if c in available)

    @property
    def first_labels(self) -> Labels | None:
        """The label layer whose colours and names stand for the classes."""
        found = (r.source.layers[1] for r in self.active if r.source.layers)
        return next((x for x in found if type(x).__name__ == "Labels"), None)

    @property
    def pending(self) -> bool:
        """Whether some row has not been looked at yet."""
        return any(r.facts is None for r in self._rows)

    def problems(self, row: PairRow) -> tuple[Problem, ...]:
        """Return what is off with a row, within this set."""
        return row.problems(self.task, self.effective_classes)

    # ---- editing the set

    def add_pair(self, image: Layer, label: Layer) -> PairRow:
        """Append a pair of layers.

        Raises
        ------
        MedverseError
            Both are one layer, one is a preview of ours, or the pair is there already.
        """
        image, label = unwrapped(image), unwrapped(label)
        if image is label:
            raise MedverseError(f"'{image.name}' cannot be both image and label: choose another.")
        for layer in (image, label):
            if is_scratch(layer):
                raise MedverseError(
                    f"'{layer.name}' is a preview: accept it first, then add the accepted layer."
                )
        added = self._append([LayerSource(image, label)])
        if not added:
            raise MedverseError(
                f"'{image.name}' with '{label.name}' is in the context set already."
            )
        return added[0]

    def add_from_layers(self, layers: Iterable[Layer]) -> tuple[PairRow, ...]:
        """Pair image and label layers by grid and name, and append the pairs that are new.

        Raises
        ------
        MedverseError
            No image and label layer fit together.
        """
        found = [unwrapped(layer) for layer in layers]
        usable = [layer for layer in found if not is_scratch(layer) and layer.ndim == 3]
        labels = [_candidate(x) for x in usable if type(x).__name__ == "Labels"]
        images = [_candidate(x) for x in usable if type(x).__name__ == "Image" and not x.rgb]
        pairs = pair_candidates(images, labels)
        if not pairs:
            raise MedverseError(
                "No image layer and label layer fit together: they need the same shape and place, "
                "or names alike such as 'head 1' and 'head 1 label'. Otherwise choose both below "
                "and press Pair."
            )
        return self._append([LayerSource(a.item, b.item) for a, b in pairs])

    def add_files(self, paths: Sequence[str | Path]) -> tuple[PairRow, ...]:
        """Append pairs of files, found by name; raises `MedverseError` if none fit."""
        return self._append([FileSource(*pair) for pair in pair_files(paths)])

    def add_named_files(self, files: Iterable[tuple[str, Path, Path]]) -> tuple[PairRow, ...]:
        """Append pairs of (name, image file, label file) that are not in the set yet."""
        return self._append([FileSource(image, label, name) for name, image, label in files])

    def add_folder(self, folder: str | Path) -> tuple[PairRow, ...]:
        """Append the cases of a folder in nnU-Net layout; raises `MedverseError` if none."""
        return self._append([FileSource(*pair) for pair in find_nnunet_pairs(folder)])

    def remove(self, rows: Iterable[PairRow]) -> None:
        """Take rows out of the set; their layers stay as they are."""
        gone = [row for row in rows if row in self._rows]
        if not gone:
            return
        for row in gone:
            self._rows.remove(row)
            for layer in row.source.layers:
                self.watch.remove(layer)
        self._structure_changed(any(row.enabled for row in gone))

    def clear(self) -> None:
        self.remove(self.rows)

    def move(self, row: PairRow, steps: int) -> None:
        """Move a row down (or up, negative) within bounds; the first row sets the task."""
        old = self._rows.index(row)
        new = min(max(old + steps, 0), len(self._rows) - 1)
        if new != old:
            self._rows.insert(new, self._rows.pop(old))
            self._structure_changed(row.enabled)

    def set_enabled(self, row: PairRow, enabled: bool) -> None:
        """Use a row as context or leave it out."""
        if row.enabled != enabled:
            row.enabled = enabled
            self._refresh_rows()
            self.edited.emit()

    def choose_classes(self, classes: Iterable[int] | None) -> None:
        """Pick the label values to predict; None for all that occur."""
        chosen = None if classes is None else tuple(sorted(set(classes)))
        if chosen != self._chosen:
            self._chosen = chosen
            self._refresh_rows()
            self.edited.emit()

    def set_alignment(self, key: str, status: AlignmentStatus | None) -> None:
        """Note how the pair of a row was aligned in the last run."""
        for row in self._rows:
            if row.key == key and row.alignment != status:
                row.alignment = status
                self.row_changed.emit(row)

    def set_aligning(self, aligning: bool) -> None:
        """Note whether a pair is being aligned to be looked at."""
        if self.aligning != aligning:
            self.aligning = aligning
            self.aligning_changed.emit()

    def layer_removed(self, layer: Layer) -> None:
        """Drop the rows of a layer that left the viewer."""
        self.remove([r for r in self._rows if any(x is layer for x in r.source.layers)])

    def refresh(self) -> None:
        """Look at every row again."""
        for row in self._rows:
            self._inspect(row)

    # ---- following the layers

    def _append(self, sources: list[LayerSource | FileSource]) -> tuple[PairRow, ...]:
        new = [s for s in sources if not any(s.same_as(r.source) for r in self._rows)]
        rows = tuple(PairRow(source) for source in new)
        self._rows.extend(rows)
        for row in rows:
            for layer in row.source.layers:
                self.watch.add(layer)
        if rows:
            # Facts first where they come at once, so that listeners see them.
            for row in rows:
                self._inspect(row)
            self._structure_changed(True)
        return rows

    def _inspect(self, row: PairRow, delay: float = 0.0) -> None:
        ref = row.ref()
        self._runner.submit(
            ("facts", row.key),
            lambda: inspect_pair(ref),
            lambda facts: self._learn(row, facts),
            delay=delay,
        )

    def _learn(self, row: PairRow, facts: PairFacts) -> None:
        before = (row.blocked, row.task, tuple(row.facts.counts) if row.facts else None)
        row.facts = facts
        if row not in self._rows:
            return
        if before != (row.blocked, row.task, tuple(facts.counts)):
            self._refresh_rows()
            if row.enabled:
                self.edited.emit()
        else:
            self.row_changed.emit(row)

    def _on_layer_changed(self, layer: Layer) -> None:
        rows = [r for r in self._rows if any(x is layer for x in r.source.layers)]
        for row in rows:
            self._inspect(row, delay=REINSPECT_DELAY)
        if any(row.enabled for row in rows):
            self.edited.emit()

    def _on_layer_touched(self, layer: Layer) -> None:
        for row in self._rows:
            if row.facts is not None and any(x is layer for x in row.source.layers):
                self._compare(row)

    def _compare(self, row: PairRow) -> None:
        """Look at a row again if its content is not what was looked at."""
        ref = row.ref()

        def look(mark: Hashable) -> None:
            if row.facts is None or mark != row.facts.mark:
                self._inspect(row)

        self._runner.submit(("compare", row.key), lambda: pair_mark(ref), look, delay=CHECK_DELAY)

    def _on_layer_renamed(self, layer: Layer) -> None:
        for row in self._rows:
            if any(x is layer for x in row.source.layers):
                self.row_changed.emit(row)

    def _structure_changed(self, matters: bool) -> None:
        self.rows_changed.emit()
        self._announce_choice()
        if matters:
            self.edited.emit()

    def _refresh_rows(self) -> None:
        for row in self._rows:
            self.row_changed.emit(row)
        self._announce_choice()

    def _announce_choice(self) -> None:
        choice = (self.task, self.available_classes, self._chosen)
        if choice != self._last_choice:
            self._last_choice = choice
            self.choice_changed.emit()


def _candidate(layer: Layer) -> Candidate:
    ref = LayerRef.of(layer)
    return Candidate(layer.name, ref.shape, ref.affine, layer)
