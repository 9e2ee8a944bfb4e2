"""Milliseconds of a short annealed importance sampling beside a plain PyTorch loop that does the same job.

    python benchmarks/speed_ais.py [--rounds 7] [--steps 20] [--threads 2] [--quick]

A step anneals 16 chains for each of 20 images from the prior to the posterior of an untrained network, over 32
temperatures with two leapfrog steps at each, of one size that is not tuned. The rest is as in `speed.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from speed import Loop, VAEJob, flushed_denormals, main, products, products_alone
from torch import Tensor

import lowerbound as lb
from lowerbound.core.numerics import flushed_denormals as flushed
from lowerbound.data import Dataset
from lowerbound.evaluation.ais import Path, Settings, anneal
from lowerbound.training import Callback

CHAINS, TEMPERATURES, LEAPFROGS, STEP_SIZE = 16, 32, 2, 0.05
BETAS = [i / (TEMPERATURES - 1) for i in range(TEMPERATURES)]


@dataclass(frozen=True, kw_only=True)
class AISJob(VAEJob):
    """The decoder of 40-500-500-784 ReLU."""

    def fit(self, data: Dataset, watcher: Callback, **settings: Any) -> None:
        """Anneal batches by the library, and tell the estimates of log p(x)."""
        model, total = lb.models.VAE(event_shape=(28, 28), latent_dim=self.latent_dim), torch.zeros(())
        shapes = torch.full((1, self.batch_size), STEP_SIZE), torch.ones(1, self.latent_dim)
        with torch.no_grad(), flushed():
            for batch, x in enumerate(data.batches(self.batch_size, seed=0, epoch=0), start=1):
                program, observed, _ = model.programs(x)
                path = Path(program, observed, None, chains=CHAINS)
                found = anneal(path, path.draw(), BETAS, Settings(*shapes), leapfrogs=LEAPFROGS)
                total += found.value.mean()
                watcher.step(epoch=1, batch=batch, sums={"bound": total})
        watcher.epoch({})

    def floor(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> list[Callable[[], Any]]:
        """Return the products of all gradients with respect to the latents."""
        decoder = self.plain().decoder.to(rows.device, dtype).requires_grad_(False)
        z = torch.randn(CHAINS * self.batch_size, self.latent_dim, device=rows.device, dtype=dtype, requires_grad=True)
        return products(decoder, partial(decoder, z)) * (1 + LEAPFROGS * (TEMPERATURES - 2))

    def loops(self) -> dict[str, Loop]:
        """Return the other contenders."""
        return {
            "resident loop, tuned": partial(annealing, self),
            "products alone": partial(products_alone, self),
        }


def annealing(job: AISJob, images: Tensor) -> Iterator[Tensor]:
    """Anneal all images, batch by batch; yield minus the mean estimate of log p(x), in nats."""
    decoder = job.plain().decoder.requires_grad_(False)
    with flushed_denormals(True):
        for rows in torch.randperm(len(images)).split(job.batch_size):
            x = torch.bernoulli(images[rows].float() / 255).expand(CHAINS, -1, -1, -1)

            def likelihood(z: Tensor, x: Tensor = x) -> tuple[Tensor, Tensor]:
                z = z.detach().requires_grad_()
                found = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum((-2, -1))
                return found.detach(), torch.autograd.grad(found.sum(), z)[0]

            z = torch.randn(CHAINS, x.shape[1], job.latent_dim)
            value, slope = likelihood(z)
            log_weight = torch.zeros(CHAINS, x.shape[1])
            for before, beta in pairwise(BETAS):
                log_weight += (beta - before) * value
                if beta < 1:
                    z, value, slope = transition(likelihood, z, value, slope, beta)
            yield math.log(CHAINS) - log_weight.logsumexp(0).mean()


def transition(
    likelihood: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, value: Tensor, slope: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, their log-likelihood and its gradient after a transition of Hamiltonian Monte Carlo."""
    momentum = torch.randn_like(z)
    energy = beta * value - 0.5 * (z.square() + momentum.square()).sum(-1)
    new, new_value, new_slope = z, value, slope
    for _ in range(LEAPFROGS):
        momentum = momentum + 0.5 * STEP_SIZE * (beta * new_slope - new)
        new = new + STEP_SIZE * momentum
        new_value, new_slope = likelihood(new)
        momentum = momentum + 0.5 * STEP_SIZE * (beta * new_slope - new)
    after = beta * new_value - 0.5 * (new.square() + momentum.square()).sum(-1)
    accepted = torch.rand_like(energy).log() < after - energy
    wide = accepted[..., None]
    return torch.where(wide, new, z), torch.where(accepted, new_value, value), torch.where(wide, new_slope, slope)


JOBS = {"ais": AISJob(summary="16 chains of each row, 32 temperatures, z = 40", batch_size=20, latent_dim=40)}


if __name__ == "__main__":
    main(JOBS)
