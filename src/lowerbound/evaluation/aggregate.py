"""The aggregated posterior: all rows' posteriors together, against the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

__all__ = ["AGGREGATED_ROWS", "decompose", "has_quick_density"]

AGGREGATED_ROWS = 2000
"""The number of rows, to within a batch, whose posteriors are aggregated: each draw is scored under all of them."""

_VALUES_AT_ONCE = 2**22


def has_quick_density(q: Distribution) -> bool:
    """Return whether the density of a posterior is a formula, and needs no pass through a flow."""
    gaussian = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
    return gaussian or isinstance(q, (MultivariateNormal, LowRankMultivariateNormal, MixtureSameFamily))


def decompose(posteriors: Sequence[Distribution], z: Tensor, log_prior: Tensor) -> dict[str, Any]:
    r"""Split the mean KL term of the bound into what the latents tell and what the prior does not fit.

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I(x; z) + \mathrm{KL}(q(z) \| p(z)),
              \quad q(z) = \frac1N \sum_n q(z|x_n)

    :math:`I(x; z)` is the information that a draw of z has about which of the N rows it came from, at most log N. A
    prior that fitted q(z) would raise the ELBO of these rows by the second term.

    Args:
        posteriors: q(z | x) of all rows in order, in batches: batch shapes that add up to ``[N]``.
        z: One draw of each row's posterior, shape ``[N, latent_dim]``.
        log_prior: log p(z) of the draws, shape ``[N]``.

    Returns:
        ``rows``, N; and ``kl``, ``mutual_information`` and ``marginal_kl``, each with ``value`` and ``stderr`` over the
        draws, in nats.

    Source: Hoffman and Johnson, ELBO surgery (2016).

    Example:
        >>> q = Independent(Normal(torch.tensor([[-50.0], [50.0]]), 1.0), 1)
        >>> round(decompose([q], q.mean, torch.zeros(2))["mutual_information"]["value"], 4)  # log 2: two rows, apart
        0.6931
    """
    n, values = len(z), []
    width = max(1, _VALUES_AT_ONCE // (n * z.shape[1]))
    for start in range(0, n, width):
        some = z[start : start + width].double()
        log_q = torch.cat([_each_under_all(q, some) for q in posteriors], 1)
        own = log_q[torch.arange(len(some)), start + torch.arange(len(some))]
        aggregated = log_q.logsumexp(1) - math.log(n)
        log_p = log_prior[start : start + width].double()
        values.append(torch.stack([own - log_p, own - aggregated, aggregated - log_p]).cpu())
    names = ("kl", "mutual_information", "marginal_kl")
    return {"rows": n, **dict(zip(names, map(_mean, torch.cat(values, 1)), strict=True))}


def _each_under_all(q: Distribution, z: Tensor) -> Tensor:
    """Return log q_j(z_i), shape ``[m, B]``, for draws ``[m, latent_dim]`` and a posterior of batch shape ``[B]``."""
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        return q.log_prob(z[:, None].to(q.mean.dtype)).double()
    mean, precision = q.mean.double(), q.variance.double().reciprocal()
    # The square is multiplied out, so that two matrix products do the work of all pairs.
    square = z.square() @ precision.T - 2 * z @ (mean * precision).T + (mean.square() * precision).sum(1)
    return 0.5 * (precision.log().sum(1) - square - z.shape[1] * math.log(2 * math.pi))


def _mean(values: Tensor) -> dict[str, float | None]:
    n = len(values)
    return {"value": float(values.mean()), "stderr": float(values.std() / math.sqrt(n)) if n > 1 else None}
