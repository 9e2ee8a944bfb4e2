"""A mixture of two Gaussians by samplers with noisy gradients: what a thermostat buys.

Noise in the gradient is heat. Langevin dynamics (SGLD) and Hamiltonian dynamics with a friction that is set in advance
(SGHMC) do not know how much of it comes in, so at a given step size they sample something wider than their target,
however long they run. The friction of SGNHT is a variable, the thermostat: it grows until the mean kinetic energy is
right, and so takes out what comes in. For a step size eta, a gradient with noise of variance V, and noise a put in
besides, that is a + eta V / 2. All samplers take equal steps along the gradient, from the same starts.

Run: python examples/mixture_sgnht.py [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

import lowerbound as lb
from lowerbound.report import style

TARGET = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), Normal(torch.tensor([-1.5, 1.5]), 0.7))
STEP, NOISE_IN, GRADIENT_SD = 0.02, 0.1, 5.0  # eta, a, and the root of V
HEAT = NOISE_IN + STEP * GRADIENT_SD**2 / 2  # what the thermostat should take out
SAMPLERS = {
    "SGNHT": lb.mcmc.SGNHT(STEP, noise=NOISE_IN),
    "SGHMC": lb.mcmc.SGHMC(STEP, friction=NOISE_IN),
    "SGLD": lb.mcmc.SGLD(2 * STEP),  # it takes half of its step size along the gradient
}
GRID = torch.linspace(-7, 7, 141)


def noisy(x: Tensor) -> Tensor:
    """Return the log-density, tilted at random: its gradient is the exact one with Gaussian noise."""
    return TARGET.log_prob(x) + GRADIENT_SD * torch.randn_like(x) * x


def valley() -> float:
    """Return where the density is lowest between the modes."""
    between = torch.linspace(-1.5, 1.5, 3001)
    return float(between[TARGET.log_prob(between).argmin()])


def exact_share(border: float) -> float:
    return float(TARGET.cdf(torch.tensor(border)))


def estimates(x: Tensor, border: float) -> dict[str, tuple[float, float]]:
    """Return the share of the left mode, the mean and the variance of draws, each with its standard error."""
    found = {"left mode": (x < border).float(), "mean": x, "variance": (x - TARGET.mean).square()}
    return {name: (float(values.mean()), float(lb.mcmc.mcse(values))) for name, values in found.items()}


@style.styled
def picture(trace: lb.mcmc.Samples, draws: dict[str, Tensor]) -> Figure:
    """Draw a chain and its thermostat from the first step on, and the draws of all chains beside the exact density."""
    figure = style.new_figure(9, 4.2)
    axes = figure.subplot_mosaic([["position", "density"], ["thermostat", "density"]], width_ratios=[1.25, 1])
    steps = torch.arange(1, trace.stats["friction"].shape[1] + 1)
    colours = dict(zip(draws, (style.MAIN, style.ACCENT, style.GREY), strict=True))
    axes["position"].plot(steps, trace.draws["position"][0], color=style.MAIN, linewidth=0.5)
    axes["position"].set(ylabel="position x", title="SGNHT: one chain")
    axes["position"].tick_params(labelbottom=False)
    friction = trace.stats["friction"]
    place = axes["thermostat"]
    place.plot(steps, friction[0], color="#56B4E9", linewidth=0.5, label="this chain")
    place.plot(steps, friction.mean(0), color=style.MAIN, label=f"mean of {len(friction)} chains")
    place.axhline(HEAT, color=style.INK, linestyle="--", linewidth=1, label="noise to take out")
    place.set(xlabel="step", ylabel="thermostat, per step", xlim=(0, len(steps)))
    place.set_ylim(top=float(friction[0].max()) + 0.35)
    place.legend(ncols=3, loc="upper center", columnspacing=1.2, handlelength=1.5)
    place.sharex(axes["position"])
    place = axes["density"]
    for name, x in draws.items():
        counts = torch.histogram(x.flatten(), GRID).hist / x.numel() / (GRID[1] - GRID[0])
        place.stairs(counts, GRID, color=colours[name], label=name, linewidth=1.2)
    place.plot(GRID, TARGET.log_prob(GRID).exp(), color=style.INK, linestyle="--", linewidth=1, label="exact")
    place.set(xlabel="x", ylabel="density", xlim=(-7, 7), title="all chains")
    place.legend(loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000, help="of each chain, ten steps apart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/mixture-sgnht"))
    parser.add_argument("--quick", action="store_true", help="100 chains of 50 draws")
    options = parser.parse_args()
    chains, draws, warmup = (100, 50, 200) if options.quick else (options.chains, options.draws, 1000)
    border = valley()
    truth = {"left mode": exact_share(border), "mean": float(TARGET.mean), "variance": float(TARGET.variance)}

    samples: dict[str, lb.mcmc.Samples] = {}
    print(f"{'':6}" + "".join(f"{name:>26}" for name in truth))
    print(f"{'exact':6}" + "".join(f"{value:>26.3f}" for value in truth.values()))
    for name, kernel in SAMPLERS.items():
        torch.manual_seed(options.seed)
        run = lb.mcmc.run(kernel, noisy, torch.randn(chains), warmup=warmup, draws=draws, thin=10, seed=options.seed)
        samples[name] = run
        found = estimates(run.draws["position"], border).items()
        cells = [f"{value:.3f} +- {error:.3f} ({(value - truth[what]) / error:+.1f})" for what, (value, error) in found]
        print(f"{name:6}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
    print("(+- one Monte Carlo standard error; in brackets, the distance from the exact value in such errors)")
    friction = samples["SGNHT"].stats["friction"]
    error = float(lb.mcmc.mcse(friction))
    print(f"thermostat: mean {friction.mean():.4f} +- {error:.4f}; a + eta V / 2 = {HEAT:.4f}")

    start = torch.full((chains,), -1.5)
    trace = lb.mcmc.run(SAMPLERS["SGNHT"], noisy, start, warmup=0, draws=2000, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "thermostat.png"
    path.write_bytes(style.png(picture(trace, {name: run.draws["position"] for name, run in samples.items()})))
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
