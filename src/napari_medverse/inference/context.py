"""Context pairs (image and label of one specimen) and ordered sets of them."""

from collections.abc import Iterable, MutableSequence
from typing import Literal

import numpy as np

from ..errors import MedverseError
from .volume import Volume, as_volume

Task = Literal["labels", "image"]

# An integer array with at most this many values is taken for labels whatever its texture.
_SURELY_LABELS = 32
# Neighbours inside a label map are mostly equal, in a grey-value image they are not.
_EQUAL_NEIGHBOURS = 0.5
_AFFINE_TOLERANCE = 0.05


class ContextPair:
    """One specimen's image and what the network shall learn to make of it.

    Parameters
    ----------
    image : ndarray or Volume
        Shape (D, H, W).
    label : ndarray or Volume
        The same shape: integer labels (0 is background), or an image for image tasks.
        An array takes the image's affine.
    name : str
        What to call the pair in messages; the image's name where empty.
    task : {"labels", "image"}, optional
        Where None it is judged from the label: booleans, and integers (or floats holding
        whole numbers only) that form regions, are labels; anything else is an image.

    Raises
    ------
    MedverseError
        Either array cannot be used, their shapes differ, or labels are negative or not whole
        numbers. The message names the pair.

    Notes
    -----
    Arrays are not copied: use `snapshot` before handing over arrays that may be edited later.
    """

    __slots__ = ("_classes", "_misplaced", "image", "label", "name", "task")

    def __init__(
        self,
        image: np.ndarray | Volume,
        label: np.ndarray | Volume,
        name: str = "",
        task: Task | None = None,
    ) -> None:
        if task not in (None, "labels", "image"):
            raise MedverseError(f"task must be 'labels' or 'image', got {task!r}")
        given = name or (image.name if isinstance(image, Volume) else "")
        self.name = given
        self.image = as_volume(image, f"{given or 'context pair'} (image)")
        placed = isinstance(label, Volume)
        label = as_volume(label, f"{given or 'context pair'} (label)")
        if self.image.shape != label.shape:
            raise MedverseError(
                f"context pair {self.title}: image {self.image.shape} and label {label.shape} "
                "differ in shape; pair arrays of one grid"
            )
        self.task: Task = task or judge_task(label.data)
        step = min(self.image.spacing) * _AFFINE_TOLERANCE
        self._misplaced = placed and np.abs(self.image.affine - label.affine).max() > step
        data = self._whole_numbers(label.data) if self.task == "labels" else label.data
        self.label = Volume(data, self.image.affine, label.name)
        self._classes: tuple[int, ...] | None = None

    @property
    def title(self) -> str:
        """The name for messages, quoted."""
        return f"'{self.name}'" if self.name else "(unnamed)"

    @property
    def classes(self) -> tuple[int, ...]:
        """Label values above 0 that occur, ascending; empty for image tasks."""
        if self.task == "image":
            return ()
        if self._classes is None:
            self._classes = tuple(int(v) for v in distinct(self.label.data) if v > 0)
        return self._classes

    @property
    def key(self) -> tuple[str, str]:
        """Content hashes of image and label, computed once."""
        return self.image.key, self.label.key

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.image.nbytes + self.label.nbytes

    def warnings(self) -> tuple[str, ...]:
        """What looks wrong with this pair, in words for the user; empty if nothing does."""
        found = []
        if self.image.constant:
            found.append("the image is constant")
        if self.task == "labels" and not self.classes:
            found.append("the label is empty")
        if self._misplaced:
            found.append("image and label have different affines; the image's is used")
        return tuple(found)

    def snapshot(self) -> "ContextPair":
        """Return a copy that later edits of the original arrays cannot reach."""
        copy = ContextPair(self.image.snapshot(), self.label.snapshot(), self.name, self.task)
        copy._misplaced = self._misplaced
        return copy

    def __repr__(self) -> str:
        return f"ContextPair({self.title}, shape={self.image.shape}, task={self.task!r})"

    def _whole_numbers(self, data: np.ndarray) -> np.ndarray:
        if data.dtype.kind == "f":
            if not _is_whole(data):
                raise MedverseError(
                    f"context pair {self.title}: the label holds fractions, "
                    "so it is no label map; use task='image' or round it"
                )
            data = data.astype(np.min_scalar_type(int(data.max())) if data.min() >= 0 else int)
        if data.dtype.kind == "i" and data.min() < 0:
            raise MedverseError(
                f"context pair {self.title}: the label holds negative values (down to "
                f"{int(data.min())}); label values must be 0 (background) or more"
            )
        return data


