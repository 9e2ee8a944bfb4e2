"""Adversarial variational Bayes with a critic that is right: every number and gradient is then known.

A Gaussian q has a density, so the critic that training would have to find can be written down and frozen. Under it the
estimate is the ELBO, and its gradient the one that sticks the landing, for the same noise. The critic's own cost is an
expectation, computed here by enumeration on a grid and by quadrature. Mistakes that are easily made are planted at the
end, and the checks above must notice each.
"""

from __future__ import annotations

import copy
import math
from functools import cached_property

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal, constraints, kl_divergence
from torch.nn.functional import softplus

import lowerbound as lb
from exact import OnNodes, Scalars, farthest, gauss_hermite, gradients, linear_gaussian, random
from lowerbound.objectives import AdversarialEstimate

TOLERANCE = 1e-12
WRONG = 1e-3  # a planted mistake is at least this far off
LOG_2PI = math.log(2 * math.pi)
B = 4
WAYS = [(contrast, learns) for contrast in ("prior", "adaptive") for learns in ("ratio", "density")]


def shown(size: int) -> float:
    """What a critic that learns the density adds to it: the entropy of a standard normal."""
    return 0.5 * size * (1 + LOG_2PI)


# --- Gaussian posteriors, with their density or as draws only ---------------------------------------------------------


def wide(x: Tensor, *event: int) -> Tensor:
    """Return the sum of each row, spread over an event."""
    return x.sum(-1).reshape(x.shape[:-1] + (1,) * len(event)).expand(x.shape[:-1] + event)


