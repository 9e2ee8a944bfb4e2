"""One picture file: what its header says, and its pixels as uint8 in the form that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.errors import DataError, explain

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Header", "pixels", "read_header"]

_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"})
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


class Header(NamedTuple):
    """What is known of a picture before its pixels are read.

    Attributes:
        height: Pixels, as the picture is looked at: after its EXIF orientation.
        width: Pixels.
        coloured: Whether it is stored in colours; a palette counts as colours.
    """

    height: int
    width: int
    coloured: bool


def read_header(file: Path) -> Header:
    """Return the size of a picture and whether it is coloured.

    Raises:
        DataError: if it is damaged or has pixels of another kind.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(file) as picture:
            width, height = picture.size
            if picture.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
                width, height = height, width
            mode = picture.mode
    except Exception as error:  # Pillow raises many kinds on a damaged file
        raise _damaged(file, error) from error
    if mode == "F":
        cure = "Save it with 8 or 16 bits a channel."
        raise DataError(explain(str(file), expected="whole-numbered pixels", got="mode F", cure=cure))
    return Header(height, width, mode not in _GREY)


def pixels(file: Path | BinaryIO, event_shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the pixels of a picture, and what was done to them.

    It is turned upright by its EXIF orientation; 16 bits are rounded to 8; transparency is laid over white; it is
    converted to grey or RGB; and if its size is another, it is resized until it covers the size, and cropped to the
    middle. Of an animation the first picture is taken.

    Args:
        file: The file, or a stream of its bytes.
        event_shape: ``(height, width)`` for grey, ``(3, height, width)`` for RGB.

    Returns:
        uint8 of the shape `event_shape`, and a few words for each thing done that changed values.

    Raises:
        DataError: if it is damaged.
    """
    from PIL import ExifTags, Image, ImageOps

    done = []
    try:
        with Image.open(file) as opened:
            picture: Image.Image = opened
            if any(";16" in str(part.args) for part in opened.tile):
                done.append("16 bits to 8")
            if opened.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                done.append("turned upright by EXIF orientation")
                picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):
                picture = Image.fromarray(_eight_bits(np.asarray(picture)))
            picture, words = _converted(picture, "RGB" if len(event_shape) == 3 else "L")
            done += words
            height, width = event_shape[-2:]
            if picture.size != (width, height):
                done.append("resized" if _same_ratio(picture.size, width, height) else "resized and cropped")
                picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
            array = np.array(picture)
    except Exception as error:  # Pillow raises many kinds on a damaged file
        raise _damaged(file, error) from error
    return (array.transpose(2, 0, 1).copy() if array.ndim == 3 else array), done


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return values from 0 to 65535 as the nearest from 0 to 255."""
    wide = values.astype(np.int64).clip(0, 65535)
    eight: NDArray[np.uint8] = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    return eight


def _converted(picture: Image, mode: str) -> tuple[Image, list[str]]:
    """Return a picture over white in another mode, and what that changed."""
    from PIL import Image

    done, stored = [], picture.mode
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            done.append("transparency over white")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if stored in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        done.append(f"{'palette' if stored in ('P', 'PA') else stored} to {'RGB' if mode == 'RGB' else 'grey'}")
    elif (stored in _GREY) == (mode == "RGB"):
        done.append("grey to RGB" if mode == "RGB" else "RGB to grey")
    return picture.convert("RGB").convert(mode), done


def _same_ratio(size: tuple[int, int], width: int, height: int) -> bool:
    return size[0] * height == size[1] * width


def _damaged(file: Path | BinaryIO, error: Exception) -> DataError:
    return DataError(
        explain(str(file), expected="a picture", got=error, cure="The picture is damaged: remove it or restore it.")
    )
