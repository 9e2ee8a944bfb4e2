"""The protocol that every sampler of this folder has: `init` and `step`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from lowerbound.mcmc.target import LogProb

__all__ = ["Kernel"]


class Kernel(Protocol):
    """A Markov kernel without memory: what it knows of its chains is in the state that it is handed.

    States and infos are named tuples. Both have a field ``log_prob``, shape ``[chains, *batch]``; every state has
    a field ``position``, shape ``[chains, *batch, D]``. Kernels draw from torch's global generators, which
    `lowerbound.mcmc.run` seeds.
    """

    def init(self, log_prob: LogProb, position: Tensor, warmup: int = 0) -> Any:
        """Return the state at a position; the first `warmup` steps from here may adapt, those behind them may not."""
        ...

    def step(self, log_prob: LogProb, state: Any) -> tuple[Any, Any]:
        """Return the next state and what is to be known of the step."""
        ...
