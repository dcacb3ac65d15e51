"""The Context set dock: which pairs the network learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QItemSelectionModel, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QToolButton,
)

from .choices import LayerChoice
from .context_list import CardDelegate, RowListModel
from .dock import Dock
from .marks import is_scratch
from .rows import PairRow

if TYPE_CHECKING:
    import napari


class ContextSetDock(Dock):
    """Adds, removes, orders and ticks context pairs, and chooses classes.

    Parameters
    ----------
    viewer
        The viewer whose context set is shown.
    """

    title = "Context set"
    # Little, so that other docks have room beneath; alone or over a small one it gets more.
    least_height = 210

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.context = self.state.context
        self._build_adding()
        self._build_rows()
        self._build_classes()
        self.column.addWidget(self.message)
        self.bindings.connect(self.context.rows_changed, self._show_choice)
        self.bindings.connect(self.context.row_changed, self._show_choice)
        self.bindings.connect(self.context.choice_changed, self._show_choice)
        self.bindings.connect(self.context.aligning_changed, self._show_buttons)
        self._show_choice()

    # ---- building

    def _build_adding(self) -> None:
        self.add_layers = QPushButton("Add from layers")
        self.add_layers.setToolTip("Pair image and label layers by their grid and names")
        self.add_layers.clicked.connect(
            lambda: self.attempt(self.context.add_from_layers, list(self.viewer.layers))
        )
        self.add_files = QPushButton("Add files ...")
        menu = QMenu(self.add_files)
        menu.addAction("Files, paired by name ...", self._ask_files)
        menu.addAction("Folder in nnU-Net layout ...", self._ask_folder)
        self.add_files.setMenu(menu)
        line = QHBoxLayout()
        line.addWidget(self.add_layers, 1)
        line.addWidget(self.add_files, 1)
        self.column.addLayout(line)
        layers = self.viewer.layers
        self.image = LayerChoice(layers, _is_image, self.bindings, "image ...", name="image")
        self.label = LayerChoice(layers, _is_label, self.bindings, "label ...", name="label")
        self.pair = QPushButton("Pair")
        self.pair.setToolTip(
            "Add one pair by hand; an image layer as label makes an image-to-image task"
        )
        self.pair.clicked.connect(lambda: self.attempt(self._pair_by_hand))
        line = QHBoxLayout()
        for choice in (self.image, self.label):
            choice.native.setMinimumWidth(60)
            line.addWidget(choice.native, 1)
        line.addWidget(self.pair)
        self.column.addLayout(line)

    def _build_rows(self) -> None:
        self.list = QListView()
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setMinimumHeight(150)
        self.list.setModel(RowListModel(self.context, self.bindings, self.list))
        self.list.setItemDelegate(CardDelegate(self.context, self.colour, self.list))
        self.list.selectionModel().selectionChanged.connect(self._show_buttons)
        self.column.addWidget(self.list, 1)
        line = QHBoxLayout()
        self.up = self._tool("▲", "Move the selected pair up", lambda: self._move(-1))
        self.down = self._tool("▼", "Move the selected pair down", lambda: self._move(1))
        self.remove = QPushButton("Remove")
        self.remove.setToolTip("Take the selected pairs out of the set; their layers stay")
        self.remove.clicked.connect(lambda: self.context.remove(self.selected()))
        self.aligned = QPushButton("Show aligned")
        self.aligned.setToolTip("Add the selected pair as it lies on the target, as layers")
        self.aligned.clicked.connect(self._show_aligned)
        for button in (self.up, self.down, self.remove):
            line.addWidget(button)
        line.addStretch(1)
        line.addWidget(self.aligned)
        self.column.addLayout(line)

    def _build_classes(self) -> None:
        self.task = QLabel()
        self.task.setWordWrap(True)
        self.column.addWidget(self.task)
        self.classes = QListWidget()
        self.classes.setFlow(QListView.Flow.LeftToRight)
        self.classes.setWrapping(True)
        self.classes.setResizeMode(QListView.ResizeMode.Adjust)
        self.classes.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.classes.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.classes.setSpacing(2)
        self.classes.itemChanged.connect(self._on_class_ticked)
        self.column.addWidget(self.classes)

    def _tool(self, text: str, tip: str, action: object) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.setFixedSize(QSize(28, 28))
        button.clicked.connect(action)
        return button

    # ---- acting

    def selected(self) -> list[PairRow]:
        """Return the selected rows, top to bottom."""
        indexes = sorted(self.list.selectionModel().selectedIndexes(), key=lambda i: i.row())
        return [self.context.rows[i.row()] for i in indexes]

    def select(self, row: PairRow) -> None:
        """Select one row."""
        index = self.list.model().index(self.context.rows.index(row))
        flag = QItemSelectionModel.SelectionFlag.ClearAndSelect
        self.list.selectionModel().setCurrentIndex(index, flag)

    def _move(self, steps: int) -> None:
        rows = self.selected()
        if len(rows) == 1:
            self.context.move(rows[0], steps)
            self.select(rows[0])

    def _pair_by_hand(self) -> None:
        from ..errors import MedverseError

        if self.image.value is None or self.label.value is None:
            raise MedverseError("Choose an image layer and its label layer, then press Pair.")
        self.context.add_pair(self.image.value, self.label.value)

    def _ask_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Images and labels of context pairs")
        if paths:
            self.attempt(self.context.add_files, paths)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder with imagesTr and labelsTr")
        if folder:
            self.attempt(self.context.add_folder, folder)

    def _show_aligned(self) -> None:
        rows = self.selected()
        if self.context.aligning:
            self.state.controller.cancel_aligned()
        elif rows:
            self.attempt(self.state.controller.show_aligned, rows[0])

    def _on_class_ticked(self) -> None:
        items = [self.classes.item(i) for i in range(self.classes.count())]
        ticked = [
            i.data(Qt.ItemDataRole.UserRole)
            for i in items
            if i.checkState() == Qt.CheckState.Checked
        ]
        self.context.choose_classes(None if len(ticked) == len(items) else ticked)

    # ---- showing

    def _show_choice(self, *_: object) -> None:
        self._show_buttons()
        active, total = len(self.context.active), len(self.context.rows)
        available = self.context.available_classes
        if not total:
            text = "No pairs yet: open scans with their labels, then press Add from layers."
        elif self.context.task == "image":
            text = f"Image to image, {active} of {total} pairs"
        else:
            chosen = len(self.context.effective_classes)
            text = f"Segmentation, {active} of {total} pairs, {chosen} of {len(available)} classes"
        self.task.setText(text)
        self._show_classes(available)

    def _show_classes(self, available: tuple[int, ...]) -> None:
        chosen = self.context.effective_classes
        labels = self.context.first_labels
        shown = [
            self.classes.item(i).data(Qt.ItemDataRole.UserRole) for i in range(self.classes.count())
        ]
        self.classes.blockSignals(True)
        if shown != list(available):
            self.classes.clear()
            for value in available:
                item = QListWidgetItem(class_name(labels, value))
                item.setData(Qt.ItemDataRole.UserRole, value)
                if labels is not None:
                    item.setIcon(swatch(labels.get_color(value)))
                self.classes.addItem(item)
        for i, value in enumerate(available):
            ticked = Qt.CheckState.Checked if value in chosen else Qt.CheckState.Unchecked
            if self.classes.item(i).checkState() != ticked:
                self.classes.item(i).setCheckState(ticked)
        self.classes.blockSignals(False)
        self.classes.setVisible(bool(available))
        if available:
            self._fit_classes()

    def _fit_classes(self) -> None:
        """Make the chooser as high as its rows, three at most."""
        row = self.classes.sizeHintForRow(0) + 2 * self.classes.spacing()
        widths = [
            self.classes.sizeHintForIndex(self.classes.model().index(i, 0)).width() + 6
            for i in range(self.classes.count())
        ]
        rows = -(-sum(widths) // max(self.width() - 40, 120))
        self.classes.setFixedHeight(min(rows, 3) * row + 8)

    def _show_buttons(self, *_: object) -> None:
        count = len(self.list.selectionModel().selectedIndexes())
        self.remove.setEnabled(count > 0)
        self.up.setEnabled(count == 1)
        self.down.setEnabled(count == 1)
        aligning = self.context.aligning
        self.aligned.setText("Cancel" if aligning else "Show aligned")
        self.aligned.setEnabled(aligning or (count == 1 and self.context.task is not None))


def class_name(labels: Any | None, value: int) -> str:
    """Return "2 brain" where the label layer's features name the value, else "2"."""
    names = {} if labels is None else dict(labels.features.get("name", {}))
    name = names.get(value)
    return f"{value} {name}" if isinstance(name, str) and name else str(value)


def swatch(colour: Any) -> QIcon:
    """Return a filled square of a label's colour (RGBA, 0 to 1)."""
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor.fromRgbF(*[float(c) for c in colour[:3]]))
    return QIcon(pixmap)


def _is_image(layer: object) -> bool:
    return type(layer).__name__ == "Image" and not is_scratch(layer)


def _is_label(layer: object) -> bool:
    return type(layer).__name__ in ("Labels", "Image") and not is_scratch(layer)
