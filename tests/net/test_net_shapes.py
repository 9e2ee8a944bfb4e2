"""The shape contract of a node: every pattern of parameters gives log-probabilities of shape particles + batch.

The truth is a loop: one particle and one row at a time, by torch's distributions on plain vectors.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, MultivariateNormal, Normal, kl_divergence

import lowerbound as lb
from exact import random
from lowerbound.core.errors import NodeError
from lowerbound.net import Trace

K, B, D = 3, 5, 7
TRAPS = [(3, 5, 7), (5, 5, 7), (3, 5, 5), (3, 5, 3), (5, 5, 5), (1, 5, 7), (3, 1, 7), (3, 5, 1), (1, 1, 1), (2, 1, 2)]

# A node's parameters may depend on the particle and the row, on the row alone, or on neither.
LEADS = {"lead": lambda k, b: (k, b), "batch": lambda k, b: (b,), "shared": lambda k, b: ()}
KINDS = {
    "Normal": (lambda p: Normal(p, 0.7), 1, lambda k, b, d: random(1, k, b, d)),
    "Bernoulli": (lambda p: Bernoulli(logits=p), 1, lambda k, b, d: (random(1, k, b, d) > 0).double()),
    "Categorical": (lambda p: Categorical(logits=p), 0, lambda k, b, d: torch.arange(k * b).reshape(k, b) % d),
    "MultivariateNormal": (
        lambda p: MultivariateNormal(p, torch.eye(p.shape[-1], dtype=p.dtype) + 0.3),
        0,
        lambda k, b, d: random(1, k, b, d),
    ),
    "Independent": (lambda p: Independent(Normal(p, 0.7), 1), 0, lambda k, b, d: random(1, k, b, d)),
}


@pytest.mark.parametrize("sizes", TRAPS, ids=str)
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_given_values_are_scored_particle_by_particle_and_row_by_row(kind, lead, sizes):
    k, b, d = sizes
    make, event_dims, draw = KINDS[kind]
    parameters, values = random(0, *LEADS[lead](k, b), d), draw(k, b, d)
    for given in (values, values[0]):  # with particles of their own, and data that all particles share
        trace = Trace({"v": given}, particles=k, batch=(b,))
        assert trace.sample("v", make(parameters), event_dims) is given
        found = trace.log_prob("v")
        assert found.shape == trace.lead == (k, b)
        for i, j in itertools.product(range(k), range(b)):
            own = parameters.expand(k, b, d)[i, j]
            value = given[i, j] if given is values else given[j]
            assert found[i, j].item() == pytest.approx(make(own).log_prob(value).sum().item(), abs=1e-12)


@pytest.mark.parametrize("sizes", TRAPS, ids=str)
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pathwise", [None, False])
def test_drawn_values_are_scored_the_same_way(kind, lead, sizes, pathwise):
    k, b, d = sizes
    make, event_dims, draw = KINDS[kind]
    parameters = random(0, *LEADS[lead](k, b), d)
    trace = Trace(particles=k, batch=(b,), pathwise=pathwise)
    value = trace.sample("v", make(parameters), event_dims)
    assert value.shape == draw(k, b, d).shape
    assert trace.log_prob("v").shape == (k, b)
    for i, j in itertools.product(range(k), range(b)):
        wanted = make(parameters.expand(k, b, d)[i, j]).log_prob(value[i, j]).sum()
        assert trace.log_prob("v")[i, j].item() == pytest.approx(wanted.item(), abs=1e-12)
    if k * b * d > 8 and kind != "Categorical":
        assert len(value.unique()) > 1  # particles and rows are drawn apart, also where parameters are shared


@pytest.mark.parametrize("sizes", TRAPS, ids=str)
def test_log_weights_are_scored_particle_by_particle_and_row_by_row(sizes):
    """A model with all three patterns, under a posterior with two of them, whatever sizes happen to be equal."""
    k, b, d = sizes
    weight, row, shared = random(1, d, 2), random(2, b, d), random(3, d)

    class P(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(torch.zeros(2, dtype=torch.float64), 1.0), event_dims=1)
            u = bn.sample("u", Normal(z.sum(-1), 0.5))
            bn.sample("x", Normal(z @ weight.T + u[..., None], 1.5), event_dims=1)
            bn.sample("y", Normal(row, 1.5), event_dims=1)
            bn.sample("s", Normal(shared, 1.5), event_dims=1)

    class Q(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(row[:, :1].expand(-1, 2), 0.9), event_dims=1)
            bn.sample("u", Normal(z[..., 0], 0.8))

    data = {name: random(seed, b, d) for seed, name in enumerate(("x", "y", "s"), 4)}
    made = lb.elbo(P().bind(), data, Q().bind(), particles=k)
    z, u = made.draw.posterior["z"], made.draw.posterior["u"]
    assert (z.shape, u.shape) == ((k, b, 2), (k, b))
    for i, j in itertools.product(range(k), range(b)):
        a, c = z[i, j], u[i, j]
        log_p = Normal(0, 1).log_prob(a).sum() + Normal(a.sum(), 0.5).log_prob(c)
        for name, loc in (("x", weight @ a + c), ("y", row[j]), ("s", shared)):
            log_p = log_p + Normal(loc, 1.5).log_prob(data[name][j]).sum()
        log_q = Normal(row[j, 0], 0.9).log_prob(a).sum() + Normal(a[0], 0.8).log_prob(c)
        assert made.log_weights[i, j].item() == pytest.approx((log_p - log_q).item(), abs=1e-10)
    analytic = lb.elbo(P().bind(), data, Q().bind(), particles=k, analytic_kl=True)
    assert analytic.terms["kl"].shape == analytic.value.shape == (b,)
    z = analytic.draw.posterior["z"]  # u's divergence depends on z, so it is averaged over the draws of z
    for j in range(b):
        kl = kl_divergence(Normal(row[j, :1].expand(2), 0.9), Normal(0.0 * row[j, :1], 1.0)).sum()
        kl = kl + kl_divergence(Normal(z[:, j, 0], 0.8), Normal(z[:, j].sum(-1), 0.5)).mean()
        assert analytic.terms["kl"][j].item() == pytest.approx(kl.item(), abs=1e-10)


# --- Runs without particles -------------------------------------------------------------------------------------------


class Line(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, 2), 1.0), event_dims=1)
        bn.deterministic("x_mean", z.sum(-1, keepdim=True).expand(*z.shape[:-1], D))
        bn.sample("x", Normal(bn["x_mean"], 0.1), event_dims=1)


def test_ancestral_run_has_no_particle_axis():
    trace = Line().bind(B).observe()
    assert {name: tuple(value.shape) for name, value in trace.items()} == {"z": (B, 2), "x_mean": (B, D), "x": (B, D)}
    assert (trace.lead, trace.particles, trace.batch) == ((B,), (), (B,))
    assert trace.log_joint().shape == (B,)
    torch.testing.assert_close(trace.log_joint(), trace.log_prob("z") + trace.log_prob("x"))
    assert trace.log_joint(["x"]).equal(trace.log_prob("x"))


@pytest.mark.parametrize("lead", [(K,), (K, 2)], ids=str)
def test_observed_first_node_may_bring_its_own_particles(lead):
    z, x = random(0, *lead, B, 2).float(), random(1, B, D).float()
    trace = Line().bind(B).observe(z=z, x=x)
    assert trace.lead == (*lead, B)
    wanted = Normal(z.sum(-1, keepdim=True), 0.1).log_prob(x).sum(-1) + Normal(0, 1).log_prob(z).sum(-1)
    torch.testing.assert_close(trace.log_joint(), wanted)
    assert Line().bind(B).observe(z=z)["x"].shape == (*lead, B, D)


def test_observed_values_with_wrong_rows_are_refused():
    with pytest.raises(NodeError, match=r"value of node 'z': expected shape \(3, 5, 2\) or \(5, 2\), got \(3, 6, 2\)"):
        Line().bind(B).observe(z=torch.zeros(K, B + 1, 2))
    with pytest.raises(NodeError, match=r"value of node 'x': expected shape \(5, 7\), got \(3, 5, 7\)"):
        Line().bind(B).observe(x=torch.zeros(K, B, D))  # z was drawn once, so x cannot have particles


def test_scalar_root_is_drawn_for_every_row_only_where_rows_are_known():
    class Scalar(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(0.0, 1.0))
            bn.sample("x", Normal(z, 1.0))

    assert Scalar().bind().observe()["x"].shape == ()
    assert Scalar().bind().observe(z=torch.zeros(B))["x"].shape == (B,)
    assert Scalar().bind().run(particles=K, batch=(B,))["x"].shape == (K, B)
    trace = Scalar().bind().run({"x": torch.zeros(B)}, particles=K, batch=(B,))
    assert trace["z"].shape == trace.log_joint().shape == (K, B)
    assert len(trace["z"].unique()) == K * B

    class Rows(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(0.0, 1.0))
            bn.sample("x", Normal(z + torch.zeros(B), 1.0))

    with pytest.raises(NodeError, match=r"node 'x': expected batch shape \(\), got \(5,\)"):
        Rows().bind().observe()


def test_scalar_posterior_without_a_batch():
    class P(lb.BayesianNet):
        def forward(self, bn):
            z = bn.sample("z", Normal(0.0, 1.0))
            bn.sample("x", Normal(z, 1.0))

    class Q(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("z", Normal(0.5, 0.5**0.5))

    made = lb.elbo(P().bind(), {"x": torch.tensor(1.0)}, Q().bind(), particles=K, analytic_kl=True)
    assert made.value.shape == made.terms["kl"].shape == made.sgvb().shape == ()
    assert made.log_weights.shape == (K,)
    torch.testing.assert_close(made.log_weights, Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)).expand(K))


# --- Errors at the node -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_dims", [2, 3, -1])
def test_event_axes_come_from_the_parameters(event_dims):
    message = (
        rf"node 'v': expected event_dims from 0 to 1 .*batch shape is \(5,\)\), got {event_dims}\. Event axes come"
    )
    with pytest.raises(NodeError, match=message):
        Trace().sample("v", Normal(torch.zeros(B), 1.0), event_dims)
    with pytest.raises(NodeError, match=r"node 'v': expected event_dims from 0 to 0"):
        Trace().sample("v", Normal(0.0, 1.0), event_dims=1)


@pytest.mark.parametrize("missing", [1, 2])
def test_cure_counts_the_event_axes_that_are_missing(missing):
    for lead in ((B,), (K, B)):
        trace = Trace(particles=K, batch=(B,))
        with pytest.raises(
            NodeError, match=rf"node 'v': .*Pass event_dims={missing} more if the last axes are one event"
        ):
            trace.sample("v", Normal(torch.zeros(*lead, *(D, D + 1)[:missing]), 1.0))


@pytest.mark.parametrize("shape", [(B + 1,), (K,), (B, K), (K + 1, B), (1, B), (K, 1)], ids=str)
def test_batch_shapes_that_would_broadcast_are_refused(shape):
    trace = Trace(particles=K, batch=(B,))
    with pytest.raises(NodeError, match=rf"node 'v': expected batch shape \(3, 5\) or \(5,\), got \({shape[0]},.*"):
        trace.sample("v", Normal(torch.zeros(shape), 1.0))


def test_distribution_whose_log_prob_has_another_shape_is_named():
    class Summed(Normal):
        def log_prob(self, value):
            return super().log_prob(value).sum(0, keepdim=True)

    trace = Trace()
    trace.sample("v", Summed(torch.zeros(B), 1.0))
    with pytest.raises(NodeError, match=r"log_prob of node 'v': expected shape \(5,\), got \(1,\)"):
        trace.log_prob("v")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probabilities_in_half_precision_are_refused(dtype):
    trace = Trace()
    trace.sample("v", Normal(torch.zeros(B, dtype=dtype), torch.ones((), dtype=dtype)))
    with pytest.raises(
        NodeError, match=r"node 'v': expected a float32 log-probability, got torch\..*float16\. Call \.float\(\)"
    ):
        trace.log_prob("v")
