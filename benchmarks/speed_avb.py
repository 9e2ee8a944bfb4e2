"""Milliseconds a training step of adversarial variational Bayes beside plain PyTorch loops that do the same job.

    python benchmarks/speed_avb.py [--rounds 7] [--steps 100] [--threads 2] [--quick]

Every contender trains the same three networks on the four points, one update of the model and one of the critic a step,
with Adam at 2e-4 and 1e-3. The rest is as in `speed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from speed import Job, Loop, flushed_denormals, main, products, products_alone
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data import Dataset
from lowerbound.training import Callback

BETAS = (0.5, 0.999)
MODEL_LR, CRITIC_LR = 2e-4, 1e-3


@dataclass(frozen=True, kw_only=True)
class AVBJob(Job):
    """Encoder, decoder and critic of 256-256 ReLU; a latent and a noise of 2 and of 4 dimensions."""

    def rows(self, count: int) -> tuple[Tensor, str]:
        """Return the four points over and over, float32 ``[count, 4]``."""
        return lb.data.four_points(rows=count)[0].rows(range(count)), "four points"

    def dataset(self, rows: Tensor) -> Dataset:
        """Return the points as they are."""
        return Dataset(rows, name="four points")

    def fit(self, data: Dataset, watcher: Callback, **settings: Any) -> None:
        """Train an epoch by `lowerbound.fit`."""
        model = lb.models.ImplicitVAE(event_shape=(4,))
        ours = lb.objectives.AVB(model, critic_steps=1, critic_lr=CRITIC_LR, learns="ratio")
        adam: dict[str, Any] = {"lr": MODEL_LR, "optimizer_options": {"betas": BETAS}}
        settings = {"epochs": 1, "batch_size": self.batch_size, **adam, **settings}
        lb.fit(ours, data, progress=False, callbacks=[watcher], **settings)

    def floor(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> list[Callable[[], Any]]:
        """Return the products of both turns: through a frozen critic in the model's, of the critic alone in its own."""
        model, x = PlainAVB().to(rows.device, dtype), rows[: self.batch_size].to(dtype)
        model.critic.requires_grad_(False)
        calls = products(model, partial(model.model_cost, x))
        model.critic.requires_grad_(True)
        return calls + products(model, partial(model.critic_cost, x, joined=True))

    def loops(self) -> dict[str, Loop]:
        """Return the other contenders."""
        return {
            "resident loop": partial(resident, self),
            "resident loop, tuned": partial(resident, self, tuned=True),
            "products alone": partial(products_alone, self),
        }


class PlainAVB(nn.Module):
    """The three networks in plain PyTorch, with the cost of each player for a batch ``[B, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.critic = mlp(4 + 4, 2), mlp(2, 4), mlp(4 + 2, 1)

    def draw(self, x: Tensor) -> Tensor:
        """Return a draw of the posterior for each row, ``[B, 2]``."""
        z: Tensor = self.encoder(torch.cat([x, x.new_empty(len(x), 4).normal_()], -1))
        return z

    def judge(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the critic's logit for each pair of row and latent, ``[B, 1]``."""
        logit: Tensor = self.critic(torch.cat([2 * x - 1, z], -1))
        return logit

    def model_cost(self, x: Tensor) -> Tensor:
        """Return minus the estimate of the bound, in nats, averaged over the batch."""
        z = self.draw(x)
        error = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") / len(x)
        return error + self.judge(x, z).mean()

    def critic_cost(self, x: Tensor, *, joined: bool) -> Tensor:
        """Return the critic's logistic loss under fresh noise, averaged; its two inputs seen in one pass or in two."""
        with torch.no_grad():
            z = self.draw(x)
        prior = torch.randn_like(z)
        if joined:
            on_posterior, on_prior = self.judge(x.repeat(2, 1), torch.cat([z, prior])).chunk(2)
        else:
            on_posterior, on_prior = self.judge(x, z), self.judge(x, prior)
        return (F.softplus(-on_posterior) + F.softplus(on_prior)).mean()


def mlp(fan_in: int, fan_out: int) -> nn.Sequential:
    """Return a network with two hidden layers of 256 ReLU."""
    hidden = (nn.Linear(fan_in, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(256, fan_out))


def resident(job: AVBJob, rows: Tensor, *, tuned: bool = False) -> Iterator[Tensor]:
    """Train an epoch on rows that lie in memory, batches taken by index; yield the cost of every step.

    Args:
        job: The job.
        rows: float32, shape ``[n, 4]``.
        tuned: Whether Adam is fused, denormals are flushed, the critic sees both of its inputs in one pass, and
            gradients are computed only for the player in turn. Without it the model's turn fills the critic's too.
    """
    model = PlainAVB()
    ours, critics = [*model.encoder.parameters(), *model.decoder.parameters()], [*model.critic.parameters()]
    model_adam = torch.optim.Adam(ours, lr=MODEL_LR, betas=BETAS, fused=tuned or None)
    critic_adam = torch.optim.Adam(critics, lr=CRITIC_LR, betas=BETAS, fused=tuned or None)
    model_total, critic_total = torch.zeros(()), torch.zeros(())
    with flushed_denormals(tuned):
        for chosen in torch.randperm(len(rows)).split(job.batch_size):
            x = rows[chosen]
            model_cost = model.model_cost(x)
            model_adam.zero_grad()
            model_cost.backward(inputs=ours if tuned else None)
            model_adam.step()
            critic_cost = model.critic_cost(x, joined=tuned)
            critic_adam.zero_grad()
            critic_cost.backward(inputs=critics if tuned else None)
            critic_adam.step()
            model_total += model_cost.detach()
            critic_total += critic_cost.detach()
            yield model_cost.detach()


JOBS = {"avb": AVBJob(summary="three networks of 256-256 ReLU, z = 2, AVB with one critic step", batch_size=512)}


if __name__ == "__main__":
    main(JOBS)
