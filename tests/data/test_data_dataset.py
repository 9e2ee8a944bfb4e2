"""Datasets: binarisation against exact values, then the laws of batches, splits and hashes, then errors."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
import torch

from lowerbound.core.errors import ArgumentError, DataError
from lowerbound.core.random import generator
from lowerbound.core.types import Data, follows
from lowerbound.data import Dataset, dataset
from lowerbound.data.binarize import BINARIZE, bernoulli_, noise
from lowerbound.data.store import Disk

# --- Truth ------------------------------------------------------------------------------------------------------------


def splitmix(state: int):
    """SplitMix64 in Python's integers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def test_noise_is_splitmix64():
    sequence = splitmix(1234567)
    assert [next(sequence) for _ in range(2)] == [6457827717110365317, 3203168211198807973]  # published values
    key, row = 2**62 + 12345, 70000
    inner = splitmix((key + (row - 1) * 0x9E3779B97F4A7C15) % 2**64)  # its next number hashes key + row * gamma
    words = splitmix(next(inner))
    expected = np.array([next(words) for _ in range(3)], dtype=np.uint64).view(np.int16)[:10]
    assert np.array_equal(noise(key, torch.tensor([row]), 10)[0].numpy(), expected)


def test_noise_is_uniform_and_uncorrelated():
    # 2^20 values; with a z limit of 5 and the chi-square limit below, a false alarm comes once in a million seeds, and
    # the seeds are fixed.
    bits = noise(3, torch.arange(1024), 1024)
    other = noise(4, torch.arange(1024), 1024)
    for part in (bits, bits >> 8):
        counts = torch.bincount((part.flatten().int() & 0xFF), minlength=256).double()
        chi_square = float(((counts - 4096) ** 2 / 4096).sum())
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)
    x, y = bits.double(), other.double()
    for a, b in ((x, y), (x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[:, 4:], x[:, :-4]), (x, x.T)):
        size = a.numel() / (2 if a.shape == b.T.shape and a.equal(b.T) else 1)  # a transposed pair is counted twice
        correlation = float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
        assert abs(correlation) * math.sqrt(size) < 5


@pytest.mark.parametrize("p", [0.0, 1 / 65536, 1 / 255, 0.25, 0.5, 0.9, 254 / 255, 1.0])
def test_bernoulli_frequency_is_p(p):
    n = 2**20
    mean = float(bernoulli_(torch.full((1024, 1024), p), key=11, rows=torch.arange(1024)).mean(dtype=torch.float64))
    # Five standard errors, and the documented resolution of 2^-17; 0 and 1 are exact.
    assert abs(mean - p) <= (5 * math.sqrt(p * (1 - p) / n) + 2**-17 if 0 < p < 1 else 0)


def test_eight_bit_levels_are_k_over_255():
    rows = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    assert np.array_equal(
        Dataset(rows).rows(range(16)).numpy(), np.arange(256, dtype=np.float32).reshape(16, 16) / np.float32(255)
    )
    threshold = Dataset(rows, binarize="threshold").rows(range(16)).flatten()
    assert threshold.equal((torch.arange(256) > 127.5).float())


def test_dynamic_epochs_average_to_the_grey_values():
    grey = torch.rand(16, 100, generator=torch.Generator().manual_seed(0))
    data = Dataset(torch.cat([torch.arange(16)[:, None] / 16, grey], 1), binarize="dynamic")
    total, epochs = torch.zeros(101), 400
    for epoch in range(epochs):
        total += next(data.batches(16, seed=5, epoch=epoch)).mean(0)
    expected = data.with_binarize("none").rows(range(16)).mean(0)
    # The mean of 6400 Bernoulli draws: five standard errors of at most 1/2 each.
    assert (total / epochs - expected).abs().max() < 5 * 0.5 / math.sqrt(16 * epochs)


def test_sha256_is_of_the_float32_rows():
    rows = np.random.default_rng(0).integers(0, 256, (50, 3, 5), dtype=np.uint8)
    expected = hashlib.sha256((rows.astype(np.float32) / np.float32(255)).tobytes()).hexdigest()
    assert Dataset(rows).describe()["sha256"] == expected


# --- Laws -------------------------------------------------------------------------------------------------------------

