"""Heads of posteriors: from features to a Gaussian, a mixture of Gaussians, or independent binary variables."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from lowerbound.core.checks import choice, positive_int
from lowerbound.distributions import GaussianMixture, LowRankGaussian
from lowerbound.nn.initialize import initialize

__all__ = ["BernoulliHead", "GaussianHead", "LowRankHead", "MixtureHead", "Widen", "widen"]

# A posterior's variance stays between exp(-18) and exp(18): wide enough never to bind in a healthy model, and narrow
# enough that it stays finite when an early step overshoots.
_LOG_VARIANCE_BOUND = 18.0


class GaussianHead(nn.Module):
    r"""A linear layer whose output is a Gaussian over ``[features]``.

    .. math:: q(z|h) = \mathcal{N}(z; \mu(h), L(h) L(h)^\top)

    with diagonal L, or lower triangular L for ``covariance="full"``; the layer puts out the logarithm of the squared
    diagonal of L, which is the log-variance if L is diagonal. Parameters are float32 whatever the features' type.

    Args:
        in_features: The size of the features.
        features: The size of the Gaussian.
        covariance: ``"diagonal"`` or ``"full"``.
        init: How the weights start, as in `initialize`.

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.

    Example:
        >>> head = GaussianHead(8, 2, covariance="full")
        >>> head(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    rows_columns: Tensor

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        covariance: Literal["diagonal", "full"] = "diagonal",
        init: str = "glorot",
    ) -> None:
        super().__init__()
        self.features = positive_int("features", features)
        self.covariance = choice("covariance", covariance, ("diagonal", "full"))
        self.loc = initialize(nn.Linear(in_features, features), init)
        self.log_variance = initialize(nn.Linear(in_features, features), init)
        self.below = None
        if self.covariance == "full" and features > 1:
            self.below = initialize(nn.Linear(in_features, features * (features - 1) // 2), init)
            self.register_buffer("rows_columns", torch.tril_indices(features, features, -1), persistent=False)

    def forward(self, h: Tensor) -> Distribution:
        """Return the Gaussian for features ``[*, in_features]``: batch shape ``[*]``, event shape ``[features]``."""
        loc, log_variance = widen(self.loc(h)), widen(self.log_variance(h))
        scale = (0.5 * log_variance.clamp(-_LOG_VARIANCE_BOUND, _LOG_VARIANCE_BOUND)).exp()
        if self.below is None:
            return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        rows, columns = self.rows_columns.unbind()
        tril = torch.diag_embed(scale)
        tril[..., rows, columns] = widen(self.below(h))
        return MultivariateNormal(loc, scale_tril=tril, validate_args=False)


class LowRankHead(nn.Module):
    r"""A linear layer whose output is a Gaussian with the covariance :math:`W(h) W(h)^\top + \mathrm{diag}(d(h))`.

    Args:
        in_features: The size of the features.
        features: The size of the Gaussian.
        rank: The number of columns of W.
        init: How the weights start, as in `initialize`.

    Source: Ong, Nott and Smith, Gaussian Variational Approximation With a Factor Covariance Structure (2018).

    Example:
        >>> LowRankHead(8, 4, rank=2)(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 4])
    """

    def __init__(self, in_features: int, features: int, *, rank: int = 4, init: str = "glorot") -> None:
        super().__init__()
        self.rank = positive_int("rank", rank)
        self.diagonal = GaussianHead(in_features, features, init=init)
        self.factor = initialize(nn.Linear(in_features, features * rank), init)

    def forward(self, h: Tensor) -> LowRankGaussian:
        """Return the Gaussian for features ``[*, in_features]``: batch shape ``[*]``, event shape ``[features]``."""
        q = self.diagonal(h)
        factor = widen(self.factor(h)).unflatten(-1, (-1, self.rank)) / self.rank**0.5
        return LowRankGaussian(q.mean, factor, q.variance)


class MixtureHead(nn.Module):
    """A linear layer whose output is a mixture of diagonal Gaussians.

    Args:
        in_features: The size of the features.
        features: The size of a draw.
        components: The number of Gaussians.
        init: How the weights start, as in `initialize`.

    Example:
        >>> MixtureHead(8, 2, components=3)(torch.zeros(5, 8)).rsample((7,)).shape
        torch.Size([7, 5, 2])
    """

    def __init__(self, in_features: int, features: int, *, components: int = 4, init: str = "glorot") -> None:
        super().__init__()
        self.components = positive_int("components", components)
        self.gaussians = GaussianHead(in_features, components * positive_int("features", features), init=init)
        self.logits = initialize(nn.Linear(in_features, components), init)

    def forward(self, h: Tensor) -> GaussianMixture:
        """Return the mixture for features ``[*, in_features]``: batch shape ``[*]``, event shape ``[features]``."""
        q = self.gaussians(h)
        loc, scale = (x.unflatten(-1, (self.components, -1)) for x in (q.mean, q.stddev))
        return GaussianMixture(widen(self.logits(h)), loc, scale)


class BernoulliHead(nn.Module):
    r"""A linear layer whose output is a vector of independent Bernoulli variables, :math:`\prod_d \sigma(o_d(h))`.

    Its weights start at a tenth of the scheme's: near fair coins a prior and a posterior that both are such layers
    start close to each other, and score-function gradients of several layers are less noisy.

    Args:
        in_features: The size of the features.
        features: The number of variables.
        init: How the weights start, as in `initialize`.

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.

    Example:
        >>> BernoulliHead(8, 3)(torch.zeros(5, 8)).mean[0]
        tensor([0.5000, 0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(self, in_features: int, features: int, *, init: str = "glorot") -> None:
        super().__init__()
        self.logits = initialize(nn.Linear(in_features, positive_int("features", features)), init)
        with torch.no_grad():
            self.logits.weight.mul_(0.1)

    def forward(self, h: Tensor) -> Distribution:
        """Return the distribution for ``[*, in_features]``: batch shape ``[*]``, event shape ``[features]``."""
        return Independent(Bernoulli(logits=widen(self.logits(h)), validate_args=False), 1, validate_args=False)


def widen(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, any other as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Widen(nn.Module):
    """`widen` as the last layer of a network."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor in float32 or better."""
        return widen(x)
