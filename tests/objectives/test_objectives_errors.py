"""Programs that do not fit each other or the data: an error that names the node and the cure, never a number."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    ExpTransform,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    RelaxedBernoulli,
    TransformedDistribution,
    Uniform,
)

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, NodeError

K, B, D, L = 3, 5, 7, 2
X = torch.zeros(B, D)


class P(lb.BayesianNet):
    """z ~ N(0, I), x ~ N(z_1, 1) in every dimension, with one choice replaced."""

    def __init__(self, **changes):
        super().__init__()
        self.c = {"event": 1, "x_event": 1, "extra": None, "deterministic": False, "implicit": False, **changes}

    def forward(self, bn, n):
        if self.c["deterministic"]:
            z = bn.deterministic("z", torch.zeros(K, n, L))
        elif self.c["implicit"]:
            z = bn.implicit("z", torch.zeros(*bn.particles, n, L))
        else:
            z = bn.sample("z", Normal(torch.zeros(n, L), 1.0), event_dims=self.c["event"])
        if self.c["extra"]:
            bn.sample(self.c["extra"], Normal(torch.zeros(n), 1.0))
        bn.sample("x", Normal(z[..., :1].expand(*z.shape[:-1], D), 1.0), event_dims=self.c["x_event"])


class Q(lb.BayesianNet):
    """Nodes by name, each a distribution and its number of event axes."""

    def __init__(self, **nodes):
        super().__init__()
        self.nodes = nodes or {"z": (Normal(torch.zeros(B, L), 1.0), 1)}

    def forward(self, bn):
        for name, (distribution, event_dims) in self.nodes.items():
            if distribution is None:
                bn.implicit(name, torch.zeros(*bn.particles, B, L), event_dims)
            else:
                bn.sample(name, distribution, event_dims)


def latent(loc=None, event_dims: int = 1):
    return (Normal(torch.zeros(B, L) if loc is None else loc, 1.0), event_dims)


WRONG = {
    "latent without posterior": (
        lambda: (P(extra="w").bind(B), {"x": X}, Q().bind()),
        r"node 'w': expected an observed value or a posterior, got neither\. Add a node 'w' to the posterior",
    ),
    "misspelt latent": (
        lambda: (P().bind(B), {"x": X}, Q(zz=latent()).bind()),
        r"node 'z': .*Add a node 'z' to the posterior, or observe it; given are x, zz",
    ),
    "posterior node unknown to the model": (
        lambda: (P().bind(B), {"x": X}, Q(z=latent(), zz=latent()).bind()),
        r"node 'zz': expected a random node of P, got a name that it lacks\. Did you mean 'z'\? Known: x, z",
    ),
    "data node missing": (
        lambda: (P().bind(B), {}, Q().bind()),
        r"node 'x': expected an observed value or a posterior, got neither",
    ),
    "data misspelt": (
        lambda: (P().bind(B), {"x": X, "xx": X}, Q().bind()),
        r"node 'xx': expected a random node of P, got a name that it lacks\. Did you mean 'x'",
    ),
    "observed and in the posterior": (
        lambda: (P().bind(B), {"x": X, "z": torch.zeros(B, L)}, Q().bind()),
        r"node 'z': expected a latent or an observed node, got both\. Observe it, or give it a posterior, not both",
    ),
    "posterior draws nothing": (
        lambda: (P().bind(B), {"x": X}, Silent().bind()),
        r"posterior: expected a program that draws latents, got no random node",
    ),
    "latent computed in the model": (
        lambda: (P(deterministic=True).bind(B), {"x": X}, Q().bind()),
        r"node 'z': expected no observation, got an observed value\. Observe a stochastic node",
    ),
    "latent implicit in the model": (
        lambda: (P(implicit=True).bind(B), {"x": X}, Q().bind()),
        r"node 'z': expected a prior, got a node without density",
    ),
    "latent implicit in the posterior": (
        lambda: (P().bind(B), {"x": X}, Q(z=(None, 1)).bind()),
        r"node 'z': expected a density in the posterior, got an implicit draw\. .*adversarial objective",
    ),
    "event forgotten in the posterior": (
        lambda: (P().bind(B), {"x": X}, Q(z=latent(event_dims=0)).bind()),
        r"node 'z': expected batch shape \(3, 5, 2\) or \(5, 2\), got \(5,\)\. Lower event_dims",
    ),
    "event forgotten in the model": (
        lambda: (P(event=0).bind(B), {"x": X}, Q().bind()),
        r"node 'z': expected batch shape \(3, 5\) or \(5,\), got \(5, 2\)\. Pass event_dims=1 more",
    ),
    "event forgotten at the data": (
        lambda: (P(x_event=0).bind(B), {"x": X}, Q().bind()),
        r"node 'x': expected batch shape \(3, 5\) or \(5,\), got \(3, 5, 7\)\. Pass event_dims=1 more",
    ),
    "too large an event at the data": (
        lambda: (P(x_event=2).bind(B), {"x": X}, Q().bind()),
        r"node 'x': expected batch shape \(3, 5\) or \(5,\), got \(3,\)\. Lower event_dims",
    ),
    "too large an event in the posterior": (
        lambda: (P().bind(B), {"x": X}, Q(z=latent(event_dims=2)).bind()),
        r"node 'z': expected batch shape \(3,\) or \(\), got \(5,\)",
    ),
    "another number of rows in the model": (
        lambda: (P().bind(B + 1), {"x": X}, Q().bind()),
        r"node 'z': expected batch shape \(3, 5\) or \(5,\), got \(6,\)\..*one row for each row of the batch",
    ),
    "another number of rows in the data": (
        lambda: (P().bind(B), {"x": torch.zeros(B + 1, D)}, Q().bind()),
        r"value of node 'x': expected shape \(3, 5, 7\) or \(5, 7\), got \(6, 7\)",
    ),
    "another size of latent": (
        lambda: (P().bind(B), {"x": X}, Q(z=latent(torch.zeros(B, L + 1))).bind()),
        r"value of node 'z': expected shape \(3, 5, 2\) or \(5, 2\), got \(3, 5, 3\)",
    ),
    "data that would broadcast": (
        lambda: (P().bind(B), {"x": torch.zeros(B, 1)}, Q().bind()),
        r"value of node 'x': expected shape \(3, 5, 7\) or \(5, 7\), got \(5, 1\)",
    ),
    "a single row of data": (
        lambda: (P().bind(B), {"x": torch.zeros(D)}, Q().bind()),
        r"value of node 'x': expected shape \(3, 5, 7\) or \(5, 7\), got \(7,\)",
    ),
    "node drawn twice": (
        lambda: (P(extra="z").bind(B), {"x": X}, Q().bind()),
        r"node 'z': expected a new name, got one that is taken\. Give every node its own name",
    ),
}


class Silent(lb.BayesianNet):
    def forward(self, bn):
        bn.deterministic("features", torch.zeros(B, L))


@pytest.mark.parametrize("bound", [lb.elbo, lb.iw_objective])
@pytest.mark.parametrize("programs, message", WRONG.values(), ids=WRONG)
def test_programs_that_do_not_fit(programs, message, bound):
    p, observed, q = programs()
    made = bound(p, observed, q, particles=K)
    with pytest.raises(NodeError, match=message):
        made.value  # noqa: B018 (a bound is lazy; reading it draws)
    made = bound(*programs(), particles=K)
    with pytest.raises(NodeError, match=message):
        made.sgvb()


def test_programs_that_fit():
    assert lb.elbo(P().bind(B), {"x": X}, Q().bind(), particles=K).value.shape == (B,)


def test_is_loglikelihood_refuses_an_implicit_posterior():
    with pytest.raises(NodeError, match=r"node 'z': expected a node with a density, got implicit"):
        lb.is_loglikelihood(P().bind(B), {"x": X}, Q(z=(None, 1)).bind(), particles=K)


def test_program_must_be_a_bayesian_net():
    with pytest.raises(ArgumentError, match=r"program: expected a BayesianNet, got Linear\. Derive the class"):
        lb.elbo(lb.Program(torch.nn.Linear(1, 1), ()), {"x": X}, Q().bind()).value  # noqa: B018


# --- Estimators and what cannot be differentiated ---------------------------------------------------------------------

UNREPARAMETRISED = {
    "Bernoulli": Independent(Bernoulli(logits=torch.zeros(B, L)), 1),
    "Categorical": Independent(Categorical(logits=torch.zeros(B, L, 4)), 1),
}
PATHWISE = {
    "sgvb": (lb.elbo, lambda b: b.sgvb()),
    "stl": (lb.elbo, lambda b: b.sgvb(stl=True)),
    "iwae sgvb": (lb.iw_objective, lambda b: b.sgvb()),
    "dreg": (lb.iw_objective, lambda b: b.dreg()),
}


@pytest.mark.parametrize("estimator", PATHWISE)
@pytest.mark.parametrize("kind", UNREPARAMETRISED)
def test_pathwise_estimators_refuse_draws_without_a_path(kind, estimator):
    bound, estimate = PATHWISE[estimator]
    made = bound(Prior(UNREPARAMETRISED[kind]).bind(), {"x": X}, Q(z=(UNREPARAMETRISED[kind], 0)).bind(), particles=K)
    assert made.value.shape == (B,)
    with pytest.raises(
        NodeError, match=rf"(sgvb|dreg) at node 'z': expected a pathwise draw, got {kind}\. Draw it from"
    ):
        estimate(made)


def test_one_such_node_among_others_is_found():
    coin = Independent(Bernoulli(logits=torch.zeros(B, L)), 1)
    q = Q(w=latent(torch.zeros(B), 0), z=(coin, 0))
    made = lb.elbo(Prior(coin, extra="w").bind(), {"x": X}, q.bind())
    with pytest.raises(NodeError, match="at node 'z'"):
        made.sgvb()


def test_relaxed_draws_have_a_path():
    logits = torch.zeros(B, L, requires_grad=True)
    relaxed = Independent(RelaxedBernoulli(torch.tensor(0.5), logits=logits), 1)
    made = lb.elbo(Prior(relaxed).bind(), {"x": X}, Q(z=(relaxed, 0)).bind(), particles=K)
    (grad,) = torch.autograd.grad(made.sgvb().sum(), logits)
    assert float(grad.abs().min()) > 0


class Prior(lb.BayesianNet):
    """A given prior of z, and x around z's sum."""

    def __init__(self, prior, extra: str | None = None, event_dims: int = 0):
        super().__init__()
        self.prior, self.extra, self.event_dims = prior, extra, event_dims

    def forward(self, bn):
        if self.extra:
            bn.sample(self.extra, Normal(torch.zeros(B), 1.0))
        z = bn.sample("z", self.prior, self.event_dims)
        bn.sample("x", Normal(z.float().sum(-1, keepdim=True).expand(*z.shape[:-1], D), 1.0), event_dims=1)


