r"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.mcmc.step_sizes import StepInfo, StepSize, check_step_size, step_size_at
from lowerbound.mcmc.target import LogProb, finite_start, value_and_grad

__all__ = ["SGLD", "SGLDState"]


class SGLDState(NamedTuple):
    """Where the chains stand.

    Attributes:
        position: Shape ``[chains, *batch, D]``.
        log_prob: The (minibatch) log-density of the last step, shape ``[chains, *batch]``.
        steps: The number of steps made.
    """

    position: Tensor
    log_prob: Tensor
    steps: int


class SGLD:
    r"""Langevin dynamics with gradients of minibatches and no accept-reject step.

    .. math:: \theta \mathrel{+}= \tfrac{\epsilon}{2}\, \hat\nabla \log \pi(\theta) + \mathcal{N}(0, \epsilon)

    The gradient is that of a log-density in which the B rows of a minibatch stand for all N: a node's ``scale=N / B``.
    With a constant step size its draws have a bias of order :math:`\epsilon`, and the gradient's noise adds to it; on
    :math:`\mathcal{N}(0, s^2)` with exact gradients their variance is
    :math:`\epsilon / (1 - (1 - \epsilon / 2 s^2)^2)`.

    Args:
        step_size: :math:`\epsilon`, or a function from the number of steps to it.

    Raises:
        ArgumentError: if the step size is not positive.

    Source: Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics (2011).

    Example:
        >>> normal = torch.distributions.Normal(2.0, 1.0)
        >>> samples = lb.mcmc.run(SGLD(0.1), normal.log_prob, torch.zeros(50), warmup=100, draws=100)
        >>> bool((samples.draws["position"].mean() - 2.0).abs() < 0.3)
        True
    """

    def __init__(self, step_size: StepSize) -> None:
        self.step_size = check_step_size(step_size)

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> SGLDState:
        """Return the state at positions ``[chains, *batch, D]``; there is nothing to adapt in a warm-up."""
        value, grad = value_and_grad(log_prob, position)
        finite_start(value, grad)
        return SGLDState(position.detach(), value, 0)

    def step(self, log_prob: LogProb, state: SGLDState) -> tuple[SGLDState, StepInfo]:
        """Make one step."""
        step_size = step_size_at(self.step_size, state.steps)
        value, grad = value_and_grad(log_prob, state.position)
        position = state.position + 0.5 * step_size * grad + math.sqrt(step_size) * torch.randn_like(grad)
        return SGLDState(position, value, state.steps + 1), StepInfo(value)
