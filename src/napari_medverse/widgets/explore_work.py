"""What the Explore dock has done in the background; runs on the thread of its jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MedverseError
from .explore_model import Advice
from .retrieval_desk import load_embedder
from .snapshot import FileRef, PairRef, Reference, SnapshotCache

if TYPE_CHECKING:
    from ..evaluation.study import Outcome, Study
    from ..evaluation.study_plan import Draw
    from ..evaluation.study_report import Report
    from ..evaluation.uncertainty import Uncertainty
    from ..inference import CancelToken, ContextPair, Prediction, Volume
    from .engine import LocalEngine

#: called with (fraction, line)
Tell = Callable[[float, str], None]
#: label maps of a study that are kept, so that a click shows them at once
_KEPT_BYTES = 256 << 20
_VOLUME_FILES = (".nii", ".nii.gz", ".tif", ".tiff", ".nrrd", ".mha", ".mhd")
_LABEL_WORDS = ("label", "mask", "_seg", "truth")


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, as the GUI thread noted it.

    Attributes
    ----------
    model
        Name of the weights.
    pairs
        The context set's active pairs.
    targets
        Scans with truth, as pairs.
    options
        Of `predict`.
    settings
        Keywords of `StudySettings`.
    similarity, bank
        What "nearest" and "farthest" go by; the URI of the bank that is open, if any.
    """

    model: str
    pairs: tuple[PairRef, ...]
    targets: tuple[PairRef, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    similarity: str = "features"
    bank: str = ""


class Laboratory:
    """Studies, uncertainty and advice, with what one leaves for the next.

    Parameters
    ----------
    engine
        Loads the weights.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self._volumes = SnapshotCache()
        self._study: Study | None = None
        self._plan_notes: tuple[str, ...] = ()
        self._kept: dict[str, Prediction] = {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Share the preferred memory with previews, and give features back at the end."""
        with self.engine.sharing():
            try:
                yield
            finally:
                if self._study is not None:
                    self._study.cache.next_target()

    def study(
        self, question: Question, cancel: CancelToken, tell: Tell
    ) -> tuple[Report, Iterator[Outcome]]:
        """Return the report of a study to be, and its outcomes as they come."""
        from ..evaluation.study import Study, StudySettings
        from ..evaluation.study_report import Report

        # It takes long, and the dock is about to need it: not in the window's thread.
        from . import explore_plot  # noqa: F401

        settings = StudySettings(**question.settings)
        model, pairs = self._prepare(question, tell)
        targets = [self._volumes.pair(ref) for ref in question.targets]
        self._volumes.forget_unused()
        alignments = self._alignments()
        self._study = None
        ranking = None
        if settings.sampling != "random":
            ranking = _similarity(question, model, alignments, cancel)
        study = Study(
            model,
            targets,
            pairs,
            settings,
            similarity=ranking,
            cache_bytes=self.engine.left,
            alignments=alignments,
        )
        tell(0, "choosing subsets")
        plan = study.plan()
        self._study, self._plan_notes = study, plan.notes
        steps = study.run(
            plan,
            _ledger(),
            cancel=cancel,
            progress=lambda done, count, line: tell(done / max(count, 1), line),
        )
        return Report(study, plan), self._keeping(steps)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the last study's plan and memory."""
        study = self._study
        return () if study is None else tuple(filter(None, (*self._plan_notes, study.cache.advice)))

    def kept(self, draw: Draw) -> Prediction | None:
        """Return a draw's prediction if it is at hand; safe to call from any thread."""
        study = self._study
        return None if study is None else self._kept.get(study.identity(draw))

    def prediction(self, draw: Draw, cancel: CancelToken, tell: Tell) -> Prediction:
        """Return a draw's prediction, made again from the study's own volumes.

        Raises
        ------
        MedverseError
            There is no study any more, or its pairs hold none of the classes.
        """
        study = self._study
        if study is None:
            raise MedverseError("The study's scans are no longer held: start it once more.")
        found = study.predict(
            draw,
            cancel=cancel,
            progress=lambda done, count, line: tell(done / max(count, 1), line),
        )
        if found is None:
            raise MedverseError("These pairs hold none of the classes: nothing is predicted.")
        self._keep(study.identity(draw), found)
        return found

    def uncertainty(
        self, question: Question, target: Reference, cancel: CancelToken, tell: Tell
    ) -> Uncertainty:
        """Return the uncertainty of a target; see `evaluation.uncertainty`."""
        from ..evaluation.uncertainty import uncertainty

        model, pairs = self._prepare(question, tell)
        volume = self._volumes.volume(target)
        self._volumes.forget_unused()
        return uncertainty(
            model,
            volume,
            pairs,
            cancel=cancel,
            progress=lambda done, count, line: tell(done / count, line),
            cache=self._cache(),
            **question.options,
        )

    def advice(
        self, question: Question, scans: list[Reference], cancel: CancelToken, tell: Tell
    ) -> list[Advice]:
        """Return scans by how much their annotation may teach, the most worthy first.

        Scans that cannot be read are left out; a line tells of them.
        """
        from ..evaluation.uncertainty import candidates, ranked

        model, pairs = self._prepare(question, tell)
        self._volumes.forget_unused()
        used: list[Reference] = []
        found = candidates(
            model,
            self._readable(scans, used, tell),
            pairs,
            similarity=_similarity(question, model, self._alignments(), cancel),
            cache=self._cache(),
            cancel=cancel,
            progress=lambda done, line: tell(done / max(len(scans), 1), line),
            stop_level=1,
            **question.options,
        )
        return [
            Advice(
                candidate.name,
                used[candidate.index].key,
                isinstance(used[candidate.index], FileRef),
                candidate.uncertainty,
                candidate.distance,
                candidate.worth,
                candidate.found,
            )
            for candidate in ranked(found)
        ]

    def _prepare(self, question: Question, tell: Tell) -> tuple[Any, list[ContextPair]]:
        tell(0, "loading the model")
        model = self.engine.load(question.model)
        tell(0, "reading the volumes")
        return model, [self._volumes.pair(ref) for ref in question.pairs]

    def _readable(
        self, scans: list[Reference], used: list[Reference], tell: Tell
    ) -> Iterator[Volume]:
        for ref in scans:
            try:
                volume = ref.read()
            except MedverseError as error:
                tell(0, f"left out: {error}")
                continue
            if not volume.constant:
                used.append(ref)
                yield volume

    def _keeping(self, steps: Iterator[Outcome]) -> Iterator[Outcome]:
        for outcome in steps:
            if outcome.prediction is not None:
                self._keep(outcome.row["id"], outcome.prediction)
            yield outcome

    def _keep(self, identity: str, prediction: Prediction) -> None:
        self._kept[identity] = prediction
        sizes = [p.probability.nbytes for p in self._kept.values()]
        while sum(sizes) > _KEPT_BYTES and len(sizes) > 1:
            self._kept.pop(next(iter(self._kept)))
            sizes.pop(0)

    def _alignments(self) -> Any:
        from ..inference.alignment import AlignmentCache
        from ..paths import cache_path

        return AlignmentCache(cache_path("alignments"))

    def _cache(self) -> Any:
        from ..evaluation.study_cache import StudyCache

        return StudyCache(self.engine.left, self._alignments())


def scans_in(folder: str | Path, but: set[Path]) -> list[FileRef]:
    """Return the volumes in a folder that look like scans without labels.

    Parameters
    ----------
    but
        Files that are left out: those of the context set.

    Raises
    ------
    MedverseError
        There are none.
    """
    taken = {path.resolve() for path in but}
    found = [
        FileRef(path)
        for path in sorted(Path(folder).iterdir())
        if path.name.lower().endswith(_VOLUME_FILES)
        and not path.name.startswith(".")
        and not any(word in path.name.lower() for word in _LABEL_WORDS)
        and path.resolve() not in taken
    ]
    if not found:
        raise MedverseError(
            f"{folder}: holds no scans ({', '.join(_VOLUME_FILES)}) outside the context set; "
            f"names with {', '.join(_LABEL_WORDS)} in them are taken for labels."
        )
    return found


def _ledger() -> Any:
    """Return the results of all studies made here; in memory where nothing can be written."""
    from ..evaluation.study_ledger import Ledger
    from ..paths import cache_folder

    try:
        folder = cache_folder("studies")
    except MedverseError:
        return Ledger()
    return Ledger(folder if os.access(folder, os.W_OK) else None)


def _similarity(question: Question, model: Any, alignments: Any, cancel: CancelToken) -> Any:
    from ..evaluation.similarity import BankSimilarity, PooledFeatures, RegistrationSimilarity

    if question.similarity == "registration":
        align = question.options.get("align", "auto")
        return RegistrationSimilarity(align, alignments, cancel)
    if question.similarity == "bank":
        bank, embedder = _open_bank(question.bank, model)
        return BankSimilarity(bank, embedder, question.settings.get("classes"), cancel)
    return PooledFeatures(model)


def _open_bank(uri: str, model: Any) -> tuple[Any, Any]:
    """Return a bank and its embedder: the model's own where the bank belongs to it."""
    from ..bank import Bank, embedder_for

    if not uri:
        raise MedverseError(
            "No bank is open to search in: open one in the Retrieval dock and add the pairs, or "
            "choose another entry of 'Similar by'."
        )
    bank, embedder = Bank.open(uri), embedder_for(model)
    if embedder.space.fingerprint != bank.space.fingerprint:
        embedder = load_embedder(bank.space.model)
    return bank, embedder
