"""Two players in one loop: their updates, settings and states; resumed runs, and what is said when a critic fails."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, NonFiniteError, TrainingWarning
from lowerbound.core.files import read_tree
from lowerbound.training.settings import Settings
from lowerbound.training.state import State, train_step
from tiny import Rows, Steps, contents, difference

BATCHES = 4
TERMS = ["avb_estimate", "reconstruction", "kl_estimate", "critic_loss", "critic_accuracy"]


def avb(*, sampler: str = "noise", critic: nn.Module | None = None, **arguments):
    """Return an objective of two small players."""
    torch.manual_seed(0)
    sizes = {"hidden": (8,), "critic_hidden": (8,), "basis": 3, "noise_dim": 2}
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=2, sampler=sampler, **sizes)
    return lb.objectives.AVB(model, critic, **arguments)


def binary(n: int = 48) -> Tensor:
    return (torch.rand(n, tiny.WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5).float()


# --- Updates, rates and schedules -------------------------------------------------------------------------------------


class Calls(lb.objectives.AVB):
    """Keeps who was asked, in order."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[str] = []

    def forward(self, x, player="model"):
        self.asked.append(player)
        return super().forward(x, player)


@pytest.mark.parametrize("steps", [1, 3])
def test_critic_moves_as_often_as_it_was_told_to(steps):
    objective = Calls(avb().model, critic_steps=steps)
    state = State(objective, Settings(batch_size=8), 4)
    for _ in range(4):
        train_step(state, binary(8), objective)
    assert objective.asked == ["model", *["critic"] * steps] * 4
    made = {
        name: {int(entry["step"]) for entry in optimizer.state.values()} for name, optimizer in state.optimizers.items()
    }
    assert made == {"model": {4}, "critic": {4 * steps}}
    assert state.step == 4


@pytest.mark.parametrize(
    "arguments, settings, rates",
    [
        ({}, {"lr": 0.01}, {"model": [0.01] * 3, "critic": [0.01] * 3}),
        ({"critic_lr": 0.2}, {"lr": 0.01}, {"model": [0.01] * 3, "critic": [0.2] * 3}),
        (
            {"critic_lr": 0.2},
            {"lr": 0.01, "schedule": "cosine"},
            {"model": [0.01, 0.005, 0.0], "critic": [0.2, 0.1, 0.0]},
        ),
        (
            {"critic_lr": 0.2, "critic_schedule": "cosine"},
            {"lr": 0.01},
            {"model": [0.01] * 3, "critic": [0.2, 0.1, 0.0]},
        ),
        (
            {"critic_schedule": "constant"},
            {"lr": 0.01, "schedule": "cosine"},
            {"model": [0.01, 0.005, 0.0], "critic": [0.01] * 3},
        ),
    ],
)
def test_each_player_has_its_own_rate_and_schedule(arguments, settings, rates):
    """At the beginning, in the middle and at the end of a run; the critic makes three updates a step."""
    objective = avb(critic_steps=3, **arguments)
    state = State(objective, Settings(**settings), 4)
    found: dict[str, list[float]] = {name: [] for name in rates}
    for step in range(5):
        if step in (0, 2, 4):
            for name, optimizer in state.optimizers.items():
                found[name].append(optimizer.param_groups[0]["lr"])
        if step < 4:
            train_step(state, binary(8), objective)
    for name, wanted in rates.items():
        assert found[name] == pytest.approx(wanted, abs=1e-12)


def test_rates_are_used_and_not_only_kept():
    """With plain gradient descent a player's first update is its rate times its gradient."""
    moved = {}
    for lr in (0.1, 0.3):
        objective = avb(critic_steps=1, critic_lr=lr)
        before = {name: p.detach().clone() for name, p in objective.named_parameters()}
        train_step(State(objective, Settings(optimizer="sgd", lr=0.05), 1), binary(8), objective)
        moved[lr] = {name: p.detach() - before[name] for name, p in objective.named_parameters()}
    for name, step in moved[0.1].items():
        torch.testing.assert_close(moved[0.3][name], step * (3 if name.startswith("model.critic") else 1))
    last = moved[0.1]["model.critic.net.rest.1.weight"]
    assert float(last.abs().max()) > 1e-3


