"""What an adversarial estimate does with priors that learn, critics from elsewhere and draws that carry no gradient."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import lowerbound as lb
import tiny
from exact import gradients
from lowerbound.core.errors import ArgumentError, NodeError, RunError
from lowerbound.recipes import RECIPES, train
from lowerbound.runs import evaluate_run


class LearnedPrior(lb.BayesianNet):
    """p(z) = N(loc, 1), p(w | z) = N(slope z, 1), p(x | w) = N(w, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.slope = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.3, 0.7))

    def forward(self, bn, n):
        z = bn.sample("z", Normal(self.loc.expand(n), 1.0))
        w = bn.sample("w", Normal(self.slope * z, 1.0))
        bn.sample("x", Normal(w, 1.0))


class Affine(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, bn, x):
        noise = torch.randn(2, *bn.particles, len(x), dtype=torch.float64)
        bn.implicit("z", x / 3 + self.shift + 0.5 * noise[0], event_dims=0)
        bn.implicit("w", x / 2 + 0.4 * noise[1], event_dims=0)


@pytest.mark.parametrize("learns", ["ratio", "density"])
@pytest.mark.parametrize("contrast", ["prior", "adaptive"])
def test_a_prior_learns_from_its_own_density(contrast: str, learns: str) -> None:
    """The cost's gradient in the prior's parameters is minus that of log p(z, w) at the draws, whatever the critic."""
    p, q = LearnedPrior(), Affine()
    critic = lb.nn.MLP(2, [8], 1).double()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    estimate = lb.avb(
        p.bind(6), {"x": x}, q.bind(x), lambda z, x: critic(z), particles=3, contrast=contrast, learns=learns
    )
    found = gradients(estimate.sgvb().sum(), p)
    z, w = (estimate.draw.posterior[name].detach() for name in ("z", "w"))
    log_prior = Normal(p.loc, 1.0).log_prob(z) + Normal(p.slope * z, 1.0).log_prob(w)
    wanted = gradients(-log_prior.mean(0).sum(), p)
    assert all(float((found[name] - wanted[name]).abs()) < 1e-12 for name in wanted)
    assert all(float(gradient.abs()) > 1e-2 for gradient in wanted.values())


def test_the_models_turn_leaves_a_critic_without_gradient() -> None:
    p, q, critic = LearnedPrior(), Affine(), Plain()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    estimate = lb.avb(p.bind(6), {"x": x}, q.bind(x), critic)
    estimate.sgvb().mean().backward()  # no inputs=...: a loop of one's own
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert float(q.shift.grad.abs()) > 0
    estimate.critic_cost().mean().backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = lb.nn.MLP(2, [8], 1).double()

    def forward(self, z, x):
        return self.net(z)


def test_a_run_with_a_given_critic_is_not_judged_by_another(tmp_path) -> None:
    model = lb.models.ImplicitVAE(event_shape=(4,), hidden=(8,), critic_hidden=(8,))
    data, _ = lb.data.four_points()
    objective = lb.objectives.AVB(model, lb.nn.MLPCritic((4,), 2, hidden=(8,)))
    tiny.fit(objective, data, out=tmp_path / "run", epochs=1, batch_size=512)
    with pytest.raises(ArgumentError, match="measure 'avb': expected a model that was trained against a critic"):
        evaluate_run(tmp_path / "run", ["avb"], limit=8)


def test_the_models_own_critic_is_held_once() -> None:
    model = lb.models.ImplicitVAE(event_shape=(4,), hidden=(8,), critic_hidden=(8,))
    names = [name for name in lb.objectives.AVB(model, model.critic).state_dict() if "critic" in name]
    assert names
    assert all(name.startswith("model.critic.") for name in names)


def test_players_share_no_parameter() -> None:
    model = lb.models.ImplicitVAE(event_shape=(4,), hidden=(8,), critic_hidden=(8,))
    model.critic.net.first = model.posterior.encoder.head.net.first
    with pytest.raises(ArgumentError, match="critic: expected a critic that shares no parameter .*, got 2 in common"):
        lb.objectives.AVB(model)


class Flawed(lb.BayesianNet):
    """A sampler that loses its gradient in one of the ways that happen."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.net = how, nn.Linear(1, 1)

    def forward(self, bn, x):
        z = self.net(x[:, None]).squeeze(-1).expand(*bn.particles, len(x))
        if self.how == "detached":
            z = z.detach()
        elif self.how == "integer":
            z = z.round().long()
        moments = (lambda: (z, z)) if self.how == "moments" else None
        bn.implicit("z", z, event_dims=0, moments=moments)


class Simple(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n), 1.0))
        bn.sample("x", Normal(z, 1.0))


@pytest.mark.parametrize(
    "how, error, message",
    [
        ("detached", NodeError, r"avb at node z: expected a draw that depends on .*, got one without a gradient"),
        ("integer", NodeError, r"avb at node 'z': expected a pathwise draw, got torch.int64"),
        ("moments", NodeError, r"moments of node 'z': expected shape \(5,\), got \(3, 5\). Leave moments out"),
    ],
)
def test_draws_without_a_gradient(how: str, error: type, message: str) -> None:
    x = torch.linspace(-1, 1, 5)
    estimate = lb.avb(
        Simple().bind(5), {"x": x}, Flawed(how).bind(x), lambda z, x: z.sum(-1), particles=3, contrast="adaptive"
    )
    with pytest.raises(error, match=message):
        estimate.sgvb()


def test_critics_that_cannot_be_called() -> None:
    x = torch.linspace(-1, 1, 5)
    with pytest.raises(
        ArgumentError, match=r"critic: expected a function of z and 1 input, got .*A critic takes z, then"
    ):
        lb.avb(Simple().bind(5), {"x": x}, Flawed("").bind(x), lambda z: z.sum(-1)).sgvb()
    with pytest.raises(TypeError, match="its own mistake"):
        lb.avb(Simple().bind(5), {"x": x}, Flawed("").bind(x), _mistaken).sgvb()
    with pytest.raises(ArgumentError, match=r"critic: expected a torch module, got function"):
        lb.objectives.AVB(tiny.vae(), lambda z, x: z.sum(-1))


def _mistaken(z, x):
    raise TypeError("its own mistake")


def test_networks_without_hidden_layers() -> None:
    model = lb.models.ImplicitVAE(event_shape=(4,), hidden=(), critic_hidden=())
    outcome = lb.objectives.AVB(model)(torch.eye(4), "critic")
    assert float(outcome.terms["critic_loss"]) > 0
    with pytest.raises(ArgumentError, match="hidden: expected at least one size for conv, got none"):
        lb.models.ImplicitVAE(event_shape=(8, 8), network="conv", hidden=())


def test_a_falling_critic_schedule_fixes_the_length_of_a_run(tmp_path) -> None:
    recipe = RECIPES["avb"].changed(
        model_options={"hidden": [8], "critic_hidden": [8]},
        objective_options={"critic_schedule": "cosine"},
        training={"epochs": 1, "schedule": "constant"},
    )
    train(recipe, out=tmp_path / "run", progress=False)
    longer = recipe.changed(training={"epochs": 2})
    with pytest.raises(RunError, match=r"expected the run's training.epochs = 1, got 2"):
        train(longer, out=tmp_path / "run", resume=True, progress=False)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["objective"]["own_critic"] is True
