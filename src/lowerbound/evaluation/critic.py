r"""How far a critic is from the truth: it is put beside a fresh one that is fitted to the evaluated rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from lowerbound.core.checks import number, positive_int
from lowerbound.core.errors import ArgumentError, ShapeError, explain
from lowerbound.core.random import reseed
from lowerbound.objectives import AVB

__all__ = ["calibration_error", "judge_critic", "refit_critic"]

Array = NDArray[np.float64]


def refit_critic(
    objective: AVB, x: Tensor, *, steps: int = 2000, batch_size: int = 32, particles: int = 16, lr: float = 4e-3
) -> AVB:
    """Return the objective over the same model with a fresh critic, trained on draws for the rows `x`.

    Every step draws new noise, so the critic cannot learn the draws by heart; it can only come closer to the log-ratio.

    Args:
        objective: The objective that trained the model; the model does not change.
        x: Rows, shape ``[n, *event_shape]``.
        steps: Updates of the critic.
        batch_size: Rows an update.
        particles: Draws a row.
        lr: The learning rate at the start; it falls to zero as a cosine.

    Raises:
        ArgumentError: if the model cannot make a fresh critic, or a number is not positive.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("particles", particles)):
        positive_int(name, value)
    number("lr", lr, low=0.0, open_low=True)
    model: Any = objective.model
    if not hasattr(model, "fresh_critic"):
        cure = "Give the model a method fresh_critic() that returns an untrained critic."
        raise ArgumentError(
            explain("measure 'avb'", expected="a model with a critic of its own", got="none", cure=cure)
        )
    fresh = AVB(
        model,
        model.fresh_critic(),
        contrast=objective.contrast,  # type: ignore[arg-type]
        learns=objective.learns,  # type: ignore[arg-type]
        moment_draws=objective.moment_draws,
        particles=particles,
    )
    parameters = list(fresh.critic.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.arange(0)
    for _ in range(steps):
        if len(order) == 0:
            order = torch.randperm(len(x)).to(x.device)
        chosen, order = order[:batch_size], order[batch_size:]
        with torch.enable_grad():
            cost = fresh.estimate(x[chosen]).critic_cost().mean()
            optimizer.zero_grad()
            cost.backward(inputs=parameters)
        optimizer.step()
        schedule.step()
    return fresh


@torch.no_grad()
def judge_critic(
    trained: AVB, fresh: AVB, batches: Iterable[Tensor], n: int, *, draws: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Return what two critics say of the same draws, and how well each is calibrated; it reseeds torch's generators.

    Args:
        trained: The objective with the critic of the training.
        fresh: The same with a re-fitted critic.
        batches: Rows ``[b, *event_shape]``.
        n: The number of rows.
        draws: Draws a row.
        seed: The seed of the draws.

    Returns:
        ``reconstruction``, ``kl_refitted``, ``kl_claimed`` and ``distance`` (the mean absolute difference of the two
        critics' T on draws of q), float64 ``[n]`` in nats; and for both critics, as floats, ``loss_...`` (the logistic
        loss in nats: the lower, the nearer to the log-ratio), ``accuracy_...`` and ``calibration_error_...``.
    """
    rows = {name: np.empty(n) for name in ("reconstruction", "kl_refitted", "kl_claimed", "distance")}
    logits: dict[str, list[tuple[Tensor, Tensor]]] = {"claimed": [], "refitted": []}
    done = 0
    for x in batches:
        part = slice(done, done + len(x))
        ratios = []
        for name, objective in (("claimed", trained), ("refitted", fresh)):
            reseed(seed, "judge", done)  # both critics judge the same draws
            estimate = objective.estimate(x, particles=draws)
            ratios.append(estimate.log_ratio.double().cpu())
            logits[name].append(estimate.logits)
        rows["reconstruction"][part] = estimate.terms["reconstruction"].double().cpu()
        rows["kl_claimed"][part], rows["kl_refitted"][part] = (ratio.mean(0) for ratio in ratios)
        rows["distance"][part] = (ratios[0] - ratios[1]).abs().mean(0)
        done += len(x)
    found: dict[str, Any] = dict(rows)
    for name, pairs in logits.items():
        found[f"loss_{name}"] = float(
            torch.cat([(softplus(-one) + softplus(other)).double().flatten() for one, other in pairs]).mean()
        )
    for name, pairs in logits.items():
        on_posterior, on_contrast = (torch.cat([one.flatten() for one in side]) for side in zip(*pairs, strict=True))
        right = (on_posterior > 0).double().mean() + (on_contrast <= 0).double().mean()
        found[f"accuracy_{name}"] = 0.5 * float(right)
        found[f"calibration_error_{name}"] = calibration_error(on_posterior, on_contrast)
    return found


def calibration_error(on_posterior: Tensor, on_contrast: Tensor, *, bins: int = 20) -> float:
    r"""Return the expected calibration error of a critic: the mean over equally full bins of |predicted - observed|.

    Where the critic says that a draw comes from q with probability :math:`\sigma(T)`, that share of such draws should.

    Args:
        on_posterior: T on draws of q, shape ``[n]``.
        on_contrast: T on as many draws of the contrast, shape ``[n]``.
        bins: The number of bins.

    Raises:
        ShapeError: if the two differ in length.

    Example:
        >>> calibration_error(torch.zeros(100), torch.zeros(100)), calibration_error(torch.ones(9), torch.ones(9))
        (0.0, 0.231...)
    """
    if on_posterior.shape != on_contrast.shape or on_posterior.dim() != 1:
        cure = "Draw as often from q as from the contrast, and flatten."
        got = f"{tuple(on_posterior.shape)} and {tuple(on_contrast.shape)}"
        raise ShapeError(explain("logits", expected="two vectors of the same length", got=got, cure=cure))
    logits = torch.cat([on_posterior, on_contrast]).double().cpu()
    labels = torch.cat([torch.ones(len(on_posterior)), torch.zeros(len(on_contrast))]).double()
    # Equal logits stay together, whatever their labels: a bin that splits them would see an order that is none.
    distinct, index = torch.unique(logits, return_inverse=True)
    counts = torch.bincount(index, minlength=len(distinct)).double()
    positive = torch.bincount(index, labels, minlength=len(distinct))
    size = math.ceil(len(logits) / bins)
    bin_of = ((counts.cumsum(0) - counts) / size).floor().long()
    total = torch.zeros(bins, dtype=torch.float64)
    predicted = total.index_add(0, bin_of, counts * distinct.sigmoid())
    observed = total.index_add(0, bin_of, positive)
    return float((predicted - observed).abs().sum() / len(logits))
