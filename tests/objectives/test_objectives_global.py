"""Latents for all rows: a linear Gaussian regression whose weights, evidence and bounds are known exactly.

The batch shape is (), the rows of the data node are an event, and a minibatch stands for all rows by its scale.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import lowerbound as lb
import tiny
from exact import OnNodes, farthest, gauss_hermite, gradients, random
from lowerbound.core.errors import ArgumentError, NodeError
from lowerbound.objectives.log_weights import draw

N, D, K = 7, 2, 5
NOISE = 0.8
X, Y = random(0, N, D), random(1, N)
PRECISION = torch.eye(D, dtype=torch.float64) + X.T @ X / NOISE**2
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y / NOISE**2
EVIDENCE = MultivariateNormal(
    torch.zeros(N, dtype=torch.float64), X @ X.T + NOISE**2 * torch.eye(N, dtype=torch.float64)
).log_prob(Y)


class Regression(lb.BayesianNet):
    """w ~ N(0, I), y ~ N(X w + b, noise^2): the rows of y are one event."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, bn, x, scale=1.0):
        w = bn.sample("w", Normal(x.new_zeros(D), 1.0), event_dims=1)
        bn.sample("y", Normal(w @ x.T + self.b, NOISE), event_dims=1, scale=scale)


class Belief(lb.BayesianNet):
    """w ~ N(loc, L L')."""

    def __init__(self, loc: Tensor, tril: Tensor) -> None:
        super().__init__()
        self.loc, self.tril = nn.Parameter(loc.clone()), nn.Parameter(tril.clone())

    def forward(self, bn):
        bn.sample("w", MultivariateNormal(self.loc, scale_tril=self.tril.tril()))


def exact() -> Belief:
    return Belief(MEAN, torch.linalg.cholesky(COVARIANCE))


def other() -> Belief:
    return Belief(MEAN + 0.2, 1.3 * torch.linalg.cholesky(COVARIANCE))


def bound(make=lb.elbo, q: Belief | None = None, rows: list[int] | None = None, **options):
    rows = list(range(N)) if rows is None else rows
    model = Regression().bind(X[rows], N / len(rows))
    return make(model, {"y": Y[rows]}, (exact() if q is None else q).bind(), **options)


# --- Values -----------------------------------------------------------------------------------------------------------

MAKERS = {"elbo": lb.elbo, "iwae": lb.iw_objective}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("particles", [1, 2, 5, N])
def test_bound_at_the_exact_posterior_is_the_evidence_of_all_rows(make, particles):
    made = bound(make, particles=particles)
    assert made.value.shape == ()
    assert made.log_weights.shape == (particles,)
    assert made.value.item() == pytest.approx(EVIDENCE.item(), abs=1e-10)
    assert all(term.shape == () for term in made.terms.values())
    assert bound(lb.is_loglikelihood, particles=particles, chunk=2).item() == pytest.approx(EVIDENCE.item(), abs=1e-10)
    if particles > 1:
        assert bound(lb.klpq, particles=particles).value.item() == pytest.approx(0.0, abs=1e-10)


def test_iwae_takes_the_mean_over_particles_behind_the_sum_over_rows():
    made = bound(lb.iw_objective, other(), particles=K)
    w = made.draw.posterior["w"]
    log_rows = Normal(w @ X.T, NOISE).log_prob(Y)  # [K, N]
    w, log_rows = w.detach(), log_rows.detach()
    log_ratio = Normal(0.0, 1.0).log_prob(w).sum(-1) - other().bind().run({"w": w}, particles=K).log_prob("w")
    wanted = (torch.logsumexp(log_rows.sum(-1) + log_ratio, 0) - math.log(K)).detach()
    assert made.value.item() == pytest.approx(wanted.item(), abs=1e-10)
    per_row = (torch.logsumexp(log_rows + log_ratio[:, None] / N, 0) - math.log(K)).sum().detach()
    assert abs(float(made.value - per_row)) > 0.1  # the negative control: row by row it would be another number


