"""Small classifiers of voxels, learnt from the pairs of one request in seconds."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ._appearance_maps import Map

#: voxels drawn from each structure of a pair, from around all, and from elsewhere; fewer of each
#: pair where there are more than four
DRAWN = 6000
#: optimiser steps
STEPS = 900
# Voxels this near to a structure count as around it.
_AROUND = 2

# The most parts that pairs are divided into.
_MOST_PARTS = 4
_HIDDEN = 64
_BATCH = 512
_RATE = 1e-2
_DECAY = 0.05
_BETAS = (0.9, 0.999)
# Part of the steps during which the learning rate rises.
_RISE = 0.3
# Added to features, which have a standard deviation of 1, so that no one of them decides alone.
_NOISE = 0.4
_FARTHEST = 5.0
_ROWS, _PIECE = 8, 1 << 14
_SEED = 7


def draw(
    masks: np.ndarray, seen: np.ndarray, seed: int, most: int = DRAWN
) -> tuple[np.ndarray, np.ndarray]:
    """Draw voxels to learn from.

    Parameters
    ----------
    masks
        (C, d, h, w) uint8, soft masks of up to 255.
    seen
        (d, h, w) bool, where the pair shows anything.
    seed
        Another one for each pair.
    most
        Voxels of each kind.

    Returns
    -------
    ndarray (n,) int, ndarray (n,) float32
        Flat indices, and how many voxels each stands for.
    """
    rng = np.random.default_rng([_SEED, seed])
    kinds = np.where(masks.max(axis=0) >= 128, masks.argmax(axis=0) + 1, 0)
    inside = kinds > 0
    kinds[ndimage.binary_dilation(inside, iterations=_AROUND) & ~inside] = -1
    kinds[~seen] = -2
    kinds = kinds.ravel()
    chosen, weights = [], []
    for kind in np.unique(kinds[kinds > -2]):
        where = np.flatnonzero(kinds == kind)
        number = min(len(where), most)
        chosen.append(rng.choice(where, number, replace=False))
        weights.append(np.full(number, len(where) / number, np.float32))
    return np.concatenate(chosen), np.concatenate(weights)


def learners_of(pairs: int) -> list[list[int]]:
    """Return the pairs that each classifier learns from: all but one part of them, the last all."""
    parts = parts_of(pairs)
    but_one = [[k for k in range(pairs) if k % parts != part] for part in range(parts)]
    return [*but_one, list(range(pairs))]


def parts_of(pairs: int) -> int:
    """Return into how many parts pairs are divided; pair k is in part k modulo that."""
    return min(pairs, _MOST_PARTS)


@dataclass(frozen=True, eq=False, slots=True)
class Classifiers:
    """Several perceptrons with two hidden layers, learnt side by side.

    One yes or no for every structure, so that a pair need not hold them all. Their probabilities
    are those of the whole scans, not of the voxels drawn.

    Attributes
    ----------
    mean, spread
        (features,) float32: how features are scaled.
    layers
        Weights and biases in turn, each with a first axis of classifiers.
    """

    mean: Tensor
    spread: Tensor
    layers: list[Tensor]

    @classmethod
    def learn(
        cls,
        features: Sequence[np.ndarray],
        answers: Sequence[np.ndarray],
        weights: Sequence[np.ndarray],
        learners: Sequence[Sequence[int]],
        check: Callable[[], None],
    ) -> Self:
        """Learn from pairs.

        Parameters
        ----------
        features, answers, weights
            Of every pair: (n, features) float32, (n, C) float32 in 0..1 and NaN where the pair does
            not know the structure, (n,) float32.
        learners
            For each classifier the pairs it learns from, by number.
        check
            Called now and then; raises to cancel.
        """
        # A caller may predict without recording gradients; learning needs them.
        with torch.inference_mode(False), torch.enable_grad():
            x, y, w = (
                torch.from_numpy(np.concatenate(parts)) for parts in (features, answers, weights)
            )
            ends = np.cumsum([0, *(len(part) for part in features)])
            own = [
                torch.cat([torch.arange(ends[k], ends[k + 1]) for k in pairs]) for pairs in learners
            ]
            random = torch.Generator().manual_seed(_SEED)
            layers = _fresh_layers(len(own), (x.shape[1], y.shape[1]), random)
            found = cls(x.mean(dim=0), x.std(dim=0) + 1e-6, layers)
            # In place: of many pairs the features take tens of megabytes.
            found._learn(found._scale(x), y, w[:, None], own, random, check)
        return found

    @property
    def inputs(self) -> int:
        """Number of features."""
        return len(self.mean)

    def _learn(
        self,
        x: Tensor,
        y: Tensor,
        w: Tensor,
        own: Sequence[Tensor],
        random: torch.Generator,
        check: Callable[[], None],
    ) -> None:
        w = w * ~y.isnan()
        y = y.nan_to_num()
        # A rare structure is learnt as soon as a common one.
        share = torch.stack([(w[rows] * y[rows]).mean(dim=0) for rows in own]).clamp_min(1e-6)
        optimizer = _Adam(self.layers)
        for step in range(STEPS):
            if step % 50 == 0:
                check()
            rows = torch.stack(
                [part[torch.randint(len(part), (_BATCH,), generator=random)] for part in own]
            )
            noisy = x[rows]
            noisy = noisy + _NOISE * torch.randn(noisy.shape, generator=random)
            odds = _logits(self.layers, noisy)
            loss = F.binary_cross_entropy_with_logits(odds, y[rows], reduction="none")
            loss = (w[rows] * loss).mean(dim=1) / share
            slopes = torch.autograd.grad(loss.mean(dim=1).sum(), self.layers)
            optimizer.step(slopes, _rate(step / STEPS))

    @torch.no_grad()
    def logits_of(self, features: np.ndarray, number: int) -> np.ndarray:
        """Return the log odds of voxels by one of the classifiers, (n, C) float32."""
        x = self._scale(torch.from_numpy(features.copy()))
        return _logits([layer[number : number + 1] for layer in self.layers], x[None])[0].numpy()

    @torch.no_grad()
    def logits(self, maps: Sequence[Map], numbers: Sequence[int]) -> np.ndarray:
        """Return the log odds of every structure, (C, d, h, w) float32.

        Parameters
        ----------
        maps
            Those that the features were taken from, in the same order.
        numbers
            Of the classifiers whose mean is returned.
        """
        layers = [layer[list(numbers)] for layer in self.layers]
        shape = maps[0].shape
        found = np.empty((layers[-1].shape[-1], *shape), np.float32)
        for row in range(0, shape[0], _ROWS):
            last = min(row + _ROWS, shape[0])
            x = torch.empty(len(maps), (last - row) * shape[1] * shape[2])
            for one, each in zip(x, maps, strict=True):
                one[:] = torch.from_numpy(each.rows(row, last).reshape(-1))
            # In pieces: the hidden layers of all classifiers are larger than the maps.
            mean = [
                _logits(layers, self._scale(part.T).expand(len(layers[0]), -1, -1)).mean(dim=0)
                for part in x.split(_PIECE, dim=1)
            ]
            found[:, row:last] = torch.cat(mean).T.reshape(-1, last - row, *shape[1:]).numpy()
        return found

    def _scale(self, x: Tensor) -> Tensor:
        """Scale features in place."""
        return x.sub_(self.mean).div_(self.spread).clamp_(-_FARTHEST, _FARTHEST)


def _fresh_layers(count: int, ends: tuple[int, int], random: torch.Generator) -> list[Tensor]:
    """Return weights and biases of `count` perceptrons in turn, all alike."""
    sides = (ends[0], _HIDDEN, _HIDDEN, ends[1])
    layers = []
    for inputs, outputs in itertools.pairwise(sides):
        first = torch.randn(1, inputs, outputs, generator=random) * inputs**-0.5
        layers += [first.repeat(count, 1, 1), torch.zeros(count, 1, outputs)]
    return [layer.requires_grad_() for layer in layers]


class _Adam:
    """AdamW (Loshchilov and Hutter 2019).

    torch's own brings its compiler with it, which takes a second and 70 MB in a process that only
    predicts.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._means, self._squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        self._count = 0

    @torch.no_grad()
    def step(self, slopes: Sequence[Tensor], rate: float) -> None:
        self._count += 1
        first, second = (1 - beta**self._count for beta in _BETAS)
        for parameter, slope, mean, square in zip(
            self._parameters, slopes, self._means, self._squares, strict=True
        ):
            mean.lerp_(slope, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(slope, slope, value=1 - _BETAS[1])
            parameter.mul_(1 - rate * _DECAY)
            parameter.addcdiv_(mean / first, (square / second).sqrt_().add_(1e-8), value=-rate)


def _rate(share: float) -> float:
    """Return the learning rate at a share of the steps: up for a third, then down, by cosines."""
    if share < _RISE:
        return _RATE * 0.5 * (1 - np.cos(np.pi * (share / _RISE * 0.9 + 0.1)))
    return _RATE * 0.5 * (1 + np.cos(np.pi * (share - _RISE) / (1 - _RISE)))


def _logits(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    """Run the classifiers side by side, (classifiers, n, features) to (classifiers, n, C)."""
    *hidden, last, bias = layers
    for weight, shift in zip(hidden[::2], hidden[1::2], strict=True):
        x = F.gelu(torch.baddbmm(shift, x, weight), approximate="tanh")
    return torch.baddbmm(bias, x, last)
