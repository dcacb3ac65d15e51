"""Embedding volumes with tiny real networks of both kinds."""

import numpy as np
import pytest
import torch
from bank_kit import AFFINE, specimen, tiny_model

from napari_medverse.bank import embedder_for
from napari_medverse.bank.embedding import Example
from napari_medverse.bank.orientation import canonical
from napari_medverse.bank.shape import shape_facts
from napari_medverse.bank.sources import keys_of
from napari_medverse.errors import MedverseError
from napari_medverse.inference import ContextPair, Volume
from napari_medverse.inference.strategies import search_vector


def volumes(seed):
    image, label = specimen(seed)
    return Volume(image, AFFINE, f"case {seed}"), Volume(label, AFFINE)


@pytest.fixture(scope="module", params=["medverse", "iris"])
def embedder(request):
    return embedder_for(tiny_model(request.param))


def test_sizes_are_as_the_space_says(embedder):
    image, label = volumes(0)
    found = embedder.embed(image, label)
    assert [o.class_id for o in found.objects] == [1, 2]
    for item in found.objects:
        assert item.vector.shape == (embedder.space.vector,) and item.vector.dtype == np.float32
        assert np.linalg.norm(item.vector) == pytest.approx(1, abs=1e-5)
        assert item.task.shape == embedder.space.task and np.isfinite(item.task).all()
    assert found.image_vector.shape == (embedder.space.image_vector,)
    np.testing.assert_allclose(found.image_vector, embedder.embed_image(image), atol=1e-6)


def test_classes_may_be_chosen(embedder):
    image, label = volumes(0)
    both = embedder.embed(image, label).objects
    (second,) = embedder.embed(image, label, (2,)).objects
    np.testing.assert_allclose(second.vector, both[1].vector, atol=1e-6)
    assert not np.allclose(both[0].vector, both[1].vector, atol=1e-3)
    with pytest.raises(MedverseError, match="case 0.*label is empty"):
        embedder.embed(image, Volume(np.zeros(image.shape, np.uint8)))


def turned(volume):
    """The same volume as another program might store it."""
    data = volume.data.transpose(2, 0, 1)[::-1]
    step = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, data.shape[0] - 1], [0, 0, 0, 1]])
    return Volume(data, volume.affine @ step, volume.name)


def test_storage_order_does_not_matter(embedder):
    image, label = volumes(1)
    other = turned(image), Volume(turned(label).data.astype(np.int32), turned(label).affine)
    np.testing.assert_array_equal(canonical(turned(image)).data, canonical(image).data)
    np.testing.assert_allclose(canonical(turned(image)).affine, canonical(image).affine, atol=1e-9)
    assert keys_of(ContextPair(image, label)) == keys_of(ContextPair(*other))
    for a, b in zip(
        embedder.embed(image, label).objects, embedder.embed(*other).objects, strict=True
    ):
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)


def test_a_first_mask_lies_on_the_targets_grid(embedder):
    image, label = volumes(0)
    target = turned(volumes(1)[0])
    tasks = {o.class_id: o.task for o in embedder.embed(image, label).objects}
    mask = embedder.first_mask(target, Example(lambda: ContextPair(image, label), tasks))
    assert mask.shape == target.shape and set(np.unique(mask)) <= {0, 1, 2}
    assert np.issubdtype(mask.dtype, np.integer)


def test_fingerprints_tell_weights_kind_and_grid_apart():
    made = [
        embedder_for(tiny_model(kind, seed)) for kind in ("medverse", "iris") for seed in (0, 1)
    ]
    made.append(embedder_for(tiny_model(), size=32))
    assert len({embedder.space.fingerprint for embedder in made}) == 5
    assert embedder_for(tiny_model()).space == made[0].space


def test_iris_compares_as_its_strategies_do():
    embedder = embedder_for(tiny_model("iris"))
    for item in embedder.embed(*volumes(0)).objects:
        expected = search_vector(torch.from_numpy(item.task)).numpy()
        np.testing.assert_allclose(item.vector, expected, atol=1e-6)


def test_shape_facts_know_size_and_form_but_not_place():
    ball = np.zeros((20, 20, 20), np.float32)
    ball[3:9, 3:9, 3:9] = 1
    rod = np.zeros_like(ball)
    rod[3:5, 3:5, 2:18] = 1
    step = (1.0, 1.0, 1.0)
    np.testing.assert_allclose(
        shape_facts(ball, step), shape_facts(np.roll(ball, 5, (0, 2)), step), atol=1e-6
    )
    np.testing.assert_allclose(
        shape_facts(rod, step), shape_facts(rod.transpose(2, 0, 1), step), atol=1e-6
    )
    assert shape_facts(ball, step)[3] == pytest.approx(1) and shape_facts(rod, step)[3] < -0.5
    assert shape_facts(ball, (2.0, 2.0, 2.0))[1] > shape_facts(ball, step)[1]
    assert not shape_facts(0 * ball, step).any()
