"""The coarse-to-fine stream: a request in, frames out.

Source: Medverse, "Autoregressive Inference Pipeline" (NA-ICL); Neuroverse3D for its own weights.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import MedverseError
from . import feedback as fed
from . import levels as plans
from . import precision, windows
from .cache import FeatureCache
from .cancel import CancelToken
from .canvas import Canvas, WindowWeights, slabs
from .context import ContextPair
from .feedback import Feedback
from .frames import Frame
from .levels import Level
from .normalise import Scaling
from .placing import intensity, place_pairs, place_target, share_scales
from .request import Request, make_request
from .runner import WindowRunner
from .sampling import Mode
from .sources import PlacedImage, PlacedPair
from .volume import Volume

Progress = Callable[[int, int, str], None]

DEFAULT_INTERVAL = 0.25
# Residual networks see autoregressive labels below this as equally empty.
DEFAULT_SKIP = 0.05
# A partial frame may take this part of the time that the windows take.
_FRAME_SHARE = 0.1


@dataclass(frozen=True, eq=False, slots=True)
class Engine:
    """A model's network, ready to run, with its precision decided."""

    network: torch.nn.Module
    config: object
    fingerprint: str
    device: str
    precision: str
    kind: str

    @classmethod
    def of(cls, model) -> "Engine":
        network = precision.prepare(model.network, model.device)
        chosen = precision.resolve(model.precision, network, model.device)
        return cls(network, model.config, model.fingerprint, str(model.device), chosen, model.kind)

    @property
    def published(self) -> bool:
        """Whether volumes are resampled and blended as the published code does."""
        return self.config.resampling == "trilinear"

    @property
    def single(self) -> bool:
        """Whether the network knows no autoregressive context (Neuroverse3D)."""
        return self.kind == "neuroverse3d"

    @property
    def mode(self) -> Mode:
        if self.single:
            return "nearest"
        return "trilinear" if self.published else "area"

    def plan(self, target: Volume, levels: int | None, overlap: float | None) -> list[Level]:
        """Return the levels for a target, coarse to fine."""
        patch = tuple(self.config.patch)
        if self.single:
            return plans.plan_single_level(target.shape, patch)
        if self.published:
            return plans.plan_published_levels(target.shape, patch, levels, overlap)
        return plans.plan_levels(
            target.shape, target.spacing, patch, self._window_unit(patch), levels, overlap
        )

    def skip(self, wanted: float | None) -> float:
        """Return the certainty from which windows are skipped."""
        if wanted is not None:
            return wanted
        return 0.0 if self.published or self.precision == "exact" else DEFAULT_SKIP

    def _window_unit(self, patch: tuple[int, int, int]) -> int:
        # The network runs on smaller multiples, but then with fewer attention tokens.
        blocks = getattr(self.network, "blocks", 1)
        unit = math.lcm(self.network.divisor, blocks * 2 ** (len(self.config.channels) - 1))
        return unit if all(side % unit == 0 for side in patch) else self.network.divisor


def stream(
    model,
    target,
    pairs: "list[ContextPair]",
    *,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
    frame_interval: float | None = DEFAULT_INTERVAL,
    **options,
) -> Iterator[Frame]:
    """Predict a target from context pairs, coarse to fine, yielding frames on the way.

    Parameters
    ----------
    model
        From `load_model`.
    target : ndarray or Volume
        (D, H, W), any real dtype.
    pairs
        `ContextPair` objects, (image, label) tuples, or a `ContextSet`.
    cancel
        Checked before every window and every group of pairs.
    progress
        Called with (windows done, windows in all, message).
    cache
        Features and outputs of former runs to reuse; the result is the same with and without.
    frame_interval
        Seconds between frames of an unfinished level at least; None yields one frame a level.
    **options
        Fields of `Request`: classes, align, prior, placement, mini_context, levels, stop_level,
        overlap, threshold, skip, visible.

    Yields
    ------
    Frame
        At least one per level; `final` on the last.

    Raises
    ------
    MedverseError
        At the call, for input that cannot be used; the message names the volume or option.
    Cancelled
        From the iterator, once the token is set.
    """
    request = make_request(target, pairs, **options)
    return stream_request(
        model,
        request,
        cancel=cancel,
        progress=progress,
        cache=cache,
        frame_interval=frame_interval,
    )


