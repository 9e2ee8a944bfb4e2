"""Adversarial variational Bayes from outside: turns and what runs in them, noise, words and errors."""

from __future__ import annotations

import json
import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, NodeError, ShapeError, TrainingWarning
from lowerbound.nn import MLP
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, moves

K, B, L = 3, 5, 2
X = torch.linspace(-1, 1, B)
CONTRASTS = ["prior", "adaptive"]
LEARNS = ["ratio", "density"]


class P(lb.BayesianNet):
    """z ~ N(0, I), x ~ N(w z_1, 1); it counts how often it starts and how often it gets past its latents."""

    def __init__(self, prior=None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.prior, self.started, self.decoded = prior, 0, 0

    def forward(self, bn, n):
        self.started += 1
        z = bn.sample("z", self.prior or Normal(torch.zeros(n, L), 1.0), 0 if self.prior else 1)
        self.decoded += 1
        bn.sample("x", Normal(self.w * z[..., 0], 1.0))


class Q(lb.BayesianNet):
    """z = w noise; it counts its runs and keeps the noise of each."""

    def __init__(self, name: str = "z") -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.name, self.noise = name, []

    def forward(self, bn, x):
        noise = torch.randn(*bn.particles, len(x), L)
        self.noise.append(noise)
        bn.implicit(self.name, self.w * noise)


class Recorder(nn.Module):
    """A critic with one weight, T = w sum(z); it keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        self.seen.append(z.detach())
        return self.w * z.sum(-1)


def make(critic=None, x: Tensor = X, p: P | None = None, q: Q | None = None, **options):
    p, q, critic = p or P(), q or Q(), critic or Recorder()
    return lb.avb(p.bind(len(x)), {"x": x}, q.bind(x), critic, **{"particles": K, **options})


def goal(**arguments):
    """Return a small model with its critic, as a training objective."""
    torch.manual_seed(0)
    sizes = {"hidden": (8,), "critic_hidden": (8,)}
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=L, **sizes)
    return lb.objectives.AVB(model, **arguments)


def batch(n: int = 8) -> Tensor:
    return (torch.rand(n, tiny.WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5).float()


# --- Whose turn it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", LEARNS)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_critic_cost_reaches_the_critic_alone(contrast, learns):
    for read_first in (lambda e: None, lambda e: e.value):  # the draws may have been made with gradients
        p, q, critic = P(), Q(), Recorder()
        estimate = make(critic, p=p, q=q, contrast=contrast, learns=learns)
        read_first(estimate)
        estimate.critic_cost().sum().backward()
        assert p.w.grad is None
        assert q.w.grad is None
        assert abs(float(critic.w.grad)) > 1e-3


@pytest.mark.parametrize("learns", LEARNS)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_cost_of_the_model_reaches_the_model_alone(contrast, learns):
    p, q, critic = P(), Q(), Recorder()
    make(critic, p=p, q=q, contrast=contrast, learns=learns).sgvb().sum().backward()
    assert critic.w.grad is None
    assert critic.w.requires_grad
    assert abs(float(p.w.grad)) > 1e-3
    assert abs(float(q.w.grad)) > 1e-3


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_each_player_of_a_step_computes_its_own_gradients_and_no_others(contrast):
    objective = goal(contrast=contrast, critic_steps=2)
    critic = list(objective.critic.parameters())
    model = [*objective.model.generator.parameters(), *objective.model.posterior.parameters()]

    def weights(parameters) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    turns, grads, seen = [], [], []
    for player, _ in moves(State(objective, Settings(lr=0.1), 1), batch(), objective):
        turns.append(player.name)
        seen.append((weights(model), weights(critic)))
        if player.name == "model":
            assert all(parameter.grad is None for parameter in critic)
            grads = [parameter.grad.clone() for parameter in model]
        else:
            assert all(parameter.grad is not None for parameter in critic)
            assert all(p.grad.equal(grad) for p, grad in zip(model, grads, strict=True))
    seen.append((weights(model), weights(critic)))
    assert turns == ["model", "critic", "critic"]
    assert [one[0].equal(other[0]) for one, other in pairwise(seen)] == [False, True, True]
    assert [one[1].equal(other[1]) for one, other in pairwise(seen)] == [True, False, False]


def test_players_share_no_parameter_and_leave_none_out():
    objective = goal(critic_lr=0.5, critic_schedule="cosine", critic_steps=3)
    model, critic = objective.players()
    assert (model.name, model.steps, model.settings) == ("model", 1, {})
    assert (critic.name, critic.steps, critic.settings) == ("critic", 3, {"lr": 0.5, "schedule": "cosine"})
    ids = [{id(parameter) for parameter in player.parameters} for player in (model, critic)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {id(parameter) for parameter in objective.parameters()}
    assert goal().players()[1].settings == {}
    objective.critic.requires_grad_(False)
    assert objective.players()[1].parameters == ()


def test_given_critic_plays_instead_of_the_models_own():
    critic = Recorder()
    model = goal().model
    objective = lb.objectives.AVB(model, critic)
    assert objective.critic is critic
    assert [id(p) for p in objective.players()[1].parameters] == [id(critic.w)]
    objective(batch(), "critic")
    assert len(critic.seen) == 1


# --- What runs in a turn ----------------------------------------------------------------------------------------------

RUNS = {  # contrast, what is read: runs of the posterior, of the model, of its decoder, of the critic
    ("prior", "critic"): (1, 2, 0, 1),  # the prior is drawn, and q's draws are scored under it
    ("adaptive", "critic"): (2, 0, 0, 1),  # the moments are repeated draws
    ("prior", "model"): (1, 1, 1, 1),
    ("adaptive", "model"): (2, 1, 1, 1),
    ("prior", "both"): (1, 3, 1, 2),
    ("adaptive", "both"): (2, 1, 1, 2),
}


@pytest.mark.parametrize("contrast, turn", RUNS)
def test_nothing_runs_that_the_turn_does_not_need(contrast, turn):
    p, q, critic = P(), Q(), Recorder()
    estimate = make(critic, p=p, q=q, contrast=contrast)
    assert (len(q.noise), p.started, len(critic.seen)) == (0, 0, 0)  # draws are made when they are needed
    for _ in range(2):  # and once
        if turn in ("model", "both"):
            estimate.sgvb(), estimate.terms, estimate.value
        if turn in ("critic", "both"):
            estimate.critic_cost(), estimate.critic_terms, estimate.logits
    assert (len(q.noise), p.started, p.decoded, len(critic.seen)) == RUNS[contrast, turn]


def test_decoder_rests_while_the_critic_plays():
    objective, calls = goal(critic_steps=4), {"decoder": 0, "encoder": 0}
    networks = {"decoder": objective.model.generator.decoder, "encoder": objective.model.posterior.encoder}
    for name, network in networks.items():
        network.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    for _ in moves(State(objective, Settings(), 1), batch(), objective):
        pass
    assert calls == {"decoder": 1, "encoder": 5}


def test_critic_sees_draws_of_both_in_one_pass():
    q, critic = Q(), Recorder()
    estimate = make(critic, q=q)
    on_posterior, on_contrast = estimate.logits
    assert critic.seen[0].shape == (2 * K, B, L)
    assert critic.seen[0][:K].equal(q.noise[0])
    assert on_posterior.shape == on_contrast.shape == (K, B)


@pytest.mark.parametrize("turn", ["model", "critic"])
def test_logits_with_an_axis_of_their_own_are_the_same(turn):
    def read(critic):
        torch.manual_seed(0)
        estimate = make(critic)
        return estimate.sgvb() if turn == "model" else estimate.critic_cost()

    flat = read(lambda z, x: z.sum(-1))
    assert read(lambda z, x: z.sum(-1, keepdim=True)).equal(flat)
    assert flat.shape == (B,)


# --- Noise ------------------------------------------------------------------------------------------------------------

MANY = 4000


def related(streams: dict[str, Tensor]) -> list[str]:
    """Return the pairs of streams of N(0, 1) numbers, [n, L] each, that are correlated in any of their columns.

    A correlation of independent streams of n = 4000 is N(0, 1/n) nearly; beyond 5.5 standard deviations lie 4e-8 of
    it. With at most ten pairs of four columns the false-alarm rate of a call is 2e-6.
    """
    found = []
    for (name, one), (other_name, other) in combinations(streams.items(), 2):
        one, other = (z.double().reshape(-1, L) for z in (one, other))
        assert len(one) == len(other) == MANY
        correlations = (one - one.mean(0)).T @ (other - other.mean(0)) / MANY / one.std(0)[:, None] / other.std(0)
        if float(correlations.abs().max()) > 5.5 / math.sqrt(MANY):
            found.append(f"{name}, {other_name}")
    return found


def streams(contrast: str) -> dict[str, Tensor]:
    """Return what is drawn for a step: in the model's turn and in two turns of the critic."""
    q, critic = Q(), Recorder()
    objective = lb.objectives.AVB(
        lb.models.LatentVariableModel(P(), q), critic, contrast=contrast, critic_steps=2, particles=MANY // 8,
        moment_draws=MANY // 8,
    )  # fmt: skip
    settings = Settings(lr=1e-9)
    for _ in moves(State(objective, settings, 1), torch.zeros(8), objective):
        pass
    noise = {f"posterior {i}": z.detach() for i, z in enumerate(q.noise)}
    return noise | {f"contrast {i}": z[MANY // 8 :] for i, z in enumerate(critic.seen[1:])}


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_posterior_contrast_moments_and_turns_have_noise_of_their_own(contrast):
    torch.manual_seed(0)
    drawn = streams(contrast)
    assert len(drawn) == (5 if contrast == "prior" else 8)  # with draws for the moments in each of three turns
    assert related(drawn) == []
    joined = torch.cat([z.reshape(-1) for z in drawn.values()])
    assert len(joined.unique()) > 0.99 * len(joined)  # float32 has chance repeats, one stream used twice has half


def test_shared_noise_would_be_noticed(monkeypatch):
    run = lb.net.Program.run

    def seeded(self, *args, **options):
        torch.manual_seed(0)
        return run(self, *args, **options)

    monkeypatch.setattr(lb.net.Program, "run", seeded)
    assert "posterior 0, posterior 1" in related(streams("prior"))
    assert "posterior 1, contrast 0" in related(streams("prior"))


def test_contrast_of_both_kinds_is_standard_normal_here():
    """Mean and variance of 8,000 numbers within 5.5 standard errors: a false-alarm rate of 2e-7 for each contrast."""
    for contrast in CONTRASTS:
        torch.manual_seed(1)
        critic = Recorder()
        make(critic, torch.zeros(8), particles=MANY // 8, contrast=contrast).critic_cost()
        z = critic.seen[0][MANY // 8 :].double().flatten()
        assert abs(float(z.mean())) < 5.5 / math.sqrt(len(z))
        assert abs(float(z.var()) - 1) < 5.5 * math.sqrt(2 / len(z))


# --- What is shown ----------------------------------------------------------------------------------------------------


def test_critic_that_says_nothing_is_right_half_of_the_time():
    terms = make(lambda z, x: 0 * z.sum(-1), learns="ratio").critic_terms
    torch.testing.assert_close(terms["critic_accuracy"], torch.full((B,), 0.5))
    torch.testing.assert_close(terms["critic_loss"], torch.full((B,), 2 * math.log(2)))


def test_accuracy_and_loss_are_those_of_the_logits():
    estimate = make(lambda z, x: z[..., 0] + 0.3, particles=50, learns="ratio")
    on_posterior, on_contrast = estimate.logits
    right = [(on_posterior > 0).float().mean(0), (on_contrast < 0).float().mean(0)]
    bce = nn.BCEWithLogitsLoss(reduction="none")
    loss = bce(on_posterior, torch.ones(50, B)) + bce(on_contrast, torch.zeros(50, B))
    torch.testing.assert_close(estimate.critic_terms["critic_accuracy"], (right[0] + right[1]) / 2)
    torch.testing.assert_close(estimate.critic_terms["critic_loss"], loss.mean(0))
    assert not right[0].equal(right[1])
    assert not any(term.requires_grad for term in estimate.critic_terms.values())


def test_loss_of_a_saturated_critic_is_finite():
    estimate = make(lambda z, x: 1e4 * z.sum(-1), learns="ratio")
    on_posterior, on_contrast = estimate.logits
    wanted = (-on_posterior).clamp(min=0) + on_contrast.clamp(min=0)
    torch.testing.assert_close(estimate.critic_cost(), wanted.mean(0))


def test_objective_is_labelled_and_described():
    objective = goal(contrast="adaptive", learns="ratio", critic_lr=0.1, critic_steps=3, moment_draws=9, particles=2)
    assert objective.certified is False
    assert list(objective(batch()).terms) == ["avb_estimate", "reconstruction", "kl_estimate"]
    assert list(objective(batch(), "critic").terms) == ["critic_loss", "critic_accuracy"]
    described = json.loads(json.dumps(objective.describe()))
    del described["model"]
    assert described == {
        "class": "AVB", "certified": False, "particles": 2, "critic": "MLPCritic", "own_critic": True,
        "contrast": "adaptive",
        "learns": "ratio", "critic_steps": 3, "critic_lr": 0.1, "critic_schedule": None, "moment_draws": 9,
    }  # fmt: skip


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_arguments_of_the_objective_are_those_of_the_function(contrast):
    options = {"particles": 3, "contrast": contrast, "learns": "ratio", "moment_draws": 5}
    objective, x = goal(**options), batch()
    nn.init.normal_(objective.critic.net.rest[-1].weight)
    torch.manual_seed(3)
    mine = objective(x), objective(x, "critic")
    torch.manual_seed(3)
    model = objective.model
    bound = [
        lb.avb(model.generator.bind(len(x)), {"x": x}, model.posterior.bind(x), model.critic, **options)
        for _ in range(2)
    ]
    assert mine[0].cost.equal(bound[0].sgvb().mean())
    assert mine[1].cost.equal(bound[1].critic_cost().mean())


def test_warm_up_weighs_the_cost_and_not_what_is_shown():
    objective, x = goal(), batch()
    costs, shown = [], []
    for weight in (1.0, 0.25):
        objective.kl_weight.fill_(weight)
        torch.manual_seed(0)
        outcome = objective(x)
        costs.append(outcome.cost.detach())
        shown.append(outcome.terms)
    assert shown[0] == shown[1]
    torch.testing.assert_close(costs[0] - costs[1], 0.75 * shown[0]["kl_estimate"])
    assert abs(float(shown[0]["kl_estimate"])) > 1e-3
    torch.testing.assert_close(costs[0], -shown[0]["avb_estimate"])


REMARKS = {
    "saturated": (
        {"critic_accuracy": 0.999, "critic_loss": 0.01, "kl_estimate": 9.0},
        ["99.9% of the draws", "loss 0.010 nats", "saturated", "contrast='adaptive'", "KL warm-up", "critic_lr"],
    ),
    "lagging": ({"critic_accuracy": 0.6, "kl_estimate": -0.7}, ["-0.70 nats", "never negative", "more critic steps"]),
    "well": ({"critic_accuracy": 0.99, "critic_loss": 0.1, "kl_estimate": -0.3}, []),
    "no terms": ({}, []),
}


@pytest.mark.parametrize("case", REMARKS)
def test_remarks_name_the_state_of_the_critic_and_the_cures(case):
    terms, words = REMARKS[case]
    said = goal().remarks(terms)
    assert len(said) == bool(words)
    assert all(word in said[0] for word in words)


# --- Compiled, in bfloat16, in float64 --------------------------------------------------------------------------------


@pytest.mark.slow  # torch compiles for a quarter of a minute
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own tracer (torch 2.13)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_compiled_objective_says_the_same(contrast):
    torch.compiler.reset()
    objective, x = goal(contrast=contrast, particles=2), batch()
    nn.init.normal_(objective.critic.net.rest[-1].weight)
    compiled = torch.compile(objective, backend="eager")
    for player, parameters in (("model", "model.posterior"), ("critic", "model.critic")):
        found = []
        for forward in (objective, compiled):
            objective.zero_grad()
            torch.manual_seed(5)
            outcome = forward(x, player)
            outcome.cost.backward()
            grads = [p.grad for name, p in objective.named_parameters() if name.startswith(parameters)]
            found.append((outcome, grads))
        (eager, grads), (again, grads_again) = found
        torch.testing.assert_close(again.cost, eager.cost)
        torch.testing.assert_close(again.terms, eager.terms)
        torch.testing.assert_close(grads_again, grads)
        assert max(float(grad.abs().max()) for grad in grads) > 1e-3


@pytest.mark.parametrize("sampler", ["noise", "basis"])
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_networks_in_bfloat16_leave_the_costs_in_float32(contrast, sampler):
    torch.manual_seed(0)
    sizes = {"hidden": (8,), "critic_hidden": (8,), "sampler": sampler}
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=L, **sizes)
    objective, x = lb.objectives.AVB(model, contrast=contrast, particles=200), batch()
    nn.init.normal_(model.critic.net.rest[-1].weight, std=0.1)
    for player in ("model", "critic"):
        torch.manual_seed(1)
        exact = objective(x, player).cost
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            cost = objective(x, player).cost
        assert cost.dtype == torch.float32
        assert not cost.equal(exact)  # the networks did run in half precision
        torch.testing.assert_close(cost, exact, rtol=0.02, atol=0.02)


def test_critic_of_ones_own_may_return_half_precision():
    estimate = make(lambda z, x: z.sum(-1).bfloat16(), learns="ratio")
    assert estimate.critic_cost().dtype == estimate.sgvb().dtype == torch.float32


@pytest.mark.parametrize("sampler", ["noise", "basis"])
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_model_in_float64_stays_there(contrast, sampler):
    sizes = {"hidden": (8,), "critic_hidden": (8,), "sampler": sampler}
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=L, **sizes).double()
    objective = lb.objectives.AVB(model, contrast=contrast)
    for player in ("model", "critic"):
        assert objective(batch().double(), player).cost.dtype == torch.float64


# --- Errors -----------------------------------------------------------------------------------------------------------


class Dense(lb.BayesianNet):
    """A posterior with any distribution."""

    def __init__(self, distribution, event_dims: int = 1) -> None:
        super().__init__()
        self.distribution, self.event_dims = distribution, event_dims

    def forward(self, bn, x):
        bn.sample("z", self.distribution, self.event_dims)


class BernoulliPrior(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Bernoulli(torch.full((n, L), 0.5)), event_dims=1)
        bn.sample("x", Normal(z[..., 0], 1.0))


def discrete():
    q = Dense(Bernoulli(torch.full((B, L), 0.5)))
    return lb.avb(BernoulliPrior().bind(B), {"x": X}, q.bind(X), lambda z, x: z.sum(-1), particles=K)


SHAPE = r"critic: expected one logit a draw, shape \(.*5\) for z of shape \(.*5, 2\), got "
WRONG = {
    "two logits": (lambda: make(lambda z, x: z), ShapeError, SHAPE + r"shape \(.*5, 2\)\. .*End the critic with one"),
    "mean over rows": (lambda: make(lambda z, x: z.mean((-1, -2))), ShapeError, SHAPE + r"shape \(.*\)\."),
    "one number": (lambda: make(lambda z, x: z.sum()), ShapeError, SHAPE + r"shape \(\)"),
    "broadcast over draws": (lambda: make(lambda z, x: x), ShapeError, SHAPE + r"shape \(5,\)"),
    "a pair": (lambda: make(lambda z, x: (z.sum(-1), None)), ShapeError, SHAPE + "tuple"),
    "nothing": (lambda: make(lambda z, x: None), ShapeError, SHAPE + r"NoneType.*lb\.nn\.MLP"),
    "discrete latent": (discrete, NodeError, r"avb at node 'z': expected a pathwise draw, got Bernoulli\. .*sampler"),
    "latent that the model has not": (
        lambda: make(q=Q("zz")), NodeError, r"(node 'z': expected an observed|node 'zz': expected a random node)",
    ),
    "implicit prior": (
        lambda: lb.avb(Q().bind(X), {}, Q().bind(X), lambda z, x: z.sum(-1)),
        NodeError, r"node 'z': expected a (prior|node with a density), got (a node without density|implicit)",
    ),
    "observed latent": (
        lambda: lb.avb(P().bind(B), {"x": X, "z": torch.zeros(B, L)}, Q().bind(X), lambda z, x: z.sum(-1)),
        NodeError, r"node 'z': expected a latent or an observed node, got both",
    ),
}  # fmt: skip


@pytest.mark.parametrize("player", ["model", "critic"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_programs_and_critics_in_the_turn_of_either(case, player):
    build, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        _ = build().sgvb() if player == "model" else build().critic_cost()


ARGUMENTS = {
    "particles": ({"particles": 0}, r"particles: expected a positive integer, got 0"),
    "contrast": ({"contrast": "adaptve"}, r"contrast: expected one of the known names, got 'adaptve'\. .*'adaptive'"),
    "learns": ({"learns": "densty"}, r"learns: expected one of the known names, got 'densty'\. .*'density'"),
    "no draws for moments": ({"moment_draws": 0}, r"moment_draws: expected a positive integer, got 0"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_of_function_and_objective(name):
    arguments, message = ARGUMENTS[name]
    with pytest.raises(ArgumentError, match=message):
        make(**arguments)
    with pytest.raises(ArgumentError, match=message):
        goal(**arguments)


def test_one_draw_has_no_variance():
    with pytest.raises(ArgumentError, match=r"moment_draws: expected 2 or more, got 1\. One draw has no variance"):
        make(moment_draws=1)
    with pytest.raises(ArgumentError, match=r"moment_draws: expected 2 or more, got 1\. One draw has no variance"):
        goal(moment_draws=1).validate(batch())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"critic_steps": 0}, "critic_steps: expected a positive integer, got 0"),
        ({"critic_lr": 0.0}, "critic_lr: expected a finite number above 0"),
        ({"critic_lr": math.nan}, "critic_lr: expected a finite number above 0"),
    ],
)
def test_wrong_arguments_of_the_objective(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        goal(**arguments)


def test_there_is_no_critic():
    with pytest.raises(
        ArgumentError, match=r"critic: expected a torch module, got NoneType\. Pass critic=lb\.nn\.MLPCritic"
    ):
        tiny.objective("AVB")


def test_implicit_posterior_is_refused_by_bounds():
    for bound in (lb.elbo, lb.iw_objective):
        made = bound(P().bind(B), {"x": X}, Q().bind(X), particles=2)
        with pytest.raises(NodeError, match=r"node 'z': expected a density in the posterior, got an implicit draw"):
            _ = made.value
    with pytest.raises(NodeError, match=r"node 'z': expected a density.*An implicit posterior needs an adversarial"):
        tiny.fit(lb.objectives.ELBO(goal().model))


def test_posterior_with_a_density_works_and_says_that_there_is_a_bound():
    q = Dense(Normal(torch.zeros(B, L), torch.ones(B, L)))
    estimate = lb.avb(P().bind(B), {"x": X}, q.bind(X), lambda z, x: 0 * z.sum(-1), particles=K, learns="ratio")
    with pytest.warns(TrainingWarning, match=r"a true lower bound is available: lb\.elbo or lb\.iw_objective"):
        value = estimate.value
    wanted = estimate.draw.log_likelihood().mean(0)  # q is the prior, and T = 0 the truth
    assert value.equal(wanted.detach())


def test_posterior_that_is_implicit_in_part_is_not_lectured():
    class Mixed(lb.BayesianNet):
        def forward(self, bn, x):
            y = bn.sample("y", Normal(torch.zeros(len(x)), 1.0))
            bn.implicit("z", y[..., None] + torch.randn(*bn.particles, len(x), L))

    class Both(lb.BayesianNet):
        def forward(self, bn, n):
            y = bn.sample("y", Normal(torch.zeros(n), 1.0))
            z = bn.sample("z", Independent(Normal(torch.zeros(n, L), 1.0), 1))
            bn.sample("x", Normal(y + z[..., 0], 1.0))

    net = MLP(1 + L, [4], 1)
    estimate = lb.avb(Both().bind(B), {"x": X}, Mixed().bind(X), lambda z, x: net(z), particles=K)
    assert estimate.value.shape == estimate.critic_cost().shape == (B,)


@pytest.mark.parametrize("player", ["model", "critic"])
def test_validation_before_training_checks_both_turns(player):
    class Fails(Recorder):
        def forward(self, z, x):
            wrong = (len(z) == 1) == (player == "model")  # the critic's turn has draws of both
            return z if wrong else super().forward(z, x)

    objective = lb.objectives.AVB(goal().model, Fails())
    with pytest.raises(ShapeError, match="critic: expected one logit a draw"):
        objective.validate(batch())
