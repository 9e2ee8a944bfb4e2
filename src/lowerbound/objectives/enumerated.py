r"""The evidence lower bound with a discrete latent y summed out exactly, and its pathwise gradient.

.. math:: \log p(x) \ge \sum_y q(y|x) \left( \mathbb{E}_{q(z|x,y)}\left[\log p(x, y, z) - \log q(z|x,y)\right]
          - \log q(y|x) \right)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import NodeError, explain
from lowerbound.core.lazy import lazy
from lowerbound.net import Program, Trace
from lowerbound.objectives.log_weights import log_mean_exp

__all__ = ["EnumeratedBound", "enumerated"]


def enumerated(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    name: str,
    particles: int = 1,
    validate: bool = False,
) -> EnumeratedBound:
    """Return the evidence lower bound with one discrete latent summed out instead of drawn.

    All S values of the latent lie on the axis of the particles, so that one run of each program scores them.

    Args:
        model: The bound generative program, such as ``generator.bind(len(x))``.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program; its node `name` depends on no other draw.
        name: The discrete latent, for example a `OneHotCategorical` class.
        particles: The number K of draws of every other latent for each of the values, averaged.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        A bound with ``value``, ``terms``, ``sgvb()``, ``log_weights``, the probabilities ``q`` of the values, and the
        tighter ``marginal`` that does without them.

    Raises:
        NodeError: when it is first read, if the node has no finite support or depends on other draws, or the two
            programs do not fit each other or the data.

    Source: Kingma, Rezende, Mohamed and Welling, Semi-supervised Learning with Deep Generative Models (2014).

    Example:
        >>> from torch.distributions import Bernoulli, Normal
        >>> class P(lb.BayesianNet):
        ...     def forward(self, bn, n):
        ...         y = bn.sample("y", Bernoulli(torch.full((n,), 0.5)))
        ...         bn.sample("x", Normal(y, 1.0))
        >>> class Q(lb.BayesianNet):
        ...     def forward(self, bn, x):
        ...         bn.sample("y", Bernoulli(logits=x - 0.5))  # the exact posterior
        >>> x = torch.tensor([0.0, 1.0])
        >>> lb.objectives.enumerated(P().bind(2), {"x": x}, Q().bind(x), name="y").value  # log p(x)
        tensor([-1.1380, -1.1380])
    """
    return EnumeratedBound(model, observed, posterior, name=name, particles=particles, validate=validate)


class EnumeratedBound:
    """The evidence lower bound with one latent summed out; made by `enumerated`."""

    def __init__(
        self,
        model: Program,
        observed: Mapping[str, Tensor],
        posterior: Program,
        *,
        name: str,
        particles: int,
        validate: bool,
    ) -> None:
        self._model, self._observed, self._posterior = model, observed, posterior
        self.name, self.particles, self._validate = name, positive_int("particles", particles), validate

    @lazy
    def posterior(self) -> Trace:
        """The posterior's trace: the other latents, drawn K times for each of the S values, on an axis of K times S."""
        support = self._support()
        copies = support.repeat(self.particles, *[1] * (support.dim() - 1))
        # without a path there would be no gradient of the other latents: a node that has none is refused
        return self._posterior.run({self.name: copies}, particles=len(copies), pathwise=True, validate=self._validate)

    @lazy
    def model(self) -> Trace:
        """The model's trace under all latents."""
        drawn = self.posterior
        values = {**self._observed, **{name: drawn[name] for name in drawn.random_names()}}
        return self._model.run(
            values, particles=drawn.particles[0], batch=drawn.batch, complete=True, validate=self._validate
        )

    @lazy
    def q(self) -> Tensor:
        """How probable each value is under the posterior, shape ``[S, *batch]``, with a gradient."""
        return self._log_q.exp()

    @property
    def log_weights(self) -> Tensor:
        """log p(x, y, z) - log q(z | x, y), shape ``[K, S, *batch]``, in nats, detached."""
        return self._log_w.detach()

    @property
    def value(self) -> Tensor:
        """The bound of each row, shape ``batch``, in nats, detached."""
        return self._value.detach()

    @property
    def marginal(self) -> Tensor:
        r"""An estimate of log p(x) that does without q(y | x), shape ``batch``, in nats, detached.

        .. math:: \log \frac{1}{K} \sum_k \sum_y \frac{p(x, y, z_{ky})}{q(z_{ky}|x, y)}

        It is a lower bound in expectation, and lies above `value`.
        """
        return log_mean_exp(self.log_weights.logsumexp(1))

    @property
    def terms(self) -> dict[str, Tensor]:
        """The bound of each row and the entropy of q(y | x), shape ``batch``, in nats, detached."""
        return {"elbo": self.value, "entropy": -(self.q * self._log_q).sum(0).detach()}

    def sgvb(self) -> Tensor:
        """Return a surrogate cost whose gradient is minus that of the bound, shape ``batch``.

        The sum over y is exact, so its part of the gradient has no noise; the other latents are pathwise.
        """
        return -self._value

    @lazy
    def _log_w(self) -> Tensor:
        log_w, latents = self.model.log_joint(), self.posterior.random_names(observed=False)
        if latents:
            log_w = log_w - self.posterior.log_joint(latents)
        return self._by_value(log_w)

    @lazy
    def _log_q(self) -> Tensor:
        return self._by_value(self.posterior.log_prob(self.name))[0]

    @lazy
    def _value(self) -> Tensor:
        return (self.q * (self._log_w.mean(0) - self._log_q)).sum(0)

    def _by_value(self, x: Tensor) -> Tensor:
        """Return ``[K * S, *batch]`` as ``[K, S, *batch]``."""
        return x.reshape(self.particles, -1, *x.shape[1:])

    def _support(self) -> Tensor:
        """Return all values of the node, shape ``[S, *batch, *event]``."""
        trace = self._posterior.run(until={self.name})
        earlier = [name for name in trace.random_names() if name != self.name]
        if earlier:
            cure = "Draw it first in the posterior, from the data alone."
            got = f"draws of {', '.join(earlier)} before it"
            raise NodeError(
                explain(f"node {self.name!r}", expected="no draw that it may depend on", got=got, cure=cure)
            )
        distribution = trace.node(self.name).distribution
        try:
            if distribution is None:
                raise NotImplementedError
            support: Tensor = distribution.enumerate_support(expand=True)
        except NotImplementedError:
            got = "no density" if distribution is None else type(distribution).__name__
            cure = "Sum over a Categorical, a OneHotCategorical or a Bernoulli that has one value a row."
            raise NodeError(explain(f"node {self.name!r}", expected="a finite support", got=got, cure=cure)) from None
        return support
