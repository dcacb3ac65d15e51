"""NIfTI files through nibabel: array order and affine are nibabel's own."""

import gzip
import io
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MedverseError
from ..inference.volume import Volume
from .atomic import replacing

SUFFIXES = (".nii.gz", ".nii")
LABEL_INTENT = 1002
# NIfTI's names of its length units, ours, and how many millimetres each has.
UNITS = {"mm": ("mm", 1.0), "micron": ("um", 1e-3), "meter": ("m", 1e3), "unknown": ("mm", 1.0)}
# A NIfTI-2 header; the most that gzip can pack; what other programs may leave at a file's end.
_HEADER, _GZIP_FACTOR, _TRAILING = 540, 1100, 2**20
_CODES = {"mm": "mm", "um": "micron", "m": "meter", "pixel": "unknown"}


@dataclass(frozen=True, slots=True, eq=False)
class NiftiContent:
    """What a NIfTI file holds, as stored.

    Attributes
    ----------
    data
        Array in the file's axis order, trailing axes of length 1 dropped down to three.
        The dtype is the file's own in native byte order, or a float type where the
        header scales the values by slope and intercept.
    affine
        (4, 4) float64 from array index to world, in ``unit``.
    unit
        ``"mm"``, ``"um"`` or ``"m"``; a file that names none is taken to be in mm.
    time_step
        Distance between the volumes of a 4D file, in the file's own time unit.
    is_label
        The header's intent says that the values are labels.
    """

    data: np.ndarray
    affine: np.ndarray
    unit: str
    time_step: float
    is_label: bool


def read_nifti(path: str | os.PathLike) -> Volume:
    """Read a 3D NIfTI file.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file.

    Returns
    -------
    Volume
        Array axes as stored (nibabel's order), affine from array index to world in mm
        (files in micrometres or metres are converted), named like the file. The dtype is
        the file's own, or a float type where the header scales the values. A fourth axis of
        length 1 is dropped.

    Raises
    ------
    MedverseError
        Not a NIfTI file, damaged, coloured, complex, without usable spacing, or with more
        than one volume; the message names the file and the remedy.
    """
    content = load(path)
    if content.data.ndim != 3:
        raise MedverseError(
            f"{path}: has {content.data.ndim} axes {content.data.shape}, but one 3D volume is "
            "needed; save the volume you want on its own."
        )
    millimetres = dict(UNITS.values())[content.unit]
    affine = np.diag([millimetres] * 3 + [1.0]) @ content.affine
    return Volume(content.data, affine, name=stem(path))


def write_nifti(
    path: str | os.PathLike,
    volume: Volume | np.ndarray,
    affine: np.ndarray | None = None,
    *,
    unit: str = "mm",
    labels: bool = False,
    time_step: float = 1.0,
) -> Path:
    """Write an array as NIfTI; the file appears complete or not at all.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``; an existing file is replaced.
    volume
        A ``Volume``, or an array of three axes (four: the last one is time or channel).
        Booleans are stored as uint8, float16 as float32, other dtypes as they are.
    affine
        (4, 4) from array index to world in ``unit``. For a ``Volume`` its own by default,
        for an array the identity.
    unit
        ``"mm"``, ``"um"``, ``"m"`` or ``"pixel"``.
    labels
        Mark the values as labels in the header, so that readers open them as such.
    time_step
        Distance between volumes of a 4D array.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    MedverseError
        A wrong suffix, dtype, shape or affine, or the system refused to write.
    """
    import nibabel

    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise MedverseError(f"{path}: NIfTI files end in .nii or .nii.gz; rename the output.")
    if unit not in _CODES:
        raise MedverseError(f"{path}: unit {unit!r} is not known to NIfTI; use mm, um or m.")
    if isinstance(volume, Volume):
        array, affine = volume.data, volume.affine if affine is None else affine
    else:
        array, affine = np.asarray(volume), np.eye(4) if affine is None else affine
    affine = np.asarray(affine, dtype=np.float64)
    _check_affine(affine, path)
    array = _storable(array, path)
    image_class = nibabel.Nifti1Image if max(array.shape) < 2**15 else nibabel.Nifti2Image
    image = image_class(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units(_CODES[unit], "unknown")
    image.set_sform(affine, code=1)
    if _is_orthogonal(affine):
        image.set_qform(affine, code=1)
    if array.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], time_step))
    if labels:
        image.header.set_intent("label")
    with replacing(path) as temporary:
        nibabel.save(image, temporary)
    return path


