"""Where a dock goes that has just been opened: beneath one other, or as a tab."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget


def become_tab(content: QWidget) -> None:
    """Make a dock a tab where two of our docks or more are on its side of the window.

    napari stacks docks, and a third one would make the window higher than many screens. What the
    user has put elsewhere, or into tabs already, stays as it is.

    Parameters
    ----------
    content
        The content of a dock that has just been added.
    """
    dock, others = content.parent(), _beside(content)
    if len(others) > 1 and not content.window().tabifiedDockWidgets(dock):
        content.window().tabifyDockWidget(others[-1], dock)
        dock.raise_()


def share_column(content: QWidget) -> None:
    """Give a dock beneath one other of ours the height it asks for, and the other the rest.

    napari would give the upper one the least it can have. Tabs never take height from each other.
    """
    dock, window, others = content.parent(), content.window(), _beside(content)
    tabs = window.tabifiedDockWidgets(dock) if others else []
    rows = [other for other in others if other not in tabs]
    if len(rows) == 1:
        (upper,) = rows
        asked = max(dock.sizeHint().height(), dock.minimumSizeHint().height())
        wanted = max(asked, dock.height()) if tabs else asked
        left = max(upper.height() + dock.height() - wanted, upper.minimumSizeHint().height())
        window.resizeDocks([upper, dock], [left, wanted], Qt.Orientation.Vertical)


def _beside(content: QWidget) -> list[QDockWidget]:
    """Return our other docks on the same side of the window, in the order they were opened in."""
    dock, window = content.parent(), content.window()
    if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow):
        return []
    side = window.dockWidgetArea(dock)
    return [
        other
        for other in window.findChildren(QDockWidget)
        if other is not dock
        and _package(other.widget()) == _package(content)
        and window.dockWidgetArea(other) == side
        and not other.isFloating()
        and other.toggleViewAction().isChecked()
    ]


def _package(widget: object) -> str:
    return type(widget).__module__.rpartition(".")[0]
