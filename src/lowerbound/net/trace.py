"""The record of one run of a stochastic program: what was drawn or observed, and how probable it was.

Shapes. A node's value has shape ``lead + event_shape`` and its log-probability has shape ``lead``, where
``lead = particles + batch``: ``particles`` is ``(K,)`` when an objective draws the program and ``()`` otherwise,
and ``batch`` is the batch shape of the program's first node, usually ``(B,)``. A distribution may have batch shape
``lead`` (its parameters depend on other nodes), ``batch`` (they depend on inputs only) or ``()`` (they are shared).
Anything else is an error at that node, because broadcasting would turn it into a wrong number without a sound.

Latents for all rows. What is drawn once for the whole data set, such as the weights of a network, has batch shape
``()``; the batch shape of the program is ``()`` then, and the rows of a node below it are an event: `event_dims` covers
their axis. So every log-probability has shape ``[K]``, and a bound takes its logarithm of a mean over particles, or its
mean, of the sum over all rows, never row by row. Rows of a minibatch stand for all N of them by ``scale=N / B``, at the
data and, in both programs, at latents that belong to single rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.core.checks import number, suggestion
from lowerbound.core.errors import NodeError, explain
from lowerbound.net.masks import check_mask, masked_log_prob
from lowerbound.net.supports import check_parameters, check_support

__all__ = ["Moments", "Node", "Reached", "Replace", "Trace"]

Moments = Callable[[], tuple[Tensor, Tensor]]
"""A function that returns the mean and the variance of a draw without a density."""


Replace = Callable[[str, Distribution], Distribution]
"""A function from the name and the distribution of a node to the distribution that takes its place."""


class Reached(Exception):  # noqa: N818 (no error: it ends a run that has drawn all that was asked for)
    """Raised inside a program when the last node that its run waits for is there."""


class Node:
    """One named variable of a trace.

    Attributes:
        name: Its name.
        distribution: Its distribution, events included; None for a deterministic or an implicit node.
        value: Its value, shape ``lead + event_shape``.
        kind: ``"stochastic"``, ``"implicit"`` (a draw without a density) or ``"deterministic"``.
        observed: Whether the value was given rather than drawn.
        pathwise: Whether gradients flow through the draw into the distribution's parameters.
        scale: The factor on its log-probability.
        mask: Which entries count, as `bn.sample` takes it; None for all.
        moments: For an implicit node, a function that returns the draw's mean and variance, if the program knows them.
    """

    __slots__ = (
        *("_log_prob", "_value", "_version", "distribution", "kind", "mask", "moments", "name", "observed"),
        *("pathwise", "scale"),
    )

    def __init__(
        self,
        name: str,
        value: Tensor | Callable[[], Tensor],
        *,
        kind: str,
        distribution: Distribution | None = None,
        observed: bool = False,
        pathwise: bool = False,
        log_prob: Tensor | None = None,
        moments: Moments | None = None,
        scale: float = 1.0,
        mask: Tensor | None = None,
    ) -> None:
        self.name, self._value, self.kind = name, value, kind
        self.scale, self.mask = scale, mask
        self.distribution, self.observed, self.pathwise = distribution, observed, pathwise
        self.moments = moments
        self._log_prob = log_prob
        unversioned = not isinstance(value, Tensor) or torch.compiler.is_compiling() or value.is_inference()
        self._version = None if unversioned else value._version  # type: ignore[union-attr]

    @property
    def value(self) -> Tensor:
        """The value; one that was given as a function is computed when it is first read."""
        if not isinstance(self._value, Tensor):
            self._value = self._value()
        return self._value

    def log_prob(self, *, weighted: bool = True) -> Tensor:
        """Return the log-probability (density) of the value's observed entries times `scale`, in nats.

        It is not spread over `lead` yet.

        Args:
            weighted: False for the log-probability of the value as it was drawn, without scale and mask.
        """
        if self.distribution is None:
            cure = (
                "It has no density; use an objective for implicit posteriors."
                if self.kind == "implicit"
                else "Only bn.sample makes a random variable."
            )
            raise NodeError(explain(f"node {self.name!r}", expected="a node with a density", got=self.kind, cure=cure))
        self.require_unchanged()
        if not weighted and self.mask is not None:
            return self.distribution.log_prob(self.value)
        if self._log_prob is None:
            try:
                if self.mask is None:
                    self._log_prob = self.distribution.log_prob(self.value)
                else:
                    self._log_prob = masked_log_prob(self.name, self.distribution, self.value, self.mask)
            except ValueError as error:  # torch's own check of the support
                raise NodeError(f"node {self.name!r}: {error}") from error
        return self._log_prob if self.scale == 1.0 or not weighted else self.scale * self._log_prob

    def require_unchanged(self) -> None:
        """Raise a `NodeError` if the value was changed in place since it was drawn or given."""
        if self._version is not None and self.value._version != self._version:
            cure = "Make a new tensor instead, for example z.clamp(...) for z.clamp_(...)."
            raise NodeError(
                explain(f"node {self.name!r}", expected="its value as drawn", got="an in-place change", cure=cure)
            )


class Trace(Mapping[str, Tensor]):
    """The named values of one run of a `BayesianNet`; a program receives it as its first argument, ``bn``.

    ``trace[name]`` is the value of a node, a plain tensor.

    Args:
        values: Values of nodes that are not to be drawn.
        particles: Number of draws K of every latent, on axis 0; None for no such axis.
        batch: The batch shape; None to take it from the first node.
        pathwise: True to draw with `rsample` and refuse nodes that have none, False to draw with `sample`, None to
            use `rsample` where there is one.
        complete: Whether every stochastic node must be given in `values`.
        validate: Whether to check every distribution's parameters and every given value against its support.
        until: Names of nodes; the program is left as soon as all of them are there. None to run it to its end.
        replace: A function that puts another distribution over the same events in a node's place, given its name.
        score: Whether log-probabilities of given values are computed at once and not when they are asked for: the
            networks of some distributions (flows) run only then, and would not see what holds during the run only.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor] | None = None,
        *,
        particles: int | None = None,
        batch: tuple[int, ...] | None = None,
        pathwise: bool | None = None,
        complete: bool = False,
        validate: bool = False,
        until: Collection[str] | None = None,
        replace: Replace | None = None,
        score: bool = False,
    ) -> None:
        self._values = dict(values or {})
        self._nodes: dict[str, Node] = {}
        self._particles: tuple[int, ...] = () if particles is None else (particles,)
        self._batch = batch
        self._pathwise, self._complete, self._validate, self._score = pathwise, complete, validate, score
        self._awaited = None if until is None else set(until)
        self._replace = replace

    # What a program calls

    def sample(
        self,
        name: str,
        distribution: Distribution,
        event_dims: int = 0,
        *,
        scale: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        r"""Name a random variable: return its observed value, or draw it once.

        .. math:: \log p(\mathrm{node}) = s \sum_{d :\, m_d} \log p(v_d \mid \mathrm{parents}(v))

        Args:
            name: The name of the node, unique in the program.
            distribution: Any `torch.distributions.Distribution` with batch shape
                ``lead + event``, ``batch + event`` or ``event``.
            event_dims: How many of the last batch axes belong to one event; their log-probabilities are summed. Below
                a latent for all rows, which has batch shape ``()``, the rows are an event too.
            scale: The factor s on its log-probability: ``N / B`` where B rows stand for N.
            mask: Boolean, True where the value is observed; elsewhere nothing counts, and the value may be NaN. With
                ``entries`` for the axes of the event over which log-probabilities are summed (all of them for single
                values, none for a distribution over vectors), its shape is ``lead + entries``, ``batch + entries`` or
                ``entries``; an axis of an event may have length 1.

        Returns:
            A plain tensor of shape ``lead + event_shape``.

        Raises:
            NodeError: if the name is taken, the shapes do not fit, the mask has another shape or is not boolean, or
                the program must not draw this node.
            ArgumentError: if the scale is no positive number.

        Example:
            >>> from torch.distributions import Normal
            >>> bn = Trace()
            >>> bn.sample("z", Normal(torch.zeros(5, 2), 1.0), event_dims=1).shape
            torch.Size([5, 2])
            >>> bn.log_prob("z").shape
            torch.Size([5])
            >>> w = Trace(particles=3).sample("w", Normal(torch.zeros(2), 1.0), event_dims=1)  # for all rows
            >>> w.shape
            torch.Size([3, 2])
        """
        self._claim(name)
        if self._replace is not None:
            distribution = self._replace(name, distribution)
        event = self._as_event(name, distribution, event_dims)
        given = self._values.get(name)
        self._settle(name, event, given)
        number(f"scale of node {name!r}", scale, low=0.0, open_low=True)
        if mask is not None:
            check_mask(name, event, mask, self.lead, self.batch)
        if self._validate:
            check_parameters(name, distribution)
        if given is not None:
            self._check_value(name, event, given, mask)
            kept: dict[str, Any] = {"distribution": event, "scale": scale, "mask": mask}
            node = Node(name, given, kind="stochastic", observed=True, **kept)
            if self._score:
                node.log_prob()
            self._record(node)
            return given
        if self._complete:
            cure = f"Add a node {name!r} to the posterior, or observe it; given are {', '.join(self._values)}."
            raise NodeError(
                explain(f"node {name!r}", expected="an observed value or a posterior", got="neither", cure=cure)
            )
        return self._draw(name, event, distribution, event_dims, scale=scale, mask=mask)

    @overload
    def deterministic(self, name: str, value: Tensor) -> Tensor: ...

    @overload
    def deterministic(self, name: str, value: Callable[[], Tensor]) -> None: ...

    def deterministic(self, name: str, value: Tensor | Callable[[], Tensor]) -> Tensor | None:
        """Name a computed value, so that it can be read from the trace; return it unchanged.

        Args:
            name: The name of the node, unique in the program.
            value: A tensor, or a function that returns it: it is called when the node is first read, and so never
                where only log-probabilities are asked for. Nothing is returned then.

        Raises:
            NodeError: if the name is taken, or its value was given.

        Example:
            >>> bn = Trace()
            >>> bn.deterministic("mean", lambda: torch.zeros(3))
            >>> bn["mean"]
            tensor([0., 0., 0.])
        """
        self._claim(name)
        if name in self._values:
            cure = "Observe a stochastic node; deterministic ones follow from them."
            raise NodeError(explain(f"node {name!r}", expected="no observation", got="an observed value", cure=cure))
        self._record(Node(name, value, kind="deterministic"))
        return value if isinstance(value, Tensor) else None

    def implicit(self, name: str, value: Tensor, event_dims: int = 1, *, moments: Moments | None = None) -> Tensor:
        """Name a draw that has no density, such as the output of a sampler network.

        Args:
            name: The name of the node.
            value: The draw, shape ``lead + event_shape``; ``bn.particles`` tells how many are asked for.
            event_dims: How many of the last axes are the event's.
            moments: A function that returns the mean and the variance of the draw, each of shape ``batch + event``,
                if the program knows them better than repeated draws would tell; it is called where they are needed.

        Returns:
            The observed value if there is one, else `value`.

        Raises:
            NodeError: if the name is taken or the shape does not fit.
        """
        self._claim(name)
        given = self._values.get(name)
        node_value = value if given is None else given
        axes = node_value.dim() - event_dims
        shape = tuple(node_value.shape[: max(axes, 0)])
        if self._batch is None and axes >= len(self._particles):
            self._batch = shape[len(self._particles) :]
        if axes < 0 or shape != self.lead:
            cure = "Draw one value for each particle and row; check event_dims."
            expected, got = f"leading shape {self.lead} and {event_dims} event axes", tuple(node_value.shape)
            raise NodeError(explain(f"node {name!r}", expected=expected, got=got, cure=cure))
        drawn = given is None
        self._record(Node(name, node_value, kind="implicit", observed=not drawn, pathwise=drawn, moments=moments))
        return node_value

    # What a reader calls

    def log_prob(self, name: str, *, weighted: bool = True) -> Tensor:
        """Return log p(node | its parents) in nats, scaled and masked as the program says, shape ``lead``.

        Args:
            name: The name of the node.
            weighted: False for the log-probability of the value as it was drawn, without scale and mask.

        Raises:
            NodeError: if there is no such node, it has no density, or its log-probability has another shape.
        """
        node = self.node(name)
        log_prob = node.log_prob(weighted=weighted)
        if log_prob.dtype in (torch.bfloat16, torch.float16):
            cure = "Call .float() on the network's output: log-probabilities are kept in float32 or better."
            raise NodeError(
                explain(f"node {name!r}", expected="a float32 log-probability", got=log_prob.dtype, cure=cure)
            )
        if tuple(log_prob.shape) == self.lead:
            return log_prob
        if tuple(log_prob.shape) in (self.batch, ()):
            return log_prob.expand(self.lead)
        cure = "The distribution's log_prob must give one number for each particle and row."
        got = tuple(log_prob.shape)
        raise NodeError(explain(f"log_prob of node {name!r}", expected=f"shape {self.lead}", got=got, cure=cure))

    def log_joint(self, names: Iterator[str] | list[str] | None = None, *, weighted: bool = True) -> Tensor:
        """Return the sum of the log-probabilities of the named nodes (all random ones if None), shape ``lead``."""
        chosen = self.random_names() if names is None else list(names)
        if not chosen:
            raise NodeError(
                explain("log_joint", expected="at least one node", got="none", cure="Name a node with bn.sample.")
            )
        total = self.log_prob(chosen[0], weighted=weighted)
        for name in chosen[1:]:
            total = total + self.log_prob(name, weighted=weighted)
        return total

    def node(self, name: str) -> Node:
        """Return a node.

        Raises:
            NodeError: if there is none of that name.
        """
        if name not in self._nodes:
            raise NodeError(f"no node {name!r} in this trace. {suggestion(name, self._nodes)}")
        return self._nodes[name]

    def random_names(self, *, observed: bool | None = None) -> list[str]:
        """Return the names of the stochastic and implicit nodes, in order; on demand only the observed or the drawn."""
        return [
            name
            for name, node in self._nodes.items()
            if node.kind != "deterministic" and (observed is None or node.observed == observed)
        ]

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape of every log-probability: particles + batch."""
        return self._particles + (self._batch or ())

    @property
    def particles(self) -> tuple[int, ...]:
        """``(K,)``, or ``()`` for a run without particles."""
        return self._particles

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch shape, without particles."""
        return self._batch or ()

    def __getitem__(self, name: str) -> Tensor:
        return self.node(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a node, or `default` if there is none of that name."""
        node = self._nodes.get(name)
        return default if node is None else node.value

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{name}: {list(node.value.shape)}" for name, node in self._nodes.items())
        return f"Trace({nodes})"

    # How it is done

    def unused_values(self) -> list[str]:
        """Return the names of given values, or of the nodes that were waited for, that the program did not have."""
        if self._awaited is None:
            return [name for name in self._values if name not in self._nodes]
        return sorted(self._awaited)  # where the program was left, it may not have come to other names yet

    def _record(self, node: Node) -> None:
        """Keep a node; leave the program if it was the last one that the run waits for."""
        self._nodes[node.name] = node
        if self._awaited is not None:
            self._awaited.discard(node.name)
            if not self._awaited:
                raise Reached

    def _claim(self, name: str) -> None:
        if name in self._nodes:
            cure = "Give every node its own name; in a loop, number them."
            raise NodeError(explain(f"node {name!r}", expected="a new name", got="one that is taken", cure=cure))

    def _as_event(self, name: str, distribution: Distribution, event_dims: int) -> Distribution:
        if event_dims == 0:
            return distribution
        batch = tuple(distribution.batch_shape)
        if not 0 < event_dims <= len(batch):
            cure = "Event axes come from the parameters' shape: expand them, or lower event_dims."
            expected = f"event_dims from 0 to {len(batch)} (the distribution's batch shape is {batch})"
            raise NodeError(explain(f"node {name!r}", expected=expected, got=event_dims, cure=cure))
        return Independent(distribution, event_dims, validate_args=False)

    def _settle(self, name: str, distribution: Distribution, given: Tensor | None) -> None:
        """Take the batch shape from the first node, then hold every later node to it."""
        shape = tuple(distribution.batch_shape)
        if self._batch is None:
            if given is not None and not self._particles:
                extra = given.dim() - len(shape) - len(distribution.event_shape)
                if extra > 0 and shape:  # the user hands in values with particles of their own
                    self._particles = tuple(given.shape[:extra])
                elif extra > 0:
                    shape = tuple(given.shape[:extra])
            self._batch = shape
        elif shape not in (self.lead, self._batch, ()):
            places = [len(place) for place in (self.lead, self._batch) if shape[: len(place)] == place]
            surplus = len(shape) - places[0] if places else 0
            cure = (
                f"Pass event_dims={surplus} more if the last axes are one event."
                if surplus > 0
                else "Lower event_dims, or give the parameters one row for each row of the batch; a latent for all "
                "rows has batch shape () in both programs, and the rows below it are an event."
            )
            names = " or ".join(str(s) for s in dict.fromkeys((self.lead, self._batch)))
            raise NodeError(explain(f"node {name!r}", expected=f"batch shape {names}", got=shape, cure=cure))

    def _check_value(self, name: str, distribution: Distribution, value: Tensor, mask: Tensor | None) -> None:
        event = tuple(distribution.event_shape)
        expected = [self.lead + event, self.batch + event]
        if tuple(value.shape) not in expected:
            shapes = " or ".join(str(s) for s in dict.fromkeys(expected))
            cure = "The last axes are the event, the first the rows; reshape the value or check event_dims."
            if tuple(value.shape) == event:
                cure = "If its rows are one event, see that the posterior draws its latents once, not row by row."
            raise NodeError(
                explain(f"value of node {name!r}", expected=f"shape {shapes}", got=tuple(value.shape), cure=cure)
            )
        if self._validate:
            check_support(name, distribution, value, mask)

    def _draw(self, name: str, event: Distribution, distribution: Distribution, event_dims: int, **kept: Any) -> Tensor:
        shape = tuple(event.batch_shape)
        extra = self.lead[: len(self.lead) - len(shape)]
        pathwise = event.has_rsample if self._pathwise is None else self._pathwise
        if pathwise and not event.has_rsample:
            kind = type(distribution).__name__
            cure = "A pathwise gradient needs rsample: take a continuous or relaxed one, or a score-function estimator."
            raise NodeError(explain(f"node {name!r}", expected="a distribution with rsample", got=kind, cure=cure))
        log_prob = None
        whole = kept.get("mask") is None
        if pathwise and whole and hasattr(distribution, "rsample_and_log_prob"):  # flows: no inverse of their own draws
            value, log_prob = distribution.rsample_and_log_prob(extra)
            log_prob = log_prob.sum(tuple(range(-event_dims, 0))) if event_dims else log_prob
        else:
            value = event.rsample(extra) if pathwise else event.sample(extra)
        drawn: Tensor = value
        self._record(
            Node(name, drawn, kind="stochastic", distribution=event, pathwise=bool(pathwise), log_prob=log_prob, **kept)
        )
        return drawn
