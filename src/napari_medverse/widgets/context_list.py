"""The rows of the context set as a Qt list: item model and painted cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QAbstractListModel, QEvent, QModelIndex, QPoint, QRect, QSize, Qt
from qtpy.QtGui import QColor, QFont, QFontMetrics, QImage, QPainter, QPen
from qtpy.QtWidgets import QStyle, QStyledItemDelegate

from ..io.thumbnail import SIZE
from .binding import Bindings
from .context_model import ContextSetModel
from .facts import Problem
from .rows import PairRow

CARD_HEIGHT = 64
MARGIN = 6
TICK = 16


class RowListModel(QAbstractListModel):
    """A Qt face of `ContextSetModel`; holds nothing of its own."""

    def __init__(self, context: ContextSetModel, bindings: Bindings, parent: Any) -> None:
        super().__init__(parent)
        self._context = context
        bindings.connect(context.rows_changed, self._on_rows)
        bindings.connect(context.row_changed, self._on_row)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return len(self._context.rows)

    def row(self, index: QModelIndex) -> PairRow:
        return self._context.rows[index.row()]

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        return (
            Qt.ItemFlag.ItemIsEnabled
            | Qt.ItemFlag.ItemIsSelectable
            | Qt.ItemFlag.ItemIsUserCheckable
        )

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid() or index.row() >= len(self._context.rows):
            return None
        row = self.row(index)
        if role == Qt.ItemDataRole.DisplayRole:
            return row.name
        if role == Qt.ItemDataRole.CheckStateRole:
            return Qt.CheckState.Checked if row.enabled else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(row, [p.text for p in self._context.problems(row)])
        if role == Qt.ItemDataRole.UserRole:
            return row
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role != Qt.ItemDataRole.CheckStateRole:
            return False
        self._context.set_enabled(self.row(index), Qt.CheckState(value) == Qt.CheckState.Checked)
        return True

    def _on_rows(self) -> None:
        self.beginResetModel()
        self.endResetModel()

    def _on_row(self, row: PairRow) -> None:
        if row in self._context.rows:
            index = self.index(self._context.rows.index(row))
            self.dataChanged.emit(index, index)


def summary(row: PairRow) -> str:
    """Return the second line of a card: what the label holds."""
    facts = row.facts
    if facts is None:
        return "reading ..."
    if not facts.shape:
        return row.source.detail
    if facts.task == "image":
        return f"image to image: {row.source.detail}"
    return f"{class_text(tuple(facts.counts))} · {count_text(sum(facts.counts.values()))} voxels"


def remark(row: PairRow, problems: tuple[Problem, ...]) -> str:
    """Return the third line of a card: what is off, or spacing and alignment."""
    if problems:
        return problems[0].text
    if row.facts is None or not row.facts.shape:
        return row.source.detail
    size = spacing_text(row.facts.spacing, row.facts.unit)
    return f"{size} · {row.source.detail if row.alignment is None else row.alignment.short}"


def class_text(classes: tuple[int, ...]) -> str:
    if not classes:
        return "no class"
    word = "class" if len(classes) == 1 else "classes"
    shown = ", ".join(map(str, classes)) if len(classes) <= 4 else f"{len(classes)}"
    return f"{word} {shown}" if len(classes) <= 4 else f"{shown} {word}"


def count_text(count: int) -> str:
    """Return a count in at most five characters: 812, 12.4k, 3.1M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)


def spacing_text(spacing: tuple[float, ...], unit: str) -> str:
    """Return the voxel size, as one number where it is the same on all axes."""
    if unit == "mm" and max(spacing) < 0.5:
        spacing, unit = tuple(1000 * s for s in spacing), "µm"
    same = max(spacing) - min(spacing) <= 0.01 * max(spacing)
    numbers = f"{spacing[0]:.3g}" if same else " x ".join(f"{s:.3g}" for s in spacing)
    return f"{numbers} {unit}" if unit else f"spacing {numbers}"


def tooltip(row: PairRow, problems: list[str]) -> str:
    """Return everything known of a row, one fact a line."""
    lines = [f"Image: {row.source.name}", f"Label: {row.source.detail}"]
    facts = row.facts
    if facts is not None and facts.shape:
        lines.append(f"Shape: {' x '.join(map(str, facts.shape))}")
        lines.append(
            f"Spacing: {' x '.join(f'{s:.4g}' for s in facts.spacing)} {facts.unit}".rstrip()
        )
        lines += [f"Class {c}: {n:,} voxels" for c, n in list(facts.counts.items())[:12]]
    if row.alignment is not None:
        lines.append(f"Alignment: {row.alignment}")
    return "\n".join(lines + [f"! {text}" for text in problems])