def load(path: str | os.PathLike) -> NiftiContent:
    """Read a NIfTI file of three or more axes as it is stored, into memory.

    Raises
    ------
    MedverseError
        As ``read_nifti``, except that files of several volumes are read.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    path = Path(path)
    _check_path(path)
    try:
        image = _parse(path)
        raw_dtype = image.get_data_dtype()
        _check_dtype(raw_dtype, path)
        data = np.asanyarray(image.dataobj)
    except MedverseError:
        raise
    except MemoryError as error:
        raise MedverseError(
            f"{path}: is larger than the memory at hand; crop it or close other programs."
        ) from error
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        ImageFileError,
        HeaderDataError,
        WrapStructError,
    ) as error:
        raise MedverseError(
            f"{path}: is damaged or cut short ({error}); copy or export it again."
        ) from error
    affine = np.asarray(image.affine, dtype=np.float64)
    _check_affine(affine, path)
    data = _native(data, raw_dtype)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim < 3 or 0 in data.shape:
        raise MedverseError(f"{path}: holds no 3D volume, its shape is {data.shape}.")
    zooms = image.header.get_zooms()
    return NiftiContent(
        data=data,
        affine=affine,
        unit=UNITS[image.header.get_xyzt_units()[0]][0],
        time_step=float(zooms[3]) if len(zooms) > 3 and zooms[3] > 0 else 1.0,
        is_label=int(image.header["intent_code"]) == LABEL_INTENT,
    )


def stem(path: str | os.PathLike) -> str:
    """Return the file's name without folder and NIfTI suffix."""
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _parse(path: Path) -> Any:
    import nibabel

    content = path.read_bytes()
    packed = content.startswith(b"\x1f\x8b")
    stream = gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)
    start = stream.read(_HEADER)
    for image_class in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if image_class.header_class.may_contain_header(start):
            stated = _stated_size(image_class.header_class, start, path)
            if stated > len(content) * (_GZIP_FACTOR if packed else 1):
                raise MedverseError(
                    f"{path}: is damaged or cut short (its header states {stated:,} bytes, more "
                    "than it can hold); copy or export it again."
                )
            content = start + stream.read(stated + _TRAILING - len(start))
            # Reading to the end compares gzip's checksum, and finds files made to fill the memory.
            if stream.read(1):
                raise MedverseError(
                    f"{path}: holds far more than the {stated:,} bytes that its header states; "
                    "copy or export it again."
                )
            return image_class.from_bytes(content)
    raise MedverseError(f"{path}: is not a NIfTI file despite its name; convert it to NIfTI.")


def _stated_size(header_class: Any, start: bytes, path: Path) -> int:
    """Return how many bytes a file must have by its header."""
    header = header_class.from_fileobj(io.BytesIO(start), check=False)
    shape = header.get_data_shape()
    if any(side < 1 for side in shape):
        raise MedverseError(f"{path}: holds no 3D volume, its shape is {shape}.")
    voxels = math.prod(int(side) for side in shape)
    return int(header["vox_offset"]) + voxels * int(header["bitpix"]) // 8


def _check_path(path: Path) -> None:
    if not path.exists():
        raise MedverseError(f"{path}: no such file; check the path.")
    if path.is_dir():
        raise MedverseError(f"{path}: is a folder; name a .nii or .nii.gz file in it.")
    if not path.name.lower().endswith(SUFFIXES):
        raise MedverseError(
            f"{path}: only NIfTI (.nii, .nii.gz) is read; open it in napari and save it as .nii.gz."
        )
    if path.stat().st_size == 0:
        raise MedverseError(f"{path}: is empty; copy or export it again.")


def _check_dtype(dtype: np.dtype, path: Path) -> None:
    if dtype.fields is not None:
        raise MedverseError(f"{path}: holds colours (RGB); convert it to grey values.")
    if dtype.kind == "c":
        raise MedverseError(f"{path}: holds complex numbers; save their magnitude instead.")


def _check_affine(affine: np.ndarray, path: Path) -> None:
    if affine.shape == (4, 4) and np.isfinite(affine).all():
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.all() and abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-6:
            return
    raise MedverseError(
        f"{path}: its affine {affine.tolist()} has no usable spacing or orientation; set both."
    )


def _native(data: np.ndarray, raw_dtype: np.dtype) -> np.ndarray:
    if raw_dtype.kind in "iu" and data.dtype.kind == "f":
        # nibabel scales to float64, twice what 16 stored bits can fill.
        return data.astype(np.float32 if raw_dtype.itemsize <= 2 else np.float64)
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))


def _storable(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise MedverseError(f"{path}: an array of shape {array.shape} is no volume to store.")
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise MedverseError(f"{path}: values of type {array.dtype} cannot be stored as NIfTI.")
    return array


def _is_orthogonal(affine: np.ndarray) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=1e-5))
