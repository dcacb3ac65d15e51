"""The Explore dock: context size, worth of each pair, uncertainty, what to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox, ComboBox, LineEdit, SpinBox
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from ..evaluation.study_report import ALL, MEASURES
from ..evaluation.study_style import Style
from .choices import LayerChoice, is_scan
from .dock import Dock
from .explore_advice import AdvicePanel
from .explore_controller import TITLE
from .explore_model import SAMPLINGS, SIMILARITIES, TARGETS
from .explore_style import style_of
from .forms import form
from .marks import is_scratch

if TYPE_CHECKING:
    import napari

    from ..evaluation.study_report import Report

#: pixels; plots below this cannot be read
LEAST_RESULTS = 320
#: milliseconds from a result to the plot
REDRAW = 150


class ExploreDock(Dock):
    """Starts studies and shows what they find.

    Parameters
    ----------
    viewer
        The viewer whose context set is studied.
    """

    title = TITLE
    least_height = 460

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.controller = self.state.explore
        self.model = self.controller.model
        self._build_choice()
        self._build_running()
        self._build_results()
        self.column.addWidget(self.message)
        events = self.model.events
        for name in ("state", "line", "fraction", "error"):
            self.bindings.connect(getattr(events, name), self._show_state)
        for name in ("measure", "of"):
            self.bindings.connect(getattr(events, name), self._show_results)
        # Results may come faster than they can be drawn.
        self._redraw = QTimer(self, singleShot=True, interval=REDRAW)
        self._redraw.timeout.connect(self._show_results)
        self.bindings.connect(events.results, self._on_results)
        self.views.currentChanged.connect(self._show_results)
        self.bindings.connect(events.targets, self._show_choice)
        self.bindings.connect(events.sampling, self._show_choice)
        self.bindings.connect(self.state.preview.events.target, self.truth.refresh)
        self.bindings.connect(self.viewer.events.theme, self._show_results)
        self.bindings.at_end(self.controller.stop)
        self.controller.start()
        self._show_choice()
        self._show_state()
        self._show_results()

    # ---- building

    def _build_choice(self) -> None:
        layers, model, preview = self.viewer.layers, self.model, self.state.preview
        if not preview.model:
            preview.model = next(iter(self.state.engine.models()), "")
        self.targets = _choice(TARGETS)
        self.target = LayerChoice(layers, is_scan, self.bindings, "choose a scan ...")
        self.truth = LayerChoice(
            layers, self._can_be_truth, self.bindings, "its true label ...", nullable=True
        )
        self.sizes = LineEdit()
        self.sizes.tooltip = "Numbers of pairs to predict from"
        self.repeats = SpinBox(min=1, max=99)
        self.repeats.tooltip = "Subsets per target and size"
        self.sampling = _choice(SAMPLINGS)
        self.similarity = _choice(SIMILARITIES)
        self.similarity.tooltip = "What the most similar and the most varied pairs go by"
        self.leave_one_out = CheckBox(text="leave one out")
        self.leave_one_out.tooltip = "Also predict without each pair, to tell what it is worth"
        self.surface = CheckBox(text="surface distances")
        self.surface.tooltip = "Also measure surface Dice and 95 % Hausdorff distance"
        for name in ("targets", "truth", "sizes", "repeats", "sampling", "similarity"):
            self.bindings.two_way(getattr(self, name), model, name)
        for name in ("leave_one_out", "surface"):
            self.bindings.two_way(getattr(self, name), model, name)
        self.bindings.two_way(self.target, preview, "target")
        self.form = form(
            {
                "Measure on": self.targets,
                "Target": self.target,
                "Truth": self.truth,
                "Sizes": self.sizes,
                "Repeats": self.repeats,
                "Choose pairs": self.sampling,
                "Similar by": self.similarity,
            }
        )
        self.column.addLayout(self.form)
        line = QHBoxLayout()
        line.addWidget(self.leave_one_out.native)
        line.addWidget(self.surface.native)
        self.column.addLayout(line)

    def _build_running(self) -> None:
        self.start = QPushButton("Start study")
        self.start.setToolTip("Results are kept: a study that was stopped goes on where it was")
        self.start.clicked.connect(lambda: self.attempt(self.controller.study))
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.controller.cancel)
        self.unsure = QPushButton("Show uncertainty")
        self.unsure.setToolTip(
            "Predict the target from several halves of the set and show where the results differ"
        )
        self.unsure.clicked.connect(lambda: self.attempt(self.controller.uncertainty))
        line = QHBoxLayout()
        for button in (self.start, self.cancel, self.unsure):
            line.addWidget(button, 1)
        self.column.addLayout(line)
        self.add_progress()

    def _build_results(self) -> None:
        self.measure = ComboBox(choices=lambda _: self._measures())
        self.of = ComboBox(choices=lambda _: self._classes())
        # A value can only be shown once it is among the choices, which follow the report.
        self.bindings.connect(self.model.events.report, self._reset_choices)
        self.bindings.connect(self.model.events.measure, self.measure.reset_choices)
        self.bindings.two_way(self.measure, self.model, "measure")
        self.bindings.two_way(self.of, self.model, "of")
        self.export = QPushButton("Export")
        menu = QMenu(self.export)
        for kind in ("CSV", "PNG", "JSON"):
            menu.addAction(f"{kind} ...", lambda kind=kind: self._ask_export(kind.lower()))
        self.export.setMenu(menu)
        line = QHBoxLayout()
        line.addWidget(self.measure.native, 2)
        line.addWidget(self.of.native, 2)
        line.addWidget(self.export, 1)
        self.by_size = self.by_pair = None
        self.table = QTableWidget()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.advice = AdvicePanel(self)
        results = QWidget()
        column = QVBoxLayout(results)
        column.setContentsMargins(0, 4, 0, 0)
        column.addLayout(line)
        self.views = QTabWidget()
        self.views.addTab(QLabel("no study yet"), "Context size")
        self.views.addTab(QLabel("no study yet"), "Pairs")
        self.views.addTab(self.table, "Table")
        column.addWidget(self.views)
        self.tabs = QTabWidget()
        self.tabs.addTab(results, "Study")
        self.tabs.addTab(self.advice, "Annotate next")
        self.tabs.setMinimumHeight(LEAST_RESULTS)
        self.column.addWidget(self.tabs, 1)

    def _build_plots(self) -> None:
        """Make the plots once there is something to show: a study has imported matplotlib then."""
        from ..evaluation.study_plot import draw_sizes, draw_worths
        from .explore_plot import StudyCanvas

        self.by_size, self.by_pair = StudyCanvas(draw_sizes, fixed=True), StudyCanvas(draw_worths)
        self.by_size.setToolTip("Click a point to add its prediction as a layer")
        self.by_size.picked.connect(lambda draw: self.attempt(self.controller.show, draw))
        self.by_pair.setToolTip(
            "What the result gains by each pair: one below 0 lowers it. Click to look at the pair."
        )
        self.by_pair.picked.connect(lambda pair: self.controller.show_pair(pair))
        current = self.views.currentIndex()
        self.views.blockSignals(True)
        for index, canvas in enumerate((self.by_size, self.by_pair)):
            title = self.views.tabText(index)
            self.views.removeTab(index)
            self.views.insertTab(index, canvas, title)
        self.views.setCurrentIndex(current)
        self.views.blockSignals(False)

    # ---- acting

    def _ask_export(self, suffix: str) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Export the study", f"study.{suffix}", f"*.{suffix}"
        )
        if path:
            # The system's dialog need not add what the name lacks.
            path = path if path.lower().endswith(f".{suffix}") else f"{path}.{suffix}"
            self.attempt(self.model.report.write, Path(path))

    def _can_be_truth(self, layer: object) -> bool:
        target = self.state.preview.target
        return (
            target is not None
            and layer is not target
            and type(layer).__name__ in ("Labels", "Image")
            and not is_scratch(layer)
            and layer.data.shape == target.data.shape
        )

    # ---- showing

    def _show_choice(self, *_: object) -> None:
        one, ranked = self.model.targets == "target", self.model.sampling != "random"
        for widget, shown in ((self.truth, one), (self.similarity, ranked)):
            self.form.setRowVisible(widget.native, shown)
        self.repeats.enabled = self.model.sampling != "nearest"

    def _show_state(self, *_: object) -> None:
        model = self.model
        running = model.state == "running"
        self.start.setEnabled(not running)
        self.unsure.setEnabled(not running)
        self.cancel.setEnabled(running)
        self.show_progress(model)
        if model.state == "failed":
            self.say(model.error, problem=True)
        elif running:
            self.say("")

    def _on_results(self, *_: object) -> None:
        if not self._redraw.isActive():
            self._redraw.start()

    def _show_results(self, *_: object) -> None:
        report = self.model.report
        self._reset_choices()
        self.export.setEnabled(report is not None and report.done > 0)
        if report is None:
            return
        if self.by_size is None:
            self._build_plots()
        canvas = self.views.currentWidget()
        if canvas is self.table:
            self._show_table(report.table())
        else:
            canvas.show_report(report, self.model.measure, self.model.of, self._style(report))

    def _reset_choices(self, *_: object) -> None:
        self.measure.reset_choices()
        self.of.reset_choices()

    def _show_table(self, rows: list[list[str]]) -> None:
        header, *lines = rows
        self.table.setColumnCount(len(header))
        self.table.setRowCount(len(lines))
        self.table.setHorizontalHeaderLabels(header)
        for row, cells in enumerate(lines):
            for column, text in enumerate(cells):
                self.table.setItem(row, column, QTableWidgetItem(text))
        mode = QHeaderView.ResizeMode.ResizeToContents
        self.table.horizontalHeader().setSectionResizeMode(mode)

    def _style(self, report: Report) -> Style:
        classes = report.about["classes"]
        return style_of(self.viewer.theme, self.state.context.first_labels, classes)

    def _measures(self) -> list[tuple[str, str]]:
        report = self.model.report
        held = report.measures if report is not None else ()
        return [(MEASURES[m], m) for m in dict.fromkeys((*held, self.model.measure))]

    def _classes(self) -> list[tuple[str, str]]:
        report = self.model.report
        if report is None:
            return [("all classes", ALL)]
        style = self._style(report)
        return [("all classes" if of == ALL else style.title(of), of) for of in report.choices]


def _choice(names: dict[str, str]) -> ComboBox:
    return ComboBox(choices=[(text, key) for key, text in names.items()])
