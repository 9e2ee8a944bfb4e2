"""The protocols through which parts meet that do not import each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

__all__ = ["Data", "Model", "Objective", "Outcome", "Player", "Programs", "follows"]


class Data(Protocol):
    """Rows to train on or to evaluate on; `lowerbound.data.Dataset` is the one that ships."""

    event_shape: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batches(self, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the shuffled training batches ``[batch_size, *event_shape]`` of an epoch, from batch `start` on."""
        ...

    def evaluation_batches(self, batch_size: int, *, limit: int | None = None) -> Iterator[Tensor]:
        """Yield the rows in order, as they are evaluated, ``[<= batch_size, *event_shape]``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data, as plain values that fit into JSON."""
        ...


class Programs(NamedTuple):
    """How a model meets a batch; every bound takes these three: ``lb.elbo(*model.programs(x), particles=5)``.

    Attributes:
        model: The generative program with its inputs, a `lowerbound.Program`.
        observed: The values of its observed nodes by name.
        posterior: The posterior program with its inputs, a `lowerbound.Program`.
    """

    model: Any
    observed: Mapping[str, Tensor]
    posterior: Any


class Model(Protocol):
    """A pair of stochastic programs, p(x, z) and q(z | x), that knows how they meet a batch.

    `generator` and `posterior` are `lowerbound.BayesianNet`. What they are bound to, and which nodes are observed, is
    the model's own affair: objectives and evaluation ask `programs`.
    """

    generator: Any
    posterior: Any

    def programs(self, x: Tensor) -> Programs:
        """Return both programs, bound to a batch ``[B, *event_shape]``, and what is observed of it."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of both programs."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the class and arguments that rebuild the model, as plain values that fit into JSON."""
        ...


@dataclass(frozen=True)
class Player:
    """One of those who train: whose parameters move, how often in a step, and with what optimizer settings.

    Attributes:
        name: What the objective calls it, such as ``"model"`` or ``"critic"``.
        parameters: The parameters that this player moves, and nobody else.
        steps: Its updates per batch.
        settings: Optimizer arguments of its own, such as ``{"lr": 1e-3}``, and a ``"schedule"``; they override the
            run's.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    steps: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What an objective says of one batch.

    Attributes:
        cost: The scalar to minimise, differentiable.
        terms: Detached scalars to show, in nats a row: the bound first, then its parts.
    """

    cost: Tensor
    terms: dict[str, Tensor]


class Objective(Protocol):
    """What the training loop maximises: a module over a model that tells who plays and what a batch costs.

    Attributes:
        model: The model that is trained.
        certified: Whether the first term it reports is a lower bound of log p(x) in expectation.
        kl_weight: A scalar buffer that the loop writes during a warm-up; 1 otherwise.
    """

    model: Any
    certified: bool
    kl_weight: Tensor

    def players(self) -> Sequence[Player]:
        """Return the players in the order in which they move."""
        ...

    def __call__(self, x: Tensor, player: str = "model") -> Outcome:
        """Return the cost of batch `x`, shape ``[B, *event_shape]``, for a player."""
        ...

    def validate(self, x: Tensor) -> None:
        """Raise an error that names the cure if the model cannot take the batch `x`."""
        ...

    def remarks(self, terms: Mapping[str, float]) -> list[str]:
        """Return sentences that the user should read about an epoch's mean terms; usually none."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what identifies the objective and its model, as plain values that fit into JSON."""
        ...


def follows(value: object, protocol: type) -> bool:
    """Return whether a value has every member of a protocol, those included that a module has registered.

    `isinstance` with a protocol does not look for parameters, buffers and submodules since Python 3.12.

    Args:
        value: Anything.
        protocol: A protocol of this module.

    Example:
        >>> follows(lb.data.digits()[0], Data), follows(torch.zeros(3, 4), Data)
        (True, False)
    """
    special = {"__len__", "__call__"} & vars(protocol).keys()
    methods = {name for name, member in vars(protocol).items() if callable(member) and not name.startswith("_")}
    return all(hasattr(value, name) for name in {*protocol.__annotations__, *methods, *special})