# --- Values changed in place ------------------------------------------------------------------------------------------


class Clamping(lb.BayesianNet):
    """A posterior or a model that changes a value after it was drawn."""

    def __init__(self, observe_x: bool):
        super().__init__()
        self.observe_x = observe_x

    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, L), 1.0), event_dims=1)
        z.clamp_(-0.5, 0.5)
        if self.observe_x:
            bn.sample("x", Normal(z[..., :1].expand(*z.shape[:-1], D), 1.0), event_dims=1)


@pytest.mark.parametrize("analytic_kl", [False, True])
@pytest.mark.parametrize("where", ["posterior", "model"])
def test_latent_changed_in_place(where, analytic_kl):
    p = Clamping(True) if where == "model" else P()
    q = Clamping(False).bind(B) if where == "posterior" else Q().bind()
    made = lb.elbo(p.bind(B), {"x": X}, q, particles=K, analytic_kl=analytic_kl)
    with pytest.raises(
        NodeError, match=r"node 'z': expected its value as drawn, got an in-place change\. Make a new tensor"
    ):
        made.value  # noqa: B018


# --- Validation -------------------------------------------------------------------------------------------------------

ROWS = torch.full((B, L), 0.4)
PROBABILITY = r"A probability and a density cannot be compared: take two discrete"
SUPPORTS = {
    "normal below log-normal": (Normal(5 + ROWS, 0.1), LogNormal(ROWS, 1.0), "LogNormal", "Normal", "inside the prior"),
    "normal below beta": (Normal(ROWS, 0.01), Beta(1 + ROWS, 1.0), "Beta", "Normal", "inside the prior"),
    "wide uniform": (Uniform(ROWS - 1, ROWS + 1), Beta(1 + ROWS, 1.0), "Beta", "Uniform", "inside the prior"),
    "coin below normal": (Bernoulli(ROWS), Normal(ROWS, 1.0), "Normal", "Bernoulli", PROBABILITY),
    "normal below coin": (Normal(ROWS, 1.0), Bernoulli(ROWS), "Bernoulli", "Normal", PROBABILITY),
    "more categories": (
        *(Categorical(logits=torch.zeros(B, L, c)) for c in (5, 3)),
        *["Categorical"] * 2,
        "inside the",
    ),
    "shares below normal": (Dirichlet(1 + ROWS), Normal(ROWS, 1.0), "Normal", "Dirichlet", "on different surfaces"),
}


