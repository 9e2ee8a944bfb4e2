"""The pair of stochastic programs that every model is, and what can be done with any such pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, ShapeError, explain
from lowerbound.core.types import Programs
from lowerbound.distributions import Implicit
from lowerbound.net import BayesianNet, Trace
from lowerbound.nn import Likelihood, Prior, make_prior

__all__ = ["DecoderProgram", "EncoderDecoder", "EncoderProgram", "LatentVariableModel"]


class LatentVariableModel(nn.Module):
    r"""A generative program p(x, z) with a posterior program q(z | x).

    Args:
        generator: A `BayesianNet` whose ``forward(bn, n)`` draws the latents and the node ``x`` for n rows.
        posterior: A `BayesianNet` whose ``forward(bn, x)`` draws the same latents.

    Programs that take other inputs, or observe other nodes, say so in a `programs` of their own: it is the one place
    that knows.

    Raises:
        ArgumentError: if one of them is no `BayesianNet`.

    Example:
        >>> from torch.distributions import Normal
        >>> class Weight(lb.BayesianNet):  # a weight for all rows; the rows of the node y are one event
        ...     def forward(self, bn, inputs):
        ...         w = bn.sample("w", Normal(torch.zeros(()), 1.0))
        ...         bn.sample("y", Normal(w[..., None] * inputs, 1.0), event_dims=1)
        >>> class Belief(lb.BayesianNet):
        ...     def forward(self, bn):
        ...         bn.sample("w", Normal(torch.tensor(0.5), 0.1))
        >>> class Regression(lb.models.LatentVariableModel):  # a row is an input with its target
        ...     def programs(self, x):
        ...         return lb.Programs(self.generator.bind(x[:, 0]), {"y": x[:, 1]}, self.posterior.bind())
        >>> model = Regression(Weight(), Belief())
        >>> lb.elbo(*model.programs(torch.rand(7, 2)), particles=5).value.shape
        torch.Size([])
    """

    def __init__(self, generator: BayesianNet, posterior: BayesianNet) -> None:
        super().__init__()
        for name, program in (("generator", generator), ("posterior", posterior)):
            if not isinstance(program, BayesianNet):
                cure = "Derive the class from lowerbound.BayesianNet."
                raise ArgumentError(explain(name, expected="a BayesianNet", got=type(program).__name__, cure=cure))
        self.generator, self.posterior = generator, posterior

    def describe(self) -> dict[str, Any]:
        """Return the class and the arguments that rebuild the model; a pair of one's own is named only."""
        return {"class": type(self).__name__, "generator": type(self.generator).__name__}

    def programs(self, x: Tensor) -> Programs:
        """Return both programs, bound to a batch ``[B, *event_shape]``, and what is observed of it.

        Unless a subclass says otherwise, the generator takes the number of rows, the posterior takes the rows, and
        the node ``x`` is observed.
        """
        return Programs(self.generator.bind(len(x)), {"x": x}, self.posterior.bind(x))

    def sample(self, n: int) -> Trace:
        """Draw n rows from the model; ``trace["x"]`` are the rows, shape ``[n, *event_shape]``."""
        return self.generator.bind(positive_int("n", n)).observe()


class EncoderProgram(BayesianNet):
    r"""The posterior :math:`q(z|x)` of an encoder-decoder model: an encoder whose output is a distribution.

    Args:
        encoder: A module from rows ``[B, *event_shape]`` to a distribution with event shape ``[latent_dim]``; an
            `Implicit` one makes the node implicit.
        event_shape: The shape of one row.
        see: What the encoder is to see of rows and of their mean; None for themselves.
        mixed: Whether `see` standardises rows and fills their gaps itself, as that of a mixed likelihood does.
        missing: Whether rows may have gaps, NaN; the encoder sees the mean in their place.
    """

    center: Tensor
    spread: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        event_shape: tuple[int, ...],
        *,
        see: Callable[[Tensor], Tensor] | None = None,
        mixed: bool = False,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.see, self.mixed, self.missing = encoder, see, mixed, missing
        self.register_buffer("center", torch.zeros(event_shape))
        self.register_buffer("spread", torch.ones(event_shape))

    def forward(self, bn: Trace, x: Tensor) -> None:
        """Draw the node ``z`` for rows `x`, shape ``[B, *event_shape]``."""
        q = self.encode(x)
        if isinstance(q, Implicit):
            bn.implicit("z", q.rsample(bn.particles), moments=q.moments)
        else:
            bn.sample("z", q)

    def encode(self, x: Tensor) -> Distribution:
        """Return q(z | x) for rows ``[B, *event_shape]``; the encoder sees them centred and in units of the spread.

        Raises:
            ShapeError: if `x` has another shape.
        """
        event_shape = tuple(self.center.shape)
        if x.dim() != len(event_shape) + 1 or tuple(x.shape[1:]) != event_shape:
            expected = f"shape ({', '.join(map(str, ('B', *event_shape)))})"
            cure = "The first axis counts rows; reshape each row to the event shape of the model."
            raise ShapeError(explain("x", expected=expected, got=tuple(x.shape), cure=cure))
        if self.mixed and self.see is not None:
            q_mixed: Distribution = self.encoder(self.see(x))
            return q_mixed
        seen = x - self.center if self.see is None else self.see(x) - self.see(self.center)
        standard = seen / self.spread
        q: Distribution = self.encoder(torch.where(x.isnan(), 0.0, standard) if self.missing else standard)
        return q


