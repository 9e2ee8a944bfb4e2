r"""log p(x) of models with one or two latent dimensions, by summing over a grid of the latent space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import softplus

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.core.random import seeded
from lowerbound.net import masked_log_prob

__all__ = ["quadrature"]

# By the number of latent dimensions, nodes a side of ever finer grids; odd, so that every second node is a grid too.
_NODES = {1: (4001, 32_001), 2: (401, 801, 1601)}
_SPREADS = 7.0  # how far the grid reaches, in standard deviations of the prior
_GOAL, _LIMIT = 1e-3, 1e-2  # changes in nats: above the first a finer grid is taken, above the second none suffices
_EDGE = 1e-6  # the largest share of a row's sum that may come from the outermost nodes
_NUMBERS_AT_ONCE = 4_000_000


@torch.no_grad()
def quadrature(generator: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return log p(x) of each row, and how much it moves when the grid is twice as coarse.

    .. math:: \log p(x) = \log \int p(x|z)\, p(z)\, dz \approx \log \sum_i h^d\, p(x|z_i)\, p(z_i)

    Where the integrand is smooth and falls off on all sides, the sum converges faster than any power of the step h,
    and the change from 2h to h is far larger than the error that h leaves; where it has kinks, as behind ReLU networks,
    it is of the same order or larger. Grids are refined (their step by up to 4 in two dimensions, 8 in one) until
    the change is below 0.001 nats; one above 0.01 nats is refused.

    Args:
        generator: A program of n rows whose only random nodes are one latent of one or two numbers, and ``x``.
        x: Rows, shape ``[B, *event_shape]``; where they have gaps, NaN, log p is that of the values which are there.

    Returns:
        The values and the changes, float64 ``[B]``, in nats.

    Raises:
        ArgumentError: if the model has other latents, its prior or a row's integrand does not lie on the grid, or the
            grid is too coarse for it.

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,))
        >>> value, change = quadrature(model.generator, torch.eye(4))
        >>> value.shape, bool((change < 1e-6).all())
        (torch.Size([4]), True)
    """
    program = generator.bind(1)
    with seeded(0, "quadrature"):  # every run of the program draws x, though nobody looks at it
        prior = program.run(particles=10_000)
        name = _latent(prior)
        for nodes in _NODES[prior[name][0].numel()]:
            value, change = _sum(program, prior, name, x, nodes)
            if float(change.max()) <= _GOAL:
                break
    if float(change.max()) > _LIMIT:
        cure = "Measure iwae-K or is-K instead: the likelihood is narrower than the grid."
        got = f"one that moves by {float(change.max()):.3g} nats when the finest grid is made twice as coarse"
        expected = f"a value that moves by at most {_LIMIT:g} nats"
        raise ArgumentError(explain("measure 'quadrature'", expected=expected, got=got, cure=cure))
    return value, change