class ContextSet(MutableSequence):
    """An ordered, list-like collection of context pairs.

    Parameters
    ----------
    pairs
        `ContextPair` objects, or (image, label) tuples.
    """

    def __init__(self, pairs: Iterable[ContextPair | tuple] = ()) -> None:
        if isinstance(pairs, ContextPair):
            pairs = [pairs]
        if isinstance(pairs, np.ndarray | Volume | str) or not isinstance(pairs, Iterable):
            raise MedverseError(
                f"context pairs are needed, got {type(pairs).__name__}; "
                "give a list of ContextPair(image, label)"
            )
        self._pairs = [_as_pair(pair, index) for index, pair in enumerate(pairs)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index):
        found = self._pairs[index]
        return ContextSet(found) if isinstance(index, slice) else found

    def __setitem__(self, index, value) -> None:
        if isinstance(index, slice):
            self._pairs[index] = [_as_pair(pair, i) for i, pair in enumerate(value)]
        else:
            self._pairs[index] = _as_pair(value, index)

    def __delitem__(self, index) -> None:
        del self._pairs[index]

    def insert(self, index: int, value: ContextPair | tuple) -> None:
        """Insert a pair before `index`."""
        self._pairs.insert(index, _as_pair(value, index))

    def __repr__(self) -> str:
        return f"ContextSet({self._pairs!r})"

    @property
    def task(self) -> Task:
        """The common task of all pairs.

        Raises
        ------
        MedverseError
            The set is empty, or mixes labels and images.
        """
        if not self._pairs:
            raise MedverseError("the context set is empty: add at least one image and label")
        tasks = {pair.task for pair in self._pairs}
        if len(tasks) > 1:
            images = ", ".join(pair.title for pair in self._pairs if pair.task == "image")
            raise MedverseError(
                "the context set mixes label pairs and image pairs; "
                f"image pairs are {images}: remove them or state their task"
            )
        return tasks.pop()

    @property
    def classes(self) -> tuple[int, ...]:
        """Label values above 0 that occur in any pair, ascending."""
        return tuple(sorted({value for pair in self._pairs for value in pair.classes}))

    def validate(self, classes: Iterable[int] | None = None) -> tuple[int, ...]:
        """Check that the pairs can serve as context and return the classes to predict.

        Parameters
        ----------
        classes
            Label values wanted; None means all that occur.

        Returns
        -------
        tuple of int
            The classes in the order wanted; empty for image tasks.

        Raises
        ------
        MedverseError
            No pairs, mixed tasks, an image that is constant, no foreground anywhere, a class
            that no pair holds, or a class that is not a positive whole number.
        """
        task = self.task
        for pair in self._pairs:
            if pair.image.constant:
                raise MedverseError(
                    f"context pair {pair.title}: the image is constant, so nothing can be "
                    "learnt from it; remove the pair or choose another image"
                )
        if task == "image":
            if classes:
                raise MedverseError("classes were given, but the pairs are image to image")
            return ()
        return self._chosen_classes(classes)

    def _chosen_classes(self, classes: Iterable[int] | None) -> tuple[int, ...]:
        present = self.classes
        if not present:
            names = ", ".join(pair.title for pair in self._pairs)
            raise MedverseError(f"every label is empty ({names}): paint the structure in one")
        if classes is None:
            return present
        if isinstance(classes, str) or not isinstance(classes, Iterable):
            raise MedverseError(f"classes must be a list of label values, got {classes!r}")
        chosen = tuple(dict.fromkeys(classes))
        if not chosen:
            raise MedverseError(f"no class was chosen; the pairs hold {_listed(present)}")
        for value in chosen:
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not float(value).is_integer() or value < 1:
                raise MedverseError(f"class {value!r} is not a positive whole number")
            if value not in present:
                raise MedverseError(
                    f"class {value} is in no context label; the pairs hold {_listed(present)}"
                )
        return tuple(int(value) for value in chosen)


def distinct(array: np.ndarray) -> np.ndarray:
    """Return the ascending distinct values of an array of whole numbers."""
    if array.dtype.kind in "bui":
        low, high = int(array.min()), int(array.max())
        if high - low < 1 << 20:
            seen = np.zeros(high - low + 1, bool)
            # Marking is several times faster than sorting millions of voxels.
            for plane in array:
                seen[plane.astype(np.int64).ravel() - low] = True
            return np.flatnonzero(seen) + low
    return np.unique(array)


def judge_task(label: np.ndarray) -> Task:
    """Tell a label map from a grey-value image.

    Whole numbers with at most 32 values are labels; with more they are labels where most
    neighbours inside the foreground are equal, as in regions and unlike in grey values.
    """
    if label.dtype.kind == "f" and not _is_whole(label):
        return "image"
    if len(distinct(label)) <= _SURELY_LABELS:
        return "labels"
    before, after = label[:, :, :-1], label[:, :, 1:]
    inside = (before != 0) & (after != 0)
    count = int(np.count_nonzero(inside))
    equal = int(np.count_nonzero(inside & (before == after)))
    return "labels" if equal > _EQUAL_NEIGHBOURS * count else "image"


def _is_whole(array: np.ndarray) -> bool:
    middle = array[len(array) // 2]
    if not np.array_equal(middle, np.rint(middle)):
        return False
    return all(np.array_equal(plane, np.rint(plane)) for plane in array)


def _as_pair(value: ContextPair | tuple, index: int) -> ContextPair:
    if isinstance(value, ContextPair):
        return value
    if isinstance(value, tuple | list) and len(value) == 2:
        return ContextPair(*value, name="" if isinstance(value[0], Volume) else f"pair {index + 1}")
    raise MedverseError(
        f"context {index + 1} is {type(value).__name__}; give ContextPair(image, label)"
    )


def _listed(values: tuple[int, ...]) -> str:
    shown = ", ".join(str(v) for v in values[:12])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 12 else shown
