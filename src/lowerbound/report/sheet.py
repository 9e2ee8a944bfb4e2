"""Images as one picture file: tiles side by side on white, every pixel as it is."""

from __future__ import annotations

import os

import numpy as np

from lowerbound.core.files import writing
from lowerbound.report.drawing import gap
from lowerbound.report.tiles import Array, columns_for, mosaic, pixels, value_range

__all__ = ["write_sheet"]

_SMALLEST = 64  # pixels: smaller tiles are enlarged by a whole number, so that a sheet of digits can be seen


def write_sheet(path: str | os.PathLike[str], rows: Array) -> None:
    """Write images as one PNG, as nearly square as their number allows; small ones are enlarged.

    Args:
        path: The file.
        rows: Shape ``[n, H, W]``, ``[n, 1, H, W]`` or ``[n, 3, H, W]``.

    Raises:
        RunError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sheet(f"{folder}/sheet.png", np.zeros((4, 64, 64), dtype=np.float32))
        ...     with Image.open(f"{folder}/sheet.png") as sheet:
        ...         sheet.size
        (132, 132)
    """
    from PIL import Image

    tiles = pixels(rows, *value_range(rows))
    factor = -(-_SMALLEST // max(tiles.shape[1:3]))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    sheet = mosaic(tiles, columns_for(len(tiles), *tiles.shape[1:3]), gap(tiles))
    with writing(path) as temporary:
        Image.fromarray((255 * sheet).round().astype(np.uint8)).save(temporary, format="PNG")
