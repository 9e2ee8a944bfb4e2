r"""The one place where log-weights are made: log w = log p(x, z) - log q(z | x) for z drawn from q.

Every bound in this folder, in training and in evaluation, is a function of these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import NodeError, explain
from lowerbound.core.lazy import lazy
from lowerbound.distributions import kl_divergence, support_mismatch
from lowerbound.net import Node, Program, Trace

__all__ = ["Draw", "draw", "log_mean_exp"]


class Draw:
    """K draws of every latent from the posterior, scored by both programs.

    The model runs when its trace is first asked for, and once.

    Args:
        posterior: The posterior's trace; its drawn nodes are the latents.
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        values: The latents under which the model is scored; the draws themselves if None.
        constant: Whether the model's parameters count as constants.
        validate: Whether the model checks parameters and supports.

    Raises:
        NodeError: if the posterior draws nothing, or draws a node that is observed.
    """

    def __init__(
        self,
        posterior: Trace,
        model: Program,
        observed: Mapping[str, Tensor],
        *,
        values: Mapping[str, Tensor] | None = None,
        constant: bool = False,
        validate: bool = False,
    ) -> None:
        self.posterior = posterior
        self.latents = posterior.random_names(observed=False)
        self._program, self._observed, self._validate = model, observed, validate
        self._constant = constant
        self.values = {name: posterior[name] for name in self.latents} if values is None else values
        if not self.latents:
            cure = "Draw at least one latent with bn.sample in the posterior."
            raise NodeError(
                explain("posterior", expected="a program that draws latents", got="no random node", cure=cure)
            )
        for name in self.latents:
            if name in observed:
                cure = "Observe it, or give it a posterior, not both."
                raise NodeError(
                    explain(f"node {name!r}", expected="a latent or an observed node", got="both", cure=cure)
                )

    @lazy
    def model(self) -> Trace:
        """The model's trace, with the data and the latents observed.

        Raises:
            NodeError: if a latent of the model has no posterior, a node of the posterior is unknown to the model, an
                observed name is unknown, or, where it is validated, a posterior's support does not fit the prior's.
        """
        (particles,), batch = self.posterior.particles, self.posterior.batch
        values = {**self._observed, **self.values}
        program = self._program.replacing(self._compared) if self._validate else self._program
        trace = program.run(
            values,
            detach_parameters=self._constant,
            particles=particles,
            batch=batch,
            complete=True,
            validate=self._validate,
        )
        for name in self.latents:
            if trace.node(name).kind != "stochastic":
                cure = "Give it a density in the model with bn.sample."
                raise NodeError(explain(f"node {name!r}", expected="a prior", got="a node without density", cure=cure))
            _require_same_weight(self.posterior.node(name), trace.node(name))
        return trace

    def _compared(self, name: str, distribution: Distribution) -> Distribution:
        """Return the model's distribution of a node, if the posterior's draws lie in its support.

        Raises:
            NodeError: if they do not, whether or not the present draws show it.
        """
        q = self.posterior.node(name).distribution if name in self.latents else None
        cure = None if q is None else support_mismatch(q, distribution)
        if cure is not None:
            kinds = [type(d.base_dist if isinstance(d, Independent) else d).__name__ for d in (distribution, q)]
            expected = f"a posterior with the support of the prior {kinds[0]}"
            raise NodeError(explain(f"node {name!r}", expected=expected, got=kinds[1], cure=cure))
        return distribution

    def rescored(self, values: Mapping[str, Tensor], *, constant: bool = False) -> Draw:
        """Return the same draws with the model scored under other tensors that hold the same values.

        Args:
            values: The tensors by name.
            constant: Whether the model's parameters count as constants.
        """
        return Draw(self.posterior, self._program, self._observed, values=values, constant=constant)

    def log_likelihood(self) -> Tensor:
        """Return log p(x | z), the sum over the model's nodes that are no latents, shape ``[K, *batch]``, in nats."""
        return self.model.log_joint([name for name in self.model.random_names() if name not in self.latents])

    def log_prior(self) -> Tensor:
        """Return log p(z), shape ``[K, *batch]``, in nats."""
        return self.model.log_joint(self.latents)

    def log_posterior(self) -> Tensor:
        """Return log q(z | x), shape ``[K, *batch]``, in nats."""
        return self.posterior.log_joint(self.latents)

    def log_weights(self, kl_weight: Tensor | float = 1.0, log_posterior: Tensor | None = None) -> Tensor:
        r"""Return :math:`\log p(x|z) + \beta (\log p(z) - \log q(z|x))`, shape ``[K, *batch]``, in nats.

        Args:
            kl_weight: The factor :math:`\beta`; the log-weights proper have 1.
            log_posterior: log q(z | x) as another program scored it, such as one with constant parameters.
        """
        log_q = self.log_posterior() if log_posterior is None else log_posterior
        return self.log_likelihood() + kl_weight * (self.log_prior() - log_q)

    def kl(self, *, analytic: bool) -> Tensor:
        r"""Return :math:`\mathrm{KL}(q(z|x) \| p(z))` of each row, averaged over the draws, shape ``batch``, in nats.

        Args:
            analytic: Whether to use the closed form of a node where one is known, instead of the draws; at a masked
                node none is.
        """
        parts = [self._node_kl(name, analytic) for name in self.latents]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _node_kl(self, name: str, analytic: bool) -> Tensor:
        if analytic and self._prior_is_given(name):
            q_node, p_node = self.posterior.node(name), self.model.node(name)
            for node in (q_node, p_node):
                node.require_unchanged()
            q, p = q_node.distribution, p_node.distribution
            known = q is not None and p is not None and q_node.mask is None
            closed = kl_divergence(q, p) if known else None  # type: ignore[arg-type]
            if closed is not None:
                closed = closed if q_node.scale == 1.0 else q_node.scale * closed
                # A node below another has one divergence for each draw of its parents.
                return (
                    closed.mean(0) if closed.dim() > len(self.posterior.batch) else closed.expand(self.posterior.batch)
                )
        return (self.posterior.log_prob(name) - self.model.log_prob(name)).mean(0)

    def _prior_is_given(self, name: str) -> bool:
        """Return whether a node's prior is fixed by what the posterior draws before the node.

        In q(z1|x) q(z2|z1) and p(z2) p(z1|z2) the prior of z1 is known only with z2, which is drawn given z1: the mean
        of log q(z1|x) - log p(z1|z2) over both is no mean of divergences.
        """
        prior = self.model.node(name).distribution
        if prior is None or len(prior.batch_shape) <= len(self.posterior.batch):
            return True  # no axis of particles: it depends on no draw
        earlier = self.latents[: self.latents.index(name)]
        order = self.model.random_names()
        return all(other in earlier for other in order[: order.index(name)] if other in self.latents)


