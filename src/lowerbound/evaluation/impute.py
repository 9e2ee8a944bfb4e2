r"""What stands in the gaps of a row: the mean and draws of p(x_miss | x_obs), by importance sampling.

.. math:: \mathbb{E}[x_\mathrm{miss} \mid x_\mathrm{obs}] \approx
          \sum_k \tilde w_k\, \mathbb{E}[x_\mathrm{miss} \mid z_k], \qquad
          \tilde w_k \propto \frac{p(x_\mathrm{obs} \mid z_k)\, p(z_k)}{q(z_k \mid x_\mathrm{obs})}, \quad z_k \sim q

Source: Mattei and Frellsen, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (2019).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, NonFiniteError, explain
from lowerbound.core.types import Model
from lowerbound.objectives.log_weights import draw

__all__ = ["Imputation", "impute"]


class Imputation(NamedTuple):
    """Rows whose gaps are filled.

    Attributes:
        mean: The rows with the conditional mean in each gap, ``[B, *event_shape]``.
        draws: M completions of the rows, each from p(x_miss | x_obs), ``[M, *mean.shape]``: multiple imputation.
        particles: The effective number of particles behind each row, between 1 and K, ``[B]``.
    """

    mean: Tensor
    draws: Tensor
    particles: Tensor


@torch.no_grad()
def impute(model: Model, x: Tensor, *, particles: int = 1000, draws: int = 0, chunk: int = 100) -> Imputation:
    r"""Fill the gaps of rows, NaN, by self-normalised importance sampling.

    The mean is consistent as K grows. Draws are made by sampling importance resampling: for each, a particle is chosen
    with probability :math:`\tilde w_k` and x is drawn from :math:`p(x \mid z_k)`.

    Args:
        model: A model whose rows may have gaps, such as ``lb.models.VAE(..., missing=True)``; its node ``x`` is masked.
        x: Rows, shape ``[B, *event_shape]``, in units of the data; NaN is a gap.
        particles: The number K of draws of the latents of each row.
        draws: The number M of completions.
        chunk: How many particles are held in memory at once.

    Raises:
        ArgumentError: if the model does not take gaps, or a number is out of range.
        NonFiniteError: if a row has no finite weight.

    Source: Mattei and Frellsen (2019).

    Example:
        >>> model = lb.models.VAE(event_shape=(3,), latent_dim=2, hidden=(8,), likelihood="gaussian", missing=True)
        >>> x = torch.tensor([[1.0, float("nan"), 2.0], [0.0, 1.0, 2.0]])
        >>> found = lb.evaluation.impute(model, x, particles=50, draws=7)
        >>> found.mean.shape, bool(found.mean.isfinite().all()), bool(found.mean[1].equal(x[1])), found.draws.shape
        (torch.Size([2, 3]), True, True, torch.Size([7, 2, 3]))
    """
    positive_int("particles", particles)
    positive_int("chunk", chunk)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 0:
        raise ArgumentError(
            explain("draws", expected="an integer of 0 or more", got=draws, cure="Pass draws=0 for none.")
        )
    gaps, rows = x.isnan(), len(x)
    total = torch.full((2, rows), -math.inf, dtype=torch.float64, device=x.device)  # log sums of w and of w^2
    mean = torch.zeros_like(x, dtype=torch.float64)
    best = torch.full((draws, rows), -math.inf, dtype=torch.float64, device=x.device)
    chosen = x.expand(draws, *x.shape).clone()
    for start in range(0, particles, chunk):
        made = draw(*model.programs(x), particles=min(chunk, particles - start))
        log_weights = made.log_weights().double()
        p_x = _likelihood(made.model.node("x"))
        before = total[0]
        total = torch.logaddexp(total, torch.stack([log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)]))
        # Both weights are nil as long as all are nil.
        mean = _weighted((before - total[0]).exp().nan_to_num(), mean)
        mean = mean + _weighted((log_weights - total[0]).exp().nan_to_num(), p_x.mean.double()).sum(0)
        if draws:
            chosen, best = _resampled(log_weights, p_x.sample(), chosen, best)
    if not bool(total[0].isfinite().all()):
        cure = "Look at that row, and at the scale of the data; the model may give a far outlier no density at all."
        got = f"none in row {int((~total[0].isfinite()).nonzero()[0])}"
        raise NonFiniteError(explain("impute", expected="a finite weight a row", got=got, cure=cure))
    return Imputation(
        torch.where(gaps, mean.to(x.dtype), x),
        torch.where(gaps, chosen, x),
        (2 * total[0] - total[1]).exp(),
    )


def _likelihood(node: Any) -> Any:
    if node.mask is None:
        cure = "Train one with missing=True (--missing), or mask the node: bn.sample('x', ..., mask=...)."
        raise ArgumentError(explain("model", expected="one that takes gaps", got="no mask at its node 'x'", cure=cure))
    return node.distribution


def _spread(values: Tensor, event: Tensor) -> Tensor:
    """Return values of shape ``[*, B]`` with an axis of length 1 for each axis of an event."""
    return values.reshape(values.shape + (1,) * (event.dim() - values.dim()))


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights ``[*, B]`` times values ``[*, B, *event_shape]``; of no weight is nil, whatever the value."""
    spread = _spread(weights, values)
    return torch.where(spread > 0, spread * values, 0.0)


def _resampled(log_weights: Tensor, x: Tensor, chosen: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    r"""Choose a particle for each draw, among all so far, by the largest log-weight plus Gumbel noise.

    The largest of :math:`\log w_k + G_k` is at k with probability :math:`\tilde w_k` (Gumbel, 1954), and a maximum
    can be carried from chunk to chunk.
    """
    noise = torch.rand(best.shape[:1] + log_weights.shape, dtype=torch.float64, device=x.device)
    scores = log_weights - (-noise.clamp_min(1e-300).log()).log()  # [M, K, B]
    score, index = scores.max(1)
    candidates = x[index, torch.arange(index.shape[1], device=x.device)]
    better = score > best
    return torch.where(_spread(better, candidates), candidates, chosen), torch.where(better, score, best)
