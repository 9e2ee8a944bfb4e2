"""A folder of pictures of any kind: grey ones become (H, W), coloured ones (3, H, W), with 8 bits a value."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.data.decoded import keep_decoded, read_decoded
from lowerbound.data.picture import Header, pixels, read_header
from lowerbound.data.table import Table

__all__ = ["SUFFIXES", "ImageSize", "read_folder"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})

ImageSize = int | Sequence[int]

_LARGEST = 64  # the side that pictures of several sizes get at most, unless told otherwise
_NAMED = 5  # damaged pictures that an error names


def read_folder(path: Path, labels: Any, *, image_size: ImageSize | None = None) -> Table:
    """Read the pictures of a folder in the order of their names, brought to one size and all to grey or RGB.

    The names of sub-folders become labels; files that are no pictures are passed over. What is done to a picture is
    written in `lowerbound.data.picture.pixels`, and how many it was done to stands in the record of the table. Of many
    pictures, the pixels are kept in the user's cache directory for the next time.

    Args:
        path: The folder, which holds either pictures or sub-folders of pictures.
        labels: One label for each picture, in the order of their paths, or None.
        image_size: The side of a square, or the whole event shape: ``(height, width)`` for grey, ``(3, height, width)``
            for RGB. None for the size that all pictures share; if they share none, for a square whose side is the power
            of two at or below the median of their shorter sides, and at most 64. All are grey only if each is.

    Returns:
        The pictures, uint8, shape ``[n, H, W]`` or ``[n, 3, H, W]``, and the labels.

    Raises:
        ArgumentError: if `image_size` is no size.
        DataError: if there is no picture or some are damaged; the message names the files.
    """
    files, names = _listing(path)
    if isinstance(labels, str):
        cure = "Put the pictures of each label into a sub-folder, or give one label for each picture."
        raise DataError(explain("labels", expected="values for a folder", got=repr(labels), cure=cure))
    if labels is None:
        labels = names
    size = None if image_size is None else _checked(image_size)
    found = read_decoded(path, files, size)
    if found is None:
        found = _decoded(path, files, size)
        keep_decoded(path, files, size, *found)
    rows, done = found
    return Table(rows, labels, levels=256, record={"images": done})


def _listing(path: Path) -> tuple[list[Path], list[str] | None]:
    """Return the pictures of a folder, and the name of the sub-folder of each if they lie in such."""
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
    return (files, None) if files else ([file for file, _ in inner], [name for _, name in inner])


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]


def _checked(size: ImageSize) -> tuple[int, ...]:
    """Return a size as ``(side,)`` or an event shape."""
    sides = (size,) if isinstance(size, int) else tuple(size)
    for side in sides:
        positive_int("image_size", side)
    if len(sides) not in (1, 2, 3) or (len(sides) == 3 and sides[0] != 3):
        cure = "Pass the side of a square, such as 32, or (height, width) for grey, or (3, height, width) for RGB."
        raise ArgumentError(explain("image_size", expected="a size of pictures", got=size, cure=cure))
    return sides


def _decoded(path: Path, files: list[Path], size: tuple[int, ...] | None) -> tuple[Tensor, dict[str, int]]:
    """Return all pictures, and to how many each thing was done."""
    damaged: dict[Path, DataError] = {}
    headers: list[Header] = []
    for file in files:
        try:
            headers.append(read_header(file))
        except DataError as error:
            damaged[file] = error
    if not headers:
        _refuse(path, list(damaged.values()))
    shape, done = _event_shape(headers, size), Counter[str]()
    rows = torch.empty((len(files), *shape), dtype=torch.uint8)
    for number, file in enumerate(files):
        try:
            if file not in damaged:
                array, words = pixels(file, shape)
                rows[number] = torch.from_numpy(array)
                done.update(words)
        except DataError as error:
            damaged[file] = error
    if damaged:
        _refuse(path, list(damaged.values()))
    return rows, dict(sorted(done.items()))


def _event_shape(headers: Sequence[Header], size: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the form that all pictures are brought to."""
    if size is not None and len(size) > 1:
        return size
    colours = (3,) if any(header.coloured for header in headers) else ()
    if size is not None:
        return (*colours, size[0], size[0])
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1:
        return (*colours, *sizes.pop())
    shorter = int(statistics.median(min(header.height, header.width) for header in headers))
    side = min(1 << (shorter.bit_length() - 1), _LARGEST)
    return (*colours, side, side)


def _refuse(path: Path, damaged: Sequence[DataError]) -> NoReturn:
    """Raise an error that names the damaged pictures."""
    if len(damaged) == 1:
        raise damaged[0]
    said = "; ".join(str(error).split(" expected a picture, got ")[0].rstrip(":") for error in damaged[:_NAMED])
    got = f"{len(damaged)} damaged ones: {said}{'; ...' if len(damaged) > _NAMED else ''}"
    raise DataError(explain(str(path), expected="pictures", got=got, cure="Remove them or restore them."))
