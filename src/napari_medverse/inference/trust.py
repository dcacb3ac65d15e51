"""How far to follow the network where the aligned label vote is there already.

The network corrects the vote. Thin bone it finds where registration cannot; a faint structure whose
labels came from a registration themselves it may only spoil. Which of the two a class is, the pairs
can tell: each in turn is predicted from the others, in one window, by the network and by the vote,
and the blend of both that fits its label best is used for the target (ours).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .cache import FeatureCache, recalled
from .engine import Engine
from .likeness import local_vote
from .precision import computing
from .sharpness import FEWEST
from .sources import tensor_digest

#: shares of the network's log odds in a blend, the rest being the vote's
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Shares whose Dice is this close to the best one's are as good.
_ALIKE = 0.003
# Pairs that take part, so that the cost does not grow with their number and one more pair changes
# nothing; and how many of them are predicted from the others.
_JUDGED, _FOLDS = 4, 3
_ODDS = (0.02, 0.98)

Crops = Sequence[tuple[Tensor, Tensor]]


def blend(predicted: Tensor, vote: Tensor, share: float) -> Tensor:
    """Mix two maps of probabilities in log odds; `share` of the first, any one shape."""
    if share == 1:
        return predicted
    first, second = (torch.logit(p.float().clamp(*_ODDS)) for p in (predicted, vote))
    return torch.sigmoid(share * first + (1 - share) * second)


def measure(
    engine: Engine,
    crops: Iterable[tuple[Tensor, Tensor]],
    sharpness: float,
    cache: FeatureCache | None = None,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Return the share of the network that serves the pairs of a class best.

    Parameters
    ----------
    engine
        Weights that take a vote as the autoregressive label.
    crops
        Image and soft mask of every pair that holds the class, (d, h, w) float32 each, in one
        window of the target; no more are asked for than are judged.
    sharpness
        How much local differences count in the vote; see `likeness.Likeness.sharpness`.
    cache
        Where the result is kept for the same crops.
    check
        Called before each prediction; raises to cancel.

    Returns
    -------
    float
        One of `SHARES`, or the mean of some that are alike. 1 where there are fewer than three
        pairs or no foreground: a pair cannot be predicted from others, or not judged.
    """
    crops = list(islice((crop for crop in crops if bool((crop[1] >= 0.5).any())), _JUDGED))
    if len(crops) < FEWEST:
        return 1.0
    if cache is None:
        return _judged(engine, crops, sharpness, check)
    digests = tuple((tensor_digest(image), tensor_digest(mask)) for image, mask in crops)
    weights = (engine.fingerprint, engine.precision, str(engine.device))
    key = ("trust", weights, sharpness, digests)
    return recalled(cache, key, lambda: _judged(engine, crops, sharpness, check))


def _judged(engine: Engine, crops: Crops, sharpness: float, check: Callable[[], None]) -> float:
    scores = []
    for number in range(min(_FOLDS, len(crops))):
        check()
        others = [crop for k, crop in enumerate(crops) if k != number]
        image, mask = crops[number]
        images, masks = ([part.numpy() for part in parts] for parts in zip(*others, strict=True))
        vote = torch.from_numpy(local_vote(image.numpy(), images, masks, sharpness)).clamp_(0, 1)
        predicted = _predict(engine, image, others, vote)
        scores.append([_dice(blend(predicted, vote, share), mask) for share in SHARES])
    mean = np.mean(scores, axis=0)
    found = float(np.mean(np.asarray(SHARES)[mean >= mean.max() - _ALIKE]))
    # Three vote better on the target than two do here, so of three pairs half is believed: on four
    # made-up brains 0.003 better in the mean.
    return found / 2 if len(crops) == FEWEST else found


def _predict(engine: Engine, image: Tensor, others: Crops, vote: Tensor) -> Tensor:
    device = torch.device(engine.device)
    parts = zip(*others, strict=True)
    images, masks = (torch.stack(part)[None, :, None].to(device) for part in parts)
    with computing(engine.precision, device):
        target = image[None, None].to(device)
        found = engine.network(
            target, images, masks, target[None], vote[None, None, None].to(device), mini_context=1
        )
    return found[0, 0].float().cpu()


def _dice(found: Tensor, mask: Tensor) -> float:
    found, truth = found >= 0.5, mask >= 0.5
    return 2 * float((found & truth).sum()) / float((found.sum() + truth.sum()).clamp_min(1))
