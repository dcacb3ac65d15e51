"""From an annotated volume to the embeddings of its objects.

Volumes are looked at whole, on a small grid whose axes run as nearly as they can along the
world's: a scan embeds alike whichever way its file stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import MedverseError
from ..inference import ContextPair, Volume
from ..inference.frames import resolve_labels
from ..inference.normalise import measure
from ..inference.strategies import search_vector
from ..inference.view import View, view_of
from .entry import Space
from .shape import FACTS, shape_facts

if TYPE_CHECKING:
    from ..networks.features import TargetFeatures
    from ..weights import Model

#: what the numbers of a search vector mean; to be raised when that changes
_FEATURES_VERSION, _IRIS_VERSION = 1, 1
#: weight of the shape facts beside the features
_SHAPE_WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class ObjectEmbedding:
    """What is known of one class of a volume.

    Attributes
    ----------
    vector
        (n,) float32 of unit length, to be compared by cosine.
    task
        (tokens, channels) float32.
    """

    class_id: int
    vector: np.ndarray
    task: np.ndarray


@dataclass(frozen=True, eq=False)
class VolumeEmbedding:
    """The vector of a whole image, and the embeddings of its objects."""

    image_vector: np.ndarray
    objects: tuple[ObjectEmbedding, ...]


@dataclass(frozen=True, eq=False)
class Example:
    """A case of a bank, by whose example a first mask is made.

    Attributes
    ----------
    read
        Reads its volumes.
    tasks
        Its task embedding (tokens, channels) by class.
    """

    read: Callable[[], ContextPair]
    tasks: Mapping[int, np.ndarray]


class Embedder(Protocol):
    """What fills and asks a bank.

    Attributes
    ----------
    space
        Fingerprint and sizes of the embeddings.
    """

    space: Space

    def embed_image(self, image: Volume) -> np.ndarray:
        """Return the (n,) search vector of a whole image."""

    def embed(
        self, image: Volume, label: Volume, classes: tuple[int, ...] | None = None
    ) -> VolumeEmbedding:
        """Embed the classes of an annotated volume; None means every value above 0."""

    def first_mask(self, target: Volume, example: Example, **options: Any) -> np.ndarray:
        """Return rough labels of a target by the example of a case.

        Parameters
        ----------
        example
            Its volumes are not read where its task embeddings are enough.
        **options
            `cancel`, `progress` and `cache`, as `predict` takes them.

        Returns
        -------
        ndarray
            Integer labels on the target's grid.
        """


def embedder_for(model: Model, size: int | None = None) -> Embedder:
    """Return the embedder of a model: Iris's task embeddings, or a context network's features.

    Parameters
    ----------
    model
        From `load_model`.
    size
        Voxels along the longest side of the grid that volumes are looked at on; the longest side
        of the model's patch by default.
    """
    return (IrisEmbedder if model.kind == "iris" else FeatureEmbedder)(model, size)


class _Looking:
    """Bringing volumes into the model's window."""

    def __init__(self, model: Model, size: int | None) -> None:
        self.model = model
        self.size = size or max(model.config.patch)

    def _probe(self) -> Tensor:
        """Return the smallest image that the network takes, to see what it makes of it."""
        return torch.zeros(1, 1, *(self.model.network.divisor,) * 3, device=self.model.device)

    def _view(self, volume: Volume) -> View:
        return view_of(volume, self.size, self.model.network.divisor)

    def _image(self, image: Volume) -> Tensor:
        """Return the image in its window, (1, 1, d, h, w) in [0, 1]."""
        how = self.model.config.normalisation
        scaling = measure(image, how.kind, (how.low, how.high))
        return self._view(image).read_image(image, scaling).to(self.model.device)

    def _pair(
        self, image: Volume, label: Volume, classes: tuple[int, ...] | None
    ) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return image and masks (1, K, d, h, w) in the window, and the classes."""
        pair = ContextPair(image, label, image.name, task="labels")
        chosen = pair.classes if classes is None else classes
        if not chosen:
            raise MedverseError(f"{pair.title}: the label is empty; paint the structure in it")
        masks = self._view(pair.image).read_masks(pair.label, chosen)
        return self._image(pair.image), masks.to(self.model.device), chosen


class FeatureEmbedder(_Looking):
    """Embeddings from the target encoder of a context network (Medverse or Neuroverse3D).

    An object's vector says how the encoder's features in it differ from those of the image as a
    whole, channel by channel and scale by scale, and holds a few facts of its shape; where it lies
    and how it is turned is left out. Not from a paper: it makes retrieval work with weights that
    were not trained for it.
    """

    def __init__(self, model: Model, size: int | None = None) -> None:
        super().__init__(model, size)
        with torch.no_grad():
            channels = sum(m.shape[1] for m in self._maps(self._probe()))
        self.space = Space(
            fingerprint=f"features-{_FEATURES_VERSION}-{self.size}:{model.fingerprint}",
            model=model.name,
            vector=channels + FACTS,
            image_vector=2 * channels,
            task=(1, channels + FACTS),
        )

    @torch.no_grad()
    def embed_image(self, image: Volume) -> np.ndarray:
        maps = self._maps(self._image(image))
        return _unit(torch.cat([_direction(m) for f in maps for m in _moments(f)]).cpu().numpy())

    @torch.no_grad()
    def embed(
        self, image: Volume, label: Volume, classes: tuple[int, ...] | None = None
    ) -> VolumeEmbedding:
        values, masks, chosen = self._pair(image, label, classes)
        steps = _steps(self._view(image), image)
        maps = self._maps(values)
        moments = [_moments(f) for f in maps]
        whole = torch.cat([_direction(m) for pair in moments for m in pair]).cpu().numpy()
        objects = []
        for number, value in enumerate(chosen):
            mask = masks[:, number : number + 1]
            parts = [
                _direction((_mean_inside(f, mask) - mean) / (spread + 1e-6))
                for f, (mean, spread) in zip(maps, moments, strict=True)
            ]
            looks = torch.cat(parts).cpu().numpy() / len(parts) ** 0.5
            facts = shape_facts(mask[0, 0].cpu().numpy(), steps)
            vector = _unit(np.concatenate([looks, _SHAPE_WEIGHT * facts]))
            objects.append(ObjectEmbedding(value, vector, vector[None]))
        return VolumeEmbedding(_unit(whole), tuple(objects))

    def first_mask(self, target: Volume, example: Example, **options: Any) -> np.ndarray:
        from ..inference import predict

        # Registration makes up for there being one example only.
        return predict(self.model, target, [example.read()], tuple(example.tasks), **options).labels

    def _maps(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.model.network.encode_target(image)
        return (*features.shortcuts, features.bottleneck)


class IrisEmbedder(_Looking):
    """Iris's task embeddings (section 3.2.1), compared as its object-level retrieval does."""

    def __init__(self, model: Model, size: int | None = None) -> None:
        super().__init__(model, size)
        queries, width = model.network.queries, model.network.width
        with torch.no_grad():
            probe = model.network.encode_image(self._probe())
        self.space = Space(
            fingerprint=f"iris-{_IRIS_VERSION}-{self.size}:{model.fingerprint}",
            model=model.name,
            vector=2 * width,
            image_vector=probe.bottleneck.shape[1],
            task=(queries + 1, width),
        )

    @torch.no_grad()
    def embed_image(self, image: Volume) -> np.ndarray:
        return self._whole(self.model.network.encode_image(self._image(image)))

    @torch.no_grad()
    def embed(
        self, image: Volume, label: Volume, classes: tuple[int, ...] | None = None
    ) -> VolumeEmbedding:
        values, masks, chosen = self._pair(image, label, classes)
        features = self.model.network.encode_image(values)
        tasks = self.model.network.encode_task(features, masks)[0].float()
        vectors = search_vector(tasks).cpu().numpy()
        objects = tuple(map(ObjectEmbedding, chosen, vectors, tasks.cpu().numpy()))
        return VolumeEmbedding(self._whole(features), objects)

    @torch.no_grad()
    def first_mask(self, target: Volume, example: Example, **options: Any) -> np.ndarray:
        # The kept embeddings say it all: the example's volumes are not needed (section 3.3).
        network = self.model.network
        features = network.encode_image(self._image(target))
        tasks = torch.from_numpy(np.stack(list(example.tasks.values())))[None]
        logits = network.decode(features, tasks.to(self.model.device))
        probability = torch.sigmoid(logits)[0].cpu()
        whole = F.interpolate(
            self._view(target).to_volume_axes(probability)[None],
            size=target.shape,
            mode="trilinear",
        )[0]
        return resolve_labels(whole.numpy(), tuple(example.tasks), 0.5)

    @staticmethod
    def _whole(features: TargetFeatures) -> np.ndarray:
        return _unit(features.bottleneck[0].float().mean(dim=(1, 2, 3)).cpu().numpy())


def _steps(view: View, volume: Volume) -> tuple[float, ...]:
    """Return the millimetres from voxel to voxel along the window's axes."""
    steps = [0.0] * 3
    for axis, (partner, _) in enumerate(view.axes):
        steps[partner] = view.scale[axis] * volume.spacing[axis]
    return tuple(steps)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of a map (1, C, d, h, w)."""
    flat = features[0].float().flatten(1)
    return flat.mean(dim=1), flat.std(dim=1, correction=0)


def _mean_inside(features: Tensor, mask: Tensor) -> Tensor:
    """Mean (C,) of a map (1, C, d, h, w) over a mask (1, 1, D, H, W)."""
    weight = F.adaptive_avg_pool3d(mask, features.shape[-3:])[0]
    total = weight.sum().clamp_min(1e-12)
    return (features[0].float() * weight).sum(dim=(1, 2, 3)) / total


def _direction(vector: Tensor) -> Tensor:
    return F.normalize(vector, dim=0)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
