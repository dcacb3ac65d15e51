"""Where a label came from stays with it: in the layer, in the file beside, and back."""

import json

import numpy as np
import pytest
from napari.layers import Labels

from napari_medverse.io import read_sidecar, write_nifti, write_sidecar
from napari_medverse.io._npe2 import read, write_labels
from napari_medverse.io.provenance import metadata_of, records_of, sidecar_path

FIRST = {"software": "napari-medverse 0.1.0", "model": "a", "mapping": {1: 5}}
SECOND = {"software": "napari-medverse 0.1.0", "model": "b", "threshold": np.float32(0.5)}


def saved(path, metadata=None):
    data = np.zeros((3, 4, 5), np.uint8)
    data[1:, 1:, 1:] = 2
    layer = Labels(data, metadata=metadata or {})
    write_labels(str(path), layer.data, layer.as_layer_data_tuple()[1])
    return path


def test_a_saved_layer_brings_its_records_along(tmp_path):
    path = saved(tmp_path / "label.nii.gz", {"own": 1, **metadata_of([FIRST, SECOND])})
    content = json.loads((tmp_path / "label.json").read_text())
    assert (content["model"], content["threshold"]) == ("b", 0.5)
    assert [record["model"] for record in content["earlier"]] == ["a"]
    ((_, attributes, _),) = read(str(path))
    assert [record["model"] for record in records_of(attributes["metadata"])] == ["a", "b"]
    again = saved(tmp_path / "again.nii.gz", attributes["metadata"])
    assert read_sidecar(again) == read_sidecar(path)


def test_a_prediction_that_is_only_shown_has_one_record(tmp_path):
    path = saved(tmp_path / "a.nii.gz", {"napari-medverse": {"role": "study", "provenance": FIRST}})
    assert [record["model"] for record in read_sidecar(path)] == ["a"]


def test_a_layer_without_records_has_no_sidecar(tmp_path):
    saved(tmp_path / "label.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["label.nii.gz"]


def test_a_record_of_former_content_goes(tmp_path):
    saved(tmp_path / "label.nii.gz", metadata_of([FIRST]))
    saved(tmp_path / "label.nii.gz")
    assert not (tmp_path / "label.json").exists()


@pytest.mark.parametrize("content", ['{"EchoTime": 3}', "not json", "[1]", "[" * 5000])
def test_another_programs_json_is_left_alone(tmp_path, content):
    (tmp_path / "scan.json").write_text(content)
    path = write_nifti(tmp_path / "scan.nii.gz", np.ones((3, 4, 5), np.float32))
    assert read_sidecar(path) == []
    assert write_sidecar(path, []) is None
    assert write_sidecar(path, [FIRST]) == tmp_path / "scan.provenance.json"
    assert (tmp_path / "scan.json").read_text() == content
    assert [record["model"] for record in read_sidecar(path)] == ["a"]


def test_a_sidecar_of_ours_is_replaced(tmp_path):
    for record in (FIRST, SECOND):
        write_sidecar(tmp_path / "scan.nii", [record], files=["a.nii"])
    assert sidecar_path(tmp_path / "scan.nii") == tmp_path / "scan.json"
    assert read_sidecar(tmp_path / "scan.nii")[0]["files"] == ["a.nii"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("entry", [None, 3, {}, {"accepted": "a"}, {"accepted": [1, "b"]}])
def test_metadata_that_holds_no_records(entry):
    assert records_of({"napari-medverse": entry}) == []
    assert records_of(None) == []
