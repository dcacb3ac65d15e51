"""One window at a time: crops in, network, prediction out, with everything known reused."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import windows
from .cache import FeatureCache
from .cancel import CancelToken
from .feedback import Feedback
from .levels import Level
from .precision import computing
from .sampling import Mode
from .sources import Crop, Indices, PlacedImage, PlacedPair

# Crops of context images kept while the classes of one window are predicted.
_CROP_BYTES = 1 << 27
# What the network makes of context images alone, kept for the classes of one window.
_MAP_BYTES = 1 << 28
# Crops of context pairs kept from when they are hashed to when they are encoded; those beyond are
# read twice, so that memory does not grow with the number of pairs.
_WAITING_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Output:
    """A window's prediction of one channel.

    Attributes
    ----------
    values
        (d, h, w) float32; None where the window was left at its coarse prediction.
    coarse
        The window's crop of the coarse prediction, or None.
    """

    values: Tensor | None
    coarse: Tensor | None


@dataclass(eq=False, slots=True)
class WindowRunner:
    """Predicts windows of one request.

    Attributes
    ----------
    model
        Network, device, precision and fingerprint.
    target, pairs
        What the windows are cut from.
    classes
        Label value of each channel; (None,) for image tasks.
    mode
        How volumes are resampled.
    mini_context
        Pairs encoded at a time.
    skip
        See `Request.skip`.
    cache, cancel
        Optional.
    """

    model: object
    target: PlacedImage
    pairs: Sequence[PlacedPair]
    classes: tuple[int | None, ...]
    mode: Mode
    mini_context: int = 1
    skip: float = 0.0
    cache: FeatureCache | None = None
    cancel: CancelToken | None = None
    _images: dict[int, Crop] = field(default_factory=dict, init=False)

    @property
    def task(self) -> str:
        """ "labels" or "image"."""
        return "image" if self.classes == (None,) else "labels"

    def run(
        self, level: Level, start: windows.Start, position: int, feedback: Feedback | None
    ) -> list[Output]:
        """Predict all channels of one window.

        Parameters
        ----------
        level, start
            Which window.
        position
            Its place in the visiting order; what comes first is kept longer in the cache.
        feedback
            The autoregressive context, or None.

        Raises
        ------
        Cancelled
            Before any group of pairs is encoded.
        """
        window = _Window(self, level, start, position, _indices(level, start), feedback)
        self._images.clear()
        return [window.predict(channel, value) for channel, value in enumerate(self.classes)]

    def crops(
        self, level: Level, start: windows.Start, value: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield image and soft mask of every pair that holds a class, in one window."""
        place = level.grid_to_target, _indices(level, start), self.mode
        for pair in self.pairs:
            if value in pair.pair.classes:
                yield pair.image.read(*place), pair.read_label(value, *place)


def _indices(level: Level, start: windows.Start) -> list[np.ndarray]:
    return [
        windows.inside_indices(first, side, length)
        for first, side, length in zip(start, level.window, level.grid, strict=True)
    ]


