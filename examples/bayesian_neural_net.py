"""Bayesian neural nets on two small tables, against linear models: regression (diabetes), classes (breast cancer).

The weights are latents of all rows. They have batch shape (), the rows of the data node are one event, and B rows of
a minibatch stand for all N by `scale=N / B`. The posterior of the weights is a diagonal Gaussian; predictions average
1000 draws of the whole net, computed as one batch. Every row is tested once, by cross-validation.

On tables as small as these the nets predict as well as the linear models, not better, and their log-likelihood is a
little lower: a diagonal posterior leaves noise in every unit.

Run: python examples/bayesian_neural_net.py [--quick]
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.model_selection import KFold
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import lowerbound as lb
from lowerbound.report.style import GREY, new_figure, palette, png, styled

DRAWS = 1000


class Net(lb.BayesianNet):
    """y given x through a ReLU net; in units of 1 / sqrt(inputs) its weights have normal priors.

    They are wider for classes, so that the prior holds logits of 10.
    """

    def __init__(self, sizes: list[int], classes: bool) -> None:
        super().__init__()
        self.sizes, self.classes, self.width = sizes, classes, 3.0 if classes else 1.0
        self.log_noise = nn.Parameter(torch.zeros(()))

    def output(self, bn, x: Tensor) -> Tensor:
        """Draw the weights, and return what the net makes of x."""
        h = x  # [rows, inputs], and [particles, rows, units] from the first layer on
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            w = bn.sample(f"w{layer}", Normal(torch.zeros(inputs + 1, outputs), self.width), event_dims=2)
            h = torch.cat([h.relu() if layer else h, torch.ones_like(h[..., :1])], -1) @ w / math.sqrt(inputs + 1)
        return bn.deterministic("f", h[..., 0])

    def forward(self, bn, x: Tensor, scale: float) -> None:
        f = self.output(bn, x)
        p_y = Bernoulli(logits=f) if self.classes else Normal(f, self.log_noise.exp())
        bn.sample("y", p_y, event_dims=1, scale=scale)


class MeanField(lb.BayesianNet):
    """Independent Gaussians for all weights."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        shapes = [(inputs + 1, outputs) for inputs, outputs in pairwise(sizes)]
        self.loc = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.log_std = nn.ParameterList(torch.full(shape, -2.0) for shape in shapes)

    def forward(self, bn) -> None:
        for layer, (loc, log_std) in enumerate(zip(self.loc, self.log_std, strict=True)):
            bn.sample(f"w{layer}", Normal(loc, log_std.exp()), event_dims=2)


class BayesianNeuralNet(lb.models.LatentVariableModel):
    """A batch holds inputs and target side by side; `total` rows make up the data."""

    def __init__(self, sizes: list[int], total: int, classes: bool) -> None:
        super().__init__(Net(sizes, classes), MeanField(sizes))
        self.total = total

    def programs(self, x: Tensor) -> lb.Programs:
        model = self.generator.bind(x[:, :-1], self.total / len(x))
        return lb.Programs(model, {"y": x[:, -1]}, self.posterior.bind())

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the net's output for each row under 1000 draws of the weights, shape [1000, rows]."""
        weights = self.posterior.bind().run(particles=DRAWS)
        return self.generator.bind(inputs, 1.0).run(dict(weights), particles=DRAWS, batch=())["f"]


def fit(inputs: np.ndarray, y: np.ndarray, epochs: int, classes: bool) -> BayesianNeuralNet:
    torch.manual_seed(0)
    rows = lb.data.Dataset(torch.from_numpy(np.column_stack([inputs, y])).float())
    model = BayesianNeuralNet([inputs.shape[1], 20, 1], len(y), classes)
    objective = lb.objectives.ELBO(model, particles=4)  # the KL terms are closed forms
    lb.fit(objective, rows, epochs=epochs, batch_size=64, lr=1e-2, schedule="cosine", progress=False)
    return model


def regression(epochs: int, folds: int) -> dict[str, np.ndarray]:
    """Return for each model [rows, 3]: error, log p(y | x) and the predictive distribution function at y."""
    x, y = datasets.load_diabetes(return_X_y=True)
    found = {name: np.empty((len(y), 3)) for name in ("linear regression", "ridge", "Bayesian neural net")}
    for train, test in KFold(folds, shuffle=True, random_state=0).split(x):
        center, spread = x[train].mean(0), x[train].std(0)
        middle, unit = y[train].mean(), y[train].std()
        inputs, target = (x - center) / spread, (y - middle) / unit
        for name, linear in (("linear regression", LinearRegression()), ("ridge", RidgeCV(np.logspace(-2, 3, 20)))):
            linear.fit(inputs[train], target[train])
            residual = target[train] - linear.predict(inputs[train])
            noise = math.sqrt((residual**2).sum() / (len(train) - x.shape[1] - 1))
            p_y = Normal(torch.from_numpy(linear.predict(inputs[test]))[None], noise)
            found[name][test] = judged(p_y, target[test], unit)
        net = fit(inputs[train], target[train], epochs, classes=False)
        outputs = net.outputs(torch.from_numpy(inputs[test]).float())
        p_y = Normal(outputs, net.generator.log_noise.detach().exp())
        found["Bayesian neural net"][test] = judged(p_y, target[test], unit)
    return found