class Sampler(Scalars):
    """A Gaussian posterior with given noise; an `implicit` one keeps its density to itself.

    The moments that it states of a node are not the true ones, and they depend on its parameters: the gradient must
    hold for any contrast, and no part of it may come from there.
    """

    events: dict[str, tuple[int, ...]]

    def __init__(self, noise: dict[str, Tensor], **values: float) -> None:
        super().__init__(**values)
        self.noise, self.implicit = noise, True

    def explicit(self) -> Sampler:
        """Return the same program, of the same parameters, whose nodes have their densities."""
        other = copy.copy(self)
        other.implicit = False
        return other

    def contrast(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return the location and the scale that are stated for a node, shape ``batch + event``."""
        h = wide(x, *self.events[name])
        return self.t["b"] * h + 0.1, (0.3 * h + self.t["s"]).exp()

    def put(self, bn, x: Tensor, name: str, loc: Tensor, scale: Tensor) -> Tensor:
        event = self.events[name]
        q = OnNodes(loc, scale, self.noise[name])
        if not self.implicit:
            return bn.sample(name, q, len(event))

        def moments() -> tuple[Tensor, Tensor]:
            mean, spread = self.contrast(x, name)
            return mean, spread.square()

        return bn.implicit(name, q.loc + q.scale * q.nodes, len(event), moments=moments)


class OneNode(Sampler):
    """q(z|x) over a vector."""

    events = {"z": (2,)}  # noqa: RUF012

    def forward(self, bn, x):
        self.put(bn, x, "z", self.t["a"] * wide(x, 2) + self.t["b"], (self.t["s"] + 0.1 * wide(x, 2)).exp())


class ForOneNode(Scalars):
    def forward(self, bn, n):
        zeros = torch.zeros(n, 2, dtype=torch.float64)
        z = bn.sample("z", Normal(zeros + self.t["prior"], 1.3), event_dims=1)
        bn.sample("x", Normal(torch.sin(self.t["w"] * z.sum(-1, keepdim=True)).expand(*z.shape[:-1], 3), 0.8), 1)


class Several(Sampler):
    """q(m|x) q(s|x) q(v|x): a matrix, a scalar and a vector, in an order that is not the model's."""

    events = {"m": (2, 3), "s": (), "v": (2,)}  # noqa: RUF012

    def forward(self, bn, x):
        for i, name in enumerate(self.events):
            h = wide(x, *self.events[name])
            self.put(bn, x, name, self.t["a"] * h + i * self.t["b"], (self.t["s"] - 0.1 * i * h).exp())


class ForSeveral(Scalars):
    def forward(self, bn, n):
        zeros = torch.zeros(n, dtype=torch.float64)
        s = bn.sample("s", Normal(zeros, 0.7))
        v = bn.sample("v", Normal(self.t["prior"].expand(2), 1.0), event_dims=1)  # shared by all rows
        m = bn.sample("m", Normal(zeros[:, None, None].expand(n, 2, 3), 1.2), event_dims=2)
        loc = self.t["w"] * m.sum(-2) + torch.tanh(s)[..., None] * v.sum(-1, keepdim=True)
        bn.sample("x", Normal(loc, 0.8), event_dims=1)


class Hierarchy(Sampler):
    """q(z1|x) q(z2|z1, x), against the model's p(z2) p(z1|z2)."""

    events = {"z1": (2,), "z2": (1,)}  # noqa: RUF012

    def forward(self, bn, x):
        h = wide(x, 2)
        z1 = self.put(bn, x, "z1", self.t["a"] * h, (self.t["s"] + 0.1 * h).exp())
        loc = self.t["b"] * z1.sum(-1, keepdim=True) + 0.2 * h[..., :1]
        self.put(bn, x, "z2", loc, self.t["s"].exp() * (1 + 0.1 * z1[..., :1].square()))


class ForHierarchy(Scalars):
    def forward(self, bn, n):
        z2 = bn.sample("z2", Normal(torch.zeros(n, 1, dtype=torch.float64), 1.0), event_dims=1)
        z1 = bn.sample("z1", Normal(self.t["prior"] * z2.expand(*z2.shape[:-1], 2), 0.5 + z2.square()), event_dims=1)
        bn.sample("x", Normal(self.t["w"] * z1.sum(-1, keepdim=True).expand(*z1.shape[:-1], 3), 0.8), 1)


class Global(Sampler):
    """q(mu) q(tau|mu) q(eta) for all rows at once, as in eight schools: the batch shape is ()."""

    events = {"mu": (), "tau": (), "eta": (3,)}  # noqa: RUF012

    def forward(self, bn):
        x = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
        mu = self.put(bn, x, "mu", self.t["a"], self.t["s"].exp())
        self.put(bn, x, "tau", torch.sin(mu) + self.t["b"], self.t["s"].exp())
        self.put(bn, x, "eta", self.t["b"] * x, (self.t["s"] + x).exp())


class ForGlobal(Scalars):
    def forward(self, bn):
        zero = torch.zeros((), dtype=torch.float64)
        mu, tau = bn.sample("mu", Normal(zero, 1.0)), bn.sample("tau", Normal(self.t["prior"], 1.0))
        eta = bn.sample("eta", Normal(zero.expand(3), 1.0), event_dims=1)
        bn.sample("x", Normal(mu[..., None] + self.t["w"] * tau[..., None] * eta, 0.6), event_dims=1)


CASES = {
    "one node": (ForOneNode, OneNode, (B,)),
    "several nodes": (ForSeveral, Several, (B,)),
    "hierarchy": (ForHierarchy, Hierarchy, (B,)),
    "global": (ForGlobal, Global, ()),
}


class Case:
    """Both programs of a row of the table, their data, and the critic that is right."""

    def __init__(self, name: str, particles: int, contrast: str = "prior", learns: str = "density") -> None:
        model, posterior, self.batch = CASES[name]
        self.particles, self.ways = particles, {"contrast": contrast, "learns": learns}
        self.p = model(w=0.7, prior=0.4)
        noise = {k: random(i, particles, *self.batch, *e) for i, (k, e) in enumerate(posterior.events.items())}
        self.q = posterior(noise, a=0.6, b=-0.3, s=-0.5)
        self.x = random(9, *self.batch, 3)
        self.inputs = (self.x,) if self.batch else ()
        self.size = sum(math.prod(event) for event in posterior.events.values())

    def bound_model(self):
        return self.p.bind(*self.batch)

    def avb(self, critic=None) -> AdversarialEstimate:
        critic = critic or self.critic
        bound = self.q.bind(*self.inputs)
        return lb.avb(self.bound_model(), {"x": self.x}, bound, critic, particles=self.particles, **self.ways)

    def elbo(self):
        posterior = self.q.explicit().bind(*self.inputs)
        return lb.elbo(self.bound_model(), {"x": self.x}, posterior, particles=self.particles)

    def stated(self) -> tuple[Tensor, Tensor]:
        """Return the location and the scale of the adaptive contrast over all latents, ``[*batch, size]``."""
        x = self.x if self.batch else torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
        pairs = [self.q.contrast(x, name) for name in self.q.events]
        joined = [
            torch.cat([part.reshape(*self.batch, -1) for part in parts], -1) for parts in zip(*pairs, strict=True)
        ]
        return joined[0].detach(), joined[1].detach()

    def critic(self, z: Tensor, *inputs: Tensor, held: bool = True) -> Tensor:
        """Return what the critic's network should have learned, with all parameters `held` constant."""
        assert len(inputs) == len(self.inputs)
        assert all(one is other for one, other in zip(inputs, self.inputs, strict=True))
        k, joined, log_scale = len(z), z, 0.0
        if self.ways["contrast"] == "adaptive":
            loc, scale = self.stated()
            joined, log_scale = loc + scale * z, scale.log().sum(-1)
        parts = joined.split([math.prod(event) for event in self.q.events.values()], -1)
        values = {
            name: part.reshape(k, *self.batch, *event)
            for part, (name, event) in zip(parts, self.q.events.items(), strict=True)
        }
        options = {"particles": k, "batch": self.batch, "detach_parameters": held}
        log_q = self.q.explicit().bind(*inputs).run(values, **options).log_joint() + log_scale
        if self.ways["learns"] == "density":
            return log_q + shown(self.size)
        if self.ways["contrast"] == "adaptive":
            return log_q - Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1)
        return log_q - self.bound_model().run({**values, "x": self.x}, **options).log_joint(list(values))