class _Window:
    """The work on one window; the target is encoded once for all channels."""

    def __init__(
        self,
        runner: WindowRunner,
        level: Level,
        start: windows.Start,
        position: int,
        indices: Indices,
        feedback: Feedback | None,
    ) -> None:
        self.runner, self.level, self.indices, self.feedback = runner, level, indices, feedback
        self.network, self.device = runner.model.network, torch.device(runner.model.device)
        self.cache = runner.cache
        self.place = (level.grid_to_target.tobytes(), level.grid, level.window, start, runner.mode)
        self.weights = (runner.model.fingerprint, runner.model.precision, str(self.device))
        self.position = position
        self._features = None
        self._image_maps: dict[tuple[Crop, ...], tuple[Tensor, ...]] = {}
        self.target = self._crop(
            lambda: runner.target.read(level.grid_to_target, indices, runner.mode),
            lambda: ("image", runner.target.identity, self.place),
        )

    def predict(self, channel: int, value: int | None) -> Output:
        """Predict one channel."""
        coarse = None
        if self.feedback is not None and self.feedback.gives(channel):
            coarse = self._coarse_label(channel)
            if self._certain(coarse.tensor):
                return Output(None, coarse.tensor)
        below = None if coarse is None else coarse.tensor
        groups = self._groups(value)
        known, key = self._known_output(groups, coarse)
        if known is None:
            known = self._compute(groups, coarse)
            self._keep(key, known, known.nbytes, "window outputs", 1)
        return Output(known, below)

    def _compute(self, groups: list[list[tuple[Crop, Crop]]], coarse: Crop | None) -> Tensor:
        semantic = None
        # What the cache holds must stay as it is; the running mean is ours.
        ours = self.cache is None
        for group in groups:
            features = self._context(group)
            if semantic is None:
                semantic = features
            else:
                with torch.inference_mode():
                    semantic, ours = semantic.merge(features, in_place=ours), True
            del features
        runner, model = self.runner, self.runner.model
        self._check()
        with computing(model.precision, self.device):
            target = self._target_features()
            pair = label = None
            if coarse is not None:
                image, label = self._to_device(self._coarse_image()), self._to_device(coarse)
                pair = self.network.encode_context(
                    image[None], label[None], target, autoregressive=True
                )
            out = self.network.decode(target, semantic, pair, ar_label=label, task=runner.task)
        return out[0, 0].float().cpu()

    def _context(self, group: list[tuple[Crop, Crop]]):
        """Return the mean features of a group of pairs."""
        key = None
        if self.cache is not None:
            digests = tuple((image.digest, label.digest) for image, label in group)
            key = ("context", self.weights, self.runner.task, self.target.digest, digests)
            found = self.cache.get(key, "context features")
            if found is not None:
                return found
        self._check()
        images = torch.stack([self._to_device(image)[0] for image, _ in group])[None]
        labels = torch.stack([self._to_device(label)[0] for _, label in group])[None]
        maps = self._maps_of(tuple(image for image, _ in group), images)
        self._let_go(group)
        with computing(self.runner.model.precision, self.device):
            features = self.network.encode_context(
                images,
                labels,
                self._target_features(),
                task=self.runner.task,
                image_maps=maps,
            )
        self._keep(key, features, features.nbytes, "context features", 2)
        return features

    def _maps_of(self, group: tuple[Crop, ...], images: Tensor) -> tuple[Tensor, ...]:
        """Return what all classes of a window share of a group's images, for as far as it fits."""
        if len(self.runner.classes) == 1:
            return ()
        if group not in self._image_maps:
            with computing(self.runner.model.precision, self.device):
                maps = self.network.encode_images(images)
            kept = itertools.chain(maps, *self._image_maps.values())
            if sum(each.nbytes for each in kept) > _MAP_BYTES:
                return maps
            self._image_maps[group] = maps
        return self._image_maps[group]

    def _target_features(self):
        if self._features is None:
            key = None
            if self.cache is not None:
                key = ("target", self.weights, self.target.digest)
                self._features = self.cache.get(key, "target features")
            if self._features is None:
                with computing(self.runner.model.precision, self.device):
                    self._features = self.network.encode_target(self._to_device(self.target))
                self._keep(key, self._features, self._features.nbytes, "target features", 2)
        return self._features

    def _groups(self, value: int | None) -> list[list[tuple[Crop, Crop]]]:
        """Crops of the pairs that hold the class, `mini_context` at a time.

        A pair without the class is left out: mostly it was not annotated for it.
        """
        crops = [
            (self._context_image(number, pair), self._context_label(pair, value))
            for number, pair in enumerate(self.runner.pairs)
            if value is None or value in pair.pair.classes
        ]
        size = self.runner.mini_context
        return [crops[first : first + size] for first in range(0, len(crops), size)]

    def _context_image(self, number: int, pair: PlacedPair) -> Crop:
        runner, kept = self.runner, self.runner._images
        if number not in kept:
            crop = self._crop(
                lambda: pair.image.read(self.level.grid_to_target, self.indices, runner.mode),
                lambda: ("image", pair.image.identity, self.place),
            )
            voxels = math.prod(self.level.window)
            if len(runner.classes) == 1 or (number + 1) * voxels * 4 > _CROP_BYTES:
                return crop
            kept[number] = crop
        return kept[number]

    def _context_label(self, pair: PlacedPair, value: int | None) -> Crop:
        return self._crop(
            lambda: pair.read_label(
                value, self.level.grid_to_target, self.indices, self.runner.mode
            ),
            lambda: ("label", value, pair.label.identity, self.place),
        )

    def _coarse_label(self, channel: int) -> Crop:
        feedback = self.feedback
        return self._crop(
            lambda: feedback.read_label(channel, self.indices),
            lambda: ("coarse", feedback.identity(channel), self.place),
        )

    def _coarse_image(self) -> Crop:
        feedback = self.feedback
        if not feedback.has_image:
            return self.target
        return self._crop(
            lambda: feedback.read_image(self.indices),
            lambda: ("coarse", feedback.identity(None), self.place),
        )

    def _known_output(
        self, groups: list[list[tuple[Crop, Crop]]], coarse: Crop | None
    ) -> tuple[Tensor | None, tuple | None]:
        if self.cache is None:
            return None, None
        known, waiting = [], 0
        for group in groups:
            known.append(tuple((image.digest, label.digest) for image, label in group))
            waiting += 8 * len(group) * math.prod(self.level.window)
            if waiting > _WAITING_BYTES:
                self._let_go(group)
        fed_back = None if coarse is None else (self._coarse_image().digest, coarse.digest)
        context = (self.target.digest, tuple(known))
        key = ("output", self.weights, self.runner.task, context, fed_back)
        return self.cache.get(key, "window outputs"), key

    def _certain(self, coarse: Tensor) -> bool:
        skip = self.runner.skip
        if skip <= 0 or self.level.number == 1 or self.runner.task == "image":
            return False
        return bool(coarse.max() < skip) or bool(coarse.min() > 1 - skip)

    def _crop(self, make, describe) -> Crop:
        return Crop(make) if self.cache is None else Crop(make, self.cache, describe())

    def _keep(self, key: tuple | None, value, nbytes: int, kind: str, worth: int) -> None:
        if self.cache is not None and key is not None:
            # The first level answers every edit, so its features stay before all else.
            rank = (0 if self.level.number == 1 else worth, self.level.number, self.position)
            self.cache.put(key, value, nbytes, kind, rank)

    def _let_go(self, group: list[tuple[Crop, Crop]]) -> None:
        """Free a group's crops, but for images that the next class needs."""
        for image, label in group:
            label.release()
            if len(self.runner.classes) == 1:
                image.release()

    def _check(self) -> None:
        if self.runner.cancel is not None:
            self.runner.cancel.check()

    def _to_device(self, crop: Crop) -> Tensor:
        """Return a crop as (1, 1, d, h, w) on the device."""
        tensor = crop.tensor[None, None]
        if self.device.type == "cuda":
            # Only from pinned memory does the copy run beside the computation.
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
