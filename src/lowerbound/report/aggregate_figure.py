"""The picture of the aggregated posterior: draws of all rows' posteriors, unit by unit, against the prior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.report.style import ACCENT, MAIN, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowerbound.evaluation import Gallery

__all__ = ["SHOWN_UNITS", "aggregated_posterior"]

SHOWN_UNITS = 12

Array = NDArray[Any]


@styled
def aggregated_posterior(gallery: Gallery) -> Figure:
    """Draw a histogram of the draws of each latent unit, one a row, and the density of the prior over it.

    Of more than 12 units, those with the largest KL are shown, or those that vary most where no KL is known.

    Args:
        gallery: Its ``draws`` have shape ``[n, latent_dim]``, and so have its ``prior_draws``, which are None for a
            standard normal prior.

    Raises:
        ArgumentError: if the gallery holds no draws.
    """
    if gallery.draws is None or len(gallery.draws) == 0:
        cure = "Evaluate a model that encodes, or leave this figure out."
        raise ArgumentError(explain("gallery", expected="an array 'draws'", got="none", cure=cure))
    draws, prior = np.asarray(gallery.draws, float), gallery.prior_draws
    weight = draws.std(axis=0) if gallery.unit_kl is None else np.asarray(gallery.unit_kl)
    units = np.argsort(-weight, kind="stable")[:SHOWN_UNITS]
    across = min(len(units), 6 if len(units) > 4 else 2)
    down = math.ceil(len(units) / across)
    figure = new_figure(1.25 * across, 0.6 + 1.25 * down) if len(units) > 4 else new_figure(4.0, 3.2)
    for place, unit in enumerate(units):
        axes = figure.add_subplot(down, across, place + 1)
        theirs = None if prior is None else np.asarray(prior, float)[:, unit]
        edges = _edges(draws[:, unit], theirs)
        axes.hist(draws[:, unit], edges, density=True, color=MAIN, alpha=0.55, label="posteriors of all rows")
        if theirs is None:
            x = np.linspace(edges[0], edges[-1], 200)
            axes.plot(x, np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi), color=ACCENT, label="prior")
        else:
            axes.hist(theirs, edges, density=True, color=ACCENT, histtype="step", linewidth=1.2, label="prior")
        axes.set_title(f"$z_{{{unit + 1}}}$", fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _edges(draws: Array, prior: Array | None) -> list[float]:
    """Return the edges of bins over the draws and the prior; one far value does not flatten the rest."""
    seen = draws if prior is None else np.concatenate([draws, prior])
    low, high = np.quantile(seen, [0.001, 0.999])
    if prior is None:
        low, high = min(low, -3.0), max(high, 3.0)
    bins = int(np.clip(math.sqrt(len(draws)), 8, 40))
    margin = 0.02 * max(high - low, 0.1)
    return [float(edge) for edge in np.linspace(low - margin, high + margin, bins + 1)]
