"""Arrays in the cache directory: written once, never taken from a reader, and nothing is left of what nobody needs."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lowerbound.data import cached
from lowerbound.data.cached import find, keep, place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def write(state: int):
    """Keep four rows that tell the state of their source."""
    return keep(place("tests", "rows", state), (4, 2), "<f4", [np.full((4, 2), state, np.float32)], {"state": state})


def test_those_who_come_at_once_get_one_array():
    asked = []

    def blocks():
        asked.append(1)
        for value in range(4):
            time.sleep(0.02)
            yield np.full((1, 2), value, np.float32)

    def ask(_):
        return keep(place("tests", "rows", 0), (4, 2), "<f4", blocks(), {})[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(asked) == 1
    for rows in found:
        assert rows.span(0, 4)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_array_of_another_state_stays_for_as_long_as_it_is_read():
    old, facts = write(1)
    write(2)
    assert facts == {"state": 1}
    assert torch.equal(old.take(torch.tensor([3, 0])), torch.ones(2, 2))
    del old
    gc.collect()
    write(3)
    assert [find(place("tests", "rows", state)) is None for state in (1, 2, 3)] == [True, True, False]


def test_nothing_is_left_of_writers_that_were_killed():
    folder = place("tests", "rows", 1).parent
    folder.mkdir(parents=True)
    for name in (".a.npy.x1.part", "b.npy", ".a.json.x2.part"):
        (folder / name).write_bytes(b"half")
    write(1)
    kept = place("tests", "rows", 1)
    assert {file for file in folder.iterdir() if file.name != ".lock"} == {kept, kept.with_suffix(".json")}


def test_half_an_array_is_written_anew():
    path = place("tests", "rows", 1)
    write(1)
    path.write_bytes(path.read_bytes()[:-8])
    assert find(path) is None
    assert write(1)[0].span(0, 4).shape == (4, 2)


def test_memory_is_that_of_the_container_shared_among_its_processes(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("max")
    monkeypatch.setattr(cached, "_LIMITS", (str(limit), str(tmp_path / "nowhere")))
    whole = cached._memory()
    limit.write_text("4000")
    assert cached._memory() == 4000 < whole
    assert (cached.large((10, 100), 1), cached.large((11, 100), 1)) == (False, True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cached._memory() == 1000
