"""A run that is killed at any point and resumed ends as the run that nobody disturbed: bit for bit.

The points are drawn anew in every session; to repeat one, set KILL_SEED to the number that the failure prints.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError, RunError
from tiny import Steps, contents, difference, files

SEED = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
EPOCHS, BATCHES = 5, 6

# name: objective, its arguments, settings of fit, whether there are validation rows
JOBS = {
    "adam, constant, warm-up, clip": ("ELBO", {}, {"optimizer": "adam", "kl_warmup": 20, "clip": 0.5}, False),
    "adam, cosine, validation": ("ELBO", {}, {"optimizer": "adam", "schedule": "cosine", "lr": 0.1}, True),
    "adam, onecycle, dreg": ("IWAE", {"particles": 3, "gradient": "dreg"}, {"schedule": "onecycle"}, False),
    "rmsprop, constant, patience": (
        "ELBO",
        {},
        {"optimizer": "rmsprop", "lr": 0.02, "patience": 4, "optimizer_options": {"momentum": 0.5}},
        True,
    ),
    "rmsprop, onecycle, the last kept": (
        "ELBO",
        {},
        {"optimizer": "rmsprop", "schedule": "onecycle", "keep": "last"},
        True,
    ),
    "sgd with momentum, constant": (
        "ELBO",
        {"gradient": "stl"},
        {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
        True,
    ),
    "sgd with momentum, onecycle, warm-up": (
        "ELBO",
        {},
        {"optimizer": "sgd", "schedule": "onecycle", "optimizer_options": {"momentum": 0.9}, "kl_warmup": 30},
        False,
    ),
    "adam, cosine, bfloat16": ("ELBO", {}, {"schedule": "cosine", "precision": "bfloat16", "clip": 1.0}, True),
}


def train(job: str, out: Path, **options):
    """Follow a job of the table, with a checkpoint after every step."""
    name, arguments, settings, validated = JOBS[job]
    validation = tiny.rows(20, seed=1) if validated else None
    return tiny.fit(
        tiny.objective(name, **arguments),
        tiny.rows(BATCHES * 8 + 3),
        validation=validation,
        out=out,
        epochs=EPOCHS,
        checkpoint_seconds=0,
        seed=3,
        **settings,
        **options,
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(job: str, out: str, how: str, when: int) -> None:
    """What the child process does; `how` tells what `when` counts."""
    if how == "step":  # within an epoch, or at its very end
        train(job, Path(out), callbacks=[Steps(lambda made: die() if made == when else None)])
    elif how == "save":  # half of a file is written
        count, write = 0, Path.write_bytes

        def write_half(path: Path, content: bytes) -> int:
            nonlocal count
            count += 1
            if count == when:
                write(path, content[: len(content) // 2])
                die()
            return write(path, content)

        Path.write_bytes = write_half
        train(job, Path(out))
    elif how == "rename":  # a file is whole, but not yet in its place
        count, fsync = 0, os.fsync

        def fsync_and_die(file: int) -> None:
            nonlocal count
            count += 1
            fsync(file)
            if count == when:
                die()

        os.fsync = fsync_and_die
        train(job, Path(out))
    else:  # the parent kills, whatever goes on
        slowly = Steps(lambda made: (made == 1 and os.write(1, b"go\n"), time.sleep(0.01)))
        train(job, Path(out), callbacks=[slowly])


def run_and_kill(job: str, out: Path, how: str, when: int) -> None:
    """Run a job in a process of its own that is killed, and check that it was."""
    code = "import json, sys, test_training_resume as t; t.train_and_die(*json.loads(sys.argv[1]))"
    folders = [str(Path(__file__).parent), str(Path(tiny.__file__).parent), *sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    arguments = [sys.executable, "-c", code, json.dumps([job, str(out), how, when])]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        if how == "time":
            assert child.stdout.readline() == b"go\n", child.stderr.read().decode()
            time.sleep(when / 1000)
            child.kill()
        _, errors = child.communicate(timeout=300)
    assert child.returncode == -signal.SIGKILL, errors.decode()


@functools.cache
def undisturbed(job: str, root: Path):
    folder = root / str(list(JOBS).index(job))
    return train(job, folder), contents(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed")


# Every job once, and every kind of death at least once; the last step of the run is EPOCHS * BATCHES. Three files are
# written at each step, one (config.json) at the beginning.
DEATHS = [
    ("adam, constant, warm-up, clip", "step", (2, EPOCHS * BATCHES - 1)),
    ("adam, cosine, validation", "save", (2, 3 * EPOCHS * BATCHES)),
    ("adam, onecycle, dreg", "rename", (2, 3 * EPOCHS * BATCHES)),
    ("rmsprop, constant, patience", "step", (2, 4 * BATCHES - 1)),
    ("rmsprop, onecycle, the last kept", "time", (0, 200)),
    ("sgd with momentum, constant", "save", (2, 3 * EPOCHS * BATCHES)),
    ("sgd with momentum, onecycle, warm-up", "time", (0, 200)),
    ("adam, cosine, bfloat16", "step", (2, EPOCHS * BATCHES - 1)),
]


@pytest.mark.parametrize("job, how, between", DEATHS, ids=[f"{job}, {how}" for job, how, _ in DEATHS])
def test_killed_and_resumed_equals_undisturbed(job: str, how: str, between: tuple[int, int], tmp_path, root) -> None:
    draw = random.Random(f"{SEED}/{job}/{how}")
    when = draw.randint(*between)
    sys.stdout.write(f"KILL_SEED={SEED}: killed at {how} {when}\n")  # pytest shows it with a failure
    run_and_kill(job, tmp_path / "run", how, when)
    whole, expected = undisturbed(job, root)
    resumed = train(job, tmp_path / "run", resume=True)
    assert not difference(contents(tmp_path / "run"), expected)
    assert not difference(resumed.model.state_dict(), whole.model.state_dict())
    assert tiny.unclocked(resumed.history) == tiny.unclocked(whole.history)
    left = [name for name in files(tmp_path / "run") if name.endswith(".part")]
    assert not left


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_resumed_convolutions_are_the_undisturbed_ones(optimizer: str, tmp_path) -> None:
    """Their weights have channels last in memory, and what comes back from a file has not."""

    def follow(folder: str, epochs: int, **options):
        goal = tiny.objective(model=tiny.conv_vae())
        return tiny.fit(goal, tiny.images(), epochs=epochs, optimizer=optimizer, out=tmp_path / folder, **options)

    whole = follow("whole", 2)
    follow("halves", 1)
    resumed = follow("halves", 2, resume=True)
    assert not difference(contents(tmp_path / "halves"), contents(tmp_path / "whole"))
    assert not difference(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("left", ["half of config.json", "config.json alone"])
def test_killed_before_the_first_checkpoint(left: str, tmp_path, root) -> None:
    job = "adam, constant, warm-up, clip"
    _, expected = undisturbed(job, root)
    config = (root / "0" / "config.json").read_bytes()
    (tmp_path / "run").mkdir()
    name, content = (".config.json.x.part", config[:99]) if left.startswith("half") else ("config.json", config)
    (tmp_path / "run" / name).write_bytes(content)
    train(job, tmp_path / "run", resume=True)
    assert not difference(contents(tmp_path / "run"), expected)


def test_killed_again_and_again(tmp_path, root) -> None:
    """An exception after every second checkpoint: each part of the run begins from a file."""
    job = "adam, cosine, validation"

    class StopNowError(Exception):
        pass

    def stop(made: int) -> None:
        if made == 3:
            raise StopNowError

    attempts = 0
    while True:
        attempts += 1
        try:
            train(job, tmp_path / "run", resume=True, callbacks=[Steps(stop)])
        except StopNowError:
            continue
        break
    assert attempts == EPOCHS * BATCHES // 2
    assert not difference(contents(tmp_path / "run"), undisturbed(job, root)[1])


@pytest.mark.parametrize("job", ["adam, cosine, validation", "rmsprop, constant, patience"])
def test_resuming_a_finished_run_changes_nothing(job: str, tmp_path) -> None:
    first = train(job, tmp_path / "run")
    before = files(tmp_path / "run")
    again = train(job, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == before
    assert not difference(again.model.state_dict(), first.model.state_dict())
    assert again.history == first.history


def test_run_without_checkpoints_in_between_writes_the_same_end(tmp_path, root) -> None:
    job = "adam, cosine, validation"
    name, arguments, settings, _ = JOBS[job]
    tiny.fit(tiny.objective(name, **arguments), tiny.rows(BATCHES * 8 + 3), validation=tiny.rows(20, seed=1),
             out=tmp_path, epochs=EPOCHS, checkpoint_seconds=1e9, seed=3, **settings)  # fmt: skip
    assert not difference(contents(tmp_path), undisturbed(job, root)[1])


def test_constant_schedule_may_go_on_for_longer(tmp_path) -> None:
    tiny.fit(out=tmp_path / "a", epochs=2)
    longer = tiny.fit(out=tmp_path / "a", epochs=4, resume=True)
    whole = tiny.fit(out=tmp_path / "b", epochs=4)
    assert not difference(longer.model.state_dict(), whole.model.state_dict())
    assert not difference(contents(tmp_path / "a"), contents(tmp_path / "b"))
    assert json.loads((tmp_path / "a" / "config.json").read_text())["training"]["epochs"] == 4


# what is changed at the second call, and the key that the message names with the run's value
CHANGED = {
    "lr": ({"lr": 0.01}, r"training.lr = 0.001, got 0.01"),
    "batch size": ({"batch_size": 4}, r"training.batch_size = 8, got 4"),
    "seed": ({"seed": 1}, r"training.seed = 0, got 1"),
    "optimizer": ({"optimizer": "sgd"}, r"training.optimizer = 'adam', got 'sgd'"),
    "options": ({"optimizer_options": {"eps": 0.1}}, r"training.optimizer_options = None, got {'eps': 0.1}"),
    "schedule": ({"schedule": "cosine"}, r"training.schedule = 'constant', got 'cosine'"),
    "warm-up": ({"kl_warmup": 3}, r"training.kl_warmup = 0, got 3"),
    "clip": ({"clip": 1.0}, r"training.clip = None, got 1.0"),
    "keep": ({"keep": "last"}, r"training.keep = 'best', got 'last'"),
    "precision": ({"precision": "bfloat16"}, r"training.precision = 'float32', got 'bfloat16'"),
    "fewer epochs": ({"epochs": 1}, r"training.epochs = 2, got 1"),
    "other rows": ({"train": tiny.rows(seed=5)}, r"data.sha256 = '\w{64}', got '\w{64}'"),
    "more rows": ({"train": tiny.rows(49)}, r"data.n = 48, got 49"),
    "binarisation": ({"train": tiny.rows(binarize="static")}, r"data.binarize = 'dynamic', got 'static'"),
    "validation": ({"validation": tiny.rows(9, seed=1)}, r"validation.\w+ = None, got"),
    "objective": ({"goal": tiny.objective("IWAE")}, r"objective.class = 'ELBO', got 'IWAE'|objective.analytic_kl"),
    "particles": ({"goal": tiny.objective(particles=2)}, r"objective.particles = 1, got 2"),
}


@pytest.mark.parametrize("changes, message", CHANGED.values(), ids=CHANGED)
def test_changed_run_is_refused_by_the_name_of_the_key(changes: dict, message: str, tmp_path) -> None:
    tiny.fit(out=tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match=message):
        tiny.fit(**changes, out=tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == before


def test_another_model_is_refused_by_the_name_of_the_key(tmp_path) -> None:
    tiny.fit(out=tmp_path / "run")
    with pytest.raises(RunError, match=r"objective.model = .*another folder"):
        tiny.fit(lb.objectives.ELBO(tiny.vae(latent_dim=3)), out=tmp_path / "run", resume=True)


def test_longer_run_under_a_schedule_is_refused(tmp_path) -> None:
    """A cosine over four epochs is another one from the first step on."""
    tiny.fit(out=tmp_path / "run", schedule="cosine", epochs=2)
    with pytest.raises(RunError, match="training.epochs = 2, got 4"):
        tiny.fit(out=tmp_path / "run", schedule="cosine", epochs=4, resume=True)


def test_functions_as_settings_are_the_same_in_another_process(tmp_path) -> None:
    """A partial and an object with __call__ show their address, which must not look like a changed setting."""

    class Make:
        def __call__(self, parameters):
            return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    one, other = Make(), Make()
    assert repr(one) != repr(other)
    tiny.fit(out=tmp_path / "run", optimizer=one)
    tiny.fit(out=tmp_path / "run", optimizer=other, resume=True)


def test_warm_up_longer_than_the_run_is_refused_before_the_folder_is_taken(tmp_path) -> None:
    with pytest.raises(ArgumentError, match="kl_warmup: expected at most the run's 12 steps, got 13"):
        tiny.fit(out=tmp_path / "run", kl_warmup=13)
    assert not (tmp_path / "run").exists()
