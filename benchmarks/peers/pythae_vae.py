"""pythae's models under the loop of its trainer: a DataLoader, `loss.backward()`, Adam, the loss read at every step."""

from __future__ import annotations

import torch
from plain import networks
from protocol import BATCH, main
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn
from torch.utils.data import DataLoader


class Encoder(BaseEncoder):
    def __init__(self, job):
        BaseEncoder.__init__(self)
        body, width, latent_dim, _ = networks(job)
        self.body = nn.Sequential(nn.Flatten(), body)
        self.loc, self.log_variance = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)

    def forward(self, x):
        h = self.body(x)
        return ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))


class Decoder(BaseDecoder):
    def __init__(self, job):
        BaseDecoder.__init__(self)
        self.net = nn.Sequential(networks(job)[3], nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(reconstruction=self.net(z).reshape(-1, 1, 28, 28))


def train(job, rows, steps):
    size, latent_dim = BATCH[job], networks(job)[2]
    options = {"input_dim": (1, 28, 28), "latent_dim": latent_dim, "reconstruction_loss": "bce"}
    model = (
        IWAE(IWAEConfig(number_samples=50, **options), Encoder(job), Decoder(job))
        if job == "iwae"
        else VAE(VAEConfig(**options), Encoder(job), Decoder(job))
    )
    grey = torch.from_numpy(rows).float().reshape(-1, 1, 28, 28) / 255
    loader = DataLoader(BaseDataset(grey, torch.zeros(len(grey))), batch_size=size, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    done = 0
    while done < steps:
        for inputs in loader:
            inputs["data"] = torch.bernoulli(inputs["data"])
            output = model(inputs, epoch=1, dataset_size=len(grey))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            yield output.loss.item()
            done += 1


if __name__ == "__main__":
    main(train)
