"""Annotated folders and tiny real networks for the bank's tests."""

import numpy as np
import torch

from loaded_model import as_loaded
from napari_medverse.io import write_nifti
from napari_medverse.networks import Iris, Medverse


def specimen(seed, side=20):
    """Return image and labels: a ball (1) with a core (2), its texture and size by the seed."""
    rng = np.random.default_rng(seed)
    centre = side / 2 + rng.uniform(-2, 2, 3)
    axes = np.ogrid[:side, :side, : side + 4]
    far = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) ** 0.5
    radius = side * rng.uniform(0.25, 0.4)
    label = (far < radius).astype(np.uint8) + (far < radius / 2)
    image = 60 * (label > 0) + 80 * (label == 2) + rng.normal(20, 6, label.shape)
    return image.clip(0, 255).astype(np.uint8), label


AFFINE = np.diag([-0.2, 0.2, 0.3, 1])


def annotated_folder(folder, cases=3):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for seed in range(cases):
        image, label = specimen(seed)
        write_nifti(folder / "images" / f"case{seed}.nii.gz", image, AFFINE)
        write_nifti(folder / "labels" / f"case{seed}.nii.gz", label, AFFINE, labels=True)
    return folder


def tiny_model(kind="medverse", seed=0):
    torch.manual_seed(seed)
    if kind == "iris":
        network = Iris((2, 4, 8), queries=3, heads=2)
    else:
        network = Medverse((2, 3, 4), tokens="block", prototypes=True, residual=True)
    return as_loaded(network, f"tiny-{kind}", kind, f"{kind}{seed}")
