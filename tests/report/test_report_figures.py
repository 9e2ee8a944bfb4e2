"""Figures: what they show is what was given, every axis is named, and no two labels touch."""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

import matplotlib as mpl
import numpy as np
import pytest

from lowerbound.core.errors import ArgumentError
from lowerbound.evaluation import Gallery, Scores
from lowerbound.report import figures, style
from readable import check_readable


def make_gallery(event_shape, latent_dim, classes, *, rows=400, scale=1.0, names=None) -> Gallery:
    """A gallery of smooth made-up images (or table rows) in [0, scale]."""
    rng = np.random.default_rng(0)

    def decode(z):
        place = np.linspace(0, 3, math.prod(event_shape))
        flat = 0.5 + 0.5 * np.sin(z[..., :1] * 2 + place + z[..., -1:] * place)
        return (scale * flat).reshape(*z.shape[:-1], *event_shape).astype(np.float32)

    latents = rng.normal(size=(rows, latent_dim)).astype(np.float32)
    latents[:, latent_dim // 2 + 1 :] *= 0.01
    grid = np.array([NormalDist().inv_cdf(q) for q in np.linspace(0.05, 0.95, 20)], dtype=np.float32)
    plane = np.stack(np.meshgrid(grid, grid), -1)
    return Gallery(
        samples=decode(rng.normal(size=(64, latent_dim))),
        inputs=decode(latents[:16] + 0.1),
        reconstructions=decode(latents[:16]),
        latents=latents,
        labels=None if classes is None else rng.integers(0, classes, rows),
        label_names=names,
        manifold=decode(plane) if latent_dim == 2 else None,
        grid=grid if latent_dim == 2 else None,
        unit_kl=rng.gamma(2.0, size=latent_dim).astype(np.float32),
    )


def make_history(epochs, *, validation=True, warm_up=0):
    history = []
    for epoch in range(1, epochs + 1):
        bound, kl = -100 - 400 / epoch**1.5, 25 * (1 - math.exp(-epoch / 4))
        record = {"epoch": epoch, "step": 10 * epoch, "train": {"elbo": bound, "reconstruction": bound + kl, "kl": kl}}
        record["kl_weight"] = min(1.0, epoch / warm_up) if warm_up else 1.0
        if validation:
            record["validation"] = {"elbo": bound - 1, "reconstruction": bound + kl - 1, "kl": kl}
        history.append(record)
    return history


GALLERIES = {
    "digits, 2 latents, 10 classes": ((8, 8), 2, 10, {}),
    "mnist, 40 latents, 10 classes": ((28, 28), 40, 10, {}),
    "colour, 200 latents, 4 named classes": ((3, 16, 16), 200, 4, {"names": ("a plane", "$5 & $6", "x" * 60, "ship")}),
    "one channel, 2 latents": ((1, 12, 12), 2, None, {}),
    "wide images of bytes": ((10, 40), 2, None, {"scale": 255.0}),
    "tall images": ((40, 10), 2, 3, {}),
    "four features": ((4,), 2, 4, {}),
    "thirty features, no labels": ((30,), 30, None, {"scale": 7.0}),
    "many features, 2 latents": ((50,), 2, 30, {}),
    "one latent": ((8, 8), 1, 10, {}),
    "an event that is no image": ((5, 4, 4), 3, 2, {}),
}
DRAWINGS = ["samples", "reconstructions", "latent_scatter", "manifold", "unit_kl"]


def draw_all():
    for case, (event_shape, latent_dim, classes, options) in GALLERIES.items():
        for name in DRAWINGS:
            if name != "manifold" or latent_dim == 2:
                yield pytest.param(name, event_shape, latent_dim, classes, options, id=f"{name}: {case}")


@pytest.mark.parametrize("name, event_shape, latent_dim, classes, options", list(draw_all()))
def test_every_figure_of_every_kind_of_model_is_readable(name, event_shape, latent_dim, classes, options):
    check_readable(getattr(figures, name)(make_gallery(event_shape, latent_dim, classes, **options)))


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("epochs, warm_up", [(1, 0), (2, 0), (12, 4), (300, 10)])
def test_training_curves_are_readable_for_short_and_long_runs(epochs, warm_up, validation):
    figure = figures.training_curves(make_history(epochs, validation=validation, warm_up=warm_up))
    check_readable(figure)
    assert [a.get_ylabel() for a in figure.axes] == [
        "ELBO (nats per row)",
        "reconstruction\n(nats per row)",
        "KL\n(nats per row)",
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("validation" in labels) == validation
    assert ("KL weight below 1" in labels) == bool(warm_up)


def test_overlap_check_can_fail():
    figure = style.new_figure(1.0, 1.0)
    axes = figure.add_subplot()
    axes.set_xticks(range(10), ["a long label"] * 10)
    axes.set_xlabel("x")
    figure.draw_without_rendering()
    with pytest.raises(AssertionError, match="overlaps"):
        check_readable(figure)


def test_curves_hold_the_history_and_the_best_epoch():
    history = make_history(20)
    history[6]["validation"]["elbo"] = -90.25
    main = figures.training_curves(history).axes[0]
    train, validation, best = main.get_lines()
    np.testing.assert_array_equal(train.get_ydata(), [r["train"]["elbo"] for r in history])
    np.testing.assert_array_equal(validation.get_ydata(), [r["validation"]["elbo"] for r in history])
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (7, -90.25)


def test_first_epochs_leave_the_axis_only_if_they_dwarf_the_rest_and_this_is_said():
    calm = [{"epoch": e, "train": {"elbo": -100.0 + e}} for e in range(1, 31)]
    steep = [*[{"epoch": e, "train": {"elbo": -1e5 / e**4}} for e in (1, 2)], *calm[2:]]
    (axes,) = figures.training_curves(calm).axes
    assert axes.get_title(loc="right") == ""
    assert axes.get_ylim()[0] < -99
    (axes,) = figures.training_curves(steep).axes
    assert axes.get_title(loc="right") == "off the axis: epochs 1 to 2"
    assert axes.get_ylim()[0] > -1000


def test_values_that_were_not_finite_leave_a_gap():
    history = make_history(5)
    history[2]["train"]["elbo"] = None
    line = figures.training_curves(history).axes[0].get_lines()[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False]


def test_objective_that_is_no_bound_says_so_on_its_axis():
    (axes,) = figures.training_curves([{"epoch": 1, "train": {"avb": -3.0}}], certified=False).axes
    assert axes.get_ylabel() == "AVB estimate (nats per row), no bound"


def test_manifold_has_the_second_latent_growing_upwards_and_ticks_at_the_prior_quantiles():
    manifold = np.zeros((20, 20, 2, 2), dtype=np.float32)
    manifold[19, 0] = 1.0  # the largest z_2, the smallest z_1: the upper left corner
    axes = figures.manifold(Gallery(samples=manifold[0], manifold=manifold)).axes[0]
    image = axes.get_images()[0].get_array()
    assert image.shape == (40, 40, 3)
    assert image[:2, :2].min() == 1.0
    assert image.sum() == 2 * 2 * 3
    for labels, places, first in (
        (axes.get_xticklabels(), axes.get_xticks(), 0.5),
        (axes.get_yticklabels(), axes.get_yticks(), 38.5),
    ):
        assert (labels[0].get_text(), labels[-1].get_text()) == ("−1.64", "1.64")
        assert places[0] == first
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")


def test_reconstructions_stand_below_their_inputs():
    inputs = np.zeros((16, 8, 8), dtype=np.float32)
    outputs = np.full((16, 8, 8), 0.5, dtype=np.float32)
    axes = figures.reconstructions(Gallery(inputs=inputs, reconstructions=outputs)).axes[0]
    image = axes.get_images()[0].get_array()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    values = [float(image[round(place), 3, 0]) for place in axes.get_yticks()]
    assert labels == ["input", "reconstruction"] * 2
    assert values == [0.0, 0.5] * 2


def test_scatter_has_one_colour_a_class_and_ticks_at_the_classes():
    gallery = make_gallery((4,), 2, 4, names=("none", "a", "b", "c"))
    figure = figures.latent_scatter(gallery)
    main, bar = figure.axes
    points = main.collections[0]
    assert len(np.unique(points.get_facecolors(), axis=0)) == 4
    assert [text.get_text() for text in bar.get_yticklabels()] == ["none", "a", "b", "c"]
    np.testing.assert_array_equal(bar.get_yticks(), [0, 1, 2, 3])
    # the same rows, in another order, each with the colour of its label
    by_place = {tuple(p): tuple(c) for p, c in zip(points.get_offsets().data, points.get_facecolors(), strict=True)}
    for row, label in zip(gallery.latents.astype(float), gallery.labels, strict=True):
        assert by_place[tuple(row)][:3] == mpl.colors.to_rgb(style.palette(4)[label])
    assert (main.get_xlabel(), main.get_ylabel()) == ("$z_1$", "$z_2$")
    assert main.get_aspect() == 1.0


def test_scatter_of_many_latents_shows_the_principal_components():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    latents = (rng.normal(size=(500, 6)) * [9, 3, 0.1, 0.1, 0.1, 0.1]) @ basis.T
    axes = figures.latent_scatter(Gallery(latents=latents.astype(np.float32))).axes[0]
    spread = np.asarray(axes.collections[0].get_offsets()).std(axis=0)
    singular = np.linalg.svd(latents - latents.mean(0), compute_uv=False)[:2] / math.sqrt(500)
    np.testing.assert_allclose(spread, singular, rtol=1e-5)  # float32 latents
    assert axes.get_xlabel().startswith("first principal component of z (")
    share = singular**2 / latents.var(0).sum()
    assert f"({100 * share[0]:.0f} % of variance)" in axes.get_xlabel()


def test_kl_bars_fall_and_units_without_information_are_counted():
    kl = [0.001, 2.0, 1.0]
    scores = Scores({}, {}, {"unit_kl": kl, "unit_variance": [0.002, 0.9, 0.5]})
    latents = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * [0.01, 1, 1]
    for source in (scores, Gallery(latents=latents, unit_kl=np.array(kl))):
        figure = figures.unit_kl(source)
        axes = figure.axes[0]
        assert [bar.get_height() for bar in axes.containers[0]] == [2.0, 1.0, 0.001]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "3", "1"]
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == ["active: 2 of 3", "not active (variance of the mean at most 0.01): 1"]
        assert axes.get_ylabel() == "KL per unit (nats)"


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_of_something_the_gallery_lacks_is_an_error(name):
    with pytest.raises(ArgumentError, match=r"expected .*, got none\. (Make|Evaluate)"):
        getattr(figures, name)(Gallery())


def test_empty_history_is_an_error():
    with pytest.raises(ArgumentError, match="at least one epoch"):
        figures.training_curves([])


def test_equal_input_gives_equal_bytes_whatever_the_settings_of_the_user():
    gallery = make_gallery((8, 8), 2, 10)
    first = style.png(figures.latent_scatter(gallery))
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30, "xtick.labelsize": 30}):
        second = style.png(figures.latent_scatter(gallery))
        assert mpl.rcParams["font.size"] == 20
    assert first == second
    other = make_gallery((8, 8), 2, 9)
    assert style.png(figures.latent_scatter(other)) != first


def test_drawing_leaves_pyplot_alone():
    open_before = sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []
    style.png(figures.unit_kl(make_gallery((4,), 2, None)))
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == open_before


@pytest.mark.parametrize("n", [1, 4, 8, 9, 10, 25])
def test_palette_has_no_colour_twice(n):
    assert len(set(style.palette(n))) == len(set(style.palette(n, dark=True))) == n


@pytest.mark.parametrize("n", [3, 8, 10, 40])
def test_palette_for_dark_grounds_is_lighter_than_they_are(n):
    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in mpl.colors.to_rgb(colour)]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    ground = luminance("#1b1e22")
    assert min((luminance(colour) + 0.05) / (ground + 0.05) for colour in style.palette(n, dark=True)) > 3
