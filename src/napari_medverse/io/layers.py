"""NIfTI content as napari layer data, and back. Plain tuples: napari is not imported.

World positions are the file's: layer scale (the spacing) and layer affine (orientation and
origin) compose to the NIfTI affine.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MedverseError
from ..inference.context import judge_task
from .nifti import NiftiContent, load, stem, write_nifti
from .provenance import metadata_of, read_sidecar, records_of, write_sidecar

LayerData = tuple[np.ndarray, dict[str, Any], str]

_LABEL_WORD = r"labels?(?:tr|ts)?|seg(?:mentation)?s?|masks?|annotations?"
_LABEL_NAME = re.compile(rf"(?:^|[^a-z])(?:{_LABEL_WORD})(?:[^a-z]|$)")


def read_layers(path: str | os.PathLike) -> list[LayerData]:
    """Read a NIfTI file as one image or labels layer.

    A 3D file gives a 3D layer; several volumes in one file give a 4D layer with the
    volumes along the first axis. Files whose axes are stored in another order than
    the world's are transposed (never mirrored), as napari cannot slice them otherwise;
    ``metadata["nifti"]["axes"]`` says how, and ``write_layer`` undoes it. A sidecar of
    ours (see `io.provenance`) comes back as metadata.

    Raises
    ------
    MedverseError
        As ``io.nifti.load``.
    """
    content = load(path)
    if content.data.ndim > 4:
        raise MedverseError(
            f"{path}: has {content.data.ndim} axes {content.data.shape}; at most 4 can be "
            "opened, save its parts on their own."
        )
    data, affine, axes = _in_world_order(content)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    placement = affine @ np.diag([*(1 / spacing), 1.0])
    # Left-over rotations of 1e-8 from the header's quaternion would make napari warn.
    placement[:3, :3][np.abs(placement[:3, :3]) < 1e-6] = 0.0
    scale, units = list(spacing), [content.unit] * 3
    if data.ndim == 4:
        data = np.moveaxis(data, -1, 0)
        scale, units = [content.time_step, *scale], ["pixel", *units]
        placement = _with_leading_axis(placement)
    attributes = {
        "name": stem(path),
        "scale": scale,
        "affine": placement,
        "units": tuple(units),
        "metadata": {
            "nifti": {"path": str(Path(path).absolute()), "axes": axes},
            **metadata_of(read_sidecar(path)),
        },
    }
    if looks_like_labels(content, path):
        if data.dtype.kind == "f":
            data = data.astype(np.int32)
        return [(data, attributes, "labels")]
    return [(data, attributes, "image")]


def write_layer(
    path: str | os.PathLike, data: Any, attributes: Mapping[str, Any], *, labels: bool
) -> str:
    """Write a layer's array with its place in the world, and return the path.

    Where the layer's metadata tell how it was predicted, that is written beside it as JSON (see
    `io.provenance`).

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    data
        Array-like of 3 axes, or 4 with the volumes along the first; a multiscale layer's
        list of levels gives its finest.
    attributes
        A napari layer's attributes: ``scale``, ``translate``, ``rotate``, ``shear``,
        ``affine``, ``units``, ``metadata``; all optional.
    labels
        Mark the values as labels; 64-bit integers are stored in 32 where they fit,
        since many programs cannot read 64.

    Raises
    ------
    MedverseError
        A layer that is 2D, coloured, sheared out of the three axes, or as ``write_nifti``.
    """
    name = attributes.get("name", "layer")
    if attributes.get("rgb"):
        raise MedverseError(f"{name}: is a colour image; convert it to grey values to save it.")
    array = np.asarray(data[0] if isinstance(data, Sequence) else data)
    if array.ndim not in (3, 4):
        raise MedverseError(f"{name}: has {array.ndim} axes; NIfTI needs a 3D or 4D layer.")
    matrix, time_step = layer_affine(attributes, array.ndim), 1.0
    if array.ndim == 4:
        array, time_step = np.moveaxis(array, 0, -1), float(np.linalg.norm(matrix[:4, 0]))
        matrix = matrix[1:, 1:]
    matrix, unit = _in_file_units(matrix, attributes.get("units"))
    axes = (attributes.get("metadata") or {}).get("nifti", {}).get("axes", (0, 1, 2))
    if tuple(axes) != (0, 1, 2):
        array, matrix = _permute(array, matrix, np.argsort(axes))
    if labels and array.dtype.itemsize == 8 and np.abs(array).max(initial=0) < 2**31:
        array = array.astype(np.int32)
    written = write_nifti(path, array, matrix, unit=unit, labels=labels, time_step=time_step)
    write_sidecar(written, records_of(attributes.get("metadata")))
    return str(written)


def layer_affine(attributes: Mapping[str, Any], ndim: int) -> np.ndarray:
    """Compose a layer's transforms into one (ndim + 1, ndim + 1) matrix, index to world.

    napari composes ``affine @ (translate + rotate @ shear @ scale)``.
    """
    inner = np.eye(ndim + 1)
    linear = np.diag(np.broadcast_to(attributes.get("scale", 1.0), ndim)).astype(float)
    for key in ("shear", "rotate"):
        value = np.asarray(attributes.get(key, np.zeros(0)), dtype=float)
        if value.ndim == 2:
            linear = value @ linear
        elif key == "shear" and value.any():
            upper = np.eye(ndim)
            upper[np.triu_indices(ndim, 1)] = value
            linear = upper @ linear
    inner[:ndim, :ndim] = linear
    inner[:ndim, ndim] = attributes.get("translate", 0.0)
    outer = attributes.get("affine")
    return inner if outer is None else np.asarray(outer, dtype=float) @ inner


def looks_like_labels(content: NiftiContent, path: str | os.PathLike) -> bool:
    """Tell whether a file holds labels: by its header, its name or folder, or its values.

    Only whole, non-negative numbers can be labels. Then the header's intent decides, or a
    word such as ``seg`` or ``labels`` in the file's name or as the folder's, or values that are
    few or form regions, as in ``ContextPair``.
    """
    data = content.data
    if data.min() < 0 or (data.dtype.kind == "f" and not _are_whole(data)):
        return False
    folder = Path(path).absolute().parent.name.lower()
    if content.is_label or _LABEL_NAME.search(stem(path).lower()):
        return True
    if re.fullmatch(_LABEL_WORD, folder):
        return True
    return bool(data.any()) and judge_task(data) == "labels"


def _are_whole(data: np.ndarray) -> bool:
    return bool(np.isfinite(data).all() and data.max() < 2**31 and (data == np.rint(data)).all())


def _in_world_order(
    content: NiftiContent,
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    from nibabel.orientations import io_orientation

    # axes[w] is the stored axis that runs mostly along world axis w.
    axes = tuple(int(a) for a in np.argsort(io_orientation(content.affine)[:, 0]))
    if axes == (0, 1, 2):
        return content.data, content.affine, axes
    data, affine = _permute(content.data, content.affine, axes)
    return data, affine, axes


def _permute(
    array: np.ndarray, affine: np.ndarray, axes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    trailing = tuple(range(3, array.ndim))
    order = [*axes, 3]
    return np.ascontiguousarray(array.transpose((*axes, *trailing))), affine[:, order]


def _with_leading_axis(matrix: np.ndarray) -> np.ndarray:
    larger = np.eye(5)
    larger[1:, 1:] = matrix
    return larger


def _in_file_units(matrix: np.ndarray, units: Sequence[Any] | None) -> tuple[np.ndarray, str]:
    """Return the matrix in a unit that NIfTI knows, and that unit."""
    if units is None:
        return matrix, "mm"
    import pint

    registry = pint.get_application_registry()
    spatial = [registry.Unit(str(unit)) for unit in units][-3:]
    for unit in ("mm", "um", "m", "pixel"):
        if all(u == registry.Unit(unit) for u in spatial):
            return matrix, unit
    try:
        factors = [float(registry.Quantity(1, u).to("mm").magnitude) for u in spatial]
    except pint.DimensionalityError:
        # Not all lengths: keep the numbers, as napari shows them.
        return matrix, "pixel"
    return np.diag([*factors, 1.0]) @ matrix, "mm"
