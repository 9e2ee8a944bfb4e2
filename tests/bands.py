"""How far an empirical distribution may lie from the one that it is drawn from; every bound holds for any number.

By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart the distribution of n draws is farther than
``band(n, p)`` from the truth with probability p at most. So a test that fails beyond the band has the false-alarm rate
p; and draws of a distribution that is off by the sum of two bands are let through with probability q at most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def band(draws: int, probability: float) -> float:
    """Return the Kolmogorov distance that draws exceed with this probability at most."""
    return math.sqrt(math.log(2 / probability) / (2 * draws))


def enough(distance: float, *, false_alarm: float, false_pass: float) -> int:
    """Return how many draws tell a distribution that is off by a distance from the right one."""
    return math.ceil((band(1, false_alarm) + band(1, false_pass)) ** 2 / distance**2)


def band_of_two(draws: int, probability: float) -> float:
    """Return the same for the distance of two samples of equal size.

    Source: Wei and Dudley, Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities (2012); it holds from 458 draws on.
    """
    return math.sqrt(2) * band(draws, probability)


def from_uniform(u: Tensor) -> float:
    """Return the Kolmogorov distance of numbers ``[n]`` from the uniform distribution on (0, 1)."""
    u = u.sort().values
    ranks = torch.arange(len(u) + 1, dtype=torch.float64) / len(u)
    return float(torch.maximum((ranks[1:] - u).max(), (u - ranks[:-1]).max()))


def between(one: Tensor, other: Tensor) -> float:
    """Return the Kolmogorov distance of two samples ``[n]``."""
    both = torch.cat([one, other])
    low, high = (torch.searchsorted(x.sort().values, both, right=True).double() / len(x) for x in (one, other))
    return float((low - high).abs().max())
