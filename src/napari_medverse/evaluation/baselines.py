"""What a user could do without an in-context network, on the same pairs.

Each baseline returns integer labels (D, H, W) on the target's grid. They are meant to be strong:
a result that does not beat them is no reason to install anything.
"""

import time
from collections.abc import Sequence

import numpy as np

from ..errors import MedverseError
from ..inference import CancelToken, ContextPair, Volume
from ..inference.alignment import AlignedPair, AlignmentCache, align_pairs
from ..inference.frames import resolve_labels
from ..inference.prior import label_vote

# Sampled voxels per pair for the forest: anywhere, and at least this many of every class.
_ANYWHERE = 15_000
_OF_EACH_CLASS = 1_500
_TREES = 60
_SIGMAS = (1.0, 8.0)
_CHUNK = 1 << 18


def label_copy(target: Volume, pairs: Sequence[ContextPair], classes: Sequence[int]) -> np.ndarray:
    """Copy the labels onto the target, resized with their scans' content; several pairs vote."""
    return vote_labels(align_pairs(target, pairs, "none"), classes)


def aligned_vote(
    target: Volume,
    pairs: Sequence[ContextPair],
    classes: Sequence[int],
    *,
    cache: AlignmentCache | None = None,
    cancel: CancelToken | None = None,
) -> np.ndarray:
    """Register the pairs to the target (align="auto") and let their labels vote."""
    return vote_labels(align_pairs(target, pairs, "auto", cache=cache, cancel=cancel), classes)


def vote_labels(aligned: Sequence[AlignedPair], classes: Sequence[int]) -> np.ndarray:
    """Return the class with most votes where it has more than half of them, else 0."""
    votes = np.stack([label_vote(aligned, value) for value in classes])
    return resolve_labels(votes, tuple(classes))


class PixelForest:
    """A random forest on scikit-image's multi-scale features, as interactive tools train it.

    Intensity, edges and texture at scales of 1, 2, 4 and 8 voxels; 60 trees.

    Parameters
    ----------
    pairs
        Label pairs to learn from.
    classes
        Label values to tell apart.
    seed
        Of the sampling and the trees.
    """

    def __init__(self, pairs: Sequence[ContextPair], classes: Sequence[int], seed: int = 0) -> None:
        from sklearn.ensemble import RandomForestClassifier

        rng = np.random.default_rng(seed)
        features, answers = [], []
        for pair in pairs:
            label = np.where(np.isin(pair.label.data, classes), pair.label.data, 0).ravel()
            chosen = _sample(label, classes, rng)
            features.append(_features(pair.image)[chosen])
            answers.append(label[chosen])
        self.forest = RandomForestClassifier(
            _TREES, min_samples_leaf=5, max_features="sqrt", random_state=seed
        )
        self.forest.fit(np.concatenate(features), np.concatenate(answers))

    def predict(self, target: Volume, cancel: CancelToken | None = None) -> np.ndarray:
        """Return the target's labels."""
        features = _features(target)
        found = np.empty(len(features), np.min_scalar_type(int(self.forest.classes_.max())))
        for start in range(0, len(features), _CHUNK):
            if cancel is not None:
                cancel.check()
            part = slice(start, start + _CHUNK)
            found[part] = self.forest.predict(features[part])
        return found.reshape(target.shape)


