r"""Adversarial variational Bayes: a posterior that can only be drawn from, judged by a critic.

.. math:: \mathrm{ELBO} = \mathbb{E}_{q(z|x)}\left[\log p(x|z) - T^*(z, x)\right], \qquad
          T^*(z, x) = \log q(z|x) - \log p(z)

The critic T is trained to tell draws of q from draws of a contrast, and its logit estimates the log-ratio. With a
trained T instead of :math:`T^*` this is an estimate that may lie on either side of log p(x), and no bound.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.errors import ArgumentError, NodeError, ShapeError, TrainingWarning, explain
from lowerbound.core.lazy import lazy
from lowerbound.core.types import Model, Outcome, Player
from lowerbound.net import Program, Trace, constants
from lowerbound.objectives.bound import BoundObjective
from lowerbound.objectives.joined import LOG_2PI, Moments, join, location_and_scale, log_standard_normal
from lowerbound.objectives.log_weights import Draw, draw

__all__ = ["AVB", "AdversarialEstimate", "avb"]


def avb(
    model: Program,
    observed: Mapping[str, Tensor],
    posterior: Program,
    critic: Callable[..., Tensor],
    *,
    particles: int = 1,
    contrast: Literal["prior", "adaptive"] = "prior",
    learns: Literal["ratio", "density"] = "density",
    moment_draws: int = 64,
    validate: bool = False,
) -> AdversarialEstimate:
    r"""Return the adversarial estimate of the evidence lower bound, with a cost for each of its two players.

    The critic is called as ``critic(z, *inputs)``: z holds all latents, flattened and joined along the last axis in
    the order of the posterior's nodes, shape ``[k, *batch, D]``, and ``inputs`` are those of the bound posterior. So a
    posterior ``encoder.bind(x)`` has a critic of ``(z, x)``, and a global one, ``q.bind()``, a critic of ``(z)``. It
    returns one logit for each draw, shape ``[k, *batch]`` or ``[k, *batch, 1]``.

    With ``contrast="adaptive"`` the critic tells q from :math:`r(z|x) = \mathcal{N}(\mu(x), \mathrm{diag}\,
    \sigma^2(x))`, the moments of q for each row, in coordinates :math:`\tilde z = (z - \mu) / \sigma`, and
    :math:`\log r - \log p` is added exactly. The moments are constants of the gradient.

    Args:
        model: The bound generative program; its latents need a density.
        observed: The data by node name, each of shape ``batch + event``.
        posterior: The bound posterior program; its latents need none.
        critic: The network T.
        particles: The number K of draws of every latent.
        contrast: What the critic compares q with: the ``"prior"``, or ``"adaptive"``.
        learns: What the critic's network is: ``"ratio"``, T itself, or ``"density"``, log q(z|x) up to a constant,
            from which the known density of the contrast is subtracted.
        moment_draws: Draws behind the moments of latents whose moments the posterior does not know; so many times the
            posterior runs again for each cost. Moments that differ from call to call blur what the critic sees, and
            its KL is too small by that: by a few tenths of a nat for 64 draws of a posterior with sharp edges.
        validate: Whether to check the parameters and supports of every node.

    Returns:
        An estimate with ``value`` and ``terms``, and the costs ``sgvb()`` of the model and ``critic_cost()``.

    Raises:
        ShapeError: when it is first read, if the critic does not return one logit a draw.
        NodeError: if the programs do not fit each other, or a latent has no pathwise draw.
        ArgumentError: if an argument is unknown or not positive.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> from torch.distributions import Normal
        >>> class P(lb.BayesianNet):
        ...     def forward(self, bn, n):
        ...         z = bn.sample("z", Normal(torch.zeros(n, 2), 1.0), event_dims=1)
        ...         bn.sample("x", Normal(z.sum(-1), 1.0))
        >>> class Q(lb.BayesianNet):
        ...     def forward(self, bn, x):
        ...         noise = torch.randn(*bn.particles, len(x), 2)
        ...         bn.implicit("z", x[:, None] / 3 + noise.abs() - 0.8)
        >>> net = lb.nn.JointMLP([2, 1], [16], 1)
        >>> x = torch.tensor([0.0, 1.0, 2.0])
        >>> estimate = lb.avb(P().bind(3), {"x": x}, Q().bind(x), lambda z, x: net(z, x[:, None]), particles=5)
        >>> estimate.sgvb().shape, estimate.critic_cost().shape
        (torch.Size([3]), torch.Size([3]))
    """
    return AdversarialEstimate(
        model,
        observed,
        posterior,
        critic,
        particles=particles,
        contrast=contrast,
        learns=learns,
        moment_draws=moment_draws,
        validate=validate,
    )


class AdversarialEstimate:
    """The estimate under one draw of the posterior; made by `avb`. Draws are made when they are first needed.

    Args:
        model: As for `avb`, and so are the others.
        observed: The data.
        posterior: The posterior program.
        critic: The network T.
        options: The keyword arguments of `avb`.
    """

    def __init__(
        self,
        model: Program,
        observed: Mapping[str, Tensor],
        posterior: Program,
        critic: Callable[..., Tensor],
        *,
        particles: int,
        contrast: str,
        learns: str,
        moment_draws: int,
        validate: bool,
    ) -> None:
        self._model, self._observed, self._posterior, self._critic = model, observed, posterior, critic
        self.particles, self._validate = positive_int("particles", particles), validate
        self.contrast = choice("contrast", contrast, ("prior", "adaptive"))
        self.learns = choice("learns", learns, ("ratio", "density"))
        self._moment_draws = positive_int("moment_draws", moment_draws)
        if self._moment_draws == 1:
            raise ArgumentError(
                explain("moment_draws", expected="2 or more", got=1, cure="One draw has no variance; take 64.")
            )

    # What a user reads

    @property
    def value(self) -> Tensor:
        """E log p(x|z) - T of each row, shape ``batch``, in nats, detached: a training estimate, and no bound."""
        return (self._reconstruction - self._log_ratio.mean(0)).detach()

    @property
    def terms(self) -> dict[str, Tensor]:
        """The estimate and its parts of each row, shape ``batch``, in nats, detached; the KL is the critic's."""
        reconstruction, kl = self._reconstruction.detach(), self.log_ratio.mean(0)
        return {"avb_estimate": reconstruction - kl, "reconstruction": reconstruction, "kl_estimate": kl}

    @property
    def critic_terms(self) -> dict[str, Tensor]:
        """The critic's loss in nats and the share of draws that it tells apart, of each row, shape ``batch``."""
        on_posterior, on_contrast = self.logits
        right = (on_posterior > 0).float() + (on_contrast <= 0).float()
        return {"critic_loss": self.critic_cost().detach(), "critic_accuracy": 0.5 * right.mean(0)}

    @property
    def log_ratio(self) -> Tensor:
        """What the critic says of log q(z|x) - log p(z) at the draws of q, ``[K, *batch]``, in nats, detached."""
        return self._log_ratio.detach()

    @property
    def logits(self) -> tuple[Tensor, Tensor]:
        """T on draws of q and on draws of the contrast, each ``[K, *batch]``, detached."""
        on_posterior, on_contrast = self._logits
        return on_posterior.detach(), on_contrast.detach()

    def sgvb(self, *, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Return the model's cost, shape ``batch``: its gradient is minus the estimate's, with the critic held fixed.

        Gradients flow through the critic's input, and not into its parameters, which is the whole gradient where T is
        optimal: :math:`\mathbb{E}_q \nabla_\phi \log q_\phi(z|x) = 0`.

        Args:
            kl_weight: A factor on the KL term of the cost, for a warm-up; the reported value keeps factor 1.
        """
        return kl_weight * self._log_ratio.mean(0) - self._reconstruction

    def critic_cost(self) -> Tensor:
        r"""Return the critic's logistic loss, shape ``batch``, in nats: draws of q have label 1, the contrast's 0.

        .. math:: \mathrm{softplus}(-T(z_q, x)) + \mathrm{softplus}(T(z_c, x))
        """
        return self._critic_cost

    @lazy
    def _critic_cost(self) -> Tensor:
        on_posterior, on_contrast = self._logits
        return (softplus(-on_posterior) + softplus(on_contrast)).mean(0)

    # How it is done

    @lazy
    def draw(self) -> Draw:
        """The latents with their gradients, and both traces."""
        made = draw(self._model, self._observed, self._posterior, particles=self.particles, validate=self._validate)
        self._check(made)
        return made

    @lazy
    def _frozen(self) -> Draw:
        """Draws for the critic: those of the model's cost if they were made, else new ones without gradients."""
        if "draw" in self.__dict__:
            return self.draw
        with torch.no_grad():
            made = draw(self._model, self._observed, self._posterior, particles=self.particles, validate=self._validate)
        self._check(made)
        return made

    @lazy
    def _reconstruction(self) -> Tensor:
        return self.draw.log_likelihood().mean(0)

    @lazy
    def _log_ratio(self) -> Tensor:
        """T in terms of the prior: an estimate of log q(z|x) - log p(z), shape ``[K, *batch]``."""
        made = self.draw
        z = join(made.posterior, made.latents)
        if self.contrast == "prior":
            if self.learns == "density":
                return self._logit(z, made.log_prior(), constant=True)
            logit = self._logit(z, None, constant=True)
            own = self._log_prior_of_constants() if torch.is_grad_enabled() else None
            # T does not know the prior's parameters, and log p(z) in T* does: their gradient, with the value 0.
            return logit if own is None else logit + own.detach() - own
        moments = self._moments
        unit = (z - moments.loc) / moments.scale
        log_unit = log_standard_normal(unit)
        log_contrast = log_unit - moments.scale.log().sum(-1)
        return self._logit(unit, log_unit, constant=True) + log_contrast - made.log_prior()

    def _log_prior_of_constants(self) -> Tensor | None:
        """Return log p(z), ``[K, *batch]``, as a function of the prior's parameters alone; None if it has none."""
        made = self.draw
        values = {name: made.posterior[name].detach() for name in made.latents}
        if len(values) == 1:  # its prior hangs on no other latent, so it need not be run again
            ((name, value),) = values.items()
            prior: Any = made.model.node(name).distribution
            own: Tensor = prior.log_prob(value)
            return own.expand(made.posterior.lead) if own.requires_grad else None
        return self._prior(values).log_joint(made.latents)

    @lazy
    def _logits(self) -> tuple[Tensor, Tensor]:
        """T on draws of q and on draws of the contrast, each ``[K, *batch]``, computed in one pass."""
        with torch.no_grad():
            made = self._frozen
            z = join(made.posterior, made.latents)
            if self.contrast == "prior":
                other = self._prior({})
                both = torch.cat([z, join(other, made.latents)])
                log_contrast = None
                if self.learns == "density":
                    values = {name: made.posterior[name] for name in made.latents}
                    known = self._prior(values).log_joint(made.latents), other.log_joint(made.latents)
                    log_contrast = torch.cat(known)
            else:
                moments = self._moments
                unit = (z - moments.loc) / moments.scale
                both = torch.cat([unit, torch.randn_like(unit)])
                log_contrast = log_standard_normal(both)
        on_posterior, on_contrast = self._logit(both, log_contrast).chunk(2)
        return on_posterior, on_contrast

    def _logit(self, z: Tensor, log_contrast: Tensor | None, *, constant: bool = False) -> Tensor:
        """Return T for draws ``[k, *batch, D]``, under which the contrast has log-density `log_contrast`.

        Args:
            z: The draws.
            log_contrast: Shape ``[k, *batch]``; needed where the critic learns a density.
            constant: Whether the critic's parameters count as constants; gradients still flow through z.
        """
        found = self._judge(z, constant)
        shape = z.shape[:-1]
        if isinstance(found, Tensor) and found.shape == (*shape, 1):
            found = found.squeeze(-1)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            cure = "End the critic with one output, such as lb.nn.MLP(D, [256, 256], 1)."
            expected = f"one logit a draw, shape {tuple(shape)} for z of shape {tuple(z.shape)}"
            raise ShapeError(explain("critic", expected=expected, got=got, cure=cure))
        logit = found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
        if self.learns == "ratio" or log_contrast is None:
            return logit
        # The entropy of a standard normal takes the place of a constant, so that T starts near zero.
        return logit - log_contrast - 0.5 * z.shape[-1] * (LOG_2PI + 1)

    def _judge(self, z: Tensor, constant: bool) -> Tensor:
        inputs = self._posterior.inputs
        try:
            if constant and isinstance(self._critic, nn.Module):
                found: Tensor = functional_call(self._critic, constants(self._critic), (z, *inputs), tie_weights=False)
            else:
                found = self._critic(z, *inputs)
        except TypeError as error:
            called = self._critic.forward if isinstance(self._critic, nn.Module) else self._critic
            try:
                inspect.signature(called).bind(z, *inputs)
            except TypeError:
                cure = (
                    "A critic takes z, then what the posterior is bound to: x of encoder.bind(x), nothing of q.bind()."
                )
                expected = f"a function of z and {len(inputs)} input{'s' * (len(inputs) != 1)}"
                raise ArgumentError(explain("critic", expected=expected, got=error, cure=cure)) from error
            raise
        return found

    def _prior(self, values: Mapping[str, Tensor]) -> Trace:
        """Run the model no further than its latents: given, or drawn from the prior."""
        made = self._frozen
        given = {**self._observed, **values}
        return self._model.run(given, particles=self.particles, batch=made.posterior.batch, until=made.latents)

    @lazy
    @torch.no_grad()
    def _moments(self) -> Moments:
        """The mean and the standard deviation of q for each row, by what the posterior knows or by repeated draws."""
        made = self.draw if "draw" in self.__dict__ else self._frozen
        return location_and_scale(made.posterior, made.latents, self._posterior, self._moment_draws)

    def _check(self, made: Draw) -> None:
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self._posterior.net.parameters())
        for name in made.latents:
            node = made.posterior.node(name)
            if not node.pathwise or not node.value.is_floating_point():
                cure = "Draw it by a differentiable sampler, or from a distribution with rsample."
                implicit = node.distribution is None
                got = node.value.dtype if implicit else type(_base(node.distribution)).__name__
                raise NodeError(explain(f"avb at node {name!r}", expected="a pathwise draw", got=got, cure=cure))
            if node.scale != 1.0 or node.mask is not None:
                cure, expected = "Use lb.elbo or lb.iw_objective.", "a latent that counts once, as a critic sees it"
                raise NodeError(explain(f"avb at node {name!r}", expected=expected, got="a scale or a mask", cure=cure))
        if trained and not any(made.posterior[name].requires_grad for name in made.latents):
            names = ", ".join(made.latents)
            cure = "Compute the draw from the network's output with gradients on; no .detach(), no torch.no_grad()."
            expected = "a draw that depends on the posterior's parameters"
            raise NodeError(explain(f"avb at node {names}", expected=expected, got="one without a gradient", cure=cure))
        explicit = all(made.posterior.node(name).kind == "stochastic" for name in made.latents)
        if explicit and not torch.compiler.is_compiling():
            text = (
                "Every node of this posterior has a density, so a true lower bound is available: lb.elbo or "
                "lb.iw_objective. AVB goes on with its critic's estimate."
            )
            warnings.warn(text, TrainingWarning, stacklevel=2)


