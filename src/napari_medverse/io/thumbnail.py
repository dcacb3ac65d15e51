"""Small pictures of annotated volumes, for lists."""

import io

import numpy as np

from ..inference.volume import Volume

#: pixels on a side
SIZE = 48

#: overlay colours of the classes, as seen by colour-blind eyes too
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167]],
    dtype=np.float32,
)


def thumbnail(image: Volume, label: Volume | None, only: int | None = None) -> np.ndarray:
    """Draw the slice with most label over the image.

    Parameters
    ----------
    image
        (D, H, W).
    label
        Integer labels on the same grid; None draws the middle slice alone.
    only
        Show this label value alone.

    Returns
    -------
    ndarray
        (48, 48, 3) uint8, the true aspect kept, black around it.
    """
    index = image.shape[0] // 2
    if label is not None:
        shown = label.data > 0 if only is None else label.data == only
        per_slice = np.count_nonzero(shown, axis=(1, 2))
        index = int(per_slice.argmax()) if per_slice.any() else index
    rows, columns = _sample(image, axis=1), _sample(image, axis=2)
    grey = image.data[index][np.ix_(rows, columns)].astype(np.float32)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    picture = np.repeat(grey[..., None] * 255, 3, axis=2)
    if label is not None:
        values = label.data[index][np.ix_(rows, columns)].astype(np.int64)
        inside = values > 0 if only is None else values == only
        tint = COLOURS[(values[inside] - 1) % len(COLOURS)]
        picture[inside] = 0.45 * picture[inside] + 0.55 * tint
    return _centred(picture.astype(np.uint8))


def as_png(picture: np.ndarray) -> bytes:
    """Return a picture, (height, width, 3) uint8, as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def from_png(content: bytes) -> np.ndarray:
    """Return the picture, (height, width, 3) uint8, of a PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _sample(volume: Volume, axis: int) -> np.ndarray:
    """Return the indices along an axis that fit the thumbnail, keeping the true aspect."""
    lengths = np.asarray(volume.shape[1:]) * np.asarray(volume.spacing[1:])
    pixels = max(1, round(SIZE * lengths[axis - 1] / lengths.max()))
    return np.linspace(0, volume.shape[axis] - 1, pixels).round().astype(int)


def _centred(picture: np.ndarray) -> np.ndarray:
    square = np.zeros((SIZE, SIZE, 3), np.uint8)
    top, left = ((SIZE - n) // 2 for n in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square
