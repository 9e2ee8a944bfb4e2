"""Numbers that are not finite: the step, the term and the place are named, and nothing bad is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
import tiny
from lowerbound.core.errors import NonFiniteError
from lowerbound.core.files import read_tree
from lowerbound.training.watch import EVERY
from tiny import Rows, Steps, difference

BATCHES = 30  # 8 rows each: the sums are read at steps 50 and 100, which lie within epochs


def binary(n: int = 8 * BATCHES) -> torch.Tensor:
    return (torch.rand(n, tiny.WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def tensors(tree) -> list[torch.Tensor]:
    """Return all tensors of a tree."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for value in values for tensor in tensors(value)]


def all_finite(path) -> bool:
    found = tensors(read_tree(path))
    assert found
    return all(bool(tensor.isfinite().all()) for tensor in found if tensor.is_floating_point())


def expect(message: str, goal, train, out, **settings) -> None:
    """Train until the error, and check that no file in the folder holds a number that is not finite."""
    with pytest.raises(NonFiniteError, match=message):
        tiny.fit(goal, train, out=out, **settings)
    for name in ("last_good", "last"):
        path = out / "state" / f"{name}.safetensors"
        assert not path.exists() or all_finite(path)
    if (out / "model.safetensors").exists():
        assert all_finite(out / "model.safetensors")


def weights_after(steps: int, make, train, **settings) -> dict[str, torch.Tensor]:
    """Return the weights after some steps of an undisturbed run."""
    goal, kept = make(), []
    if steps == 0:
        return goal.model.state_dict()

    class EnoughError(Exception):
        pass

    def copy(made: int) -> None:
        if made == steps:
            kept.append({name: value.clone() for name, value in goal.model.state_dict().items()})
            raise EnoughError

    with pytest.raises(EnoughError):
        tiny.fit(goal, train, callbacks=[Steps(copy)], **settings)
    return kept[0]


# --- (i) A value of the data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 1, EVERY - 1, EVERY, EVERY + 1, 58, 59])
def test_bad_value_in_one_batch(step: int, bad: float, tmp_path) -> None:
    """Steps around those at which the sums are read, and the last two of the second epoch."""

    def spoil(x, epoch: int, batch: int):
        if epoch * BATCHES + batch == step:
            x[2, 3] = bad
        return x

    settings = {"epochs": 3, "lr": 0.01}
    expect(
        f"step {step}: the batch holds 1 values that are not finite.*bad_batch.*last_good",
        tiny.objective(), Rows(binary(), spoil), tmp_path / "run", **settings,
    )  # fmt: skip
    kept = read_tree(tmp_path / "run" / "state" / "bad_batch.safetensors")
    start = step % BATCHES * 8
    expected = binary()[start : start + 8]
    expected[2, 3] = bad
    assert kept["step"] == step
    torch.testing.assert_close(kept["x"], expected, rtol=0, atol=0, equal_nan=True)
    good = read_tree(tmp_path / "run" / "state" / "last_good.safetensors")
    assert good["step"] == step
    assert not difference(good["weights"], dict(weights_after(step, tiny.objective, Rows(binary()), **settings)))


def test_gaps_are_not_to_blame(tmp_path) -> None:
    """NaN stands for a gap where the model takes gaps; only what is no gap is named, and at its own step."""

    def spoil(x, epoch: int, batch: int):
        x[:, 0] = math.nan
        if batch == 7:
            x[2, 3] = math.inf
        return x

    goal = tiny.objective(model=tiny.vae(likelihood="gaussian", missing=True))
    expect("step 7: the batch holds 1 values that are not finite", goal, Rows(binary(), spoil), tmp_path, epochs=1)


def test_without_a_folder_nothing_is_said_of_files() -> None:
    def spoil(x, epoch: int, batch: int):
        return x * math.nan if batch == 3 else x

    with pytest.raises(NonFiniteError, match="step 3: the batch holds 48 values that are not finite") as error:
        tiny.fit(tiny.objective(), Rows(binary(), spoil))
    assert "bad_batch" not in str(error.value)


# --- (ii) A layer -----------------------------------------------------------------------------------------------------


class Fuse(nn.Module):
    """Passes values on, but makes one infinite at its call number `call`, and when that batch comes again.

    The step is told by the batch, because a replay calls the layer again.
    """

    def __init__(self, marked: torch.Tensor, how: str) -> None:
        super().__init__()
        self.marked, self.how, self.on = marked, how, False

    def forward(self, h):
        if not (self.training and self.on):
            return h
        if self.how == "value":
            return h + math.inf
        # sqrt(0) has no finite slope: the value is finite, and the gradient NaN
        return h + 0.0 * (h - h).sum().sqrt() if self.how == "gradient" else h


def model_with_fuse(how: str, marked: torch.Tensor):
    """Return an objective whose encoder holds a fuse that burns at a marked batch."""
    goal = tiny.objective()
    fuse = Fuse(marked, how)
    body = goal.model.posterior.encoder.features.body
    body.append(fuse)
    goal.model.posterior.register_forward_pre_hook(
        lambda _module, inputs: setattr(fuse, "on", torch.equal(inputs[1], fuse.marked))
    )
    return goal