@pytest.mark.parametrize("q, p, prior, posterior, cure", SUPPORTS.values(), ids=SUPPORTS)
@pytest.mark.parametrize("bound", [lb.elbo, lb.iw_objective])
def test_validation_compares_supports(q, p, prior, posterior, cure, bound):
    event_dims = 1 - len(q.event_shape)
    made = bound(
        Prior(p, event_dims=1 - len(p.event_shape)).bind(),
        {"x": X},
        Q(z=(q, event_dims)).bind(),
        particles=K,
        validate=True,
    )
    expected = rf"node 'z': expected a posterior with the support of the prior {prior}, got {posterior}\. .*{cure}"
    with pytest.raises(NodeError, match=expected):
        made.value  # noqa: B018


FITTING = {
    "log-normal below gamma": (LogNormal(ROWS, 1.0), Gamma(1 + ROWS, 1.0)),
    "beta below normal": (Beta(1 + ROWS, 1.0), Normal(ROWS, 1.0)),
    "uniform below wider uniform": (Uniform(ROWS, ROWS + 1), Uniform(ROWS - 0.5, ROWS + 2)),
    "coin below coin": (Bernoulli(ROWS), Bernoulli(1 - ROWS)),
    "fewer categories": (Categorical(logits=torch.zeros(B, L, 3)), Categorical(logits=torch.zeros(B, L, 5))),
    "full normal below diagonal": (MultivariateNormal(ROWS, torch.eye(L)), Normal(ROWS, 1.0)),
    "mixture": (
        MixtureSameFamily(Categorical(logits=torch.zeros(B, L, 2)), Normal(torch.zeros(B, L, 2), 1.0)),
        Normal(ROWS, 1.0),
    ),
    "one-hot": (OneHotCategorical(logits=ROWS), OneHotCategorical(logits=-ROWS)),
    "unknown support": (TransformedDistribution(Normal(ROWS, 1.0), [ExpTransform()]), LogNormal(ROWS, 1.0)),
}


