"""Milliseconds a training step of `lowerbound.fit` beside plain PyTorch loops that do the same job.

    python benchmarks/speed.py [--job mlp|iwae|conv] [--rounds 7] [--steps 100] [--threads 2] [--quick]

Every contender trains the same network on the same uint8 images, binarised anew at every step, with Adam at 1e-3.
The rounds are interleaved: each contender runs once a round, in an order that changes from round to round.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lowerbound as lb
from lowerbound.data import Dataset
from lowerbound.training import Callback

Loop = Callable[[Tensor], Iterator[Tensor]]  # trains an epoch on rows; yields the cost of every step


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and the contenders that train it."""

    summary: str
    batch_size: int

    def rows(self, count: int) -> tuple[Tensor, str]:
        """Return rows as the loops take them, and their name."""
        raise NotImplementedError

    def dataset(self, rows: Tensor) -> Dataset:
        """Return rows as the library takes them."""
        raise NotImplementedError

    def fit(self, data: Dataset, watcher: Callback, **settings: Any) -> None:
        """Train an epoch by `lowerbound.fit`, with further settings of it."""
        raise NotImplementedError

    def floor(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> list[Callable[[], Any]]:
        """Return the matrix products and convolutions of a step on rows, as calls."""
        raise NotImplementedError

    def loops(self) -> dict[str, Loop]:
        """Return the other contenders by name."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class VAEJob(Job):
    """A latent size, and a number of particles (0 for the ELBO with a closed-form KL)."""

    latent_dim: int
    particles: int = 0
    conv: bool = False

    def rows(self, count: int) -> tuple[Tensor, str]:
        """Return images, uint8 ``[count, 28, 28]``."""
        return load_images(count)

    def dataset(self, rows: Tensor) -> Dataset:
        """Return the images, binarised anew in every epoch."""
        return Dataset(rows, name="images", levels=256, binarize="dynamic")

    def fit(self, data: Dataset, watcher: Callback, **settings: Any) -> None:
        """Train an epoch by `lowerbound.fit`."""
        kind = lb.models.ConvVAE if self.conv else lb.models.VAE
        model = kind(event_shape=(28, 28), latent_dim=self.latent_dim)
        particles = self.particles
        ours = lb.objectives.IWAE(model, particles=particles) if particles else lb.objectives.ELBO(model)
        settings = {"epochs": 1, "batch_size": self.batch_size, "lr": 1e-3, **settings}
        lb.fit(ours, data, progress=False, callbacks=[watcher], **settings)

    def floor(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> list[Callable[[], Any]]:
        """Return the products of every layer, forward and both backward ones, on arrays that are ready."""
        model, x = self.plain().to(rows.device, dtype), rows[: self.batch_size].to(dtype) / 255
        return products(model, partial(model, x))

    def plain(self) -> PlainVAE:
        """Return the same network in plain PyTorch."""
        networks = (conv_networks if self.conv else mlp_networks)(self.latent_dim)
        return PlainVAE(*networks, latent_dim=self.latent_dim, particles=self.particles)

    def loops(self) -> dict[str, Loop]:
        """Return the other contenders."""
        return {
            "resident loop": partial(resident, self),
            "resident loop, tuned": partial(resident, self, tuned=True),
            "DataLoader loop": partial(data_loader, self),
            "products alone": partial(products_alone, self),
        }


JOBS: dict[str, Job] = {
    "mlp": VAEJob(summary="784-500-500 ReLU both ways, z = 40, ELBO", batch_size=128, latent_dim=40),
    "iwae": VAEJob(
        summary="784-500-500 ReLU both ways, z = 40, IWAE with 50 particles", batch_size=20, latent_dim=40, particles=50
    ),
    "conv": VAEJob(summary="four convolutions and back, z = 2, ELBO", batch_size=100, latent_dim=2, conv=True),
}

# --- What a careful person writes -------------------------------------------------------------------------------------


def mlp_networks(latent_dim: int) -> tuple[nn.Module, int, nn.Module]:
    """Return the encoder's body, its width, and the decoder of the fully connected network."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU())
    sizes = (nn.Linear(latent_dim, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 784))
    return encoder, 500, nn.Sequential(*sizes, nn.Unflatten(-1, (28, 28)))


def conv_networks(latent_dim: int) -> tuple[nn.Module, int, nn.Module]:
    """Return the encoder's body, its width, and the decoder of the convolutional network."""
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 14 * 14, 32), nn.ReLU()),
    )
    decoder = nn.Sequential(
        *(nn.Linear(latent_dim, 64 * 14 * 14), nn.ReLU(), nn.Unflatten(-1, (64, 14, 14))),
        *(nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 1, 3, padding=1), nn.Flatten(1, 2)),
    )
    return encoder, 32, decoder


