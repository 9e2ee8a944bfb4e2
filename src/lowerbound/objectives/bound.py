"""What all bounds share: one lazy draw, the log-weights, and the rule that estimators check their nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.core.lazy import lazy
from lowerbound.core.types import Model, Outcome, Player, follows
from lowerbound.net import Program
from lowerbound.objectives.log_weights import Draw, draw
from lowerbound.objectives.relaxation import Relaxation
from lowerbound.objectives.score import Scored

__all__ = ["Bound", "BoundObjective"]


class Bound:
    """A bound on log p(x) under one draw of the posterior; the draw is made when it is first needed, and once.

    Args:
        model: The bound generative program, such as ``generator.bind(len(x))``.
        observed: The data by node name.
        posterior: The bound posterior program, such as ``encoder.bind(x)``.
        particles: The number K of draws of every latent.
        validate: Whether to check parameters and supports.

    Attributes:
        name: What it is called where numbers are shown.
        certified: Whether the first of its `terms` is a lower bound of log p(x) in expectation.
    """

    name = "bound"
    certified = True
    _pathwise: bool | None = None  # as in `lowerbound.net.Trace`; score-function estimators set it before they draw
    _scored: Draw | None = None

    def __init__(
        self,
        model: Program,
        observed: Mapping[str, Tensor],
        posterior: Program,
        *,
        particles: int,
        validate: bool = False,
    ) -> None:
        self._model, self._observed, self._posterior = model, observed, posterior
        self.particles, self._validate = positive_int("particles", particles), validate
        self._options: dict[str, Any] = {}  # of a subclass

    @lazy
    def draw(self) -> Draw:
        """The latents and both traces; ``bound.draw.model`` holds the model's nodes under the draw."""
        made = draw(
            self._model,
            self._observed,
            self._posterior,
            particles=self.particles,
            pathwise=self._pathwise,
            validate=self._validate,
        )
        for name in made.latents:
            if made.posterior.node(name).kind == "implicit":
                cure = "An implicit posterior needs an adversarial objective; or give the node a density."
                raise NodeError(
                    explain(f"node {name!r}", expected="a density in the posterior", got="an implicit draw", cure=cure)
                )
        return made

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x), shape ``[K, *batch]``, in nats, detached."""
        return self._shown.log_weights().detach()

    @property
    def value(self) -> Tensor:
        """The bound of each row, shape ``batch``, in nats, detached; higher is better."""
        raise NotImplementedError

    @property
    def terms(self) -> dict[str, Tensor]:
        """The bound and its parts of each row, shape ``batch``, in nats, detached."""
        draws = self._shown
        parts = {"reconstruction": draws.log_likelihood().mean(0), "kl": draws.kl(analytic=False)}
        return {self.name: self.value, **{name: part.detach() for name, part in parts.items()}}

    def sgvb(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        """Return the surrogate cost of the pathwise gradient, shape ``batch``."""
        raise NotImplementedError

    def relaxed(self, *, temperature: float, straight_through: bool = False, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return the surrogate cost of a relaxed gradient, shape ``batch``, for Bernoulli and one-hot latents.

        Their draws z are replaced by concrete ones, :math:`\tilde z = \sigma((\ell + L) / \lambda)` with logits
        :math:`\ell` and logistic noise L (Gumbel noise and a softmax for one-hot ones), and the programs' discrete
        log-probabilities by their linear extensions. The cost is that of `sgvb` there. Its gradient is **biased**: it
        is that of another expectation, :math:`\mathbb{E} f(\tilde z)`, and comes to the exact one only as the
        temperature :math:`\lambda` goes to 0, where its variance grows without bound. A straight-through gradient has
        a bias that stays. `value` and `terms` are those of hard draws, with the exact discrete probabilities; they are
        made beside the relaxed ones.

        Args:
            temperature: :math:`\lambda`, positive.
            straight_through: Whether the programs see rounded draws, and only the gradient is the relaxed one's.
            kl_weight: A factor on the KL term of the cost, for a warm-up.

        Raises:
            NodeError: if no latent can be relaxed, or one has no path otherwise.

        Source: Maddison, Mnih and Teh, The Concrete Distribution (2017); Jang, Gu and Poole, Categorical
        Reparameterization with Gumbel-Softmax (2017).
        """
        relaxation = Relaxation(temperature, straight_through)
        model, posterior = (
            self._model.replacing(relaxation.of_model),
            self._posterior.replacing(relaxation.of_posterior),
        )
        soft = type(self)(model, self._observed, posterior, particles=self.particles, **self._options)
        relaxation.require_names(soft.draw.latents)
        return soft.sgvb(kl_weight=kl_weight)

    def _score_draws(self, *, pathwise: bool) -> Scored:
        """Return the draws for a score-function estimator: with no path at all, or only where there is none.

        Args:
            pathwise: Whether nodes that were drawn with `rsample` keep their path.
        """
        if not pathwise and "draw" not in self.__dict__:
            self._pathwise = False
        own = self.draw
        if not pathwise and any(own.posterior.node(name).pathwise for name in own.latents):
            fixed = {name: own.posterior[name].detach() for name in own.latents}
            trace = self._posterior.run(fixed, particles=self.particles, batch=own.posterior.batch)
            log_q = trace.log_joint(own.latents)
            return Scored(own.rescored(fixed), log_q, log_q.detach(), trace.log_joint(own.latents, weighted=False))
        log_q = own.log_posterior()
        without = [name for name in own.latents if not own.posterior.node(name).pathwise]
        if len(without) == len(own.latents):
            return Scored(own, log_q, log_q.detach(), own.posterior.log_joint(without, weighted=False))
        values = {name: own.posterior[name] for name in own.latents}
        constant = self._posterior.run(
            values, detach_parameters=True, particles=self.particles, batch=own.posterior.batch
        )
        score = own.posterior.log_joint(without, weighted=False) if without else torch.zeros_like(log_q)
        return Scored(own, log_q, constant.log_joint(own.latents), score)

    @property
    def _shown(self) -> Draw:
        """The draws that numbers are read from: as an estimator scored them, if one did, to spare a run."""
        return self._scored or self.draw

    def _require_pathwise(self, estimator: str) -> None:
        for name in self.draw.latents:
            node = self.draw.posterior.node(name)
            if not node.pathwise:
                base: Any = node.distribution
                kind = type(getattr(base, "base_dist", base)).__name__
                cure = "Draw it from a distribution with rsample, such as a Gaussian or a relaxed one."
                raise NodeError(
                    explain(f"{estimator} at node {name!r}", expected="a pathwise draw", got=kind, cure=cure)
                )


