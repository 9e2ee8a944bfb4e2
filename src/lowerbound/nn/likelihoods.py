"""Likelihoods p(x | z): from a decoder's output, some numbers for each value of x, to a distribution over events."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, MixtureSameFamily, Normal

from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.distributions import DiscretizedLogistic, NegativeBinomial, Poisson, ZeroInflated
from lowerbound.nn.likelihood import LOG_BOUND, Likelihood, bounded_exp
from lowerbound.nn.mixed import MixedLikelihood

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "LogisticLikelihood",
    "LogisticMixtureLikelihood",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "ZeroInflatedNegativeBinomialLikelihood",
    "ZeroInflatedPoissonLikelihood",
    "make_likelihood",
]


class BernoulliLikelihood(Likelihood):
    r"""Binary values: :math:`p(x|z) = \prod_d \mathrm{Bernoulli}(x_d; \sigma(o_d))`, computed from the logits o.

    Example:
        >>> BernoulliLikelihood((4,))(torch.zeros(3, 4)).log_prob(torch.ones(3, 4))
        tensor([-2.7726, -2.7726, -2.7726])
    """

    def values(self, output: Tensor) -> Distribution:
        """Return a Bernoulli with the output as logits."""
        return Bernoulli(logits=output, validate_args=False)


class _ScaledLikelihood(Likelihood):
    """A likelihood with a scale: fixed, one learned, or one learned for each dimension."""

    log_scale: Tensor

    def __init__(self, shape: tuple[int, ...], *, scale: float | str = "shared", start: float = 1.0) -> None:
        super().__init__(shape)
        self.learned = isinstance(scale, str)
        if isinstance(scale, str):
            choice("scale", scale, ("shared", "per-dimension"))
            size = () if scale == "shared" else self.event_shape
            self.log_scale = nn.Parameter(torch.full(size, math.log(start)))
        else:
            fixed = number("scale", scale, low=0.0, open_low=True)
            self.register_buffer("log_scale", torch.tensor(math.log(fixed)))


class GaussianLikelihood(_ScaledLikelihood):
    r"""Real values: :math:`p(x|z) = \prod_d \mathcal{N}(x_d; o_d, s_d^2)`, with the output o as the mean.

    Args:
        shape: The event shape.
        scale: The standard deviation s: a number to fix it in units of x, ``"shared"`` to learn one (it starts at 1,
            or at the spread after `standardize`), or ``"per-dimension"`` to learn one for each value of an event.

    Example:
        >>> GaussianLikelihood((4,), scale=1.0)(torch.zeros(3, 4)).log_prob(torch.zeros(3, 4))
        tensor([-3.6758, -3.6758, -3.6758])
    """

    center: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], *, scale: float | str = "shared") -> None:
        super().__init__(shape, scale=scale)
        self.register_buffer("center", torch.zeros(self.event_shape))
        self.register_buffer("spread", torch.ones(self.event_shape))

    def values(self, output: Tensor) -> Distribution:
        """Return a normal distribution with the output, in units of the spread, as its mean."""
        unit = self.spread if self.learned else 1.0
        return Normal(self.center + self.spread * output, unit * self.log_scale.exp(), validate_args=False)

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let outputs, and a learned scale, count in units of the spread; densities stay those of x."""
        self.center.copy_(center.expand(self.event_shape))
        self.spread.copy_(spread.expand(self.event_shape))


class LogisticLikelihood(_ScaledLikelihood):
    r"""Pixels of `levels` intensities on [0, 1]: a discretised logistic with location :math:`\sigma(o)`.

    Args:
        shape: The event shape.
        scale: As for `GaussianLikelihood`, of the logistic; a learned one starts at 0.1.
        levels: The number of intensities: 256 for 8-bit images.

    Example:
        >>> LogisticLikelihood((4,))(torch.zeros(3, 4)).log_prob(torch.ones(3, 4)).shape
        torch.Size([3])
    """

    def __init__(self, shape: tuple[int, ...], *, scale: float | str = "shared", levels: int = 256) -> None:
        super().__init__(shape, scale=scale, start=0.1)
        self.levels = _levels(levels)

    def values(self, output: Tensor) -> Distribution:
        """Return a discretised logistic with the output's sigmoid as its location."""
        return DiscretizedLogistic(output.sigmoid(), self.log_scale.exp(), self.levels, validate_args=False)


class LogisticMixtureLikelihood(Likelihood):
    r"""Pixels of `levels` intensities on [0, 1]: a mixture of discretised logistics for each value.

    .. math:: p(x_d|z) = \sum_k \pi_{dk} \, \mathrm{DiscretizedLogistic}(x_d; \sigma(o_{dk}), s_{dk})

    Weights, locations and scales are all put out by the decoder. At the start, the locations are spread over [0, 1]
    and the scales are 0.1. The channels of a colour are independent given z.

    Args:
        shape: The event shape.
        components: The number of logistics a value.
        levels: The number of intensities: 256 for 8-bit images.

    Source: Salimans et al., PixelCNN++ (2017).

    Example:
        >>> LogisticMixtureLikelihood((4,), components=3)(torch.zeros(2, 9, 4)).log_prob(torch.ones(2, 4)).shape
        torch.Size([2])
    """

    offsets: Tensor

    def __init__(self, shape: tuple[int, ...], *, components: int = 5, levels: int = 256) -> None:
        super().__init__(shape)
        self.components, self.levels = positive_int("components", components), _levels(levels)
        self.outputs = 3 * components
        self.register_buffer("offsets", torch.logit((torch.arange(components) + 0.5) / components), persistent=False)

    def values(self, output: Tensor) -> Distribution:
        """Return the mixture; the components stand in its last axis."""
        parts = output.movedim(-1 - len(self.event_shape), -1).unflatten(-1, (3, self.components))
        logits, loc, log_scale = parts.unbind(-2)
        bound = LOG_BOUND["scale"]
        scale = (log_scale + math.log(0.1)).clamp(-bound, bound).exp()
        logistics = DiscretizedLogistic((loc + self.offsets).sigmoid(), scale, self.levels, validate_args=False)
        return MixtureSameFamily(Categorical(logits=logits, validate_args=False), logistics, validate_args=False)


