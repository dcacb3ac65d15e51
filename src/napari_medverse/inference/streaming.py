"""The coarse-to-fine stream: a request in, frames out.

Source: Medverse, "Autoregressive Inference Pipeline" (NA-ICL); Neuroverse3D for its own weights.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from ..errors import MedverseError
from . import feedback as fed
from . import trust, windows
from .aligning import Aligning
from .appearance import Appearance
from .cache import FeatureCache
from .cancel import CancelToken
from .canvas import Canvas, WindowWeights, slabs
from .context import ContextPair
from .engine import Engine
from .feedback import Feedback
from .finding_looks import FindingLooks
from .frames import Frame
from .iris_stream import stream_iris
from .levels import Level
from .normalise import Scaling
from .placing import intensity, place_pairs, place_target, share_scales
from .recognition import Recognition
from .request import Request, make_request
from .runner import WindowRunner
from .sources import PlacedImage, PlacedPair
from .voting import Voting

Progress = Callable[[int, int, str], None]

DEFAULT_INTERVAL = 0.25
# A partial frame may take this part of the time that the windows take.
_FRAME_SHARE = 0.1
# The network's share in a blend with a guess from looks. On two made-up heads and four brains 0.15
# and 0.25 gave the same mean (0.4 less in thin bone), and 0.15 lost less where the network errs.
_SHARE_BESIDE_LOOKS = 0.15


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
        overlap, threshold, skip, visible, strategy.

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
    if model.kind == "neuroverse3d" and request.prior in ("vote", "appearance"):
        raise MedverseError(
            f"'{model.name}' holds Neuroverse3D weights, which take no prior; "
            "use prior='auto' or Medverse weights"
        )
    if model.kind == "iris":
        return stream_iris(model, request, cancel, progress, cache)
    if request.strategy is not None:
        raise MedverseError(
            f"'{model.name}' holds {model.kind} weights; strategies are for Iris weights"
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
        self.windows_said = 0
        self.units = Scaling(0.0, 1.0)
        self.looks: Appearance | Recognition | None = None

    def frames(self) -> Iterator[Frame]:
        self._check()
        if self.cache is not None:
            self.cache.begin_run()
        request, engine = self.request, Engine.of(self.model)
        plan = engine.plan(request.target, request.levels, request.overlap)
        last = min(request.stop_level or len(plan), len(plan))
        plan = plan[:last]
        self.windows_in_all = sum(level.windows for level in plan)

        aligned = None
        if request.align != "none":
            with Aligning(request, self.cache, self.cancel) as aligning:
                if self._worth_a_sketch(plan) and not aligning.ready():
                    self._set_out(engine, plan[0], place_pairs(request, engine.config, self.cache))
                    yield from self._sketch(engine, plan[0])
                aligned = aligning.result(self._say)
        self._set_out(engine, plan[0], place_pairs(request, engine.config, self.cache, aligned))
        finding = FindingLooks(engine, request, self.runner, plan, self.guide, self._check)
        if finding.hopeful:
            if self._worth_a_sketch(plan):
                yield from self._sketch(engine, plan[0])
            self.looks = finding.result(self._say)
            self.guide = self.looks or self.guide
            self.details |= finding.details
        if self.guide is None and request.task == "labels":
            # The first level, which may have been shown already, is the same.
            plan = engine.plan(request.target, request.levels, request.overlap, halved=True)[:last]
            self.windows_in_all = sum(level.windows for level in plan)
        feedback = self._first_feedback(plan[0])
        for index, level in enumerate(plan):
            if self.voting.judges(level) and index == 0 and self.frame_interval is not None:
                # Judging takes longer than a small scan's only level: the network's answer first.
                canvas = yield from self._level(engine, level, feedback)
                yield self._frame(level, 0, self._on_own_grid(level, canvas))
            shares = self._shares(level, feedback)
            canvas = yield from self._level(engine, level, feedback, shares)
            values = self._on_own_grid(level, canvas)
            yield self._frame(level, level.windows, values, final=index == last - 1)
            self.windows_before += level.windows
            if index < last - 1:
                feedback = self._feedback(engine, values, level, plan[index + 1])

    def _set_out(self, engine: Engine, coarse: Level, pairs: list[PlacedPair]) -> None:
        """Make the runner for pairs as they are placed; `coarse` is the first level."""
        request = self.request
        self.details = {"precision": engine.precision, "pairs": [pair.report() for pair in pairs]}
        target = place_target(request.target, intensity(request.target, engine.config, self.cache))
        if request.task == "image":
            target, pairs, self.units = self._image_scales(engine, target, pairs)
        self.runner = WindowRunner(
            engine,
            target,
            pairs,
            request.classes or (None,),
            "voxel" if request.task == "image" and engine.mode == "area" else engine.mode,
            request.mini_context,
            engine.skip(request.skip),
            self.cache,
            self.cancel,
        )
        self.voting = Voting(engine, request, self.runner, coarse, self.cache)
        self.guide = self.voting if self.voting.wanted else None

    def _worth_a_sketch(self, plan: list[Level]) -> bool:
        return self.frame_interval is not None and len(plan) > 1 and plan[0].windows == 1

    def _sketch(self, engine: Engine, level: Level) -> Iterator[Frame]:
        """Predict the first level with what is known already, while a prior is sought."""
        canvas = yield from self._level(engine, level, self._first_feedback(level))
        yield self._frame(level, 0, self._on_own_grid(level, canvas))

    def _level(
        self,
        engine: Engine,
        level: Level,
        feedback: Feedback | None,
        shares: list[float] | None = None,
    ):
        """Work through a level's windows, yielding partial frames; return the canvas.

        `shares` are the network's in a blend with what was fed back, one a channel.
        """
        channels = len(self.runner.classes)
        canvas = Canvas(level, channels)
        if feedback is not None:
            given = filter(feedback.gives, range(channels))
            for channel, rows in itertools.product(given, slabs(level)):
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
                values = output.values
                if values is None:
                    continue
                if shares is not None and output.coarse is not None:
                    values = trust.blend(values, output.coarse, shares[channel])
                canvas.add(channel, start, values, output.coarse, share)
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

    def _shares(self, level: Level, feedback: Feedback | None) -> list[float] | None:
        """Return how far to follow the network beside what it is fed, by channel; None: wholly."""
        channels = range(len(self.runner.classes))
        looks = self.looks
        guessed = [c for c in channels if looks is not None and looks.guesses(c, level)]
        shares = dict.fromkeys(guessed, _SHARE_BESIDE_LOOKS)
        if self.voting.judges(level):
            self._say("comparing network and vote on the pairs", self.windows_before)
            voted = [channel for channel in channels if channel not in guessed]
            shares |= self.voting.shares(level, feedback, self._check, voted)
            self.details["network_share"] = {
                str(self.runner.classes[channel]): shares[channel] for channel in channels
            }
        return [shares.get(channel, 1.0) for channel in channels] if shares else None

    def _feedback(self, engine: Engine, values: Tensor, level: Level, following: Level) -> Feedback:
        target = self.runner.target
        coarse = target.read(level.grid_to_target, level.indices, engine.mode)
        if engine.published:
            coarse = fed.aligned_resize(coarse[None], level.size)[0]
            return fed.published_feedback(values, coarse, following)
        plain = fed.native_feedback(values, coarse, level, following, self.request.task)
        return plain if self.guide is None else fed.GuidedFeedback(plain, self.guide)

    def _first_feedback(self, level: Level) -> Feedback | None:
        if self.guide is None:
            return None
        return fed.first_feedback(self.guide, len(self.runner.classes), level)

    def _on_own_grid(self, level: Level, canvas: Canvas) -> Tensor:
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
        # A sketch's windows are computed again, but no one likes to see less done than before.
        self.windows_said = max(self.windows_said, done)
        if self.progress is not None:
            self.progress(self.windows_said, self.windows_in_all, message)

    def _check(self) -> None:
        if self.cancel is not None:
            self.cancel.check()