def check_gradient(name: str, particles: int, contrast: str, learns: str) -> None:
    """The model's gradient is the ELBO's that sticks the landing, row by row for the same draws."""
    case = Case(name, particles, contrast, learns)
    costs, wanted = case.avb().sgvb(), case.elbo().sgvb(stl=True)
    assert costs.shape == wanted.shape == case.batch
    torch.testing.assert_close(costs, wanted, rtol=0, atol=TOLERANCE)
    for cost, other in zip(costs.flatten(), wanted.flatten(), strict=True):
        mine, theirs = gradients(cost, case.p, case.q), gradients(other, case.p, case.q)
        assert farthest(mine, theirs) < TOLERANCE
        assert all(float(theirs[f"t.{name}"].abs()) > WRONG for name in ("w", "prior", "a", "b", "s"))


# --- The model's gradient and what is shown ---------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("contrast, learns", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_elbo_without_the_score(name, contrast, learns, particles):
    check_gradient(name, particles, contrast, learns)


@pytest.mark.parametrize("contrast, learns", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_shown_is_the_elbo_of_the_same_draws(name, contrast, learns):
    case = Case(name, 3, contrast, learns)
    estimate, bound = case.avb(), case.elbo()
    torch.testing.assert_close(estimate.value, bound.value, rtol=0, atol=TOLERANCE)
    wanted = bound.terms
    wanted = {"avb_estimate": wanted["elbo"], "reconstruction": wanted["reconstruction"], "kl_estimate": wanted["kl"]}
    assert list(estimate.terms) == list(wanted)
    for term, value in wanted.items():
        torch.testing.assert_close(estimate.terms[term], value, rtol=0, atol=TOLERANCE)
        assert not estimate.terms[term].requires_grad
    log_ratio = bound.draw.log_posterior() - bound.draw.log_prior()
    torch.testing.assert_close(estimate.log_ratio, log_ratio, rtol=0, atol=TOLERANCE)
    warm = 0.25 * bound.terms["kl"] - bound.terms["reconstruction"]
    torch.testing.assert_close(estimate.sgvb(kl_weight=0.25), warm, rtol=0, atol=TOLERANCE)


class LinearSampler(lb.BayesianNet):
    """z = gain x + offset + L noise, without a density."""

    def __init__(self, truth, shift: float, noise: Tensor) -> None:
        super().__init__()
        gain, offset, tril = truth.exact()
        self.noise, self.gain, self.offset = noise, nn.Parameter(gain * (1 - shift)), nn.Parameter(offset + shift)
        self.tril = nn.Parameter(tril * (1 + shift))

    def gaussian(self, x: Tensor) -> MultivariateNormal:
        return MultivariateNormal(x @ self.gain.T + self.offset, scale_tril=self.tril)

    def forward(self, bn, x):
        bn.implicit("z", x @ self.gain.T + self.offset + self.noise @ self.tril.T)

    def critic(self, z: Tensor, x: Tensor) -> Tensor:
        frozen = copy.deepcopy(self).requires_grad_(False)
        return frozen.gaussian(x).log_prob(z) + shown(z.shape[-1])


@pytest.mark.parametrize("particles", [1, 3])
def test_exact_posterior_gives_log_p_and_no_gradient_draw_by_draw(particles):
    truth, x = linear_gaussian(3, 2), 2.0 * random(5, B, 3)
    p, q = truth.generator(), LinearSampler(truth, 0.0, random(6, particles, B, 2))
    estimate = lb.avb(p.bind(B), {"x": x}, q.bind(x), q.critic, particles=particles)
    torch.testing.assert_close(estimate.value, truth.log_evidence(x), rtol=0, atol=1e-11)
    for cost in estimate.sgvb():
        grads = gradients(cost, q)
        assert max(float(grad.abs().max()) for grad in grads.values()) < 1e-11
        assert max(float(grad.abs().max()) for grad in gradients(cost, p).values()) > WRONG


def test_expected_terms_are_the_closed_forms():
    """E log p(x|z) and KL(q || p) of a linear-Gaussian model whose posterior is off; one grid point a row."""
    truth, (nodes, weights) = linear_gaussian(3, 2), gauss_hermite(12, 2)
    x = random(5, 1, 3).expand(len(nodes), 3)
    p, q = truth.generator(), LinearSampler(truth, 0.2, nodes[None])
    terms = lb.avb(p.bind(len(nodes)), {"x": x}, q.bind(x), q.critic).terms
    exact = q.gaussian(x[0])
    spread = truth.weight @ exact.covariance_matrix @ truth.weight.T
    fit = Normal(truth.weight @ exact.mean + truth.mean, truth.noise).log_prob(x[0]).sum()
    reconstruction = fit - 0.5 * (spread.diagonal() / truth.noise**2).sum()
    kl = kl_divergence(exact, MultivariateNormal(torch.zeros_like(exact.mean), torch.eye(2, dtype=torch.float64)))
    wanted = {"avb_estimate": reconstruction - kl, "reconstruction": reconstruction, "kl_estimate": kl}
    assert float(kl.detach()) > 0.1
    for name, value in wanted.items():
        torch.testing.assert_close((weights * terms[name]).sum(), value.detach(), rtol=0, atol=1e-10)


# --- The critic's optimum ---------------------------------------------------------------------------------------------


class Laid(Distribution):
    """Draws that are laid out in proportion to known counts, so that a mean over them is an expectation."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, counts: Tensor) -> None:  # [B, grid]
        super().__init__(torch.Size([len(counts)]), torch.Size([1]), validate_args=False)
        self.counts = counts

    def rsample(self, sample_shape=()) -> Tensor:
        assert tuple(sample_shape) == (int(self.counts[0].sum()),)
        points = torch.arange(self.counts.shape[1])
        drawn = torch.stack([points.repeat_interleave(row) for row in self.counts], 1)
        return drawn[..., None].double()

    def log_prob(self, value: Tensor) -> Tensor:
        frequencies = self.counts.double() / self.counts[0].sum()
        return frequencies.log()[torch.arange(len(self.counts)), value[..., 0].long()]


Q_COUNTS = torch.tensor([[6, 3, 2, 1], [1, 1, 5, 5], [3, 3, 3, 3]])
P_COUNTS = torch.tensor([[2, 4, 4, 2], [2, 4, 4, 2], [2, 4, 4, 2]])


class GridModel(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Laid(P_COUNTS))
        bn.sample("x", Normal(z, 1.0), event_dims=1)


class GridPosterior(lb.BayesianNet):
    def forward(self, bn):
        bn.implicit("z", Laid(Q_COUNTS).rsample(bn.particles))


def check_table(learns: str) -> None:
    """The expected cost over a free table of logits is least at log q - log p, or at log q and a constant."""
    table = torch.zeros(Q_COUNTS.shape, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(3, 1, dtype=torch.float64)

    def critic(z: Tensor) -> Tensor:
        return table[torch.arange(3), z[..., 0].long()]

    def cost() -> Tensor:
        optimizer.zero_grad()
        made = lb.avb(GridModel().bind(3), {"x": x}, GridPosterior().bind(), critic, particles=12, learns=learns)
        total = made.critic_cost()
        total.sum().backward()
        return total.sum().detach()

    options = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-13, "tolerance_change": 0, "max_iter": 100}
    optimizer = torch.optim.LBFGS([table], lr=1, **options)
    optimizer.step(cost)
    q, p = Q_COUNTS.double() / 12, P_COUNTS.double() / 12
    wanted = q.log() - p.log() if learns == "ratio" else q.log() + shown(1)
    torch.testing.assert_close(table.detach(), wanted, rtol=0, atol=1e-7)
    # the least cost is 2 log 2 less twice the Jensen-Shannon divergence
    half = (q + p) / 2
    divergence = 0.5 * (q * (q / half).log() + p * (p / half).log()).sum(-1)
    torch.testing.assert_close(cost(), (2 * math.log(2) - 2 * divergence).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("learns", ["ratio", "density"])
def test_optimal_table_of_logits_is_the_log_ratio(learns):
    check_table(learns)


LOC, SCALE, PRIOR_LOC, PRIOR_SCALE = 0.4, 1.0, -0.1, 1.2


class OnGrid(lb.BayesianNet):
    """z ~ N(-0.1, 1.2^2) at given nodes, one a row."""

    def __init__(self, nodes: Tensor) -> None:
        super().__init__()
        self.nodes = nodes

    def forward(self, bn, n):
        z = bn.sample("z", OnNodes(torch.full((n,), PRIOR_LOC, dtype=torch.float64), PRIOR_SCALE, self.nodes))
        bn.sample("x", Normal(z, 1.0))


class FromGrid(OnGrid):
    """z = 0.4 + node, whose stated moments are off."""

    def forward(self, bn, x):
        moments = (torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.21, dtype=torch.float64))
        bn.implicit("z", (LOC + SCALE * self.nodes)[None], 0, moments=lambda: moments)


def slopes(contrast: str, learns: str, monkeypatch, twist=lambda t: t) -> Tensor:
    """Return the gradient of the exact expected cost at a twisted optimum, in the direction of six functions of z."""
    nodes, weights = gauss_hermite(120, 1)
    nodes = nodes[:, 0]
    theta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    prior, q = Normal(zero + PRIOR_LOC, zero + PRIOR_SCALE), Normal(zero + LOC, zero + SCALE)
    if contrast == "adaptive":  # in the contrast's own coordinates
        prior, q = Normal(zero, zero + 1), Normal(zero + (LOC - 0.3) / 1.1, zero + SCALE / 1.1)
        monkeypatch.setattr(torch, "randn_like", lambda z: nodes.reshape(z.shape))

    def critic(z: Tensor, x: Tensor) -> Tensor:
        z = z.squeeze(-1)
        known = prior.log_prob(z) + shown(1) if learns == "density" else 0.0
        functions = torch.stack([torch.ones_like(z), z, z.square(), torch.sin(z), torch.cos(z), torch.cos(2 * z)], -1)
        return twist(q.log_prob(z) - prior.log_prob(z)) + known + functions @ theta

    x = torch.zeros(len(nodes), dtype=torch.float64)
    model, posterior = OnGrid(nodes).bind(len(nodes)), FromGrid(nodes).bind(x)
    estimate = lb.avb(model, {"x": x}, posterior, critic, contrast=contrast, learns=learns)
    return torch.autograd.grad((weights * estimate.critic_cost()).sum(), theta)[0]


TWISTS = {
    "shifted": lambda t: t + 0.1,
    "damped": lambda t: 0.8 * t,
    "steeper": lambda t: 1.2 * t,
    "with the other sign": lambda t: -t,
    "zero": lambda t: 0 * t,
}


@pytest.mark.parametrize("contrast, learns", WAYS)
def test_expected_critic_cost_is_stationary_at_the_log_ratio_and_nowhere_near(contrast, learns, monkeypatch):
    assert float(slopes(contrast, learns, monkeypatch).abs().max()) < 1e-9
    for twist in TWISTS.values():
        assert float(slopes(contrast, learns, monkeypatch, twist).abs().max()) > WRONG


# --- Adaptive contrast ------------------------------------------------------------------------------------------------


class Stated(Sampler):
    """q(z|x), q(s|x): independent Gaussians that state their true moments."""

    events = {"z": (2,), "s": ()}  # noqa: RUF012

    def contrast(self, x, name):
        h = wide(x, *self.events[name])
        return self.t["a"] * h + self.t["b"], (self.t["s"] + 0.1 * h).exp()

    def forward(self, bn, x):
        for name in self.events:
            self.put(bn, x, name, *self.contrast(x, name))


class ForStated(Scalars):
    def forward(self, bn, n):
        zeros = torch.zeros(n, dtype=torch.float64)
        z = bn.sample("z", Normal(zeros[:, None].expand(n, 2) + 0.2, 1.3), event_dims=1)
        s = bn.sample("s", Normal(zeros, 0.7))
        bn.sample("x", Normal((s + z.sum(-1))[..., None].expand(*s.shape, 3), 0.8), 1)


def nothing(learns: str):
    """Return the critic under which T is 0 in the contrast's coordinates."""

    def critic(z: Tensor, x: Tensor) -> Tensor:
        return 0 * z.sum(-1) if learns == "ratio" else shown(z.shape[-1]) - 0.5 * (z.square() + LOG_2PI).sum(-1)

    return critic


def check_stated(learns: str) -> None:
    nodes, weights = gauss_hermite(5, 3)
    x = random(3, 1, 3).expand(len(nodes), 3)
    q = Stated({"z": nodes[None, :, :2], "s": nodes[None, :, 2]}, a=0.6, b=-0.3, s=-0.5)
    p = ForStated()
    options = {"contrast": "adaptive", "learns": learns}
    estimate = lb.avb(p.bind(len(nodes)), {"x": x}, q.bind(x), nothing(learns), **options)
    exact = lb.elbo(p.bind(len(nodes)), {"x": x}, q.explicit().bind(x), analytic_kl=True)
    log_ratio = exact.draw.log_posterior() - exact.draw.log_prior()
    torch.testing.assert_close(estimate.log_ratio, log_ratio.detach(), rtol=0, atol=TOLERANCE)
    zero = torch.zeros((), dtype=torch.float64)
    (vector, vector_scale), (scalar, scalar_scale) = q.contrast(x[:1], "z"), q.contrast(x[:1], "s")
    kl = kl_divergence(Normal(vector, vector_scale), Normal(zero + 0.2, 1.3)).sum()
    kl = (kl + kl_divergence(Normal(scalar, scalar_scale), Normal(zero, 0.7)).sum()).detach()
    torch.testing.assert_close((weights * estimate.terms["kl_estimate"]).sum(), kl, rtol=0, atol=1e-10)
    assert float(kl) > 0.1


@pytest.mark.parametrize("learns", ["ratio", "density"])
def test_true_moments_of_a_gaussian_leave_the_critic_nothing_to_learn(learns):
    """With T = 0 the log-ratio is exact draw by draw, and its mean is the closed form of the KL."""
    check_stated(learns)


def check_normalised(monkeypatch) -> None:
    """The critic sees z = N(0, I) from q as from the contrast: the noise itself, and one constant for both."""
    seen, noise = [], {"z": random(1, 5, B, 2), "s": random(2, 5, B)}
    q, x = Stated(noise, a=0.6, b=3.0, s=-1.5), random(3, B, 3)
    wanted = torch.cat([noise["z"], noise["s"][..., None]], -1)
    drawn = random(4, *wanted.shape)
    monkeypatch.setattr(torch, "randn_like", lambda z: drawn)

    def critic(z: Tensor, x: Tensor) -> Tensor:
        seen.append(z)
        return z.sum(-1)

    ways = {"contrast": "adaptive", "learns": "ratio", "particles": 5}
    estimate = lb.avb(ForStated().bind(B), {"x": x}, q.bind(x), critic, **ways)
    on_posterior, on_contrast = estimate.logits
    torch.testing.assert_close(seen[0], torch.cat([wanted, drawn]), rtol=0, atol=1e-11)
    torch.testing.assert_close(on_posterior, wanted.sum(-1), rtol=0, atol=1e-11)
    torch.testing.assert_close(on_contrast, drawn.sum(-1), rtol=0, atol=1e-11)
    assert len(seen) == 1  # both in one pass
    estimate.sgvb()
    torch.testing.assert_close(seen[1], wanted, rtol=0, atol=1e-11)


def test_posterior_and_contrast_are_normalised_the_same_way(monkeypatch):
    check_normalised(monkeypatch)


class Repeated(lb.BayesianNet):
    """z = x + 2 u, where the draws u are spread evenly over [-1, 1]: their moments are those of the grid."""

    def __init__(self, stated: bool = False) -> None:
        super().__init__()
        self.stated = stated

    def forward(self, bn, x):
        u = torch.linspace(-1, 1, *bn.particles, dtype=torch.float64)[:, None, None].expand(-1, len(x), 2)
        pair = (x[:, None].expand(-1, 2), torch.full((len(x), 2), 4.0, dtype=torch.float64))
        bn.implicit("y", x[:, None] + 2 * u, moments=lambda: pair)  # one known node of two is not enough
        bn.implicit("z", x[:, None] - u, moments=(lambda: pair) if self.stated else None)


class ForRepeated(lb.BayesianNet):
    def forward(self, bn, n):
        zeros = torch.zeros(n, 2, dtype=torch.float64)
        y, z = bn.sample("y", Normal(zeros, 1.0), 1), bn.sample("z", Normal(zeros, 1.0), 1)
        bn.sample("x", Normal((y + z).sum(-1), 1.0))


@pytest.mark.parametrize("draws", [2, 7, 256])
def test_moments_of_repeated_draws(draws):
    """The mean, and the variance with n - 1 below, of as many draws as were asked for."""
    seen = []

    def critic(z: Tensor, x: Tensor) -> Tensor:
        seen.append(z)
        return z.sum(-1)

    x = random(0, B)
    options = {"contrast": "adaptive", "particles": 3, "moment_draws": draws}
    lb.avb(ForRepeated().bind(B), {"x": x}, Repeated().bind(x), critic, **options).sgvb()
    u = torch.linspace(-1, 1, draws, dtype=torch.float64)
    mine = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None].expand(3, B, 4) / u.std()
    mine = mine * torch.tensor([1, 1, -1, -1])
    torch.testing.assert_close(seen[0], mine, rtol=0, atol=1e-11)


