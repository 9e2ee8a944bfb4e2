r"""Heads of implicit posteriors: from features to a sampler :math:`z = f(h, \epsilon)` that has no density."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lowerbound.core.checks import positive_int
from lowerbound.core.random import even_normal
from lowerbound.distributions import Implicit
from lowerbound.nn.heads import widen
from lowerbound.nn.initialize import initialize
from lowerbound.nn.joint import JointMLP
from lowerbound.nn.mlp import make_activation

__all__ = ["BasisSampler", "NoiseSampler"]

_ROWS_AT_ONCE = 512  # of a network that keeps no gradient: its layers' outputs stay in a processor's cache


class NoiseSampler(nn.Module):
    r"""An MLP of features and noise: :math:`z = f([h, \epsilon])`, :math:`\epsilon \sim \mathcal{N}(0, I)`.

    Args:
        in_features: The size of the features.
        features: The size of z.
        hidden: The sizes of the hidden layers.
        noise_dim: The size of the noise.
        activate: The name of the activation.
        init: How the weights start, as in `initialize`.
        draws: The number of draws behind the mean and the variance. Their noise is quasi-random, drawn once and kept,
            so that the moments are a function of the row: a critic that sees z in their units sees it always alike.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> NoiseSampler(4, 2)(torch.zeros(5, 4)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    moment_noise: Tensor

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        noise_dim: int = 4,
        activate: str = "relu",
        init: str = "glorot",
        draws: int = 64,
    ) -> None:
        super().__init__()
        self.features, self.noise_dim = positive_int("features", features), positive_int("noise_dim", noise_dim)
        self.register_buffer("moment_noise", _even_noise(positive_int("draws", draws), noise_dim))
        self.net = JointMLP([in_features, noise_dim], hidden, features, activate=activate, init=init)

    def forward(self, h: Tensor) -> Implicit:
        """Return the sampler for features ``[B, in_features]``: batch shape ``[B]``, event shape ``[features]``."""

        def draw(lead: tuple[int, ...]) -> Tensor:
            shape = (*lead, *h.shape[:-1], self.noise_dim)
            noise = torch.randn(shape, dtype=self.net.first.weight.dtype, device=h.device)
            return widen(self.net(h, noise))

        @torch.no_grad()
        def moments() -> tuple[Tensor, Tensor]:
            noise = self.moment_noise.reshape(-1, *[1] * (h.dim() - 1), self.noise_dim)
            at_once = len(noise) if torch.compiler.is_compiling() else _ROWS_AT_ONCE // h.shape[:-1].numel()
            parts = noise.split(max(1, at_once))
            variance, mean = torch.var_mean(torch.cat([widen(self.net(h, part)) for part in parts]), 0)
            return mean, variance

        return Implicit(draw, tuple(h.shape[:-1]), (self.features,), moments=moments)


class BasisSampler(nn.Module):
    r"""Random basis vectors mixed by the features, whose mean and variance are known for every row.

    .. math:: z = z_0(h) + \sum_{i=1}^{n} a_i(h) \odot v_i(\epsilon_i), \qquad
        \mathbb{E} z = z_0 + \sum_i a_i \mathbb{E} v_i, \quad \mathrm{Var}\, z = \sum_i a_i^2 \mathrm{Var}\, v_i

    The :math:`v_i` are n small networks of independent noise. Their moments are those of `draws` draws of quasi-random
    noise, drawn once and kept, the same for all rows, so that the moments are a function of the row. The weights
    :math:`a_i` are positive and start small, and :math:`z_0` near 0: posteriors are narrow at first.

    Args:
        in_features: The size of the features.
        features: The size of z.
        basis: The number n of basis vectors.
        noise_dim: The size of each noise.
        width: The size of the two hidden layers of each :math:`v_i`.
        activate: The name of the activation.
        init: How the weights start, as in `initialize`.
        draws: The number of draws behind the moments.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017), section 4 and their code.

    Example:
        >>> q = BasisSampler(4, 2, basis=3)(torch.zeros(5, 4))
        >>> q.rsample((3,)).shape, q.variance.shape
        (torch.Size([3, 5, 2]), torch.Size([5, 2]))
    """

    moment_noise: Tensor

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        basis: int = 16,
        noise_dim: int = 32,
        width: int = 128,
        activate: str = "elu",
        init: str = "glorot",
        draws: int = 256,
    ) -> None:
        super().__init__()
        self.features, self.basis = positive_int("features", features), positive_int("basis", basis)
        self.noise_dim = positive_int("noise_dim", noise_dim)
        self.register_buffer(
            "moment_noise", _even_noise(positive_int("draws", draws), basis * noise_dim, (basis, noise_dim))
        )
        self.center = initialize(nn.Linear(in_features, features), init)
        self.weights = initialize(nn.Linear(in_features, basis * features), init)
        nn.init.normal_(self.center.weight, std=1e-3)
        nn.init.constant_(self.weights.bias, _SMALL)
        sizes = [noise_dim, positive_int("width", width), width, features]
        self.layers = nn.ModuleList(_BasisLinear(basis, fan_in, fan_out, init) for fan_in, fan_out in pairwise(sizes))
        self.activation = make_activation(activate)

    def forward(self, h: Tensor) -> Implicit:
        """Return the sampler for features ``[B, in_features]``: batch shape ``[B]``, event shape ``[features]``."""
        batch = tuple(h.shape[:-1])
        center = widen(self.center(h))
        weights = widen(self.weights(h)).unflatten(-1, (self.basis, self.features))
        weights = nn.functional.elu(weights) + 1

        def draw(lead: tuple[int, ...]) -> Tensor:
            size = torch.Size((*lead, *batch)).numel()
            noise = torch.randn(self.basis, size, self.noise_dim, dtype=self.center.weight.dtype, device=h.device)
            vectors = self._vectors(noise).reshape(*lead, *batch, self.basis, self.features)
            return center + (weights * vectors).sum(-2)

        @torch.no_grad()
        def moments() -> tuple[Tensor, Tensor]:
            variance, mean = torch.var_mean(self._vectors(self.moment_noise), 0)
            return center + (weights * mean).sum(-2), (weights.square() * variance).sum(-2)

        return Implicit(draw, batch, (self.features,), moments=moments)

    def _vectors(self, noise: Tensor) -> Tensor:
        """Return draws of all basis vectors, ``[N, basis, features]``, for noise ``[basis, N, noise_dim]``."""
        h = noise
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return widen(self.layers[-1](h)).transpose(0, 1)


def _even_noise(n: int, dims: int, shape: tuple[int, int] | None = None) -> Tensor:
    """Return evenly spread noise, ``[n, dims]`` or ``[basis, n, noise_dim]``, from the global generator's seed."""
    noise = even_normal(n, dims, seed=int(torch.randint(2**31 - 1, ())))
    return noise if shape is None else noise.reshape(n, *shape).transpose(0, 1).contiguous()


# elu(-5) + 1 = 0.007: where the weights of the basis start.
_SMALL = -5.0


class _BasisLinear(nn.Module):
    """One linear layer for each basis vector: ``[basis, N, in]`` to ``[basis, N, out]``."""

    def __init__(self, basis: int, fan_in: int, fan_out: int, init: str) -> None:
        super().__init__()
        layers = [initialize(nn.Linear(fan_in, fan_out), init) for _ in range(basis)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(torch.zeros(basis, 1, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)
