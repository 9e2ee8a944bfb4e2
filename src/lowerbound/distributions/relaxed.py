r"""Discrete distributions that are drawn from a relaxation: concrete, or Gumbel-softmax, draws.

.. math:: \tilde z = \sigma\!\left(\frac{\ell + L}{\lambda}\right), \quad L \sim \mathrm{Logistic}(0, 1)
          \qquad\text{or}\qquad
          \tilde z = \mathrm{softmax}\!\left(\frac{\ell + G}{\lambda}\right), \quad G_c \sim \mathrm{Gumbel}(0, 1)

Rounded to 0 and 1, such a draw has exactly the distribution with logits :math:`\ell`. Unrounded, it has a path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical, constraints

__all__ = ["SoftBernoulli", "SoftOneHotCategorical", "soften"]


def soften(distribution: Distribution, temperature: float, *, straight_through: bool = False) -> Distribution | None:
    r"""Return a discrete distribution with relaxed draws, or None where no relaxation is known.

    Its log-probability is the discrete one, linearly extended: :math:`\sum_c z_c \log p_c` for a relaxed one-hot z.

    Args:
        distribution: A `Bernoulli`, a `OneHotCategorical`, or an `Independent` over one.
        temperature: :math:`\lambda`, positive.
        straight_through: Whether draws have the rounded value, and only the gradient of the relaxed one.

    Source: Maddison, Mnih and Teh, The Concrete Distribution (2017); Jang, Gu and Poole, Categorical Reparameterization
    with Gumbel-Softmax (2017); Bengio, Léonard and Courville, Estimating or Propagating Gradients (2013), for the
    straight-through form.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> soft = soften(Bernoulli(logits=torch.zeros(3)), 0.5)
        >>> soft.rsample().shape, soft.log_prob(torch.tensor([0.0, 0.5, 1.0]))
        (torch.Size([3]), tensor([-0.6931, -0.6931, -0.6931]))
    """
    if isinstance(distribution, Independent):
        base = soften(distribution.base_dist, temperature, straight_through=straight_through)
        dims = distribution.reinterpreted_batch_ndims
        return None if base is None else Independent(base, dims, validate_args=False)
    if isinstance(distribution, Bernoulli):
        return SoftBernoulli(distribution.logits, temperature, straight_through=straight_through)
    if isinstance(distribution, OneHotCategorical):
        return SoftOneHotCategorical(distribution.logits, temperature, straight_through=straight_through)
    return None


class SoftBernoulli(Bernoulli):
    """A Bernoulli distribution whose `rsample` lies between 0 and 1; its log-probability is linear in the value.

    Args:
        logits: Shape ``[*batch]``.
        temperature: Of the draws; towards 0 they are 0 or 1.
        straight_through: Whether draws have the rounded value, and only the gradient of the relaxed one.
    """

    has_rsample = True
    support: Any = constraints.unit_interval

    def __init__(self, logits: Tensor, temperature: float, *, straight_through: bool = False) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.temperature, self.straight_through = temperature, straight_through

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        """Return relaxed draws, shape ``sample_shape + batch``."""
        noise = _uniform(self._extended_shape(sample_shape), self.logits)
        soft = torch.sigmoid((self.logits + noise.log() - (-noise).log1p()) / self.temperature)
        return _through((soft > 0.5).to(soft.dtype), soft) if self.straight_through else soft


class SoftOneHotCategorical(OneHotCategorical):
    """A one-hot categorical distribution whose `rsample` lies inside the simplex; its log-probability is linear.

    Args:
        logits: Shape ``[*batch, C]``.
        temperature: Of the draws; towards 0 they are one-hot.
        straight_through: Whether draws have the rounded value, and only the gradient of the relaxed one.
    """

    has_rsample = True
    support: Any = constraints.simplex

    def __init__(self, logits: Tensor, temperature: float, *, straight_through: bool = False) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.temperature, self.straight_through = temperature, straight_through

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        """Return relaxed draws, shape ``sample_shape + [*batch, C]``."""
        noise = _uniform(self._extended_shape(sample_shape), self.logits)
        soft = ((self.logits - (-noise.log()).log()) / self.temperature).softmax(-1)
        if not self.straight_through:
            return soft
        return _through(torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0), soft)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the mean of the log-probabilities under the weights `value`, shape ``[*batch]``, in nats."""
        return (value * self.logits).sum(-1)


def _uniform(shape: torch.Size, like: Tensor) -> Tensor:
    """Return noise inside the open interval from 0 to 1."""
    noise = torch.rand(shape, dtype=like.dtype, device=like.device)
    return noise.clamp_min(torch.finfo(like.dtype).tiny)


def _through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the value of `hard` with the gradient of `soft`."""
    return hard + (soft - soft.detach())
