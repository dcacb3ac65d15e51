"""A 3D array with its place in the world."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np

from ..errors import MedverseError

_NUMERIC_KINDS = "buif"


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D array, its affine and its name; never modified by the engine.

    The array is not copied (see `snapshot`), but is seen through a read-only view.

    Attributes
    ----------
    data : ndarray, shape (D, H, W)
        Booleans, integers or floats; booleans are viewed as uint8.
    affine : ndarray, shape (4, 4), float64
        Maps array indices (i, j, k) to world coordinates in mm (or layer units).
    name : str
        The layer or file the array came from, used in messages.

    Raises
    ------
    MedverseError
        The array is not 3D, is empty or not numeric, or the affine is not usable.
    """

    data: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _checked_array(self.data, self.label))
        object.__setattr__(self, "affine", _checked_affine(self.affine, self.label))

    @classmethod
    def from_array(
        cls,
        array: np.ndarray,
        spacing: tuple[float, float, float] | None = None,
        affine: np.ndarray | None = None,
        name: str = "",
    ) -> "Volume":
        """Place an array in the world by its affine, or by its spacing alone.

        Parameters
        ----------
        array
            Shape (D, H, W).
        spacing
            Voxel size along the array's axes; ignored where an affine is given.
        affine
            4x4, array index to world. Identity (or the spacing) where None.
        name
            Used in messages.
        """
        if affine is None:
            affine = np.eye(4)
            if spacing is not None:
                steps = np.asarray(spacing, float)
                if steps.shape != (3,) or not np.all(np.isfinite(steps)) or np.any(steps <= 0):
                    raise MedverseError(
                        f"{_named(name)}: spacing must be three positive numbers, got {spacing!r}"
                    )
                affine = np.diag([*steps, 1.0])
        return cls(array, affine, name)

    @property
    def label(self) -> str:
        """The name for messages: quoted, or "the volume" where there is none."""
        return _named(self.name)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.data.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the array's axes: the column norms of the affine."""
        return tuple(float(x) for x in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.data.nbytes

    @property
    def key(self) -> str:
        """Hash of the array's content, shape and dtype; computed once, on first use."""
        if "_key" not in self.__dict__:
            object.__setattr__(self, "_key", content_key(self.data))
        return self.__dict__["_key"]

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value; computed once, on first use."""
        if "_extremes" not in self.__dict__:
            found = float(self.data.min()), float(self.data.max())
            object.__setattr__(self, "_extremes", found)
        return self.__dict__["_extremes"]

    @property
    def constant(self) -> bool:
        """Whether all voxels have one value."""
        low, high = self.extremes
        return low == high

    def snapshot(self) -> "Volume":
        """Return a copy that later edits of the original array cannot reach."""
        return Volume(self.data.copy(), self.affine.copy(), self.name)

    def renamed(self, name: str) -> "Volume":
        """Return the same volume (array shared) under another name."""
        other = Volume(self.data, self.affine, name)
        # What is known of the array stays known.
        for fact in ("_key", "_extremes"):
            if fact in self.__dict__:
                object.__setattr__(other, fact, self.__dict__[fact])
        return other


def as_volume(value: "np.ndarray | Volume", name: str = "") -> Volume:
    """Return `value` as a checked `Volume`.

    Parameters
    ----------
    value
        A `Volume`, or an array (D, H, W) of booleans, integers or floats.
    name
        What to call it in messages, where it has no name of its own.

    Raises
    ------
    MedverseError
        Not 3D, empty, not numeric, or not finite everywhere; the message names the volume.
    """
    volume = value if isinstance(value, Volume) else Volume(value, name=name)
    if not volume.name and name:
        volume = volume.renamed(name)
    _check_finite(volume)
    return volume


def content_key(array: np.ndarray) -> str:
    """Hash an array's bytes together with its shape, dtype and memory order.

    Arrays in Fortran order, as NIfTI files give them, are hashed as they lie: turning them round
    would take several times longer than the hash.
    """
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        digest.update(b"F")
        array = array.T
    if array.flags.c_contiguous:
        digest.update(array.reshape(-1).view(np.uint8))
    else:
        for plane in array:
            digest.update(np.ascontiguousarray(plane).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _named(name: str) -> str:
    return f"'{name}'" if name else "the volume"


def _checked_array(value: np.ndarray, label: str) -> np.ndarray:
    if isinstance(value, str | os.PathLike):
        raise MedverseError(
            f"{label}: a path is no volume; read the file first (napari_medverse.io.read_nifti)"
        )
    array = np.asarray(value)
    if array.dtype.kind not in _NUMERIC_KINDS:
        raise MedverseError(
            f"{label}: dtype {array.dtype} cannot be used; "
            "give real numbers (integers, floats or booleans)"
        )
    if array.ndim != 3:
        raise MedverseError(f"{label}: {_dimension_advice(array)}")
    if array.size == 0:
        raise MedverseError(f"{label}: the array is empty (shape {array.shape})")
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    view = array.view()
    view.flags.writeable = False
    return view


def _dimension_advice(array: np.ndarray) -> str:
    got = f"a 3D array is needed, got shape {array.shape}"
    if array.ndim == 4 and array.shape[-1] in (3, 4):
        return f"{got}; an RGB image must be converted to one channel first"
    if array.ndim > 3:
        return f"{got}; choose one time point or channel"
    if array.ndim == 2:
        return f"{got}; a single slice is not a volume"
    return got


def _checked_affine(value: np.ndarray, label: str) -> np.ndarray:
    affine = np.array(value, dtype=np.float64)
    if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
        raise MedverseError(f"{label}: the affine must be a 4x4 matrix of finite numbers")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(steps == 0) or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        raise MedverseError(
            f"{label}: the affine cannot be inverted; correct the spacing and the orientation"
        )
    affine.flags.writeable = False
    return affine


def _check_finite(volume: Volume) -> None:
    # A single NaN or infinity shows in the extremes, which are needed later anyway.
    if volume.data.dtype.kind != "f" or all(np.isfinite(volume.extremes)):
        return
    bad = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in volume.data)
    raise MedverseError(
        f"{volume.label}: {bad} voxels are NaN or infinite; "
        "replace them (numpy.nan_to_num) before use"
    )