@pytest.mark.parametrize("step", [1, 7, EVERY - 1, EVERY, 59, 73])
def test_layer_that_overflows_at_a_step(step: int, tmp_path) -> None:
    data = binary(8 * 90)
    marked = data[8 * step : 8 * step + 8]
    settings = {"epochs": 1}
    expect(
        f"step {step}: 'reconstruction' and 'kl' are not finite, "
        "first in layer 'model.posterior.encoder.features.body.2'",
        model_with_fuse("value", marked), Rows(data), tmp_path / "run", **settings,
    )  # fmt: skip
    kept = read_tree(tmp_path / "run" / "state" / "bad_batch.safetensors")
    assert kept["step"] == step
    assert torch.equal(kept["x"], marked)
    good = read_tree(tmp_path / "run" / "state" / "last_good.safetensors")["weights"]
    assert not difference(good, dict(weights_after(step, tiny.objective, Rows(data), **settings)))


# --- (iii) A gradient -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
@pytest.mark.parametrize("step", [0, 7, EVERY - 1, EVERY, 89])
def test_gradient_that_is_nan_while_the_bound_is_finite(step: int, checkpoint_seconds: float, tmp_path) -> None:
    """At step 49 the sums are read right after the bad update, at 89 the run ends: both times the sums are finite."""
    data = binary(8 * 90)
    goal = model_with_fuse("gradient", data[8 * step : 8 * step + 8])
    expect(
        f"step {step}: the gradient of 'model.posterior.encoder.features.body.0.weight' is not finite, "
        "though the bound is",
        goal, Rows(data), tmp_path / "run", epochs=1, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    good = read_tree(tmp_path / "run" / "state" / "last_good.safetensors")
    assert good["step"] == step
    assert not difference(good["weights"], dict(weights_after(step, tiny.objective, Rows(data), epochs=1)))
    if checkpoint_seconds == 0 and step > 0:
        last = read_tree(tmp_path / "run" / "state" / "last.safetensors")
        assert last["step"] == step
        assert not difference({f"model.{name}": value for name, value in good["weights"].items()}, last["objective"])


@pytest.mark.parametrize("clip", [None, 1.0])
def test_clipping_does_not_hide_a_bad_gradient(clip, tmp_path) -> None:
    goal = model_with_fuse("gradient", binary()[:8])
    expect("step 0: the gradient of .* is not finite", goal, Rows(binary()), tmp_path / "run", clip=clip)


# --- (iv) An update ---------------------------------------------------------------------------------------------------


def test_update_that_overflows_though_its_gradient_is_finite(tmp_path) -> None:
    """The rate is beyond all reason at step 9 alone, so that the step and not the next one is to be named."""

    def schedule(optimizer, steps: int):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e42 if step == 9 else 1.0)

    expect(
        "step 9: the update of 'model.*' is not finite, though its gradient is",
        tiny.objective(), Rows(binary()), tmp_path / "run", optimizer="sgd", lr=0.01, schedule=schedule,
    )  # fmt: skip
    assert read_tree(tmp_path / "run" / "state" / "last_good.safetensors")["step"] == 9


def test_weight_that_does_not_train_may_be_anything() -> None:
    """A mask of minus infinity is no mistake."""
    goal = tiny.objective()
    goal.model.mask = nn.Parameter(torch.tensor(-math.inf), requires_grad=False)
    assert len(tiny.fit(goal).history) == 2


def test_overflowing_densities_are_told_from_overflowing_layers(tmp_path) -> None:
    """A value of 1e30 is finite, and so is each layer, but its square is not."""
    values = torch.randn(80, tiny.WIDTH)
    values[35] = 1e30
    goal = tiny.objective(model=tiny.vae(likelihood="gaussian", hidden=()))
    for parameter in goal.model.posterior.parameters():
        nn.init.zeros_(parameter)
    expect("step 4: 'reconstruction'.* not finite, in no layer: the densities overflow", goal, Rows(values), tmp_path)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_replay_holds_for_every_schedule_and_over_epochs(schedule: str, tmp_path) -> None:
    """A replay that made other steps than the run would find nothing, or other weights."""

    def spoil(x, epoch: int, batch: int):
        return x * math.nan if (epoch, batch) == (3, 4) else x

    settings = {"epochs": 4, "schedule": schedule, "kl_warmup": 30, "validation": tiny.rows(9), "clip": 0.5, "lr": 0.05}
    expect("step 34: ", tiny.objective(), Rows(binary(80), spoil), tmp_path / "run", **settings)
    good = read_tree(tmp_path / "run" / "state" / "last_good.safetensors")["weights"]
    assert not difference(good, dict(weights_after(34, tiny.objective, Rows(binary(80)), **settings)))


def test_run_that_stopped_can_be_resumed_with_repaired_data(tmp_path) -> None:
    def spoil(x, epoch: int, batch: int):
        return x * math.nan if (epoch, batch) == (1, 4) else x

    options = {"out": tmp_path / "run", "checkpoint_seconds": 0}
    expect("step 14: ", tiny.objective(), Rows(binary(80), spoil), **options)
    resumed = tiny.fit(tiny.objective(), Rows(binary(80)), resume=True, **options)
    assert not difference(resumed.model.state_dict(), tiny.fit(tiny.objective(), Rows(binary(80))).model.state_dict())


def test_validation_bound_that_is_not_finite_stops_the_run(tmp_path) -> None:
    """Trained on small values, watched on one that overflows: no NaN may pass for the best bound or go into a file."""
    train, watched = torch.randn(80, tiny.WIDTH), torch.randn(16, tiny.WIDTH)
    watched[3] = 1e30
    goal = tiny.objective(model=tiny.vae(likelihood="gaussian"))
    with pytest.raises(NonFiniteError, match="validation after epoch 1: .*'reconstruction'"):
        tiny.fit(goal, Rows(train), validation=Rows(watched), out=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert lb.evaluate(goal.model, Rows(train), "elbo").measures["elbo"]["n"] == 80
