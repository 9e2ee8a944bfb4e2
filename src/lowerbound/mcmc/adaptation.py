r"""What Hamiltonian Monte Carlo learns in its warm-up: a step size by dual averaging, and variances by Welford's sums.

Both are shared by the chains of one target (axis 0) and separate for each datum of a batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DualAveraging", "Moments", "Warmup", "mass_windows"]

_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
_HALVINGS = 20.0
_LONGEST = 20.0  # the largest |log step size|: on a flat density every step is accepted, however long


class DualAveraging(NamedTuple):
    r"""Nesterov's dual averaging of a log step size, shapes ``[*batch]``.

    .. math:: \bar H_m = (1 - \tfrac1{m + t_0}) \bar H_{m-1} + \tfrac{\delta - \alpha_m}{m + t_0}, \quad
        \log \epsilon_m = \mu - \tfrac{\sqrt m}{\gamma} \bar H_m, \quad
        \overline{\log \epsilon}_m = m^{-\kappa} \log \epsilon_m + (1 - m^{-\kappa}) \overline{\log \epsilon}_{m-1}

    with :math:`\mu = \log(10 \epsilon_0)`, :math:`\gamma = 0.05`, :math:`t_0 = 10`, :math:`\kappa = 0.75`.

    Source: Hoffman and Gelman, The No-U-Turn Sampler (2014), section 3.2.
    """

    shrink_to: Tensor
    log_step: Tensor
    log_average: Tensor
    error: Tensor
    seen: int

    @classmethod
    def start(cls, step_size: Tensor) -> DualAveraging:
        """Begin at a step size, shape ``[*batch]``."""
        log_step = step_size.log()
        return cls(log_step + math.log(10.0), log_step, log_step, torch.zeros_like(log_step), 0)

    def update(self, acceptance: Tensor, target: float) -> DualAveraging:
        """Return the state after a step with these mean acceptance probabilities, shape ``[*batch]``."""
        m = self.seen + 1
        error = self.error + (target - acceptance - self.error) / (m + _T0)
        log_step = (self.shrink_to - math.sqrt(m) / _GAMMA * error).clamp(-_LONGEST, _LONGEST)
        log_average = self.log_average + m**-_KAPPA * (log_step - self.log_average)
        return DualAveraging(self.shrink_to, log_step, log_average, error, m)


class Moments(NamedTuple):
    """Running means and sums of squares of positions, shapes ``[*batch, D]``.

    Source: Welford (1962), for many values at a time as in Chan, Golub and LeVeque (1983).
    """

    mean: Tensor
    squares: Tensor
    seen: int

    @classmethod
    def start(cls, like: Tensor) -> Moments:
        """Begin with nothing seen; `like` has the shape ``[*batch, D]``."""
        return cls(torch.zeros_like(like), torch.zeros_like(like), 0)

    def update(self, positions: Tensor) -> Moments:
        """Return the moments with one more position of every chain, shape ``[chains, *batch, D]``."""
        new, total = len(positions), self.seen + len(positions)
        mean = positions.mean(0)
        away = mean - self.mean
        squares = self.squares + (positions - mean).square().sum(0) + away.square() * (self.seen * new / total)
        return Moments(self.mean + away * (new / total), squares, total)

    def variance(self) -> Tensor:
        """Return the variances, drawn a little towards 0.001 where few values were seen, as in Stan."""
        n = self.seen
        return (n * self.squares / max(n - 1, 1) + 5e-3) / (n + 5)


class Warmup(NamedTuple):
    """Where a warm-up stands.

    Attributes:
        steps: The steps made.
        total: The steps to make.
        dual: The step size.
        moments: What the variances are estimated from.
        behind: How often each chain's step is halved, shape ``[chains, *batch]``.
    """

    steps: int
    total: int
    dual: DualAveraging
    moments: Moments
    behind: Tensor

    @classmethod
    def start(cls, total: int, step_size: Tensor, position: Tensor) -> Warmup:
        """Begin at a step size ``[*batch]`` and positions ``[chains, *batch, D]``."""
        behind = torch.zeros_like(position[..., 0])
        return cls(0, total, DualAveraging.start(step_size), Moments.start(position[0]), behind)

    def catch_up(self, diverged: Tensor) -> Tensor:
        """Return `behind` after a step: a divergence halves a chain's next step, and every other result doubles it.

        Else a chain that started where the density is much more curved than in the bulk would stay there for ever: the
        step size is that of the other chains.
        """
        return (self.behind + torch.where(diverged, 1.0, -1.0)).clamp(0.0, _HALVINGS)


def mass_windows(warmup: int) -> list[int]:
    """Return the steps of a warm-up at which its windows begin or end, in which variances are collected.

    Nothing is collected in the first 15 percent, while chains may still be far out, nor in the last 20, which belong to
    the step size. Windows double between, so that early positions are forgotten.

    Example:
        >>> mass_windows(1000), mass_windows(30)
        ([150, 175, 225, 325, 800], [])
    """
    begin, end, width = int(0.15 * warmup), int(0.8 * warmup), 25
    if end - begin < width:
        return []
    edges = [begin]
    while edges[-1] + 3 * width <= end:  # the next window would not fit: the last one takes all
        edges.append(edges[-1] + width)
        width *= 2
    return [*edges, end]
