"""What nearest and farthest go by: encoder features, registration, a bank's search."""

import numpy as np
import pytest
from study_kit import specimen, specimens, tiny_model

from napari_medverse.bank import Bank, add_cases, embedder_for, retrieve
from napari_medverse.bank.adding import Offer
from napari_medverse.errors import MedverseError
from napari_medverse.evaluation.similarity import (
    BankSimilarity,
    PooledFeatures,
    RegistrationSimilarity,
)
from napari_medverse.evaluation.study import Study, StudySettings

PLAIN = {"align": "none", "prior": "none"}


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank of five pairs, its embedder, and the pairs."""
    embedder, pairs = embedder_for(tiny_model()), specimens(5)
    made = Bank.create(tmp_path_factory.mktemp("bank"), embedder.space)
    add_cases(made, embedder, [Offer(pair) for pair in pairs])
    return made, embedder, pairs


def test_nearest_by_bank_takes_what_its_search_ranks_first(bank):
    made, embedder, pairs = bank
    target, offered = specimen(100), pairs[:4]
    settings = StudySettings((1, 2), sampling="nearest", options=PLAIN)
    study = Study(tiny_model(), [target], offered, settings, similarity=BankSimilarity(*bank[:2]))
    drawn = [draw.pairs for draw in study.plan().draws]
    # By hand: the objects of the first mask, each class searched for on its own in the whole bank.
    found = retrieve(made, embedder, target.image, 5)
    assert set(found.hits) == {1, 2}
    scores = {pair.name: 0.0 for pair in pairs}
    for hits in found.hits.values():
        for hit in hits:
            scores[hit.entry.case] += hit.score
    best = sorted(range(4), key=lambda i: -scores[offered[i].name])
    assert drawn == [(best[0],), tuple(sorted(best[:2]))]
    assert study.similarity_name == f"search in the bank {made.uri}"


def test_by_bank_a_scan_of_the_set_goes_by_its_own_label_and_a_target_never(bank, monkeypatch):
    made, embedder, pairs = bank
    looked = []
    near = pairs[4].label.data

    def first_mask(image, *_, **__):
        looked.append(image.name)
        return near

    monkeypatch.setattr(embedder, "first_mask", first_mask)
    settings = StudySettings((1, 2), 1, sampling="farthest", options=PLAIN)
    # A target that is in the bank with its label: neither that nor its row may be looked at.
    study = Study(
        tiny_model(), pairs[:1], pairs, settings, similarity=BankSimilarity(made, embedder)
    )
    drawn = study.plan().draws
    assert looked == [pairs[0].image.name] and all(0 not in draw.pairs for draw in drawn)
    own = BankSimilarity(made, embedder).to(pairs[2].image, pairs)
    assert np.argmax(own) == 2 and own[2] == pytest.approx(1, abs=1e-5)


def test_by_bank_a_pair_that_is_not_in_it_is_named(bank):
    similarity = BankSimilarity(*bank[:2])
    with pytest.raises(MedverseError, match="does not hold 'case 77': add these pairs"):
        similarity.to(specimen(100).image, [bank[2][0], specimen(77)])


@pytest.mark.parametrize("kind", [PooledFeatures, RegistrationSimilarity])
def test_a_scan_is_most_similar_to_itself(kind):
    similarity = kind(tiny_model()) if kind is PooledFeatures else kind("rigid")
    pairs = specimens(3)
    found = similarity.to(pairs[1].image, pairs)
    assert max(found[0], found[2]) < found[1]
