"""Programs and traces: what a run records, what it draws, what it refuses, and where gradients flow."""

from __future__ import annotations

import pytest
import torch
import zuko
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Exponential,
    HalfNormal,
    LogNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import TanhTransform

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.net import Trace

K, B, L = 3, 5, 2


class Affine(lb.BayesianNet):
    """z ~ N(loc, scale), x ~ N(w z, 1), and a computed value."""

    def __init__(self):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.5))
        self.w = nn.Parameter(torch.tensor(2.0))

    def forward(self, bn, n):
        z = bn.sample("z", Normal(self.loc.expand(n), self.log_scale.exp()))
        mean = bn.deterministic("x_mean", self.w * z)
        bn.sample("x", Normal(mean, 1.0))


# --- What a run records -----------------------------------------------------------------------------------------------


def test_binding_runs_nothing_and_every_run_is_new():
    program = Affine().bind(B)
    assert repr(program) == "Program(Affine, 1 inputs)"
    first, second = program.observe(), program.observe()
    assert not first["z"].equal(second["z"])
    assert dict(program.net.named_buffers()) == {}


def test_trace_is_a_mapping_of_plain_tensors():
    trace = Affine().bind(B).observe()
    assert list(trace) == ["z", "x_mean", "x"]
    assert len(trace) == 3
    assert all(type(value) is torch.Tensor for value in trace.values())
    assert trace["z"] is trace["z"]
    assert repr(trace) == "Trace(z: [5], x_mean: [5], x: [5])"
    assert trace.random_names() == ["z", "x"]
    assert "x" in trace
    assert "nothing" not in trace
    assert trace.get("nothing") is None
    assert trace.get("x") is trace["x"]


def test_nodes_tell_what_they_are():
    trace = Affine().bind(B).observe(x=torch.zeros(B))
    kinds = {name: (node.kind, node.observed, node.pathwise) for name in trace if (node := trace.node(name))}
    assert kinds == {
        "z": ("stochastic", False, True),
        "x_mean": ("deterministic", False, False),
        "x": ("stochastic", True, False),
    }
    assert trace.random_names(observed=True) == ["x"]
    assert trace.random_names(observed=False) == ["z"]


def test_a_function_is_called_when_its_node_is_first_read_and_only_then():
    calls = []

    class Late(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(torch.zeros(B), 1.0))
            assert bn.deterministic("twice", lambda: calls.append(1) or 2 * z) is None

    trace = Late().bind().run()
    trace.log_joint()
    assert (list(trace), trace.node("twice").kind, calls) == (["z", "twice"], "deterministic", [])
    assert trace["twice"].equal(2 * trace["z"])
    assert trace["twice"] is trace.get("twice")
    assert calls == [1]


def test_values_by_dictionary_and_by_keyword():
    x, z = torch.arange(5.0), torch.ones(B)
    trace = Affine().bind(B).observe({"x": x}, z=z)
    assert trace["x"] is x
    assert trace["z"] is z
    assert trace["x_mean"].equal(2 * z)


@pytest.mark.parametrize("pathwise", [None, True, False])
def test_pathwise_draws_carry_gradients_and_others_do_not(pathwise):
    net = Affine()
    trace = net.bind(B).run(pathwise=pathwise)
    assert trace["z"].requires_grad == trace.node("z").pathwise == (pathwise is not False)
    if pathwise is not False:
        (grad,) = torch.autograd.grad(trace["x"].sum(), net.loc)
        assert float(grad) == pytest.approx(B * 2.0)


def test_pathwise_draw_of_a_discrete_node_is_refused_by_name():
    class Coin(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("coin", Bernoulli(logits=torch.zeros(B, L)), event_dims=1)

    with pytest.raises(
        NodeError, match=r"node 'coin': expected a distribution with rsample, got Bernoulli\. A pathwise"
    ):
        Coin().bind().run(pathwise=True)
    trace = Coin().bind().run(particles=K)
    assert not trace.node("coin").pathwise
    assert trace["coin"].shape == (K, B, L)


@pytest.mark.parametrize("shared", ["nothing", "weights", "module"])
def test_parameters_and_inputs_are_constants_on_demand_and_values_are_not(shared):
    class Shift(lb.BayesianNet):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.ones(L))
            self.first, self.second = nn.Linear(L, L), nn.Linear(L, L)
            if shared == "weights":
                self.second.weight = self.first.weight
            elif shared == "module":
                self.second = self.first

        def forward(self, bn, loc, n):
            bn.sample("z", Normal(self.second(self.first(self.own * loc)).expand(n, L), 1.0), event_dims=1)

    net, loc, z = Shift(), torch.ones(L, requires_grad=True), torch.ones(B, L, requires_grad=True)
    before = dict(net.named_parameters(remove_duplicate=False))
    program = net.bind(loc, B)
    constant = program.run({"z": z}, detach_parameters=True).log_joint().sum()
    free = program.run({"z": z}).log_joint().sum()
    torch.testing.assert_close(constant, free)
    inputs = [z, loc, *net.parameters()]
    grads = torch.autograd.grad(constant, inputs, allow_unused=True)
    assert [grad is not None for grad in grads] == [True] + [False] * (len(inputs) - 1)
    assert all(grad is not None for grad in torch.autograd.grad(free, inputs))
    after = dict(net.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] and after[name].requires_grad for name in before)


