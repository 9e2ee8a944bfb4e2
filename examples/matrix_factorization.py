"""Probabilistic matrix factorisation by Hamiltonian Monte Carlo: a table of ratings of which a fifth is known.

r_ij = u_i . v_j + noise, with standard normal factors (Salakhutdinov and Mnih, 2008). The table is drawn from the
model, so what is right is known: no prediction of the hidden entries has less error than their noise, and intervals of
50 and 90 % should hold 50 and 90 % of them. The posterior averages over all factors that so few ratings leave open. The
fit of one point, the most probable factors, does not, although it is told the noise, which the posterior has to find.
Factors are centred, so means of rows and columns tell nothing. They may be turned without any change of the ratings, so
the chains are judged by their predictions.

Run: python examples/matrix_factorization.py [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import LogNormal, Normal

import lowerbound as lb
from lowerbound.report import style

USERS, ITEMS, RANK = 80, 50, 3
NOISE, KNOWN = 1.0, 0.2
LEVELS = torch.linspace(0.05, 0.95, 19)


class Factorization(lb.BayesianNet):
    """Ratings of all users (rows) and items (columns), given which of them are known."""

    def forward(self, bn: lb.Trace, known: Tensor) -> None:
        u = bn.sample("u", Normal(torch.zeros(USERS, RANK), 1.0), event_dims=2)
        v = bn.sample("v", Normal(torch.zeros(ITEMS, RANK), 1.0), event_dims=2)
        noise = bn.sample("noise", LogNormal(torch.tensor(-1.0), 1.0))
        bn.sample("r", Normal(u @ v.mT, noise[..., None, None]), event_dims=2, mask=known)


def ratings(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a table from the model, the same without its noise, and which entries are known."""
    torch.manual_seed(seed)
    table = Factorization().bind(torch.ones(USERS, ITEMS).bool()).observe(noise=torch.tensor(NOISE))
    return table["r"], table["u"] @ table["v"].mT, torch.rand(USERS, ITEMS) < KNOWN


def means(table: Tensor, known: Tensor) -> Tensor:
    """Return the mean of each row plus that of each column, less the mean of all, over the known entries."""
    row, column, total = (
        (table * known).sum(axis, keepdim=True) / known.sum(axis, keepdim=True).clamp_min(1) for axis in (1, 0, (0, 1))
    )
    return row + column - total


