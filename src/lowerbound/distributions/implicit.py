"""A distribution that can be drawn from, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.core.errors import NodeError, explain
from lowerbound.core.lazy import lazy

__all__ = ["Implicit"]


class Implicit(Distribution):
    r"""A sampler :math:`z = f(\epsilon)` without a density, in the form of a torch distribution.

    Its mean and variance are those that the sampler knows, else the moments of repeated draws.

    Args:
        draw: From leading axes, such as ``(K,)``, to draws of shape ``leading + batch_shape + event_shape`` through
            which gradients flow.
        batch_shape: The shape of what is drawn independently.
        event_shape: The shape of one draw.
        moments: A function that returns mean and variance, each of shape ``batch_shape + event_shape``; None to take
            them from `draws` draws.
        draws: The number of draws that stand for the moments.

    Example:
        >>> q = Implicit(lambda lead: torch.randn(*lead, 5, 2).exp(), (5,), (2,))
        >>> q.rsample((3,)).shape, q.mean.shape
        (torch.Size([3, 5, 2]), torch.Size([5, 2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        draw: Callable[[tuple[int, ...]], Tensor],
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
        *,
        moments: Callable[[], tuple[Tensor, Tensor]] | None = None,
        draws: int = 100,
    ) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)
        self._draw, self.moments, self._draws = draw, moments, draws

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of shape ``sample_shape + batch_shape + event_shape``."""
        return self._draw(tuple(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The mean, shape ``batch_shape + event_shape``."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """The variance, shape ``batch_shape + event_shape``."""
        return self._moments[1]

    def log_prob(self, value: Tensor) -> NoReturn:
        """Refuse: there is no density.

        Raises:
            NodeError: always.
        """
        cure = "Use an objective for implicit posteriors, or a posterior with a density."
        raise NodeError(explain("log_prob", expected="a distribution with a density", got="a sampler", cure=cure))

    @lazy
    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.moments is not None:
            return self.moments()
        draws = self._draw((self._draws,))
        return draws.mean(0), draws.var(0)
