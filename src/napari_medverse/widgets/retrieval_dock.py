"""The Retrieval dock: find annotated cases like the target, and learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image, Labels
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSpinBox,
    QWidget,
)
from superqt import QCollapsible

from ..errors import MedverseError
from .choices import LayerChoice, is_scan
from .dock import Dock
from .forms import form
from .marks import is_scratch, mark
from .retrieval_hits import HitTree, picture_of
from .snapshot import LayerRef

if TYPE_CHECKING:
    import napari

    from ..bank import Entry

METHOD_NAMES = {"pca": "PCA", "tsne": "t-SNE"}


class RetrievalDock(Dock):
    """Opens a bank, fills it, searches it, and hands what it finds to the context set.

    Parameters
    ----------
    viewer
        The viewer whose scans are searched for.
    """

    title = "Retrieval"
    least_height = 440

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.model = self.state.retrieval
        self._plot_made = False
        self._build_bank()
        self._build_search()
        self._build_hits()
        self._build_plot()
        self.column.addWidget(self.message)
        events = self.model.events
        for name in ("state", "line", "fraction", "error"):
            self.bindings.connect(getattr(events, name), self._show_state)
        for name in ("uri", "info"):
            self.bindings.connect(getattr(events, name), self._show_bank)
        self.bindings.connect(events.found, self._show_buttons)
        self.bindings.connect(events.selected, self._show_selected)
        self.bindings.connect(self.state.preview.events.target, self._show_start)
        self.bindings.connect(self.state.context.rows_changed, self._show_buttons)
        self._show_bank()
        self._show_state()
        self._show_selected()

    # ---- building

    def _build_bank(self) -> None:
        self.place = QLineEdit()
        self.place.setPlaceholderText("folder of the bank, or s3://...")
        self.place.returnPressed.connect(lambda: self._open(self.place.text()))
        self.browse = QPushButton("Choose ...")
        self.browse.setToolTip("Open a bank, or choose the folder for a new one")
        self.browse.clicked.connect(self._browse)
        line = QHBoxLayout()
        line.addWidget(self.place, 1)
        line.addWidget(self.browse)
        self.column.addLayout(line)
        self.holds = QLabel()
        self.holds.setWordWrap(True)
        self.column.addWidget(self.holds)
        self.add = QPushButton("Add to bank")
        menu = QMenu(self.add)
        self.add_pairs = menu.addAction("The context set's pairs", self._add_pairs)
        self.add_pairs.setToolTip("Pairs of layers are copied into the bank's folder")
        self.add_folder = menu.addAction("Folder of annotated scans ...", self._ask_folder)
        self.add.setMenu(menu)
        self.column.addWidget(self.add)

    def _build_search(self) -> None:
        layers = self.viewer.layers
        self.target = LayerChoice(layers, is_scan, self.bindings, "choose a scan ...")
        self.bindings.two_way(self.target, self.state.preview, "target")
        self.start = LayerChoice(layers, self._can_start, self.bindings, "the bank's nearest case")
        self.start.tooltip = (
            "The first mask, by which each structure is looked for: predicted by the example of "
            "the nearest case, or a label layer on the target's grid"
        )
        self.column.addLayout(form({"Target": self.target, "First mask": self.start}))
        self.search = QPushButton("Search")
        self.search.clicked.connect(lambda: self._attempt(self._search))
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.model.cancel)
        line = QHBoxLayout()
        line.addWidget(self.search, 1)
        line.addWidget(self.cancel, 1)
        self.column.addLayout(line)
        self.add_progress()

    def _build_hits(self) -> None:
        self.tree = HitTree(self.model, self.bindings)
        self.column.addWidget(self.tree, 1)
        self.preview = QPushButton("Show")
        self.preview.setToolTip("Add the selected case's image and label as layers to look at")
        self.preview.clicked.connect(lambda: self._attempt(self._preview))
        self.top = QSpinBox()
        self.top.setRange(1, 12)
        self.top.setPrefix("best ")
        self.top.setValue(self.model.top)
        self.top.setToolTip("How many cases each class gets")
        self.top.valueChanged.connect(lambda value: setattr(self.model, "top", value))
        self.use = QPushButton("Use as context")
        self.use.setToolTip("Add the best cases of each class to the context set")
        self.use.clicked.connect(lambda: self._attempt(self._use))
        line = QHBoxLayout()
        line.addWidget(self.preview)
        line.addStretch(1)
        line.addWidget(self.top)
        line.addWidget(self.use)
        self.column.addLayout(line)

    def _build_plot(self) -> None:
        self.plot_panel = QCollapsible("Map of the bank")
        self.plot_panel.setDuration(0)
        self.method = ComboBox(choices=[(text, key) for key, text in METHOD_NAMES.items()])
        self.draw = QPushButton("Draw")
        self.draw.clicked.connect(lambda: self._attempt(self._draw))
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.method.native, 1)
        line.addWidget(self.draw, 1)
        panel = QWidget()
        panel.setLayout(line)
        self.plot_panel.addWidget(panel)
        self.picked = QLabel()
        self.picked.setWordWrap(True)
        self.picture = QLabel()
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.picture)
        line.addWidget(self.picked, 1)
        self.details = QWidget()
        self.details.setLayout(line)
        self.plot_panel.addWidget(self.details)
        self.plot_panel.collapse(animate=False)
        for layout in (self.plot_panel.layout(), self.plot_panel.content().layout()):
            layout.setContentsMargins(0, 0, 0, 0)
        self.column.addWidget(self.plot_panel)

    # ---- acting

    def _attempt(self, action: Any, *args: Any) -> None:
        """As `attempt`, with what the model says of its last work kept in the message line."""
        try:
            action(*args)
        except MedverseError as error:
            self.say(str(error), problem=True)

    def _open(self, uri: str) -> None:
        self._attempt(self.model.open, uri)

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of the bank", self.model.uri)
        if folder:
            self._open(folder)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of annotated scans")
        if folder:
            self._attempt(self.model.add_folder, folder, self._weights())

    def _add_pairs(self) -> None:
        context = self.state.context
        names = class_names(context.first_labels)
        self._attempt(self.model.add_pairs, context.active, self._weights(), names)

    def _weights(self) -> str:
        """Return the weights of a bank that is made now: those of the live preview."""
        return self.state.preview.model or next(iter(self.state.engine.models()), "")

    def _search(self) -> None:
        target, start = self.state.preview.target, self.start.value
        self.model.search(
            None if target is None else LayerRef.of(target),
            None if start is None else LayerRef.of(start),
        )

    def _use(self) -> None:
        context = self.state.context
        self.model.use(context.add_named_files, context.rows)

    def _preview(self) -> None:
        if self.model.selected is None:
            raise MedverseError("Select a case in the list first.")
        self.model.show(self.model.selected, self._add_layers)

    def _add_layers(self, entry: Entry, volumes: list) -> None:
        (image, place), (label, label_place) = volumes
        details = mark("retrieved", case=entry.case)
        place = {**place, "name": entry.case, "metadata": details}
        self.viewer.layers.append(Image(image, **place))
        label_place = {**label_place, "name": f"{entry.case} label", "metadata": details}
        shown = Labels(label.astype("int32"), opacity=0.5, **label_place)
        shown.editable = False
        self.viewer.layers.append(shown)

    def _draw(self) -> None:
        if not self._plot_made:
            # matplotlib takes its time to import: not before somebody wants to see a plot.
            from .retrieval_plot import PlanePlot

            self.plot = PlanePlot(self.model, self.bindings, self.colour)
            self.plot_panel.addWidget(self.plot)
            self.plot_panel.expand(animate=False)
            self._plot_made = True
        self.model.draw(self.method.value)

    def _can_start(self, layer: object) -> bool:
        target = self.state.preview.target
        return (
            target is not None
            and type(layer).__name__ == "Labels"
            and not is_scratch(layer)
            and LayerRef.of(layer).shape == LayerRef.of(target).shape
        )

    # ---- showing

    def _show_bank(self, *_: Any) -> None:
        info = self.model.info
        if self.model.uri:
            self.place.setText(self.model.uri)
        if info is not None:
            text = f"{info.objects} objects of {info.cases} cases, made with {info.model}"
        elif self.model.uri:
            text = "A new bank: add annotated cases to it."
        else:
            text = "A bank holds annotated cases, to be found again by likeness."
        self.holds.setText(text)
        self._show_buttons()

    def _show_state(self, *_: Any) -> None:
        model = self.model
        running = model.state == "running"
        self.show_progress(model)
        notes = "" if model.found is None else " ".join(model.found.problems)
        self.say("" if running else model.error or notes, problem=True)
        self._show_buttons()

    def _show_buttons(self, *_: Any) -> None:
        idle = self.model.state != "running"
        self.cancel.setEnabled(not idle)
        self.browse.setEnabled(idle)
        self.place.setEnabled(idle)
        self.add.setEnabled(idle and bool(self.model.uri))
        self.add_pairs.setEnabled(bool(self.state.context.active))
        for button in (self.search, self.draw):
            button.setEnabled(idle and self.model.info is not None)
        self.use.setEnabled(idle and any(self.model.hits.values()))
        self.preview.setEnabled(idle and self.model.selected is not None)

    def _show_selected(self, *_: Any) -> None:
        entry = self.model.selected
        self.details.setVisible(entry is not None)
        if entry is not None:
            self.picture.setPixmap(picture_of(entry))
            self.picked.setText(f"{entry.case}\nclass {entry.title}, {entry.voxels:,} voxels")
        self._show_buttons()

    def _show_start(self, *_: Any) -> None:
        self.start.refresh()


def class_names(labels: Any | None) -> dict[int, str]:
    """Return the names that a label layer's features give to values above 0."""
    found = {} if labels is None else dict(labels.features.get("name", {}))
    return {int(v): n for v, n in found.items() if int(v) > 0 and isinstance(n, str) and n}
