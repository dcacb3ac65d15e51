"""From a new scan to the best references for each of its structures.

Object-level retrieval of the Iris paper (section 3.3): a first reference gives an initial mask,
each class of it is embedded on its own, and the bank's objects of that class are ranked by cosine.
The hits serve any in-context network as its context.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, FeatureCache, Volume
from .entry import Entry, Hit
from .sources import Verdict, case_of, image_key, read_source, verify_entry

if TYPE_CHECKING:
    from ..inference.strategies import Candidate
    from .embedding import Embedder
    from .store import Bank

Progress = Callable[[int, int, str], None]

#: nearest cases that are tried as first reference, and hits beyond those wanted, should files be
#: missing
SPARE = 8


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What a bank has for one target.

    Attributes
    ----------
    hits
        Class to its hits, best first; a class that the first mask does not hold is absent.
    mask
        The labels that were searched with, integers on the target's grid.
    reference
        The entry of the first reference; None where the mask was given.
    problems
        What kept nearer references from being used, in words.
    """

    hits: dict[int, list[Hit]]
    mask: np.ndarray
    reference: Entry | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Picked:
    """Cases that serve as context: an entry of each, and the classes it was retrieved for."""

    entries: list[Entry]
    classes: list[set[int]]
    problems: list[str]


@dataclass(frozen=True, eq=False)
class Loaded:
    """Context pairs, an entry of each one's case, and what could not be used."""

    pairs: list[ContextPair]
    entries: list[Entry]
    problems: list[str]


def retrieve(
    bank: Bank,
    embedder: Embedder,
    target: Volume,
    k: int = 10,
    *,
    label: np.ndarray | Volume | None = None,
    names: Mapping[int, str] | None = None,
    classes: Iterable[int] | None = None,
    exclude_self: bool = True,
    among: Collection[str] | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
) -> Retrieval:
    """Find the objects most like those of a target, class by class.

    Parameters
    ----------
    target
        The new scan.
    k
        Hits a class.
    label
        (D, H, W) initial mask, if there is one; otherwise the nearest case of the bank serves as
        first reference.
    names
        Class names: objects of another name are left out (see `Bank.search`).
    classes
        Only these label values.
    exclude_self
        Leave out cases whose image is the target itself.
    among
        Image keys to which hits are limited; the first reference is not.
    cancel, progress, cache
        As `predict` takes them. With the same cache a prediction need not register the first
        reference again.

    Raises
    ------
    MedverseError
        The bank is empty or of another model, or no first reference can be read or finds anything.
    Cancelled
        The token was set.
    """
    bank.check(embedder.space)
    tell = progress or (lambda *_: None)
    cancel = cancel or CancelToken()
    without = [image_key(target)] if exclude_self else []
    reference, problems = None, ()
    names = dict(names or {})
    if label is None:
        tell(0, 1, "looking for a first reference")
        label, reference, names, problems = _first_mask(
            bank, embedder, target, without, names, classes, cancel, progress, cache
        )
    mask = label if isinstance(label, Volume) else Volume(np.asarray(label), target.affine)
    pair = ContextPair(target, mask, target.name, task="labels")
    wanted = pair.classes if classes is None else tuple(c for c in classes if c in pair.classes)
    if not wanted:
        raise MedverseError(
            f"{target.label}: the initial mask holds none of the classes; give one with a label"
        )
    cancel.check()
    tell(0, 1, "embedding the target's objects")
    embedded = embedder.embed(pair.image, pair.label, wanted)
    hits = {}
    for found in embedded.objects:
        cancel.check()
        hits[found.class_id] = bank.search(
            found.vector,
            k,
            class_id=found.class_id,
            class_name=names.get(found.class_id, ""),
            without=without,
            among=among,
        )
    return Retrieval(hits, pair.label.data, reference, problems)


