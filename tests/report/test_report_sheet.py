"""Sheets of images: every pixel is in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lowerbound.report import write_sheet


@pytest.mark.parametrize("shape", [(70, 90), (1, 70, 90), (3, 70, 90)])
def test_pixels_are_in_their_places(shape, tmp_path) -> None:
    rows = np.random.default_rng(0).uniform(size=(4, *shape)).astype(np.float32)
    write_sheet(tmp_path / "sheet.png", rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        found = np.asarray(sheet)
    assert found.shape == (2 * 70 + 6, 2 * 90 + 6, 3)
    expected = np.moveaxis(rows[3].reshape(-1, 70, 90), 0, -1) * np.ones(3)
    np.testing.assert_allclose(found[-70:, -90:] / 255, expected, atol=0.5 / 255 + 1e-6)
    assert (found[70:76] == 255).all()


def test_small_images_are_enlarged_by_a_whole_number(tmp_path) -> None:
    rows = np.eye(9, dtype=np.float32)[None]
    write_sheet(tmp_path / "sheet.png", rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(sheet)[..., 0], 255 * np.eye(9).repeat(8, 0).repeat(8, 1))
