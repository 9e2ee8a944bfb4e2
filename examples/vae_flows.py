"""ZhuSuan's `vae_nf.py` on today's stack: what a normalizing flow buys as the posterior of a VAE.

One decoder for all, so that log p(x) is the same: it is trained on the importance-weighted bound, which does not bend
it to Gaussian posteriors, and then held fixed. Four posteriors are fitted to it on the evidence lower bound: a diagonal
Gaussian, planar flows (as in `vae_nf.py`), an inverse autoregressive flow and a neural spline flow. The table has both
bounds of test rows with standard errors; log p(x) itself is a sum over the plane of the two latents. There the exact
posterior can be seen: the picture shows it on a grid, for three digits, under the contours of each q(z | x).

Run: python examples/vae_flows.py [--data mnist] [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import lowerbound as lb

POSTERIORS = {
    "Gaussian": ("diagonal", {}),
    "planar": ("planar", {"covariance": "diagonal"}),
    "IAF": ("iaf", {"covariance": "diagonal"}),
    "spline (NSF)": ("nsf", {"covariance": "diagonal"}),
}
GRID = 121  # points a side


def build(name: str, rows: lb.data.Dataset) -> lb.models.VAE:
    posterior, options = POSTERIORS[name]
    torch.manual_seed(0)
    return lb.models.VAE(
        event_shape=rows.event_shape,
        latent_dim=2,
        hidden=[200, 200],
        activation="tanh",
        posterior=posterior,
        posterior_options=options,
    )


def fit(objective: lb.objectives.IWAE | lb.objectives.ELBO, rows: lb.data.Dataset, steps: int) -> None:
    epochs = max(1, steps * 128 // len(rows))
    lb.fit(objective, rows, epochs=epochs, batch_size=128, lr=1e-3, schedule="cosine", progress=False)


def densities(model: lb.models.VAE, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return p(z | x), normalised over the nodes, and q(z | x) of one row at nodes ``[n, 2]``; each has mean 1."""
    joint = model.prior().log_prob(z) + model.decode(z).log_prob(x)
    q = model.encode(x.unsqueeze(0)).log_prob(z.unsqueeze(1)).squeeze(1)
    return (joint - joint.logsumexp(0)).exp(), (q - q.logsumexp(0)).exp()


def window(model: lb.models.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sides of a grid that holds all but a thousandth of the exact posterior."""
    side = torch.linspace(-5, 5, 201)
    z = torch.cartesian_prod(side, side)
    exact, _ = densities(model, x, z)
    order = exact.argsort(descending=True)
    kept = z[order[: int((exact[order].cumsum(0) < 0.999).sum()) + 1]]
    centre, reach = (kept.amax(0) + kept.amin(0)) / 2, 0.65 * float((kept.amax(0) - kept.amin(0)).max()) + 0.05
    return tuple(torch.linspace(float(c) - reach, float(c) + reach, GRID) for c in centre)


@torch.no_grad()
def draw(models: dict[str, lb.models.VAE], rows: Tensor) -> Figure:
    """One line for each digit: the digit, then the exact posterior and the contours of q, posterior by posterior."""
    figure = Figure(figsize=(2.6 * (len(models) + 1), 2.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(models) + 1, squeeze=False)
    for line, x in zip(axes, rows, strict=True):
        line[0].imshow(x, cmap="Greys", vmin=0, vmax=1)
        line[0].set_axis_off()
        for place, (name, model) in zip(line[1:], models.items(), strict=True):
            sides = window(model, x)
            exact, q = (d.reshape(GRID, GRID).T for d in densities(model, x, torch.cartesian_prod(*sides)))
            place.imshow(exact, origin="lower", extent=[s for side in sides for s in (side[0], side[-1])], cmap="Blues")
            levels = sorted(level_of(q, share) for share in (0.9, 0.5))
            place.contour(*sides, q, levels=levels, colors="tab:red", linewidths=1)
            overlap = float(torch.minimum(exact, q).sum())
            place.set_title(f"{name}: overlap {overlap:.0%}", fontsize=9)
            place.set_xlabel("$z_1$", fontsize=8)
            place.set_ylabel("$z_2$", fontsize=8)
            place.tick_params(labelsize=7)
    figure.suptitle(
        "Exact posterior p(z | x) (blue) and q(z | x) (red: half, and nine tenths, of its mass)", fontsize=10
    )
    return figure


def level_of(density: Tensor, share: float) -> float:
    """Return the density above which lies a share of the mass."""
    ordered = density.flatten().sort(descending=True).values
    return float(ordered[int((ordered.cumsum(0) < share * float(density.sum())).sum())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=Path("runs/vae-flows"))
    parser.add_argument("--quick", action="store_true", help="50 steps on digits")
    options = parser.parse_args()
    if options.quick:
        options.data, options.steps = "digits", 50

    rows, test = lb.data.load(options.data, binarize="dynamic")
    limit = 20 if options.quick else min(300, len(test))
    first = build("Gaussian", rows)
    fit(lb.objectives.IWAE(first, particles=20, gradient="dreg"), rows, options.steps)
    exact = lb.evaluate(first, test, "quadrature", limit=limit).measures["quadrature"]["value"]
    print(f"{options.data}, {limit} test rows, nats a row; log p(x) = {exact:.2f}, by a sum over the latent plane")
    print(f"{'posterior':14} {'ELBO':>16} {'IWAE-50':>16}   log p(x) - ELBO")
    models = {}
    for name in POSTERIORS:
        model = models[name] = build(name, rows)
        model.generator.load_state_dict(first.generator.state_dict())
        model.generator.requires_grad_(False)
        fit(lb.objectives.ELBO(model), rows, options.steps)
        scores = lb.evaluate(model, test, ["elbo-16", "iwae-50"], limit=limit)
        cells = [f"{measure['value']:8.2f} +- {measure['stderr']:.2f}" for measure in scores.measures.values()]
        gap = exact - scores.measures["elbo-16"]["value"]
        print(f"{name:14} {cells[0]:>16} {cells[1]:>16}   {gap:.2f}", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    digits = next(iter(test.evaluation_batches(1 if options.quick else 3)))
    path = options.out / "posteriors.png"
    draw(models, digits.reshape(-1, *test.event_shape[-2:])).savefig(path, dpi=120)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