class PlainVAE(nn.Module):
    """A variational autoencoder in plain PyTorch; called on a batch ``[B, 28, 28]`` it returns the cost, a scalar."""

    def __init__(self, encoder: nn.Module, width: int, decoder: nn.Module, *, latent_dim: int, particles: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.particles = encoder, decoder, particles
        self.loc, self.log_variance = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return minus the bound, in nats, averaged over the batch."""
        h = self.encoder(x)
        loc, log_variance = self.loc(h), self.log_variance(h)
        lead = (self.particles,) if self.particles else ()
        noise = torch.randn(*lead, *loc.shape, dtype=loc.dtype, device=loc.device)
        z = loc + (0.5 * log_variance).exp() * noise
        logits = self.decoder(z)
        if not self.particles:
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = 0.5 * (log_variance.exp() + loc.square() - 1 - log_variance).sum()
            cost: Tensor = (error + kl) / len(x)
            return cost
        error = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum((-2, -1))
        log_ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(-1)  # log p(z) - log q(z | x)
        bound: Tensor = torch.logsumexp(log_ratio - error, 0) - math.log(self.particles)
        return -bound.mean()


def resident(job: VAEJob, images: Tensor, *, tuned: bool = False) -> Iterator[Tensor]:
    """Train an epoch on images that lie in memory, batches taken by index; yield the cost of every step.

    Args:
        job: The job.
        images: uint8, shape ``[n, 28, 28]``.
        tuned: Whether Adam is fused, denormals are flushed and convolutions see channels last.
    """
    model = job.plain()
    if tuned and job.conv:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned or None)
    total = torch.zeros(())
    with flushed_denormals(tuned):
        for rows in torch.randperm(len(images)).split(job.batch_size):
            x = torch.bernoulli(images[rows].float() / 255)
            cost = model(x)
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            total += cost.detach()
            yield cost.detach()


def data_loader(job: VAEJob, images: Tensor) -> Iterator[Tensor]:
    """Train an epoch as tutorials write it: a `DataLoader` over float images, the cost read at every step."""
    model = job.plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(images.float() / 255), batch_size=job.batch_size, shuffle=True)
    total = 0.0
    for (grey,) in loader:
        cost = model(torch.bernoulli(grey))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        total += cost.item()
        yield cost.detach()


@contextmanager
def flushed_denormals(flush: bool) -> Iterator[None]:
    """Treat denormal numbers as zero inside the block, if asked to."""
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


# --- The floor --------------------------------------------------------------------------------------------------------


def products_alone(job: Job, images: Tensor) -> Iterator[Tensor]:
    """Repeat the products of a step."""
    yield from repeat(job.floor(images), len(images) // job.batch_size)


def repeat(calls: list[Callable[[], Any]], steps: int) -> Iterator[Tensor]:
    """Make the calls of a step over and over; yield the cost of every step."""
    for _ in range(steps):
        for call in calls:
            call()
        yield torch.zeros(())


def products(model: nn.Module, cost: Callable[[], Any]) -> list[Callable[[], Any]]:
    """Return the products of a cost: each layer's output, and the gradients of weights and input that it asks for."""
    calls: list[Callable[[], Any]] = []

    def listen(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight = inputs[0], layer.get_parameter("weight")
        kind = _linear if isinstance(layer, nn.Linear) else _convolution
        needed = x.requires_grad, output.requires_grad and weight.requires_grad  # no gradient flows into the rows
        calls.extend(kind(layer, x.detach(), output.detach(), *needed))

    layers = [layer for layer in model.modules() if hasattr(layer, "weight")]
    hooks = [layer.register_forward_hook(listen) for layer in layers]
    cost()
    for hook in hooks:
        hook.remove()
    return calls


def _linear(layer: Any, x: Tensor, y: Tensor, to_input: bool, to_weight: bool) -> list[Callable[[], Any]]:
    x, grad = x.flatten(0, -2), torch.randn_like(y).flatten(0, -2)
    weight = layer.weight.detach()
    calls: list[Callable[[], Any]] = [partial(torch.mm, x, weight.t(), out=torch.empty_like(grad))]
    if to_weight:
        calls.append(partial(torch.mm, grad.t(), x, out=torch.empty_like(weight)))
    if to_input:
        calls.append(partial(torch.mm, grad, weight, out=torch.empty_like(x)))
    return calls


def _convolution(layer: Any, x: Tensor, y: Tensor, to_input: bool, to_weight: bool) -> list[Callable[[], Any]]:
    last = torch.channels_last
    x, weight = x.contiguous(memory_format=last), layer.weight.detach().contiguous(memory_format=last)
    grad = torch.randn_like(y).contiguous(memory_format=last)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    geometry = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, layer.groups)
    mask = [to_input, to_weight, False]
    return [
        partial(torch.ops.aten.convolution, x, weight, None, *geometry),
        partial(torch.ops.aten.convolution_backward, grad, x, weight, None, *geometry, mask),
    ]


# --- Measuring --------------------------------------------------------------------------------------------------------


class Clock(Callback):
    """A callback of `lowerbound.fit` that times an epoch from the end of its warm-up to the epoch's record."""

    def __init__(self, warmup: int) -> None:
        self._warmup, self._from, self.seconds = warmup, 0.0, 0.0

    def step(self, *, epoch: int, batch: int, sums: dict[str, Tensor]) -> None:
        """Start the clock when the warm-up is over."""
        if batch == self._warmup:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self._from = time.perf_counter()

    def epoch(self, record: dict[str, Any]) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._from


def time_fit(job: Job, data: Dataset, warmup: int, **settings: Any) -> float:
    """Return the seconds of one epoch of `lowerbound.fit` behind the warm-up: data, steps and bookkeeping."""
    clock = Clock(warmup)
    job.fit(data, clock, **settings)
    return clock.seconds


def time_loop(loop: Loop, rows: Tensor, warmup: int) -> float:
    """Return the seconds of one epoch of a loop behind the warm-up."""
    start = 0.0
    for step, _ in enumerate(loop(rows), start=1):
        if step == warmup:
            start = time.perf_counter()
    return time.perf_counter() - start


def load_images(rows: int) -> tuple[Tensor, str]:
    """Return uint8 images ``[rows, 28, 28]`` and their name: MNIST if it is in ``$LOWERBOUND_DATA``, else noise."""
    path = Path(os.environ.get("LOWERBOUND_DATA", "")) / "mnist" / "train-images-idx3-ubyte.gz"
    if path.is_file():
        content = bytearray(gzip.decompress(path.read_bytes()))
        images, what = torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 28, 28), "MNIST"
    else:
        grey = torch.randint(0, 256, (min(rows, 60_000), 28, 28), dtype=torch.uint8)
        images, what = grey * (torch.rand(grey.shape) < 0.2), "synthetic images"  # as sparse as MNIST
    return images[torch.arange(rows) % len(images)].contiguous(), what


def main(jobs: Mapping[str, Job]) -> None:
    """Run a job, the first if none is named, and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", choices=sorted(jobs), default=next(iter(jobs)))
    parser.add_argument("--rounds", type=int, default=7, help="how often every contender runs")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="one round of two steps, to see that it runs")
    options = parser.parse_args()
    rounds, steps, warmup = (1, 2, 1) if options.quick else (options.rounds, options.steps, 20)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    job = jobs[options.job]
    rows, what = job.rows((warmup + steps) * job.batch_size)
    data = job.dataset(rows)
    contenders: dict[str, Callable[[], float]] = {"lowerbound.fit": partial(time_fit, job, data, warmup)}
    contenders |= {name: partial(time_loop, loop, rows, warmup) for name, loop in job.loops().items()}
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(1000 * contenders[name]() / steps)

    print(f"{options.job}: {job.summary}, batch {job.batch_size}; {what}; torch {torch.__version__}")
    print(f"{rounds} rounds of {steps} steps, {options.threads} threads\n")
    print("| contender | ms a step | fastest | slowest | lowerbound.fit / this |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(taken[names[0]], times, strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(JOBS)
