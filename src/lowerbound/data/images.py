"""A folder of pictures of one size: grey ones become (H, W), coloured ones (3, H, W), with 8 bits a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.core.errors import DataError, explain
from lowerbound.data.table import Table

__all__ = ["SUFFIXES", "read_folder"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})

_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})


def read_folder(path: Path, labels: Any) -> Table:
    """Read the pictures of a folder in the order of their names.

    The names of sub-folders become labels. Transparency is dropped; of an animation the first picture is taken; files
    that are no pictures are passed over.

    Args:
        path: The folder, which holds either pictures or sub-folders of pictures.
        labels: One label for each picture, in the order of their paths, or None.

    Returns:
        The pictures, uint8, shape ``[n, H, W]`` or ``[n, 3, H, W]``, and the labels.

    Raises:
        DataError: if there is no picture, one is damaged, or one differs from the first in size or in being grey; the
            message names the file.
    """
    files = sorted(_pictures(path))
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    inner = [(file, folder.name) for folder in folders for file in sorted(_pictures(folder))]
    if not files and not inner:
        cure = f"Put pictures into it: {', '.join(sorted(SUFFIXES))}."
        raise DataError(explain(str(path), expected="a folder of pictures", got="no picture", cure=cure))
    if files and inner:
        got = f"{files[0].name} beside the folder {inner[0][1]}"
        cure = "Move every picture into the sub-folder of its label, or all into one folder."
        raise DataError(explain(str(path), expected="pictures or sub-folders of pictures", got=got, cure=cure))
    if isinstance(labels, str):
        cure = "Put the pictures of each label into a sub-folder, or give one label for each picture."
        raise DataError(explain("labels", expected="values for a folder", got=repr(labels), cure=cure))
    if inner:
        files, names = [file for file, _ in inner], [name for _, name in inner]
        labels = names if labels is None else labels
    first = _pixels(files[0])
    rows = torch.empty((len(files), *first.shape), dtype=torch.uint8)
    for number, file in enumerate(files):
        pixels = _pixels(file)
        if pixels.shape != first.shape:
            got = f"{file.name} with {_form(pixels)}"
            cure = "Bring all pictures to one size, all grey or all coloured."
            raise DataError(explain(str(path), expected=f"{_form(first)}, as in {files[0].name}", got=got, cure=cure))
        rows[number] = torch.from_numpy(pixels)
    return Table(rows, labels, levels=256)


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]


def _form(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[-1]} x {pixels.shape[-2]} {'grey' if pixels.ndim == 2 else 'coloured'} pixels"


def _pixels(file: Path) -> NDArray[np.uint8]:
    """Return a picture as uint8, shape ``[H, W]`` or ``[3, H, W]``."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            mode = picture.mode
            if mode in _GREY:
                return np.array(picture.convert("L"))
            if mode in _COLOUR:  # by way of RGBA, because a palette may have transparency
                return np.array(picture.convert("RGBA").convert("RGB")).transpose(2, 0, 1).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        cure = "The picture is damaged: remove it or restore it."
        raise DataError(explain(str(file), expected="a picture", got=error, cure=cure)) from error
    cure = "Save it with 8 bits a channel, grey or RGB."
    raise DataError(explain(str(file), expected="8-bit pixels", got=f"mode {mode}", cure=cure))