def test_moments_that_all_nodes_state_are_not_drawn_again():
    seen = []

    def critic(z: Tensor, x: Tensor) -> Tensor:
        seen.append(z)
        return z.sum(-1)

    x = random(0, B)
    posterior = Repeated(stated=True).bind(x)
    lb.avb(ForRepeated().bind(B), {"x": x}, posterior, critic, contrast="adaptive", particles=3).sgvb()
    mine = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None].expand(3, B, 4)
    torch.testing.assert_close(seen[0], mine * torch.tensor([1, 1, -0.5, -0.5]), rtol=0, atol=1e-12)


def test_moments_of_a_collapsed_posterior_stay_finite():
    class Point(lb.BayesianNet):
        def forward(self, bn, x):
            bn.implicit("z", x.expand(*bn.particles, -1)[..., None].expand(-1, -1, 2) * self.one)

        one = nn.Parameter(torch.ones(()))

    x, q = random(0, B), Point()
    p = ForOneNode(w=0.7, prior=0.4)
    made = lb.avb(p.bind(B), {"x": x[:, None].expand(B, 3)}, q.bind(x), nothing("ratio"), contrast="adaptive")
    assert bool(made.value.isfinite().all())
    grads = torch.autograd.grad(made.sgvb().sum(), q.one)
    assert bool(grads[0].isfinite())


