"""A Bayesian neural net by stochastic gradient Hamiltonian Monte Carlo (SGHMC), beside its mean-field posterior.

The net, the table (diabetes), the folds and the mean-field posterior are those of bayesian_neural_net.py; for the
samplers the noise of the target is a latent too. All chains move at once, and each takes minibatches of its own, in
which B rows stand for all N by `scale=N / B`. What minibatches add to the posterior's spread SGHMC cannot know; HMC
with all rows, which has no such error, stands beside it. The units of a net may be swapped without any change of its
function, so R-hat and effective sample sizes are those of the predictions for test rows, not of the weights.

Run: python examples/bnn_sghmc.py [--quick]
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bayesian_neural_net import Net, fit, judged
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold
from torch import Tensor
from torch.distributions import LogNormal, Normal

import lowerbound as lb
from lowerbound.net import Program
from lowerbound.report import style

BATCH = 64
NAMES = ("mean field", "SGHMC", "HMC, all rows")


class NetAndNoise(Net):
    """The net, with a noise that is drawn and not fitted."""

    def forward(self, bn: lb.Trace, x: Tensor, scale: float) -> None:
        f = self.output(bn, x)
        noise = bn.sample("noise", LogNormal(torch.tensor(-0.5), 0.5))
        bn.sample("y", Normal(f, noise[..., None]), event_dims=1, scale=scale)


def minibatches(net: Net, x: Tensor, y: Tensor, chains: int, seed: int) -> Iterator[tuple[Program, dict[str, Tensor]]]:
    """Yield programs and data: epoch after epoch, each chain in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.rand(chains, len(y), generator=generator).argsort(-1)
        for rows in order.split(BATCH, -1):
            yield net.bind(x[rows], len(y) / rows.shape[1]), {"y": y[rows]}


def sampled(x: Tensor, y: Tensor, new: Tensor, options: argparse.Namespace) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by sampler its predictions for new rows, ``[chains, draws, rows]``, and noise, ``[chains, draws]``."""
    net, draws = NetAndNoise([x.shape[1], 20, 1], classes=False), options.draws
    target = lb.mcmc.LogJoint(net.bind(x, 1.0), {"y": y})
    start = target.initial(chains=options.chains, seed=options.seed)
    noisy = target.minibatches(minibatches(net, x, y, options.chains, options.seed))
    sghmc, hmc = lb.mcmc.SGHMC(1e-4, friction=0.05), lb.mcmc.HMC(leapfrogs=20)
    found = {
        "SGHMC": lb.mcmc.run(
            sghmc, noisy, start, warmup=20 * draws, draws=draws, thin=options.every, seed=options.seed
        ),
        "HMC, all rows": lb.mcmc.run(hmc, target, start, warmup=2 * draws, draws=draws, thin=2, seed=options.seed),
    }
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, samples in found.items():
        flat = {key: values.flatten(0, 1) for key, values in samples.draws.items()}
        with torch.no_grad():
            f = net.bind(new, 1.0).run(flat, particles=len(flat["noise"]), batch=())["f"]
        outputs[name] = f.unflatten(0, (options.chains, draws)), samples.draws["noise"]
    return outputs


def regression(options: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Return by posterior its results, and by sampler R-hat and effective sample size of each row's prediction.

    Results are ``[rows, 4]``: error, log p(y | x), the predictive distribution function at y, and the deviation of f.
    """
    x, y = load_diabetes(return_X_y=True)
    found = {name: np.empty((len(y), 4)) for name in NAMES}
    mixing = {name: torch.empty(len(y), 2) for name in NAMES[1:]}
    for train, test in KFold(options.folds, shuffle=True, random_state=0).split(x):
        unit = y[train].std()
        inputs, target = (x - x[train].mean(0)) / x[train].std(0), (y - y[train].mean()) / unit
        rows, values, new = (torch.from_numpy(part).float() for part in (inputs[train], target[train], inputs[test]))
        net = fit(inputs[train], target[train], options.epochs, classes=False)
        outputs = sampled(rows, values, new, options)
        for name, (f, _) in outputs.items():
            mixing[name][test] = torch.stack([lb.mcmc.rhat(f), lb.mcmc.ess_bulk(f)], -1).float()
        fitted = net.outputs(new)[None]
        outputs["mean field"] = fitted, net.generator.log_noise.detach().exp().expand(fitted.shape[:2])
        for name, (f, noise) in outputs.items():
            p_y = Normal(f.flatten(0, 1).double(), noise.flatten()[:, None].double())
            spread = unit * f.flatten(0, 1).std(0).numpy()
            found[name][test] = np.column_stack([judged(p_y, target[test], unit), spread])
    return found, mixing


