"""Milliseconds a training step beside Pyro, NumPyro, pythae and hand-written PyTorch and JAX, in the same run.

    python benchmarks/peers.py [--job mlp iwae avb] [--rounds 5] [--steps 100] [--threads 2] [--foreign 0.25]
        [--environments .peers] [--quick]

Every peer lives in an environment of its own, which is made when it is missing; one that cannot be made is named below
the tables and left out. A round runs every contender once, each as a process of its own, in an order that changes.
Rounds that met other work on the machine are dropped and repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
from speed import JOBS as VAE_JOBS
from speed_avb import JOBS as AVB_JOBS

HERE = Path(__file__).parent / "peers"
JOBS: dict[str, Any] = {"mlp": VAE_JOBS["mlp"], "iwae": VAE_JOBS["iwae"], "avb": AVB_JOBS["avb"]}

# name: its packages (none: those of this environment), its program and arguments, and its jobs
CONTENDERS: dict[str, tuple[list[str], list[str], tuple[str, ...]]] = {
    "lowerbound, float32": ([], ["here.py", "fit float32"], ("mlp", "iwae", "avb")),
    "lowerbound, bfloat16": ([], ["here.py", "fit bfloat16"], ("mlp", "iwae", "avb")),
    "PyTorch, hand-tuned": ([], ["here.py", "resident loop, tuned"], ("mlp", "iwae", "avb")),
    "PyTorch, DataLoader": ([], ["here.py", "DataLoader loop"], ("mlp", "iwae")),
    "products alone": ([], ["here.py", "products alone"], ("mlp", "iwae", "avb")),
    "JAX, scan": (["jax==0.12.0.1"], ["jax_plain.py", "--scan"], ("mlp", "iwae", "avb")),
    "JAX, a step at a time": (["jax==0.12.0.1"], ["jax_plain.py"], ("mlp", "iwae", "avb")),
    "NumPyro": (["numpyro==0.22.0", "jax==0.12.0.1"], ["numpyro_vae.py"], ("mlp", "iwae")),
    "Pyro": (["torch==2.13.0", "pyro-ppl==1.9.2"], ["pyro_vae.py"], ("mlp", "iwae")),
    "pythae": (["torch==2.13.0", "pythae==0.1.2"], ["pythae_vae.py"], ("mlp", "iwae")),
}
_TRIES = 3
_LONGEST = 300.0  # seconds that a contender may take
_OURS = "lowerbound, float32"
_HEADS = ("job", "contender", "ms a step", "fastest", "slowest", "rounds", "lowerbound / this", "MiB", "first step, s")


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


def run(command: list[str], threads: int) -> tuple[dict[str, Any], float]:
    """Run a contender on as many cores as threads; return what it prints, and the other work that it met, in cores.

    Libraries differ in what they make of a number of threads, and some take all cores whatever they are told.
    """
    count = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "LAUNCHED": str(time.time())}
    allowed = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else []
    pinned = ["taskset", "--cpu-list", ",".join(map(str, allowed))] if allowed else []
    before, own, clock = busy(), os.times(), time.perf_counter()
    try:
        done = subprocess.run(
            [*pinned, *command], env=environment, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer after {_LONGEST:.0f} s"}, 0.0
    seconds, after = time.perf_counter() - clock, os.times()
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1]}, 0.0
    mine = after.children_user - own.children_user + after.children_system - own.children_system
    return json.loads(done.stdout.splitlines()[-1]), max(0.0, (busy() - before - mine) / seconds)


def main() -> None:
    """Run the jobs and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", nargs="+", choices=sorted(JOBS), default=list(JOBS))
    parser.add_argument("--contender", nargs="+", choices=sorted(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="timed steps of a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--foreign", type=float, default=0.25, help="cores of other work that a round may meet")
    parser.add_argument("--environments", type=Path, default=Path(".peers"), help="where the peers' environments lie")
    parser.add_argument("--quick", action="store_true", help="the contenders of this environment, one round of 3 steps")
    options = parser.parse_args()
    rounds, steps = (1, 3) if options.quick else (options.rounds, options.steps)
    chosen = [name for name in options.contender if not options.quick or not CONTENDERS[name][0]]
    interpreters = {name: python(CONTENDERS[name][0], options.environments) for name in chosen}
    for job in options.job:
        names = [name for name in chosen if job in CONTENDERS[name][2] and interpreters[name]]
        with tempfile.TemporaryDirectory() as folder:
            rows = JOBS[job].data(6000 if job != "avb" else 512)[1].numpy()
            np.save(Path(folder) / "rows.npy", rows)
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            failed: dict[str, str] = {}
            dropped = 0
            for turn in range(rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    program, *arguments = CONTENDERS[name][1]
                    command = [str(interpreters[name]), str(HERE / program), job, f"{folder}/rows.npy", str(steps)]
                    for _ in range(1 if options.quick else _TRIES):
                        one, foreign = run([*command, *arguments], options.threads)
                        if "failed" in one:
                            failed[name] = str(one["failed"])
                            break
                        if foreign < options.foreign or options.quick:
                            found[name].append(one)
                            break
                        dropped += 1
        how = f"{options.threads} threads, {steps} steps a round; {dropped} rounds dropped"
        print(f"\n{job}: {JOBS[job].summary}; {how}\n\n| {' | '.join(_HEADS)} |\n| --- | --- |{' ---: |' * 7}")
        ours = [one["ms"] for one in found.get(_OURS, [])]
        for name in names:
            times = [one["ms"] for one in found[name]]
            if not times:
                continue
            middle, start = statistics.median(times), statistics.median(one["start"] for one in found[name])
            ratio = f"{statistics.median(ours) / middle:.2f}" if ours else ""
            peak = max(one["peak"] for one in found[name])
            spread = f"{min(times):.2f} | {max(times):.2f} | {len(times)}"
            print(f"| {job} | {name} | {middle:.2f} | {spread} | {ratio} | {peak:.0f} | {start:.1f} |", flush=True)
        for name in names:
            if name in failed:
                print(f"\n{name} failed: {failed[name]}")
            elif not found[name]:
                print(f"\n{name}: every round met other work")
            elif not all(one["falls"] for one in found[name]) and not options.quick:
                print(f"\n{name}: its loss does not fall")
    for name in chosen:
        if interpreters[name] is None:
            print(f"\n{name}: its packages could not be installed")


if __name__ == "__main__":
    main()