def point_fit(table: Tensor, known: Tensor, steps: int, seed: int) -> Tensor:
    """Return the ratings of the most probable factors given the true noise, the best of eight starts."""
    target = lb.mcmc.LogJoint(Factorization().bind(known), {"r": table, "noise": torch.tensor(NOISE)})
    position = {name: value.requires_grad_() for name, value in target.initial(chains=8, seed=seed).items()}
    optimizer = torch.optim.Adam(position.values(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (-target(position).sum()).backward()
        optimizer.step()
    best = target(position).argmax()
    return (position["u"] @ position["v"].mT)[best].detach()


def covered(draws: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Return the share of true values in the central interval of each level; draws are ``[S, entries]``."""
    below = (draws < truth).float().mean(0)
    return ((below - 0.5).abs() <= levels[:, None] / 2).float().mean(1)


@style.styled
def picture(
    table: Tensor, clean: Tensor, known: Tensor, mean: Tensor, spread: Tensor, coverage: dict[str, Tensor]
) -> Figure:
    """Draw the tables, and whether the hidden entries are where the posterior says, and as near as it says."""
    figure = style.new_figure(10, 5.6)
    panels = figure.subplots(2, 3)
    tables = {
        "known ratings": torch.where(known, table, torch.nan),
        "posterior mean of u . v": mean,
        "truth: u . v without noise": clean,
        "posterior predictive deviation": spread,
    }
    limit = float(clean.abs().quantile(0.99))
    for axes, (name, values) in zip(panels.flat, tables.items(), strict=False):
        signed = values is not spread
        colours = {"cmap": "PuOr", "vmin": -limit, "vmax": limit} if signed else {"cmap": "viridis"}
        image = axes.imshow(values.T, aspect="auto", interpolation="nearest", **colours)
        axes.set(title=name, xlabel="user", ylabel="item")
        if axes in (panels[0, 2], panels[1, 0]):  # the first three have one scale
            figure.colorbar(image, ax=axes, label="rating", pad=0.02)
    hidden, error = ~known, (mean - table).square()
    left, right = panels[1, 1:]
    bins = spread[hidden].argsort().tensor_split(12)
    says = [float(spread[hidden][one].square().mean().sqrt()) for one in bins]
    errs = [float(error[hidden][one].mean().sqrt()) for one in bins]
    left.plot(says, errs, "o", color=style.MAIN, markersize=4, label="hidden entries, in twelfths")
    ends = [0.9 * min(says), 1.05 * max(says)]
    left.plot(ends, ends, color=style.GREY, linewidth=0.8, zorder=0)
    left.axhline(NOISE, color=style.INK, linestyle="--", linewidth=1, label="noise")
    left.set(xlabel="predicted deviation (rating)", ylabel="RMSE (rating)", title="errors and predicted deviations")
    left.legend(loc="upper left")
    for (name, shares), colour in zip(coverage.items(), (style.MAIN, style.ACCENT), strict=True):
        right.plot(LEVELS, shares, color=colour, label=name)
    right.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, zorder=0)
    right.set(xlabel="nominal coverage of the interval", ylabel="share of hidden entries inside", title="coverage")
    right.legend(loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=250, help="of each of four chains, four transitions apart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/matrix-factorization"))
    parser.add_argument("--quick", action="store_true", help="20 draws a chain")
    options = parser.parse_args()
    warmup, draws, steps = (30, 20, 100) if options.quick else (600, options.draws, 1000)
    table, clean, known = ratings(options.seed)
    hidden = ~known

    target = lb.mcmc.LogJoint(Factorization().bind(known), {"r": table})
    start = target.initial(chains=4, seed=options.seed)
    samples = lb.mcmc.run(
        lb.mcmc.HMC(leapfrogs=10), target, start, warmup=warmup, draws=draws, thin=4, seed=options.seed
    )
    tables = samples.draws["u"] @ samples.draws["v"].mT  # [chains, draws, users, items]
    noise = samples.draws["noise"]
    ess, rhat = (measure(tables[:, :, hidden]) for measure in (lb.mcmc.ess_bulk, lb.mcmc.rhat))
    print(
        f"HMC: acceptance {samples.stats['acceptance'].mean():.2f}, {samples.divergences} divergences; predictions: "
        f"ESS {ess.median():.0f} of {noise.numel()} (least {ess.min():.0f}), R-hat {rhat.median():.3f} "
        f"(99 % of entries below {rhat.quantile(0.99):.3f})"
    )
    print(f"noise: posterior {noise.mean():.3f} with deviation {noise.std():.3f}, true {NOISE:.3f}")

    point = point_fit(table, known, steps, options.seed)
    fresh = torch.randn(noise.numel(), USERS, ITEMS)
    predictive = {
        "posterior (HMC)": tables.flatten(0, 1) + noise.flatten()[:, None, None] * fresh,
        "point fit": point + NOISE * fresh,
    }
    coverage = {name: covered(r[:, hidden], table[hidden], LEVELS) for name, r in predictive.items()}
    mean, spread = tables.mean((0, 1)), predictive["posterior (HMC)"].std(0)
    print(f"{int(known.sum())} of {known.numel()} ratings known; the {int(hidden.sum())} hidden ones:")
    predictions = {
        "row and column means": means(table, known),
        "point fit": point,
        "posterior (HMC)": mean,
        "truth without noise": clean,
    }
    for name, prediction in predictions.items():
        cells = [f"RMSE {(prediction - table)[hidden].square().mean().sqrt():.3f}"]
        if name in coverage:
            inside = (100 * float(coverage[name][(LEVELS - level).abs().argmin()]) for level in (0.5, 0.9))
            cells += [f"{inner:.1f} % in the {level} % interval" for level, inner in zip((50, 90), inside, strict=True)]
        print(f"  {name:21} {', '.join(cells)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "ratings.png"
    path.write_bytes(style.png(picture(table, clean, known, mean, spread, coverage)))
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
