"""Rows that are images: as one PNG to the page, and from a picture that the user gives to a row."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowerbound.core.errors import DataError, explain
from lowerbound.data.picture import pixels as read_pixels
from lowerbound.report.tiles import pixels

__all__ = ["MOST_PIXELS", "read_picture", "strip"]

MOST_PIXELS = 25_000_000  # a picture is unpacked in memory before it is made small
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")


def strip(rows: Tensor, low: float, high: float) -> bytes:
    """Return images side by side as one PNG file, whose height is that of an image.

    Args:
        rows: Shape ``[n, H, W]``, ``[n, 1, H, W]`` or ``[n, 3, H, W]``.
        low: The value that is drawn black.
        high: The value that is drawn white.

    Example:
        >>> Image.open(io.BytesIO(strip(torch.rand(5, 8, 6), 0, 1))).size
        (30, 8)
    """
    colours = np.rint(pixels(rows.numpy(), low, high) * 255).astype(np.uint8)  # [n, H, W, 3]
    grey = rows.dim() == 3 or rows.shape[1] == 1
    wide = np.concatenate(list(colours), axis=1)
    picture = Image.fromarray(np.ascontiguousarray(wide[..., 0])) if grey else Image.fromarray(wide)
    with io.BytesIO() as stream:
        picture.save(stream, format="PNG", compress_level=1)
        return stream.getvalue()


def read_picture(
    content: bytes, shape: tuple[int, ...], *, low: float, high: float, binary: bool, invert: bool = False
) -> Tensor:
    """Return a picture as a row that a model takes.

    It is brought to the form of rows as a picture of a folder is: see `lowerbound.data.picture.pixels`.

    Args:
        content: A file: PNG, JPEG, GIF, BMP or WebP; of an animation, the first picture is taken.
        shape: The event shape, ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``.
        low: The value of a row that black becomes.
        high: The value that white becomes.
        binary: Whether values are 0 or 1; then lighter than half becomes 1.
        invert: Whether to take the negative: ink on paper for a model of white on black.

    Returns:
        Float32 of the event shape.

    Raises:
        DataError: if it is no picture, a damaged one, or one of more than 25 million pixels.
    """
    form = shape if len(shape) == 3 and shape[0] == 3 else shape[-2:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as damaged metadata, or the size, which is checked here
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                size = picture.size
        except Exception as error:  # a decoder may raise anything on a damaged file
            raise _no_picture(error) from error
        _check_size(*size)
        try:
            array, _ = read_pixels(io.BytesIO(content), form)
        except DataError as error:
            raise _no_picture(error.__cause__ or error) from error
    values = torch.from_numpy(array).float() / 255
    values = (1 - values if invert else values).reshape(shape)
    return (values > 0.5).float() if binary else low + (high - low) * values


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        expected = f"at most {MOST_PIXELS // 1_000_000} million pixels"
        raise DataError(explain("picture", expected=expected, got=f"{width} x {height}", cure="Make it smaller."))


def _no_picture(error: BaseException) -> DataError:
    cure = "Give a PNG, JPEG, GIF, BMP or WebP file that other programs open."
    return DataError(explain("picture", expected="an image file", got=type(error).__name__, cure=cure))
