r"""Preconditioned stochastic gradient Langevin dynamics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import number
from lowerbound.mcmc.step_sizes import StepInfo, StepSize, check_step_size, step_size_at
from lowerbound.mcmc.target import LogProb, finite_start, value_and_grad

__all__ = ["PSGLD", "PSGLDState"]


class PSGLDState(NamedTuple):
    """Where the chains stand.

    Attributes:
        position: Shape ``[chains, *batch, D]``.
        log_prob: The (minibatch) log-density of the last step, shape ``[chains, *batch]``.
        square: The running mean of squared gradients, shape ``[chains, *batch, D]``.
        steps: The number of steps made.
    """

    position: Tensor
    log_prob: Tensor
    square: Tensor
    steps: int


class PSGLD:
    r"""Langevin dynamics whose step in each direction is scaled as RMSprop scales it.

    .. math:: V \leftarrow \beta V + (1 - \beta)\, \hat g^2, \quad G = 1 / (\lambda + \sqrt V), \quad
        \theta \mathrel{+}= \tfrac{\epsilon}{2}\, G \hat g + \mathcal{N}(0, \epsilon\, G)

    with :math:`\hat g = \hat\nabla \log \pi(\theta)`. As in the paper's experiments, the term :math:`\Gamma` for the
    dependence of G on :math:`\theta` is left out: a bias that vanishes as `decay` goes to 1.

    Args:
        step_size: :math:`\epsilon`, or a function from the number of steps to it.
        decay: :math:`\beta`.
        floor: :math:`\lambda`; it bounds the scaling where gradients vanish.

    Raises:
        ArgumentError: if an argument is out of its range.

    Source: Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics for Deep Neural Networks
    (2016).

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2), torch.tensor([1.0, 0.01]))
        >>> start = torch.full((20, 2), 0.1)
        >>> samples = lb.mcmc.run(PSGLD(0.02), lambda z: normal.log_prob(z).sum(-1), start, warmup=200, draws=100)
        >>> samples.draws["position"].shape
        torch.Size([20, 100, 2])
    """

    def __init__(self, step_size: StepSize, *, decay: float = 0.99, floor: float = 1e-5) -> None:
        self.step_size = check_step_size(step_size)
        self.decay = number("decay", decay, low=0.0, high=1.0)
        self.floor = number("floor", floor, low=0.0, open_low=True)

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> PSGLDState:
        """Return the state at positions ``[chains, *batch, D]``; the squares start at those of the gradient there."""
        value, grad = value_and_grad(log_prob, position)
        finite_start(value, grad)
        return PSGLDState(position.detach(), value, grad.square(), 0)

    def step(self, log_prob: LogProb, state: PSGLDState) -> tuple[PSGLDState, StepInfo]:
        """Make one step."""
        step_size = step_size_at(self.step_size, state.steps)
        value, grad = value_and_grad(log_prob, state.position)
        square = self.decay * state.square + (1 - self.decay) * grad.square()
        scale = step_size / (self.floor + square.sqrt())
        position = state.position + 0.5 * scale * grad + scale.sqrt() * torch.randn_like(grad)
        return PSGLDState(position, value, square, state.steps + 1), StepInfo(value)
