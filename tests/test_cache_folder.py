"""Where the cache folder cannot be written, all that can do without it does."""

import numpy as np
import pytest

from napari_medverse import load_model, paths, predict
from napari_medverse.weights import available


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A cache folder below a file: it can be neither found nor made, not even by root."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))


def test_shipped_weights_predict_with_alignment_and_a_probe(no_cache):
    assert available() == ["medverse-mini", "iris-mini"]
    model = load_model("medverse-mini", "cpu", "auto")
    rng = np.random.default_rng(0)
    image, label = rng.random((12, 12, 12)), np.zeros((12, 12, 12), np.uint8)
    label[3:9, 3:9, 3:9] = 1
    result = predict(model, image[::-1], [(image, label)], align="rigid", levels=1)
    assert result.provenance["precision"] in ("exact", "fast")


def test_the_docks_engine_makes_its_cache(no_cache, qapp):
    from napari_medverse.widgets.engine import LocalEngine

    assert LocalEngine().cache.alignments is not None
