"""Pyro as its VAE tutorial writes it: SVI, a DataLoader over float images, the loss read at every step."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from protocol import BATCH, main
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU())
        self.loc, self.log_scale = nn.Linear(500, 40), nn.Linear(500, 40)
        self.decoder = nn.Sequential(nn.Linear(40, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 784))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(40), x.new_ones(40)).expand([x.shape[0], 40]).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", nn.ModuleList([self.body, self.loc, self.log_scale]))
        with pyro.plate("data", x.shape[0]):
            h = self.body(x)
            pyro.sample("latent", dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1))


def train(job, rows, steps):
    vae, size = VAE(), BATCH[job]
    grey = torch.from_numpy(rows).flatten(1).float() / 255
    loader = DataLoader(TensorDataset(grey), batch_size=size, shuffle=True)
    particles = {"alpha": 0.0, "num_particles": 50, "vectorize_particles": True, "max_plate_nesting": 1}
    loss = RenyiELBO(**particles) if job == "iwae" else Trace_ELBO()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)
    done = 0
    while done < steps:
        for (x,) in loader:
            yield svi.step(torch.bernoulli(x)) / len(x)
            done += 1


if __name__ == "__main__":
    main(train)
