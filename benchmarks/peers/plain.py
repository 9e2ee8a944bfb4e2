"""The networks of the jobs for the peers that are built on torch."""

from __future__ import annotations

from torch import nn


def networks(job: str) -> tuple[nn.Module, int, int, nn.Module]:
    """Return the body of the encoder on ``[B, 784]``, its width, the latent size, and the decoder to logits."""
    if job != "conv":
        body = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(40, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 784))
        return body, 500, 40, decoder
    body = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 14 * 14, 32), nn.ReLU()),
    )
    decoder = nn.Sequential(
        *(nn.Linear(2, 64 * 14 * 14), nn.ReLU(), nn.Unflatten(-1, (64, 14, 14))),
        *(nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 1, 3, padding=1), nn.Flatten(1)),
    )
    return body, 32, 2, decoder