class BoundObjective(nn.Module):
    """A bound over a model as a module: what `lowerbound.fit` maximises and what a compiler or DDP wraps.

    Args:
        model: The pair of programs; its observed node is named ``x``.
        particles: The number K of draws of every latent.
    """

    certified = True
    kl_weight: Tensor

    def __init__(self, model: Model, *, particles: int = 1) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or not follows(model, Model):
            cure = "Pass lowerbound.models.VAE(...), or LatentVariableModel(generator, posterior)."
            expected = "a module with a generator, a posterior and programs(x)"
            raise ArgumentError(explain("model", expected=expected, got=type(model).__name__, cure=cure))
        self.model = model
        self.particles = positive_int("particles", particles)
        self.register_buffer("kl_weight", torch.ones(()), persistent=False)

    def players(self) -> tuple[Player, ...]:
        """Return the one player: the model, both programs."""
        return (Player("model", tuple(p for p in self.model.parameters() if p.requires_grad)),)

    def bound(self, x: Tensor, *, validate: bool = False) -> Bound:
        """Return the bound of a batch, shape ``[B, *event_shape]``."""
        raise NotImplementedError

    def cost(self, bound: Any, x: Tensor) -> Tensor:
        """Return the surrogate cost of each row of a batch, shape ``[B]``."""
        raise NotImplementedError

    def forward(self, x: Tensor, player: str = "model") -> Outcome:
        """Return the mean cost of a batch and its mean terms."""
        bound = self.bound(x)
        cost = self.cost(bound, x).mean()
        return Outcome(cost, {name: term.mean() for name, term in bound.terms.items()})

    def validate(self, x: Tensor) -> None:
        """Raise an error that names the cure if the model cannot take the batch `x`, shape ``[B, *event_shape]``."""
        with torch.no_grad():
            self.bound(x, validate=True).value  # noqa: B018 (the property draws, and drawing checks)
            self.cost(self.bound(x), x)  # estimators have pairings of their own to refuse

    def remarks(self, terms: Mapping[str, float]) -> list[str]:
        """Return sentences that the user should read about an epoch's mean terms; there are none for a bound."""
        return []

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {
            "class": type(self).__name__,
            "certified": self.certified,
            "particles": self.particles,
            "model": self.model.describe(),
        }
