"""Random streams: fixed by their names, apart from each other, and without a trace in the global generators."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lowerbound.core.random import generator, reseed, seeded, stream_seed

NAMES = [("noise", 0), ("noise", 1), ("noise", 2**31), ("shuffle", 0), ("shuffle", 1), ("split", "digits"), ("fit",)]
SEEDS = [0, 1, 2, 10**9]


def draw(seed, *name, n=20_000):
    return torch.randn(n, generator=generator(seed, *name), dtype=torch.float64)


def test_a_stream_is_a_function_of_its_name():
    for seed, name in itertools.product(SEEDS, NAMES):
        assert draw(seed, *name, n=5).equal(draw(seed, *name, n=5))
        assert stream_seed(seed, *name) == stream_seed(seed, *name)


def test_seeds_do_not_change_between_versions():
    """A resumed run asks for the streams that it had; these numbers may never change."""
    assert stream_seed(0, "noise", 7) == 1_032_434_231_706_408_998
    assert stream_seed(1, "fit") == 3_816_136_627_305_382_062


def test_streams_are_apart():
    streams = {(seed, name): draw(seed, *name) for seed, name in itertools.product(SEEDS, NAMES)}
    pairs = list(itertools.combinations(streams.values(), 2))
    # A correlation of n independent pairs is normal with deviation 1 / sqrt(n): 378 of them beyond 6.5 deviations are
    # a false alarm in 3e7 runs, and none here, as the seeds are fixed.
    farthest = max(abs(float((a * b).mean())) for a, b in pairs)
    assert farthest < 6.5 / math.sqrt(20_000)
    assert len({tuple(stream[:3].tolist()) for stream in streams.values()}) == len(streams)


def test_counters_never_collide_in_32_bits():
    counters = [*range(3000), 10**6, 2**31, 2**32 - 1]
    for seed, word in itertools.product(SEEDS, ("noise", "shuffle", "binarize")):
        seeds = {stream_seed(seed, word, counter) % 2**32 for counter in counters}
        assert len(seeds) == len(counters)


def test_seeds_fit_into_a_generator():
    for seed, counter in itertools.product((0, -1, 2**63), (0, 2**62, 2**63 - 1)):
        assert 0 <= stream_seed(seed, "noise", counter) < 2**63
        generator(seed, "noise", counter)


def test_a_name_has_a_word_before_its_counter_and_words_are_counted_from_zero():
    assert stream_seed(0, "noise") == stream_seed(0, "noise", 0)
    assert stream_seed(0, "noise", "1") != stream_seed(0, "noise", 1)
    assert stream_seed(0, "noise", 3, "row", 1) != stream_seed(0, "noise", 1, "row", 3)


def test_reseed_points_the_global_generator_at_a_stream():
    reseed(3, "noise", 5)
    first = torch.randn(4)
    assert first.equal(torch.randn(4, generator=generator(3, "noise", 5)))
    torch.randn(100)
    reseed(3, "noise", 5)
    assert torch.randn(4).equal(first)
    reseed(3, "noise", 6)
    assert not torch.randn(4).equal(first)


def test_seeded_gives_the_callers_generators_back():
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 (the global generator is what is watched)
    wanted = torch.randn(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    with seeded(0, "block"):
        inside = torch.randn(3)
        with seeded(0, "block"):
            assert torch.randn(3).equal(inside)
        following = torch.randn(3)
    assert torch.randn(3).equal(wanted[0])
    assert (np.random.rand(3) == wanted[1]).all()  # noqa: NPY002
    with seeded(0, "block"):
        assert torch.randn(3).equal(inside)
        assert torch.randn(3).equal(following)  # the inner block took nothing from the outer one


def test_seeded_restores_after_an_error():
    torch.manual_seed(11)
    wanted = torch.randn(3)
    torch.manual_seed(11)

    def stop() -> None:
        with seeded(0, "block"):
            torch.randn(5)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert torch.randn(3).equal(wanted)