def test_elbo_with_an_analytic_kl_has_the_closed_kl():
    q = other()
    made = bound(lb.elbo, q, particles=K, analytic_kl=True)
    normal = MultivariateNormal(q.loc, scale_tril=q.tril)
    standard = MultivariateNormal(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    kl = torch.distributions.kl_divergence(normal, standard).detach()
    assert made.terms["kl"].item() == pytest.approx(kl.item(), abs=1e-10)


def test_pieces_of_the_data_may_be_nodes_of_their_own():
    class Pieces(Regression):
        def forward(self, bn, x):
            w = bn.sample("w", Normal(x.new_zeros(D), 1.0), event_dims=1)
            bn.sample("y", Normal(w @ x[:3].T, NOISE), event_dims=1)
            bn.sample("more", Normal(w @ x[3:].T, NOISE), event_dims=1)

    made = lb.elbo(Pieces().bind(X), {"y": Y[:3], "more": Y[3:]}, exact().bind(), particles=K)
    assert made.value.item() == pytest.approx(EVIDENCE.item(), abs=1e-10)


# --- Minibatches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 6])
def test_scaled_minibatches_are_unbiased_for_the_elbo_and_its_gradient(size):
    """By enumeration of all minibatches, under the same draws."""

    def cost(rows: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(3)
        q = other()
        made = bound(lb.elbo, q, rows, particles=K)
        return made.value, gradients(made.sgvb(), q)

    whole, whole_gradient = cost(list(range(N)))
    parts = [cost(list(rows)) for rows in itertools.combinations(range(N), size)]
    values = torch.stack([value for value, _ in parts])
    assert values.mean().item() == pytest.approx(whole.item(), abs=1e-10)
    assert values.std() > 0.5  # one minibatch is not the whole
    mean = {name: torch.stack([grad[name] for _, grad in parts]).mean(0) for name in whole_gradient}
    assert farthest(mean, whole_gradient) < 1e-10
    assert max(float(grad.abs().max()) for grad in whole_gradient.values()) > 0.1


class Effects(lb.BayesianNet):
    """w for all rows; a shift u of each row, whose rows are an event too, with the scale of the data."""

    def forward(self, bn, x, scale):
        w = bn.sample("w", Normal(x.new_zeros(D), 1.0), event_dims=1)
        u = bn.sample("u", Normal((w @ x.T).tanh(), 0.5), event_dims=1, scale=scale)
        bn.sample("y", Normal(w @ x.T + u, NOISE), event_dims=1, scale=scale)


class EffectsBelief(lb.BayesianNet):
    def forward(self, bn, x, y, scale):
        bn.sample("w", Normal(MEAN, 0.4), event_dims=1)
        bn.sample("u", Normal(0.3 * y, 0.6), event_dims=1, scale=scale)


@pytest.mark.parametrize("analytic", [False, True])
def test_latents_of_single_rows_count_as_often_as_their_data(analytic):
    """The part that is linear in rows is scaled by N / B, under draws that agree row by row."""
    w, u = random(5, K, D), random(6, K, N)

    def parts(rows: list[int], scale: float) -> Tensor:
        class Fixed(lb.BayesianNet):
            def forward(self, bn, x, y, scale):
                bn.sample("w", OnNodes(MEAN, torch.full((D,), 0.4, dtype=torch.float64), w), event_dims=1)
                spread = torch.full((len(y),), 0.6, dtype=torch.float64)
                bn.sample("u", OnNodes(0.3 * y, spread, u[:, rows]), event_dims=1, scale=scale)

        x, y = X[rows], Y[rows]
        model, q = Effects().bind(x, scale), Fixed().bind(x, y, scale)
        return lb.elbo(model, {"y": y}, q, particles=K, analytic_kl=analytic).value

    whole = parts(list(range(N)), 1.0)
    subsets = [parts(list(rows), N / 3) for rows in itertools.combinations(range(N), 3)]
    assert torch.stack(subsets).mean().item() == pytest.approx(whole.item(), abs=1e-10)


def test_analytic_kl_is_scaled_as_its_draws_are():
    found = []
    for scale in (1.0, 2.5):
        model, q = Effects().bind(X, scale), EffectsBelief().bind(X, Y, scale)
        torch.manual_seed(1)
        made = draw(model, {"y": Y}, q, particles=K)
        kl = {name: (made._node_kl(name, True), made._node_kl(name, False)) for name in ("w", "u")}
        found.append(kl)
    for exactly in (0, 1):
        assert found[1]["w"][exactly].item() == pytest.approx(found[0]["w"][exactly].item(), abs=1e-12)
        assert found[1]["u"][exactly].item() == pytest.approx(2.5 * found[0]["u"][exactly].item(), abs=1e-12)
    assert abs(float(found[0]["u"][0] - found[0]["u"][1])) > 1e-3  # a closed form, and a mean over draws


# --- Gradients --------------------------------------------------------------------------------------------------------


class Slope(lb.BayesianNet):
    """w ~ N(0, 1), y ~ N(w x + b, noise^2), with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, bn, scale):
        w = bn.sample("w", Normal(torch.zeros((), dtype=torch.float64), 1.0))
        bn.sample("y", Normal(w[..., None] * X[:, 0] + self.b, 2.0), event_dims=1, scale=scale)


_SPREAD = (1 + X[:, 0].square().sum() / 4).rsqrt()
SLOPE = (_SPREAD**2 * (X[:, 0] * (Y - 0.1)).sum() / 4, _SPREAD)  # mean and spread of the exact posterior


class SlopeBelief(lb.BayesianNet):
    """w ~ N(m, s^2), whose draws are given nodes; `sample` cuts their path."""

    def __init__(self, nodes: Tensor) -> None:
        super().__init__()
        self.nodes = nodes
        self.m = nn.Parameter(SLOPE[0] + 0.1)
        self.s = nn.Parameter(SLOPE[1] * 1.1)

    def forward(self, bn):
        class Given(OnNodes):
            def sample(self, sample_shape=torch.Size()):  # noqa: B008 (torch's own signature)
                return self.rsample(sample_shape).detach()

        bn.sample("w", Given(self.m, self.s, self.nodes))


def expected_gradient(cost, scale: float, points: int) -> dict[str, Tensor]:
    """Return the expectation of an estimator over all pairs of particles, by Gauss-Hermite quadrature."""
    nodes, weights = gauss_hermite(points, 2)
    total: dict[str, Tensor] = {}
    for node, weight in zip(nodes, weights, strict=True):
        model, q = Slope(), SlopeBelief(node)
        found = gradients(cost(model.bind(scale), {"y": Y}, q.bind()), model, q)
        total = {name: total.get(name, 0.0) + weight * grad for name, grad in found.items()}
    return total


ELBO = {
    "stl": lambda p, o, q: lb.elbo(p, o, q, particles=2).sgvb(stl=True),
    "analytic": lambda p, o, q: lb.elbo(p, o, q, particles=2, analytic_kl=True).sgvb(),
    "reinforce": lambda p, o, q: lb.elbo(p, o, q, particles=2).reinforce(),
    "leave-one-out": lambda p, o, q: lb.elbo(p, o, q, particles=2).reinforce(baseline="leave-one-out"),
}
IWAE = {
    "dreg": lambda p, o, q: lb.iw_objective(p, o, q, particles=2).dreg(),
    "vimco": lambda p, o, q: lb.iw_objective(p, o, q, particles=2).vimco(),
    "reinforce": lambda p, o, q: lb.iw_objective(p, o, q, particles=2).reinforce(),
}


@pytest.mark.parametrize("scale", [0.9])
def test_every_estimator_has_the_gradient_of_its_bound(scale):
    for costs, plain, points, atol in (
        (ELBO, lambda p, o, q: lb.elbo(p, o, q, particles=2).sgvb(), 4, 1e-10),
        (IWAE, lambda p, o, q: lb.iw_objective(p, o, q, particles=2).sgvb(), 10, 1e-6),
    ):
        truth = expected_gradient(plain, scale, points)
        assert min(float(grad.abs()) for grad in truth.values()) > 3e-3
        for name, cost in costs.items():
            assert farthest(expected_gradient(cost, scale, points), truth) < atol, name


@pytest.mark.parametrize("make, estimator", [(lb.elbo, "stl"), (lb.iw_objective, "dreg")], ids=["stl", "dreg"])
def test_gradient_at_the_exact_posterior_is_zero_draw_by_draw(make, estimator):
    q = exact()
    made = bound(make, q, particles=K)
    cost = made.sgvb(stl=True) if estimator == "stl" else made.dreg()
    assert max(float(grad.abs().max()) for grad in gradients(cost, q).values()) < 1e-9
    assert max(float(grad.abs().max()) for grad in gradients(bound(make, q, particles=K).sgvb(), q).values()) > 1e-3


def test_inclusive_divergence_weighs_whole_draws():
    q, model = other(), Regression()
    made = lb.klpq(model.bind(X), {"y": Y}, q.bind(), particles=K)
    w = made.draw.posterior["w"].detach()
    weights = made.log_weights.softmax(0)
    log_q = MultivariateNormal(q.loc, scale_tril=q.tril.tril()).log_prob(w)
    assert farthest(gradients(made.importance(), q), gradients(-(weights * log_q).sum(), q)) < 1e-10
    log_p = Normal(w @ X.T + model.b, NOISE).log_prob(Y).sum(-1)
    assert farthest(gradients(made.wake(), model), gradients(-(weights * log_p).sum(), model)) < 1e-10


# --- Training ---------------------------------------------------------------------------------------------------------


class Rows(lb.models.LatentVariableModel):
    """A row is its inputs and its target, side by side; N of them make up the data."""

    def programs(self, x):
        inputs, y = x[:, :D].double(), x[:, D].double()
        return lb.Programs(self.generator.bind(inputs, N / len(x)), {"y": y}, self.posterior.bind())


OBJECTIVES = {
    "elbo": lambda m: lb.objectives.ELBO(m, particles=8, gradient="stl"),
    "iwae": lambda m: lb.objectives.IWAE(m, particles=8, gradient="dreg"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_finds_the_exact_posterior(name):
    """On all rows at once, by estimators that vanish there."""
    start = Belief(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    model = Rows(Regression().requires_grad_(False), start)
    data = tiny.Rows(torch.cat([X, Y[:, None]], 1).repeat(20, 1))  # every batch of N holds all rows
    goal = OBJECTIVES[name](model)
    tiny.fit(goal, data, epochs=10, batch_size=N, lr=0.1, schedule="cosine")
    atol = 1e-3
    torch.testing.assert_close(model.posterior.loc.data, MEAN, rtol=0, atol=atol)
    tril = model.posterior.tril.detach().tril()
    torch.testing.assert_close(tril @ tril.T, COVARIANCE, rtol=0, atol=atol)
    made = lb.iw_objective(*model.programs(data.values[:N]), particles=K)
    assert made.value.item() == pytest.approx(EVIDENCE.item(), abs=1e-2)


# --- Bad input --------------------------------------------------------------------------------------------------------


class PerRow(lb.BayesianNet):
    def forward(self, bn):
        bn.sample("w", Normal(torch.zeros(N, D, dtype=torch.float64), 1.0), event_dims=1)


def test_posterior_with_one_weight_a_row_is_refused():
    made = lb.elbo(Regression().bind(X), {"y": Y}, PerRow().bind(), particles=K)
    with pytest.raises(NodeError, match=r"value of node 'y': .*got \(7,\).*draws its latents once, not row by row"):
        _ = made.value


def test_data_whose_rows_are_no_event_are_refused():
    class Rowwise(lb.BayesianNet):
        def forward(self, bn):
            w = bn.sample("w", Normal(torch.zeros(D, dtype=torch.float64), 1.0), event_dims=1)
            bn.sample("y", Normal(w @ X.T, NOISE))

    made = lb.elbo(Rowwise().bind(), {"y": Y}, exact().bind(), particles=K)
    with pytest.raises(NodeError, match=r"node 'y': expected batch shape \(5,\) or \(\), got \(5, 7\).*event_dims=1"):
        _ = made.value


def test_global_latent_without_a_posterior_is_refused():
    class Empty(lb.BayesianNet):
        def forward(self, bn):
            bn.sample("u", Normal(torch.zeros(D, dtype=torch.float64), 1.0), event_dims=1)

    with pytest.raises(NodeError, match="node 'w': expected an observed value or a posterior, got neither"):
        _ = lb.elbo(Regression().bind(X), {"y": Y}, Empty().bind()).value


@pytest.mark.filterwarnings("ignore:Every node of this posterior has a density")
def test_critic_cannot_judge_latents_of_single_rows_that_stand_for_more():
    critic = lb.nn.MLP(D + N, [8], 1).double()
    model, q = Effects().bind(X, 2.0), EffectsBelief().bind(X, Y, 2.0)
    with pytest.raises(NodeError, match="avb at node 'u': expected a latent that counts once.*Use lb.elbo"):
        _ = lb.avb(model, {"y": Y}, q, lambda z, *inputs: critic(z).squeeze(-1), particles=K).value

    class Sampler(lb.BayesianNet):
        def forward(self, bn):
            w = bn.implicit("w", torch.randn(K, D, dtype=torch.float64))
            bn.implicit("u", (w @ X.T).tanh())

    with pytest.raises(
        NodeError, match=r"node 'u': expected the same scale and mask.*got scale 2 without a mask and scale 1"
    ):
        _ = lb.avb(model, {"y": Y}, Sampler().bind(), lambda z: critic(z).squeeze(-1), particles=K).terms


def test_measures_of_rows_are_refused():
    model = Rows(Regression(), exact())
    with pytest.raises(ArgumentError, match=r"model: expected one value a row, got one for all rows.*is_loglikelihood"):
        lb.evaluate(model, tiny.Rows(torch.cat([X, Y[:, None]], 1)), "iwae-5")