def _sum(program: Any, prior: Any, name: str, x: Tensor, nodes_a_side: int) -> tuple[Tensor, Tensor]:
    """Return the values on one grid, and how much they move on every second node of it."""
    draws = prior[name].flatten(1).double()
    dims = draws.shape[1]
    loc, scale = draws.mean(0), draws.std(0)
    side = torch.linspace(-_SPREADS, _SPREADS, nodes_a_side, dtype=torch.float64, device=x.device)
    unit = torch.cartesian_prod(*[side] * dims).reshape(-1, dims)
    log_volume = float((scale * (side[1] - side[0])).log().sum())
    coarse = (torch.cartesian_prod(*[torch.arange(len(side)) % 2 == 0] * dims).reshape(-1, dims)).all(1).to(x.device)

    rows, back = torch.unique(x.reshape(len(x), -1), dim=0, return_inverse=True)
    rows = rows.reshape(-1, 1, 1, *x.shape[1:])
    seen = ~rows.isnan()
    whole = bool(seen.all())
    products = whole and _logits(prior.node("x").distribution) is not None
    chunk = max(16, _NUMBERS_AT_ONCE // (len(rows) + x[0].numel() if products else rows.numel()))
    fine_sum = torch.full((len(rows),), -math.inf, dtype=torch.float64, device=x.device)
    coarse_sum, edge_sum, mass = fine_sum.clone(), fine_sum.clone(), 0.0
    edge = (unit.abs() == _SPREADS).any(1)
    parts = ((loc + scale * unit).split(chunk), coarse.split(chunk), edge.split(chunk))
    for nodes, kept, outermost in zip(*parts, strict=True):
        z = nodes.to(draws.dtype if prior[name].dtype == torch.float64 else torch.float32)
        given = {name: z.reshape(-1, *prior[name].shape[1:])}
        trace = program.run(given, particles=len(z), batch=(1,))
        log_prior = trace.log_prob(name).double().squeeze(-1)
        distribution: Any = trace.node("x").distribution
        if products:
            log_likelihood = _by_products(distribution, rows)
        elif whole:
            log_likelihood = distribution.log_prob(rows).double().squeeze(-1)
        else:
            log_likelihood = masked_log_prob("x", distribution, rows, seen).double().squeeze(-1)
        log_terms = log_likelihood + log_prior
        mass += float(log_prior.exp().sum())
        fine_sum = torch.logaddexp(fine_sum, log_terms.logsumexp(1))
        if bool(kept.any()):
            coarse_sum = torch.logaddexp(coarse_sum, log_terms[:, kept].logsumexp(1))
        if bool(outermost.any()):
            edge_sum = torch.logaddexp(edge_sum, log_terms[:, outermost].logsumexp(1))
    outside = int((edge_sum - fine_sum > math.log(_EDGE))[back].sum())
    if outside:
        cure = "Measure iwae-K or is-K instead, and look at those rows: the model gives them hardly any density."
        got = f"{outside} of {len(x)} rows whose integrand lies on the edge of the grid"
        expected = f"rows with latents within {_SPREADS:g} standard deviations of the prior's mean"
        raise ArgumentError(explain("measure 'quadrature'", expected=expected, got=got, cure=cure))
    if abs(mass * math.exp(log_volume) - 1) > 1e-4:
        cure = "Measure iwae-K or is-K instead."
        got = f"{mass * math.exp(log_volume):.4f} of its mass there"
        expected = f"a prior within {_SPREADS:g} standard deviations of its mean"
        raise ArgumentError(explain("measure 'quadrature'", expected=expected, got=got, cure=cure))
    value = fine_sum + log_volume
    change = (coarse_sum + dims * math.log(2) - fine_sum).abs()
    return value[back], change[back]


def _logits(distribution: Any) -> Tensor | None:
    """Return the logits of independent Bernoulli variables; None for any other distribution."""
    base = getattr(distribution, "base_dist", distribution)
    return base.logits if isinstance(base, Bernoulli) else None


def _by_products(distribution: Any, rows: Tensor) -> Tensor:
    """Return the log-likelihood of all rows at all nodes, float64 ``[rows, nodes]``, by one matrix product."""
    given: Any = _logits(distribution)
    logits: Tensor = given.double().flatten(1)
    return rows.double().flatten(1) @ logits.T - softplus(logits).sum(-1)


def _latent(prior: Any) -> str:
    """Return the name of the only latent, if it has one or two numbers."""
    latents: list[str] = [name for name in prior.random_names() if name != "x"]
    sizes = {name: prior[name][0].numel() for name in latents}
    if len(latents) != 1 or sizes[latents[0]] not in _NODES:
        cure = "Measure iwae-K, or is-K for an implicit posterior."
        got = ", ".join(f"{name} of {size}" for name, size in sizes.items()) or "none"
        expected = "a model with one latent node of one or two numbers"
        raise ArgumentError(explain("measure 'quadrature'", expected=expected, got=got, cure=cure))
    return latents[0]