class DecoderProgram(BayesianNet):
    r"""The generator :math:`p(z) p(x|z)`: a prior, a decoder and a likelihood.

    Args:
        prior: A module that returns p(z), event shape ``[latent_dim]``.
        decoder: A module from ``[*, latent_dim]`` to ``[*, *event_shape]``.
        likelihood: From the decoder's output to p(x | z).
    """

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood

    def forward(self, bn: Trace, n: int, mask: Tensor | None = None) -> None:
        """Draw the nodes ``z``, shape ``[n, latent_dim]``, and ``x``, shape ``[n, *event_shape]``, for n rows.

        Where `mask`, of the shape of ``x``, is False, x is not observed.
        """
        p_z: Distribution = self.prior()
        z = bn.sample("z", p_z.expand(torch.Size([n])))
        p_x = self.likelihood(self.decoder(z))
        bn.deterministic("x_mean", lambda: p_x.mean)
        bn.sample("x", p_x, mask=mask)


class EncoderDecoder(LatentVariableModel):
    r"""A model with one latent vector z, an encoder and a decoder.

    .. math:: p(x, z) = p(z)\, p(x | z), \qquad q(z | x)

    Args:
        event_shape: The shape of one row x.
        latent_dim: The size of z.
        encoder: A module from rows ``[B, *event_shape]`` to a distribution over ``[latent_dim]``.
        decoder: A module from ``[*, latent_dim]`` to ``[*, *event_shape]``, or to what else the likelihood takes.
        likelihood: From the decoder's output to p(x | z).
        prior: The name of p(z), as in `lowerbound.nn.make_prior`.
        prior_options: Its arguments.
        missing: Whether rows may have gaps, NaN: their likelihood is that of the values which are there.
    """

    generator: DecoderProgram
    posterior: EncoderProgram

    def __init__(
        self,
        *,
        event_shape: tuple[int, ...],
        latent_dim: int,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        prior: str = "standard",
        prior_options: Mapping[str, Any] | None = None,
        missing: bool = False,
    ) -> None:
        shape = check_event_shape(event_shape)
        positive_int("latent_dim", latent_dim)
        posterior = EncoderProgram(encoder, shape, see=likelihood.see, mixed=likelihood.mixed, missing=missing)
        p_z = make_prior(prior, latent_dim, event_shape=shape, posterior=posterior, options=prior_options)
        super().__init__(DecoderProgram(p_z, decoder, likelihood), posterior)
        self.event_shape, self.latent_dim = shape, latent_dim

    @property
    def missing(self) -> bool:
        """Whether rows may have gaps, NaN."""
        return self.posterior.missing

    def programs(self, x: Tensor) -> Programs:
        """Return both programs, bound to a batch ``[B, *event_shape]``; gaps, if there may be some, are masked."""
        if not self.missing:
            return super().programs(x)
        return Programs(self.generator.bind(len(x), ~x.isnan()), {"x": x}, self.posterior.bind(x))

    def encode(self, x: Tensor) -> Distribution:
        """Return q(z | x), batch shape ``[B]`` and event shape ``[latent_dim]``, for rows ``[B, *event_shape]``.

        Raises:
            ShapeError: if `x` has another shape.
        """
        return self.posterior.encode(x)

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x | z), batch shape ``[*]`` and event shape ``event_shape``, for latents ``[*, latent_dim]``.

        Raises:
            ShapeError: if `z` has another last axis.
        """
        if z.dim() < 1 or z.shape[-1] != self.latent_dim:
            cure = "The last axis is the latent vector."
            raise ShapeError(explain("z", expected=f"shape (..., {self.latent_dim})", got=tuple(z.shape), cure=cure))
        p: Distribution = self.generator.likelihood(self.generator.decoder(z))
        return p

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let the encoder see standardised rows, and a likelihood that has units count in those of the data.

        Bounds stay densities of x in its own units.

        Args:
            center: The mean of the rows, shape ``event_shape`` or ``[]``.
            spread: Their standard deviation, positive, shape ``event_shape`` or ``[]``.

        Raises:
            ArgumentError: if a spread is not positive.
        """
        if not bool((spread > 0).all()):
            cure = "Put 1 where a value never varies."
            raise ArgumentError(explain("spread", expected="positive values", got=float(spread.min()), cure=cure))
        self.posterior.center.copy_(center.expand(self.event_shape))
        self.posterior.spread.copy_(spread.expand(self.event_shape))
        self.generator.likelihood.standardize(center, spread)

    def prior(self) -> Distribution:
        """Return p(z), event shape ``[latent_dim]``."""
        p: Distribution = self.generator.prior()
        return p

    def point(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z), its mode where columns are of mixed types, shape ``[*, *event_shape]``."""
        p = self.decode(z)
        return p.mode if self.generator.likelihood.mixed else p.mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the `point` of the mean of q(z | x), shape ``[B, *event_shape]``."""
        return self.point(self.encode(x).mean)

    @property
    def event_size(self) -> int:
        """The number of values in one row."""
        return math.prod(self.event_shape)
