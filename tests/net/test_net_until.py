"""A run that ends as soon as the nodes that were asked for are there."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.core.errors import NodeError
from lowerbound.net.trace import Reached

K, B = 3, 5
NODES = ["a", "b", "mean", "x", "c"]


class Chain(lb.BayesianNet):
    """a, b, a computed mean, x, c; it keeps how far each run came."""

    def __init__(self) -> None:
        super().__init__()
        self.came = []

    def forward(self, bn, n):
        self.came.append("")
        a = bn.sample("a", Normal(torch.zeros(n), 1.0))
        self.came[-1] = "a"
        b = bn.implicit("b", a[..., None] + torch.ones(2))
        self.came[-1] = "b"
        mean = bn.deterministic("mean", a + b.sum(-1))
        self.came[-1] = "mean"
        bn.sample("x", Normal(mean, 1.0))
        self.came[-1] = "x"
        bn.sample("c", Normal(mean, 1.0))
        self.came[-1] = "c"


CASES = {  # until: what is in the trace, what the program got past
    ("a",): (NODES[:1], ""),
    ("b",): (NODES[:2], "a"),
    ("a", "b"): (NODES[:2], "a"),
    ("b", "a"): (NODES[:2], "a"),
    ("mean",): (NODES[:3], "b"),
    ("x", "a"): (NODES[:4], "mean"),
    ("c",): (NODES, "x"),
    tuple(NODES): (NODES, "x"),
    None: (NODES, "c"),
}


@pytest.mark.parametrize("until", CASES)
@pytest.mark.parametrize("particles", [None, K])
def test_run_ends_at_the_last_node_that_is_asked_for(particles, until):
    program = Chain()
    torch.manual_seed(0)
    trace = program.bind(B).run(until=until, particles=particles)
    nodes, came = CASES[until]
    assert (list(trace), program.came) == (nodes, [came])
    torch.manual_seed(0)
    whole = Chain().bind(B).run(particles=particles)
    assert all(trace[name].equal(whole[name]) for name in nodes)
    assert trace.log_prob("a").equal(whole.log_prob("a"))


def test_given_values_end_a_run_as_draws_do():
    values = {"a": torch.ones(K, B), "x": torch.zeros(B)}
    program = Chain()
    trace = program.bind(B).run(values, until=["a"], particles=K, batch=(B,))
    assert (list(trace), program.came) == (["a"], [""])
    assert trace["a"] is values["a"]
    torch.testing.assert_close(trace.log_joint(), Normal(0.0, 1.0).log_prob(values["a"]))


def test_values_beyond_the_end_are_no_mistake_but_unknown_nodes_are():
    beyond = {"c": torch.zeros(B), "unheard": torch.zeros(B)}
    assert list(Chain().bind(B).run(beyond, until=["a"])) == ["a"]  # the run has not come to know what follows
    for values, until in (
        ({}, ["zz"]),
        ({}, ["a", "zz"]),
        ({"zz": torch.zeros(B)}, ["zz"]),
        ({"zz": torch.ones(B)}, None),
    ):
        with pytest.raises(NodeError, match=r"node 'zz': expected a random node of Chain, got a name that it lacks"):
            Chain().bind(B).run(values, until=until)


def test_a_program_that_is_left_raises_nothing_and_its_errors_pass():
    class Fails(lb.BayesianNet):
        def forward(self, bn, n):
            bn.sample("a", Normal(torch.zeros(n), 1.0))
            raise ZeroDivisionError("past a")

    assert list(Fails().bind(B).run(until=["a"])) == ["a"]
    with pytest.raises(ZeroDivisionError, match="past a"):
        Fails().bind(B).run(until=["a", "x"])
    with pytest.raises(ZeroDivisionError, match="past a"):
        Fails().bind(B).run()
    with pytest.raises(Reached):  # a trace of one's own is left by its reader
        Chain()(lb.net.Trace(until=["a"]), B)


def test_run_that_is_left_holds_parameters_constant_all_the_same():
    class Scaled(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, bn, n):
            bn.sample("a", Normal(self.w.expand(n), 1.0))
            raise AssertionError("past a")

    program = Scaled()
    values = {"a": torch.zeros(B, requires_grad=True)}
    trace = program.bind(B).run(values, until=["a"], detach_parameters=True)
    trace.log_joint().sum().backward()
    assert program.w.grad is None
    assert values["a"].grad.equal(torch.full((B,), 2.0))
    assert program.w.requires_grad  # the weights are back in their place
