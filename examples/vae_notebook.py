"""The variational autoencoder of the notebook: 784-128-100, ELU, batches of 64; on honest terms.

The notebook trains on grey pixels under a Bernoulli likelihood, which is no probability of them. Here the pixels are
binarised (`--likelihood bernoulli`), or kept grey under the Gaussian N(f(z), I) that its text describes
(`--likelihood gaussian`). Both print a test bound in nats, and save 16 images every few epochs as the notebook does.

Run: python examples/vae_notebook.py [--likelihood gaussian] [--quick]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import lowerbound as lb
from lowerbound.training import Callback


class Plot(Callback):
    """Saves 16 samples of the prior, a 4 x 4 picture, every few epochs."""

    def __init__(self, model: lb.models.VAE, folder: Path, every: int) -> None:
        self.model, self.folder, self.every = model, folder, every
        folder.mkdir(parents=True, exist_ok=True)

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] % self.every == 0:
            with torch.no_grad():
                images = self.model.decode(self.model.prior().sample((16,))).mean
            figure = Figure(figsize=(4, 4))
            for axes, image in zip(figure.subplots(4, 4).flat, images, strict=True):
                axes.imshow(image, cmap="Greys_r", vmin=0, vmax=1)
                axes.set_axis_off()
            figure.savefig(self.folder / f"{record['epoch']:03}.png")
        print(f"epoch {record['epoch']}: " + ", ".join(f"{k} {v:.2f}" for k, v in record["train"].items()) + " nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist or digits")
    parser.add_argument("--likelihood", choices=("bernoulli", "gaussian"), default="bernoulli")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/vae-notebook"))
    parser.add_argument("--quick", action="store_true", help="three epochs on digits")
    options = parser.parse_args()
    if options.quick:
        options.data, options.epochs = "digits", 3

    gaussian = options.likelihood == "gaussian"
    train, test = lb.data.load(options.data, binarize="none" if gaussian else "dynamic")
    torch.manual_seed(0)
    model = lb.models.VAE(
        event_shape=train.event_shape,
        latent_dim=100,
        hidden=[128],
        activation="elu",
        likelihood=options.likelihood,
        likelihood_options={"scale": 1.0} if gaussian else {},
    )
    objective = lb.objectives.ELBO(model)  # E[log p(x|z)] minus the KL term in closed form, as the notebook's loss
    plot = Plot(model, options.out, every=max(1, options.epochs // 10))
    lb.fit(objective, train, epochs=options.epochs, batch_size=64, lr=1e-3, progress=False, callbacks=[plot])

    scores = lb.evaluate(model, test, ["elbo", "iwae-100"], limit=200 if options.quick else None)
    for name, measure in scores.measures.items():
        print(f"test {name}: {measure['value']:.2f} +- {measure['stderr']:.2f} nats, a lower bound of log p(x)")
    print(f"{scores.latents['active_units']} of 100 latent units active")
    print(f"pictures: {options.out}")


if __name__ == "__main__":
    main()
