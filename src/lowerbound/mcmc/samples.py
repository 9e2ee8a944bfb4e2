"""What chains return, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.mcmc import diagnostics

__all__ = ["Samples"]


@dataclass(frozen=True)
class Samples:
    """The draws of Markov chains.

    Attributes:
        draws: By name, shape ``[chains, draws, *batch, *event]``.
        stats: Of every draw, shape ``[chains, draws, *batch]``: ``log_prob``, which stochastic-gradient kernels know
            where they took the gradient of the step and not where it ended, of `HMC` also ``acceptance``,
            ``accepted`` and ``diverged``, of `SGNHT` also ``friction``.
        state: The kernel's state behind the last draw.
        remarks: What its user should know, in sentences; they were warnings of `lowerbound.mcmc.run`.
    """

    draws: dict[str, Tensor]
    stats: dict[str, Tensor] = field(repr=False)
    state: Any = field(repr=False)
    remarks: list[str] = field(default_factory=list)

    @property
    def divergences(self) -> int:
        """The number of transitions behind a draw whose energy error was beyond all bounds."""
        diverged = self.stats.get("diverged")
        return 0 if diverged is None else int(diverged.sum())

    def summary(self) -> dict[str, dict[str, Tensor]]:
        """Return, by name, ``mean``, ``sd``, ``mcse``, ``ess_bulk``, ``ess_tail`` and ``rhat``, ``[*batch, *event]``.

        Raises:
            ArgumentError: if there are fewer than two chains or ten draws.

        Example:
            >>> normal = torch.distributions.Normal(0.0, 1.0)
            >>> samples = lb.mcmc.run(lb.mcmc.HMC(leapfrogs=3), normal.log_prob, torch.randn(9), warmup=50, draws=50)
            >>> bool(samples.summary()["position"]["rhat"] < 1.1)
            True
        """
        return {name: _summary(draws) for name, draws in self.draws.items()}

    def to_arviz(self) -> Any:
        """Return the draws as ArviZ's InferenceData, with ``lp``, ``acceptance_rate`` and ``diverging``.

        What stochastic-gradient kernels know of the log-density is called ``step_log_prob`` there.

        Raises:
            ArgumentError: if arviz is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            cure = "Install it: pip install arviz."
            raise ArgumentError(explain("to_arviz", expected="arviz", got="no such package", cure=cure)) from error
        exact = "accepted" in self.stats  # else the log-density is of where the step began, and of a minibatch
        names = {
            "log_prob": "lp" if exact else "step_log_prob",
            "acceptance": "acceptance_rate",
            "diverged": "diverging",
        }
        groups = {
            "posterior": {name: draws.cpu().numpy() for name, draws in self.draws.items()},
            "sample_stats": {names.get(name, name): stat.cpu().numpy() for name, stat in self.stats.items()},
        }
        return arviz.from_dict(**groups) if hasattr(arviz, "InferenceData") else arviz.from_dict(groups)


def _summary(draws: Tensor) -> dict[str, Tensor]:
    together = draws.double().flatten(0, 1)
    return {
        "mean": together.mean(0),
        "sd": together.std(0),
        "mcse": diagnostics.mcse(draws),
        "ess_bulk": diagnostics.ess_bulk(draws),
        "ess_tail": diagnostics.ess_tail(draws),
        "rhat": diagnostics.rhat(draws),
    }