def _base(distribution: Any) -> Any:
    return getattr(distribution, "base_dist", distribution)


class AVB(BoundObjective):
    """Adversarial variational Bayes as a training objective with two players, the model and the critic.

    Args:
        model: The pair of programs; the posterior may be implicit.
        critic: The network T, called as ``critic(z, x)``; None for the model's own, ``model.critic``.
        particles: The number K of draws of every latent.
        contrast: ``"prior"``, or ``"adaptive"`` for the moments of q for each row.
        learns: ``"density"`` or ``"ratio"``, what the critic's network is.
        critic_steps: Updates of the critic for each of the model's, each with fresh noise.
        critic_lr: The critic's learning rate; None for the run's.
        critic_schedule: The critic's schedule; None for the run's.
        moment_draws: Draws behind the moments of latents whose moments the posterior does not know; so many times the
            posterior runs again in every turn, so take a sampler that knows them where you can.

    Raises:
        ArgumentError: if there is no critic, it shares parameters with the model, or an argument is out of range.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> objective = lb.objectives.AVB(lb.models.ImplicitVAE(event_shape=(4,), latent_dim=2, hidden=(8,)))
        >>> [player.name for player in objective.players()]
        ['model', 'critic']
        >>> sorted(objective(torch.ones(3, 4), "critic").terms)
        ['critic_accuracy', 'critic_loss']
    """

    certified = False

    def __init__(
        self,
        model: Model,
        critic: nn.Module | None = None,
        *,
        particles: int = 1,
        contrast: Literal["prior", "adaptive"] = "prior",
        learns: Literal["ratio", "density"] = "density",
        critic_steps: int = 2,
        critic_lr: float | None = None,
        critic_schedule: str | None = None,
        moment_draws: int = 64,
    ) -> None:
        super().__init__(model, particles=particles)
        own = getattr(model, "critic", None)
        if not isinstance(own if critic is None else critic, nn.Module):
            cure = "Pass critic=lb.nn.MLPCritic(event_shape, latent_dim), or a model that has one."
            raise ArgumentError(explain("critic", expected="a torch module", got=type(critic).__name__, cure=cure))
        self.given_critic = None if critic is own else critic
        shared = {id(p) for p in self.critic.parameters()} & {id(p) for p in self._model_parameters()}
        if shared:
            cure = "Give each player parameters of its own."
            expected = "a critic that shares no parameter with generator and posterior"
            raise ArgumentError(explain("critic", expected=expected, got=f"{len(shared)} in common", cure=cure))
        self.contrast = choice("contrast", contrast, ("prior", "adaptive"))
        self.learns = choice("learns", learns, ("ratio", "density"))
        self.critic_steps = positive_int("critic_steps", critic_steps)
        self.moment_draws = positive_int("moment_draws", moment_draws)
        if critic_lr is not None:
            number("critic_lr", critic_lr, low=0.0, open_low=True)
        self.critic_lr, self.critic_schedule = critic_lr, critic_schedule

    @property
    def critic(self) -> nn.Module:
        """The network T: the one that was given, or the model's own."""
        own: Any = self.model
        found: nn.Module = own.critic if self.given_critic is None else self.given_critic
        return found

    def players(self) -> tuple[Player, ...]:
        """Return the model (both programs) and the critic."""
        model = tuple(dict.fromkeys(p for p in self._model_parameters() if p.requires_grad))
        critic = tuple(p for p in self.critic.parameters() if p.requires_grad)
        given = {"lr": self.critic_lr, "schedule": self.critic_schedule}
        settings = {name: value for name, value in given.items() if value is not None}
        return (Player("model", model), Player("critic", critic, self.critic_steps, settings))

    def _model_parameters(self) -> list[nn.Parameter]:
        return [*self.model.generator.parameters(), *self.model.posterior.parameters()]

    def estimate(self, x: Tensor, *, particles: int | None = None, validate: bool = False) -> AdversarialEstimate:
        """Return the estimate of a batch, shape ``[B, *event_shape]``; None stands for the objective's particles."""
        return avb(
            *self.model.programs(x),
            self.critic,
            particles=self.particles if particles is None else particles,
            contrast=self.contrast,  # type: ignore[arg-type]
            learns=self.learns,  # type: ignore[arg-type]
            moment_draws=self.moment_draws,
            validate=validate,
        )

    def forward(self, x: Tensor, player: str = "model") -> Outcome:
        """Return the mean cost of a batch for a player, and the terms that the player shows."""
        estimate = self.estimate(x)
        if player == "critic":
            cost, terms = estimate.critic_cost(), estimate.critic_terms
        else:
            cost, terms = estimate.sgvb(kl_weight=self.kl_weight), estimate.terms
        return Outcome(cost.mean(), {name: term.mean() for name, term in terms.items()})

    def validate(self, x: Tensor) -> None:
        """Raise an error that names the cure if the programs or the critic cannot take `x`, ``[B, *event_shape]``."""
        with torch.no_grad():
            estimate = self.estimate(x, validate=True)
            estimate.value  # noqa: B018 (the property draws, and drawing checks)
            estimate.critic_cost()

    def remarks(self, terms: Mapping[str, float]) -> list[str]:
        """Return what an epoch's mean terms say of the critic's health; in words, with the cures to try."""
        cures = (
            "Try contrast='adaptive', a KL warm-up, fewer critic steps or a lower critic_lr; "
            "or a sampler that starts closer to the prior"
        )
        if terms.get("critic_accuracy", 0.5) > 0.995:
            return [
                f"The critic tells {terms['critic_accuracy']:.1%} of the draws apart (loss {terms['critic_loss']:.3f} "
                f"nats): T is saturated, and its gradient says little to the posterior. {cures}."
            ]
        if terms.get("kl_estimate", 0.0) < -0.5:
            return [
                f"The critic's KL is {terms['kl_estimate']:.2f} nats, and a KL is never negative: the critic lags "
                "behind the posterior. Try more critic steps or a higher critic_lr."
            ]
        return []

    def describe(self) -> dict[str, Any]:
        """Return the class, its arguments and the model, as plain values."""
        return {
            **super().describe(),
            "critic": type(self.critic).__name__,
            "own_critic": self.given_critic is None,
            "contrast": self.contrast,
            "learns": self.learns,
            "critic_steps": self.critic_steps,
            "critic_lr": self.critic_lr,
            "critic_schedule": self.critic_schedule,
            "moment_draws": self.moment_draws,
        }
