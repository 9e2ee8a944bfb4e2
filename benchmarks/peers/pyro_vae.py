"""Pyro as its VAE tutorial writes it: SVI, a DataLoader over float images, the loss read at every step."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from plain import networks
from protocol import BATCH, main
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class VAE(nn.Module):
    def __init__(self, job):
        super().__init__()
        self.body, width, self.size, self.decoder = networks(job)
        self.loc, self.log_scale = nn.Linear(width, self.size), nn.Linear(width, self.size)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample(
                "latent", dist.Normal(x.new_zeros(self.size), 1.0).expand([x.shape[0], self.size]).to_event(1)
            )
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", nn.ModuleList([self.body, self.loc, self.log_scale]))
        with pyro.plate("data", x.shape[0]):
            h = self.body(x)
            pyro.sample("latent", dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1))


def train(job, rows, steps):
    vae, size = VAE(job), BATCH[job]
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