def test_unknown_schedule_of_the_critic():
    with pytest.raises(ArgumentError, match=r"schedule: expected one of the known names, got 'cosin'\. .*'cosine'"):
        tiny.fit(avb(critic_schedule="cosin"))


# --- A run that is killed and resumed ---------------------------------------------------------------------------------

JOBS = {
    "prior, cosine": ({"critic_lr": 0.01, "critic_schedule": "cosine"}, {"kl_warmup": 6}),
    "adaptive, onecycle": ({"contrast": "adaptive", "critic_steps": 3}, {"schedule": "onecycle"}),
    "basis, sgd": ({"contrast": "adaptive", "sampler": "basis"}, {"optimizer": "sgd", "clip": 0.5}),
    "a critic of its own": ({"critic": True}, {"schedule": "cosine"}),
    "bfloat16": ({"learns": "ratio"}, {"precision": "bfloat16"}),
}


class KilledError(Exception):
    pass


def train(job: str, out, **options):
    arguments, settings = JOBS[job]
    if "critic" in arguments:
        torch.manual_seed(1)
        arguments = {"critic": lb.nn.BilinearCritic((tiny.WIDTH,), 2, hidden=(8,), features=4)}
    goal = avb(**arguments)
    rows = {"train": tiny.rows(8 * BATCHES), "validation": tiny.rows(10, seed=1)}
    return goal, tiny.fit(goal, out=out, epochs=2, checkpoint_seconds=0, **rows, **settings, **options)


@pytest.mark.parametrize("job", JOBS)
def test_killed_and_resumed_run_is_the_undisturbed_one(job, tmp_path):
    """Killed at the end of an epoch, and again in the midst of what was resumed."""

    def kill_at(step: int):
        def call(made: int) -> None:
            if made == step:
                raise KilledError

        return [Steps(call)]

    (goal, run), out = train(job, tmp_path / "whole"), tmp_path / "killed"
    for number, step in enumerate((BATCHES, 2)):
        with pytest.raises(KilledError):
            train(job, out, callbacks=kill_at(step), resume=number > 0)
    again, resumed = train(job, out, resume=True)
    assert not difference(contents(out), contents(tmp_path / "whole"))
    assert not difference(again.state_dict(), goal.state_dict())
    assert not difference(tiny.unclocked(resumed.history), tiny.unclocked(run.history))


def test_checkpoint_holds_both_players(tmp_path):
    goal, _ = train("a critic of its own", tmp_path / "run")
    state = read_tree(tmp_path / "run" / "state" / "last.safetensors")
    steps = {"model": 2 * BATCHES, "critic": 2 * 2 * BATCHES}
    assert state["optimizers"].keys() == state["schedules"].keys() == steps.keys()
    for player in goal.players():
        packed = state["optimizers"][player.name]["state"]
        assert len(packed) == len(player.parameters)
        for entry, parameter in zip(packed.values(), player.parameters, strict=True):
            assert int(entry["step"]) == steps[player.name]
            assert entry["exp_avg"].shape == parameter.shape
            assert float(entry["exp_avg_sq"].abs().max()) > 0
    weights = {name: value for name, value in state["objective"].items() if name.startswith("given_critic.")}
    assert not difference(
        weights, {f"given_critic.{name}": value for name, value in goal.given_critic.state_dict().items()}
    )


def test_critic_of_the_model_is_saved_with_it(tmp_path):
    goal = avb()
    run = tiny.fit(goal, out=tmp_path / "run")
    saved = read_tree(tmp_path / "run" / "model.safetensors")["weights"]
    assert saved["critic.net.first.weight"].equal(run.model.critic.net.first.weight)
    assert float(saved["critic.net.rest.1.weight"].abs().max()) > 0  # it started at zero


# --- What a run shows -------------------------------------------------------------------------------------------------


