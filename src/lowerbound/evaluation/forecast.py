"""How long annealing will take, told before it starts."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from lowerbound.evaluation.ais import Path, gaussian_start, gradients

__all__ = ["duration", "forecast"]


@torch.no_grad()
def forecast(model: Any, x: Tensor, n: int, *, chains: int, temperatures: int, both_ways: bool = False) -> float:
    """Return about how many seconds n rows will take, from one gradient of a batch of them.

    Args:
        model: The model.
        x: A batch of rows, as large as those that follow.
        n: The number of rows.
        chains: The number of chains a row.
        temperatures: The number of steps from the start to the posterior.
        both_ways: Whether chains go back, too.
    """
    program, observed, posterior = model.programs(x)
    path = Path(program, observed, gaussian_start(program, observed, posterior), chains=chains)
    position, seconds = path.draw(), math.inf
    for _ in range(2):  # the first call may be slower
        begin = time.perf_counter()
        float(path.evaluate(position, 0.5).log_prob.sum())  # waits for an accelerator
        seconds = min(seconds, time.perf_counter() - begin)
    return seconds * gradients(temperatures, both_ways=both_ways) * math.ceil(n / len(x))


def duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> duration(0.4), duration(75), duration(6000)
        ('1 second', '1 minute', '1.7 hours')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    count, unit = (seconds / 60, "minute") if seconds >= 60 else (seconds, "second")
    whole = max(1, round(count))
    return f"{whole} {unit}{'s' * (whole > 1)}"
