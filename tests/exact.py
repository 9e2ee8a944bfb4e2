"""Cases whose evidence, posterior or gradient is known without the library; every number is float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import lowerbound as lb


def random(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers that depend on the seed and the shape only."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- x = W z + mu + noise ---------------------------------------------------------------------------------------------


class LinearGenerator(lb.BayesianNet):
    """z ~ N(0, I), x ~ N(W z + mu, diag(noise^2))."""

    def __init__(self, weight: Tensor, mean: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.weight, self.mean, self.noise = nn.Parameter(weight), nn.Parameter(mean), nn.Parameter(noise)

    def forward(self, bn, n):
        prior = Normal(self.weight.new_zeros(n, self.weight.shape[1]), 1.0)
        z = bn.sample("z", prior, event_dims=1)
        x_mean = bn.deterministic("x_mean", z @ self.weight.T + self.mean)
        bn.sample("x", Normal(x_mean, self.noise), event_dims=1)


class LinearPosterior(lb.BayesianNet):
    """z ~ N(gain x + offset, L L'), with full lower triangular L."""

    def __init__(self, gain: Tensor, offset: Tensor, tril: Tensor) -> None:
        super().__init__()
        self.gain, self.offset, self.tril = nn.Parameter(gain), nn.Parameter(offset), nn.Parameter(tril)

    def forward(self, bn, x):
        bn.sample("z", MultivariateNormal(x @ self.gain.T + self.offset, scale_tril=self.tril.tril()))


@dataclass
class LinearGaussian:
    """The model x = W z + mu + noise, its evidence and its exact posterior."""

    weight: Tensor
    mean: Tensor
    noise: Tensor  # standard deviations, shape [D]

    def generator(self) -> LinearGenerator:
        return LinearGenerator(self.weight.clone(), self.mean.clone(), self.noise.clone())

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + torch.diag(self.noise**2)
        return MultivariateNormal(self.mean, covariance).log_prob(x)

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return gain, offset and L of the posterior: its precision is I + W' diag(noise^-2) W."""
        scaled = self.weight / self.noise[:, None] ** 2
        precision = torch.eye(self.weight.shape[1], dtype=torch.float64) + self.weight.T @ scaled
        gain = torch.linalg.solve(precision, scaled.T)
        return gain, -gain @ self.mean, torch.linalg.cholesky(torch.linalg.inv(precision))

    def posterior(self) -> LinearPosterior:
        return LinearPosterior(*self.exact())

    def perturbed(self) -> LinearPosterior:
        """Return a posterior that is not the exact one."""
        gain, offset, tril = self.exact()
        return LinearPosterior(0.9 * gain, offset + 0.1, 1.2 * tril)


def linear_gaussian(x_dim: int, z_dim: int, seed: int = 0) -> LinearGaussian:
    """Return a random case with noise of another size in every dimension."""
    noise = torch.linspace(0.4, 1.1, x_dim, dtype=torch.float64)
    return LinearGaussian(random(seed, x_dim, z_dim), random(seed + 1, x_dim), noise)


# --- Expectations over Gaussian noise, by quadrature ------------------------------------------------------------------


def gauss_hermite(points: int, dims: int) -> tuple[Tensor, Tensor]:
    """Return nodes ``[points**dims, dims]`` and weights ``[points**dims]`` for the mean over standard normals."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    grid = torch.cartesian_prod(*[nodes] * dims).reshape(-1, dims)
    products = torch.cartesian_prod(*[weights] * dims).reshape(-1, dims).prod(-1)
    return grid, products


class OnNodes(Normal):
    """A normal distribution whose draws are loc + scale * node instead of random."""

    def __init__(self, loc: Tensor, scale: Tensor, nodes: Tensor) -> None:
        super().__init__(loc, scale)
        self.nodes = nodes

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        nodes = self.nodes.reshape(self._extended_shape(sample_shape))
        return self.loc + self.scale * nodes


class Scalars(lb.BayesianNet):
    """A program whose parameters are named scalars; `t` maps them back by name."""

    def __init__(self, **values: float) -> None:
        super().__init__()
        self.t = nn.ParameterDict({k: nn.Parameter(torch.tensor(v, dtype=torch.float64)) for k, v in values.items()})


def gradients(cost: Tensor, *programs: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of a cost by parameter name; a parameter that the cost does not reach has zero."""
    named = {name: p for program in programs for name, p in program.named_parameters()}
    grads = torch.autograd.grad(cost, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(named.items(), grads, strict=True)
    }


def farthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the largest absolute difference between two sets of gradients."""
    if found.keys() != wanted.keys():
        raise KeyError(f"{sorted(found)} are not {sorted(wanted)}")
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
