"""Planted mistakes: samplers that look right and are not. A test that lets them through is no test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.mcmc import HMC, HMCState, LogJoint
from lowerbound.mcmc.hmc import HMCInfo, Point, leapfrog
from lowerbound.mcmc.target import value_and_grad

Rule = Callable[[Tensor, Tensor], Tensor]
"""From the changes of log-density and of kinetic energy to the logarithm of the acceptance probability."""


def right(up: Tensor, kinetic: Tensor) -> Tensor:
    """Accept as Hamiltonian Monte Carlo does: no mistake."""
    return up - kinetic


def always(up: Tensor, kinetic: Tensor) -> Tensor:
    """Accept all that did not diverge, by more than ten nats, lest chains leave the finite numbers."""
    return torch.where(kinetic - up < 10, 0.0, -torch.inf)


def without_kinetic(up: Tensor, kinetic: Tensor) -> Tensor:
    """Forget the kinetic energy."""
    return up


class Accepts(HMC):
    """Hamiltonian Monte Carlo that accepts by a rule; with `right` it is no mistake."""

    def __init__(self, rule: Rule, **settings: Any) -> None:
        super().__init__(**settings)
        self.rule = rule

    def step(self, log_prob: Any, state: HMCState) -> tuple[HMCState, HMCInfo]:
        def at(z: Tensor) -> Point:
            return Point(z, *value_and_grad(log_prob, z))

        start, variance = Point(state.position, state.log_prob, state.grad), state.variance
        momentum = torch.randn_like(state.position) / variance.sqrt()
        step_size = state.step_size * (1 + self.jitter * (2 * torch.rand_like(state.log_prob) - 1))
        end, after = leapfrog(at, start, momentum, step_size, variance, self.leapfrogs)
        kinetic = 0.5 * (variance * (after**2 - momentum**2)).sum(-1)
        acceptance = self.rule(end.log_prob - start.log_prob, kinetic).nan_to_num(-torch.inf).exp().clamp(max=1.0)
        accepted = (torch.rand_like(acceptance) < acceptance) & end.log_prob.isfinite()
        position, log_prob, grad = (
            torch.where(accepted.reshape(accepted.shape + (1,) * (new.dim() - accepted.dim())), new, old)
            for new, old in zip(end[:3], start[:3], strict=True)
        )
        info = HMCInfo(log_prob, acceptance, accepted, torch.zeros_like(accepted))
        return state._replace(position=position, log_prob=log_prob, grad=grad, warmup=None), info


class NeverFreezes(HMC):
    """Hamiltonian Monte Carlo whose every chain adapts its step size, before each transition, to the gradient there.

    An adaptation without memory. One like dual averaging, which goes by acceptance, moves the target less: it takes
    some 20,000 chains to be seen.
    """

    def step(self, log_prob: Any, state: HMCState) -> tuple[HMCState, HMCInfo]:
        here = self.step_size / (1 + state.grad.norm(dim=-1))
        return super().step(log_prob, state._replace(step_size=here, warmup=None))


class ForgetsJacobian(LogJoint):
    """The log-joint without the log-determinant of the bijection."""

    def log_det(self, position: Any, values: Any) -> Tensor:
        return 0 * super().log_det(position, values)


class KeepsData(LogJoint):
    """The log-joint that does not take other data."""

    def given(self, program: Any, observed: Mapping[str, Tensor]) -> LogJoint:
        return self
