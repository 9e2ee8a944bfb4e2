r"""Whether chains have converged, and how many independent draws theirs are worth.

All functions take draws ``[chains, draws, *rest]`` and return one number for each entry of ``rest``, in float64.

Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner, Rank-Normalization, Folding, and Localization (2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.core.errors import ArgumentError, explain

__all__ = ["ess", "ess_bulk", "ess_tail", "mcse", "rhat"]

_LEAST = 10  # draws a chain


def ess(draws: Tensor) -> Tensor:
    r"""Return the effective sample size for the mean: the number of independent draws with the same standard error.

    .. math:: \mathrm{ESS} = \frac{S}{1 + 2 \sum_{t \ge 1} \hat\rho_t}

    where S counts the draws of all chains, each split in two, and :math:`\hat\rho_t` is the autocorrelation at lag t of
    all chains together. The sum is cut by Geyer's rule: pairs of neighbouring lags are added up while they are
    positive, and taken to decrease.

    Args:
        draws: Shape ``[chains, draws, *rest]``.

    Returns:
        Shape ``rest``; NaN where nothing varies.

    Raises:
        ArgumentError: if there are fewer than ten draws a chain.

    Source: Geyer, Practical Markov Chain Monte Carlo (1992); Vehtari et al. (2021), section 3.

    Example:
        >>> bool((ess(torch.randn(4, 1000)) - 4000).abs() < 500)
        True
    """
    return _ess(_split(_checked(draws, "ess", chains=1)))


def ess_bulk(draws: Tensor) -> Tensor:
    """Return the effective sample size of the ranks, for the bulk of a distribution with whatever tails.

    Shapes and errors are those of `ess`.
    """
    return _ess(_normal_scores(_split(_checked(draws, "ess_bulk", chains=1))))


def ess_tail(draws: Tensor) -> Tensor:
    """Return the smaller effective sample size of the 5 % and the 95 % quantile.

    Shapes and errors are those of `ess`.
    """
    checked = _checked(draws, "ess_tail", chains=1)
    low, high = (_ess(_split((checked <= _quantile(checked, share)).double())) for share in (0.05, 0.95))
    return torch.minimum(low, high)


def mcse(draws: Tensor) -> Tensor:
    r"""Return the Monte Carlo standard error of the mean, :math:`s / \sqrt{\mathrm{ESS}}`.

    Shapes and errors are those of `ess`.
    """
    checked = _checked(draws, "mcse", chains=1)
    return checked.flatten(0, 1).std(0) / _ess(_split(checked)).sqrt()


def rhat(draws: Tensor) -> Tensor:
    r"""Return the rank-normalised split R-hat: near 1 if all chains, and both halves of each, say the same.

    .. math:: \hat R = \sqrt{\frac{\tfrac{n - 1}{n} W + \tfrac1n B}{W}}

    with the variances W within and B / n between half-chains of length n, of the normal scores of the draws and of
    their distances from the median, whichever gives more. Above 1.01 the chains should run on.

    Args:
        draws: Shape ``[chains, draws, *rest]``.

    Returns:
        Shape ``rest``; NaN where nothing varies.

    Raises:
        ArgumentError: if there are fewer than two chains or ten draws a chain.

    Example:
        >>> chains = torch.randn(4, 500)
        >>> bool(rhat(chains) < 1.02), bool(rhat(chains + torch.arange(4.0)[:, None]) > 1.3)
        (True, True)
    """
    halves = _split(_checked(draws, "rhat", chains=2))
    folded = (halves - _quantile(halves, 0.5)).abs()
    return torch.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))


def _checked(draws: Tensor, what: str, *, chains: int) -> Tensor:
    """Return draws in float64 if there are enough of them."""
    shape = tuple(draws.shape)
    if draws.dim() < 2 or shape[0] < chains or shape[1] < _LEAST:
        cure = "Run more chains or draws; four chains with some hundred draws each are a good start."
        expected = f"draws [chains, draws, ...] of at least {chains} chain{'s' * (chains > 1)} and {_LEAST} draws"
        raise ArgumentError(explain(what, expected=expected, got=f"shape {shape}", cure=cure))
    return draws.detach().double()


def _split(draws: Tensor) -> Tensor:
    """Return both halves of every chain as chains; of an odd number of draws the one in the middle is left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]])


def _quantile(draws: Tensor, share: float) -> Tensor:
    """Return a quantile of the draws of all chains, shape ``rest``, between the two that are nearest."""
    ordered = draws.flatten(0, 1).sort(0).values
    place = share * (len(ordered) - 1)
    return torch.lerp(ordered[math.floor(place)], ordered[math.ceil(place)], place - math.floor(place))


def _normal_scores(draws: Tensor) -> Tensor:
    """Replace draws by normal quantiles of their ranks among all chains; equal draws share their mean rank."""
    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1).T.contiguous()  # [rest, S]
    ordered = flat.sort(-1).values
    below, upto = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
    rank = 0.5 * (below + upto + 1).double()
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (flat.shape[-1] + 0.25))
    return scores.T.reshape(draws.shape)


def _rhat(chains: Tensor) -> Tensor:
    n = chains.shape[1]
    within, between = chains.var(1).mean(0), chains.mean(1).var(0)
    return (((n - 1) / n * within + between) / within).sqrt()


def _ess(chains: Tensor) -> Tensor:
    """Return the effective sample size of chains as they are, float64 ``[m, n, *rest]``."""
    m, n = chains.shape[:2]
    covariance = _autocovariance(chains).mean(0)  # [n, *rest]
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (chains.mean(1).var(0) if m > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: 2 * ((n - 1) // 2)].unflatten(0, (-1, 2))  # [(n - 1) // 2, 2, *rest]; the last lags are noise
    kept = (pairs.sum(1) > 0).cumprod(0)  # up to the first pair that is not positive
    kept[-1] = 0
    place = torch.arange(len(pairs), device=rho.device).reshape(-1, *[1] * (rho.dim() - 1))
    after = torch.where(place == kept.sum(0), pairs[:, 0], 0.0).clamp_min(0).sum(0)  # of the first that does not count
    time = 2 * (kept * pairs.sum(1).cummin(0).values).sum(0) - 1 + after
    return torch.where(covariance[0] > 0, m * n / time.clamp_min(1 / math.log10(m * n)), math.nan)


def _autocovariance(chains: Tensor) -> Tensor:
    """Return the autocovariances at lags 0 to n - 1, divided by n, of each chain ``[m, n, *rest]``."""
    n = chains.shape[1]
    spectrum: Tensor = torch.fft.rfft(chains - chains.mean(1, keepdim=True), 2 * n, dim=1)
    covariance: Tensor = torch.fft.irfft(spectrum.abs().square(), 2 * n, dim=1)[:, :n] / n
    return covariance
