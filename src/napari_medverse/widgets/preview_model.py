"""What the live preview is asked for and how far it is. Knows nothing of Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from psygnal import SignalGroupDescriptor

from ..inference import request
from .progress import Progress

if TYPE_CHECKING:
    from napari.layers import Image

    from .frames import Picture

# The choice that suits most stands first.
ALIGN, PRIOR = request.ALIGN[::-1], request.PRIOR[::-1]
SHOW = ("labels", "probability")
NO_MODEL = ""
#: of Iris weights, with what people call it
STRATEGIES = {
    "ensemble": "mean of all pairs",
    "one-shot": "first pair only",
    "image-retrieval": "most alike images",
    "object-retrieval": "most alike objects",
    "tuning": "tuned on the pairs",
    "memory": "memory of training",
    "stored": "kept in a file",
}
#: these bring their own embeddings and need no pairs
PAIRLESS = ("memory", "stored")

#: changes of these ask for another prediction
ASKING = (
    *("target", "model", "levels", "align", "prior", "mini_context"),
    *("strategy", "best", "strategy_source"),
)


@dataclass(frozen=True, eq=False)
class Result:
    """A final preview that may be accepted, and where it came from."""

    picture: Picture
    target: Image
    details: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """Return the provenance, with the threshold as it was set last."""
        return {**self.details, "threshold": round(self.picture.threshold, 4)}

    def with_picture(self, picture: Picture) -> Result:
        return replace(self, picture=picture)


@dataclass(eq=False)
class PreviewModel(Progress):
    """Settings and state of one viewer's preview; every field has an event.

    Attributes
    ----------
    target
        The image layer to predict.
    model
        Name of the weights.
    live
        Predict again after every change.
    debounce
        Milliseconds without a change before a prediction starts.
    levels
        Autoregressive levels; 0 leaves the number to the engine.
    strategy
        How Iris weights get their task embeddings, a key of `STRATEGIES`.
    best
        How many references a retrieval averages.
    strategy_source
        What "memory" and "stored" take: classes by name, "1=head/skull"; or a file.
    threshold
        Probability from which a voxel counts as labelled.
    view_first
        Compute the windows that meet the slice in view first.
    show
        "labels" or "probability".
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    target: Image | None = None
    model: str = NO_MODEL
    live: bool = False
    debounce: int = 300
    levels: int = 0
    threshold: float = 0.5
    align: str = "auto"
    prior: str = "auto"
    mini_context: int = 1
    strategy: str = "ensemble"
    best: int = 1
    strategy_source: str = ""
    view_first: bool = True
    show: str = "labels"
    ready: Result | None = field(default=None, repr=False)

    @property
    def can_accept(self) -> bool:
        """Whether the preview on screen is final and of the present settings."""
        return self.ready is not None and self.state == "done"

    def begin(self, run_id: int, line: str = "starting") -> None:
        """Note that a run was asked for; what was ready is no longer."""
        self.ready = None
        super().begin(run_id, line)

    def finish(self, result: Result) -> None:
        """Note that the final frame is there."""
        self.fraction = 1.0
        self.ready = result
        self.state = "done"

    def rest(self, line: str = "") -> None:
        """Note that nothing runs and nothing is ready."""
        self.ready = None
        super().rest(line)