def _require_same_weight(q: Node, p: Node) -> None:
    """Raise an error if a latent counts more in one program than in the other: the bound would be none."""
    if q.scale != p.scale or (q.mask is None) != (p.mask is None):
        got = " and ".join(f"scale {n.scale:g} with{'out' if n.mask is None else ''} a mask" for n in (p, q))
        expected = "the same scale and mask in model and posterior"
        raise NodeError(explain(f"node {q.name!r}", expected=expected, got=got, cure="Pass both in both programs."))


def draw(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    *,
    particles: int,
    pathwise: bool | None = None,
    validate: bool = False,
) -> Draw:
    """Draw every latent `particles` times from the posterior, to be scored by the model.

    Args:
        model: The bound generative program.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program.
        particles: The number K of draws; they lie on axis 0.
        pathwise: As in `lowerbound.net.Trace`.
        validate: Whether to check parameters and supports.
    """
    positive_int("particles", particles)
    trace = posterior.run(particles=particles, pathwise=pathwise, validate=validate)
    return Draw(trace, model, observed, validate=validate)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    r"""Return :math:`\log \frac{1}{K} \sum_k w_k` over axis 0: from ``[K, *batch]`` to ``[*batch]``.

    Example:
        >>> log_mean_exp(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        tensor([0.6201, 1.0000])
    """
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])