class CardDelegate(QStyledItemDelegate):
    """Paints a row as a card: tick, thumbnail, three lines, and a sign where something is off."""

    def __init__(
        self, context: ContextSetModel, colour: Callable[[str], QColor], parent: Any
    ) -> None:
        super().__init__(parent)
        self._context = context
        self._colour = colour

    def sizeHint(self, option: Any, index: QModelIndex) -> QSize:
        return QSize(200, CARD_HEIGHT)

    def tick_rect(self, card: QRect) -> QRect:
        top = card.top() + (card.height() - TICK) // 2
        return QRect(card.left() + MARGIN, top, TICK, TICK)

    def editorEvent(self, event: QEvent, model: Any, option: Any, index: QModelIndex) -> bool:
        if event.type() == QEvent.Type.MouseButtonRelease:
            if not self.tick_rect(option.rect).adjusted(-4, -8, 4, 8).contains(position(event)):
                return False
        elif event.type() != QEvent.Type.KeyPress or event.key() != Qt.Key.Key_Space:
            return False
        row = index.data(Qt.ItemDataRole.UserRole)
        state = Qt.CheckState.Unchecked if row.enabled else Qt.CheckState.Checked
        return model.setData(index, state, Qt.ItemDataRole.CheckStateRole)

    def paint(self, painter: QPainter, option: Any, index: QModelIndex) -> None:
        row: PairRow = index.data(Qt.ItemDataRole.UserRole)
        if row is None:
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        card = option.rect.adjusted(1, 1, -1, -2)
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._colour("highlight" if selected else "foreground"))
        painter.drawRoundedRect(card, 4, 4)
        problems = self._context.problems(row)
        dimmed = not row.enabled or any(p.blocking for p in problems)
        self._paint_tick(painter, option.rect, row.enabled)
        picture = QRect(
            card.left() + 2 * MARGIN + TICK,
            card.top() + (card.height() - SIZE) // 2,
            SIZE,
            SIZE,
        )
        self._paint_thumbnail(painter, picture, row, dimmed)
        text = QRect(card)
        text.setLeft(picture.right() + 2 * MARGIN)
        text.setRight(card.right() - MARGIN)
        if problems:
            text.setRight(text.right() - 22)
            self._paint_sign(painter, card, any(p.blocking for p in problems))
        self._paint_lines(painter, option.font, text, row, remark(row, problems), dimmed)
        painter.restore()

    def _paint_tick(self, painter: QPainter, card: QRect, checked: bool) -> None:
        box = self.tick_rect(card)
        painter.setPen(QPen(self._colour("text"), 1))
        painter.setBrush(self._colour("background"))
        painter.drawRoundedRect(box, 3, 3)
        if checked:
            painter.setPen(QPen(self._colour("text"), 2))
            painter.drawPolyline(
                [
                    QPoint(box.left() + 4, box.center().y() + 1),
                    QPoint(box.left() + 7, box.bottom() - 4),
                    QPoint(box.right() - 3, box.top() + 4),
                ]
            )

    def _paint_thumbnail(self, painter: QPainter, at: QRect, row: PairRow, dim: bool) -> None:
        picture = row.facts.thumbnail if row.facts else None
        painter.setOpacity(0.4 if dim else 1.0)
        if picture is None:
            painter.fillRect(at, self._colour("background"))
        else:
            height, width, _ = picture.shape
            image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
            painter.drawImage(at, image)
        painter.setOpacity(1.0)

    def _paint_sign(self, painter: QPainter, card: QRect, blocking: bool) -> None:
        circle = QRect(card.right() - 24, card.top() + MARGIN, 18, 18)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._colour("error" if blocking else "warning"))
        painter.drawEllipse(circle)
        painter.setPen(self._colour("background"))
        font = QFont(painter.font())
        font.setBold(True)
        painter.setFont(font)
        painter.drawText(circle, Qt.AlignmentFlag.AlignCenter, "!")

    def _paint_lines(
        self, painter: QPainter, font: QFont, at: QRect, row: PairRow, third: str, dim: bool
    ) -> None:
        bold = QFont(font)
        bold.setBold(True)
        strong, weak = QColor(self._colour("text")), QColor(self._colour("text"))
        strong.setAlphaF(0.5 if dim else 1.0)
        weak.setAlphaF(0.45 if dim else 0.75)
        height = at.height() // 3
        lines = ((row.name, bold, strong), (summary(row), font, weak), (third, font, weak))
        for number, (line, face, colour) in enumerate(lines):
            painter.setFont(face)
            painter.setPen(colour)
            place = QRect(at.left(), at.top() + 1 + number * height, at.width(), height)
            short = QFontMetrics(face).elidedText(line, Qt.TextElideMode.ElideRight, place.width())
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, short)


def position(event: Any) -> QPoint:
    """Return where a mouse event is, in Qt 5 and 6."""
    return event.position().toPoint() if hasattr(event, "position") else event.pos()
