"""A sigmoid belief net, three layers of binary latents, trained by VIMCO and by reweighted wake-sleep.

Both draw K = 10 times from the posterior and weigh the draws. VIMCO climbs the importance-weighted bound in both
programs; reweighted wake-sleep climbs it in the model, and lets the posterior imitate the weighted draws (KL(p || q)).
No hidden layer is deterministic: each unit is a coin whose logit is linear in the layer above.

Mnih and Rezende (2016) report -log p(x) = 92.6 nats for VIMCO and 93.0 for reweighted wake-sleep on MNIST with K = 10;
here as there log p(x) is estimated by importance sampling with 1000 draws.

Run: python examples/sigmoid_belief_net.py [--data mnist] [--epochs N] [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import lowerbound as lb
from lowerbound.report.style import new_figure, palette, png, styled

PARTICLES = 10
OBJECTIVES = {
    "VIMCO": lambda model: lb.objectives.IWAE(model, particles=PARTICLES, gradient="vimco"),
    "reweighted wake-sleep": lambda model: lb.objectives.RWS(model, particles=PARTICLES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--units", type=int, default=200, help="in each of the three layers")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/sigmoid-belief-net"))
    parser.add_argument("--quick", action="store_true", help="three epochs, 20 units a layer, 50 test images")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.units = 3, 20

    train, test = lb.data.load(options.data, binarize="dynamic")
    train, validation = train.split_off(min(0.1, 3000 / len(train)))
    mean, _ = train.moments()
    curves, images = {}, {}
    for name, make in OBJECTIVES.items():
        torch.manual_seed(0)
        model = lb.models.HierarchicalVAE(
            event_shape=train.event_shape,
            latent_dim=options.units,
            above=(options.units, options.units),
            hidden=(),
            between=(),
            latent="bernoulli",
        )
        model.standardize(mean, torch.ones(()))  # the input is centred, the output starts from the mean image
        run = lb.fit(
            make(model),
            train,
            validation=validation,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=2e-3,
            schedule="cosine",
            progress=False,
        )
        curves[name] = [record["validation"][f"iwae-{PARTICLES}"] for record in run.history]
        scores = lb.evaluate(model, test, ["elbo", "iwae-1000"], limit=50 if options.quick else None)
        bounds = ", ".join(f"{k} {m['value']:.2f} +- {m['stderr']:.2f}" for k, m in scores.measures.items())
        print(f"{name}: {bounds} nats on test images")
        with torch.no_grad():
            images[name] = model.sample(20)["x_mean"]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "curves.png").write_bytes(png(draw_curves(curves)))
    (options.out / "samples.png").write_bytes(png(draw_samples(images)))
    print(f"pictures: {options.out}")


@styled
def draw_curves(curves: dict[str, list[float]]) -> Figure:
    """Draw the validation bound of each run; the first epochs may lie below the picture."""
    figure = new_figure(5.2, 3.2)
    axes = figure.subplots()
    for (name, values), colour, line in zip(curves.items(), palette(len(curves)), ("-", "--"), strict=True):
        axes.plot(range(1, len(values) + 1), values, line, color=colour, label=name)
    highest = max(max(values) for values in curves.values())
    axes.set_ylim(top=highest + 1, bottom=max(highest - 20, min(min(values) for values in curves.values()) - 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation iwae-{PARTICLES} (nats)")
    axes.legend(loc="lower right")
    return figure


@styled
def draw_samples(images: dict[str, torch.Tensor]) -> Figure:
    """Draw 20 images of each model: the probability of every pixel, given coins from the top layer down."""
    figure = new_figure(6.0, 1.6 * len(images), picture=True)
    for part, (name, rows) in zip(figure.subfigures(len(images), 1), images.items(), strict=True):
        part.suptitle(name, fontsize=9)
        for axes, image in zip(part.subplots(2, 10).flat, rows, strict=True):
            axes.imshow(image, cmap="Greys", vmin=0, vmax=1)
            axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
