"""A variational autoencoder with 40 binary latents, which no pathwise gradient can train, and three that can.

Each bit of the code is drawn, so the gradient of the posterior comes from the score function. REINFORCE needs a
baseline, here a network that tells from the image what the bound will be (NVIL). With several draws each is judged by
the others: by their mean for the ELBO, by VIMCO for the importance-weighted bound. The model is that of ZhuSuan's
`bernoulli_latent_vae`.

Mnih and Gregor (2014); Mnih and Rezende (2016); Shi et al., ZhuSuan (2017).

Run: python examples/bernoulli_vae.py [--data mnist] [--epochs N] [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import lowerbound as lb
from lowerbound.report.style import new_figure, palette, png, styled


def with_network(model: lb.models.HierarchicalVAE) -> lb.objectives.ELBO:
    network = nn.Sequential(nn.Flatten(), lb.nn.MLP(model.event_size, [100], 1, activate="tanh"))
    return lb.objectives.ELBO(model, gradient="reinforce", baseline=network)


def with_others(model: lb.models.HierarchicalVAE) -> lb.objectives.ELBO:
    return lb.objectives.ELBO(model, particles=5, gradient="reinforce", baseline="leave-one-out")


def with_vimco(model: lb.models.HierarchicalVAE) -> lb.objectives.IWAE:
    return lb.objectives.IWAE(model, particles=5, gradient="vimco")


OBJECTIVES = {
    "REINFORCE, 1 draw, baseline network": with_network,
    "REINFORCE, 5 draws, leave-one-out": with_others,
    "VIMCO, 5 draws": with_vimco,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/bernoulli-vae"))
    parser.add_argument("--quick", action="store_true", help="three epochs, 50 test images")
    options = parser.parse_args()
    epochs, limit = (3, 50) if options.quick else (options.epochs, None)

    train, test = lb.data.load(options.data, binarize="dynamic")
    train, validation = train.split_off(0.1)
    mean, _ = train.moments()
    curves = {}
    print(f"{'':36}{'ELBO':>18}{'iwae-500':>18}")
    for name, make in OBJECTIVES.items():
        torch.manual_seed(0)
        model = lb.models.HierarchicalVAE(
            event_shape=train.event_shape, latent_dim=40, above=(), hidden=(200, 200), latent="bernoulli"
        )
        model.standardize(mean, torch.ones(()))
        settings = {"epochs": epochs, "batch_size": 100, "lr": 1e-3, "schedule": "cosine", "progress": False}
        run = lb.fit(make(model), train, validation=validation, **settings)
        curves[name] = [record["validation"]["reconstruction"] - record["validation"]["kl"] for record in run.history]
        measures = lb.evaluate(model, test, ["elbo", "iwae-500"], limit=limit).measures.values()
        cells = [f"{m['value']:.2f} +- {m['stderr']:.2f}" for m in measures]
        print(f"{name:36}" + "".join(f"{cell:>18}" for cell in cells))
    print("Lower bounds of log p(x) on test images, in nats, with standard errors over images.")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "elbo.png").write_bytes(png(draw_curves(curves)))
    print(f"pictures: {options.out}")


@styled
def draw_curves(curves: dict[str, list[float]]) -> Figure:
    """Draw the validation ELBO of each run: what the posterior earns, whichever bound it was trained on."""
    figure = new_figure(5.6, 3.2)
    axes = figure.subplots()
    for (name, values), colour, line in zip(curves.items(), palette(len(curves)), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(values) + 1), values, line, color=colour, label=name)
    highest = max(max(values) for values in curves.values())
    axes.set_ylim(top=highest + 1, bottom=max(highest - 20, min(min(values) for values in curves.values()) - 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation ELBO (nats)")
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