N, SHAPE = 3001, (3, 5)  # odd sizes; 3001 rows reach over several blocks of any power of two


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same grey rows in every kind of store; the first value of a row tells its number up to 255."""
    rows = np.random.default_rng(1).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    path = tmp_path_factory.mktemp("data") / "rows.npy"
    np.save(path, rows)
    return {
        "uint8": lambda **k: Dataset(rows, **k),
        "float32": lambda **k: Dataset(rows.astype(np.float32) / np.float32(255), **k),
        "disk": lambda **k: Dataset(Disk(path), **k),
        "part": lambda **k: Dataset(rows, **k).split_off(0.3)[0],
        "part of disk": lambda **k: Dataset(Disk(path), **k).split_off(0.3)[1],
    }


TABLE = pytest.mark.parametrize(
    "kind, binarize", [(k, b) for k in ("uint8", "float32", "disk", "part", "part of disk") for b in BINARIZE]
)


def everything(data: Dataset) -> torch.Tensor:
    return torch.cat(list(data.evaluation_batches(997)))


@TABLE
def test_epoch_resumes_where_it_stopped(sources, kind, binarize):
    data = sources[kind](binarize=binarize)
    whole = list(data.batches(64, seed=3, epoch=2))
    assert len(whole) == data.batches_per_epoch(64) == len(data) // 64
    assert all(batch.shape == (64, *SHAPE) and batch.dtype == torch.float32 for batch in whole)
    for start in (0, 1, len(whole) - 1, len(whole)):
        rest = list(sources[kind](binarize=binarize).batches(64, seed=3, epoch=2, start=start))
        assert len(rest) == len(whole) - start
        assert all(a.equal(b) for a, b in zip(rest, whole[start:], strict=True))


@TABLE
def test_evaluation_does_not_depend_on_how_it_is_asked(sources, kind, binarize):
    data = sources[kind](binarize=binarize, seed=7)
    rows = everything(data)
    assert rows.shape == (len(data), *SHAPE)
    assert torch.cat(list(data.evaluation_batches(1024))).equal(rows)
    assert torch.cat(list(data.evaluation_batches(100, limit=333))).equal(rows[:333])
    assert data.rows([5, 0, len(data) - 1, 5]).equal(rows[[5, 0, len(data) - 1, 5]])
    values = set(rows.unique().tolist())
    assert values == {0.0, 1.0} if binarize != "none" else len(values) == 256


@TABLE
def test_split_keeps_every_row_and_its_bits(sources, kind, binarize):
    data = sources[kind](binarize=binarize)
    rest, part = data.split_off(0.2, seed=1)
    assert (len(part), len(rest)) == (round(len(data) * 0.2), len(data) - len(part))
    before = {row.tobytes() for row in everything(data).numpy()}
    after = [{row.tobytes() for row in everything(side).numpy()} for side in (rest, part)]
    assert after[0] | after[1] == before
    again = data.split_off(0.2, seed=1)[1]
    assert everything(again).equal(everything(part))
    assert not everything(data.split_off(0.2, seed=2)[1]).equal(everything(part))


@pytest.mark.parametrize("kind", ["uint8", "float32", "disk"])
def test_stores_agree(sources, kind):
    a, b = sources[kind](binarize="dynamic"), sources["uint8"](binarize="dynamic")
    assert everything(a).equal(everything(b))
    assert a.describe()["sha256"] == b.describe()["sha256"]
    pairs = zip(a.batches(50, seed=0, epoch=0), b.batches(50, seed=0, epoch=0), strict=True)
    assert all(x.equal(y) for x, y in pairs)


@TABLE
def test_an_epoch_holds_each_row_once(sources, kind, binarize):
    data = sources[kind](binarize=binarize)
    rows = {row.tobytes() for row in everything(data.with_binarize("none")).numpy()}
    assert len(rows) == len(data)  # all rows differ
    epoch = torch.cat(list(data.with_binarize("none").batches(1, seed=0, epoch=0)))
    assert {row.tobytes() for row in epoch.numpy()} == rows
    if binarize in ("static", "threshold"):  # training sees the bits of evaluation
        drawn = {row.tobytes() for row in torch.cat(list(data.batches(1, seed=0, epoch=0))).numpy()}
        assert drawn == {row.tobytes() for row in everything(data).numpy()}


def test_what_changes_between_epochs_and_seeds(sources):
    def epoch(binarize, seed, number):
        return next(sources["uint8"](binarize=binarize).batches(N, seed=seed, epoch=number)).flatten(1)

    for binarize in BINARIZE:
        first = epoch(binarize, 0, 0)
        assert not first.equal(epoch(binarize, 0, 1))
        assert not first.equal(epoch(binarize, 1, 0))
        same_rows = set(map(bytes, first.numpy())) == set(map(bytes, epoch(binarize, 1, 1).numpy()))
        assert same_rows == (binarize != "dynamic")


def test_seed_and_split_change_the_bits_drawn_once(sources):
    base = everything(sources["uint8"](binarize="static", seed=0))
    assert base.equal(everything(sources["uint8"](binarize="dynamic", seed=0)))
    assert not base.equal(everything(sources["uint8"](binarize="static", seed=1)))
    assert not base.equal(everything(sources["uint8"](binarize="static", split="test")))


def test_every_epoch_drops_other_rows():
    data = Dataset(torch.arange(10.0)[:, None])
    dropped = set()
    for epoch in range(40):
        seen = torch.cat(list(data.batches(3, seed=0, epoch=epoch))).flatten().tolist()
        assert len(set(seen)) == 9
        dropped |= set(range(10)) - set(map(int, seen))
    assert dropped == set(range(10))  # a row survives 40 epochs with probability 0.9^40 = 1.5 %; the seed is fixed


def test_a_small_set_is_one_batch():
    data = Dataset(torch.arange(5.0)[:, None])
    (batch,) = data.batches(128, seed=0, epoch=0)
    assert sorted(batch.flatten().tolist()) == [0, 1, 2, 3, 4]
    assert data.batches_per_epoch(128) == 1


def test_batches_leave_the_global_generator_and_the_data_alone():
    rows = torch.rand(64, 8)
    data, before = Dataset(rows, binarize="none"), rows.clone()
    state = torch.get_rng_state()
    for batch in [*data.batches(8, seed=0, epoch=0), *data.evaluation_batches(16), data.rows([0, 1])]:
        batch.zero_()
    assert torch.get_rng_state().equal(state)
    assert rows.equal(before)
    assert data.with_binarize("static").rows([0]).shape == (1, 8)
    assert rows.equal(before)


# --- Behaviour --------------------------------------------------------------------------------------------------------


def test_dataset_satisfies_the_protocol(sources):
    assert follows(sources["uint8"](), Data)


def test_labels_follow_their_rows():
    data = Dataset(torch.arange(20.0)[:, None], labels=torch.arange(20), label_names=tuple("abcdefghijklmnopqrst"))
    for side in data.split_off(0.25, name="test"):
        assert side.labels.equal(side.rows(range(len(side))).flatten().long())
        assert side.label_names == data.label_names
    train, test = data.split_off(0.25, name="test")
    assert (train.split, test.split) == ("train", "test")
    inner, validation = train.split_off(0.2, seed=4)
    assert (inner.split, validation.split) == ("train", "validation")
    assert validation.labels.equal(validation.rows(range(3)).flatten().long())


def test_describe_is_json_and_tells_how_the_part_came():
    data = Dataset(torch.rand(20, 2), name="noise", source="noise.npy", binarize="static", seed=9)
    train, _ = data.split_off(0.25, seed=3, name="test")
    text = train.split_off(0.2, seed=4)[1].describe()
    assert json.loads(json.dumps(text)) == text
    assert {k: v for k, v in text.items() if k != "sha256"} == {
        "name": "noise",
        "source": "noise.npy",
        "split": "validation",
        "n": 3,
        "event_shape": [2],
        "binarize": "static",
        "binarize_seed": 9,
        "levels": None,
        "range": [0.0, 1.0],
        "test_fraction": 0.25,
        "split_seed": 3,
        "validation_fraction": 0.2,
        "validation_split_seed": 4,
    }
    assert len(text["sha256"]) == 64


@pytest.mark.parametrize(
    "rows, levels, binary, span",
    [
        (torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8), 256, True, (0, 1)),
        (torch.tensor([[0, 51], [255, 0]], dtype=torch.uint8), 256, False, (0, 1)),
        (torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8), 2, True, (0, 1)),
        (torch.tensor([[False, True]]), 2, True, (0, 1)),
        (torch.tensor([[0.0, 1.0]]), None, True, (0, 1)),
        (torch.tensor([[0.25, 1.0]]), None, False, (0.25, 1)),
        (torch.tensor([[-3, 7]]), None, False, (-3, 7)),
        (np.array([[1.5, 2.5]], dtype=">f8"), None, False, (1.5, 2.5)),
    ],
)
def test_levels_binary_and_range(rows, levels, binary, span):
    data = Dataset(rows)
    assert (data.levels, data.binary, data.range) == (levels, binary, span)
    assert data.rows([0]).dtype == torch.float32


def test_extent_belongs_to_the_part():
    train, test = Dataset(torch.arange(10.0)[:, None]).split_off(0.3)
    for side in (train, test):
        values = side.rows(range(len(side)))
        assert side.range == (float(values.min()), float(values.max()))
    assert {train.range, test.range} != {(0.0, 9.0)}


@pytest.mark.gpu
@pytest.mark.parametrize("binarize", BINARIZE)
def test_an_accelerator_gets_the_same_rows(sources, binarize):
    data = sources["uint8"](binarize=binarize).split_off(0.3)[0]
    moved = data.to("cuda")
    assert next(moved.evaluation_batches(8)).is_cuda
    assert everything(moved).cpu().equal(everything(data))
    pairs = zip(moved.batches(64, seed=0, epoch=1), data.batches(64, seed=0, epoch=1), strict=True)
    assert all(a.cpu().equal(b) for a, b in pairs)


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, error, match",
    [
        (lambda: Dataset(torch.zeros(0, 3)), DataError, r"n >= 1, got \[0, 3\]"),
        (lambda: Dataset(torch.zeros(3, 0)), DataError, r"at least one value"),
        (lambda: Dataset(torch.zeros(3)), DataError, r"reshape\(-1, 1\)"),
        (lambda: Dataset(torch.zeros(3, 1, dtype=torch.complex64)), DataError, "real numbers, got torch.complex64"),
        (lambda: Dataset(np.array([["a"]])), DataError, "real numbers, got dtype <U1"),
        (lambda: Dataset(np.array([[None]])), DataError, "real numbers, got objects"),
        (lambda: Dataset(torch.tensor([[0.0], [math.nan]])), DataError, "finite values, got nan in row 1.*leave out"),
        (lambda: Dataset(np.array([[0.0], [1], [1e300]])), DataError, "finite values, got inf in row 2"),
        (lambda: Dataset(torch.zeros(3, 1), labels=torch.zeros(2)), DataError, r"shape \[3\], got shape \[2\]"),
        (lambda: Dataset(torch.zeros(3, 1), binarize="dynamc"), ArgumentError, "Did you mean 'dynamic'"),
        (
            lambda: Dataset(torch.tensor([[0.0], [255.0]]), binarize="threshold"),
            DataError,
            r"values in \[0, 1\] to binarise by 'threshold', got 255 in row 1. Scale them",
        ),
        (
            lambda: Dataset(torch.tensor([[3, 200]], dtype=torch.uint8), levels=17),
            DataError,
            "from 0 to 16, got 200 in row 0",
        ),
        (lambda: Dataset(torch.tensor([[-0.5]])).with_binarize("dynamic"), DataError, r"got -0.5 in row 0. Scale"),
        (lambda: Dataset(torch.zeros(9, 1)).with_binarize("grey"), ArgumentError, "binarize: expected one of"),
        (lambda: Dataset(torch.zeros(9, 1)).split_off(0.0), ArgumentError, "validation fraction: .*got 0.0"),
        (lambda: Dataset(torch.zeros(9, 1)).split_off(1.0), ArgumentError, "above 0 and below 1"),
        (lambda: Dataset(torch.zeros(9, 1)).split_off(math.nan), ArgumentError, "above 0 and below 1"),
        (lambda: Dataset(torch.zeros(1, 1)).split_off(0.5), DataError, "two rows or more to split, got 1"),
        (lambda: Dataset(torch.zeros(9, 1)).rows([9]), ArgumentError, "expected 0 to 8, got 9 to 9"),
        (lambda: Dataset(torch.zeros(9, 1)).rows([-1]), ArgumentError, "expected 0 to 8, got -1"),
        (lambda: Dataset(torch.zeros(9, 1)).batches(0, seed=0, epoch=0), ArgumentError, "batch_size=1 or more"),
        (lambda: Dataset(torch.zeros(9, 1)).batches(2, seed=0, epoch=-1), ArgumentError, "epoch: expected 0 or more"),
        (lambda: Dataset(torch.zeros(9, 1)).batches(2, seed=0, epoch=0, start=-1), ArgumentError, "start: expected 0"),
        (lambda: Dataset(torch.zeros(9, 1)).evaluation_batches(2, limit=0), ArgumentError, "limit=1 or more"),
    ],
)
def test_errors_name_the_cure(build, error, match):
    with pytest.raises(error, match=match):
        build()


@pytest.mark.parametrize("chosen", [[0, 1, 2, 7, 8, 3, 3, 2, 9], [5], [], range(10)])
def test_rows_of_a_file_in_any_order(tmp_path, chosen):
    """Neighbours are read at once."""
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    np.save(tmp_path / "rows.npy", rows)
    taken = Disk(tmp_path / "rows.npy").take(torch.tensor(list(chosen), dtype=torch.int64))
    np.testing.assert_array_equal(taken.numpy(), rows[list(chosen)])


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((100, 50), dtype=np.uint8))
    data = Dataset(Disk(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"it was written since\. Leave the file in place"):
        data.rows([99])
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        data.rows([0])


@pytest.mark.parametrize("n", [1, 7, 100_000])
def test_small_numbers_of_rows_are_shuffled_as_large_ones_are(n):
    """Row numbers take four bytes where they can: the order is that of torch's own eight."""
    order = dataset._shuffled(n, generator(3, "shuffle", 0))
    assert order.dtype == torch.int32
    assert order.equal(torch.randperm(n, generator=generator(3, "shuffle", 0)).int())
