r"""The stochastic gradient Nosé-Hoover thermostat."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import number
from lowerbound.mcmc.step_sizes import StepSize, check_step_size, step_size_at
from lowerbound.mcmc.target import LogProb, finite_start, value_and_grad

__all__ = ["SGNHT", "SGNHTInfo", "SGNHTState"]


class SGNHTInfo(NamedTuple):
    """What is to be known of a step, shapes ``[chains, *batch]``.

    Attributes:
        log_prob: The (minibatch) log-density of the step.
        friction: The thermostat behind it.
    """

    log_prob: Tensor
    friction: Tensor


class SGNHTState(NamedTuple):
    """Where the chains stand.

    Attributes:
        position: Shape ``[chains, *batch, D]``.
        log_prob: The (minibatch) log-density of the last step, shape ``[chains, *batch]``.
        velocity: Shape ``[chains, *batch, D]``.
        friction: The thermostat, shape ``[chains, *batch]``.
        steps: The number of steps made.
    """

    position: Tensor
    log_prob: Tensor
    velocity: Tensor
    friction: Tensor
    steps: int


class SGNHT:
    r"""Hamiltonian dynamics whose friction is a variable: it finds out how noisy the gradients are.

    .. math:: dv = -\xi v + \eta\, \hat\nabla \log \pi(\theta) + \mathcal{N}(0, 2 a \eta), \qquad
        d\theta = v, \qquad d\xi = \tfrac1D \lVert v \rVert^2 - \eta

    The thermostat :math:`\xi` keeps the mean kinetic energy where it belongs, so the noise that :math:`\hat\beta`
    stands for in `SGHMC` need not be known. In the paper's terms :math:`v = h p` and :math:`\eta = h^2`; its
    :math:`\xi` and A are taken times h. A step is split evenly around the gradient: half of the motion and of the
    thermostat's, half of the friction, the kick, and back again. A plain Euler step would leave the variance of a
    Gaussian too small by a share of :math:`\xi / 2`.

    Args:
        step_size: :math:`\eta`, of the order of a squared step length, or a function from the number of steps to it.
        noise: a, the noise put in, and the friction to start with.

    Raises:
        ArgumentError: if an argument is out of its range.

    Source: Ding et al., Bayesian Sampling Using Stochastic Gradient Thermostats (2014), algorithm 2;
    Chen, Ding and Carin, On the Convergence of Stochastic Gradient MCMC Algorithms with High-Order Integrators (2015).

    Example:
        >>> normal = torch.distributions.Normal(2.0, 1.0)
        >>> samples = lb.mcmc.run(SGNHT(0.05), normal.log_prob, torch.zeros(50), warmup=100, draws=100)
        >>> bool((samples.draws["position"].mean() - 2.0).abs() < 0.3)
        True
    """

    def __init__(self, step_size: StepSize, *, noise: float = 0.1) -> None:
        self.step_size = check_step_size(step_size)
        self.noise = number("noise", noise, low=0.0)

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> SGNHTState:
        """Return the state at positions ``[chains, *batch, D]``, with velocities from their own distribution."""
        value, grad = value_and_grad(log_prob, position)
        finite_start(value, grad)
        velocity = math.sqrt(step_size_at(self.step_size, 0)) * torch.randn_like(grad)
        return SGNHTState(position.detach(), value, velocity, torch.full_like(value, self.noise), 0)

    def step(self, log_prob: LogProb, state: SGNHTState) -> tuple[SGNHTState, SGNHTInfo]:
        """Make one step."""
        step_size = step_size_at(self.step_size, state.steps)
        middle, friction = _drift(state.position, state.velocity, state.friction, step_size)
        damping = (-0.5 * friction).exp()[..., None]
        value, grad = value_and_grad(log_prob, middle)
        drawn = math.sqrt(2 * self.noise * step_size) * torch.randn_like(grad)
        velocity = damping * (damping * state.velocity + step_size * grad + drawn)
        position, friction = _drift(middle, velocity, friction, step_size)
        return SGNHTState(position, value, velocity, friction, state.steps + 1), SGNHTInfo(value, friction)


def _drift(position: Tensor, velocity: Tensor, friction: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
    """Return position and friction half a step later."""
    return position + 0.5 * velocity, friction + 0.5 * (velocity.square().mean(-1) - step_size)
