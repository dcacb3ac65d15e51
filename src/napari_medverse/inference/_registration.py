"""Rigid and affine registration of two scans that may lie at any angle.

1. Many rotations about the centres of mass are scored on a few thousand points of a coarse
   level: the 24 axis-aligned ones and turns of 25 and 45 degrees from each.
2. The best, far enough from one another, are refined as rigid motions on that level.
3. The best of these are refined on a middle level, then as affine maps there and on a fine one.
4. The placement as the scans lie is refined beside them. Many a brain looks nearly the same upside
   down, so a turn is taken only where it is clearly better than no turn.

Everything runs on one thread with fixed seeds: the same input gives the same matrix.
Matrices map target world to moving world.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..errors import Cancelled
from ._registration_scan import RegistrationFailure, Scan, itk_affine, itk_image, matrix_of
from ._registration_similarity import BINS, MIDDLE, Metric, Samples, score_by
from .grid import axis_rotations

Check = Callable[[], None]

# Voxels along the longest side of the target's foreground, on each level.
COARSE, FINE = 16, 64
_TURNS = (25.0, 45.0)
_POINTS = 4000
_APART = 25.0
_KEEP_COARSE, _KEEP_MIDDLE = 6, 2
_REACH = 2.2
_FINE_SHARE = 0.2
_SEED = 42
# A scan is never this much larger or smaller than its neighbour; such a map is a failure.
_STRETCH = 2.5
_LEAST_OVERLAP = 0.2
# A turned placement must leave at most this part of the dissimilarity of the unturned one.
_TURNED = 0.8
# It is beyond doubt, and the unturned one not refined to the end, below this part.
_CLEARLY_TURNED = 0.5
# Turns less far apart than this, in degrees, lead to the same place.
_SAME = 10.0


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map and how alike it makes the scans."""

    kind: str
    matrix: np.ndarray
    similarity: float
    metric: Metric


def register_linear(
    target: Scan, moving: Scan, plain: np.ndarray, *, affine: bool, metric: Metric, check: Check
) -> Linear:
    """Find the rigid or affine map under which the moving scan resembles the target most.

    Parameters
    ----------
    target, moving
        The scans.
    plain
        Target world to moving world of the scans as they lie.
    affine
        Also stretch and shear; the rigid map is kept where that does not gain.
    metric
        What "resembles" means.
    check
        Called between steps and in every optimiser iteration; may raise `Cancelled`.

    Raises
    ------
    RegistrationFailure
        No starting rotation could be refined, or the result is no plausible placement.
    Cancelled
        Raised by `check`.
    """
    coarse, middle, fine = (target.extent / n for n in (COARSE, MIDDLE, FINE))
    starts = best_rotations(target, moving, coarse, metric, check)
    pair = _images(target, moving, coarse)
    found = _refined(starts, pair, 25, coarse, metric, check)
    unturned = _refined([_unturned(target, moving, plain)], pair, 25, coarse, metric, check)
    pair = _images(target, moving, middle)
    found = _refined(found[:_KEEP_MIDDLE], pair, 30, middle, metric, check)[:1]
    unturned = _refined(unturned, pair, 30, middle, metric, check)
    if not found + unturned:
        raise RegistrationFailure("no starting position overlaps enough to be refined")
    samples = Samples(target, moving)
    placements = [matrix_of(transform) for transform in found + unturned]
    if len(placements) == 2 and _is_settled(*placements, samples, metric):
        placements = placements[:1]
    results = []
    fine_pair = _images(target, moving, fine) if affine else pair
    for matrix in placements:
        candidates = [("rigid", matrix)]
        if affine:
            stretched = itk_affine(matrix, target.centre)
            _optimise(stretched, pair, 60, middle / 2, 0.01, metric, check)
            _optimise(stretched, fine_pair, 30, fine / 2, 0.01, metric, check, share=_FINE_SHARE)
            candidates.append(("affine", matrix_of(stretched)))
        results.append(_best(candidates, samples, metric))
    turned, *others = results
    return turned if all(_is_better(turned, other, _TURNED) for other in others) else others[0]


def _unturned(target: Scan, moving: Scan, plain: np.ndarray) -> sitk.VersorRigid3DTransform:
    """Return the rigid start nearest to the placement as the scans lie."""
    left, _, right = np.linalg.svd(plain[:3, :3])
    rotation = left @ right
    # A mirrored grid cannot be placed unturned; which start it gets then matters little.
    if np.linalg.det(rotation) < 0:
        rotation = np.eye(3)
    return _rigid(rotation, target.centre, moving.centre)


def _is_settled(turned: np.ndarray, unturned: np.ndarray, samples: Samples, metric: Metric) -> bool:
    """Tell whether the unturned placement need not be refined: it is the same, or far worse."""
    angle = np.trace(turned[:3, :3] @ unturned[:3, :3].T)
    if angle > 1 + 2 * np.cos(np.deg2rad(_SAME)):
        return True
    apart = [1 - samples.compare(matrix, metric)[0] for matrix in (turned, unturned)]
    return apart[0] < _CLEARLY_TURNED * apart[1]


def _is_better(one: Linear, other: Linear, part: float) -> bool:
    """Tell whether one leaves at most a part of the other's dissimilarity."""
    return 1 - one.similarity < part * (1 - other.similarity)


def _best(candidates: list[tuple[str, np.ndarray]], samples: Samples, metric: Metric) -> Linear:
    plausible = [(kind, matrix) for kind, matrix in candidates if is_plausible(matrix)]
    if not plausible:
        raise RegistrationFailure("the best match found would mirror or distort the scan")
    compared = [samples.compare(matrix, metric) for _, matrix in plausible]
    chosen = max(range(len(plausible)), key=lambda number: compared[number][0])
    if compared[chosen][1] < _LEAST_OVERLAP:
        raise RegistrationFailure("the scans hardly overlap at the best match found")
    return Linear(*plausible[chosen], compared[chosen][0], metric)


