"""Milliseconds a training step beside Pyro, NumPyro, pythae, Keras and hand-written PyTorch and JAX, in the same run.

    python benchmarks/peers.py [--job mlp iwae conv avb ais] [--rounds 5] [--steps 100] [--time-to] [--threads 2]
        [--foreign 0.25] [--environments .peers] [--quick]

Every peer lives in an environment of its own, which is made when it is missing; one that cannot be made is named below
the tables and left out. A round runs every contender once, each as a process of its own, in an order that changes.
Rounds that met other work on the machine are dropped and repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from speed import JOBS as VAE_JOBS
from speed_ais import JOBS as AIS_JOBS
from speed_avb import JOBS as AVB_JOBS

HERE = Path(__file__).parent / "peers"
JOBS: dict[str, Any] = {**VAE_JOBS, **AVB_JOBS, **AIS_JOBS}
TARGETS = {"mlp": -120.0, "iwae": -120.0, "conv": -175.0}  # the mean training bound of the last steps, for --time-to

# name: its packages (none: those of this environment), its program and arguments, and its jobs
CONTENDERS: dict[str, tuple[list[str], list[str], tuple[str, ...]]] = {
    "lowerbound, float32": ([], ["here.py", "fit float32"], ("mlp", "iwae", "conv", "avb", "ais")),
    "lowerbound, float32, compiled": ([], ["here.py", "fit float32 compiled"], ("mlp", "iwae", "conv", "avb")),
    "lowerbound, bfloat16": ([], ["here.py", "fit bfloat16"], ("mlp", "iwae", "conv", "avb")),
    "lowerbound, bfloat16, compiled": ([], ["here.py", "fit bfloat16 compiled"], ("mlp", "iwae", "conv", "avb")),
    "PyTorch, hand-tuned": ([], ["here.py", "resident loop, tuned"], ("mlp", "iwae", "conv", "avb", "ais")),
    "PyTorch, DataLoader": ([], ["here.py", "DataLoader loop"], ("mlp", "iwae", "conv")),
    "products alone": ([], ["here.py", "products alone"], ("mlp", "iwae", "conv", "avb", "ais")),
    "JAX, scan": (["jax==0.12.0.1"], ["jax_plain.py", "--scan"], ("mlp", "iwae", "avb")),
    "JAX, a step at a time": (["jax==0.12.0.1"], ["jax_plain.py"], ("mlp", "iwae", "conv", "avb")),
    "JAX, scan of temperatures": (["jax==0.12.0.1"], ["jax_ais.py"], ("ais",)),
    "NumPyro": (["numpyro==0.22.0", "jax==0.12.0.1"], ["numpyro_vae.py"], ("mlp", "iwae")),
    "Keras": (["keras==3.15.1", "jax==0.12.0.1"], ["keras_vae.py"], ("mlp", "iwae", "conv", "avb")),
    "Pyro": (["torch==2.13.0", "pyro-ppl==1.9.2"], ["pyro_vae.py"], ("mlp", "iwae", "conv")),
    "pythae": (["torch==2.13.0", "pythae==0.1.2"], ["pythae_vae.py"], ("mlp", "iwae", "conv")),
}
_TRIES = 3
_LONGEST = 300.0  # seconds that a contender may take
_OURS = "lowerbound, float32"
_MOST_STEPS = 5000  # for --time-to
_BEFORE = 60  # steps that a contender may take before those that are timed
_STEP_HEADS = (
    *("job", "contender", "ms a step", "fastest", "slowest", "rounds"),
    *("lowerbound / this", "MiB", "first step, s"),
)
_TIME_HEADS = ("job", "contender", "seconds", "fastest", "slowest", "rounds", "steps")


def python(packages: list[str], folder: Path) -> str | None:
    """Return the interpreter of an environment with some packages, made if it is missing; None if it cannot be."""
    if not packages:
        return sys.executable
    place, wanted = folder / "-".join(package.partition("==")[0] for package in packages), " ".join(packages)
    found, ready = place / "bin" / "python", place / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        venv.create(place, with_pip=True, clear=True)
        done = subprocess.run([found, "-m", "pip", "install", "--quiet", *packages], check=False)
        if done.returncode:
            return None
        ready.write_text(wanted)
    return str(found)


def busy() -> float:
    """Return the seconds of processor time that the whole machine has spent."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def run(command: list[str], threads: int, *, until: float = -math.inf) -> tuple[dict[str, Any], float]:
    """Run a contender on as many cores as threads; return what it prints, and the other work that it met, in cores.

    Libraries differ in what they make of a number of threads, and some take all cores whatever they are told.
    """
    count = str(threads)
    told = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "LAUNCHED": str(time.time()), "UNTIL": str(until)}
    allowed = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else []
    pinned = ["taskset", "--cpu-list", ",".join(map(str, allowed))] if allowed else []
    before, own, clock = busy(), os.times(), time.perf_counter()
    try:
        done = subprocess.run(
            [*pinned, *command],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer after {_LONGEST:.0f} s"}, 0.0
    seconds, after = time.perf_counter() - clock, os.times()
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1]}, 0.0
    mine = after.children_user - own.children_user + after.children_system - own.children_system
    return json.loads(done.stdout.splitlines()[-1]), max(0.0, (busy() - before - mine) / seconds)


