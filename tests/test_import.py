"""Importing must be cheap: napari lists every plugin at start."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "napari_medverse",
        "napari_medverse.inference",
        "napari_medverse.io._npe2",
        "napari_medverse.samples",
        "napari_medverse.cli",
    ],
)
def test_import_brings_neither_torch_nor_qt(module):
    heavy = ("torch", "monai", "SimpleITK", "napari", "qtpy", "skimage", "nibabel")
    code = f"import sys, {module}; print(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_are_there():
    import napari_medverse

    for name in napari_medverse.__all__:
        assert callable(getattr(napari_medverse, name))
        assert name in dir(napari_medverse)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = napari_medverse.nothing


def test_manifest_is_valid_and_its_commands_exist():
    from importlib import import_module

    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-medverse")
    assert manifest.package_version == import_module("napari_medverse").__version__
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_torch_is_imported_with_its_libraries_loaded_before():
    code = (
        "import ctypes, sys; from napari_medverse import torch_import as t; "
        "calls = []; load = t._load_libraries; "
        "t._load_libraries = lambda: (calls.append('torch' in sys.modules), load()); "
        "t.import_torch(); t.import_torch(); import torch; "
        "print(calls, float(torch.ones(2).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("[False] 2.0" if sys.platform == "linux" else "[] 2.0")


@pytest.mark.parametrize("name", ["medverse-mini", "iris-mini"])
def test_loading_weights_does_not_bring_the_compiler(name):
    heavy = ("torch._dynamo", "torch._inductor", "torch.onnx", "sympy")
    code = (
        "import sys; from napari_medverse import load_model; "
        f"load_model({name!r}, 'cpu', 'exact'); "
        f"print(*(m for m in {heavy!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