# --- Mistakes that the checks above must notice -----------------------------------------------------------------------


def labels_swapped(self: AdversarialEstimate) -> Tensor:
    on_posterior, on_contrast = self._logits
    return (softplus(on_posterior) + softplus(-on_contrast)).mean(0)


def sign_of_the_ratio(self: AdversarialEstimate, *, kl_weight=1.0) -> Tensor:
    return -kl_weight * self._log_ratio.mean(0) - self._reconstruction


def sign_of_the_likelihood(self: AdversarialEstimate, *, kl_weight=1.0) -> Tensor:
    return kl_weight * self._log_ratio.mean(0) + self._reconstruction


def moving_moments() -> cached_property:
    """The moments, without their stop-gradient."""
    kept = AdversarialEstimate.__dict__["_moments"].__wrapped__.__wrapped__
    made = cached_property(kept)
    made.__set_name__(AdversarialEstimate, "_moments")
    return made


def contrast_in_raw_coordinates(self: AdversarialEstimate) -> tuple[Tensor, Tensor]:
    """The posterior is normalised and the contrast is not: a mistake of an early public code."""
    moments, made = self._moments, self.draw
    z = torch.cat([made.posterior[name].reshape(*made.posterior.lead, -1) for name in made.latents], -1).detach()
    unit = (z - moments.loc) / moments.scale
    both = torch.cat([unit, moments.loc + moments.scale * torch.randn_like(unit)])
    first, second = self._logit(both, -0.5 * (both.square() + LOG_2PI).sum(-1)).chunk(2)
    return first, second


