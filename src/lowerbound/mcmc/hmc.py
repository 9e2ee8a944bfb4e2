r"""Hamiltonian Monte Carlo for many chains and many targets as one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lowerbound.core.checks import number, positive_int
from lowerbound.mcmc.adaptation import DualAveraging, Moments, Warmup, mass_windows
from lowerbound.mcmc.target import LogProb, finite_start, value_and_grad

__all__ = ["HMC", "HMCInfo", "HMCState", "Point", "leapfrog", "transition"]

_DIVERGED = 1000.0  # nats of energy error, as in Stan


class Point(NamedTuple):
    """A position with all that was computed there.

    Attributes:
        position: Shape ``[*lead, D]``.
        log_prob: Shape ``[*lead]``.
        grad: The gradient of `log_prob`, shape ``[*lead, D]``.
        parts: What else belongs to the position and goes where it goes, each ``[*lead]`` or ``[*lead, D]``.
    """

    position: Tensor
    log_prob: Tensor
    grad: Tensor
    parts: tuple[Tensor, ...] = ()


class HMCInfo(NamedTuple):
    """What is to be known of a transition, shapes ``[chains, *batch]``.

    Attributes:
        log_prob: The log-density where the chain stands now.
        acceptance: The probability with which the proposal was accepted.
        accepted: Whether it was.
        diverged: Whether its energy was off by more than 1000 nats or not finite; it was rejected then.
    """

    log_prob: Tensor
    acceptance: Tensor
    accepted: Tensor
    diverged: Tensor


class HMCState(NamedTuple):
    """Where the chains stand.

    Attributes:
        position: Shape ``[chains, *batch, D]``.
        log_prob: Shape ``[chains, *batch]``.
        grad: Shape ``[chains, *batch, D]``.
        step_size: Shape ``[*batch]``.
        variance: The inverse masses, shape ``[*batch, D]``.
        warmup: None once it is over: step size and variances are frozen.
    """

    position: Tensor
    log_prob: Tensor
    grad: Tensor
    step_size: Tensor
    variance: Tensor
    warmup: Warmup | None


class HMC:
    r"""Hamiltonian Monte Carlo with a leapfrog integrator, diagonal masses and an adaptive step size.

    .. math:: H(\theta, p) = -\log \pi(\theta) + \tfrac12 \sum_d \sigma_d^2 p_d^2, \qquad
        \text{accept with probability } \min(1, e^{H(\theta, p) - H(\theta', p')})

    Each chain is accepted or rejected for itself. In the warm-up the step size is tuned by dual averaging to the target
    acceptance and :math:`\sigma_d^2` set to the chains' variances, both for each datum of a batch and shared by its
    chains; only a chain that diverges takes shorter steps than the others for a while. Then both are frozen, so that
    the draws behind it leave the target invariant.

    Args:
        step_size: Where the step size starts; the one that is used if there is no warm-up.
        leapfrogs: The number of leapfrog steps of a trajectory.
        jitter: Every trajectory of every chain is made longer or shorter by a random factor from ``1 - jitter`` to
            ``1 + jitter``, lest it comes back to where it started.
        target_acceptance: The mean acceptance probability to tune for.
        adapt_mass: Whether the warm-up estimates variances; else they are 1.

    Raises:
        ArgumentError: if an argument is out of its range.

    Source: Duane et al., Hybrid Monte Carlo (1987); Neal, MCMC Using Hamiltonian Dynamics (2011); Hoffman and Gelman,
    The No-U-Turn Sampler (2014), for the step size.

    Example:
        >>> target = torch.distributions.Normal(torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.1]))
        >>> start, kernel = torch.zeros(8, 2), HMC(leapfrogs=5)
        >>> samples = lb.mcmc.run(kernel, lambda z: target.log_prob(z).sum(-1), start, warmup=100, draws=50)
        >>> draws = samples.draws["position"]
        >>> draws.shape, bool((draws.mean((0, 1)) - target.loc).abs().max() < 0.4)
        (torch.Size([8, 50, 2]), True)
    """

    def __init__(
        self,
        *,
        step_size: float = 0.1,
        leapfrogs: int = 10,
        jitter: float = 0.2,
        target_acceptance: float = 0.8,
        adapt_mass: bool = True,
    ) -> None:
        self.step_size = number("step_size", step_size, low=0.0, open_low=True)
        self.leapfrogs = positive_int("leapfrogs", leapfrogs)
        self.jitter = number("jitter", jitter, low=0.0, high=0.9)
        self.target_acceptance = number("target_acceptance", target_acceptance, low=0.05, high=0.99)
        self.adapt_mass = adapt_mass

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> HMCState:
        """Return the state at positions ``[chains, *batch, D]``; the first `warmup` steps from here adapt.

        Raises:
            NonFiniteError: if the log-density or its gradient is not finite there.
        """
        value, grad = value_and_grad(log_prob, position)
        finite_start(value, grad)
        step_size = torch.full_like(value[0], self.step_size)
        start = Warmup.start(warmup, step_size, position.detach()) if warmup else None
        return HMCState(position.detach(), value, grad, step_size, torch.ones_like(position[0]), start)

    def step(self, log_prob: LogProb, state: HMCState) -> tuple[HMCState, HMCInfo]:
        """Make one transition, and adapt if the warm-up is not over."""

        def evaluate(position: Tensor) -> Point:
            return Point(position, *value_and_grad(log_prob, position))

        point = Point(state.position, state.log_prob, state.grad)
        factor = 1 + self.jitter * (2 * torch.rand_like(state.log_prob) - 1)
        if state.warmup is not None:
            factor = factor * torch.exp2(-state.warmup.behind)
        point, info = transition(evaluate, point, state.step_size * factor, state.variance, self.leapfrogs)
        moved = state._replace(position=point.position, log_prob=point.log_prob, grad=point.grad)
        return (moved if state.warmup is None else self._adapt(moved, state.warmup, info)), info

    def _adapt(self, state: HMCState, warmup: Warmup, info: HMCInfo) -> HMCState:
        """Return the state with a new step size, at the end of a window with new variances, at the end frozen."""
        steps, edges = warmup.steps + 1, mass_windows(warmup.total) if self.adapt_mass else []
        dual = warmup.dual.update(info.acceptance.mean(0), self.target_acceptance)
        moments, variance = warmup.moments, None
        if edges and edges[0] < steps <= edges[-1]:
            moments = moments.update(state.position)
            if steps in edges:
                variance, moments = moments.variance(), Moments.start(moments.mean)
                # What held the old step back was the direction that was narrowest in its units; it has width 1 now.
                longer = (state.variance / variance).amax(-1).sqrt().clamp(1e-3, 1e3)
                dual = DualAveraging.start(dual.log_average.exp() * longer)
        over = steps == warmup.total
        return state._replace(
            step_size=(dual.log_average if over else dual.log_step).exp(),
            variance=state.variance if variance is None else variance,
            warmup=None if over else Warmup(steps, warmup.total, dual, moments, warmup.catch_up(info.diverged)),
        )


def leapfrog(
    evaluate: Callable[[Tensor], Point], point: Point, momentum: Tensor, step_size: Tensor, variance: Tensor, steps: int
) -> tuple[Point, Tensor]:
    r"""Follow Hamilton's equations for a number of steps.

    .. math:: p \mathrel{+}= \tfrac\epsilon2 \nabla \log \pi(\theta), \quad \theta \mathrel{+}= \epsilon \sigma^2 p,
        \quad p \mathrel{+}= \tfrac\epsilon2 \nabla \log \pi(\theta)

    It is reversible and keeps volume; its energy is off by a number of order :math:`\epsilon^2`.

    Args:
        evaluate: From positions ``[*lead, D]`` to points.
        point: Where it starts.
        momentum: Shape ``[*lead, D]``.
        step_size: Broadcasts to ``[*lead]``.
        variance: The inverse masses; broadcasts to ``[*lead, D]``.
        steps: How many.

    Returns:
        The point and the momentum at the end.
    """
    step = step_size[..., None]
    for _ in range(steps):
        momentum = momentum + 0.5 * step * point.grad
        position = point.position + step * variance * momentum
        # A chain that has left the finite numbers stays; its momentum is NaN, and so its end will be rejected.
        point = evaluate(torch.where(position.isfinite(), position, point.position))
        momentum = momentum + 0.5 * step * point.grad
    return point, momentum


def transition(
    evaluate: Callable[[Tensor], Point], point: Point, step_size: Tensor, variance: Tensor, leapfrogs: int
) -> tuple[Point, HMCInfo]:
    """Draw momenta, follow a trajectory, and accept or reject its end, each chain for itself.

    Args:
        evaluate: From positions ``[*lead, D]`` to points.
        point: Where the chains stand.
        step_size: Broadcasts to ``[*lead]``.
        variance: The inverse masses; broadcasts to ``[*lead, D]``.
        leapfrogs: The number of leapfrog steps.

    Returns:
        The point where the chains stand then, and what is to be known of it.
    """
    momentum = torch.randn_like(point.position) / variance.sqrt()
    proposal, end = leapfrog(evaluate, point, momentum, step_size, variance, leapfrogs)
    kinetic, kinetic_end = (0.5 * (variance * p.square()).sum(-1) for p in (momentum, end))
    change = (kinetic_end - kinetic) - (proposal.log_prob - point.log_prob)
    diverged = ~(change.isfinite() & (change < _DIVERGED))
    acceptance = torch.where(diverged, 0.0, (-change).exp().clamp(max=1.0))
    accepted = torch.rand_like(acceptance) < acceptance
    kept = Point(
        _choose(accepted, proposal.position, point.position),
        _choose(accepted, proposal.log_prob, point.log_prob),
        _choose(accepted, proposal.grad, point.grad),
        tuple(_choose(accepted, new, old) for new, old in zip(proposal.parts, point.parts, strict=True)),
    )
    return kept, HMCInfo(kept.log_prob, acceptance, accepted, diverged)


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(accepted.shape + (1,) * (new.dim() - accepted.dim())), new, old)
