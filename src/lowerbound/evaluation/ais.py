r"""Annealed importance sampling: log p(x) of any program with continuous latents, from below and nearly tight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from lowerbound.core.checks import choice, positive_int
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.core.numerics import unvalidated
from lowerbound.evaluation.fitted import FittedGaussian, fitted_gaussian
from lowerbound.mcmc import LogJoint, pack
from lowerbound.mcmc.hmc import Point, transition
from lowerbound.net import Program
from lowerbound.net.supports import peel

__all__ = [
    "Annealed",
    "Path",
    "Settings",
    "ais",
    "anneal",
    "check_annealing",
    "gaussian_start",
    "gradients",
    "schedule_of",
    "tune",
]

_LEVELS, _PER_LEVEL, _FIRST = 50, 2, 20  # of the preliminary run: levels, transitions at each, and at the first of them
_ACCEPTANCE, _GAIN = 0.7, 0.5
_JITTER = 0.3  # of the trajectories' lengths
_SIGMOID = 4.0  # the schedule's reach to both sides


@dataclass(frozen=True)
class Annealed:
    """What annealed importance sampling found.

    Attributes:
        log_weights: Of every chain, float64 ``[chains, *batch]``, in nats: each weight has mean p(x).
        acceptance: The mean acceptance probability, ``[*batch]``.
    """

    log_weights: Tensor
    acceptance: Tensor

    @property
    def value(self) -> Tensor:
        """The logarithm of the mean weight, float64 ``[*batch]``: a lower bound of log p(x) in expectation."""
        return self.log_weights.logsumexp(0) - math.log(len(self.log_weights))

    @property
    def ess(self) -> Tensor:
        r"""The effective number of chains, :math:`(\sum w)^2 / \sum w^2`, ``[*batch]``."""
        return (2 * self.log_weights.logsumexp(0) - (2 * self.log_weights).logsumexp(0)).exp()

    @property
    def stderr(self) -> Tensor:
        """The standard error of `value` over chains, ``[*batch]``, to first order."""
        weights = (self.log_weights - self.log_weights.logsumexp(0)).exp() * len(self.log_weights)
        return weights.std(0) / math.sqrt(len(weights))


class Settings(NamedTuple):
    """What the transitions are made with; the chains that use them have had no part in them.

    Attributes:
        step_size: Shape ``[levels, *batch]``.
        variance: The inverse masses, shape ``[levels, D]``.
    """

    step_size: Tensor
    variance: Tensor


@torch.no_grad()
def ais(
    program: Program,
    observed: Mapping[str, Tensor],
    initial: Program | None = None,
    *,
    chains: int = 16,
    temperatures: int = 1000,
    schedule: str | Sequence[float] = "sigmoid",
    leapfrogs: int = 2,
) -> Annealed:
    r"""Estimate log p(x) of every row by annealing chains from an initial distribution to the posterior.

    .. math:: f_\beta(z) = r(z)^{1 - \beta}\, p(x, z)^\beta, \quad \mathbb{E}\, w = p(x), \quad
        \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{r(z_{t-1})}

    with :math:`z_0 \sim r` and :math:`z_t` from a Hamiltonian transition that leaves :math:`f_{\beta_t}` invariant. So
    the logarithm of the mean weight is a lower bound of log p(x) in expectation, whatever r, the schedule and the
    transitions are. All rows and chains go through the model in one call. Step sizes (of every row) and masses (of
    every latent) are tuned level by level in a preliminary run with chains of its own, and then frozen. Draws come from
    torch's global generators.

    Args:
        program: The bound model; all its latents are continuous, and drawn for each row.
        observed: The data by node name, ``[*batch, *event]``.
        initial: A bound program that draws the same latents from densities, r; None for the model's own prior. See
            `lowerbound.evaluation.gaussian_start`.
        chains: The number of chains a row, at least two.
        temperatures: The number T of steps from r to the posterior.
        schedule: ``"sigmoid"``, with small steps at both ends, ``"linear"``, or the T + 1 increasing numbers
            :math:`\beta_t` from 0 to 1.
        leapfrogs: The leapfrog steps of a transition; for the same work, few steps at many temperatures tell more.

    Returns:
        The log-weights, with `value`, `stderr` and `ess` of every row.

    Raises:
        ArgumentError: if a number is out of its range or the schedule does not increase from 0 to 1.
        NodeError: if a latent is discrete, has no density or is weighted, or `initial` draws other latents.

    Source: Neal, Annealed Importance Sampling (2001); Wu, Burda, Salakhutdinov and Grosse, On the Quantitative Analysis
    of Decoder-Based Generative Models (2017).

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, hidden=(8,))
        >>> program, observed, _ = model.programs(torch.eye(4))
        >>> found = ais(program, observed, chains=5, temperatures=20, leapfrogs=2)
        >>> exact, _ = lb.evaluation.quadrature(model.generator, torch.eye(4))
        >>> found.log_weights.shape, bool((found.value - exact).abs().max() < 0.1)
        (torch.Size([5, 4]), True)
    """
    betas = schedule_of(schedule, positive_int("temperatures", temperatures))
    path = Path(program, observed, initial, chains=chains)
    settings = tune(path, betas, leapfrogs=positive_int("leapfrogs", leapfrogs))
    return anneal(path, path.draw(), betas, settings, leapfrogs=leapfrogs)


def schedule_of(schedule: str | Sequence[float], temperatures: int) -> list[float]:
    r"""Return the T + 1 inverse temperatures from 0 to 1.

    The sigmoid is :math:`\sigma(4 (2t / T - 1))`, moved and scaled so that it begins at 0 and ends at 1.

    Raises:
        ArgumentError: if the name is unknown, or numbers do not increase from 0 to 1.

    Example:
        >>> schedule_of("linear", 4), [round(beta, 3) for beta in schedule_of("sigmoid", 4)]
        ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.105, 0.5, 0.895, 1.0])
    """
    if isinstance(schedule, str):
        even = [t / temperatures for t in range(temperatures + 1)]
        if choice("schedule", schedule, ("sigmoid", "linear")) == "linear":
            return even
        bent = [math.tanh(0.5 * _SIGMOID * (2 * u - 1)) / math.tanh(0.5 * _SIGMOID) for u in even]
        return [0.0, *(0.5 * (1 + b) for b in bent[1:-1]), 1.0]
    betas = [float(beta) for beta in schedule]
    if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or any(not a < b for a, b in pairwise(betas)):
        cure = "Begin with 0, end with 1, and let every number be larger than the one before."
        shown = ", ".join(f"{beta:g}" for beta in betas[:6]) + (", ..." if len(betas) > 6 else "")
        raise ArgumentError(explain("schedule", expected="numbers that increase from 0 to 1", got=shown, cure=cure))
    return betas


def check_annealing(chains: int, temperatures: int = 1) -> None:
    """Raise an `ArgumentError` if the numbers of chains and temperatures are out of their ranges."""
    if positive_int("chains", chains) < 2:
        cure = "Pass chains=16, for example: their spread is what tells the error."
        raise ArgumentError(explain("chains", expected="at least two", got=chains, cure=cure))
    positive_int("temperatures", temperatures)


class Path:
    r"""The way from an initial distribution r to the posterior: what it is evaluated and drawn with.

    Args:
        program: The bound model.
        observed: The data by node name.
        initial: A bound program of the same latents; None for the prior.
        chains: The number of chains a row.
    """

    def __init__(
        self, program: Program, observed: Mapping[str, Tensor], initial: Program | None, *, chains: int
    ) -> None:
        check_annealing(chains)
        self.target, self._initial, self._chains = LogJoint(program, observed), initial, chains
        self._check(program, observed)
        self._packed = pack(self.target, self._positions())

    def draw(self) -> Tensor:
        """Return draws of the initial distribution, ``[chains, *batch, D]``."""
        return self.flat(self._positions())

    def flat(self, positions: Mapping[str, Tensor]) -> Tensor:
        """Return positions by name as vectors, ``[chains, *batch, D]``."""
        return self._packed.flat(positions)

    def evaluate(self, flat: Tensor, beta: float) -> Point:
        r"""Return the point with log-density :math:`\log f_\beta` at vectors ``[chains, *batch, D]``."""
        with torch.enable_grad(), unvalidated():
            leaf = flat.detach().requires_grad_()
            positions = self._packed.unpack(leaf)
            trace, log_det = self.target.trace(positions)
            log_p = trace.log_joint() + log_det
            if self._initial is not None:
                values = {name: trace[name] for name in self.target.names}
                options: Any = {"particles": len(flat), "batch": trace.batch, "complete": True}
                trace = self._initial.run(values, **options)
            log_r = trace.log_joint(self.target.names) + log_det
            (grad_r,) = torch.autograd.grad(log_r.sum(), leaf, retain_graph=True)
            (grad_p,) = torch.autograd.grad(log_p.sum(), leaf)
        return self.at(flat, (log_r.detach(), log_p.detach(), grad_r, grad_p), beta)

    @staticmethod
    def at(position: Tensor, parts: tuple[Tensor, ...], beta: float) -> Point:
        """Return the point with parts that were computed at another temperature."""
        log_r, log_p, grad_r, grad_p = parts
        return Point(position, torch.lerp(log_r, log_p, beta), torch.lerp(grad_r, grad_p, beta), parts)

    def _positions(self) -> dict[str, Tensor]:
        program, given = (self.target.program, self.target.observed) if self._initial is None else (self._initial, None)
        trace = program.run(given, particles=self._chains)
        return self.target.unconstrain({name: trace[name] for name in self.target.names})

    def _check(self, program: Program, observed: Mapping[str, Tensor]) -> None:
        """Raise a `NodeError` unless both ends of the path are normalised densities of the same latents."""
        ends = [("model", program.run(observed, particles=2))]
        if self._initial is not None:
            ends.append(("initial distribution", self._initial.run(particles=2)))
        for what, trace in ends:
            names = trace.random_names(observed=False)
            if set(names) != set(self.target.names):
                cure = "Draw every latent of the model in it, and nothing else."
                expected = f"the latents {', '.join(self.target.names)}"
                raise NodeError(explain(what, expected=expected, got=", ".join(names) or "none", cure=cure))
            for node in map(trace.node, names):
                if node.kind != "stochastic":
                    cure = "Start from lb.evaluation.fitted_gaussian(posterior), or from the prior."
                    raise NodeError(
                        explain(f"node {node.name!r}", expected="a density", got="an implicit draw", cure=cure)
                    )
                if node.scale != 1 or node.mask is not None:
                    cure = "Leave scale and mask to the data; log p(x) is of latents that count once."
                    raise NodeError(
                        explain(f"node {node.name!r}", expected="a whole latent", got="a weighted one", cure=cure)
                    )
        outside = [n for n, u in self._positions().items() if not bool(u.isfinite().all())]
        if outside:
            cure = "Start from the prior: initial=None."
            got = "draws outside of the model's support"
            raise NodeError(explain(f"node {outside[0]!r} of the start", expected="draws inside", got=got, cure=cure))


def tune(path: Path, betas: Sequence[float], *, leapfrogs: int) -> Settings:
    """Run chains quickly along a path and return the step sizes and the variances that suit every level of it.

    The step sizes of a row follow the mean acceptance of its chains, up or down; the variances are those within rows,
    averaged over rows.
    """
    inner = betas[1:-1] or betas[1:]
    levels = min(_LEVELS, len(inner))
    position = path.draw()
    point = path.evaluate(position, inner[0])
    log_step = torch.full_like(point.log_prob[0], math.log(0.5))
    step_sizes, variances = [], []
    for level in range(levels):
        beta = inner[(2 * level + 1) * len(inner) // (2 * levels)]  # in the middle of the level
        for count in range(_FIRST if level == 0 else _PER_LEVEL):
            if count < _PER_LEVEL:
                variance = _pooled_variance(point.position)
            point = Path.at(point.position, point.parts, beta)
            point, info = _move(path, point, beta, log_step.exp(), variance, leapfrogs)
            log_step = log_step + _GAIN * (info.acceptance.mean(0) - _ACCEPTANCE)
        step_sizes.append(log_step.exp())
        variances.append(variance)
    return Settings(torch.stack(step_sizes), torch.stack(variances))


def gradients(temperatures: int, *, leapfrogs: int = 2, both_ways: bool = False) -> int:
    """Return how many gradients annealing takes, the preliminary run included."""
    levels = min(_LEVELS, max(temperatures - 1, 1))
    preliminary = _FIRST + (levels - 1) * _PER_LEVEL
    return 2 + both_ways + leapfrogs * (preliminary + (1 + both_ways) * max(temperatures - 1, 0))


def anneal(
    path: Path,
    start: Tensor,
    betas: Sequence[float],
    settings: Settings,
    *,
    leapfrogs: int,
    reverse: bool = False,
) -> Annealed:
    """Move chains along a path and gather their log-weights.

    Args:
        path: The path.
        start: Where the chains start, ``[chains, *batch, D]``: draws of the initial distribution, or, for `reverse`,
            exact draws of the posterior.
        betas: The inverse temperatures from 0 to 1.
        settings: What the transitions are made with.
        leapfrogs: The leapfrog steps of a transition.
        reverse: Whether the chains go from the posterior to the initial distribution; each weight is then one of
            1 / p(x).

    Returns:
        The log-weights.
    """
    levels, last = len(settings.step_size), len(betas) - 1
    order = range(last, -1, -1) if reverse else range(last + 1)
    point = path.evaluate(start, betas[order[0]])
    log_weights = torch.zeros_like(point.log_prob, dtype=torch.float64)
    acceptance = torch.zeros_like(point.log_prob)
    for i, j in pairwise(order):
        log_r, log_p, *_ = point.parts
        log_weights += (betas[j] - betas[i]) * (log_p.double() - log_r.double())
        if j != order[-1]:
            level = (j - 1) * levels // max(last - 1, 1)
            point = Path.at(point.position, point.parts, betas[j])
            point, info = _move(path, point, betas[j], settings.step_size[level], settings.variance[level], leapfrogs)
            acceptance += info.acceptance
    return Annealed(log_weights, (acceptance / max(last - 1, 1)).mean(0))


def _move(
    path: Path, point: Point, beta: float, step_size: Tensor, variance: Tensor, leapfrogs: int
) -> tuple[Point, Any]:
    """Make a transition that leaves the density at an inverse temperature invariant."""
    factor = 1 + _JITTER * (2 * torch.rand_like(point.log_prob) - 1)
    return transition(lambda flat: path.evaluate(flat, beta), point, step_size * factor, variance, leapfrogs)


def _pooled_variance(positions: Tensor) -> Tensor:
    """Return the variances of chains ``[chains, *batch, D]``, averaged over rows and drawn to their mean, ``[D]``."""
    within = positions.var(0).reshape(-1, positions.shape[-1]).mean(0)
    n = (len(positions) - 1) * positions[0, ..., 0].numel()
    return ((n * within + 5 * within.mean()) / (n + 5)).clamp_min(1e-12)


def gaussian_start(program: Program, observed: Mapping[str, Tensor], posterior: Program) -> Program | None:
    """Return a Gaussian near the posterior to start from: the encoder's own, else one fitted to its draws.

    Args:
        program: The bound model.
        observed: The data by node name.
        posterior: The bound posterior program, implicit or not.

    Returns:
        A bound program of the model's latents; None, for the prior, if they are not on the whole real line.

    Example:
        >>> model = lb.models.ImplicitVAE(event_shape=(4,), latent_dim=2)
        >>> start = gaussian_start(*model.programs(torch.eye(4)))
        >>> ais(*model.programs(torch.eye(4))[:2], start, chains=2, temperatures=3).value.shape
        torch.Size([4])
    """
    target = LogJoint(program, observed)
    position = target.initial(chains=2)
    if any(not torch.equal(value, position[name]) for name, value in target.constrain(position).items()):
        return None
    trace = posterior.run(particles=1)
    names = trace.random_names(observed=False)
    own = {name: trace.node(name).distribution for name in names}
    if len(own) == 1 and isinstance(_base(own[names[0]]), (Normal, MultivariateNormal)):
        return FittedGaussian({name: d for name, d in own.items() if d is not None}).bind()
    return fitted_gaussian(posterior)


def _base(distribution: Any) -> Any:
    return None if distribution is None else peel(distribution)[0]
