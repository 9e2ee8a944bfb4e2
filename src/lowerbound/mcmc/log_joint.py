r"""The latents of a stochastic program, given its data, as positions without constraints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.core.numerics import unvalidated
from lowerbound.core.random import seeded

__all__ = ["LogJoint"]


class LogJoint:
    r"""The log-joint of a bound program as a function of its latents, transformed to the whole real line.

    .. math:: \log \pi(u) = \log p(x, t(u)) + \log \lvert \det t'(u) \rvert

    where t is the bijection that torch has for the support of each latent (`torch.distributions.biject_to`). It is the
    log-density of the posterior but for the constant log p(x).

    Args:
        program: A bound program, ``net.bind(...)``; all that it draws when the data are observed are latents.
        observed: The data by node name.

    Attributes:
        names: The names of the latents.
        batch: The batch shape of the program, without chains.

    Raises:
        NodeError: if a latent is discrete or has no density, or its support is unknown or depends on other latents.

    Example:
        >>> from torch.distributions import Gamma, Poisson
        >>> class Counts(lb.BayesianNet):
        ...     def forward(self, bn):
        ...         rate = bn.sample("rate", Gamma(torch.tensor(2.0), 1.0))
        ...         bn.sample("n", Poisson(rate[..., None].expand(*bn.particles, 3)), event_dims=1)
        >>> target = LogJoint(Counts().bind(), {"n": torch.tensor([3.0, 5.0, 4.0])})
        >>> samples = lb.mcmc.run(lb.mcmc.HMC(leapfrogs=3), target, target.initial(chains=9), warmup=80, draws=80)
        >>> bool((samples.draws["rate"].mean() - 14 / 4).abs() < 0.4)  # the posterior is Gamma(14, 4)
        True
    """

    def __init__(self, program: Any, observed: Mapping[str, Tensor]) -> None:
        self.program, self.observed = program, dict(observed)
        with seeded(0, "log joint"), torch.no_grad():
            first, second = (program.run(self.observed, particles=3, validate=True) for _ in range(2))
        self.names: list[str] = first.random_names(observed=False)
        if not self.names:
            cure = "Leave at least one random node unobserved."
            raise NodeError(explain("program", expected="latents to sample", got="none", cure=cure))
        self.bijections = {name: _bijection(name, first.node(name), second.node(name)) for name in self.names}
        self.batch: tuple[int, ...] = first.batch

    def __call__(self, position: Mapping[str, Tensor]) -> Tensor:
        """Return the log-density, shape ``[chains, *batch]``, at positions by name, each ``[chains, *batch, ...]``."""
        with unvalidated():
            trace, log_det = self.trace(position)
            log_density: Tensor = trace.log_joint() + log_det
        return log_density

    def trace(self, position: Mapping[str, Tensor]) -> tuple[Any, Tensor]:
        """Return the program's trace at positions, and the sum of the log-determinants, ``[chains, *batch]``."""
        values = self.constrain(position)
        chains = len(next(iter(values.values())))
        given = {**self.observed, **values}
        trace = self.program.run(given, particles=chains, batch=self.batch, complete=True)
        return trace, self.log_det(position, values)

    def log_det(self, position: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
        """Return the log-determinant of `constrain`, shape ``[chains, *batch]``."""
        total: Any = 0.0
        for name, bijection in self.bijections.items():
            log_det = bijection.log_abs_det_jacobian(position[name], values[name])
            lead = 1 + len(self.batch)
            total = total + log_det.flatten(lead).sum(-1) if log_det.dim() > lead else total + log_det
        found: Tensor = total
        return found

    def constrain(self, position: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the latents' values by name, inside their supports."""
        return {name: bijection(position[name]) for name, bijection in self.bijections.items()}

    def unconstrain(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the positions of values ``[chains, *batch, *event]``."""
        return {name: bijection.inv(values[name]) for name, bijection in self.bijections.items()}

    @torch.no_grad()
    def initial(self, *, chains: int, seed: int = 0) -> dict[str, Tensor]:
        """Return draws from the latents' prior as positions, ``[chains, *batch, ...]``."""
        with seeded(seed, "initial"):
            trace = self.program.run(self.observed, particles=positive_int("chains", chains))
        return self.unconstrain({name: trace[name] for name in self.names})

    def given(self, program: Any, observed: Mapping[str, Tensor]) -> LogJoint:
        """Return the same latents given other data, such as the next minibatch; the program is not looked at again."""
        other: LogJoint = object.__new__(type(self))
        other.__dict__.update(self.__dict__, program=program, observed=dict(observed))
        return other

    def minibatches(self, pairs: Iterable[tuple[Any, Mapping[str, Tensor]]]) -> LogJoint:
        """Return a log-joint of the same latents that is given the next program and its data at every call.

        It is what the stochastic-gradient kernels are for. The likelihood's ``scale=N / B`` lets B rows stand for all.

        Args:
            pairs: Bound programs, each with its observed data; without end, or two more than there will be steps. Data
                of shape ``[chains, B, ...]`` are a minibatch of its own for every chain.

        Raises:
            ArgumentError: at a call, if there are no more pairs.

        Example:
            >>> from torch.distributions import LogNormal, Poisson
            >>> class Counts(lb.BayesianNet):
            ...     def forward(self, bn, rows, scale):
            ...         rate = bn.sample("rate", LogNormal(0.0, 1.0))
            ...         bn.sample("n", Poisson(rate[..., None].expand(*bn.particles, rows)), event_dims=1, scale=scale)
            >>> counts, net = torch.tensor([3.0, 5.0, 4.0, 8.0, 5.0, 2.0]), Counts()
            >>> halves = ((net.bind(3, 2.0), {"n": counts[torch.randperm(6)[:3]]}) for _ in range(1000))
            >>> target = LogJoint(net.bind(6, 1.0), {"n": counts})
            >>> start = target.initial(chains=9)
            >>> samples = lb.mcmc.run(lb.mcmc.SGLD(1e-2), target.minibatches(halves), start, warmup=80, draws=80)
            >>> bool((samples.draws["rate"].mean() - counts.mean()).abs() < 1)
            True
        """
        other = _Minibatches.__new__(_Minibatches)
        other.__dict__.update(self.__dict__, whole=self, pairs=iter(pairs))
        return other


class _Minibatches(LogJoint):
    """A log-joint that asks for other data at every call."""

    whole: LogJoint
    pairs: Iterator[tuple[Any, Mapping[str, Tensor]]]

    def given(self, program: Any, observed: Mapping[str, Tensor]) -> LogJoint:
        return self.whole.given(program, observed)

    def trace(self, position: Mapping[str, Tensor]) -> tuple[Any, Tensor]:
        pair = next(self.pairs, None)
        if pair is None:
            cure = "Let them go on without end, with itertools.cycle or a generator; every step takes one."
            raise ArgumentError(explain("minibatches", expected="one for every step", got="no more", cure=cure))
        return self.whole.given(*pair).trace(position)


def _bijection(name: str, node: Any, again: Any) -> Transform:
    """Return the bijection from the real line onto the support of a node, which two runs agree on."""
    if node.distribution is None:
        cure = "Give it a density with bn.sample."
        raise NodeError(explain(f"node {name!r}", expected="a latent with a density", got="an implicit one", cure=cure))
    try:
        support, other = node.distribution.support, again.distribution.support
        if support.is_discrete:
            cure = (
                "Sum it out in the model (torch.distributions.MixtureSameFamily), observe it, or fit a posterior with "
                "lb.iw_objective(...).vimco() or lb.klpq."
            )
            kind = f"a discrete one with support {support}"
            raise NodeError(explain(f"node {name!r}", expected="a continuous latent", got=kind, cure=cure))
        bounds, others = (list(_bounds(one)) for one in (support, other))
        if any(not torch.equal(a, b) for a, b in zip(bounds, others, strict=True)):
            cure = "Draw it on a fixed support, such as Uniform(0, 1), and compute the rest with bn.deterministic."
            got = "one that depends on other latents"
            raise NodeError(explain(f"node {name!r}", expected="a fixed support", got=got, cure=cure))
        found: Transform = biject_to(_without_mixtures(support))
        return found
    except NotImplementedError as error:
        cure = "Give the distribution a support of torch.distributions.constraints."
        raise NodeError(explain(f"node {name!r}", expected="a known support", got=repr(error), cure=cure)) from error


def _bounds(support: Any) -> Iterator[Tensor]:
    """Yield the numbers that a support is made of."""
    for value in vars(support).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, constraints.Constraint):
            yield from _bounds(value)


def _without_mixtures(support: Any) -> Any:
    """Return the support of the components where torch has a constraint of its own for mixtures."""
    return support.base_constraint if type(support).__name__ == "MixtureSameFamilyConstraint" else support
