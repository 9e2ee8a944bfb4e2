"""The variational autoencoder of ZhuSuan's tutorial, in its order: model, posterior, bound, gradient descent, images.

Run: python examples/zhusuan_tutorial.py [--quick]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Bernoulli, Normal

import lowerbound as lb


# Build the model: p(z) = N(0, I), p(x|z) = Bernoulli(f(z)).
class Generator(lb.BayesianNet):
    def __init__(self, x_dim: int, z_dim: int) -> None:
        super().__init__()
        self.z_dim, self.net = z_dim, lb.nn.MLP(z_dim, [500, 500], x_dim)

    def forward(self, bn: lb.Trace, n: int) -> None:
        z = bn.sample("z", Normal(torch.zeros(n, self.z_dim), 1.0), event_dims=1)
        x_logits = self.net(z)
        bn.deterministic("x_mean", x_logits.sigmoid())
        bn.sample("x", Bernoulli(logits=x_logits), event_dims=1)


# The variational posterior: q(z|x) = N(mean(x), std(x)^2).
class QNet(lb.BayesianNet):
    def __init__(self, x_dim: int, z_dim: int) -> None:
        super().__init__()
        self.body = lb.nn.MLP(x_dim, [500, 500], None)
        self.z_mean, self.z_logstd = nn.Linear(500, z_dim), nn.Linear(500, z_dim)

    def forward(self, bn: lb.Trace, x: torch.Tensor) -> None:
        h = self.body(x)
        bn.sample("z", Normal(self.z_mean(h), self.z_logstd(h).exp()), event_dims=1)


def save_image_collection(images: torch.Tensor, path: Path) -> None:
    """Save 100 images as one 10 x 10 picture."""
    side = int(images.shape[1] ** 0.5)
    grid = images.reshape(10, 10, side, side).permute(0, 2, 1, 3).reshape(10 * side, 10 * side)
    figure = Figure(figsize=(5, 5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist or digits")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=10, help="epochs between pictures")
    parser.add_argument("--out", type=Path, default=Path("runs/zhusuan-tutorial"))
    parser.add_argument("--quick", action="store_true", help="three epochs on digits")
    options = parser.parse_args()
    if options.quick:
        options.data, options.epochs, options.save_every = "digits", 3, 1

    train, test = lb.data.load(options.data, binarize="dynamic")
    x_dim, z_dim, batch_size = train.event_shape[0] * train.event_shape[1], 40, 128
    torch.manual_seed(1234)
    generator, q_net = Generator(x_dim, z_dim), QNet(x_dim, z_dim)
    optimizer = torch.optim.Adam([*generator.parameters(), *q_net.parameters()], lr=0.001)

    # Run gradient descent.
    for epoch in range(1, options.epochs + 1):
        start, bounds = time.perf_counter(), []
        for x in train.batches(batch_size, seed=0, epoch=epoch):
            x = x.flatten(1)
            lower_bound = lb.elbo(generator.bind(len(x)), {"x": x}, q_net.bind(x), particles=1)
            optimizer.zero_grad()
            lower_bound.sgvb().mean().backward()
            optimizer.step()
            bounds.append(lower_bound.value.mean())
        seconds = time.perf_counter() - start
        print(f"Epoch {epoch} ({seconds:.1f}s): Lower bound = {torch.stack(bounds).mean():.2f} nats")

        if epoch % options.save_every == 0:
            with torch.no_grad():
                images = generator.bind(100).observe()["x_mean"]
            save_image_collection(images, options.out / f"vae.epoch.{epoch}.png")

    # How good is it? log p(x) of the test rows by importance sampling with 1000 draws, a lower bound.
    rows = [x.flatten(1) for x in test.evaluation_batches(100, limit=200 if options.quick else None)]
    estimates = [
        lb.is_loglikelihood(generator.bind(len(x)), {"x": x}, q_net.bind(x), particles=1000, chunk=20) for x in rows
    ]
    log_likelihood = torch.cat(estimates)
    stderr = log_likelihood.std() / len(log_likelihood) ** 0.5
    print(f"Test log p(x) >= {log_likelihood.mean():.2f} +- {stderr:.2f} nats (importance sampling, K = 1000)")
    print(f"Pictures: {options.out}")


if __name__ == "__main__":
    main()
