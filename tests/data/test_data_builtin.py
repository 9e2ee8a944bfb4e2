"""The built-in sets: their published facts, where MNIST's files come from, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import math
import os
import struct
import threading
from pathlib import Path

import pytest
import torch

from lowerbound.core.errors import ArgumentError, DataError
from lowerbound.data import digits, fetch, four_points, load, mnist
from lowerbound.data.idx import read_idx

# --- Digits and the four points ---------------------------------------------------------------------------------------


def test_digits_hold_all_of_scikit_learns_rows():
    from sklearn.datasets import load_digits

    train, test = digits(binarize="none", test_fraction=0.3, seed=5)
    x = torch.cat([train.rows(range(len(train))), test.rows(range(len(test)))])
    y = torch.cat([train.labels, test.labels])
    bunch = load_digits()
    ours = sorted((*row, label) for row, label in zip((x * 16).flatten(1).tolist(), y.tolist(), strict=True))
    theirs = sorted((*row, label) for row, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True))
    assert ours == theirs
    assert (len(test), train.event_shape, train.levels) == (round(0.3 * 1797), (8, 8), 17)
    assert not train.binary


def test_digits_depend_on_the_seed():
    assert digits(seed=0)[1].describe() == digits(seed=0)[1].describe()
    assert not digits(seed=0)[1].labels.equal(digits(seed=1)[1].labels)


def test_four_points_are_the_unit_vectors():
    for split in four_points(rows=8):
        assert split.rows(range(8)).equal(torch.eye(4).repeat(2, 1))
        assert split.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
        assert (split.event_shape, split.binarize, split.binary) == ((4,), "none", True)
    x = torch.cat(list(four_points()[0].batches(128, seed=0, epoch=0)))
    p = x.mean(0)
    assert float(-(p * p.log()).sum()) == pytest.approx(math.log(4))


@pytest.mark.parametrize("rows", [0, 6, 2.0])
def test_four_points_want_a_multiple_of_four(rows):
    with pytest.raises(ArgumentError, match="rows: expected a positive multiple of 4"):
        four_points(rows=rows)


# --- MNIST ------------------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("LOWERBOUND_DATA", "nowhere")) / "mnist"


@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST's files are not in $LOWERBOUND_DATA/mnist")
def test_mnist_has_its_published_facts():
    train, test = mnist(binarize="threshold")
    assert (len(train), len(test), train.event_shape, train.levels) == (60000, 10000, (28, 28), 256)
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    grey = test.with_binarize("none")
    assert grey.rows(range(10000)).mean().item() == pytest.approx(0.1325, abs=5e-5)  # the figure often quoted
    pixels = read_idx(fetch.mnist_file("t10k-images-idx3-ubyte"), axes=3)
    for rows, expected in (
        (next(test.evaluation_batches(10000)), (pixels > 127.5).float()),
        (next(grey.evaluation_batches(10000)), pixels.float() / 255),
    ):
        assert rows.equal(expected)


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape) + values


def small_mnist() -> dict[str, bytes]:
    """MNIST's four files with five pictures to train on and three to test on."""
    return {
        f"{prefix}-{name}": content
        for prefix, n in (("train", 5), ("t10k", 3))
        for name, content in (
            ("images-idx3-ubyte", idx((n, 28, 28), bytes(i % 251 for i in range(n * 784)))),
            ("labels-idx1-ubyte", idx((n,), bytes(range(n)))),
        )
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty `$LOWERBOUND_DATA/mnist`, an empty cache and no network."""
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "MIRRORS", ())
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    return tmp_path / "data" / "mnist"


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["data/mnist", "cache/lowerbound/mnist"])
def test_mnist_is_found_raw_or_zipped_in_either_place(folder, tmp_path, place, zipped):
    files = small_mnist()
    write(tmp_path / place, {f"{k}.gz": gzip.compress(v) for k, v in files.items()} if zipped else files)
    train, test = mnist(binarize="none")
    assert (len(train), len(test)) == (5, 3)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    expected = torch.tensor([i % 251 for i in range(5 * 784)]).reshape(5, 28, 28) / 255
    assert train.rows(range(5)).equal(expected)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
GOOD = small_mnist()


@pytest.mark.parametrize(
    "name, content, match",
    [
        (IMAGES, GOOD[IMAGES][:-1], r"images-idx3-ubyte: .* with 3936 bytes .* got 3935 bytes \(truncated\).*fetch"),
        (IMAGES, GOOD[IMAGES] + b"x", r"got 3937 bytes \(too long\)"),
        (IMAGES, GOOD[IMAGES][:10], r"\(truncated\)"),
        (IMAGES, b"", "got an empty file"),
        (IMAGES, GOOD[LABELS], r"3 axes|images .*got magic number 2049, which means labels"),
        (LABELS, GOOD[IMAGES], r"labels .*got magic number 2051, which means images"),
        (IMAGES, b"\x00\x00\x0d\x03" + GOOD[IMAGES][4:], r"\(magic number 2051\), got magic number 3331"),
        (IMAGES, idx((5, 14, 56), bytes(5 * 784)), r"28 x 28 pixels, got \[14, 56\]"),
        (IMAGES, idx((0, 28, 28), b""), "at least one row"),
        (LABELS, idx((4,), bytes(4)), "5 labels, one for each image, got 4 labels"),
        (LABELS, idx((5,), bytes([0, 1, 10, 2, 3])), "labels 0 to 9, got 10"),
        (f"{IMAGES}.gz", gzip.compress(GOOD[IMAGES])[:-20], "truncated or damaged: delete it and fetch it again"),
        (f"{IMAGES}.gz", GOOD[IMAGES], "a whole file, got Not a gzipped file"),
        (f"{IMAGES}.gz", gzip.compress(GOOD[IMAGES])[:10] + b"\xff" * 99, "a whole file, got Error -3"),
        (f"{IMAGES}.gz", b"", "an empty file"),
    ],
)
def test_a_bad_file_is_named(folder, name, content, match):
    write(folder, {key: value for key, value in GOOD.items() if key != name.removesuffix(".gz")})
    write(folder, {name: content})
    with pytest.raises(DataError, match=match):
        mnist()


# --- Download ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(folder, monkeypatch):
    """A server on this machine: `server[path] = content` decides what it sends; `server["log"]` is what was asked."""
    content: dict[str, bytes | list[str]] = {"log": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content["log"].append(self.path)
            body = content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "MIRRORS", (f"{address}/first/", f"{address}/second/"))
    zipped = {f"{name}.gz": gzip.compress(file, mtime=0) for name, file in GOOD.items()}
    sums = {name: hashlib.sha256(zipped[f"{name}.gz"]).hexdigest() for name in GOOD}
    monkeypatch.setattr(fetch, "CHECKSUMS", sums)
    for mirror in ("first", "second"):
        content.update({f"/{mirror}/{name}": file for name, file in zipped.items()})
    yield content
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_missing_files_are_downloaded_once_into_the_cache(server, tmp_path):
    train, test = load("mnist")
    assert (len(train), len(test), train.binarize) == (5, 3, "dynamic")
    assert len(server["log"]) == 4
    assert all(path.startswith("/first/") for path in server["log"])
    assert sorted(path.name for path in (tmp_path / "cache/lowerbound/mnist").iterdir()) == sorted(
        f"{name}.gz" for name in GOOD
    )
    mnist()
    assert len(server["log"]) == 4


@pytest.mark.parametrize("harm", ["missing", "wrong", "cut"])
def test_a_bad_mirror_is_passed_over(server, harm):
    path = f"/first/{IMAGES}.gz"
    server[path] = {"missing": None, "wrong": b"something else", "cut": server[path][:-9]}[harm]
    assert len(mnist()[0]) == 5
    assert f"/second/{IMAGES}.gz" in server["log"]


def test_no_good_mirror_is_an_error_that_leaves_nothing(server, tmp_path):
    server[f"/first/{IMAGES}.gz"] = None
    server[f"/second/{IMAGES}.gz"] = b"something else"
    match = r"MNIST's train-images.*404.*another checksum. Check the network, or put the file into .*LOWERBOUND_DATA"
    with pytest.raises(DataError, match=match):
        mnist()
    assert not (tmp_path / "cache/lowerbound/mnist").exists()


def test_checksums_and_mirrors_are_the_published_ones():
    assert fetch.MIRRORS[0].startswith("https://")
    assert all(len(value) == 64 for value in fetch.CHECKSUMS.values())
    if not REAL.is_dir():
        pytest.skip("MNIST's files are not in $LOWERBOUND_DATA/mnist")
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        if (path := REAL / f"{name}.gz").is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == fetch.CHECKSUMS[name]
