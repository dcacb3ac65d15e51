"""Bad input gets a clear message that names the layer or file and the remedy."""

import re

import pytest

from bad_kinds import BAD, WARNED, Workshop
from napari_medverse.errors import MedverseError


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    return Workshop(folder, monkeypatch)


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind, workshop):
    spoil, message = BAD[kind]
    with pytest.raises(MedverseError) as caught:
        spoil(workshop)
    said = " ".join(str(caught.value).split()).replace(str(workshop.folder), "{folder}")
    assert re.fullmatch(re.escape(message).replace(r"\.\.\.", ".+"), said), said


@pytest.mark.parametrize("kind", WARNED)
def test_what_a_row_warns_of(kind, workshop):
    from napari_medverse.widgets.context_model import ContextSetModel

    layers, problems = WARNED[kind]
    model = ContextSetModel()
    row = model.add_pair(*layers(workshop))
    found = model.problems(row)
    assert tuple("left out: " * p.blocking + p.text for p in found) == problems
