"""Counts: Poisson, negative binomial by its mean, and either of them with more zeros."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions import Poisson as TorchPoisson
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflated"]

Size = torch.Size | list[int] | tuple[int, ...]

_LARGE = 100.0  # from here on, Stirling's series has the precision of float64


class Poisson(TorchPoisson):
    r"""Counts with a mean that is their variance: torch's distribution, whose log-probability is computed in float64.

    .. math:: P(x) = m^x e^{-m} / x!

    Its three logarithms cancel: at a count of 100,000, float32 loses a tenth of a nat.

    Args:
        rate: The mean m, positive, shape ``[*batch]``.

    Example:
        >>> Poisson(torch.tensor(1e5)).log_prob(torch.tensor(1e5))
        tensor(-6.6754)
    """

    def expand(self, batch_shape: Size, _instance: Any = None) -> Poisson:
        """Return the same distribution with a larger batch shape."""
        return Poisson(self.rate.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, in nats, shape ``[*batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        x, rate = value.double(), self.rate.double()
        return (torch.xlogy(x, rate) - rate - torch.lgamma(x + 1)).to(self.rate.dtype)


class NegativeBinomial(Distribution):
    r"""Counts with a mean and a variance above it: a Poisson variable whose rate is Gamma distributed.

    .. math:: P(x) = \frac{\Gamma(r + x)}{\Gamma(r)\, x!} \left(\frac{r}{r + m}\right)^r \left(\frac{m}{r + m}\right)^x,
              \qquad \mathrm{Var}(x) = m + m^2 / r

    It becomes the Poisson distribution as r grows. Logarithms of Gamma functions cancel, so the log-probability is
    computed in float64 and returned in the type of the parameters.

    Args:
        mean: The mean m, positive, shape ``[*batch]``.
        concentration: The number r, positive, broadcastable with `mean`; single-cell biology calls it the inverse
            dispersion.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics (2018).

    Example:
        >>> x = NegativeBinomial(torch.tensor(3.0), 1.0)  # of concentration 1: geometric
        >>> x.log_prob(torch.tensor([0.0, 1.0])).exp(), x.variance
        (tensor([0.2500, 0.1875]), tensor(12.))
    """

    arg_constraints: ClassVar = {"mean": constraints.positive, "concentration": constraints.positive}
    support = constraints.nonnegative_integer
    has_rsample = False

    def __init__(self, mean: Tensor, concentration: Tensor | float, validate_args: bool | None = None) -> None:
        self._mean, self.concentration = broadcast_all(mean, concentration)
        super().__init__(self._mean.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The mean, and its square over the concentration."""
        return self._mean + self._mean.square() / self.concentration

    def expand(self, batch_shape: Size, _instance: Any = None) -> NegativeBinomial:
        """Return the same distribution with a larger batch shape."""
        mean, concentration = self._mean.expand(batch_shape), self.concentration.expand(batch_shape)
        return NegativeBinomial(mean, concentration, validate_args=False)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """Draw counts, shape ``sample_shape + batch``."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            mean, r = self._mean.double().expand(shape), self.concentration.double().expand(shape)
            return torch.poisson(Gamma(r, r / mean, validate_args=False).sample()).to(self._mean.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, in nats, shape ``[*batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        x, mean, r = value.double(), self._mean.double(), self.concentration.double()
        powers = -r * torch.log1p(mean / r) - x * torch.log1p(r / mean)
        return (_log_rising(r, x) - torch.lgamma(x + 1) + powers).to(self._mean.dtype)


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    r"""Return :math:`\log \Gamma(r + x) - \log \Gamma(r)`, by Stirling's series where r is large."""
    few = r.clamp(max=_LARGE)
    many = r.clamp(min=_LARGE)
    top = many + x
    series = (many - 0.5) * torch.log1p(x / many) + x * torch.log(top) - x
    series = series + (1 / top - 1 / many) / 12 - (top**-3 - many**-3) / 360
    return torch.where(r < _LARGE, torch.lgamma(few + x) - torch.lgamma(few), series)


class ZeroInflated(Distribution):
    r"""Counts that are zero with a probability of their own, and else follow another distribution.

    .. math:: P(0) = g + (1 - g) P_0(0), \qquad P(x) = (1 - g) P_0(x) \text{ for } x > 0, \qquad g = \sigma(l)

    Args:
        base: The distribution :math:`P_0` of counts, event shape ``[]``.
        logits: The logit l of the excess of zeros, broadcastable with the base's batch shape.

    Source: Lambert, Zero-inflated Poisson regression (1992).

    Example:
        >>> x = ZeroInflated(Poisson(torch.tensor(2.0)), torch.tensor(0.0))
        >>> float(x.log_prob(torch.tensor(0.0)).exp()), float(x.mean)
        (0.567..., 1.0)
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    has_rsample = False

    def __init__(self, base: Distribution, logits: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, logits.shape)
        self.base = base if base.batch_shape == shape else base.expand(shape)
        self.logits = logits.expand(shape)
        super().__init__(shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The counts of the base."""
        base: Any = self.base
        found: constraints.Constraint = base.support
        return found

    @property
    def mean(self) -> Tensor:
        """The base's mean, less the share of excess zeros."""
        return self.base.mean * torch.sigmoid(-self.logits)

    @property
    def variance(self) -> Tensor:
        """The variance: that within the base, and that between its mean and zero."""
        rest = torch.sigmoid(-self.logits)
        return rest * (self.base.variance + torch.sigmoid(self.logits) * self.base.mean.square())

    def expand(self, batch_shape: Size, _instance: Any = None) -> ZeroInflated:
        """Return the same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return ZeroInflated(self.base.expand(shape), self.logits.expand(shape), validate_args=False)

    def sample(self, sample_shape: Size = ()) -> Tensor:
        """Draw counts, shape ``sample_shape + batch``."""
        with torch.no_grad():
            x = self.base.sample(torch.Size(sample_shape))
            rest = torch.sigmoid(-self.logits).expand(x.shape)
            return x * torch.bernoulli(rest)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of counts, in nats, shape ``[*batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        rest = logsigmoid(-self.logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.logits), rest), rest)