def stream_request(
    model,
    request: Request,
    *,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
    frame_interval: float | None = DEFAULT_INTERVAL,
) -> Iterator[Frame]:
    """Run a request; see `stream`."""
    if model.kind == "neuroverse3d" and request.prior == "vote":
        raise MedverseError(
            f"'{model.name}' holds Neuroverse3D weights, which take no prior; "
            "use prior='auto' or Medverse weights"
        )
    return _Run(model, request, cancel, progress, cache, frame_interval).frames()


class _Run:
    """State of one request while it is worked on."""

    def __init__(self, model, request, cancel, progress, cache, frame_interval) -> None:
        self.model, self.request = model, request
        self.cancel, self.progress, self.cache = cancel, progress, cache
        self.frame_interval = frame_interval
        self.begun = time.perf_counter()
        self.windows_before = 0
        self.windows_in_all = 0

    def frames(self) -> Iterator[Frame]:
        self._check()
        if self.cache is not None:
            self.cache.begin_run()
        request, engine = self.request, Engine.of(self.model)
        plan = engine.plan(request.target, request.levels, request.overlap)
        last = min(request.stop_level or len(plan), len(plan))
        plan = plan[:last]
        self.windows_in_all = sum(level.windows for level in plan)

        pairs = place_pairs(request, engine.config, self.cache, self.cancel, self._say)
        target = place_target(request.target, intensity(request.target, engine.config, self.cache))
        self.details = {"precision": engine.precision, "pairs": [pair.report() for pair in pairs]}
        self.units = Scaling(0.0, 1.0)
        if request.task == "image":
            target, pairs, self.units = self._image_scales(engine, target, pairs)
        self.runner = WindowRunner(
            engine,
            target,
            pairs,
            request.classes or (None,),
            engine.mode,
            request.mini_context,
            engine.skip(request.skip),
            self.cache,
            self.cancel,
        )
        feedback = self._prior(engine, plan[0], pairs)
        for index, level in enumerate(plan):
            canvas = yield from self._level(engine, level, feedback)
            values = self._on_own_grid(engine, level, canvas)
            yield self._frame(level, level.windows, values, final=index == last - 1)
            self.windows_before += level.windows
            if index < last - 1:
                feedback = self._feedback(engine, values, level, plan[index + 1])

    def _level(self, engine: Engine, level: Level, feedback: Feedback | None):
        """Work through a level's windows, yielding partial frames; return the canvas."""
        channels = len(self.runner.classes)
        canvas = Canvas(level, channels)
        if feedback is not None:
            for channel, rows in itertools.product(range(channels), slabs(level)):
                indices = [rows, *(np.arange(side) for side in level.grid[1:])]
                coarse = feedback.read_label(channel, indices)
                canvas.start_from(channel, slice(rows[0], rows[-1] + 1), coarse)
        weights = WindowWeights(level, engine.published)
        starts = level.starts
        shown = time.perf_counter()
        pause = self.frame_interval
        for position, number in enumerate(self._order(level, starts, feedback)):
            self._check()
            start = starts[number]
            outputs = self.runner.run(level, start, position, feedback)
            share = weights.of(start)
            for channel, output in enumerate(outputs):
                if output.values is not None:
                    canvas.add(channel, start, output.values, output.coarse, share)
            self._say(self._message(level, position + 1), self.windows_before + position + 1)
            now = time.perf_counter()
            if pause is not None and position + 1 < len(starts) and now - shown >= pause:
                yield self._frame(level, position + 1, canvas.values())
                shown = time.perf_counter()
                pause = max(self.frame_interval, (shown - now) / _FRAME_SHARE)
        return canvas

    def _order(
        self, level: Level, starts: list[windows.Start], feedback: Feedback | None
    ) -> list[int]:
        in_view = [None] * 3
        if self.request.visible is not None:
            in_view = [
                None if index is None else (index - shift) / step
                for index, shift, step in zip(
                    self.request.visible, level.grid_offset, level.grid_scale, strict=True
                )
            ]
        interest = [0.0] * len(starts)
        if feedback is not None and self.request.task == "labels":
            interest = [feedback.uncertainty(start, level.window) for start in starts]
        return windows.visiting_order(starts, level.window, in_view, interest)

    def _prior(self, engine: Engine, level: Level, pairs: list[PlacedPair]) -> Feedback | None:
        """Return the first autoregressive context: the aligned label vote, or none."""
        wanted = self.request.prior
        aligned = [pair for pair in pairs if pair.aligned]
        if wanted == "none" or engine.single or self.request.task == "image":
            return None
        if wanted == "auto" and len(aligned) < len(pairs):
            return None
        indices = [np.arange(side) for side in level.grid]
        voters = aligned or pairs
        votes = [_vote(voters, value, level, indices, engine.mode) for value in self.runner.classes]
        return Feedback(None, torch.stack(votes), level.grid_to_target, level)

    def _feedback(self, engine: Engine, values: Tensor, level: Level, following: Level) -> Feedback:
        target = self.runner.target
        indices = [np.arange(side) for side in level.grid]
        coarse = target.read(level.grid_to_target, indices, engine.mode)
        if engine.published:
            coarse = fed.aligned_resize(coarse[None], level.size)[0]
            return fed.published_feedback(values, coarse, following)
        return fed.native_feedback(values, coarse, level, following, self.request.task)

    def _on_own_grid(self, engine: Engine, level: Level, canvas: Canvas) -> Tensor:
        values = canvas.values()
        if level.size != level.grid:
            values = fed.aligned_resize(values, level.size)
        return values

    def _image_scales(
        self, engine: Engine, target: PlacedImage, pairs: list[PlacedPair]
    ) -> tuple[PlacedImage, list[PlacedPair], Scaling]:
        if not engine.published:
            return share_scales(target, pairs)
        # The published code scales every volume by itself.
        scales = [pair.label.scaling for pair in pairs]
        low = float(np.mean([scale.low for scale in scales]))
        return target, pairs, Scaling(low, float(np.mean([scale.span for scale in scales])))

    def _frame(self, level: Level, done: int, values: Tensor, final: bool = False) -> Frame:
        array = values.numpy()
        if level.number == level.count and level.scale == (1.0, 1.0, 1.0):
            # Published weights pad the target at its end.
            array = array[(slice(None), *(slice(side) for side in self.request.target.shape))]
        if self.request.task == "image":
            array = self.units.undo(array[0])
        array = array.view()
        array.flags.writeable = False
        return Frame(
            level=level.number,
            levels=level.count,
            windows_done=done,
            windows=level.windows,
            values=array,
            scale=level.scale,
            offset=level.offset,
            final=final,
            classes=self.request.classes,
            seconds=time.perf_counter() - self.begun,
            message=self._message(level, done),
            run_id=self.request.run_id,
            details=self.details,
        )

    def _message(self, level: Level, done: int) -> str:
        count = len(self.request.pairs)
        return (
            f"level {level.number} of {level.count}, {done} of {level.windows} "
            f"window{'s' * (level.windows != 1)}, {count} pair{'s' * (count != 1)}, "
            f"{time.perf_counter() - self.begun:.1f} s"
        )

    def _say(self, message: str, done: int = 0) -> None:
        if self.progress is not None:
            self.progress(done, self.windows_in_all, message)

    def _check(self) -> None:
        if self.cancel is not None:
            self.cancel.check()


def _vote(
    pairs: list[PlacedPair], value: int, level: Level, indices: list[np.ndarray], mode: Mode
) -> Tensor:
    """Mean of the soft labels of the pairs that hold the class, on a level's grid."""
    voters = [pair for pair in pairs if value in pair.pair.classes]
    total = torch.zeros(level.grid)
    for pair in voters:
        total += pair.read_label(value, level.grid_to_target, indices, mode)
    return total / len(voters)
