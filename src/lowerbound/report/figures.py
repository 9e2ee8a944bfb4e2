"""The figures of a run, each a function from what was recorded to a `matplotlib.figure.Figure`.

Nothing is shown and nothing is written; `lowerbound.report.style.png` turns a figure into a file's bytes.
Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.evaluation.latents import ACTIVE_VARIANCE
from lowerbound.report.drawing import (
    bare,
    class_bar,
    class_names,
    colour_bar,
    gap,
    heat_map,
    picture,
    quantile_ticks,
)
from lowerbound.report.style import ACCENT, GREY, MAIN, new_figure, palette, styled
from lowerbound.report.tables import measure_name
from lowerbound.report.tiles import Coloured, coloured, columns_for, is_image, mosaic, pixels, value_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowerbound.evaluation import Gallery, Scores

__all__ = ["latent_scatter", "manifold", "reconstructions", "samples", "training_curves", "unit_kl"]

_PARTS = {
    "kl": "KL\n(nats per row)",
    "kl_estimate": "KL estimate\n(nats per row)",
    "critic_loss": "critic loss\n(nats)",
    "critic_accuracy": "critic accuracy\n(share of draws)",
}

Array = NDArray[Any]


@styled
def training_curves(history: Sequence[Mapping[str, Any]], *, certified: bool = True) -> Figure:
    r"""Draw the bound against the epoch, and its parts beside it, for the training and the validation rows.

    Args:
        history: One record an epoch: ``{"epoch": 1, "train": {"elbo": ..., "reconstruction": ..., "kl": ...}}``, with
            ``validation`` beside ``train`` if there is any; the first term is the bound. Nats per row.
        certified: Whether the bound is one; if not, its axis says so.

    Raises:
        ArgumentError: if the history is empty.

    Example:
        >>> figure = training_curves([{"epoch": 1, "train": {"elbo": -90.0, "reconstruction": -70.0, "kl": 20.0}}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['ELBO (nats per row)', 'reconstruction\n(nats per row)', 'KL\n(nats per row)']
    """
    if not history:
        cure = "Train for at least one epoch."
        raise ArgumentError(explain("history", expected="at least one epoch", got="none", cure=cure))
    bound, *parts = history[0]["train"]
    figure = new_figure(7.5, max(3.6, 1.6 * len(parts)))
    grid = figure.add_gridspec(max(len(parts), 1), 2 if parts else 1, width_ratios=(1.5, 1) if parts else None)
    main = figure.add_subplot(grid[:, 0])
    main.set_ylabel(measure_name(bound) + (" (nats per row)" if certified else " (nats per row), no bound"))
    _curves(main, history, bound)
    for index, part in enumerate(parts):
        axes = figure.add_subplot(grid[index, 1], sharex=main)
        axes.set_ylabel(_PARTS.get(part, f"{part.replace('_', ' ')}\n(nats per row)"))
        _curves(axes, history, part)
        if index + 1 < len(parts):
            axes.tick_params(labelbottom=False)
            axes.set_xlabel("")
    warm_up = [record["epoch"] for record in history if record.get("kl_weight", 1) < 1]
    if warm_up:
        ground: dict[str, Any] = {"color": "#eeeeee", "linewidth": 0, "zorder": 0, "label": "KL weight below 1"}
        for axes in figure.axes:
            axes.axvspan(history[0]["epoch"], warm_up[-1], **ground)
    if certified:
        _mark_best(main, history, bound)
    handles, labels = main.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def _curves(axes: Axes, history: Sequence[Mapping[str, Any]], term: str) -> None:
    """Draw one term of the training and the validation rows."""
    from matplotlib.ticker import MaxNLocator

    epochs = np.array([record["epoch"] for record in history])
    series = {}
    for part, colour in (("train", MAIN), ("validation", ACCENT)):
        values = _series(history, part, term)
        if np.isfinite(values).any():
            series[part] = values
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) <= 20 else "", markersize=3, label=part)
    axes.set_xlabel("epoch")
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.ticklabel_format(axis="y", useOffset=False)
    _focus(axes, epochs, list(series.values()))


def _series(history: Sequence[Mapping[str, Any]], part: str, term: str) -> Array:
    """Return a term of every epoch, NaN where it is missing."""
    values = [(record.get(part) or {}).get(term) for record in history]
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _focus(axes: Axes, epochs: Array, series: Sequence[Array]) -> None:
    """Leave the first epochs off the axis if their range dwarfs all that follows, and say so above the axis."""
    values = np.stack(series) if series else np.empty((0, 0))
    late = values[:, len(epochs) // 10 :]
    if len(epochs) < 10 or not np.isfinite(late).any():
        return
    low, high, full = float(np.nanmin(late)), float(np.nanmax(late)), float(np.nanmax(values) - np.nanmin(values))
    if full < 4 * (high - low) or full == 0:
        return
    margin = max(0.08 * (high - low), 0.004 * full)  # the second keeps noise from filling the axis
    axes.set_ylim(low - margin, high + margin)
    outside = epochs[((values < low - margin) | (values > high + margin)).any(axis=0)]
    which = f"epoch {outside[0]}" if len(outside) == 1 else f"epochs {outside[0]} to {outside[-1]}"
    axes.set_title(f"off the axis: {which}", loc="right", fontsize=7, color=GREY)


def _mark_best(axes: Axes, history: Sequence[Mapping[str, Any]], bound: str) -> None:
    """Mark the epoch with the highest validation bound."""
    values = _series(history, "validation", bound)
    if np.isfinite(values).any() and len(values) > 1:
        best = int(np.nanargmax(values))
        epoch = history[best]["epoch"]
        label = f"best validation: {values[best]:.2f} at epoch {epoch}".replace("-", "−")
        axes.plot([epoch], [values[best]], "o", color=ACCENT, markersize=6, markerfacecolor="white", label=label)


@styled
def samples(gallery: Gallery) -> Figure:
    """Draw what the model makes of draws from the prior: the mean of p(x | z) for each.

    Images are tiles; other events are rows of a heat map with one column a feature.

    Args:
        gallery: Its ``samples`` have shape ``[n, *event_shape]``; its ``inputs``, if any, fix the range of values.

    Raises:
        ArgumentError: if the gallery holds no samples.
    """
    rows = _need(gallery, "samples")
    low, high = value_range(rows if gallery.inputs is None else gallery.inputs)
    title = f"{len(rows)} samples: mean of p(x | z), z from the prior"
    if is_image(gallery.event_shape):
        tiles = pixels(rows, low, high)
        columns = columns_for(len(tiles), *tiles.shape[1:3])
        figure, axes = picture(mosaic(tiles, columns, gap(tiles)), title, low, high)
        axes.set_axis_off()
        return figure
    shown = coloured(rows if gallery.inputs is None else gallery.inputs, rows)
    features = shown.tables[0].shape[1]
    figure = new_figure(min(max(3.5, 1.5 + 0.3 * features), 5), 4.4)
    axes = figure.add_subplot()
    axes.set_title(title if features > 15 else "samples: mean of p(x | z)")
    axes.set_ylabel("sample")
    heat_map(figure, [axes], shown)
    return figure


@styled
def reconstructions(gallery: Gallery) -> Figure:
    """Draw rows of the data, each with its reconstruction: below it for images, beside it for other events.

    Args:
        gallery: Its ``inputs`` and ``reconstructions`` have shape ``[n, *event_shape]``.

    Raises:
        ArgumentError: if the gallery lacks either.
    """
    inputs, outputs = _need(gallery, "inputs"), _need(gallery, "reconstructions")
    low, high = value_range(inputs)
    if is_image(gallery.event_shape):
        return _image_pairs(pixels(inputs, low, high), pixels(outputs, low, high), low, high)
    shown = coloured(inputs, inputs, outputs)
    figure = new_figure(min(max(4.5, 2 + 0.5 * shown.tables[0].shape[1]), 7.5), 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title("input (white: missing)" if np.isnan(inputs).any() else "input")
    right.set_title("reconstruction")
    left.set_ylabel("row of data")
    heat_map(figure, [left, right], shown)
    return figure


def _image_pairs(inputs: Array, outputs: Array, low: float, high: float) -> Figure:
    """Draw rows of input images, each above the row of its reconstructions; colours ``[n, H, W, 3]``."""
    n, height, width = inputs.shape[:3]
    columns = columns_for(2 * n, height, width)
    columns = min(n, columns)
    space = gap(inputs)
    bands, ticks, top = [], [], 0
    for start in range(0, n, columns):
        pair = []
        for tiles in (inputs, outputs):
            band = mosaic(tiles[start : start + columns], columns, space)
            ticks.append(top + height / 2 - 0.5)
            top += height + space
            pair += [band, np.ones((space, band.shape[1], 3), dtype=np.float32)]
        bands += [*pair, np.ones((2 * space, band.shape[1], 3), dtype=np.float32)]
        top += 2 * space
    title = "Rows of data, each above its reconstruction"
    figure, axes = picture(np.concatenate(bands)[: -3 * space], title, low, high, width=6.2)
    axes.set_yticks(ticks, ["input", "reconstruction"] * (len(ticks) // 2))
    axes.set_xticks([])
    bare(axes)
    return figure


@styled
def latent_scatter(gallery: Gallery) -> Figure:
    """Draw the posterior means of the latents, or draws of an implicit posterior, as points, coloured by label.

    Two latents are drawn as they are, more by their two first principal components, one as a histogram.

    Args:
        gallery: Its ``latents`` have shape ``[n, latent_dim]``; its ``labels``, if any, ``[n]``.

    Raises:
        ArgumentError: if the gallery holds no latents.
    """
    latents = _need(gallery, "latents").astype(float)
    figure = new_figure(5.2 if gallery.labels is not None else 4.7, 4.4)
    axes = figure.add_subplot()
    axes.set_title(f"{'A draw' if gallery.drawn else 'Mean'} of q(z | x) for {len(latents):,} rows")
    classes, codes = (np.array([0]), np.zeros(len(latents), dtype=int))
    if gallery.labels is not None:
        classes, codes = np.unique(gallery.labels, return_inverse=True)
    colours = np.array(palette(len(classes)))
    if latents.shape[1] == 1:
        groups = [latents[codes == code, 0] for code in range(len(classes))]
        axes.hist(groups, bins=50, stacked=True, color=colours.tolist())
        axes.set_xlabel("$z_1$")
        axes.set_ylabel("rows")
    else:
        points, names = (latents, ("$z_1$", "$z_2$")) if latents.shape[1] == 2 else _principal(latents)
        order = np.random.default_rng(0).permutation(len(points))  # so that no class hides another
        size = float(np.clip(12_000 / len(points), 4, 18))
        x, y = points[order].T
        axes.scatter(x, y, c=colours[codes[order]], s=size, alpha=0.75, linewidths=0)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.set_aspect("equal", adjustable="datalim")
    if gallery.labels is not None:
        class_bar(figure, axes, colours.tolist(), class_names(classes, gallery.label_names))
    return figure


def _principal(latents: Array) -> tuple[Array, tuple[str, str]]:
    """Return the two first principal components ``[n, 2]`` and the names of their axes."""
    centred = latents - latents.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(latents))
    top = directions[:, [-1, -2]]
    largest = top[np.abs(top).argmax(axis=0), [0, 1]]
    share = variances[[-1, -2]] / max(variances.sum(), 1e-300)
    first, second = (
        f"{word} principal component of z ({100 * part:.0f} % of variance)"
        for word, part in zip(("first", "second"), share, strict=True)
    )
    return centred @ (top * np.sign(largest)), (first, second)  # a direction's sign is arbitrary: fix it


@styled
def manifold(gallery: Gallery) -> Figure:
    """Draw what a two-dimensional latent space decodes to, on the grid of the prior's quantiles.

    Images are one gapless mosaic, with the second latent growing upwards; of other events, each feature is a map.

    Args:
        gallery: Its ``manifold`` has shape ``[rows, columns, *event_shape]``; entry ``[j, i]`` is decoded at
            ``(norm.ppf(q[i]), norm.ppf(q[j]))`` with q evenly spaced from 0.05 to 0.95.

    Raises:
        ArgumentError: if the gallery holds no manifold.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014), figure 4.
    """
    grid = _need(gallery, "manifold")
    rows, columns = grid.shape[:2]
    if not is_image(gallery.event_shape):
        points = grid.reshape(rows * columns, -1)
        shown = coloured(points if gallery.inputs is None else gallery.inputs, points)
        return _feature_maps(shown.tables[0].reshape(rows, columns, -1), shown)
    low, high = value_range(grid if gallery.inputs is None else gallery.inputs)
    upwards = grid[::-1].reshape(rows * columns, *grid.shape[2:])
    tiles = pixels(upwards, low, high)
    title = "Mean of p(x | z) over the normal quantiles 5 % to 95 % of z"
    figure, axes = picture(mosaic(tiles, columns, 0), title, low, high)
    height, width = tiles.shape[1:3]
    ratio = rows * height / (columns * width)
    quantile_ticks(axes, "x", (np.arange(columns) + 0.5) * width - 0.5, count=int(np.clip(6 / ratio, 2, 8)))
    quantile_ticks(axes, "y", (rows - np.arange(rows) - 0.5) * height - 0.5, count=int(np.clip(8 * ratio, 2, 8)))
    bare(axes)
    return figure


def _feature_maps(grid: Array, scale: Coloured) -> Figure:
    """Draw one map over the latent plane for each of the first 16 features; `grid` is ``[rows, columns, features]``."""
    rows, columns, features = grid.shape
    shown = min(features, 16)
    across = min(shown, 4)
    down = math.ceil(shown / across)
    figure = new_figure(1.2 + 1.7 * across, 0.9 + 1.75 * down, picture=True)
    all_axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for feature, axes in enumerate(all_axes[:shown]):
        image = axes.imshow(grid[..., feature], origin="lower", vmin=scale.low, vmax=scale.high, cmap="viridis")
        axes.set_title(f"feature {feature + 1}", fontsize=8)
        quantile_ticks(axes, "x", np.arange(columns), count=4)
        quantile_ticks(axes, "y", np.arange(rows), count=4)
        axes.label_outer()
        axes.tick_params(labelsize=7)
    for axes in all_axes[shown:]:
        axes.set_axis_off()
    label = "mean of p(x | z)" + ("" if scale.unit == "value" else f",\n{scale.unit}")
    label += f", first {shown} of {features} features" if features > shown else ""
    colour_bar(figure, image, list(all_axes), label)
    return figure


@styled
def unit_kl(source: Gallery | Scores) -> Figure:
    """Draw the mean KL divergence of each latent unit from the prior, the largest first.

    Units whose posterior mean hardly varies with the data, ``Var(E[z_d | x]) <= 0.01``, are marked as not active.

    Args:
        source: A gallery or scores; its KL per unit has shape ``[latent_dim]``, in nats.

    Raises:
        ArgumentError: if the source holds no KL per unit.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016), section 5.2, for active units.
    """
    values, active = _units(source)
    n = len(values)
    order = np.argsort(-values, kind="stable")
    place, width = np.arange(1, n + 1), (0.4 if n <= 3 else 0.8 if n <= 60 else 1.0)
    figure = new_figure(4.0 if n <= 4 else float(np.clip(0.22 * n, 6, 7.5)), 3.2)
    axes = figure.add_subplot()
    axes.bar(place, values[order], width, color=MAIN, label="" if active is None else f"active: {active.sum()} of {n}")
    if active is not None:
        idle = place[~active[order]]
        label = f"not active (variance of the mean at most {ACTIVE_VARIANCE:g}): {len(idle)}"
        ground = axes.get_xaxis_transform()  # the full height, so that a unit without KL is seen
        axes.bar(idle, 1, 1.0, color="#e4e4e4", zorder=0, transform=ground, label=label if len(idle) else "")
        figure.legend(loc="outside upper left", ncols=2 if n > 25 else 1)
    axes.set_ylabel("KL per unit (nats)")
    axes.set_ylim(0, max(1.05 * values.max(), 0.05))  # a collapsed posterior shall look like one
    axes.set_xlim(0.3, n + 0.7)
    if n <= 25:
        axes.set_xticks(place, [str(i + 1) for i in order])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("latent unit")
    else:
        axes.set_xlabel("latent units, by falling KL")
    return figure


def _units(source: Any) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the KL of each unit and whether it is active, None where that is not known."""
    known = source.latents
    if isinstance(known, Mapping):
        values, variance = known.get("unit_kl"), known.get("unit_variance")
    else:
        values, variance = source.unit_kl, None if known is None or len(known) < 2 else known.var(axis=0, ddof=1)
    if values is None:
        cure = "Evaluate a model whose posterior is Gaussian, or leave this figure out."
        raise ArgumentError(explain("unit_kl", expected="the KL of each latent unit", got="none", cure=cure))
    active = None if variance is None else np.asarray(variance) > ACTIVE_VARIANCE
    return np.asarray(values, dtype=float), active


def _need(gallery: Any, part: str) -> Array:
    """Return a part of the gallery that the figure cannot do without."""
    value = getattr(gallery, part, None)
    if value is None or len(value) == 0:
        cure = "Make the gallery from a model and data that have it, or leave this figure out."
        raise ArgumentError(explain("gallery", expected=f"an array {part!r}", got="none", cure=cure))
    return np.asarray(value)