def judged(p_y: Normal, y: np.ndarray, unit: float) -> np.ndarray:
    """Return error, log-density and distribution function at y of a mixture over the first axis, in units of y."""
    target = torch.from_numpy(y)
    log_p = p_y.log_prob(target).logsumexp(0) - math.log(len(p_y.loc)) - math.log(unit)
    return torch.stack([unit * (p_y.mean.mean(0) - target), log_p, p_y.cdf(target).mean(0)], -1).numpy()


def classification(epochs: int, folds: int) -> dict[str, np.ndarray]:
    """Return for each model [rows, 2]: the probability of class 1, and the class."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    found = {name: np.empty((len(y), 2)) for name in ("logistic regression", "Bayesian neural net")}
    for train, test in KFold(folds, shuffle=True, random_state=0).split(x):
        inputs = (x - x[train].mean(0)) / x[train].std(0)
        linear = LogisticRegression(max_iter=1000).fit(inputs[train], y[train])
        found["logistic regression"][test] = np.column_stack([linear.predict_proba(inputs[test])[:, 1], y[test]])
        outputs = fit(inputs[train], y[train], epochs, classes=True).outputs(torch.from_numpy(inputs[test]).float())
        found["Bayesian neural net"][test] = np.column_stack([outputs.sigmoid().mean(0), y[test]])
    return found


@styled
def calibration(diabetes: dict[str, np.ndarray], cancer: dict[str, np.ndarray]):
    """Return a figure: coverage of predictive intervals, and observed against predicted frequencies of a class."""
    made = new_figure(7.2, 3.4)
    left, right = made.subplots(1, 2)
    levels = np.linspace(0.05, 0.95, 19)
    styles = dict(zip(("linear regression", "ridge", "logistic regression"), ("--", ":", "--"), strict=True))
    colours = dict(zip(dict.fromkeys([*diabetes, *cancer]), palette(4), strict=True))
    for name, rows in diabetes.items():
        covered = [(np.abs(rows[:, 2] - 0.5) <= level / 2).mean() for level in levels]
        left.plot(levels, covered, styles.get(name, "-"), color=colours[name], label=name)
    left.set(xlabel="nominal coverage of the central interval", ylabel="share of test rows inside")
    left.set_title("diabetes: predictive intervals")
    edges = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
    for name, (p, y) in ((name, rows.T) for name, rows in cancer.items()):
        bins = np.clip(np.digitize(p, edges) - 1, 0, len(edges) - 2)
        full = [b for b in range(len(edges) - 1) if (bins == b).sum() >= 5]
        mean, share, n = np.array([(p[bins == b].mean(), y[bins == b].mean(), (bins == b).sum()) for b in full]).T
        bars = np.sqrt(np.maximum(share * (1 - share), 0.25 / n) / n)
        line = styles.get(name, "-")
        right.errorbar(mean, share, bars, fmt="o" + line, color=colours[name], capsize=2, markersize=4, label=name)
    right.set(xlabel="predicted probability of a benign tumour", ylabel="share of benign tumours")
    right.set_title("breast cancer: reliability")
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
        axes.legend(loc="upper left")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/bayesian-neural-net"))
    parser.add_argument("--quick", action="store_true", help="two folds and fewer epochs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.folds = 30, 2

    def mean(values: np.ndarray) -> str:
        return f"{values.mean():.3f} +- {values.std() / math.sqrt(len(values)):.3f}"

    diabetes = regression(options.epochs, options.folds)
    print(f"diabetes, {options.folds}-fold test: RMSE in units of y, log p(y | x) in nats a row")
    for name, rows in diabetes.items():
        rmse = math.sqrt((rows[:, 0] ** 2).mean())
        error = (rows[:, 0] ** 2).std() / (2 * rmse * math.sqrt(len(rows)))
        print(f"  {name:20} RMSE {rmse:.1f} +- {error:.1f}, log-likelihood {mean(rows[:, 1])}")
    cancer = classification(options.epochs, options.folds)
    print(f"breast cancer, {options.folds}-fold test: share of right classes, log p(y | x) in nats a row")
    for name, (p, y) in ((name, rows.T) for name, rows in cancer.items()):
        log_p = np.log(np.where(y == 1, p, 1 - p))
        print(f"  {name:20} accuracy {mean((p > 0.5) == y)}, log-likelihood {mean(log_p)}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "calibration.png").write_bytes(png(calibration(diabetes, cancer)))
    print(f"picture: {options.out / 'calibration.png'}")


if __name__ == "__main__":
    main()
