"""A request answered by Iris: embeddings by a strategy, then all classes in one pass."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import MedverseError
from . import strategies
from .cache import FeatureCache, kept, nbytes_of
from .cancel import CancelToken
from .context import ContextPair
from .engine import Engine
from .frames import Frame
from .placing import intensity
from .precision import computing
from .request import Request
from .strategies.base import Candidate, Chosen
from .view import View, view_of
from .volume import Volume

Progress = Callable[[int, int, str], None]


def stream_iris(
    model,
    request: Request,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
) -> Iterator[Frame]:
    """Run a request with Iris weights; one frame, the final one.

    The whole target is seen at once, at the size of the weights' patch, and so is every
    reference, on its own grid: that is what makes an embedding good for any target.

    Raises
    ------
    MedverseError
        At the call, where the request asks for what Iris does not do.
    Cancelled
        From the iterator, once the token is set.
    """
    if request.task != "labels":
        raise MedverseError(
            f"'{model.name}' holds Iris weights, which segment; use Medverse weights for "
            "image-to-image pairs"
        )
    if request.align not in ("auto", "none"):
        raise MedverseError(
            f"'{model.name}' holds Iris weights, which encode every reference on its own grid; "
            "use align='auto' or 'none'"
        )
    if request.prior == "vote":
        raise MedverseError(
            f"'{model.name}' holds Iris weights, which take no prior; use prior='auto'"
        )
    strategy = request.strategy or strategies.DEFAULT
    if isinstance(strategy, str):
        strategy = strategies.make_strategy(strategy)
    return _frames(model, request, strategy, cancel, progress, cache)


def _frames(model, request: Request, strategy, cancel, progress, cache) -> Iterator[Frame]:
    begun = time.perf_counter()
    if cache is not None:
        cache.begin_run()
    desk = IrisDesk.of(model, request, cancel, progress, cache)
    desk.check()
    chosen = strategy.embeddings(desk)
    desk.check()
    desk.say(0, 1, "segmenting")
    probability = torch.sigmoid(desk.decode(desk.query, chosen.embeddings).float()).cpu()
    view = desk.view(request.target)
    values = view.to_volume_axes(probability).contiguous().numpy()
    values.flags.writeable = False
    seconds = time.perf_counter() - begun
    count = len(request.pairs)
    message = f"{strategy.name}, {count} pair{'s' * (count != 1)}, {seconds:.1f} s"
    desk.say(1, 1, message)
    yield Frame(
        level=1,
        levels=1,
        windows_done=1,
        windows=1,
        values=values,
        scale=view.scale,
        offset=view.offset,
        final=True,
        classes=request.classes,
        seconds=seconds,
        message=message,
        run_id=request.run_id,
        details=_details(desk, strategy, chosen),
    )


def _details(desk: "IrisDesk", strategy, chosen: Chosen) -> dict:
    pairs = [
        {"name": pair.name, "method": "none", "similarity": None, "message": ""}
        for pair in desk.pairs
    ]
    references = {
        str(value): [[name, score] for name, score in used]
        for value, used in zip(desk.classes, chosen.references, strict=True)
    }
    told = {"name": strategy.name, "references": references}
    if chosen.losses:
        told["losses"] = [chosen.losses[0], chosen.losses[-1]]
    return {"precision": desk.engine.precision, "pairs": pairs, "strategy": told}


@dataclass(eq=False, slots=True)
class IrisDesk:
    """A target, its references and the network; see `strategies.base.Desk`."""

    model: object
    engine: Engine
    target: Volume
    pairs: tuple[ContextPair, ...]
    classes: tuple[int, ...]
    cancel: CancelToken | None = None
    progress: Progress | None = None
    cache: FeatureCache | None = None
    _query: object = field(default=None, init=False)
    _candidates: list[Candidate] | None = field(default=None, init=False)

    @classmethod
    def of(cls, model, request: Request, cancel=None, progress=None, cache=None) -> "IrisDesk":
        """Set the desk for a request."""
        engine = Engine.of(model)
        return cls(
            model, engine, request.target, request.pairs, request.classes, cancel, progress, cache
        )

    @property
    def query(self):
        """The target's features."""
        if self._query is None:
            self._query = self._features(self.target)
        return self._query

    def view(self, volume: Volume) -> View:
        """Return the window that shows a volume."""
        return view_of(volume, max(self.engine.config.patch), self.engine.network.divisor)

    def candidates(self) -> list[Candidate]:
        if self._candidates is None:
            found = []
            for number, pair in enumerate(self.pairs):
                self.check()
                self.say(number, len(self.pairs), f"encoding pair {number + 1}")
                found += self._candidates_of(number, pair)
            self._candidates = found
        return self._candidates

    def example(self, pair: ContextPair) -> tuple[object, Tensor, list[int]]:
        positions = [k for k, value in enumerate(self.classes) if value in pair.classes]
        features = self._features(pair.image)
        return features, self._masks(pair, [self.classes[k] for k in positions]), positions

    def decode(self, features, embeddings: Tensor) -> Tensor:
        # The networks' fastest forms record no gradients; only tuning wants some.
        with torch.set_grad_enabled(embeddings.requires_grad), self._computing():
            batch = embeddings.to(self.engine.device)[None]
            return self.engine.network.decode(features, batch)[0]

    def encode(self, features, masks: Tensor) -> Tensor:
        with torch.no_grad(), self._computing():
            return self.engine.network.encode_task(features, masks.to(self.engine.device))[0]

    def image_vector(self, features) -> Tensor:
        return features.bottleneck[0].float().mean(dim=(1, 2, 3))

    def check(self) -> None:
        if self.cancel is not None:
            self.cancel.check()

    def say(self, done: int, steps: int, text: str) -> None:
        if self.progress is not None:
            self.progress(done, steps, text)

    def _candidates_of(self, number: int, pair: ContextPair) -> list[Candidate]:
        """Return a pair's candidates, encoded once and for all targets."""
        held = [value for value in self.classes if value in pair.classes]
        if not held:
            return []
        key = ("task embeddings", *self._identity(pair.image), pair.label.key, tuple(held))

        def make() -> tuple[Tensor, Tensor]:
            features = self._features(pair.image)
            return self.encode(features, self._masks(pair, held)), self.image_vector(features)

        rank = (0, 0, number)
        embeddings, vector = kept(self.cache, key, "task embeddings", rank, make, nbytes_of)
        name = pair.name or f"pair {number + 1}"
        return [
            Candidate(name, number, value, embedding, vector)
            for value, embedding in zip(held, embeddings, strict=True)
        ]

    def _features(self, volume: Volume):
        key = ("image features", *self._identity(volume))

        def make():
            self.check()
            scaling = intensity(volume, self.engine.config, self.cache)
            image = self.view(volume).read_image(volume, scaling).to(self.engine.device)
            with torch.no_grad(), self._computing():
                return self.engine.network.encode_image(image)

        return kept(self.cache, key, "image features", (1, 0, 0), make)

    def _masks(self, pair: ContextPair, values: list[int]) -> Tensor:
        return self.view(pair.image).read_masks(pair.label, values).to(self.engine.device)

    def _identity(self, volume: Volume) -> tuple:
        """What determines an image's features: weights, arithmetic, voxels and view."""
        engine = self.engine
        weights = (engine.fingerprint, engine.precision, engine.device)
        return weights, volume.key, self.view(volume).to_source.tobytes()

    @contextlib.contextmanager
    def _computing(self):
        """The engine's arithmetic, but not its inference mode: tuning needs gradients."""
        with computing(self.engine.precision, self.engine.device, gradients=True):
            yield