def _sample(label: np.ndarray, classes: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    chosen = [rng.integers(label.size, size=min(_ANYWHERE, label.size))]
    for value in classes:
        where = np.flatnonzero(label == value)
        if len(where):
            chosen.append(rng.choice(where, min(_OF_EACH_CLASS, len(where)), replace=False))
    return np.concatenate(chosen)


def _features(volume: Volume) -> np.ndarray:
    """Return the features (voxels, features) float32 of a volume scaled to 0..1."""
    from skimage.feature import multiscale_basic_features

    low, high = _SIGMAS
    found = multiscale_basic_features(scaled(volume), sigma_min=low, sigma_max=high)
    return found.reshape(-1, found.shape[-1])


def scaled(volume: Volume) -> np.ndarray:
    """Return a volume's intensities as float32, 0..1 between its 0.5 and 99.5 percentiles."""
    low, high = np.percentile(volume.data, (0.5, 99.5))
    if not high > low:
        low, high = volume.data.min(), volume.data.max()
    if not high > low:
        raise MedverseError(f"{volume.label} is constant; nothing can be learnt from it")
    scale = np.float32(high - low)
    return np.clip((volume.data.astype(np.float32) - np.float32(low)) / scale, -0.5, 2)


class FewShotUNet:
    """A 3D U-Net (MONAI) trained on the pairs alone for a given time.

    Residual U-Net of 16 to 128 channels, patches of 64 voxels a side (fewer for small scans), half
    of them centred on foreground, turned by any angle and scaled a little; Dice and cross-entropy,
    AdamW with a learning rate that falls to 0 over the time given; instance normalisation.

    Parameters
    ----------
    pairs, classes
        See `PixelForest`.
    seconds
        How long to train.
    seed
        Of weights and patches; the number of steps depends on the machine.
    cancel
        Looked at before every step.
    """

    def __init__(
        self,
        pairs: Sequence[ContextPair],
        classes: Sequence[int],
        seconds: float,
        *,
        seed: int = 0,
        cancel: CancelToken | None = None,
    ) -> None:
        import torch
        from monai.losses import DiceCELoss
        from monai.networks.nets import UNet

        self.classes = tuple(classes)
        smallest = min(min(pair.image.shape) for pair in pairs)
        self.side = 64 if smallest >= 48 else 32 if smallest >= 24 else 16
        rng = np.random.default_rng(seed)
        scans = [_as_tensors(pair, self.classes) for pair in pairs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = UNet(
                3, 1, len(classes) + 1, (16, 32, 64, 128), (2, 2, 2), num_res_units=2
            )
        loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        optimiser = torch.optim.AdamW(self.network.parameters(), 1e-3, weight_decay=1e-4)
        self.network.train()
        self.steps, began = 0, time.perf_counter()
        while (done := (time.perf_counter() - began) / max(seconds, 1e-9)) < 1 or self.steps == 0:
            if cancel is not None:
                cancel.check()
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * max(0.0, 1 - done) ** 0.9
            batch = [_patch(*scans[rng.integers(len(scans))], self.side, rng) for _ in range(2)]
            images, labels = (torch.stack(part) for part in zip(*batch, strict=True))
            optimiser.zero_grad()
            loss(self.network(images), labels).backward()
            optimiser.step()
            self.steps += 1
        self.network.eval()

    def predict(self, target: Volume) -> np.ndarray:
        """Return the target's labels (MONAI's sliding windows, overlap a quarter)."""
        import torch
        from monai.inferers import sliding_window_inference

        image = torch.from_numpy(scaled(target))[None, None]
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, (self.side,) * 3, 1, self.network, overlap=0.25, mode="gaussian"
            )
        values = np.array((0, *self.classes), np.min_scalar_type(max(self.classes)))
        return values[logits[0].argmax(dim=0).numpy()]


def _as_tensors(pair: ContextPair, classes: tuple[int, ...]):
    """Return image (1, D, H, W), label numbers (1, D, H, W) and the foreground's indices."""
    import torch

    numbers = np.zeros(pair.label.shape, np.float32)
    for number, value in enumerate(classes, start=1):
        numbers[pair.label.data == value] = number
    where = np.argwhere(numbers > 0)
    return torch.from_numpy(scaled(pair.image))[None], torch.from_numpy(numbers)[None], where


def _patch(image, label, where: np.ndarray, side: int, rng: np.random.Generator):
    """Cut a cube at a random place, turned and scaled at random."""
    import torch
    from scipy.spatial.transform import Rotation
    from torch.nn import functional as F

    shape = np.array(image.shape[1:])
    if len(where) and rng.random() < 0.5:
        centre = where[rng.integers(len(where))]
    else:
        centre = rng.uniform(0, shape - 1)
    turn = Rotation.random(None, rng).as_matrix() * rng.uniform(0.85, 1.2)
    # grid_sample counts axes from the last and runs from -1 to 1.
    theta = np.empty((1, 3, 4), np.float32)
    theta[0, :, :3] = (turn * (side / shape)[:, None])[::-1, ::-1]
    theta[0, :, 3] = ((centre + 0.5) / shape * 2 - 1)[::-1]
    grid = F.affine_grid(torch.from_numpy(theta), [1, 1, side, side, side], align_corners=False)
    cut = F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]
    labels = F.grid_sample(label[None], grid, mode="nearest", align_corners=False)[0]
    cut = cut * rng.uniform(0.8, 1.25) + rng.uniform(-0.1, 0.1)
    return cut + 0.03 * rng.random() * torch.from_numpy(
        rng.standard_normal(cut.shape, dtype=np.float32)
    ), labels
