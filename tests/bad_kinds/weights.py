"""Weights: checkpoints, safetensors files, names."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from .kit import bad


def load(w, *arguments, **options):
    from napari_medverse import load_model

    return load_model(*arguments, **options)


@bad(
    "There are no weights 'medverse-maxi': give a file that exists or one of the names: "
    "medverse-mini, iris-mini."
)
def unknown_weights(w):
    load(w, "medverse-maxi")


@bad(
    "There are no weights '{folder}/gone.ckpt': give a file that exists or one of the names: "
    "medverse-mini, iris-mini."
)
def missing_weights_file(w):
    load(w, w.folder / "gone.ckpt")


@bad(
    "{folder}/bomb.ckpt asks to run code or holds more than weights, so it was not loaded "
    "(...). Get the file from its authors, or save only its state dict."
)
def pickle_that_runs_code(w):
    class Bomb:
        def __reduce__(self):
            return os.system, ("echo bang",)

    load(w, w.file("bomb.ckpt", pickle.dumps(Bomb(), protocol=2)))


@bad(
    "{folder}/own.ckpt asks to run code or holds more than weights, so it was not loaded "
    "(...). Get the file from its authors, or save only its state dict."
)
def checkpoint_that_runs_code(w):
    class Bomb:
        def __reduce__(self):
            return os.system, ("echo bang",)

    load(w, w.weights(callbacks=Bomb()))


@bad("{folder}/own.ckpt is damaged or cut short (...); fetch it again.")
def truncated_checkpoint(w):
    path = w.weights()
    load(w, w.file("own.ckpt", path.read_bytes()[:-200]))


@bad(
    "{folder}/own.ckpt unpacks to 67 MB, far more than weights of its size would, so it was "
    "not loaded. Get the file from its authors."
)
def checkpoint_that_unpacks_to_gigabytes(w):
    path = w.weights()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("own/data/99999", bytes(2**26))
    load(w, path)


@bad("{folder}/own.ckpt is no torch checkpoint; fetch it again.")
def checkpoint_of_text(w):
    load(w, w.file("own.ckpt", b"not a checkpoint"))


@bad(
    "{folder}/own.ckpt holds neither Medverse nor Neuroverse3D weights; its first tensor is "
    "'conv1.weight'."
)
def checkpoint_of_another_network(w):
    load(w, w.weights(state_dict=lambda s: {"conv1.weight": next(iter(s.values()))}))


@bad(
    "{folder}/own.ckpt does not fit Medverse (2 missing: "
    "target_decoder.output_block.block.1.bias, target_decoder.output_block.block.1.weight)."
)
def checkpoint_that_lacks_tensors(w):
    load(w, w.weights(state_dict=lambda s: dict(list(s.items())[:-2])))


@bad(
    "{folder}/own.ckpt does not fit Medverse (1 misshapen: "
    "target_decoder.output_block.block.1.bias is (1, 1, 1), not (1,))."
)
def checkpoint_with_a_misshapen_tensor(w):
    load(w, w.weights(state_dict=lambda s: {**s, list(s)[-1]: list(s.values())[-1][None, None]}))


@bad("{folder}/own.ckpt holds no tensors; save a state dict with torch.save.")
def checkpoint_without_tensors(w):
    load(w, w.weights(state_dict={"a": 1}))


@bad("{folder}/own.ckpt holds no state dict; save one with torch.save.")
def checkpoint_whose_state_is_a_list(w):
    load(w, w.weights(state_dict=[1, 2]))


@bad("{folder}/own.ckpt describes no network of ours (channels...); fetch it again.")
def checkpoint_of_absurd_width(w):
    load(w, w.weights(hyper_parameters={"nb_inner_channels": [10**9, 3, 4]}))


@bad("{folder}/own.ckpt describes no network of ours (channels...); fetch it again.")
def checkpoint_whose_width_is_a_word(w):
    load(w, w.weights(hyper_parameters={"nb_inner_channels": "wide"}))


@bad("{folder}/own.ckpt holds a 2D network (data_slice_only); use 3D weights.")
def checkpoint_of_a_flat_network(w):
    load(w, w.weights(hyper_parameters={"data_slice_only": True}))


@bad("{folder}/own.safetensors is damaged or no safetensors file (...); fetch it again.")
def damaged_safetensors(w):
    load(w, w.file("own.safetensors", struct.pack("<Q", 2**60) + b"{}"))


@bad(
    "{folder}/own.safetensors was written by another version of napari-medverse (kind: ...); "
    "update napari-medverse, or fetch the file again."
)
def safetensors_with_an_unknown_config(w):
    load(w, safetensors(w, json.dumps({"kind": "unet"})))


@bad(
    "{folder}/own.safetensors was written by another version of napari-medverse (channels...); "
    "update napari-medverse, or fetch the file again."
)
def safetensors_of_absurd_size(w):
    load(w, safetensors(w, json.dumps({"kind": "medverse", "channels": [10**6, 10**6]})))


@bad(
    "{folder}/own.safetensors was written by another version of napari-medverse (blocks: ...); "
    "update napari-medverse, or fetch the file again."
)
def safetensors_with_endless_blocks(w):
    config = {"kind": "medverse", "channels": [2, 3, 4], "tokens": "block", "blocks": 10**9}
    load(w, safetensors(w, json.dumps(config)))


@bad(
    "{folder}/own.safetensors was written by another version of napari-medverse (...); update "
    "napari-medverse, or fetch the file again."
)
def safetensors_whose_config_is_no_json(w):
    load(w, safetensors(w, "{"))


def safetensors(w, config: str) -> Path:
    from safetensors.numpy import save_file

    path = w.folder / "own.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path, metadata={"napari_medverse": config})
    return path


@bad("The device 'abacus' cannot be used on this machine; choose 'auto' or 'cpu'.")
def unknown_device(w):
    load(w, "medverse-mini", device="abacus")


@bad("precision must be one of ('auto', 'exact', 'fast', 'plain'), not 'rough'.")
def unknown_precision(w):
    load(w, "medverse-mini", precision="rough")


@bad("'../own' cannot name weights; use letters, digits, '.', '_' and '-' (at most 64).")
def name_that_no_file_can_have(w):
    from napari_medverse.weights import import_checkpoint

    import_checkpoint(w.weights(), "../own")


@bad("'medverse-mini' is the name of shipped weights; choose another.")
def name_of_shipped_weights(w):
    from napari_medverse.weights import import_checkpoint

    import_checkpoint(w.weights(), "medverse-mini")


@bad(
    "{folder}/file/cache/weights/named: this cache folder cannot be made (Not a directory); "
    "choose another in napari's Preferences, or by the environment variable "
    "NAPARI_MEDVERSE_CACHE."
)
def cache_folder_that_cannot_be_made(w):
    from napari_medverse.paths import CACHE_VARIABLE
    from napari_medverse.weights import import_checkpoint

    w.monkeypatch.setenv(CACHE_VARIABLE, str(w.file("file", b"") / "cache"))
    import_checkpoint(w.weights(), "own")
