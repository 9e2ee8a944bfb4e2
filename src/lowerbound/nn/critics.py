r"""Critics of adversarial variational Bayes: from latents and rows to one logit, the estimate of a log-ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.checks import positive_int
from lowerbound.nn.heads import widen
from lowerbound.nn.joint import JointMLP
from lowerbound.nn.mlp import MLP

__all__ = ["BilinearCritic", "Critic", "MLPCritic"]


class Critic(nn.Module):
    """A network T(z, x) that sees rows centred and in units of a spread; 2x - 1 unless `standardize` says otherwise.

    Args:
        event_shape: The shape of one row x.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        shape = check_event_shape(event_shape)
        self.register_buffer("center", torch.full(shape, 0.5))
        self.register_buffer("spread", torch.full(shape, 0.5))

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let the critic see ``(x - center) / spread``, each of shape ``event_shape`` or ``[]``."""
        self.center.copy_(center.expand(self.center.shape))
        self.spread.copy_(spread.expand(self.spread.shape))

    def rows(self, x: Tensor) -> Tensor:
        """Return standardised rows, ``[B, *event_shape]``, as vectors ``[B, D]``."""
        return ((x - self.center) / self.spread).flatten(x.dim() - self.center.dim())

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return a logit for each draw, shape ``[K, B]``, for z ``[K, B, latent_dim]`` and x ``[B, *event_shape]``."""
        raise NotImplementedError


class MLPCritic(Critic):
    """An MLP of the concatenation of row and latent; its last layer starts at zero, and T with it.

    Args:
        event_shape: The shape of one row x.
        latent_dim: The size of z.
        hidden: The sizes of the hidden layers.
        activate: The name of the activation.
        init: How the weights start, as in `lowerbound.nn.initialize`.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> MLPCritic((4,), 2)(torch.zeros(3, 5, 2), torch.zeros(5, 4)).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activate: str = "relu",
        init: str = "glorot",
    ) -> None:
        super().__init__(event_shape)
        sizes = [self.center.numel(), positive_int("latent_dim", latent_dim)]
        self.net = JointMLP(sizes, hidden, 1, activate=activate, init=init)
        last: Any = self.net.rest[-1] if hidden else self.net.first
        nn.init.zeros_(last.weight)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return a logit for each draw, shape ``[K, B]``, for z ``[K, B, latent_dim]`` and x ``[B, *event_shape]``."""
        return widen(self.net(self.rows(x), z)).squeeze(-1)


class BilinearCritic(Critic):
    r"""Two towers and their product, :math:`T = \theta(x) \cdot s(z) + t_x(x) + t_z(z)`.

    The row's tower runs once for any number of draws. The products and both offsets start at zero, and T with them.

    Args:
        event_shape: The shape of one row x.
        latent_dim: The size of z.
        hidden: The sizes of the hidden layers of each tower.
        features: The size of the vectors whose product is taken.
        activate: The name of the activation.
        init: How the weights start, as in `lowerbound.nn.initialize`.

    Source: the critic of the published code of Mescheder, Nowozin and Geiger (2017).

    Example:
        >>> BilinearCritic((4,), 2, features=8)(torch.zeros(3, 5, 2), torch.zeros(5, 4)).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (256, 256),
        features: int = 256,
        activate: str = "leaky-relu",
        init: str = "glorot",
    ) -> None:
        super().__init__(event_shape)
        positive_int("features", features)
        options = {"activate": activate, "init": init}
        self.row_tower = MLP(self.center.numel(), hidden, features + 1, **options)
        self.latent_tower = MLP(positive_int("latent_dim", latent_dim), hidden, features + 1, **options)
        nn.init.zeros_(self.row_tower[-1].weight)  # type: ignore[arg-type]
        with torch.no_grad():
            self.latent_tower[-1].weight[-1].zero_()  # type: ignore[index]

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return a logit for each draw, shape ``[K, B]``, for z ``[K, B, latent_dim]`` and x ``[B, *event_shape]``."""
        theta, row_offset = widen(self.row_tower(self.rows(x))).tensor_split([-1], -1)
        s, latent_offset = widen(self.latent_tower(z)).tensor_split([-1], -1)
        return (theta * s).sum(-1) + row_offset.squeeze(-1) + latent_offset.squeeze(-1)