@pytest.mark.parametrize("q, p", FITTING.values(), ids=FITTING)
def test_validation_accepts_supports_that_fit(q, p):
    p_program = Prior(p, event_dims=1 - len(p.event_shape)).bind()
    made = lb.elbo(p_program, {"x": X}, Q(z=(q, 1 - len(q.event_shape))).bind(), particles=K, validate=True)
    assert made.value.shape == (B,)


BAD_DATA = {
    "grey": (0.5, r"value of node 'x'.*support of Bernoulli, got values from 0\.5 to 0\.5\. .*binarise the data"),
    "nan": (torch.nan, r"node 'z': expected loc of Normal.*values that are not finite"),  # the encoder meets it first
}


@pytest.mark.parametrize("data, message", BAD_DATA.values(), ids=BAD_DATA)
def test_objective_validates_data(data, message):
    model = lb.models.VAE(event_shape=(D,), latent_dim=L, hidden=(3,))
    for objective in (lb.objectives.ELBO(model), lb.objectives.IWAE(model)):
        objective.validate(torch.ones(B, D))
        with pytest.raises(NodeError, match=message):
            objective.validate(torch.full((B, D), data))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_validation_refuses_data_that_are_not_finite(bad):
    x = X.clone()
    x[1, 2] = bad
    made = lb.elbo(P().bind(B), {"x": x}, Q().bind(), validate=True)
    with pytest.raises(NodeError, match=r"value of node 'x': .*got 1 of 35 values that are not finite"):
        made.value  # noqa: B018


def test_objective_validates_parameters():
    model = lb.models.VAE(event_shape=(D,), latent_dim=L, hidden=(3,))
    with torch.no_grad():
        model.posterior.encoder.head.loc.bias.fill_(torch.nan)
    with pytest.raises(
        NodeError, match=r"node 'z': expected loc of Normal in Real\(\), got 10 of 10 values that are not"
    ):
        lb.objectives.ELBO(model).validate(torch.ones(B, D))