def every_gradient() -> None:
    for name in CASES:
        check_gradient(name, 1, "prior", "density")


MISTAKES = {
    "labels swapped": ("critic_cost", lambda: labels_swapped, lambda m: check_table("ratio")),
    "sign of T": ("sgvb", lambda: sign_of_the_ratio, lambda m: every_gradient()),
    "sign of the likelihood": ("sgvb", lambda: sign_of_the_likelihood, lambda m: every_gradient()),
    "moments with a gradient": (
        "_moments",
        moving_moments,
        lambda m: check_gradient("one node", 1, "adaptive", "density"),
    ),
    "contrast in raw coordinates": ("_logits", lambda: property(contrast_in_raw_coordinates), check_normalised),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_noticed(mistake, monkeypatch):
    name, make, check = MISTAKES[mistake]
    check(monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(AdversarialEstimate, name, make())
    with pytest.raises(AssertionError):
        check(monkeypatch)


CRITICS = {
    "no gradient through its input": lambda case: lambda z, *x: case.critic(z.detach(), *x),
    "the other sign": lambda case: lambda z, *x: -case.critic(z, *x),
    "its parameters not held": lambda case: lambda z, *x: case.critic(z, *x, held=False),
}


@pytest.mark.parametrize("mistake", CRITICS)
def test_wrong_use_of_a_right_critic_is_noticed(mistake, monkeypatch):
    critic = CRITICS[mistake]
    check_gradient("one node", 1, "prior", "density")
    monkeypatch.setattr(Case, "avb", lambda case, avb=Case.avb: avb(case, critic(case)))
    with pytest.raises(AssertionError):
        check_gradient("one node", 1, "prior", "density")
