"""Eight schools by Hamiltonian Monte Carlo and annealed importance sampling, both against the exact posterior.

The model, its exact posterior of (mu, tau) on a grid, and log p(y) are those of eight_schools.py. The sign of tau is
not identified, so chains have to cross from one mode to the other and back.

Run: python examples/hmc_eight_schools.py [--quick]
"""

import argparse
from pathlib import Path

import torch
from eight_schools import BINS, MU, TAU, EightSchools, Y, exact_bins, exact_log_evidence, midpoints
from matplotlib.figure import Figure
from torch import Tensor

import lowerbound as lb
from lowerbound.report import style


def exact_means(exact: Tensor) -> dict[str, float]:
    """Return the posterior means of mu and |tau| from the probabilities of the bins ``[tau, mu]``."""
    share = exact / exact.sum()
    mu, tau = midpoints(*MU, BINS), midpoints(*TAU, BINS)
    return {"mu": float((share * mu).sum()), "|tau|": float((share * tau.abs()[:, None]).sum())}


@style.styled
def picture(samples: lb.mcmc.Samples, exact: Tensor) -> Figure:
    """Draw the exact marginals as lines, and the chains' draws as steps."""
    figure = style.new_figure(8, 3)
    for axes, name, span, axis in zip(figure.subplots(1, 2), ("mu", "tau"), (MU, TAU), (0, 1), strict=True):
        edges = torch.linspace(*span, BINS + 1)
        draws = samples.draws[name].flatten()
        counts = torch.histogram(draws, edges).hist / len(draws)
        axes.stairs(counts, edges, color=style.palette(1)[0], label="HMC")
        axes.plot(midpoints(*span, BINS), exact.sum(axis), color=style.INK, label="exact")
        axes.set(xlabel=name, ylabel="probability of a bin")
        axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/hmc-eight-schools"))
    parser.add_argument("--quick", action="store_true", help="20 draws")
    options = parser.parse_args()
    warmup, draws, temperatures = (40, 20, 20) if options.quick else (500, options.draws, 500)
    log_evidence = exact_log_evidence()
    exact = exact_bins(log_evidence)

    target = lb.mcmc.LogJoint(EightSchools().bind(), {"y": Y})
    start = target.initial(chains=options.chains, seed=options.seed)
    kernel = lb.mcmc.HMC(target_acceptance=0.95)  # where tau is large, the posterior of eta is narrow
    samples = lb.mcmc.run(kernel, target, start, warmup=warmup, draws=draws, seed=options.seed)
    print(f"HMC: acceptance {samples.stats['acceptance'].mean():.2f}, {samples.divergences} divergences")
    absolute = samples.draws["tau"].abs()
    for name, values in {"mu": samples.draws["mu"], "|tau|": absolute, "tau": samples.draws["tau"]}.items():
        mean, error = values.mean(), lb.mcmc.mcse(values)
        truth = exact_means(exact).get(name, 0.0)
        print(
            f"    {name}: mean {mean:.3f} +- {error:.3f}, exact {truth:.3f} ({(mean - truth) / error:+.1f} errors); "
            f"R-hat {lb.mcmc.rhat(values):.3f}, ESS {lb.mcmc.ess_bulk(values):.0f} of {values.numel()}"
        )

    torch.manual_seed(options.seed)
    annealed = lb.evaluation.ais(EightSchools().bind(), {"y": Y}, chains=1000, temperatures=temperatures)
    print(
        f"AIS from the prior: log p(y) = {annealed.value:.3f} +- {annealed.stderr:.3f} nats; exact {log_evidence:.3f}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "marginals.png").write_bytes(style.png(picture(samples, exact)))
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
