"""Files are whole or absent: what a full disk, an error or a truncation leaves behind, and what comes back."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lowerbound.core.errors import RunError
from lowerbound.core.files import read_json, read_tree, write_bytes, write_json, write_tree, writing


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WRITERS = {
    "bytes": lambda path, x: write_bytes(path, bytes([x] * 5)),
    "json": lambda path, x: write_json(path, {"x": x}),
    "tree": lambda path, x: write_tree(path, {"x": x, "t": torch.full((3,), x)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_writing_replaces_and_makes_folders(tmp_path, kind):
    path = tmp_path / "a" / "b" / "file"
    WRITERS[kind](path, 1)
    first = path.read_bytes()
    WRITERS[kind](str(path), 2)
    assert path.read_bytes() != first
    assert list(content(path.parent)) == ["file"]


# --- Failures in mid-write --------------------------------------------------------------------------------------------


def fail_to_write(monkeypatch):
    def write(self, data):
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)


def fail_to_sync(monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def fail_to_rename(monkeypatch):
    def replace(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("failure", [fail_to_write, fail_to_sync, fail_to_rename])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind, old, failure):
    path = tmp_path / "file"
    if old:
        WRITERS[kind](path, 1)
    before = content(tmp_path)
    with monkeypatch.context() as patch:
        failure(patch)
        with pytest.raises(
            RunError, match=r"file: expected a writable file, got No space left on device\. .*is untouched"
        ):
            WRITERS[kind](path, 2)
    assert content(tmp_path) == before
    WRITERS[kind](path, 3)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_any_error_in_mid_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def broken() -> None:
        with writing(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(error):
        broken()
    assert content(tmp_path) == {"file": b"old"}


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with writing(path) as temporary:
        assert temporary.parent == path.parent  # a rename within one folder is atomic
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "plain").write_text("")
    with pytest.raises(RunError, match=r"plain/file: expected a writable file, got .*choose another folder"):
        write_bytes(tmp_path / "plain" / "file", b"")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match=r"taken: expected a writable file, got Is a directory"):
        write_bytes(tmp_path / "taken", b"")
    assert sorted(content_names(tmp_path)) == ["plain", "taken"]


def content_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "ü": {"b": "c"}}
    write_json(tmp_path / "f", value)
    assert read_json(tmp_path / "f") == value
    text = (tmp_path / "f").read_text()
    assert text.endswith("}\n")
    assert '\n  "a"' in text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(tmp_path, bad):
    write_json(tmp_path / "f", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f", {"loss": bad})
    assert read_json(tmp_path / "f") == 1


@pytest.mark.parametrize("text", [b"", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_damaged_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(RunError, match=r"config\.json: expected a JSON document, got .*damaged or of another program"):
        read_json(tmp_path / "config.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(
        RunError, match=r"config\.json: expected a file of a run folder, got no such file\. Check the path"
    ):
        read_json(tmp_path / "config.json")
    with pytest.raises(RunError, match=r"expected a JSON document, got .*Is a directory"):
        read_json(tmp_path)


# --- Trees ------------------------------------------------------------------------------------------------------------


def bits(tensor: torch.Tensor) -> list[int]:
    flat = tensor.detach().reshape(-1)
    return flat.view(torch.uint8).tolist() if flat.numel() else []


def same(a: object, b: object) -> bool:
    """Whether two trees are equal: types, keys, order and every bit of every tensor."""
    if isinstance(a, torch.Tensor):
        alike = isinstance(b, torch.Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and bits(a) == bits(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [(type(k), k) for k in a] == [(type(k), k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def optimizer_state() -> dict:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99), amsgrad=True)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


TREES = {
    "empty": {},
    "plain": {"int": 3, "float": 0.1, "text": "ü/\n", "none": None, "yes": True, "no": False, "zero": 0, "big": 2**70},
    "odd floats": {"inf": math.inf, "minus": -math.inf, "tiny": 5e-324, "nan": math.nan},
    "keys": {0: "int", "0": "text", True: "bool is the key 1", None: "none", 1.5: "float", "": "empty"},
    "sequences": {"tuple": (1, (2, [3, ()])), "list": [[], {}, (4,)]},
    "words that mark": {"tensor": "t0", "pairs": [["a", 1]], "list": [], "tuple": {"tensor": {"tensor": 1}}},
    "tensors": {
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "ints": torch.arange(5),
        "bools": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.randn(3).bfloat16(),
        "nan": torch.tensor([torch.nan, -0.0, torch.inf]),
        "transposed": torch.randn(3, 4).T,
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "in a list": [torch.ones(1), (torch.zeros(1),)],
        "random state": torch.get_rng_state(),
    },
    "optimizer": optimizer_state(),
}


@pytest.mark.parametrize("name", TREES)
def test_tree_round_trip(tmp_path, name):
    write_tree(tmp_path / "f", TREES[name])
    assert same(TREES[name], read_tree(tmp_path / "f"))


def test_same_tells_trees_apart():
    for a, b in [
        ({"x": 1}, {"x": True}),
        ({0: 1}, {"0": 1}),
        ({"x": (1,)}, {"x": [1]}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ]:
        assert not same(a, b)
    assert not same({"x": torch.ones(2)}, {"x": torch.ones(2).double()})
    assert not same({"x": torch.tensor(0.0)}, {"x": torch.tensor(-0.0)})


def test_optimizer_goes_on_where_it_was(tmp_path):
    def steps(optimizer, net, n):
        for _ in range(n):
            optimizer.zero_grad()
            net(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()

    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    steps(optimizer, net, 3)
    write_tree(tmp_path / "f", {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    steps(optimizer, net, 3)
    saved, other = read_tree(tmp_path / "f"), nn.Linear(3, 2)
    other.load_state_dict(saved["net"])
    resumed = torch.optim.Adam(other.parameters())
    resumed.load_state_dict(saved["optimizer"])
    steps(resumed, other, 3)
    assert other.weight.equal(net.weight)
    assert other.bias.equal(net.bias)


def test_parameters_and_shared_tensors_are_saved_as_values(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    write_tree(tmp_path / "f", {"a": weight, "b": weight, "view": weight[:1]})
    tree = read_tree(tmp_path / "f")
    assert not tree["a"].requires_grad
    tree["a"].zero_()
    assert tree["b"].tolist() == [1.0, 1.0]
    assert tree["view"].tolist() == [1.0]


def test_plain_values_only(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_tree(tmp_path / "f", {"x": object()})
    assert content(tmp_path) == {}


@pytest.mark.parametrize("keep", [0, 4, 20, 0.5, 0.99])
def test_truncated_tree_is_named(tmp_path, keep):
    path = tmp_path / "last.safetensors"
    write_tree(path, {"w": torch.randn(100), "step": 3})
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(
        RunError, match=r"last\.safetensors: expected a checkpoint of lowerbound, got .*damaged or of another"
    ):
        read_tree(path)


FOREIGN = {
    "no tree": None,
    "not json": {"tree": "{"},
    "unknown mark": {"tree": json.dumps({"set": [1]})},
    "not a mark": {"tree": json.dumps({"a": 1, "b": 2})},
    "missing tensor": {"tree": json.dumps({"pairs": [["x", {"tensor": "t9"}]]})},
    "no pairs": {"tree": json.dumps({"pairs": 3})},
    "a number": {"tree": "3"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_tree_is_named(tmp_path, kind):
    path = tmp_path / "f.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata=FOREIGN[kind])
    with pytest.raises(RunError, match=r"f\.safetensors: expected a checkpoint of lowerbound, got "):
        read_tree(path)


def test_missing_tree_is_named(tmp_path):
    with pytest.raises(
        RunError, match=r"f\.safetensors: expected a checkpoint, got no such file\. .*killed before its first"
    ):
        read_tree(tmp_path / "f.safetensors")
    with pytest.raises(RunError, match="expected a checkpoint of lowerbound"):
        read_tree(tmp_path)
