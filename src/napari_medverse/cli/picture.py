"""A picture of a result: three slices of the scan, its truth, and the prediction."""

from pathlib import Path

import numpy as np

from ..io import replacing

_COLOURS = np.array(
    [[255, 140, 40], [60, 150, 255], [90, 220, 100], [240, 90, 200], [240, 220, 70]], float
)
_ZOOM = 3
_GAP = 6
_HEADER = 26


def draw_result(
    path: Path, image: np.ndarray, panels: dict[str, np.ndarray | None], caption: str
) -> None:
    """Write a PNG with one row of three slices per panel.

    Parameters
    ----------
    path
        The PNG to write.
    image
        (D, H, W) grey values.
    panels
        Title and label map (D, H, W) of each row; ``None`` shows the scan alone. The slices
        go through the middle of the last label map.
    caption
        A line below the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    low, high = np.percentile(image, [1, 99.7])
    grey = np.clip((image.astype(float) - low) / max(high - low, 1e-6), 0, 1) * 255
    centre = _middle([label for label in panels.values() if label is not None][-1])
    rows = [
        [_slice(grey, label, axis, centre[axis]) for axis in range(3)] for label in panels.values()
    ]
    widths = [tile.shape[1] * _ZOOM for tile in rows[0]]
    height = max(tile.shape[0] for tile in rows[0]) * _ZOOM
    size = (
        sum(widths) + _GAP * 4,
        len(rows) * (height + _HEADER + _GAP) + _HEADER + _GAP,
    )
    canvas = Image.new("RGB", size, (18, 20, 24))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    top = _GAP
    for title, tiles in zip(panels, rows, strict=True):
        draw.text((_GAP, top + 2), title, (230, 230, 230), font)
        left = _GAP
        for tile, width in zip(tiles, widths, strict=True):
            picture = Image.fromarray(tile.astype(np.uint8))
            picture = picture.resize((width, tile.shape[0] * _ZOOM), Image.Resampling.BILINEAR)
            canvas.paste(picture, (left, top + _HEADER))
            left += width + _GAP
        top += height + _HEADER + _GAP
    draw.text((_GAP, top + 2), caption, (180, 180, 180), font)
    with replacing(path) as temporary:
        canvas.save(temporary)


def _middle(label: np.ndarray) -> list[int]:
    """Return, per axis, the slice in the middle of what is labelled."""
    inside = np.argwhere(label > 0)
    if len(inside) == 0:
        return [n // 2 for n in label.shape]
    return np.median(inside, axis=0).astype(int).tolist()


def _slice(grey: np.ndarray, label: np.ndarray | None, axis: int, index: int) -> np.ndarray:
    tile = np.repeat(np.take(grey, index, axis)[..., None], 3, axis=2)
    if label is None:
        return tile
    values = np.take(label, index, axis).astype(int)
    inside = values > 0
    tint = _COLOURS[(values[inside] - 1) % len(_COLOURS)]
    tile[inside] = 0.45 * tile[inside] + 0.55 * tint
    return tile