def test_records_hold_the_terms_of_both_players(tmp_path):
    run = tiny.fit(avb(), validation=tiny.rows(10, seed=1), out=tmp_path / "run", epochs=2)
    for record in run.history:
        for part in ("train", "validation"):
            terms = record[part]
            assert list(terms) == TERMS
            assert terms["avb_estimate"] == pytest.approx(terms["reconstruction"] - terms["kl_estimate"], abs=1e-4)
            assert 0.2 < terms["critic_accuracy"] < 0.8
            assert 0.5 < terms["critic_loss"] < 3
    assert run.history[0]["validation"] != run.history[1]["validation"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["objective"]["certified"] is False
    assert config["objective"]["critic_steps"] == 2


def test_terms_of_the_critic_are_those_of_its_last_move():
    objective = avb(critic_steps=3)
    state = State(objective, Settings(), 1)
    losses = []

    def forward(x, player):
        outcome = objective(x, player)
        if player == "critic":
            losses.append(float(outcome.terms["critic_loss"]))
        return outcome

    train_step(state, binary(8), forward)
    assert len(set(losses)) == 3
    assert float(state.sums["critic_loss"]) == losses[-1]


def test_estimate_that_is_no_bound_chooses_no_weights():
    """The last weights are kept, though validation goes down all the while."""

    class Declining(lb.objectives.AVB):
        shown = 0.0

        def forward(self, x, player="model"):
            outcome = super().forward(x, player)
            if not self.training and player == "model":
                self.shown -= 1.0
                outcome.terms["avb_estimate"] = torch.tensor(self.shown)
            return outcome

    goal, kept = Declining(avb().model), []
    watch = Steps(lambda made: kept.append({name: value.clone() for name, value in goal.model.state_dict().items()}))
    run = tiny.fit(goal, validation=tiny.rows(10, seed=1), epochs=3, callbacks=[watch])
    first, *_, last = [record["validation"]["avb_estimate"] for record in run.history]
    assert last < first
    assert not difference(dict(run.model.state_dict()), kept[-1])


def test_patience_is_refused():
    with pytest.raises(
        ArgumentError, match=r"patience: expected an objective that is a bound, got AVB, whose estimate"
    ):
        tiny.fit(avb(), validation=tiny.rows(10, seed=1), patience=2)


@pytest.mark.parametrize("contrast", ["prior", "adaptive"])
def test_training_brings_both_players_on(contrast):
    """From a random start the estimate rises, by what the reconstruction gains and the critic does not take back."""
    run = tiny.fit(avb(contrast=contrast), Rows(torch.eye(tiny.WIDTH).repeat(20, 1)), epochs=12, lr=1e-2)
    first, last = run.history[0]["train"], run.history[-1]["train"]
    assert last["avb_estimate"] > first["avb_estimate"] + 0.3
    assert last["reconstruction"] > first["reconstruction"] + 0.3


def test_bfloat16_trains():
    exact, half = (tiny.fit(avb(), precision=precision) for precision in ("float32", "bfloat16"))
    for name, value in exact.history[-1]["train"].items():
        assert half.history[-1]["train"][name] == pytest.approx(value, rel=0.05, abs=0.05)
    assert exact.history != half.history


@pytest.mark.slow
def test_compiled_run_is_the_eager_one():
    eager, compiled = (tiny.fit(avb(), compile=compile_it) for compile_it in (False, True))
    for name, value in eager.history[-1]["train"].items():
        assert compiled.history[-1]["train"][name] == pytest.approx(value, rel=1e-3, abs=1e-3)


# --- A critic that has won --------------------------------------------------------------------------------------------


class Far(lb.BayesianNet):
    """z = 50 + noise, whatever anyone says."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, bn, x):
        bn.implicit("z", self.near(bn, x) + torch.randn(*bn.particles, len(x), 2) + 0 * self.w)

    def near(self, bn, x):
        return 50.0


class Prior(lb.BayesianNet):
    def forward(self, bn, n):
        z = bn.sample("z", Normal(torch.zeros(n, 2), 1.0), event_dims=1)
        bn.sample("x", Normal(0 * z[..., :1].expand(*z.shape[:-1], tiny.WIDTH), 1.0), event_dims=1)


def saturated(posterior: lb.BayesianNet, batches: int = 60, **settings):
    model = lb.models.LatentVariableModel(Prior(), posterior)
    torch.manual_seed(0)
    critic = lb.nn.MLPCritic((tiny.WIDTH,), 2, hidden=(4,))
    goal = lb.objectives.AVB(model, critic, learns="ratio", critic_steps=1, critic_lr=0.1)
    return tiny.fit(goal, Rows(binary(2 * batches)), batch_size=2, **settings)


def test_critic_that_has_won_is_reported_once_and_with_cures():
    """Not in the first 200 steps; then once it has been so for three epochs in a row, and not again."""
    with pytest.warns(TrainingWarning) as said:
        run = saturated(Far(), epochs=9)
    assert len(said) == 1
    text = str(said[0].message)
    for word in ("epoch 6:", "T is saturated", "contrast='adaptive'", "KL warm-up", "critic_lr"):
        assert word in text  # epochs 4, 5 and 6 end at steps 240, 300 and 360
    assert all("saturated" in record["remarks"][0] for record in run.history[1:])
    assert run.history[-1]["train"]["critic_accuracy"] > 0.995


def test_critic_that_has_not_won_is_not_spoken_of():
    class Near(Far):
        def near(self, bn, x):
            return 0.0

    run = saturated(Near(), epochs=7)
    assert all("remarks" not in record for record in run.history)


# --- Numbers that are not finite, in the critic's turn ----------------------------------------------------------------


class Spoiled(lb.nn.MLPCritic):
    """A critic that fails in its own turn, which it tells by the draws of both, at one batch."""

    def __init__(self, how: str, marked: Tensor) -> None:
        torch.manual_seed(0)
        super().__init__((tiny.WIDTH,), 2, hidden=(8,))
        self.how, self.marked = how, marked

    def forward(self, z, x):
        t = super().forward(z, x)
        if len(z) == 1 or not self.training or not x.equal(self.marked):
            return t
        if self.how == "value":
            return self.net.rest(self.net.first.weight.new_full((*z.shape[:-1], 8), math.inf)).squeeze(-1) - math.inf
        return t + 0 * (t - t).sum().sqrt()  # its value is finite, and its gradient is not


WORDS = {
    "value": r"step 9: 'critic_loss' is not finite, first in layer 'given_critic\.net\.rest",
    "gradient": r"step 9: the gradient of 'given_critic\.net\.first\.weight' is not finite, though the bound is",
}


@pytest.mark.parametrize("how", WORDS)
def test_failure_in_the_critics_turn_is_named(how, tmp_path):
    data = binary(8 * 30)
    marked = data[72:80]
    with pytest.raises(NonFiniteError, match=WORDS[how]):
        tiny.fit(avb(critic=Spoiled(how, marked)), Rows(data), out=tmp_path / "run", epochs=1)
    assert read_tree(tmp_path / "run" / "state" / "bad_batch.safetensors")["x"].equal(marked)
    good = read_tree(tmp_path / "run" / "state" / "last_good.safetensors")
    assert good["step"] == 9
    assert all(bool(value.isfinite().all()) for value in good["weights"].values())


def test_failure_in_the_models_turn_is_the_models(tmp_path):
    class Other(Spoiled):
        def forward(self, z, x):
            t = lb.nn.MLPCritic.forward(self, z, x)
            return t * math.nan if len(z) == 1 and self.training and x.equal(self.marked) else t

    data = binary(8 * 30)
    with pytest.raises(NonFiniteError, match="step 9: 'kl_estimate' is not finite"):
        tiny.fit(avb(critic=Other("value", data[72:80])), Rows(data), epochs=1)


def test_update_of_the_critic_that_overflows():
    """A rate beyond all reason, in the last of the critic's moves."""

    def schedule(optimizer, steps: int):
        factor = 1.0 if optimizer.param_groups[0]["lr"] < 0.5 else 1e42
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor if step == 9 else 1.0)

    with pytest.raises(NonFiniteError, match=r"step 9: the update of 'model\.critic.* is not finite, though its grad"):
        tiny.fit(
            avb(critic_lr=1.0, critic_steps=1), Rows(binary(8 * 30)), epochs=1, optimizer="sgd", lr=1e-3,
            schedule=schedule,
        )  # fmt: skip
