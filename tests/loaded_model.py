"""Tiny networks in the shape in which `load_model` returns real ones."""

from types import SimpleNamespace


def as_loaded(
    network, name, kind="medverse", fingerprint="f" * 8, *,
    patch=16, normalisation="minmax", resampling="area",
):  # fmt: skip
    """Return a frozen network of channels (2, 3, 4) with what the engine asks of a model."""
    config = SimpleNamespace(
        channels=(2, 3, 4),
        patch=(patch,) * 3,
        normalisation=SimpleNamespace(kind=normalisation, low=0.02, high=0.98),
        resampling=resampling,
        published=resampling == "trilinear",
    )
    return SimpleNamespace(
        name=name,
        kind=kind,
        network=network.eval().requires_grad_(False),
        config=config,
        fingerprint=fingerprint,
        device="cpu",
        precision="exact",
    )
