"""Folders of pictures of any kind: what becomes of sizes, colours, depths, transparency and orientation."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.core.errors import ArgumentError, DataError, RunError
from lowerbound.data import cached, images, load, load_all, picture
from lowerbound.data.store import Disk, Resident

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 4), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def only(folder, image, name="a.png", **options):
    """Save one picture into a folder; return its row as whole numbers and what was done to it."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options.pop("saved", {}))
    data = load_all(folder, **options)
    return (data.rows([0])[0] * 255).round().to(torch.int64).numpy(), data.describe()["images"]


def test_16_bits_are_rounded_to_8(tmp_path):
    deep = np.array([[0, 127, 128, 129], [385, 386, 65406, 65407], [65535, 32767, 32768, 257]], dtype=np.uint16)
    row, done = only(tmp_path, Image.fromarray(deep))
    assert (row == np.round(deep / 257)).all()
    assert done == {"16 bits to 8": 1}


def test_a_palette_gives_the_colours_it_stands_for(tmp_path):
    image = Image.fromarray(RANDOM.integers(0, 3, (6, 4), dtype=np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 1, 2, 3] + [0] * 759)
    row, done = only(tmp_path, image)
    expected = np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3]])[np.asarray(image)]
    assert (row == expected.transpose(2, 0, 1)).all()
    assert done == {"palette to RGB": 1}


@pytest.mark.parametrize("mode, pixels", [("RGBA", COLOUR), ("LA", GREY)])
def test_transparency_is_laid_over_white(tmp_path, mode, pixels):
    alpha = RANDOM.integers(0, 256, (6, 4), dtype=np.uint8)
    alpha[0, :2] = 0, 255
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    row, done = only(tmp_path, image)
    share = alpha / 255 if mode == "LA" else alpha[..., None] / 255
    expected = share * pixels + (1 - share) * 255
    assert np.abs(row - (expected if mode == "LA" else expected.transpose(2, 0, 1))).max() <= 1
    assert row[..., 0, 0].min() == 255
    assert done == {"transparency over white": 1}


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (4, 6), 1)
    image.putpalette([9, 9, 9, 40, 50, 60])
    row, done = only(tmp_path, image, saved={"transparency": 1})
    assert (row == 255).all()
    assert done == {"palette to RGB": 1, "transparency over white": 1}


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    row, done = only(tmp_path, image, "a.jpg", saved={"quality": 100})
    assert np.abs(row.reshape(3, -1).mean(1) - [255, 0, 0]).max() < 4
    assert done == {"CMYK to RGB": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    # EXIF: where row 0 and column 0 of the stored pixels belong; each entry undoes one of the eight.
    upright = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    row, done = only(tmp_path, Image.fromarray(GREY), saved={"exif": exif})
    assert (row == upright[orientation](GREY)).all()
    assert done == ({} if orientation == 1 else {"turned upright by EXIF orientation": 1})


def test_one_coloured_picture_makes_all_coloured(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(COLOUR).save(tmp_path / "b.png")
    data = load_all(tmp_path)
    assert data.event_shape == (3, 6, 4)
    assert (data.rows([0])[0] * 255 == torch.from_numpy(GREY)).all()
    assert data.describe()["images"] == {"grey to RGB": 1}
    grey = load_all(tmp_path, image_size=(6, 4))
    assert grey.describe()["images"] == {"RGB to grey": 1}
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey.rows([1])[0].numpy() * 255 - luma).max() <= 1


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ([(20, 31)] * 3, (31, 20)),  # a common size stays
        ([(300, 400), (200, 500), (90, 100)], (64, 64)),
        ([(40, 50), (33, 90), (70, 90)], (32, 32)),
        ([(9, 9), (15, 40), (100, 12)], (8, 8)),
        ([(1, 9), (1, 2)], (1, 1)),
    ],
)
def test_the_size_fits_the_folder(tmp_path, sizes, expected):
    for number, size in enumerate(sizes):
        Image.new("L", size, 40).save(tmp_path / f"{number}.png")
    assert load_all(tmp_path).event_shape == expected
    assert load_all(tmp_path, image_size=5).event_shape == (5, 5)


def test_resizing_covers_the_square_and_crops_to_the_middle(tmp_path):
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200  # the middle third is all that a square sees
    row, done = only(tmp_path, Image.fromarray(wide), image_size=8)
    assert (row == 200).all()
    assert done == {"resized and cropped": 1}
    ramp = np.add.outer(np.arange(32) * 6, np.arange(32) * 2)
    row, done = only(tmp_path / "ramp", Image.fromarray(ramp.astype(np.uint8)), image_size=8)
    means = ramp.reshape(8, 4, 8, 4).mean((1, 3))  # of a linear ramp, any symmetric filter away from the border
    assert np.abs(row - means)[1:-1, 1:-1].max() <= 1
    assert done == {"resized": 1}


