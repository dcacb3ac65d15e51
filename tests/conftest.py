"""What every test gets: a cache folder of its own, and one thread."""

import os

# Before torch is imported: arrays in tests are so small that threads only cost time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from napari_medverse.paths import CACHE_VARIABLE


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Point the cache folder at an empty one, so that no test sees another's files."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def quick_learning():
    """Learn from looks in fewer steps: what is learnt in earnest has tests of its own."""
    from napari_medverse.inference import _appearance_fit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_appearance_fit, "STEPS", 25)
        yield


@pytest.fixture(scope="session")
def golden():
    """The published code's outputs, kept beside the project."""
    from golden import REFERENCE, Golden

    if not REFERENCE.is_dir():
        pytest.skip("the published reference outputs (../shared/reference) are not here")
    return Golden()
