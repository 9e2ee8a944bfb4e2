"""A linear Gaussian model of rows with gaps, NaN, whose evidence and posterior are known."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import lowerbound as lb
from exact import LinearGenerator, linear_gaussian

D, L = 5, 3
CASE = linear_gaussian(D, L)


def pair(q: lb.BayesianNet | None = None) -> Pair:
    return Pair(Masked(CASE.weight.clone(), CASE.mean.clone(), CASE.noise.clone()), Exact() if q is None else q)


class Masked(LinearGenerator):
    def forward(self, bn, n, mask):
        z = bn.sample("z", Normal(self.weight.new_zeros(n, L), 1.0), event_dims=1)
        x_mean = bn.deterministic("x_mean", z @ self.weight.T + self.mean)
        bn.sample("x", Normal(x_mean, self.noise), event_dims=1, mask=mask)


class Exact(lb.BayesianNet):
    """The posterior given the values which are there, each row with a precision of its own."""

    def __init__(self, shift: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        self.shift, self.spread = shift, spread

    def forward(self, bn, x):
        loc, covariance = posterior(x)
        bn.sample("z", MultivariateNormal(loc + self.shift, scale_tril=self.spread * torch.linalg.cholesky(covariance)))


class Pair(lb.models.LatentVariableModel):
    def programs(self, x):
        return lb.Programs(self.generator.bind(len(x), ~x.isnan()), {"x": x}, self.posterior.bind(x))


def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of z given the values which are there, ``[B, L]`` and ``[B, L, L]``."""
    weights = (~x.isnan()).double() / CASE.noise**2
    precision = torch.eye(L, dtype=torch.float64) + torch.einsum("bd,di,dj->bij", weights, CASE.weight, CASE.weight)
    covariance = torch.linalg.inv(precision)
    residual = torch.where(x.isnan(), 0.0, x - CASE.mean)
    return torch.einsum("bij,dj,bd,bd->bi", covariance, CASE.weight, weights, residual), covariance


def evidence(x: Tensor) -> Tensor:
    """Return log p of the values which are there, by the marginal Gaussian of each row: an oracle without latents."""
    covariance = (CASE.weight @ CASE.weight.T + torch.diag(CASE.noise**2)).numpy()
    values = []
    for row in x.numpy():
        (at,) = (~(row != row)).nonzero()
        marginal = stats.multivariate_normal(CASE.mean.numpy()[at], covariance[at][:, at]) if len(at) else None
        values.append(marginal.logpdf(row[at]) if marginal else 0.0)
    return torch.tensor(values)
