r"""What score-function estimators share: draws without a path, log q at them, and learning signals of K particles.

.. math:: \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)] = \mathbb{E}_{q_\phi(z)}[(f(z) - b)\, \nabla_\phi \log q_\phi(z)]

for any baseline b that does not depend on z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import choice
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.objectives.log_weights import Draw, log_mean_exp

__all__ = ["Baseline", "Scored", "baseline_cost", "leave_one_out", "require_particles", "vimco_signal"]

Baseline = Tensor | float | Literal["leave-one-out"] | None


class Scored(NamedTuple):
    """Draws as a score-function estimator needs them.

    Attributes:
        draws: The draws; only nodes that keep their path carry gradients.
        log_q: log q(z|x) at the draws, as a function of q's parameters, ``[K, *batch]``.
        log_q_fixed: The same with q's parameters as constants: its gradient is that of the paths alone.
        score: The log-probability of the draws of the nodes without a path, ``[K, *batch]``: that from which they were
            drawn, whatever scale and mask say of its part in the bound.
    """

    draws: Draw
    log_q: Tensor
    log_q_fixed: Tensor
    score: Tensor


def baseline_cost(estimator: str, signal: Tensor, baseline: Baseline) -> tuple[Tensor, Tensor | float]:
    """Return a learning signal minus its baseline, detached, and the cost of a baseline that is learned.

    Args:
        estimator: The estimator, for messages.
        signal: What is learned from, shape ``[K, *batch]``.
        baseline: A number, a tensor that broadcasts with `signal` and does not depend on the draws, the mean of the
            other particles, or None for zero.

    Raises:
        ArgumentError: if the baseline is unknown, has another shape, or compares particles where there is one.
    """
    signal = signal.detach()
    if baseline is None:
        return signal, 0.0
    if isinstance(baseline, str):
        choice("baseline", baseline, ("leave-one-out",))
        require_particles(f"{estimator} with baseline 'leave-one-out'", len(signal))
        return signal - leave_one_out(signal), 0.0
    if not isinstance(baseline, Tensor):
        return signal - float(baseline), 0.0
    if baseline.shape not in (signal.shape, signal.shape[1:], ()):
        cure = "A baseline network ends with one output a row: net(x).squeeze(-1)."
        expected = f"shape {tuple(signal.shape[1:])}"
        raise ArgumentError(explain("baseline", expected=expected, got=tuple(baseline.shape), cure=cure))
    error = (signal - baseline).square() if baseline.requires_grad else None
    return signal - baseline.detach(), 0.0 if error is None else error.mean(0)


def require_particles(estimator: str, particles: int) -> None:
    """Raise an error if an estimator that compares particles has only one.

    Raises:
        ArgumentError: if it has.
    """
    if particles < 2:
        cure = "Pass particles=2 or more, or another baseline."
        expected = "at least 2 particles, which it compares"
        raise ArgumentError(explain(estimator, expected=expected, got=particles, cure=cure))


def leave_one_out(values: Tensor) -> Tensor:
    r"""Return for each particle the mean of the others, :math:`\frac{1}{K-1} \sum_{j \ne k} f_j`, shape ``[K, *]``.

    Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016); Kool, van Hoof and Welling, Buy 4
    REINFORCE Samples, Get a Baseline for Free (2019).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
        tensor([4.0000, 3.5000, 1.5000])
    """
    return (values.sum(0) - values) / (len(values) - 1)


def vimco_signal(log_weights: Tensor, average: Callable[[Tensor], Tensor] = log_mean_exp) -> Tensor:
    r"""Return VIMCO's learning signal of each particle, :math:`\hat L - \hat L_{-k}`, shape ``[K, *]``, in nats.

    .. math:: \hat L_{-k} = \log \frac{1}{K} \Big( \sum_{j \ne k} w_j
              + \exp \frac{1}{K-1} \sum_{j \ne k} \log w_j \Big)

    The particle's own weight is replaced by the geometric mean of the others: :math:`\hat L_{-k}` does not depend
    on it.

    Args:
        log_weights: Shape ``[K, *]``.
        average: How the bound averages weights ``[K, *]`` over axis 0; written here for the log of their mean.

    Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives (2016), equation 10.

    Example:
        >>> vimco_signal(torch.zeros(3, 1)).abs().max() < 1e-6
        tensor(True)
    """
    particles = len(log_weights)
    others = torch.eye(particles, dtype=torch.bool, device=log_weights.device)
    others = others.reshape(particles, particles, *[1] * (log_weights.dim() - 1))
    table = torch.where(others, leave_one_out(log_weights).unsqueeze(0), log_weights.unsqueeze(1))
    return average(log_weights) - average(table)