class _CountLikelihood(Likelihood):
    """Counts whose log-mean is put out by the decoder, relative to the mean of the data after `standardize`."""

    counts = True
    log_center: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.register_buffer("log_center", torch.zeros(self.event_shape))

    def mean(self, output: Tensor) -> Tensor:
        """Return the mean for an output ``[*, *event_shape]``."""
        return bounded_exp(self.log_center + output)

    def see(self, x: Tensor) -> Tensor:
        """Return log(1 + x): counts vary over orders of magnitude."""
        return x.clamp(min=0).log1p()

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let an output of zero mean the data's mean; a value that is always zero gets a small one."""
        self.log_center.copy_(center.clamp(min=1e-4).log().expand(self.event_shape))


class PoissonLikelihood(_CountLikelihood):
    r"""Counts: :math:`p(x|z) = \prod_d \mathrm{Poisson}(x_d; e^{o_d})`, the output o relative to the data's mean.

    Example:
        >>> PoissonLikelihood((4,))(torch.zeros(3, 4)).log_prob(torch.ones(3, 4))
        tensor([-4., -4., -4.])
    """

    def values(self, output: Tensor) -> Distribution:
        """Return a Poisson distribution."""
        return Poisson(self.mean(output), validate_args=False)


class NegativeBinomialLikelihood(_CountLikelihood):
    r"""Counts with more variance than mean: :math:`\mathrm{Var}(x_d) = m_d + m_d^2 / r_d` with :math:`m_d = e^{o_d}`.

    The concentration r is learned, one for each value of an event; it starts at 1.

    Args:
        shape: The event shape.

    Example:
        >>> NegativeBinomialLikelihood((4,))(torch.zeros(3, 4)).log_prob(torch.zeros(3, 4)).exp()
        tensor([0.0625, 0.0625, 0.0625], grad_fn=...)
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.log_concentration = nn.Parameter(torch.zeros(self.event_shape))

    def values(self, output: Tensor) -> Distribution:
        """Return a negative binomial distribution."""
        return NegativeBinomial(self.mean(output), bounded_exp(self.log_concentration), validate_args=False)


class _ZeroInflatedLikelihood(_CountLikelihood):
    """Counts that are zero with a probability that the decoder puts out too: at the start, it is a tenth."""

    outputs = 2

    def values(self, output: Tensor) -> Distribution:
        """Return the distribution without excess zeros, made from the first output, with them by the second."""
        first, logits = output.unbind(-1 - len(self.event_shape))
        return ZeroInflated(super().values(first), logits + math.log(1 / 9), validate_args=False)


class ZeroInflatedPoissonLikelihood(_ZeroInflatedLikelihood, PoissonLikelihood):
    r"""Counts that are zero with a probability of their own, and else Poisson: two outputs a value.

    Example:
        >>> ZeroInflatedPoissonLikelihood((4,))(torch.zeros(3, 2, 4)).log_prob(torch.ones(3, 4)).shape
        torch.Size([3])
    """


class ZeroInflatedNegativeBinomialLikelihood(_ZeroInflatedLikelihood, NegativeBinomialLikelihood):
    r"""Counts that are zero with a probability of their own, and else negative binomial: two outputs a value.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics (2018), without its library sizes.

    Example:
        >>> ZeroInflatedNegativeBinomialLikelihood((4,))(torch.zeros(3, 2, 4)).log_prob(torch.ones(3, 4)).shape
        torch.Size([3])
    """


def _levels(levels: int) -> int:
    """Return a number of intensities if it is one."""
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        cure = "8-bit images have 256."
        raise ArgumentError(explain("levels", expected="an integer of 2 or more", got=levels, cure=cure))
    return levels


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "logistic": LogisticLikelihood,
    "logistic-mixture": LogisticMixtureLikelihood,
    "mixed": MixedLikelihood,
    "negative-binomial": NegativeBinomialLikelihood,
    "poisson": PoissonLikelihood,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomialLikelihood,
    "zero-inflated-poisson": ZeroInflatedPoissonLikelihood,
}


def make_likelihood(name: str, shape: tuple[int, ...], **options: Any) -> Likelihood:
    """Return the likelihood of a name.

    Args:
        name: A key of `LIKELIHOODS`.
        shape: The event shape.
        options: Arguments of the likelihood, such as ``scale`` or ``levels``.

    Raises:
        ArgumentError: if the name or an option is unknown to it.

    Example:
        >>> type(make_likelihood("gaussian", (3,), scale="per-dimension")).__name__
        'GaussianLikelihood'
    """
    kind = LIKELIHOODS[choice("likelihood", name, LIKELIHOODS)]
    known = [option for option in inspect.signature(kind).parameters if option != "shape"]
    for option in options:
        if option not in known:
            cure = "Leave it out, or choose another likelihood."
            expected = f"an option of {name} ({', '.join(known) or 'it has none'})"
            raise ArgumentError(explain("likelihood option", expected=expected, got=repr(option), cure=cure))
    return kind(shape, **options)
