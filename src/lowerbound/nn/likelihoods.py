"""Likelihoods p(x | z): from a decoder's output, one number a value of x, to a distribution over events."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from lowerbound.core.checks import choice, event_shape, number
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.distributions import DiscretizedLogistic
from lowerbound.nn.heads import widen

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "LogisticLikelihood",
    "make_likelihood",
]


class Likelihood(nn.Module):
    """From a decoder's output of shape ``[*, *event_shape]`` to p(x | z) over events of that shape.

    Args:
        shape: The event shape.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = event_shape(shape)

    def forward(self, output: Tensor) -> Distribution:
        """Return the distribution with batch shape ``[*]`` and event shape ``event_shape``."""
        return Independent(self.values(widen(output)), len(self.event_shape), validate_args=False)

    def values(self, output: Tensor) -> Distribution:
        """Return the distribution of each single value, with batch shape ``[*, *event_shape]``."""
        raise NotImplementedError

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Count outputs in units of the data, where the likelihood has such units; by default nothing.

        Args:
            center: The mean of the data, shape ``event_shape`` or ``[]``.
            spread: Their standard deviation, shape ``event_shape`` or ``[]``.
        """


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
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ArgumentError(
                explain("levels", expected="an integer of 2 or more", got=levels, cure="8-bit images have 256.")
            )
        self.levels = levels

    def values(self, output: Tensor) -> Distribution:
        """Return a discretised logistic with the output's sigmoid as its location."""
        return DiscretizedLogistic(output.sigmoid(), self.log_scale.exp(), self.levels, validate_args=False)


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "logistic": LogisticLikelihood,
}


def make_likelihood(name: str, shape: tuple[int, ...], **options: Any) -> Likelihood:
    """Return the likelihood of a name.

    Args:
        name: ``"bernoulli"``, ``"gaussian"`` or ``"logistic"``.
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
