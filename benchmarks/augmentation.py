"""Time our image augmentation beside torchio's, on one thread, interleaved.

    pip install torchio && python benchmarks/augmentation.py

Prints the ratio of the medians (above 1: ours is quicker). torchio is no dependency: its
transforms draw from torch's global generator, whereas a training batch here is a function of the
config and the step alone, and its elastic transform alone would take as long as making an episode.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from napari_medverse.training.augment import augment_pair
from napari_medverse.training.config import AugmentationSettings

STILL = dict.fromkeys(AugmentationSettings.model_fields, 0.0)
REPEATS = 9


def main() -> None:
    import torchio as tio

    torch.set_num_threads(1)
    theirs = {
        "affine": tio.RandomAffine(scales=0.1, degrees=8),
        "elastic": tio.RandomElasticDeformation(num_control_points=7, max_displacement=3),
        "flip": tio.RandomFlip(axes=(0, 1, 2), flip_probability=1),
        "noise": tio.RandomNoise(std=(0.01, 0.08)),
    }
    rng = np.random.default_rng(0)
    print("side  transform  torchio / ours")
    for side in (32, 64):
        image = rng.random((side,) * 3, np.float32)
        label = (image > 0.5).astype(np.float32)
        for name, transform in theirs.items():
            settings = AugmentationSettings(**(STILL | {name: 1.0}))

            def run_theirs(transform=transform, image=image, label=label) -> None:
                tensors = [torch.from_numpy(x)[None] for x in (image, label)]
                subject = tio.Subject(
                    image=tio.ScalarImage(tensor=tensors[0]), label=tio.LabelMap(tensor=tensors[1])
                )
                moved = transform(subject)
                moved.image.numpy(), moved.label.numpy()

            def run_ours(settings=settings, image=image, label=label) -> None:
                augment_pair(rng, image, label, settings)

            spent = [(seconds(run_theirs), seconds(run_ours)) for _ in range(REPEATS)]
            ratio = np.median([s[0] for s in spent]) / np.median([s[1] for s in spent])
            print(f"{side:4d}  {name:9s}  {ratio:.1f}")


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