# --- Distributions of all kinds ---------------------------------------------------------------------------------------

DISTRIBUTIONS = {
    "Beta": (lambda: Beta(torch.full((B, L), 2.0), 3.0), 1),
    "Dirichlet": (lambda: Dirichlet(torch.ones(B, L)), 0),
    "Exponential": (lambda: Exponential(torch.ones(B, L)), 1),
    "HalfNormal": (lambda: HalfNormal(torch.ones(B)), 0),
    "LogNormal": (lambda: LogNormal(torch.zeros(B, L), 1.0), 1),
    "Uniform": (lambda: Uniform(torch.zeros(B, L), 2.0), 1),
    "tanh of a normal": (lambda: TransformedDistribution(Normal(torch.zeros(B, L), 0.5), TanhTransform()), 1),
    "affine flow": (lambda: zuko.flows.MAF(L, 1, transforms=2, hidden_features=(8,))(torch.zeros(B, 1)), 0),
    "event of flows": (lambda: zuko.flows.MAF(L, 1, transforms=2, hidden_features=(8,))(torch.zeros(B, 4, 1)), 1),
    "diagonal of zuko": (lambda: zuko.distributions.DiagNormal(torch.zeros(B, L), torch.ones(B, L)), 0),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_any_distribution_is_a_node(kind):
    make, event_dims = DISTRIBUTIONS[kind]
    distribution = make()
    trace = Trace(particles=K, validate=True)
    value = trace.sample("v", distribution, event_dims)
    wanted = distribution.log_prob(value)
    torch.testing.assert_close(trace.log_prob("v"), wanted.sum(-1) if event_dims else wanted, rtol=1e-4, atol=1e-4)
    assert trace.log_prob("v").shape == (K, B)
    again = Trace({"v": value}, particles=K, batch=(B,), validate=True)
    again.sample("v", distribution, event_dims)
    torch.testing.assert_close(again.log_prob("v"), trace.log_prob("v"), rtol=1e-4, atol=1e-4)


def test_flows_are_scored_on_the_way_and_not_inverted():
    """A saturated tanh cannot be inverted; a flow that scores its own draws need not."""
    flow = zuko.flows.MAF(L, transforms=1)()

    class Forward(type(flow)):
        inversions = 0

        def log_prob(self, value):
            Forward.inversions += 1
            return super().log_prob(value)

    flow.__class__ = Forward
    trace = Trace(particles=K, batch=(B,))
    value = trace.sample("z", flow)
    scored = trace.log_prob("z")
    assert Forward.inversions == 0
    torch.testing.assert_close(scored, flow.log_prob(value), rtol=1e-4, atol=1e-4)


def test_flow_posterior_gives_a_bound_with_all_estimators():
    class Q(lb.BayesianNet):
        def __init__(self):
            super().__init__()
            self.flow = zuko.flows.MAF(1, 3, transforms=2, hidden_features=(8,))

        def forward(self, bn, x):
            bn.sample("z", self.flow(x))

    class P(lb.BayesianNet):
        def forward(self, bn, n):
            z = bn.sample("z", Normal(torch.zeros(n, 1), 1.0), event_dims=1)
            bn.sample("x", Normal(z.expand(*z.shape[:-1], 3), 1.0), event_dims=1)

    x, q = torch.randn(B, 3), Q()
    for cost in (
        lb.elbo(P().bind(B), {"x": x}, q.bind(x), particles=K, analytic_kl=True).sgvb(),
        lb.elbo(P().bind(B), {"x": x}, q.bind(x), particles=K).sgvb(stl=True),
        lb.iw_objective(P().bind(B), {"x": x}, q.bind(x), particles=K).dreg(),
    ):
        grads = torch.autograd.grad(cost.sum(), list(q.parameters()), allow_unused=True)
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
        assert sum(float(grad.abs().sum()) for grad in grads) > 0


# --- Names ------------------------------------------------------------------------------------------------------------


def test_unknown_names():
    trace = Affine().bind(B).observe()
    for read in (trace.__getitem__, trace.log_prob, trace.node):
        with pytest.raises(
            NodeError, match=r"no node 'xmean' in this trace\. Did you mean 'x_mean'\? Known: x, x_mean, z"
        ):
            read("xmean")
    with pytest.raises(
        NodeError, match=r"node 'zz': expected a random node of Affine, got .*\. Did you mean 'z'\? Known: x, z"
    ):
        Affine().bind(B).observe(zz=torch.zeros(B))


def test_a_name_is_taken_once():
    for again in (
        lambda bn: bn.sample("v", Normal(0.0, 1.0)),
        lambda bn: bn.deterministic("v", torch.zeros(())),
        lambda bn: bn.implicit("v", torch.zeros(()), event_dims=0),
    ):
        bn = Trace()
        bn.sample("v", Normal(0.0, 1.0))
        with pytest.raises(NodeError, match=r"node 'v': expected a new name, got one that is taken\. .*number them"):
            again(bn)


def test_computed_values_are_not_observed():
    with pytest.raises(
        NodeError, match=r"node 'x_mean': expected no observation, got an observed value\. Observe a stoch"
    ):
        Affine().bind(B).observe(x_mean=torch.zeros(B))


def test_computed_values_have_no_density():
    trace = Affine().bind(B).observe()
    with pytest.raises(
        NodeError, match=r"node 'x_mean': expected a node with a density, got deterministic\. Only bn\.sample"
    ):
        trace.log_prob("x_mean")


def test_empty_program_has_no_joint():
    with pytest.raises(
        NodeError, match=r"log_joint: expected at least one node, got none\. Name a node with bn\.sample"
    ):
        Trace().log_joint()


def test_particles_of_a_run_are_positive():
    with pytest.raises(ArgumentError, match=r"particles: expected a positive integer, got 0"):
        Affine().bind(B).run(particles=0)


def test_program_without_forward():
    with pytest.raises(NotImplementedError, match="defines forward"):
        lb.BayesianNet().bind().observe()


# --- Implicit nodes ---------------------------------------------------------------------------------------------------


def test_implicit_node_is_recorded_without_a_density():
    bn = Trace(particles=K)
    value = torch.zeros(K, B, L)
    assert bn.implicit("z", value, event_dims=1) is value
    assert (bn.lead, bn.random_names()) == ((K, B), ["z"])
    with pytest.raises(
        NodeError, match=r"node 'z': expected a node with a density, got implicit\. .*implicit posteriors"
    ):
        bn.log_joint()
    given = torch.ones(K, B, L)
    bn = Trace({"z": given}, particles=K, batch=(B,))
    assert bn.implicit("z", value, event_dims=1) is given


@pytest.mark.parametrize(
    "particles, batch, shape, event_dims",
    [
        (K, (B,), (B, L), 1),
        (K, (B,), (K, B + 1, L), 1),
        (K, (B,), (K, B, L), 0),
        (None, None, (B,), 2),
        (K, None, (K,), 1),
        (K, None, (L,), 1),
        (K, None, (B, L), 1),
    ],
)
def test_implicit_node_with_another_shape(particles, batch, shape, event_dims):
    bn = Trace(particles=particles, batch=batch)
    with pytest.raises(NodeError, match=r"node 'z': expected leading shape .*event axes, got .*check event_dims"):
        bn.implicit("z", torch.zeros(shape), event_dims)


# --- Values in place and values outside the support -------------------------------------------------------------------


def test_value_changed_in_place_has_no_log_prob():
    for scored in (False, True):
        bn = Trace()
        z = bn.sample("z", Normal(torch.zeros(B), 1.0))
        if scored:
            bn.log_prob("z")
        z.mul_(0.5)
        with pytest.raises(NodeError, match=r"node 'z': expected its value as drawn, got an in-place change"):
            bn.log_prob("z")


OUTSIDE = {
    "Bernoulli": (
        Bernoulli(logits=torch.zeros(B)),
        0.5,
        r"got values from 0\.5 to 0\.5\. A Bernoulli likelihood takes only",
    ),
    "Beta": (Beta(torch.ones(B), 1.0), 1.5, r"got values from 1\.5 to 1\.5\. Choose a distribution whose support"),
    "Exponential": (Exponential(torch.ones(B)), -1.0, r"got values from -1 to -1"),
    "Normal": (Normal(torch.zeros(B), 1.0), torch.nan, r"got 5 of 5 values that are not finite"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_observed_values_outside_the_support(kind):
    distribution, value, message = OUTSIDE[kind]

    class Net(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("v", distribution)

    with pytest.raises(NodeError, match=rf"value of node 'v': expected values in the support of {kind}, {message}"):
        Net().bind().observe(v=torch.full((B,), value))


BAD_PARAMETERS = {
    "negative scale": (
        lambda: Normal(torch.zeros(B), torch.full((B,), -1.0), validate_args=False),
        "scale of Normal in Gr",
    ),
    "nan": (
        lambda: Normal(torch.full((B,), torch.nan), 1.0, validate_args=False),
        r"loc of Normal in Real\(\), got 5 of 5",
    ),
    "rate": (lambda: Exponential(torch.zeros(B), validate_args=False), "rate of Exponential in GreaterThan"),
}


@pytest.mark.parametrize("kind", BAD_PARAMETERS)
def test_validation_names_the_parameter(kind):
    make, message = BAD_PARAMETERS[kind]

    class Net(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("v", make())

    with pytest.raises(NodeError, match=rf"node 'v': expected {message}"):
        Net().bind().observe(v=torch.ones(B))


def test_torchs_own_checks_name_the_node():
    class Net(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("v", Exponential(torch.ones(B), validate_args=True))

    trace = Net().bind().run({"v": -torch.ones(B)})
    with pytest.raises(NodeError, match=r"node 'v': Expected value argument"):
        trace.log_prob("v")
