"""The list of scans most worth annotating next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from .explore_dock import ExploreDock
    from .explore_model import Advice

_COLUMNS = ("Scan", "Unsure", "Distance")


class AdvicePanel(QWidget):
    """Ranks open layers or a folder of scans; a click opens one as the target.

    Parameters
    ----------
    dock
        Its controller is asked, its message line tells what went wrong.
    """

    def __init__(self, dock: ExploreDock) -> None:
        super().__init__()
        self._dock = dock
        self.layers = QPushButton("Among open layers")
        self.layers.clicked.connect(lambda: dock.attempt(dock.controller.advise))
        self.folder = QPushButton("In a folder ...")
        self.folder.clicked.connect(self._ask_folder)
        for button in (self.layers, self.folder):
            button.setToolTip(
                "Rank scans without labels by how unsure their prediction is (coarsest level) "
                "and how far they are from the context set"
            )
        self.list = QTreeWidget()
        self.list.setHeaderLabels(_COLUMNS)
        self.list.setRootIsDecorated(False)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setToolTip("Click a scan to show it as the target; a file is opened first")
        self.list.itemClicked.connect(lambda item: self.open(self._advice(item)))
        header = self.list.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        line = QHBoxLayout()
        line.addWidget(self.layers, 1)
        line.addWidget(self.folder, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 6, 0, 0)
        column.addLayout(line)
        column.addWidget(self.list)
        dock.bindings.connect(dock.model.events.advice, self._show)
        self._show()

    def open(self, advice: Advice) -> None:
        """Show a scan and make it the preview's target."""
        viewer = self._dock.viewer
        layer = self._dock.controller.layer_of(advice)
        if layer is None and advice.is_file:
            ours = advice.source.lower().endswith((".nii", ".nii.gz"))
            opened = viewer.open(advice.source, plugin="napari-medverse" if ours else None)
            layer = next(iter(opened), None)
        if layer is not None:
            layer.visible = True
            viewer.layers.selection.active = layer
            self._dock.state.preview.target = layer

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of scans without labels")
        if folder:
            self._dock.attempt(self._dock.controller.advise, folder)

    def _advice(self, item: QTreeWidgetItem) -> Advice:
        return item.data(0, Qt.ItemDataRole.UserRole)

    def _show(self, *_: object) -> None:
        self.list.clear()
        for advice in self._dock.model.advice:
            unsure = f"{advice.uncertainty:.2f}" if advice.found else "nothing found"
            item = QTreeWidgetItem([advice.name, unsure, f"{advice.distance:.3f}"])
            item.setData(0, Qt.ItemDataRole.UserRole, advice)
            item.setToolTip(0, f"{advice.source}\nworth {advice.worth:.2f}")
            self.list.addTopLevelItem(item)