def best_rotations(
    target: Scan, moving: Scan, spacing: float, metric: Metric, check: Check
) -> list[sitk.VersorRigid3DTransform]:
    """Score all starting rotations and return the best that are far from one another."""
    fixed, place = target.foreground(spacing)
    fixed = ndimage.gaussian_filter(fixed, 1.0)
    world = np.indices(fixed.shape).reshape(3, -1).T @ place[:3, :3].T + place[:3, 3]
    offsets = world - target.centre
    chosen = np.flatnonzero(np.linalg.norm(offsets, axis=1) < _REACH * target.radius)
    if len(chosen) > _POINTS:
        chosen = np.random.default_rng(_SEED).choice(chosen, _POINTS, replace=False)
    values, offsets = fixed.ravel()[chosen], offsets[chosen].T

    image, place = moving.level(spacing)
    image = ndimage.gaussian_filter(image, 1.0)
    to_index = np.linalg.inv(place)
    middle = to_index[:3, :3] @ moving.centre + to_index[:3, 3]
    score = score_by(metric)
    scores = []
    for number, rotation in enumerate(_rotations()):
        if number % 32 == 0:
            check()
        index = (to_index[:3, :3] @ rotation) @ offsets + middle[:, None]
        scores.append(score(values, ndimage.map_coordinates(image, index, order=1)))
    return [
        _rigid(_rotations()[number], target.centre, moving.centre)
        for number in _spread(np.asarray(scores))
    ]


def _spread(scores: np.ndarray) -> list[int]:
    kept: list[int] = []
    nearest = 1 + 2 * np.cos(np.deg2rad(_APART))
    rotations = _rotations()
    for number in np.argsort(-scores, kind="stable"):
        rotation = rotations[number]
        if all(np.sum(rotation * rotations[other]) < nearest for other in kept):
            kept.append(int(number))
        if len(kept) == _KEEP_COARSE:
            break
    return kept


@cache
def _rotations() -> tuple[np.ndarray, ...]:
    around = [np.eye(3)]
    for axis in itertools.product((-1, 0, 1), repeat=3):
        if any(axis):
            unit = np.asarray(axis) / np.linalg.norm(axis)
            around += [Rotation.from_rotvec(np.deg2rad(t) * unit).as_matrix() for t in _TURNS]
    return tuple(base @ small for base in axis_rotations() for small in around)


def _rigid(
    rotation: np.ndarray, centre: np.ndarray, goal: np.ndarray
) -> sitk.VersorRigid3DTransform:
    transform = sitk.VersorRigid3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(rotation.ravel().tolist(), 1e-6)
    transform.SetTranslation((goal - centre).tolist())
    return transform


def _images(target: Scan, moving: Scan, spacing: float) -> tuple[sitk.Image, sitk.Image]:
    return itk_image(*target.foreground(spacing)), itk_image(*moving.level(spacing))


def _refined(
    transforms: list[sitk.VersorRigid3DTransform],
    pair: tuple[sitk.Image, sitk.Image],
    iterations: int,
    step: float,
    metric: Metric,
    check: Check,
) -> list[sitk.VersorRigid3DTransform]:
    """Refine each transform in place; return those that worked, best first."""
    scored = []
    for transform in transforms:
        value = _optimise(transform, pair, iterations, step, 0.02, metric, check)
        if value is not None:
            scored.append((value, transform))
    return [transform for _, transform in sorted(scored, key=lambda item: item[0])]


def _optimise(
    transform: sitk.Transform,
    pair: tuple[sitk.Image, sitk.Image],
    iterations: int,
    step: float,
    least: float,
    metric: Metric,
    check: Check,
    share: float = 1.0,
) -> float | None:
    """Optimise a transform in place; return the metric (less is better), None if it failed."""
    check()
    method = sitk.ImageRegistrationMethod()
    # Sums over threads differ in their last digits with the number of threads.
    method.SetNumberOfThreads(1)
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(BINS)
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, _SEED)
        # Slopes are taken at the samples instead of from smoothed images: votes of affine pairs
        # gained 0.04 Dice in a made-up brain and 0.01 in the bone of a head.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, least * step, iterations, 0.6, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, True)
    stopped = stop_on_cancel(method, check, method.StopRegistration)
    try:
        method.Execute(*pair)
        value = method.GetMetricValue()
    except RuntimeError:
        # No overlap or a flat neighbourhood: this start is lost, others may do.
        value = None
    if stopped:
        raise stopped[0]
    return value


def stop_on_cancel(
    process: sitk.ProcessObject, check: Check, stop: Callable[[], object]
) -> list[Cancelled]:
    """Stop an iterating filter when `check` raises; the list returned then holds the reason.

    An exception cannot pass through SimpleITK, so the caller raises it afterwards.
    """
    stopped: list[Cancelled] = []

    def look() -> None:
        try:
            check()
        except Cancelled as reason:
            stopped.append(reason)
            stop()

    process.AddCommand(sitk.sitkIterationEvent, look)
    return stopped


def is_plausible(matrix: np.ndarray) -> bool:
    """Tell whether a map keeps handedness and does not stretch beyond any neighbour's size."""
    linear = matrix[:3, :3]
    if not np.all(np.isfinite(matrix)) or np.linalg.det(linear) <= 0:
        return False
    stretch = np.linalg.svd(linear, compute_uv=False)
    return bool(stretch.max() < _STRETCH and stretch.min() > 1 / _STRETCH)
