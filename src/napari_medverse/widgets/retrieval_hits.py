"""The hits of a search as a tree: a class, and under it its objects, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from ..io.thumbnail import SIZE
from .binding import Bindings
from .context_list import count_text
from .retrieval_model import RetrievalModel

if TYPE_CHECKING:
    from ..bank import Entry, Hit

ENTRY = Qt.ItemDataRole.UserRole
COLUMNS = ("Case", "Score", "Voxels")


class HitTree(QTreeWidget):
    """A view of `RetrievalModel.hits`; the item selected is the model's entry."""

    def __init__(self, model: RetrievalModel, bindings: Bindings) -> None:
        super().__init__()
        self._model = model
        self._following = False
        self.setColumnCount(len(COLUMNS))
        self.setHeaderLabels(COLUMNS)
        self.setIconSize(QSize(SIZE, SIZE))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setIndentation(10)
        self.setUniformRowHeights(False)
        # "dataset/case": cases differ at the end.
        self.setTextElideMode(Qt.TextElideMode.ElideLeft)
        self.setMinimumHeight(170)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.currentItemChanged.connect(self._on_current)
        bindings.connect(model.events.found, self._fill)
        bindings.connect(model.events.selected, self._follow)
        self._fill()

    def items(self) -> list[QTreeWidgetItem]:
        """Return the items of all hits, top to bottom."""
        groups = [self.topLevelItem(i) for i in range(self.topLevelItemCount())]
        return [group.child(i) for group in groups for i in range(group.childCount())]

    def _fill(self, *_: Any) -> None:
        self._following = True
        self.clear()
        for hits in self._model.hits.values():
            if not hits:
                continue
            group = QTreeWidgetItem([f"{hits[0].entry.title}  ({len(hits)})"])
            group.setFlags(Qt.ItemFlag.ItemIsEnabled)
            font = group.font(0)
            font.setBold(True)
            group.setFont(0, font)
            self.addTopLevelItem(group)
            group.setFirstColumnSpanned(True)
            for hit in hits:
                group.addChild(_item(hit))
            group.setExpanded(True)
        self._following = False

    def _on_current(self, item: QTreeWidgetItem | None, *_: Any) -> None:
        if not self._following and item is not None and item.data(0, ENTRY) is not None:
            self._model.selected = item.data(0, ENTRY)

    def _follow(self, entry: Entry | None) -> None:
        """Select the entry's item, or none where it is not among the hits."""
        self._following = True
        match = [i for i in self.items() if entry is not None and i.data(0, ENTRY).id == entry.id]
        self.setCurrentItem(match[0] if match else None)
        self._following = False


def _item(hit: Hit) -> QTreeWidgetItem:
    entry = hit.entry
    item = QTreeWidgetItem([entry.case, f"{hit.score:.3f}", count_text(entry.voxels)])
    item.setData(0, ENTRY, entry)
    item.setIcon(0, QIcon(picture_of(entry)))
    for column in (1, 2):
        item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    item.setToolTip(0, f"{entry.case}, class {entry.title}\n{entry.image_uri}\n{entry.label_uri}")
    return item


def picture_of(entry: Entry) -> QPixmap:
    """Return an entry's thumbnail; an empty pixmap where it cannot be read."""
    pixmap = QPixmap()
    pixmap.loadFromData(entry.thumbnail, "PNG")
    return pixmap