@style.styled
def picture(found: dict[str, np.ndarray]) -> Figure:
    """Draw the coverage of predictive intervals, and each posterior's spread of f beside that of HMC."""
    figure = style.new_figure(8, 3.7)
    left, right = figure.subplots(1, 2)
    levels = np.linspace(0.05, 0.95, 19)
    colours = dict(zip(NAMES, (style.ACCENT, style.MAIN, style.INK), strict=True))
    for name, rows in found.items():
        covered = [(np.abs(rows[:, 2] - 0.5) <= level / 2).mean() for level in levels]
        line = "--" if name == NAMES[2] else "-"
        left.plot(levels, covered, line, color=colours[name], label=name)
    left.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, zorder=0)
    left.set(xlabel="nominal coverage of the central interval", ylabel="share of test rows inside")
    left.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), title="predictive intervals")
    exact = found[NAMES[2]][:, 3]
    for name in NAMES[:2]:
        right.plot(exact, found[name][:, 3], "o", color=colours[name], markersize=2.5, alpha=0.6, label=name)
    limit = 1.05 * max(rows[:, 3].max() for rows in found.values())
    right.plot([0, limit], [0, limit], color=style.GREY, linewidth=0.8, zorder=0)
    right.set(xlabel="by HMC with all rows (units of y)", ylabel="by the other posterior (units of y)")
    right.set(xlim=(0, limit), ylim=(0, limit), title="deviation of f(x), a dot for each test row")
    for axes in (left, right):
        axes.legend(loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50, help="of each chain; of HMC, two transitions apart")
    parser.add_argument("--every", type=int, default=100, help="steps of SGHMC from one draw to the next")
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=150, help="of the mean-field posterior")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bnn-sghmc"))
    parser.add_argument("--quick", action="store_true", help="two folds, few chains, draws and epochs")
    options = parser.parse_args()
    if options.quick:
        options.chains, options.draws, options.every, options.epochs, options.folds = 8, 10, 10, 10, 2

    found, mixing = regression(options)
    print(f"diabetes, {options.folds}-fold test: RMSE in units of y, log p(y | x) in nats a row")
    for name, rows in found.items():
        square, log_p = rows[:, 0] ** 2, rows[:, 1]
        rmse, root = math.sqrt(square.mean()), math.sqrt(len(rows))
        print(
            f"  {name:14} RMSE {rmse:.1f} +- {square.std() / (2 * rmse * root):.1f}, log-likelihood {log_p.mean():.3f} "
            f"+- {log_p.std() / root:.3f}, mean deviation of f {rows[:, 3].mean():.1f}"
        )
    for name in (NAMES[0], NAMES[2]):
        gain = found["SGHMC"][:, 1] - found[name][:, 1]
        error = gain.std() / math.sqrt(len(gain))
        print(f"  SGHMC less {name}: log-likelihood {gain.mean():+.4f} +- {error:.4f} (rows paired)")
    print(f"predictions f(x) for test rows, of {options.chains} chains of {options.draws} draws:")
    for name, (rhat, ess) in ((name, values.T) for name, values in mixing.items()):
        print(
            f"  {name:14} R-hat: median {rhat.median():.3f}, largest {rhat.max():.3f}; "
            f"ESS of {options.chains * options.draws}: median {ess.median():.0f}, least {ess.min():.0f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "calibration.png"
    path.write_bytes(style.png(picture(found)))
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
