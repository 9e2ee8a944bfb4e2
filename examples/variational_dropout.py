"""Gaussian dropout as a posterior over activations, with learned rates: digits, three ways.

Every activation is multiplied by noise e. In the model e ~ N(1, 1); in the posterior e ~ N(1, a), with a rate a for
each unit, learned by the evidence lower bound (Kingma, Salimans and Welling, 2015, with a normal prior in the place
of their log-uniform one, as in ZhuSuan). The rates belong to all N rows, so their KL counts once for the whole data:
`scale=1 / N` at the noise, in both programs. The same net without noise, and with one fixed rate, stand beside it.

Run: python examples/variational_dropout.py [--seeds 3] [--quick]
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import lowerbound as lb
from lowerbound.report.style import new_figure, palette, png, styled

SIZES = (64, 256, 256, 10)
DRAWS, CHUNK = 200, 20


class Net(lb.BayesianNet):
    """y given x through a ReLU net with noise on the inputs of each layer."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(SIZES))
        self.total = total

    def forward(self, bn, x: Tensor) -> None:
        h = x
        for i, layer in enumerate(self.layers):
            noise = bn.sample(f"e{i}", Normal(torch.ones(len(x), SIZES[i]), 1.0), event_dims=1, scale=1 / self.total)
            h = layer(noise * (h.relu() if i else h))
        bn.sample("y", Categorical(logits=bn.deterministic("logits", h)))


class Dropout(lb.BayesianNet):
    """The noise: N(1, rate), with rates between 0 and 1."""

    def __init__(self, total: int, rate: float) -> None:
        super().__init__()
        start = math.log(rate / (1 - rate))
        self.logit = nn.ParameterList(torch.full((size,), start) for size in SIZES[:-1])
        self.total = total

    def forward(self, bn, x: Tensor) -> None:
        for i, logit in enumerate(self.logit):
            std = logit.sigmoid().sqrt().expand(len(x), -1)
            bn.sample(f"e{i}", Normal(torch.ones_like(std), std), event_dims=1, scale=1 / self.total)


class Classifier(lb.models.LatentVariableModel):
    """A row is a picture and its class, side by side."""

    def __init__(self, total: int, rate: float) -> None:
        super().__init__(Net(total), Dropout(total, rate))

    def programs(self, x: Tensor) -> lb.Programs:
        pictures, classes = x[:, :-1], x[:, -1].long()
        return lb.Programs(self.generator.bind(pictures), {"y": classes}, self.posterior.bind(pictures))

    def log_p(self, pictures: Tensor, noise: dict[str, Tensor], draws: int) -> Tensor:
        """Return log p(y | x, noise) of every class, shape [draws, rows, 10]."""
        run = self.generator.bind(pictures).run(noise, particles=draws, batch=(len(pictures),))
        return run["logits"].log_softmax(-1)

    def predicted(self, pictures: Tensor, noisy: bool) -> Tensor:
        """Return log p(y | x) of every class; probabilities are averaged over 200 draws of the noise, if any."""
        if not noisy:
            return self.log_p(pictures, silence(pictures), 1)[0]
        chunks = []
        for _ in range(DRAWS // CHUNK):
            noise = dict(self.posterior.bind(pictures).run(particles=CHUNK))
            chunks.append(self.log_p(pictures, noise, CHUNK).logsumexp(0))
        return torch.stack(chunks).logsumexp(0) - math.log(DRAWS)


def silence(pictures: Tensor) -> dict[str, Tensor]:
    """Return noise that does nothing."""
    return {f"e{i}": torch.ones(1, len(pictures), size) for i, size in enumerate(SIZES[:-1])}


def train(kind: str, rows: Tensor, epochs: int, seed: int) -> Classifier:
    """Train one of the three: by maximum likelihood without noise, else by the evidence lower bound."""
    torch.manual_seed(seed)
    model = Classifier(len(rows), rate=0.25)
    players = [{"params": model.generator.parameters(), "lr": 1e-3}]
    if kind == "learned rates":
        players.append({"params": model.posterior.parameters(), "lr": 1e-2})
    optimizer = torch.optim.Adam(players)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    data = lb.data.Dataset(rows)
    for epoch in range(epochs):
        for x in data.batches(100, seed=seed, epoch=epoch):
            if kind == "no noise":
                log_p = model.log_p(x[:, :-1], silence(x), 1)[0]
                cost = -log_p.gather(1, x[:, -1:].long())
            else:
                cost = lb.elbo(*model.programs(x), analytic_kl=True).sgvb()
            optimizer.zero_grad()
            cost.mean().backward()
            optimizer.step()
        schedule.step()
    return model


@styled
def figure(rates: list[Tensor]):
    """Return a figure of the learned rates: an image for the pixels, a histogram for the units of the hidden layers."""
    made = new_figure(7.2, 2.8)
    left, right = made.subplots(1, 2, width_ratios=(1, 1.6))
    shown = left.imshow(rates[0].reshape(8, 8), cmap="viridis", vmin=0, vmax=1)
    left.set(xticks=[], yticks=[], title="rates of the pixels")
    made.colorbar(shown, ax=left, label="variance a of the noise")
    bins = np.linspace(0, 1, 31)
    for i, (layer, colour) in enumerate(zip(rates[1:], palette(2), strict=True), 1):
        right.hist(layer.numpy(), bins, color=colour, alpha=0.6, label=f"hidden layer {i}")
    right.axvline(0.25, color="black", linewidth=0.8, linestyle="--", label="at the start")
    right.set(xlabel="variance a of the noise", ylabel="units", title="rates of the hidden units")
    right.legend()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=300, help="rows to train on; the others are to test")
    parser.add_argument("--out", type=Path, default=Path("runs/variational-dropout"))
    parser.add_argument("--quick", action="store_true", help="one seed and a few epochs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.seeds = 20, 1

    x, y = load_digits(return_X_y=True)
    rows = np.column_stack([x / 16, y]).astype(np.float32)
    found: dict[str, list[tuple[float, float]]] = {"no noise": [], "fixed rates 0.25": [], "learned rates": []}
    for seed in range(options.seeds):
        parts = train_test_split(rows, train_size=options.train, random_state=seed, stratify=y)
        learn, test = (torch.from_numpy(part) for part in parts)
        for kind, results in found.items():
            model = train(kind, learn, options.epochs, seed)
            with torch.no_grad():
                log_p = model.predicted(test[:, :-1], noisy=kind != "no noise")
            truth = test[:, -1:].long()
            right = (log_p.argmax(1, keepdim=True) == truth).double().mean()
            results.append((float(right), float(log_p.gather(1, truth).mean())))

    print(f"digits, {options.train} rows to train, {len(rows) - options.train} to test, {options.seeds} seeds")
    for kind, results in found.items():
        (accuracy, log_likelihood), spread = np.mean(results, 0), np.std(results, 0)
        print(
            f"  {kind:17} accuracy {accuracy:.2%} +- {spread[0]:.2%}, "
            f"test log p(y | x) {log_likelihood:.4f} +- {spread[1]:.4f} nats a row"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    rates = [logit.detach().sigmoid() for logit in model.posterior.logit]
    (options.out / "rates.png").write_bytes(png(figure(rates)))
    print(f"picture: {options.out / 'rates.png'}")


if __name__ == "__main__":
    main()
