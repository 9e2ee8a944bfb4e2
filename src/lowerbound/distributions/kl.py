"""Kullback-Leibler divergences in closed form, also where torch registers none."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)
from torch.distributions import kl_divergence as torch_kl_divergence
from torch.nn.functional import logsigmoid

__all__ = ["kl_divergence"]


def kl_divergence(q: Distribution, p: Distribution) -> Tensor | None:
    r"""Return KL(q || p) in nats, or None where no closed form is known.

    .. math:: \mathrm{KL}(q \| p) = \mathbb{E}_{q(z)}[\log q(z) - \log p(z)]

    Gaussians are computed here, without the dispatch of `torch.distributions.kl_divergence`, which a compiler
    cannot follow; so are Bernoulli variables, whose shapes torch does not broadcast. Every other pair is looked up in
    torch's registry.

    Args:
        q: A distribution with batch shape ``[*batch]``.
        p: A distribution over the same events, with a batch shape that broadcasts with q's.

    Returns:
        The divergence, shape ``[*batch]``, or None.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> standard = Independent(Normal(torch.zeros(3), 1.0), 1)
        >>> kl_divergence(Independent(Normal(torch.ones(3), 1.0), 1), standard)
        tensor(1.5000)
    """
    if isinstance(q, Normal) and isinstance(p, Normal):
        return _normal_normal(q, p)
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        return _bernoulli_bernoulli(q, p)
    if isinstance(q, Independent) and isinstance(p, Independent):
        dims = q.reinterpreted_batch_ndims
        inner = kl_divergence(q.base_dist, p.base_dist) if dims == p.reinterpreted_batch_ndims else None
        return None if inner is None else inner.sum(tuple(range(-dims, 0)))
    try:
        return torch_kl_divergence(q, p)
    except NotImplementedError:
        return None


def _normal_normal(q: Normal, p: Normal) -> Tensor:
    log_ratio = q.scale.log() - p.scale.log()
    return 0.5 * (torch.exp(2 * log_ratio) + ((q.loc - p.loc) / p.scale) ** 2 - 1) - log_ratio


def _bernoulli_bernoulli(q: Bernoulli, p: Bernoulli) -> Tensor:
    on = q.probs * (logsigmoid(q.logits) - logsigmoid(p.logits))
    return on + (1 - q.probs) * (logsigmoid(-q.logits) - logsigmoid(-p.logits))


def _kl_gaussian_diagonal(q: MultivariateNormal | LowRankMultivariateNormal, p: Independent[Distribution]) -> Tensor:
    """KL of a Gaussian with correlations from a diagonal one."""
    base = p.base_dist
    if not isinstance(base, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    squares = (q.variance + (q.loc - base.loc).square()) / base.scale.square()
    cross_entropy = 0.5 * (squares + math.log(2 * math.pi)) + base.scale.log()
    entropy: Tensor = q.entropy()  # type: ignore[no-untyped-call]
    return cross_entropy.sum(-1) - entropy


register_kl(MultivariateNormal, Independent)(_kl_gaussian_diagonal)
register_kl(LowRankMultivariateNormal, Independent)(_kl_gaussian_diagonal)
