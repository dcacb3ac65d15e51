"""How Iris gets the task embeddings it segments with: its inference strategies.

Source: Iris, section 3.3 and supplement 7. Every strategy is a small object with one method,
``embeddings(desk)``, that returns one embedding for each class wanted; `base.Strategy` says what
it may ask of the desk. Give one to `predict` or `stream`, or its name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import MedverseError

if TYPE_CHECKING:
    from .averaging import ClassMemory, ContextEnsemble, OneShot
    from .base import Candidate, Chosen, Strategy, search_vector
    from .files import Keep, StoredEmbedding
    from .retrieval import ImageRetrieval, ObjectRetrieval
    from .tuning import InContextTuning

#: what users call each strategy, and what it does
STRATEGIES = {
    "one-shot": "the embedding of one reference",
    "ensemble": "the mean of all references' embeddings",
    "memory": "the weights' memory of classes seen in training",
    "image-retrieval": "the references whose whole image is most like the target",
    "object-retrieval": "for each class the references whose object is most like the target's",
    "tuning": "the mean, then tuned on the references by gradient descent",
    "stored": "embeddings kept in a file",
}
DEFAULT = "ensemble"

_HOMES = {
    "OneShot": "averaging",
    "ContextEnsemble": "averaging",
    "ClassMemory": "averaging",
    "ImageRetrieval": "retrieval",
    "ObjectRetrieval": "retrieval",
    "InContextTuning": "tuning",
    "StoredEmbedding": "files",
    "Keep": "files",
    "Candidate": "base",
    "Chosen": "base",
    "Strategy": "base",
    "search_vector": "base",
}
_NAMED = {
    "one-shot": "OneShot",
    "ensemble": "ContextEnsemble",
    "memory": "ClassMemory",
    "image-retrieval": "ImageRetrieval",
    "object-retrieval": "ObjectRetrieval",
    "tuning": "InContextTuning",
    "stored": "StoredEmbedding",
}

__all__ = [
    "DEFAULT",
    "STRATEGIES",
    "Candidate",
    "Chosen",
    "ClassMemory",
    "ContextEnsemble",
    "ImageRetrieval",
    "InContextTuning",
    "Keep",
    "ObjectRetrieval",
    "OneShot",
    "StoredEmbedding",
    "Strategy",
    "make_strategy",
    "search_vector",
]


def make_strategy(name: str, **options: Any) -> "Strategy":
    """Make a strategy by its name.

    Parameters
    ----------
    name
        A key of `STRATEGIES`.
    **options
        Of the strategy's class.

    Raises
    ------
    MedverseError
        There is no such strategy, or it lacks something.
    """
    if name not in _NAMED:
        raise MedverseError(
            f"there is no strategy {name!r}; the strategies are {', '.join(STRATEGIES)}"
        )
    if name == "memory" and not options.get("names"):
        raise MedverseError("the strategy 'memory' needs the name of a class for each label value")
    if name == "stored" and not options.get("path"):
        raise MedverseError("the strategy 'stored' needs the file that holds the embeddings")
    return getattr(import_module(f"{__name__}.{_HOMES[_NAMED[name]]}"), _NAMED[name])(**options)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