@pytest.mark.parametrize(
    "size, match",
    [
        (0, "image_size: expected a positive integer, got 0"),
        ((2, 8, 8), r"image_size: expected a size of pictures, got \(2, 8, 8\). Pass the side"),
        ((), "a size of pictures"),
    ],
)
def test_sizes_that_are_none_are_named(tmp_path, size, match):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ArgumentError, match=match):
        load(tmp_path, image_size=size)


def test_only_folders_have_a_size(tmp_path):
    np.save(tmp_path / "rows.npy", COLOUR)
    for source in ("digits", tmp_path / "rows.npy"):
        with pytest.raises(ArgumentError, match="image_size: expected None for .*, got 8. Leave it out"):
            load(source, image_size=8)
    with pytest.raises(ArgumentError, match="image_size: expected None for digits"):
        load_all("digits", image_size=8)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Let three pictures be many, in a cache directory of the test's own; count the pictures that are decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "_MANY", 3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.roll(GREY, number)).save(folder / f"{number}.png")
    opened, real = [], picture.pixels
    monkeypatch.setattr("lowerbound.data.images.pixels", lambda *given: (opened.append(given[0]), real(*given))[1])
    return folder, opened


def test_pixels_are_decoded_once(large):
    folder, opened = large
    first, again = load(folder)[0], load(folder)[0]
    assert len(opened) == 3
    assert first.describe() == again.describe()
    load(folder, image_size=2)
    assert len(opened) == 6


@pytest.mark.parametrize("change", ["time", "name", "size", "one more", "damage"])
def test_pixels_are_decoded_again_after_a_change(large, change):
    folder, opened = large
    before = load_all(folder).rows(range(3))
    if change == "time":
        os.utime(folder / "0.png", (time.time() + 9,) * 2)
    elif change == "name":
        (folder / "0.png").rename(folder / "z.png")
    elif change == "size":
        stat = (folder / "0.png").stat()
        Image.fromarray(GREY * 0).save(folder / "0.png")
        os.utime(folder / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "one more":
        Image.fromarray(GREY).save(folder / "3.png")
    else:
        (kept,) = (folder.parent / "cache").rglob("*.npy")
        kept.write_bytes(kept.read_bytes()[:-9])
    after = load_all(folder)
    assert len(opened) == 3 + len(after)
    if change == "name":
        assert torch.equal(after.rows([0, 1, 2]), before[[1, 2, 0]])
    assert len(list((folder.parent / "cache").rglob("*.npy"))) == 1  # one for a folder and a size


def test_a_cache_that_cannot_be_written_is_done_without(large, monkeypatch):
    folder, opened = large
    (folder.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    assert len(load_all(folder)) == len(load_all(folder)) == 3
    assert len(opened) == 6


# --- More pictures than memory takes ----------------------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(cached, "_memory", lambda: 100)


@pytest.mark.parametrize("block", [1, 2, 256])
def test_pictures_from_disk_are_those_in_memory(block, large, small_machine, monkeypatch):
    folder, opened = large
    monkeypatch.setattr(images, "_BLOCK", block)
    streamed = load_all(folder, binarize="dynamic")
    monkeypatch.setattr(cached, "_memory", lambda: 2**30)
    resident = load_all(folder, binarize="dynamic")
    assert len(opened) == 3
    assert [type(data._store) for data in (streamed, resident)] == [Disk, Resident]
    assert streamed.describe() == resident.describe()
    for epoch in range(3):
        pairs = zip(*(data.batches(2, seed=1, epoch=epoch) for data in (streamed, resident)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_a_few_large_pictures_are_on_disk_too(large, small_machine, monkeypatch):
    folder, opened = large
    monkeypatch.setattr(images, "_MANY", 1000)
    assert type(load_all(folder)._store) is type(load_all(folder)._store) is Disk
    assert len(opened) == 3


def test_large_pictures_need_the_cache(large, small_machine, monkeypatch):
    folder, _ = large
    (folder.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "file"))
    with pytest.raises(RunError, match=r"expected a writable folder, got .* Make it writable, or name another in XDG"):
        load_all(folder)


@pytest.mark.parametrize("many", [3, 1000])
def test_damaged_pictures_leave_nothing_in_the_cache(many, large, monkeypatch):
    folder, _ = large
    monkeypatch.setattr(images, "_MANY", many)
    content = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(content[:-30])
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"got 2 damaged ones: .*1.png; .*2.png. Remove them"):
        load_all(folder)
    assert not [*(folder.parent / "cache").rglob("*.npy"), *(folder.parent / "cache").rglob("*.part")]
