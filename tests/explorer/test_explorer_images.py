"""Pictures as they go to the page and come from the user: every pixel in its place, and no file does harm."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.core.errors import DataError
from lowerbound.data import load_all
from lowerbound.explorer.images import read_picture, strip

PLAIN = {"low": 0.0, "high": 1.0, "binary": False}


def file(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    with io.BytesIO() as stream:
        picture.save(stream, kind, **options)
        return stream.getvalue()


def grey(values) -> bytes:
    return file(Image.fromarray(np.asarray(values, dtype=np.uint8)))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (3, 4, 6)])
def test_a_strip_holds_every_image_at_its_place(shape):
    rows = torch.rand(5, *shape)
    pixels = np.asarray(Image.open(io.BytesIO(strip(rows, 0.0, 1.0))))
    for k, row in enumerate(rows):
        tile = pixels[:, 6 * k : 6 * k + 6]
        expected = (row.movedim(0, -1) if shape[0] == 3 else row.reshape(4, 6)).numpy() * 255
        np.testing.assert_array_equal(tile, np.rint(expected))


def test_a_strip_is_scaled_and_cut_to_its_range():
    pixels = np.asarray(Image.open(io.BytesIO(strip(torch.tensor([[[-9.0, -1.0, 0.0, 3.0, 7.0]]]), -1.0, 3.0))))
    assert pixels.tolist() == [[0, 0, 64, 255, 255]]


def test_a_picture_of_the_rows_size_comes_back_as_it_was():
    values = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    row = read_picture(grey(values), (8, 8), **PLAIN)
    np.testing.assert_allclose(row, values / 255, atol=1e-6)
    assert row.dtype == torch.float32
    assert read_picture(grey(values), (1, 8, 8), **PLAIN).equal(row[None])
    np.testing.assert_allclose(read_picture(grey(values), (8, 8), **PLAIN, invert=True), 1 - values / 255, atol=1e-6)
    scaled = read_picture(grey(values), (8, 8), low=-1.0, high=3.0, binary=False)
    np.testing.assert_allclose(scaled, values / 255 * 4 - 1, atol=1e-6)
    bits = read_picture(grey(values), (8, 8), low=0.0, high=1.0, binary=True)
    np.testing.assert_array_equal(bits, values > 127.5)


def test_transparent_parts_are_white():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 2), (0, 0, 255, 255))
    row = read_picture(file(picture), (3, 4, 4), **PLAIN)
    assert row[:, 0, 0].tolist() == [1, 1, 1]
    assert row[:, 2, 1].tolist() == [0, 0, 1]


def test_it_is_turned_upright_and_cut_around_its_middle():
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert read_picture(grey(wide), (5, 5), **PLAIN).min() > 0.9  # the filter sees a little of what was cut off
    half = Image.fromarray(np.repeat(np.array([[255] * 8, [0] * 8], dtype=np.uint8), 4, axis=0))
    turned = half.getexif()
    turned[0x0112] = 6  # to be turned by 90 degrees to the right
    row = read_picture(file(half, exif=turned.tobytes()), (8, 8), **PLAIN)
    assert row[:, 4:].min() == 1
    assert row[:, :4].max() == 0


@pytest.mark.parametrize("size", [(9, 9), (40, 30), (8, 8)])
@pytest.mark.parametrize("kind", ["grey", "16 bits", "colour"])
def test_a_picture_becomes_what_it_would_in_a_folder(kind, size, tmp_path):
    shape, top = (*size, 3) if kind == "colour" else size, 2**16 if kind == "16 bits" else 256
    values = np.random.default_rng(1).integers(0, top, shape)
    content = file(Image.fromarray(values.astype(np.uint16 if kind == "16 bits" else np.uint8)))
    (tmp_path / "a.png").write_bytes(content)
    data = load_all(tmp_path, image_size=(3, 8, 8) if kind == "colour" else (8, 8))
    torch.testing.assert_close(read_picture(content, data.event_shape, **PLAIN), data.rows([0])[0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_png_is_read(mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    else:
        picture = Image.new("RGBA", (4, 4), "white").convert(mode)
    assert read_picture(file(picture), (2, 2), **PLAIN).tolist() == [[1, 1], [1, 1]]


def test_the_first_picture_of_an_animation():
    frames = [Image.new("L", (4, 4), value) for value in (255, 0)]
    content = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(content, (2, 2), **PLAIN).min() == 1


def test_no_file_does_harm():
    good = grey(np.zeros((60, 60)))
    bomb = file(Image.new("1", (5001, 5000)))
    assert len(bomb) < 10_000
    with pytest.raises(DataError, match="picture: expected at most 25 million pixels, got 5001 x 5000"):
        read_picture(bomb, (8, 8), **PLAIN)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)
    for content in (
        b"",
        b"no picture",
        good[:20],
        grey(noise)[:2000],
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"%!PS-Adobe",
    ):
        with pytest.raises(DataError, match="picture: expected an image file, got .* Give a PNG, JPEG"):
            read_picture(content, (8, 8), **PLAIN)
