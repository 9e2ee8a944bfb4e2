"""The loop that runs any kernel: warm-up, draws, thinning, and what is to be said of the chains."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import NonFiniteError, SamplingWarning, explain
from lowerbound.core.random import seeded
from lowerbound.mcmc.kernel import Kernel
from lowerbound.mcmc.samples import Samples
from lowerbound.mcmc.target import Position, pack

__all__ = ["run"]


@torch.no_grad()
def run(
    kernel: Kernel,
    log_prob: Callable[[Any], Tensor],
    position: Position,
    *,
    draws: int = 1000,
    warmup: int = 1000,
    thin: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Samples:
    """Run Markov chains, all at once.

    Args:
        kernel: `HMC`, `SGLD`, or anything with their `init` and `step`.
        log_prob: From a tensor, or a dict of tensors, to log-densities ``[chains, *batch]``; a `LogJoint` for a
            stochastic program, whose draws come back inside their supports. The stochastic-gradient kernels may be
            given a function that takes the next minibatch at every call, such as `LogJoint.minibatches`.
        position: Where the chains start: a tensor ``[chains, *batch, *event]`` or a dict of such tensors.
        draws: The number of draws to keep.
        warmup: The steps before, which are thrown away; in them alone a kernel may adapt.
        thin: The number of steps from one draw to the next.
        seed: The seed of everything that is drawn.
        progress: Whether to show a progress bar.

    Returns:
        The draws by name (``"position"`` if `position` is a tensor), each ``[chains, draws, *batch, *event]``.

    Raises:
        NonFiniteError: if a chain starts, or ends up, where nothing is finite.
        ArgumentError: if a number is not positive.

    Warns:
        SamplingWarning: if transitions diverged, or chains never moved.

    Example:
        >>> normal = torch.distributions.Normal(torch.tensor([0.0, 5.0, 9.0]), 1.0)  # three data, four chains for each
        >>> samples = lb.mcmc.run(lb.mcmc.HMC(leapfrogs=3), normal.log_prob, torch.zeros(4, 3), warmup=20, draws=50)
        >>> samples.draws["position"].shape
        torch.Size([4, 50, 3])
    """
    positive_int("draws", draws)
    positive_int("thin", thin)
    if warmup != 0:
        positive_int("warmup", warmup)
    packed = pack(log_prob, position)
    constrain = getattr(log_prob, "constrain", dict)
    values: list[dict[str, Tensor]] = []
    stats: list[dict[str, Tensor]] = []
    counts: dict[str, Any] = {"accepted": 0, "diverged": 0}
    with seeded(seed, "mcmc"):
        state = kernel.init(packed.log_prob, packed.position, warmup)
        for step in _counted(warmup + draws * thin, warmup, progress):
            state, info = kernel.step(packed.log_prob, state)
            if step < warmup:
                continue
            for name in counts.keys() & set(info._fields):  # of every step, kept or not
                counts[name] = counts[name] + getattr(info, name).long()
            if (step - warmup + 1) % thin == 0:
                values.append(constrain(packed.unpack(state.position)))
                stats.append(info._asdict())
    _check_finite(state.position, type(kernel).__name__)
    kept = {name: torch.stack([stat[name] for stat in stats], 1) for name in stats[0]}
    remarks = list(_remarks(**counts, steps=draws * thin)) if "accepted" in kept else []
    for remark in remarks:
        warnings.warn(remark, SamplingWarning, stacklevel=3)
    return Samples({name: torch.stack([one[name] for one in values], 1) for name in values[0]}, kept, state, remarks)


def _check_finite(position: Tensor, kernel: str) -> None:
    lost = ~position.isfinite().all(-1)
    if bool(lost.any()):
        cure = "Take a smaller step size; it must be below the squared width of the narrowest direction."
        got = f"{int(lost.sum())} of {lost.numel()} that left the finite numbers"
        raise NonFiniteError(explain(f"chains of {kernel}", expected="finite positions", got=got, cure=cure))


def _remarks(*, accepted: Tensor, diverged: Tensor | int, steps: int) -> Iterator[str]:
    """Yield what is to be said of how often each chain's proposals were accepted, and how often they diverged."""
    total, lost = steps * accepted.numel(), int(torch.as_tensor(diverged).sum())
    if lost:
        cure = "Give the latents unit scale, start nearer to the bulk, or raise target_acceptance and warmup."
        yield explain("chains", expected="no divergences", got=f"{lost} in {total} transitions", cure=cure)
    stuck = accepted == 0
    if bool(stuck.any()):
        cure = "Take a smaller step_size, or a longer warmup, which tunes it."
        got = f"{int(stuck.sum())} of {stuck.numel()} that accepted no proposal"
        yield explain("chains", expected="chains that move", got=got, cure=cure)


def _counted(total: int, warmup: int, progress: bool) -> Iterator[int]:
    """Yield step numbers, under a progress bar if it is wanted."""
    if not progress:
        yield from range(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("warm-up" if warmup else "draws", total=total)
        for step in range(total):
            if step == warmup:
                bar.update(task, description="draws")
            yield step
            bar.advance(task)
