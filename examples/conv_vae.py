"""The convolutional VAE of "Latent variable models, part 2": two latent dimensions, so that they can be looked at.

MNIST by threshold (x > 127.5), RMSprop 1e-3, batches of 100, 20 epochs. Prints the test bound after every epoch, and
saves the latent scatter and the 20 x 20 manifold of the article.

Run: python examples/conv_vae.py [--quick]
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import lowerbound as lb
from lowerbound.report import figures, style
from lowerbound.training import Callback


class Print(Callback):
    """Prints the test bound after every epoch, as the article does."""

    def epoch(self, record: dict[str, Any]) -> None:
        print(f"Epoch: {record['epoch']:02d}, Test set VLB: {record['validation']['elbo']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist or digits")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/conv-vae"))
    parser.add_argument("--quick", action="store_true", help="three epochs on digits")
    options = parser.parse_args()
    if options.quick:
        options.data, options.epochs = "digits", 3

    train, test = lb.data.load(options.data, binarize="threshold")
    torch.manual_seed(0)
    model = lb.models.ConvVAE(event_shape=train.event_shape, latent_dim=2)
    run = lb.fit(
        lb.objectives.ELBO(model),
        train,
        validation=test,  # only to be watched, as in the article: the last weights count, not those that do best here
        keep="last",
        epochs=options.epochs,
        batch_size=100,
        optimizer="rmsprop",
        lr=1e-3,
        optimizer_options={"alpha": 0.9, "eps": 1e-7},
        precision=options.precision,
        progress=False,
        callbacks=[Print()],
    )
    scores = lb.evaluate(run.model, test, ["elbo", "iwae-100"])
    for name, measure in scores.measures.items():
        print(f"test {name}: {measure['value']:.2f} +- {measure['stderr']:.2f} nats")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("latent_scatter", "manifold"):
        (options.out / f"{name}.png").write_bytes(style.png(getattr(figures, name)(scores.gallery)))
    print(f"pictures: {options.out}")


if __name__ == "__main__":
    main()
