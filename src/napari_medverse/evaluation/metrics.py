"""Agreement of masks and of images.

Surface measures come from MONAI and take the spacing into account; image measures come from
scikit-image. Masks and images are arrays (D, H, W).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..errors import MedverseError

Triple = tuple[float, float, float]

UNIT: Triple = (1.0, 1.0, 1.0)
_SSIM_SIDE = 7


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of two masks.

    Returns
    -------
    float
        In 0..1; 1 where both masks are empty.

    Raises
    ------
    MedverseError
        The shapes differ.
    """
    prediction, truth = _masks(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def surface_dice(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Triple = UNIT,
    tolerance: float | None = None,
) -> float:
    """Return the normalised surface Dice: the share of both surfaces within a tolerance.

    Parameters
    ----------
    spacing
        Voxel size along the axes (mm or layer units).
    tolerance
        In the spacing's unit; None takes the longest side of a voxel.

    Returns
    -------
    float
        In 0..1; 1 where both masks are empty, 0 where only one is.

    Raises
    ------
    MedverseError
        The shapes differ.
    """
    from monai.metrics import compute_surface_dice

    prediction, truth = _masks(prediction, truth)
    if not (prediction.any() and truth.any()):
        return float(prediction.any() == truth.any())
    tolerance = max(spacing) if tolerance is None else tolerance
    with _quiet():
        found = compute_surface_dice(
            *_batches(prediction, truth),
            class_thresholds=[tolerance],
            spacing=[float(s) for s in spacing],
        )
    return float(found)


def hausdorff95(prediction: np.ndarray, truth: np.ndarray, spacing: Triple = UNIT) -> float:
    """Return the 95th percentile of the distances between two masks' surfaces, both ways.

    Parameters
    ----------
    spacing
        Voxel size along the axes (mm or layer units).

    Returns
    -------
    float
        In the spacing's unit; 0 where both masks are empty, infinite where only one is.

    Raises
    ------
    MedverseError
        The shapes differ.
    """
    from monai.metrics import compute_hausdorff_distance

    prediction, truth = _masks(prediction, truth)
    if not (prediction.any() and truth.any()):
        return 0.0 if prediction.any() == truth.any() else float("inf")
    with _quiet():
        found = compute_hausdorff_distance(
            *_batches(prediction, truth), percentile=95, spacing=[float(s) for s in spacing]
        )
    return float(found)


def psnr(image: np.ndarray, truth: np.ndarray, data_range: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB.

    Parameters
    ----------
    data_range
        The peak; None takes the truth's range.

    Returns
    -------
    float
        Infinite where the images are equal.

    Raises
    ------
    MedverseError
        The shapes differ, or the truth is constant and no range is given.
    """
    image, truth = _images(image, truth)
    peak = _range(truth, data_range)
    error = float(np.mean((image - truth) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(image: np.ndarray, truth: np.ndarray, data_range: float | None = None) -> float:
    """Return the mean structural similarity (windows of 7 voxels, fewer in thin volumes).

    Parameters
    ----------
    data_range
        See `psnr`.

    Raises
    ------
    MedverseError
        The shapes differ, a side is under 3 voxels, or the truth is constant and no range is
        given.
    """
    from skimage.metrics import structural_similarity

    image, truth = _images(image, truth)
    side = min(_SSIM_SIDE, min(truth.shape) - 1 + min(truth.shape) % 2)
    if side < 3:
        raise MedverseError(
            f"structural similarity needs 3 voxels along every axis, got shape {truth.shape}"
        )
    peak = _range(truth, data_range)
    return float(structural_similarity(image, truth, win_size=side, data_range=peak))


def _masks(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _check_shapes(prediction, truth)
    return np.asarray(prediction, bool), np.asarray(truth, bool)


def _images(image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _check_shapes(image, truth)
    return np.asarray(image, np.float64), np.asarray(truth, np.float64)


def _check_shapes(prediction: np.ndarray, truth: np.ndarray) -> None:
    if np.shape(prediction) != np.shape(truth):
        raise MedverseError(
            f"prediction {np.shape(prediction)} and truth {np.shape(truth)} differ in shape; "
            "compare arrays of one grid"
        )


def _range(truth: np.ndarray, data_range: float | None) -> float:
    peak = float(truth.max() - truth.min()) if data_range is None else float(data_range)
    if not peak > 0:
        raise MedverseError("the true image is constant; give its data range")
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MONAI's warnings about its own calls (1.5 and 1.6) from the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "monai.metrics.utils", FutureWarning)
        yield


def _batches(prediction: np.ndarray, truth: np.ndarray):
    """Return both masks as MONAI wants them, cropped to what they hold (far faster)."""
    import torch

    both = np.argwhere(prediction | truth)
    box = tuple(
        slice(max(0, low - 1), high + 2)
        for low, high in zip(both.min(axis=0), both.max(axis=0), strict=True)
    )
    # A surface that touches the crop's border would be lost: there is always a margin.
    return [torch.from_numpy(np.pad(m[box], 1)[None, None]) for m in (prediction, truth)]