@dataclass
class Found:
    """What the rounds of a job have brought, by contender."""

    rounds: dict[str, list[dict[str, Any]]]
    failed: dict[str, str] = field(default_factory=dict)
    dropped: int = 0


def measure(job: str, names: list[str], interpreters: dict[str, str | None], options: argparse.Namespace) -> Found:
    """Run all contenders of a job, round by round."""
    found = Found({name: [] for name in names})
    with tempfile.TemporaryDirectory() as folder:
        count = 60_000 if options.time_to else (options.steps + _BEFORE) * JOBS[job].batch_size  # an epoch or more
        np.save(Path(folder) / "rows.npy", JOBS[job].rows(count)[0].numpy())
        for turn in range(options.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                program, *arguments = CONTENDERS[name][1]
                command = [str(interpreters[name]), str(HERE / program), job, f"{folder}/rows.npy", str(options.steps)]
                until = -TARGETS[job] if options.time_to else -math.inf
                for _ in range(1 if options.quick else _TRIES):
                    one, foreign = run([*command, *arguments], options.threads, until=until)
                    if "failed" in one:
                        found.failed[name] = str(one["failed"])
                        break
                    if foreign < options.foreign or options.quick:
                        found.rounds[name].append(one)
                        break
                    found.dropped += 1
    return found


def step_row(name: str, found: Found) -> str:
    """Return the row of a contender: what a step takes."""
    times, ours = ([one["ms"] for one in found.rounds.get(who, [])] for who in (name, _OURS))
    middle, start = statistics.median(times), statistics.median(one["start"] for one in found.rounds[name])
    ratio = f"{statistics.median(ours) / middle:.2f}" if ours else ""
    peak = max(one["peak"] for one in found.rounds[name])
    return f"{middle:.2f} | {min(times):.2f} | {max(times):.2f} | {len(times)} | {ratio} | {peak:.0f} | {start:.1f}"


def time_row(name: str, found: Found) -> str:
    """Return the row of a contender: when it got there."""
    seconds = [one["reached"] or math.inf for one in found.rounds[name]]
    steps = statistics.median(one["steps"] for one in found.rounds[name])
    return f"{statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} | {len(seconds)} | {steps:.0f}"


def main() -> None:
    """Run the jobs and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", nargs="+", choices=sorted(JOBS), default=list(JOBS))
    parser.add_argument("--contender", nargs="+", choices=sorted(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="timed steps of a round")
    parser.add_argument("--time-to", action="store_true", help="the seconds from launch to a training bound instead")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--foreign", type=float, default=0.25, help="cores of other work that a round may meet")
    parser.add_argument("--environments", type=Path, default=Path(".peers"), help="where the peers' environments lie")
    parser.add_argument("--quick", action="store_true", help="the contenders of this environment, one round of 3 steps")
    options = parser.parse_args()
    if options.time_to:
        options.steps = _MOST_STEPS
    if options.quick:
        options.rounds, options.steps = 1, 3
    chosen = [name for name in options.contender if not options.quick or not CONTENDERS[name][0]]
    interpreters = {name: python(CONTENDERS[name][0], options.environments) for name in chosen}
    heads, row = (_TIME_HEADS, time_row) if options.time_to else (_STEP_HEADS, step_row)
    for job in [job for job in options.job if job in TARGETS or not options.time_to]:
        aim = f"to a training bound of {TARGETS[job]:g} nats" if options.time_to else f"{options.steps} steps a round"
        names = [name for name in chosen if job in CONTENDERS[name][2] and interpreters[name]]
        if options.time_to:
            names = [name for name in names if name != "products alone"]
        found = measure(job, names, interpreters, options)
        how = f"{options.threads} threads, {aim}; {found.dropped} rounds dropped"
        print(f"\n{job}: {JOBS[job].summary}; {how}\n")
        print(f"| {' | '.join(heads)} |\n| --- | --- |{' ---: |' * (len(heads) - 2)}")
        for name in names:
            if found.rounds[name]:
                print(f"| {job} | {name} | {row(name, found)} |", flush=True)
        for name in names:
            trained = job != "ais" and name != "products alone"
            if name in found.failed:
                print(f"\n{name} failed: {found.failed[name]}")
            elif not found.rounds[name]:
                print(f"\n{name}: every round met other work")
            elif trained and not options.quick and not all(one["falls"] for one in found.rounds[name]):
                print(f"\n{name}: its loss does not fall")
    for name in chosen:
        if interpreters[name] is None:
            print(f"\n{name}: its packages could not be installed")


if __name__ == "__main__":
    main()