def pick(
    bank: Bank, hits: Mapping[int, list[Hit]], k: int, cancel: CancelToken | None = None
) -> Picked:
    """Choose the best k hits of every class whose sources are what was embedded, each case once.

    Where a source is gone or has changed, the next hit takes its place and the message is kept.
    No volume is read unless its file was touched.

    Raises
    ------
    MedverseError
        Not one source can be used.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    chosen: dict[tuple[str, str], set[int]] = {}
    for value, ranked in hits.items():
        taken = 0
        for hit in ranked:
            if taken == k:
                break
            if cancel is not None:
                cancel.check()
            key = (hit.entry.image_key, hit.entry.label_key)
            if key not in verdicts:
                verdicts[key] = verify_entry(bank, hit.entry)
            if verdicts[key].state == "ok":
                chosen.setdefault(key, set()).add(value)
                taken += 1
    problems = [verdict.message for verdict in verdicts.values() if verdict.message]
    if not chosen:
        raise MedverseError(
            problems[0] if problems else f"the bank '{bank.uri}' has nothing for these classes"
        )
    return Picked([verdicts[key].entry for key in chosen], [*chosen.values()], problems)


def load_pairs(
    bank: Bank, hits: Mapping[int, list[Hit]], k: int, cancel: CancelToken | None = None
) -> Loaded:
    """Read the source volumes of what `pick` chooses.

    A pair holds the classes it was retrieved for; its other labels are left out, since the engine
    takes a pair only for the classes it holds.

    Raises
    ------
    MedverseError
        Not one source can be used, or a file cannot be read.
    """
    picked = pick(bank, hits, k, cancel)
    pairs = []
    for entry, classes in zip(picked.entries, picked.classes, strict=True):
        if cancel is not None:
            cancel.check()
        pairs.append(_only(case_of(bank, entry).read(), classes))
    return Loaded(pairs, picked.entries, picked.problems)


def retrieve_pairs(
    bank: Bank, embedder: Embedder, target: Volume, k: int = 4, **options
) -> list[ContextPair]:
    """Return the context pairs that a bank offers for a target: the best k for each class.

    To be given to `predict(model, target, pairs)`, whatever the model: it need not be the bank's.

    Parameters
    ----------
    **options
        See `retrieve`.

    Raises
    ------
    MedverseError
        See `retrieve` and `load_pairs`.
    """
    found = retrieve(bank, embedder, target, k + SPARE, **options)
    return load_pairs(bank, found.hits, k, options.get("cancel")).pairs


def candidates_of(bank: Bank, hits: Mapping[int, list[Hit]]) -> list[Candidate]:
    """Return hits as candidates for Iris's `ObjectRetrieval`: kept embeddings, no volume read.

    Only for a bank that was made with the Iris weights that predict.
    """
    import torch

    from ..inference.strategies import Candidate

    ranked = [hit.entry for found in hits.values() for hit in found]
    if not ranked:
        return []
    tasks = bank.tasks([entry.id for entry in ranked])
    return [
        Candidate(entry.case, entry.image_key, entry.class_id, torch.from_numpy(task))
        for entry, task in zip(ranked, tasks, strict=True)
    ]


def _first_mask(
    bank: Bank,
    embedder: Embedder,
    target: Volume,
    without: list[str],
    names: dict[int, str],
    classes: Iterable[int] | None,
    cancel: CancelToken,
    progress: Progress | None,
    cache: FeatureCache | None,
) -> tuple[np.ndarray, Entry, dict[int, str], tuple[str, ...]]:
    from .embedding import Example

    near = bank.search_images(embedder.embed_image(target), SPARE, without)
    if not near:
        raise MedverseError(f"the bank '{bank.uri}' has no case to start from; add some")
    problems: list[str] = []
    for hit in near:
        cancel.check()
        objects = bank.objects_of(hit.entry)
        if classes is not None:
            objects = [o for o in objects if o.class_id in classes]
        if not objects:
            continue
        found = bank.tasks([o.id for o in objects])
        tasks = {o.class_id: task for o, task in zip(objects, found, strict=True)}
        example = Example(partial(read_source, bank, hit.entry), tasks)
        try:
            mask = embedder.first_mask(
                target, example, cancel=cancel, progress=progress, cache=cache
            )
        except MedverseError as error:
            problems.append(str(error))
            continue
        if mask.any():
            return mask, hit.entry, _names(objects) | names, tuple(problems)
        problems.append(f"nothing like '{hit.entry.case}' was found in {target.label}")
    raise MedverseError(
        f"{target.label}: no case of the bank gives an initial mask ({problems[0]}); "
        "give a label to start from"
        if problems
        else f"{target.label}: no case of the bank holds these classes"
    )


def _names(objects: list[Entry]) -> dict[int, str]:
    return {entry.class_id: entry.class_name for entry in objects}


def _only(pair: ContextPair, classes: set[int]) -> ContextPair:
    if classes >= set(pair.classes):
        return pair
    data = np.where(np.isin(pair.label.data, list(classes)), pair.label.data, 0)
    label = Volume(data.astype(pair.label.data.dtype), pair.image.affine, pair.label.name)
    return ContextPair(pair.image, label, pair.name, task="labels")
