"""Importance-weighted autoencoders: what more particles buy, in training and in evaluation.

The same network is trained on the bound with K = 1, 5 and 50 draws. K = 1 is the variational autoencoder; the others
take the doubly reparameterised gradient. Each model is then measured by its own ELBO and by the importance-weighted
bound with many draws, which is nearly log p(x): training on more draws gives a better model, often at a worse ELBO,
because the posterior is no longer asked to be near the true one by itself.

Burda, Grosse and Salakhutdinov (2016); Tucker et al. (2019).

Run: python examples/iwae.py [--data mnist] [--epochs N] [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import lowerbound as lb
from lowerbound.report.style import new_figure, palette, png, styled

PARTICLES = (1, 5, 50)
MARKERS = "os^"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/iwae"))
    parser.add_argument("--quick", action="store_true", help="one epoch, 50 test images")
    options = parser.parse_args()
    epochs, limit = (1, 50) if options.quick else (options.epochs, None)
    measures = ["elbo", "iwae-5", "iwae-50", "iwae-500"]

    train, test = lb.data.load(options.data, binarize="dynamic")
    mean, _ = train.moments()
    found = {}
    print(f"{'trained on':12}" + "".join(f"{name:>18}" for name in measures) + f"{'active units':>15}")
    for particles in PARTICLES:
        torch.manual_seed(0)
        model = lb.models.VAE(event_shape=train.event_shape, latent_dim=50, hidden=[200, 200], activation="tanh")
        model.standardize(mean, torch.ones(()))
        objective = (
            lb.objectives.ELBO(model)
            if particles == 1
            else lb.objectives.IWAE(model, particles=particles, gradient="dreg")
        )
        lb.fit(objective, train, epochs=epochs, batch_size=100, lr=1e-3, schedule="cosine", progress=False)
        scores = lb.evaluate(model, test, measures, limit=limit)
        found[particles] = scores.measures
        cells = [f"{m['value']:.2f} +- {m['stderr']:.2f}" for m in scores.measures.values()]
        active = f"{scores.latents['active_units']} of 50"
        print(f"{f'K = {particles}':12}" + "".join(f"{cell:>18}" for cell in cells) + f"{active:>15}")
    print("Lower bounds of log p(x) on test images, in nats, with standard errors over images.")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bounds.png").write_bytes(png(draw_bounds(found)))
    print(f"pictures: {options.out}")


@styled
def draw_bounds(found: dict[int, dict[str, dict[str, float]]]) -> Figure:
    """Draw the bound of each model against the number of draws that measure it."""
    figure = new_figure(5.2, 3.2)
    axes = figure.subplots()
    draws = [1, 5, 50, 500]
    for (particles, measures), colour, marker in zip(found.items(), palette(len(found)), MARKERS, strict=True):
        values = [measure["value"] for measure in measures.values()]
        axes.plot(draws, values, marker=marker, color=colour, label=f"trained on K = {particles}")
    axes.set_xscale("log")
    axes.set_xticks(draws, [str(k) for k in draws])
    axes.minorticks_off()
    axes.set_xlabel("draws in the bound that measures (1: the ELBO)")
    axes.set_ylabel("test bound of log p(x) (nats)")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
