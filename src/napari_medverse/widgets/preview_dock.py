"""The Live preview dock: predict a target from the context set, watch it sharpen, accept it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox, ComboBox, FloatSlider, LineEdit, SpinBox
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QPushButton,
    QWidget,
)
from superqt import QCollapsible, QToggleSwitch

from . import accept
from .adapt_panel import AdaptPanel
from .choices import LayerChoice, is_scan
from .dock import Dock
from .forms import form
from .preview_model import ALIGN, NO_MODEL, PRIOR, SHOW
from .strategy_panel import StrategyPanel

if TYPE_CHECKING:
    import napari

ALIGN_NAMES = {
    "auto": "auto: where it helps",
    "affine": "affine",
    "rigid": "rigid",
    "none": "none, as in the papers",
}
PRIOR_NAMES = {
    "auto": "auto",
    "vote": "aligned label vote",
    "appearance": "looks and place",
    "none": "none, as in the papers",
}


class LivePreviewDock(Dock):
    """Chooses target, model and options; shows progress; accepts the result.

    Parameters
    ----------
    viewer
        The viewer whose scans are predicted.
    """

    title = "Live preview"
    previews = True
    least_height = 440

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.preview = self.state.preview
        self.controller = self.state.controller
        self._build_choice()
        self._build_running()
        self._build_look()
        self._build_options()
        self._build_accept()
        self.column.addWidget(self.message)
        self.column.addStretch(1)
        events = self.preview.events
        for name in ("state", "line", "fraction", "error", "ready"):
            self.bindings.connect(getattr(events, name), self._show_state)
        self.bindings.connect(events.target, self._show_accept)
        self.bindings.connect(events.live, self._show_live)
        self.bindings.connect(events.model, self._show_kind)
        self.bindings.connect(self.state.context.choice_changed, self._show_task)
        self.bindings.connect(self.state.adapting.finished, self._use_adapted)
        self.bindings.connect(self.state.adapting.model.events.shown, self._show_adapt)
        self._show_adapt(self.state.adapting.model.shown)
        self._show_state()
        self._show_live()
        self._show_accept()
        self._show_task()
        self._show_kind()

    # ---- building

    def _build_choice(self) -> None:
        layers = self.viewer.layers
        self.target = LayerChoice(layers, is_scan, self.bindings, "choose a scan ...")
        self.model = ComboBox(choices=lambda _: self.state.engine.models() or [NO_MODEL])
        if self.preview.model not in self.model.choices:
            self.preview.model = self.model.choices[0]
        self.bindings.two_way(self.target, self.preview, "target")
        self.bindings.two_way(self.model, self.preview, "model")
        self.adapt = QPushButton("Adapt ...")
        self.adapt.setCheckable(True)
        self.adapt.setToolTip("Train these weights on the ticked pairs and keep them by a new name")
        self.adapt.toggled.connect(self._set_adapt)
        choice = QWidget()
        line = QHBoxLayout(choice)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.model.native, 1)
        line.addWidget(self.adapt)
        self.column.addLayout(form({"Target": self.target, "Model": choice}))
        self.adapting = AdaptPanel(
            self.state.adapting, self.bindings, self.attempt, self.thin_bar()
        )
        self.column.addWidget(self.adapting)
        self.strategy = StrategyPanel(self.preview, self.bindings)
        self.column.addWidget(self.strategy)

    def _build_running(self) -> None:
        self.live = QToggleSwitch("Live")
        self.live.setToolTip("Predict again after every change of the context set or the target")
        self.live.toggled.connect(self._set_live)
        self.once = QPushButton("Run once")
        self.once.clicked.connect(lambda: self.attempt(self.controller.run))
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(self.controller.cancel)
        line = QHBoxLayout()
        line.addWidget(self.live, 1)
        line.addWidget(self.once, 1)
        line.addWidget(self.cancel, 1)
        self.column.addLayout(line)
        self.add_progress()

    def _build_look(self) -> None:
        self.threshold = FloatSlider(min=0.01, max=0.99, step=0.01)
        self.threshold.tooltip = "Probability from which a voxel counts as labelled"
        self.show_as = ComboBox(choices=list(SHOW))
        self.bindings.two_way(self.threshold, self.preview, "threshold")
        self.bindings.two_way(self.show_as, self.preview, "show")
        self.column.addLayout(form({"Threshold": self.threshold, "Show": self.show_as}))

    def _build_options(self) -> None:
        self.levels = ComboBox(choices=[("auto", 0), *((str(n), n) for n in range(1, 6))])
        self.align = ComboBox(choices=[(ALIGN_NAMES[a], a) for a in ALIGN])
        self.prior = ComboBox(choices=[(PRIOR_NAMES[p], p) for p in PRIOR])
        self.mini_context = SpinBox(min=1, max=64)
        self.debounce = SpinBox(min=0, max=10000, step=50)
        self.view_first = CheckBox(text="part in view first")
        tips = {
            "levels": "Autoregressive levels from coarse to fine",
            "align": "How pairs are brought to the target; with none they are not registered, but "
            "for weights of ours their axes are turned where that clearly helps",
            "prior": "What the coarsest level starts from; adapted weights use the looks they keep "
            "even with none",
            "mini_context": "Pairs encoded at a time: more is faster and takes more memory",
            "debounce": "Milliseconds without an edit before a preview starts",
            "view_first": "Compute the windows that meet the slice in view first",
        }
        for name, tip in tips.items():
            widget = getattr(self, name)
            widget.tooltip = tip
            self.bindings.two_way(widget, self.preview, name)
        panel = QWidget()
        panel.setLayout(
            form(
                {
                    "Levels": self.levels,
                    "Alignment": self.align,
                    "Prior": self.prior,
                    "Pairs at a time": self.mini_context,
                    "Wait (ms)": self.debounce,
                    "": self.view_first,
                }
            )
        )
        self.options = QCollapsible("Options")
        self.options.setDuration(0)
        self.options.addWidget(panel)
        self.options.collapse(animate=False)
        for layout in (self.options.layout(), self.options.content().layout()):
            layout.setContentsMargins(0, 0, 0, 0)
        self.column.addWidget(self.options)

    def _build_accept(self) -> None:
        layers = self.viewer.layers
        self.into = LayerChoice(layers, self._can_take, self.bindings, "a new layer")
        self.rule = ComboBox(choices=[(text, key) for key, text in accept.RULES.items()])
        self.mapping = LineEdit()
        self.mapping.native.setPlaceholderText("same values; or 1:5, 2:6")
        self.mapping.tooltip = "Value to write for each class; 0 leaves a class out"
        self.column.addLayout(
            form({"Accept into": self.into, "Rule": self.rule, "Classes": self.mapping})
        )
        self.accept = QPushButton("Accept")
        self.accept.clicked.connect(lambda: self._accept(False))
        self.accept_add = QPushButton("Accept and add to context")
        self.accept_add.clicked.connect(lambda: self._accept(True))
        line = QHBoxLayout()
        line.addWidget(self.accept, 1)
        line.addWidget(self.accept_add, 2)
        self.column.addLayout(line)

    # ---- acting

    def showEvent(self, event: QShowEvent) -> None:
        # Weights may have been imported since the dock was last looked at.
        self.model.reset_choices()
        super().showEvent(event)

    def _set_adapt(self, shown: bool) -> None:
        self.state.adapting.model.shown = shown

    def _use_adapted(self, name: str) -> None:
        """Offer new weights at once, and choose them: that is what they were made for."""
        self.model.reset_choices()
        if name in self.model.choices:
            self.preview.model = name

    def _set_live(self, live: bool) -> None:
        self.preview.live = live

    def _accept(self, add: bool) -> None:
        chosen = (self.into.value, self.rule.value, self.mapping.value)
        if self.state.context.task == "image":
            chosen = (None, self.rule.value, "")
        self.attempt(self.controller.accept, *chosen, add)

    def _can_take(self, layer: object) -> bool:
        target = self.preview.target
        return target is not None and accept.fits(layer, target)

    # ---- showing

    def _show_state(self, *_: object) -> None:
        preview = self.preview
        running = preview.state == "running"
        self.cancel.setEnabled(running)
        self.show_progress(preview)
        if preview.state == "failed":
            self.say(preview.error, problem=True)
        elif running:
            self.say("")
        self.accept.setEnabled(preview.can_accept)
        self.accept_add.setEnabled(preview.can_accept)

    def _show_live(self, *_: object) -> None:
        if self.live.isChecked() != self.preview.live:
            self.live.setChecked(self.preview.live)

    def _show_adapt(self, shown: bool) -> None:
        self.adapt.setChecked(shown)

    def _show_task(self, *_: object) -> None:
        """Offer what makes sense: an image result has no threshold, classes or label layer."""
        labels = self.state.context.task != "image"
        for widget in (self.threshold, self.show_as, self.into, self.rule, self.mapping):
            widget.enabled = labels

    def _show_kind(self, *_: object) -> None:
        """Offer what the weights understand: Iris has strategies, but no levels or alignment."""
        described = self.state.engine.describe(self.preview.model)
        iris = described.get("kind") == "iris"
        self.strategy.setVisible(iris)
        self.strategy.remember(described.get("memory", ()) if iris else ())
        for widget in (self.levels, self.align, self.prior, self.mini_context, self.view_first):
            widget.enabled = not iris

    def _show_accept(self, *_: object) -> None:
        self.into.refresh()
