"""`BayesianNet`: a stochastic program as a torch module, after ZhuSuan (Shi et al., 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lowerbound.core.checks import positive_int, suggestion
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.net.trace import Reached, Replace, Trace

__all__ = ["BayesianNet", "Program", "constants"]


class BayesianNet(nn.Module):
    r"""A directed graphical model written as a program that names its random variables.

    .. math:: p(v_1, \ldots, v_n) = \prod_i p(v_i \mid \mathrm{parents}(v_i))

    Subclass it and write ``forward(self, bn, *inputs)``: draw with ``bn.sample``, name computed values with
    ``bn.deterministic``, and use the tensors that they return. Parameters and submodules are those of any
    `torch.nn.Module`. The trace ``bn`` is made anew for every run, so the module itself keeps no state of a run.

    Source: Shi et al., ZhuSuan: A Library for Bayesian Deep Learning (2017).

    Example:
        >>> from torch.distributions import Normal
        >>> class Line(BayesianNet):
        ...     def forward(self, bn, n):
        ...         z = bn.sample("z", Normal(torch.zeros(n, 2), 1.0), event_dims=1)
        ...         bn.sample("x", Normal(z.sum(-1), 0.1))
        >>> trace = Line().bind(5).observe(x=torch.zeros(5))
        >>> trace["z"].shape, trace.log_joint().shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def forward(self, bn: Trace, *inputs: Any) -> Any:
        """Run the program on a trace; a subclass writes this."""
        raise NotImplementedError("a BayesianNet defines forward(self, bn, *inputs)")

    def bind(self, *inputs: Any) -> Program:
        """Return the program with its inputs fixed; nothing runs yet."""
        return Program(self, inputs)


class Program:
    """A `BayesianNet` together with its inputs: what an objective takes, and what `observe` runs.

    Args:
        net: The program.
        inputs: What `net.forward` takes behind the trace.
        replace: A function that puts another distribution in a node's place, as in `lowerbound.net.Trace`.
    """

    def __init__(self, net: BayesianNet, inputs: tuple[Any, ...], replace: Replace | None = None) -> None:
        self.net, self.inputs, self._replace = net, inputs, replace

    def replacing(self, replace: Replace) -> Program:
        """Return the program with other distributions in the place of its own."""
        return Program(self.net, self.inputs, replace)

    def observe(self, values: Mapping[str, Tensor] | None = None, /, **named: Tensor) -> Trace:
        """Run the program with some nodes observed and the others drawn.

        Args:
            values: Observed values by name, for names that are no Python identifiers.
            named: Observed values by keyword, each of shape ``lead + event_shape``.

        Returns:
            The trace of the run.

        Raises:
            NodeError: if a name is unknown to the program or a shape does not fit.
        """
        return self.run({**(values or {}), **named}, validate=True)

    def run(
        self, values: Mapping[str, Tensor] | None = None, *, detach_parameters: bool = False, **options: Any
    ) -> Trace:
        """Run the program once; `options` are those of `Trace`.

        Args:
            values: Values of nodes that are not to be drawn.
            detach_parameters: Whether the net's parameters and inputs count as constants; gradients still flow through
                values.
            options: `particles`, `batch`, `pathwise`, `complete`, `validate`, `until`.

        Returns:
            The trace of the run.
        """
        if not isinstance(self.net, BayesianNet):
            cure = "Derive the class from lowerbound.BayesianNet."
            raise ArgumentError(explain("program", expected="a BayesianNet", got=type(self.net).__name__, cure=cure))
        if options.get("particles") is not None:
            positive_int("particles", options["particles"])
        # Constant parameters are constants within the run only: what is to be scored under them is scored there.
        trace = Trace(values, replace=self._replace, score=detach_parameters, **options)
        try:
            if detach_parameters:
                inputs = [value.detach() if isinstance(value, Tensor) else value for value in self.inputs]
                functional_call(self.net, constants(self.net), (trace, *inputs), tie_weights=False)
            else:
                self.net(trace, *self.inputs)
        except Reached:
            pass
        for name in trace.unused_values():
            kind = type(self.net).__name__
            expected, got = f"a random node of {kind}", "a name that it lacks"
            cure = suggestion(name, trace.random_names())
            raise NodeError(explain(f"node {name!r}", expected=expected, got=got, cure=cure))
        return trace

    def __repr__(self) -> str:
        return f"Program({type(self.net).__name__}, {len(self.inputs)} inputs)"


def constants(net: nn.Module) -> dict[str, Tensor]:
    """Return every parameter of a net, detached, once for each place that holds it: for `torch.func.functional_call`.

    Weights that two modules share are listed under both names, and a module that is registered twice under one only:
    torch would put the constants into it twice, and then take them for what it has to restore (torch 2.13).
    """
    return {
        f"{prefix}.{name}" if prefix else name: parameter.detach()
        for prefix, module in net.named_modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }
