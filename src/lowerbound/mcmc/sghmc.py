r"""Stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import number
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.mcmc.step_sizes import StepInfo, StepSize, check_step_size, step_size_at
from lowerbound.mcmc.target import LogProb, finite_start, value_and_grad

__all__ = ["SGHMC", "SGHMCState"]


class SGHMCState(NamedTuple):
    """Where the chains stand.

    Attributes:
        position: Shape ``[chains, *batch, D]``.
        log_prob: The (minibatch) log-density of the last step, shape ``[chains, *batch]``.
        velocity: Shape ``[chains, *batch, D]``.
        steps: The number of steps made.
    """

    position: Tensor
    log_prob: Tensor
    velocity: Tensor
    steps: int


class SGHMC:
    r"""Hamiltonian dynamics with friction, which takes back what the gradient's noise puts in.

    .. math:: v \leftarrow (1 - \alpha) v + \eta\, \hat\nabla \log \pi(\theta) +
        \mathcal{N}(0, 2 (\alpha - \hat\beta) \eta), \qquad \theta \mathrel{+}= v

    Args:
        step_size: :math:`\eta`, of the order of a squared step length, or a function from the number of steps to it.
        friction: :math:`\alpha`; 1 forgets the velocity at every step.
        noise: :math:`\hat\beta = \eta \hat V / 2`, where V is the variance of the gradient's noise, if it is known.

    Raises:
        ArgumentError: if an argument is out of its range, or the noise exceeds the friction.

    Source: Chen, Fox and Guestrin, Stochastic Gradient Hamiltonian Monte Carlo (2014), equation 15.

    Example:
        >>> normal = torch.distributions.Normal(2.0, 1.0)
        >>> samples = lb.mcmc.run(SGHMC(0.05), normal.log_prob, torch.zeros(50), warmup=100, draws=100)
        >>> bool((samples.draws["position"].mean() - 2.0).abs() < 0.3)
        True
    """

    def __init__(self, step_size: StepSize, *, friction: float = 0.25, noise: float = 0.0) -> None:
        self.step_size = check_step_size(step_size)
        self.friction = number("friction", friction, low=0.0, high=1.0, open_low=True)
        self.noise = number("noise", noise, low=0.0)
        if self.noise > self.friction:
            cure = "Raise the friction, take larger minibatches, or a smaller step size."
            raise ArgumentError(explain("noise", expected=f"at most the friction {friction}", got=noise, cure=cure))

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> SGHMCState:
        """Return the state at positions ``[chains, *batch, D]``, with velocities from their own distribution."""
        value, grad = value_and_grad(log_prob, position)
        finite_start(value, grad)
        velocity = math.sqrt(step_size_at(self.step_size, 0)) * torch.randn_like(grad)
        return SGHMCState(position.detach(), value, velocity, 0)

    def step(self, log_prob: LogProb, state: SGHMCState) -> tuple[SGHMCState, StepInfo]:
        """Make one step."""
        step_size = step_size_at(self.step_size, state.steps)
        value, grad = value_and_grad(log_prob, state.position)
        drawn = math.sqrt(2 * (self.friction - self.noise) * step_size) * torch.randn_like(grad)
        velocity = (1 - self.friction) * state.velocity + step_size * grad + drawn
        return SGHMCState(state.position + velocity, value, velocity, state.steps + 1), StepInfo(value)
