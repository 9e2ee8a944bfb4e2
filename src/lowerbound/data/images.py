"""A folder of pictures of any kind: grey ones become (H, W), coloured ones (3, H, W), with 8 bits a value."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, DataError, RunError, explain
from lowerbound.core.versions import version
from lowerbound.data.cached import find, keep, large, place
from lowerbound.data.picture import Header, pixels, read_header
from lowerbound.data.store import Disk
from lowerbound.data.table import Table

__all__ = ["SUFFIXES", "ImageSize", "read_folder"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})

ImageSize = int | Sequence[int]

_LARGEST = 64  # the side that pictures of several sizes get at most, unless told otherwise
_MANY = 1000  # pictures; fewer are decoded in a moment
_BLOCK = 256  # pictures that are decoded before they are written
_NAMED = 5  # damaged pictures that an error names


def read_folder(path: Path, labels: Any, *, image_size: ImageSize | None = None) -> Table:
    """Read the pictures of a folder in the order of their names, brought to one size and all to grey or RGB.

    The names of sub-folders become labels; files that are no pictures are passed over. What is done to a picture is
    written in `lowerbound.data.picture.pixels`, and how many it was done to stands in the record of the table. Of many
    pictures, the pixels are kept in the user's cache directory for the next time; and those that would take more than a
    quarter of the machine's memory are read from there, batch by batch.

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
    rows, done = _rows(path, files, size)
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


def _rows(path: Path, files: list[Path], size: tuple[int, ...] | None) -> tuple[Tensor | Disk, dict[str, int]]:
    """Return all pictures, and to how many each thing was done; of many, the pixels are decoded only once."""
    array = place("images", [str(path.resolve()), size], _state(path, files))
    found = find(array)
    if found is None:
        damaged: dict[Path, DataError] = {}
        shape = len(files), *_event_shape(_headers(path, files, damaged), size)
        done = Counter[str]()
        if len(files) < _MANY and not large(shape, 1):
            return _together(_blocks(path, files, shape, damaged, done)), dict(sorted(done.items()))
        try:
            found = keep(array, shape, "|u1", _blocks(path, files, shape, damaged, done), done)
        except RunError:  # the cache directory cannot be written
            if large(shape, 1):
                raise
            done.clear()
            return _together(_blocks(path, files, shape, damaged, done)), dict(sorted(done.items()))
    rows, facts = found
    return (rows if large(rows.shape, 1) else rows.span(0, len(files))), facts


def _together(blocks: Iterator[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.concatenate(list(blocks)))


def _state(path: Path, files: Sequence[Path]) -> list[Any]:
    """Return the pictures' names, sizes and times of change, and what decodes them."""
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return [version("pillow"), [[name, seen.st_size, seen.st_mtime_ns] for name, seen in stats]]


def _headers(path: Path, files: Sequence[Path], damaged: dict[Path, DataError]) -> list[Header]:
    """Return the headers of all pictures but those that are found damaged."""
    headers = []
    for file in files:
        try:
            headers.append(read_header(file))
        except DataError as error:
            damaged[file] = error
    if not headers:
        _refuse(path, [damaged[file] for file in sorted(damaged)])
    return headers


def _blocks(
    path: Path, files: Sequence[Path], shape: tuple[int, ...], damaged: dict[Path, DataError], done: Counter[str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield all pictures in blocks, and count what was done to them.

    Raises:
        DataError: after the last, if some are damaged.
    """

    def read(file: Path) -> tuple[NDArray[np.uint8], list[str]]:
        try:
            if file not in damaged:
                return pixels(file, shape[1:])
        except DataError as error:
            damaged[file] = error
        return np.zeros(shape[1:], np.uint8), []

    from rich.console import Console
    from rich.progress import track

    starts, few = range(0, len(files), _BLOCK), len(files) < _MANY
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes and resizes outside of Python's lock
        for start in track(starts, "pictures", console=Console(stderr=True), transient=True, disable=few):
            found = list(threads.map(read, files[start : start + _BLOCK]))
            done.update(word for _, words in found for word in words)
            yield np.stack([array for array, _ in found])
    if damaged:
        _refuse(path, [damaged[file] for file in sorted(damaged)])


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
