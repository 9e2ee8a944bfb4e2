"""The loop: what a step does, what depends on the seed, the weights that a run ends with, and what it costs."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, NodeError, ShapeError
from lowerbound.core.files import read_tree
from lowerbound.core.random import stream_seed
from lowerbound.training import Callback, State
from lowerbound.training.settings import Settings
from tiny import Steps, difference


def weights(run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


# --- Truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 5])
def test_loop_equals_one_written_by_hand(warmup: int) -> None:
    """Six steps of SGD: the order of the rows, the noise, the weight of the KL term, the gradient."""
    data, lr = tiny.rows(), 0.1
    run = tiny.fit(tiny.objective(), data, epochs=1, optimizer="sgd", lr=lr, kl_warmup=warmup, seed=7)
    model, bounds = tiny.vae(), []
    for step, x in enumerate(data.batches(8, seed=7, epoch=0)):
        torch.manual_seed(stream_seed(7, "noise", step))
        q = model.encode(x)
        z = q.mean + q.stddev * torch.normal(torch.zeros(1, 8, 2), 1.0)[0]
        reconstruction = model.decode(z).log_prob(x)
        kl = kl_divergence(Normal(q.mean, q.stddev), Normal(torch.zeros(8, 2), 1.0)).sum(-1)
        weight = min(1.0, (step + 1) / warmup) if warmup else 1.0
        model.zero_grad()
        (weight * kl - reconstruction).mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
        bounds.append(float((reconstruction - kl).detach().mean()))  # the weight is the cost's alone
    for name, value in model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)
    assert run.history[0]["train"]["elbo"] == pytest.approx(np.mean(bounds), abs=1e-5)


@pytest.mark.parametrize("warmup", [1, 4, 7, 12])
def test_warm_up_rises_by_equal_steps_to_exactly_one(warmup: int) -> None:
    goal, seen = tiny.objective(), []
    run = tiny.fit(goal, kl_warmup=warmup, callbacks=[Steps(lambda _: seen.append(float(goal.kl_weight)))])
    expected = [min(1.0, (step + 1) / warmup) for step in range(12)]
    assert seen == pytest.approx(expected, abs=1e-7)
    assert seen[warmup - 1 :] == [1.0] * (13 - warmup)
    assert [record["kl_weight"] for record in run.history] == [expected[5], expected[11]]


def test_early_stopping_waits_for_the_warm_up() -> None:
    """Far too high a rate makes the bound worse from the first epoch on; the warm-up takes four."""
    options = {"validation": tiny.rows(20, seed=1), "epochs": 6, "patience": 1, "lr": 1.0}
    assert len(tiny.fit(**options).history) == 2
    assert len(tiny.fit(**options, kl_warmup=24).history) >= 4


# --- Seeds ------------------------------------------------------------------------------------------------------------

RUNS = {
    "elbo": lambda seed=0: tiny.fit(tiny.objective(), seed=seed),
    "iwae": lambda seed=0: tiny.fit(tiny.objective("IWAE", particles=3, gradient="dreg"), seed=seed),
    "validation": lambda seed=0: tiny.fit(tiny.objective(), validation=tiny.rows(20, seed=1), seed=seed),
    "bfloat16": lambda seed=0: tiny.fit(tiny.objective(), precision="bfloat16", seed=seed),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_same_call_gives_the_same_weights_and_another_seed_gives_others(run) -> None:
    first = run()
    torch.manual_seed(12345)
    torch.rand(7)
    second = run()
    assert not difference(first.model.state_dict(), second.model.state_dict())
    assert tiny.unclocked(first.history) == tiny.unclocked(second.history)
    assert difference(first.model.state_dict(), run(seed=1).model.state_dict())


def test_validation_rows_and_watchers_do_not_change_the_weights(tmp_path) -> None:
    plain = tiny.fit(keep="last")
    watched = tiny.fit(keep="last", validation=tiny.rows(20, seed=1), out=tmp_path / "run", checkpoint_seconds=0)
    assert not difference(plain.model.state_dict(), watched.model.state_dict())


def test_evaluation_within_a_run_does_not_change_it() -> None:
    """Neither its noise, nor the mode of its model, nor the arithmetic: denormals stay zero."""
    goal, modes, tails = tiny.objective(), [], []

    class Look(Callback):
        def epoch(self, record) -> None:
            lb.evaluate(goal.model, tiny.rows(20, seed=1), "elbo-2")
            modes.append(goal.model.training)
            tails.append(float(torch.full((), 1e-39).mul(1.0)))

    run = tiny.fit(goal, callbacks=[Look()])
    assert not difference(run.model.state_dict(), tiny.fit().model.state_dict())
    assert modes == [True, True]
    assert tails == [0.0, 0.0]
    assert float(torch.full((), 1e-39).mul(1.0)) > 0  # and outside of a run nothing has changed


def test_global_generators_are_left_alone(tmp_path) -> None:
    goal = tiny.objective()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    tiny.fit(goal, validation=tiny.rows(20, seed=1), out=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002


def test_two_runs_do_not_feel_each_other() -> None:
    torch.manual_seed(0)
    a = lb.objectives.ELBO(lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(8,)))
    b = lb.objectives.ELBO(lb.models.VAE(event_shape=(6,), latent_dim=3, hidden=(8,)))
    later = tiny.fit(b), tiny.fit(a)
    torch.manual_seed(0)
    a = lb.objectives.ELBO(lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(8,)))
    first = tiny.fit(a)
    b = lb.objectives.ELBO(lb.models.VAE(event_shape=(6,), latent_dim=3, hidden=(8,)))
    second = tiny.fit(b)
    assert not difference(first.model.state_dict(), later[1].model.state_dict())
    assert not difference(second.model.state_dict(), later[0].model.state_dict())


# --- Which weights ----------------------------------------------------------------------------------------------------


class Keep(Callback):
    """Copies the weights after every epoch."""

    def __init__(self, goal) -> None:
        self.goal, self.weights = goal, []

    def epoch(self, record) -> None:
        self.weights.append({name: value.clone() for name, value in self.goal.model.state_dict().items()})


# A rate at which the validation bound of the small set goes up and down.
RESTLESS = {"validation": tiny.rows(20, seed=1), "lr": 0.3, "epochs": 12}


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_stops_after_patience_and_keeps_the_best(patience: int, tmp_path) -> None:
    whole = tiny.fit(**RESTLESS).history
    bounds = [record["validation"]["elbo"] for record in whole]
    stop = next(n for n in range(1, 13) if n == 12 or n - (1 + int(np.argmax(bounds[:n]))) >= patience)
    best = int(np.argmax(bounds[:stop]))
    assert 0 < best < stop - 1  # or the test says little

    goal = tiny.objective()
    kept = Keep(goal)
    run = tiny.fit(goal, **RESTLESS, patience=patience, out=tmp_path / "run", callbacks=[kept])
    assert tiny.unclocked(run.history) == tiny.unclocked(whole[:stop])
    assert len(kept.weights) == stop
    for found in (run.model.state_dict(), read_tree(tmp_path / "run" / "model.safetensors")["weights"]):
        assert not difference(dict(found), kept.weights[best])


def test_keep_last_ends_with_the_last_weights(tmp_path) -> None:
    goal = tiny.objective()
    kept = Keep(goal)
    run = tiny.fit(goal, **RESTLESS, keep="last", out=tmp_path / "run", callbacks=[kept])
    for found in (run.model.state_dict(), read_tree(tmp_path / "run" / "model.safetensors")["weights"]):
        assert not difference(dict(found), kept.weights[-1])


def test_validation_bound_is_the_mean_over_rows_not_over_batches() -> None:
    """20 rows in batches of 8: two whole ones and a half. The bound of a row of the exact same draw is compared."""
    data, goal = tiny.rows(20, seed=1, binarize="static"), tiny.objective()
    kept = Keep(goal)
    run = tiny.fit(goal, validation=data, epochs=1, callbacks=[kept])
    model = tiny.vae()
    model.load_state_dict(kept.weights[0])
    values = []
    for number, x in enumerate(data.evaluation_batches(8)):
        torch.manual_seed(stream_seed(0, "validation", number))
        bound = lb.elbo(model.generator.bind(len(x)), {"x": x}, model.posterior.bind(x), analytic_kl=True)
        values.append(bound.value)
    assert run.history[0]["validation"]["elbo"] == pytest.approx(float(torch.cat(values).mean()), abs=1e-5)


def test_patience_without_validation_rows_is_refused() -> None:
    with pytest.raises(ArgumentError, match="patience: expected validation rows.*Pass validation rows"):
        tiny.fit(patience=2)


# --- Optimizers and schedules -----------------------------------------------------------------------------------------


def test_clipped_gradient_has_at_most_the_given_norm() -> None:
    def norms(**settings) -> list[float]:
        goal, found = tiny.objective(), []

        def look(_: int) -> None:
            found.append(float(torch.stack([p.grad.norm() for p in goal.parameters()]).norm()))

        tiny.fit(goal, callbacks=[Steps(look)], **settings)
        return found

    free = norms()
    clip = sorted(free)[len(free) // 2]
    clipped = norms(clip=clip)
    assert max(free) > 1.05 * clip
    assert max(clipped) <= clip * (1 + 1e-5)
    assert max(clipped) > 0.99 * clip  # the longest is cut to the limit, not to nothing
    assert clipped[0] == pytest.approx(min(free[0], clip), rel=1e-4)


def rates(schedule, lr: float = 0.1, **settings) -> tuple[list[float], list[float]]:
    """Return the learning rate of each of 12 steps, and what the records say."""
    made, seen = [], []

    def make(parameters):
        made.append(torch.optim.SGD(parameters, lr=lr))
        made[0].register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
        return made[0]

    run = tiny.fit(optimizer=make, schedule=schedule, **settings)
    return seen, [record["lr"] for record in run.history]


def test_cosine_falls_to_zero_at_the_end() -> None:
    seen, recorded = rates("cosine")
    assert seen == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(12)], abs=1e-9)
    assert recorded == pytest.approx([0.05, 0.0], abs=1e-9)


def test_constant_stays() -> None:
    assert rates("constant") == ([0.1] * 12, [0.1] * 2)


def test_one_cycle_rises_to_the_rate_and_falls_below_where_it_began() -> None:
    seen, _ = rates("onecycle")
    peak = seen.index(max(seen))
    assert max(seen) == pytest.approx(0.1, rel=0.05)
    assert 0 < peak < 6
    assert seen == sorted(seen[: peak + 1]) + sorted(seen[peak + 1 :], reverse=True)
    assert seen[-1] < seen[0] / 100


@pytest.mark.parametrize("optimizer, momentum", [("sgd", 0.0), ("rmsprop", 0.0), ("sgd", 0.9), ("adagrad", None)])
def test_one_cycle_turns_no_momentum_on(optimizer: str, momentum: float | None) -> None:
    options = {"momentum": momentum} if momentum else {}
    settings = Settings(optimizer=optimizer, schedule="onecycle", optimizer_options=options)
    player = tiny.objective().players()[0]
    made = settings.make_optimizer(player)
    settings.make_schedule(player, made, 10)
    found = made.param_groups[0].get("momentum")
    assert found == 0.95 if momentum else found == momentum  # torch's cycle of a momentum begins at 0.95


def test_functions_make_optimizer_and_schedule() -> None:
    seen, _ = rates(lambda optimizer, steps: LambdaLR(optimizer, lambda step: 1 - step / steps))
    assert seen == pytest.approx([0.1 * (1 - step / 12) for step in range(12)])
    by_name = tiny.fit(optimizer="sgd", schedule="cosine", lr=0.1)
    by_hand = tiny.fit(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1, fused=True), schedule=CosineAnnealingLR)
    assert not difference(by_name.model.state_dict(), by_hand.model.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "adadelta",
        "adafactor",
        "adagrad",
        "adam",
        "AdamW",
        "adamax",
        "asgd",
        "nadam",
        "RAdam",
        "rmsprop",
        "rprop",
        "SGD",
    ],
)
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_every_optimizer_of_torch_goes_by_its_name(name: str, schedule: str) -> None:
    before = tiny.vae().state_dict()
    run = tiny.fit(optimizer=name, schedule=schedule, epochs=1)
    assert difference(run.model.state_dict(), before)
    assert all(bool(value.isfinite().all()) for value in run.model.state_dict().values())


WRONG = {
    "optimizer": ({"optimizer": "adm"}, "optimizer: .*got 'adm'. Did you mean 'adam'"),
    "closure": ({"optimizer": "lbfgs"}, "optimizer: .*got 'lbfgs'. .*Known: "),
    "optimizer as object": (
        {"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)},
        "optimizer: expected a name or a function that makes one, got SGD",
    ),
    "schedule": ({"schedule": "cosin"}, "schedule: .*Did you mean 'cosine'"),
    "schedule as number": ({"schedule": 3}, "schedule: expected a name or a function .*got int"),
    "option": (
        {"optimizer_options": {"momentom": 0.9}},
        r"optimizer_options: .*got \['momentom'\]. Options of Adam: betas",
    ),
    "option's value": (
        {"optimizer": "rmsprop", "optimizer_options": {"alpha": -1.0}},
        "optimizer_options: .*Invalid alpha value: -1.0",
    ),
    "option's type": ({"optimizer_options": {"betas": 0.9}}, "optimizer_options: expected values that Adam takes"),
    "nesterov alone": (
        {"optimizer": "sgd", "optimizer_options": {"nesterov": True}},
        "optimizer_options: .*Nesterov momentum requires",
    ),
    "epochs": ({"epochs": 0}, "epochs: expected a positive integer, got 0"),
    "batch size": ({"batch_size": -3}, "batch_size: expected a positive integer, got -3"),
    "rate": ({"lr": 0.0}, "lr: expected a finite number above 0, got 0.0"),
    "no rate": ({"lr": float("nan")}, "lr: expected a finite number .*got nan"),
    "warm-up": ({"kl_warmup": -1}, "kl_warmup: expected a finite number of at least 0, got -1"),
    "long warm-up": ({"kl_warmup": 13}, "kl_warmup: expected at most the run's 12 steps, got 13"),
    "clip": ({"clip": 0.0}, "clip: .*above 0"),
    "patience": ({"patience": 0, "validation": tiny.rows(8)}, "patience: expected a positive integer, got 0"),
    "keep": ({"keep": "beste"}, "keep: .*Did you mean 'best'"),
    "precision": ({"precision": "float16"}, "precision: .*got 'float16'"),
    "setting": ({"epoch": 3}, r"fit: expected known settings, got \['epoch'\]. Known settings: epochs"),
    "device": ({"device": "cuda:99"}, "device: expected a device of this machine, got 'cuda:99'. Pass device='cpu'"),
    "no device": ({"device": "gpu"}, "device: expected a device of this machine, got 'gpu'"),
    "objective": ({"goal": tiny.vae()}, r"objective: expected an objective, got VAE. Pass lowerbound.objectives.ELBO"),
    "data": ({"train": torch.zeros(9, 6)}, "train: expected a data set, got Tensor. .*Dataset"),
    "validation": ({"validation": [1, 2]}, "validation: expected a data set, got list"),
}


@pytest.mark.parametrize("settings, message", WRONG.values(), ids=WRONG)
def test_wrong_setting_is_refused(settings: dict, message: str, tmp_path) -> None:
    with pytest.raises(ArgumentError, match=message):
        tiny.fit(**settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_epochs_add_up_where_a_state_goes_on() -> None:
    whole = tiny.fit(epochs=3)
    goal = tiny.objective()
    state = State(goal, Settings(epochs=2, batch_size=8), 12)
    tiny.fit(goal, epochs=2, state=state)
    parts = tiny.fit(goal, epochs=3, state=state)
    assert not difference(whole.model.state_dict(), parts.model.state_dict())
    tiny.fit(goal, tiny.rows(20, seed=1), epochs=4, state=state)
    assert [state.epoch, state.step] == [4, 20]  # six steps an epoch, and two with the other rows


def test_state_that_does_not_fit_is_refused(tmp_path) -> None:
    goal = tiny.objective()
    state = State(goal, Settings(), 1)
    with pytest.raises(ArgumentError, match="state: expected one of this objective, got another's. Pass the objective"):
        tiny.fit(tiny.objective(), state=state)
    with pytest.raises(ArgumentError, match="state: expected no run folder beside it, got .*run. Leave one of them"):
        tiny.fit(goal, state=state, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_the_model_cannot_take_are_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(NodeError, match="Bernoulli likelihood takes only 0 and 1: binarise"):
        tiny.fit(train=tiny.rows(binarize="none"), out=tmp_path / "run")
    with pytest.raises(ShapeError, match=r"expected shape \(B, 6\), got \(4, 3\)"):
        tiny.fit(train=lb.data.Dataset(torch.ones(4, 3)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    run = tiny.fit(train=tiny.rows(5), epochs=3)
    assert [record["step"] for record in run.history] == [1, 2, 3]


# --- What it costs ----------------------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the times that a number is taken from a tensor to the host, however it is asked for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings", [{}, {"clip": 1.0}, {"kl_warmup": 4, "optimizer": "rmsprop", "schedule": "cosine"}]
)
def test_nothing_is_read_from_the_device_at_a_step(settings: dict, monkeypatch) -> None:
    def reads(batches: int) -> int:
        with Reads() as mode:
            for name in ("tolist", "numpy"):  # these read without a trace
                original = getattr(torch.Tensor, name)

                def counted(tensor, *args, _original=original, **kwargs):
                    mode.count += 1
                    return _original(tensor, *args, **kwargs)

                monkeypatch.setattr(torch.Tensor, name, counted)
            tiny.fit(tiny.objective(), tiny.rows(4 * batches), batch_size=4, epochs=1, **settings)
        monkeypatch.undo()
        return mode.count

    short, long = reads(20), reads(170)
    assert short > 0  # the counter works
    assert (long - short) / 150 <= 0.1


# --- Watchers ---------------------------------------------------------------------------------------------------------


def test_watchers_hear_of_everything_in_order(tmp_path) -> None:
    heard = []

    class Listen(Callback):
        def start(self, **place) -> None:
            heard.append(("start", place))

        def step(self, *, epoch, batch, sums) -> None:
            heard.append(("step", epoch, batch, list(sums)))

        def epoch(self, record) -> None:
            heard.append(("epoch", record["epoch"], record["step"]))

        def stop(self) -> None:
            heard.append(("stop",))

    tiny.fit(callbacks=[Listen()], batch_size=24)
    terms = ["elbo", "reconstruction", "kl"]
    assert heard == [
        ("start", {"epochs": 2, "batches": 2, "epoch": 0, "batch": 0}),
        ("step", 0, 1, terms), ("step", 0, 2, terms), ("epoch", 1, 2),
        ("step", 1, 1, terms), ("step", 1, 2, terms), ("epoch", 2, 4),
        ("stop",),
    ]  # fmt: skip


def test_watchers_are_stopped_after_an_error() -> None:
    stopped = []

    class Break(Callback):
        def step(self, **_) -> None:
            raise RuntimeError("a watcher's own mistake")

        def stop(self) -> None:
            stopped.append(True)

    with pytest.raises(RuntimeError, match="a watcher's own mistake"):
        tiny.fit(callbacks=[Break()])
    assert stopped == [True]


def test_progress_bar_ends_full_and_shows_the_bound_with_its_terms(capsys) -> None:
    tiny.fit(progress=True)
    out, shown = capsys.readouterr()
    assert out == ""  # standard output is for results
    for word in ("epoch 2/2", "12/12", "elbo -", "reconstruction -", "kl ", "steps/s"):
        assert word in shown
    assert "no bound" not in shown


def test_progress_bar_says_what_is_no_bound(capsys) -> None:
    tiny.fit(tiny.objective("ELBO", beta=0.5), progress=True)
    assert re.search(r"beta-elbo\(0\.5\) -\d+\.\d\d \(no bound\)", capsys.readouterr()[1])
