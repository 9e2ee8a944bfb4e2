"""Pictures from arrays: pixels are where and what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from lowerbound.report.tiles import coloured, columns_for, is_image, mosaic, pixels, value_range


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((8, 8), True),
        ((10, 40), True),
        ((1, 8, 8), True),
        ((3, 8, 8), True),
        ((4,), False),
        ((2, 8, 8), False),
        ((3, 1, 8, 8), False),
    ],
)
def test_images_are_told_from_other_events(shape, expected):
    assert is_image(shape) is expected


def test_mosaic_puts_every_tile_in_reading_order_on_white():
    tiles = np.arange(5, dtype=np.float32)[:, None, None, None] / 10 * np.ones((5, 2, 3, 3), dtype=np.float32)
    canvas = mosaic(tiles, columns=3, gap=1)
    assert canvas.shape == (5, 11, 3)
    for index in range(5):
        top, left = index // 3 * 3, index % 3 * 4
        np.testing.assert_array_equal(canvas[top : top + 2, left : left + 3], tiles[index])
    assert canvas[2].min() == 1.0  # the gap
    assert canvas[3:, 8:].min() == 1.0  # the place of the missing sixth tile


def test_pixels_keep_colours_and_spread_grey():
    colour = np.stack([np.full((2, 2), v) for v in (0.0, 0.25, 1.0)])[None]
    np.testing.assert_allclose(pixels(colour, 0, 1)[0, 0, 0], [0, 0.25, 1])
    grey = np.full((1, 1, 2, 2), 64.0)
    np.testing.assert_allclose(pixels(grey, 0, 128), np.full((1, 2, 2, 3), 0.5))
    np.testing.assert_array_equal(pixels(np.array([[[-5.0, 9.0]]]), 0, 1)[0, 0, :, 0], [0, 1])


def test_range_is_zero_to_one_inside_it_and_robust_outside():
    rng = np.random.default_rng(0)
    assert value_range(rng.uniform(0.3, 0.4, 1000)) == (0.0, 1.0)
    wide = rng.normal(size=10_000)
    wide[0] = 1e6
    low, high = value_range(wide)
    assert (low, high) == pytest.approx((-2.576, 2.576), abs=0.15)  # the normal's 0.5 % quantiles, 10,000 draws
    assert value_range(np.array([np.nan])) == (0.0, 1.0)


@pytest.mark.parametrize("n", [1, 5, 16, 64])
@pytest.mark.parametrize("height, width", [(8, 8), (10, 40), (40, 10), (1, 300)])
def test_columns_leave_no_row_empty(n, height, width):
    columns = columns_for(n, height, width)
    assert 1 <= columns <= n


def test_columns_with_units_of_their_own_are_shown_in_them():
    rng = np.random.default_rng(0)
    rows = rng.normal(5.0, 1.0, size=(40, 3)) * [1.0, 0.01, 300.0]
    found = coloured(rows, rows, rows[:2])
    assert (found.low, found.high) == (-2.5, 2.5)
    np.testing.assert_allclose(found.tables[0].std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.tables[0].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_array_equal(found.tables[1], found.tables[0][:2])
    assert "standard deviations" in found.unit


def test_columns_of_one_unit_are_shown_as_they_are():
    rows = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    found = coloured(rows, rows)
    np.testing.assert_array_equal(found.tables[0], rows)
    assert (found.low, found.high, found.unit) == (0.0, 1.0, "value")


def test_gaps_and_constant_columns_do_not_spoil_the_scale():
    rows = np.array([[np.nan, 1.0, 4.0, 0.0], [np.nan, 100.0, 4.0, 1.0], [np.nan, np.nan, 4.0, 2.0]])
    found = coloured(rows, rows).tables[0]
    np.testing.assert_allclose(found[:2, 1], [-1.0, 1.0])
    np.testing.assert_allclose(found[:, 2], 0.0)
    assert np.isfinite(found[:, 3]).all()
