"""The tiny network that is evaluated."""

import pytest
import torch

from loaded_model import as_loaded
from napari_medverse.networks import Medverse


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Medverse((2, 3, 4), tokens="block", prototypes=True, residual=True)
    return as_loaded(network, "tiny")
