"""Several processes make the training that one makes out of the same microbatches; the first one alone writes.

This file is also the program that torchrun runs in two processes: `python test_training_distributed.py PART FOLDER`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowerbound as lb
import tiny
from lowerbound.core.distributed import by_first, gather, place, share, total
from lowerbound.core.errors import ArgumentError, LowerboundError, RunError
from lowerbound.core.files import read_tree, write_tree
from lowerbound.core.types import Outcome, Player
from lowerbound.training.microbatches import descend
from lowerbound.training.settings import Settings


def adversarial(**arguments: Any) -> Any:
    torch.manual_seed(place().rank)  # the first process's weights are to be everybody's
    model = lb.models.ImplicitVAE(event_shape=(tiny.WIDTH,), latent_dim=2, hidden=(8,), critic_hidden=(8,))
    return lb.objectives.AVB(model, critic_lr=0.01, **arguments)


def convolutions() -> Any:
    return tiny.objective(model=tiny.conv_vae(place().rank))


# name: how the objective is made, settings of fit; batches of 9 rows and of microbatches that differ in size
JOBS: dict[str, tuple[Any, dict[str, Any]]] = {
    "elbo": (lambda: tiny.objective(model=tiny.vae(place().rank)), {"kl_warmup": 9, "clip": 0.5}),
    "vimco": (
        lambda: tiny.objective("IWAE", particles=3, gradient="vimco"),
        {"schedule": "cosine", "microbatches": 3, "optimizer": "adamw", "optimizer_options": {"weight_decay": 0.1}},
    ),
    "avb": (lambda: adversarial(contrast="adaptive", critic_steps=2), {"optimizer": "rmsprop"}),
    "convolutions": (convolutions, {"train": tiny.images(), "validation": tiny.images(20), "epochs": 2}),
}
MEASURES = ["elbo-200", "iwae-200", "ais", "bdmc"]  # ten rows at once


def train(job: str, folder: Path, **options: Any) -> Any:
    make, settings = JOBS[job]
    given = {"microbatches": 2, "seed": 3, "epochs": 3, "batch_size": 9, "checkpoint_seconds": 0}
    rows = {"train": tiny.rows(50), "validation": tiny.rows(20, seed=1)}
    return tiny.fit(make(), out=folder / job, **{**given, **rows, **settings, **options})


def evaluate(folder: Path) -> dict[str, Any]:
    """Measure a model on 45 rows, in five batches."""
    x = torch.bernoulli(torch.full((45, tiny.WIDTH), 0.5), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"chains": 200, "temperatures": 3, "keep": folder / "kept"}
    scores = lb.evaluate(tiny.vae(), tiny.Rows(x), MEASURES, **options)
    return {"rows": {name: torch.from_numpy(row) for name, row in scores.rows.items()}, "measures": scores.measures}


def overflowing() -> Any:
    """Rows of which one, in the second half of the second batch, is too large for a layer."""
    values = torch.rand(36, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    values[34] = 3.4e38
    return tiny.Rows(values)


MISTAKES: dict[str, Any] = {
    "a taken folder": lambda folder: train("elbo", folder),
    "a moving average": lambda folder: tiny.fit(tiny.objective(gradient="reinforce", baseline="moving-average")),
    "too few microbatches": lambda folder: tiny.fit(microbatches=1),
    "a bad number": lambda folder: tiny.fit(
        tiny.objective(model=tiny.vae(likelihood="gaussian")), overflowing(), batch_size=18, out=folder / "bad"
    ),
}


def said(folder: Path) -> dict[str, str]:
    messages = {}
    for name, call in MISTAKES.items():
        try:
            call(folder)
        except LowerboundError as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def all_at_once(folder: Path) -> None:
    """What two processes do for the tests of this file."""
    found: dict[str, Any] = {job: train(job, folder).model.state_dict() for job in JOBS}
    found["evaluate"] = evaluate(folder)
    found["said"] = said(folder)
    rank = place().rank
    values = [torch.full((2,), 1.0 + rank), torch.ones((), dtype=torch.float64)]
    sums = total(values)
    found["told"] = {
        "total": sums,
        "types": [str(value.dtype) for value in sums],
        "share": share({"of": rank, "x": torch.arange(3)}, source=1),
        "gather": [told["of"] for told in gather({"of": rank})],
        "by_first": by_first(lambda: rank),
    }
    write_tree(folder / f"process-{rank}.safetensors", found)


def dies_once(folder: Path) -> None:
    """Train; in the first attempt the second process is killed in its third epoch."""

    def change(x: Any, epoch: int, batch: int) -> Any:
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "1"))
        if restarts == 0 and place().rank == 1 and (epoch, batch) == (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    rows = tiny.Rows(tiny.rows(50).rows(range(50)), change)
    tiny.fit(train=rows, out=folder, epochs=4, batch_size=9, microbatches=2, checkpoint_seconds=0)


def two_processes(part: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a part of this file under torchrun in two processes."""
    paths = [str(Path(tiny.__file__).parent), str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, __file__, part, folder]
    return subprocess.run(
        list(map(str, run)), env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    made = two_processes("all_at_once", folder)
    assert made.returncode == 0, made.stderr[:5000]
    return folder


@pytest.fixture(scope="module")
def processes(run: Path) -> list[dict[str, Any]]:
    return [read_tree(run / f"process-{rank}.safetensors") for rank in (0, 1)]


def close(mine: Any, theirs: Any) -> None:
    """Two trees are the same, numbers to the rounding of float32."""
    if isinstance(mine, (torch.Tensor, float)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    elif isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            close(mine[key], theirs[key])
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for pair in zip(mine, theirs, strict=True):
            close(*pair)
    else:
        assert mine == theirs


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_train_as_one_does(job: str, run: Path, processes: list[Any], tmp_path: Path) -> None:
    """The loss curve, the validation, the weights and the optimizers' state."""
    whole = train(job, tmp_path)
    close(tiny.contents(run / job), tiny.contents(tmp_path / job))
    assert not tiny.difference(processes[1][job], processes[0][job])  # weights stay equal in every bit
    assert not tiny.difference(processes[0][job], read_tree(run / job / "model.safetensors")["weights"])
    config = json.loads((run / job / "config.json").read_text())
    assert config["training"] == whole.config["training"]


def test_the_comparison_can_fail(run: Path, tmp_path: Path) -> None:
    """The noise hangs on the microbatches: another number of them is another training of the same rows."""
    other = train("elbo", tmp_path, microbatches=3)
    curve = [json.loads(line)["train"]["elbo"] for line in (run / "elbo" / "metrics.jsonl").read_text().splitlines()]
    gaps = np.abs(np.array(curve) - [record["train"]["elbo"] for record in other.history])
    assert 1e-3 < gaps.max() < 0.3


def test_two_processes_evaluate_as_one_does(processes: list[Any], tmp_path: Path) -> None:
    whole = evaluate(tmp_path)
    for process in processes:
        assert not tiny.difference(process["evaluate"], whole)


def test_an_evaluation_of_two_processes_is_kept_for_one(run: Path) -> None:
    for name in MEASURES:
        kept = read_tree(run / "kept" / f"{name}.safetensors")
        assert kept["done"] == 45
        assert not kept["rows"]["value"].isnan().any()


def test_only_the_first_process_writes_and_the_folder_is_free_again(run: Path) -> None:
    names = {"config.json", "metrics.jsonl", "model.safetensors", "state/last.safetensors"}
    for job in JOBS:
        assert set(tiny.files(run / job)) == names


def test_what_processes_tell_each_other(processes: list[Any]) -> None:
    for process in processes:
        told = process["told"]
        assert told["total"][0].tolist() == [3.0, 3.0]
        assert told["total"][1].item() == 2.0
        assert told["types"] == ["torch.float32", "torch.float64"]
        assert told["share"]["of"] == 1
        assert told["share"]["x"].tolist() == [0, 1, 2]
        assert told["gather"] == [0, 1]
        assert told["by_first"] == 0


SAID = {
    "a taken folder": r"RunError: .*elbo: expected a new or empty folder, got a run\.",
    "a moving average": "ArgumentError: microbatches: expected an objective in which every row stands alone, got "
    "'moving_average', which follows every batch",
    "too few microbatches": "ArgumentError: microbatches: expected at least one for each of 2 processes, got 1",
    "a bad number": "NonFiniteError: step 1: .*not finite, first in layer 'model.*",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_in_all_processes(mistake: str, processes: list[Any]) -> None:
    for process in processes:
        assert re.match(SAID[mistake], process["said"].get(mistake, "nothing"))


def test_the_batch_that_is_kept_is_the_whole_one(run: Path) -> None:
    bad = read_tree(run / "bad" / "state" / "bad_batch.safetensors")["x"]
    assert bad.shape == (18, tiny.WIDTH)


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    made = two_processes("dies_once", tmp_path / "killed", "--max-restarts", "1")
    assert made.returncode == 0, made.stderr
    assert "exitcode: -9" in made.stderr
    dies_once(tmp_path / "whole")
    close(tiny.contents(tmp_path / "killed"), tiny.contents(tmp_path / "whole"))


@pytest.mark.slow
def test_a_restart_takes_no_folder_that_was_refused(tmp_path: Path) -> None:
    dies_once(tmp_path)
    before = tiny.files(tmp_path)
    made = two_processes("dies_once", tmp_path, "--max-restarts", "1")
    assert made.returncode != 0
    assert made.stderr.count("RunError: ") == 4  # two processes, two attempts
    assert tiny.files(tmp_path) == before


def test_rows_that_meet_are_noticed_after_an_evaluation_too() -> None:
    goal = tiny.objective(gradient="reinforce", baseline="moving-average")
    goal.eval()  # as every training leaves it
    with pytest.raises(ArgumentError, match="'moving_average', which follows every batch"):
        tiny.fit(goal, microbatches=2)


# --- In one process ---------------------------------------------------------------------------------------------------


class Squares(nn.Module):
    """A cost without noise, whose rows stand alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))

    def forward(self, x: Any, player: str) -> Outcome:
        rows = (x @ self.weight - 1).square()
        return Outcome(rows.mean(), {"squares": rows.detach().mean()})


@pytest.mark.parametrize("count", [2, 3, 7])
def test_microbatches_have_the_gradient_of_the_batch(count: int) -> None:
    x, objective = torch.randn(7, 3), Squares()
    whole = objective(x, "")
    (grad,) = torch.autograd.grad(whole.cost, objective.weight)
    player = Player("model", tuple(objective.parameters()))
    found = descend(x, player, objective, Settings(microbatches=count), step=0, turn=0)
    torch.testing.assert_close(objective.weight.grad, grad)
    assert objective.unused.grad.tolist() == [0.0, 0.0]
    torch.testing.assert_close(found.cost, whole.cost.detach())
    torch.testing.assert_close(found.terms, whole.terms)


def test_every_microbatch_of_every_turn_has_noise_of_its_own() -> None:
    seen = []

    def forward(x: Any, player: str) -> Outcome:
        seen.append(float(torch.rand(())))
        return Outcome(objective(x, player).cost, {})

    objective = Squares()
    for turn in range(2):
        for step in range(2):
            player = Player("model", (objective.weight,))
            descend(torch.randn(4, 3), player, forward, Settings(microbatches=4), step=step, turn=turn)
    assert len(set(seen)) == 16


def test_a_resumed_run_keeps_its_microbatches(tmp_path: Path) -> None:
    tiny.fit(out=tmp_path / "a", microbatches=2)
    longer = tiny.fit(out=tmp_path / "a", epochs=4, resume=True)
    assert longer.config["training"]["microbatches"] == 2
    tiny.fit(out=tmp_path / "b", microbatches=2, epochs=4)
    assert not tiny.difference(tiny.contents(tmp_path / "a"), tiny.contents(tmp_path / "b"))
    with pytest.raises(RunError, match="training.microbatches = 2, got 4"):
        tiny.fit(out=tmp_path / "a", epochs=4, resume=True, microbatches=4)


def test_one_microbatch_is_the_plain_run(tmp_path: Path) -> None:
    one, plain = tiny.fit(microbatches=1), tiny.fit()
    assert not tiny.difference(one.model.state_dict(), plain.model.state_dict())
    assert "microbatches" not in plain.config["training"]
    assert one.config["training"] == plain.config["training"]


class Normalised(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(tiny.WIDTH, 2), nn.BatchNorm1d(2, track_running_stats=False))

    def forward(self, bn: Any, x: Any) -> None:
        bn.sample("z", torch.distributions.Normal(self.net(x), 1.0), event_dims=1)


class Shared(lb.BayesianNet):
    """A latent for all rows, and rows below it."""

    def __init__(self, prior: bool) -> None:
        super().__init__()
        self.prior, self.loc = prior, nn.Parameter(torch.zeros(tiny.WIDTH))

    def forward(self, bn: Any, x: Any) -> None:
        z = bn.sample("z", torch.distributions.Normal(self.loc, 1.0), event_dims=1)
        if self.prior:
            bn.sample("x", torch.distributions.Normal(z.unsqueeze(-2).expand(*z.shape[:-1], *x.shape), 1.0), 2)


class SharedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.posterior = Shared(True), Shared(False)

    def programs(self, x: Any) -> lb.Programs:
        return lb.Programs(self.generator.bind(x), {"x": x}, self.posterior.bind(x))

    def describe(self) -> dict[str, Any]:
        return {"class": "SharedModel"}


def normalised() -> Any:
    return tiny.objective(model=lb.models.LatentVariableModel(tiny.vae().generator, Normalised()))


MEETING = {
    "a batch normalisation": (normalised, "BatchNorm1d at model.posterior.net.1, which normalises over the batch"),
    "a latent for all rows": (lambda: tiny.objective(model=SharedModel()), "latents that all rows share"),
}


@pytest.mark.parametrize("make, message", MEETING.values(), ids=MEETING)
def test_rows_that_meet_each_other_are_refused(make: Any, message: str) -> None:
    tiny.fit(make(), epochs=1)
    with pytest.raises(ArgumentError, match=f"got {message}. Train it in one process, with microbatches=1"):
        tiny.fit(make(), epochs=1, microbatches=2)


def test_more_microbatches_than_rows_are_refused() -> None:
    with pytest.raises(ArgumentError, match="microbatches: expected at most the 8 rows of a step, got 9"):
        tiny.fit(microbatches=9)
    with pytest.raises(ArgumentError, match="microbatches: expected a positive integer, got 0"):
        tiny.fit(microbatches=0)


def test_graphs_of_microbatches_are_refused() -> None:
    with pytest.raises(ArgumentError, match="compile: expected no graphs with microbatches, got 'graphs'. Leave it"):
        tiny.fit(compile="graphs", microbatches=2)


def test_a_folder_that_a_run_writes_is_refused_to_another(tmp_path: Path) -> None:
    seen = []

    def intrude(made: int) -> None:
        if made == 1:
            for resume in (False, True):
                with pytest.raises(RunError, match="run: expected a folder that no other process writes, got one in "):
                    tiny.fit(out=tmp_path / "run", resume=resume)
                seen.append(set(tiny.files(tmp_path / "run")))

    run = tiny.fit(out=tmp_path / "run", callbacks=[tiny.Steps(intrude)])
    assert seen == [{"config.json", ".lock"}] * 2
    assert len(run.history) == 2
    assert ".lock" not in tiny.files(tmp_path / "run")


def test_a_lock_file_that_a_killed_run_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    tiny.fit(out=tmp_path)
    assert ".lock" not in tiny.files(tmp_path)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
