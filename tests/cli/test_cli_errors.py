"""Mistakes at the command line: status 2, one sentence with its cure, no output, nothing half-written."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.cli import main
from lowerbound.recipes import RECIPES, train
from tiny import files

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Good and bad data, a good run, and damaged ones."""
    place = tmp_path_factory.mktemp("mistakes")
    rows = RNG.normal(size=(40, 3))
    np.save(place / "good.npy", rows)
    rows[17, 1] = np.nan
    np.save(place / "nan.npy", rows)
    rows[17, 1] = np.inf
    np.save(place / "inf.npy", rows)
    np.save(place / "flat.npy", np.zeros(40))
    np.save(place / "empty.npy", np.zeros((0, 3)))
    np.save(place / "text.npy", np.array([["a", "b"]]))
    np.save(place / "small.npy", np.zeros((9, 2, 2), dtype=np.uint8))
    (place / "cut.npy").write_bytes((place / "good.npy").read_bytes()[:300])
    np.savez(place / "nodata.npz", rows=rows)
    (place / "ragged.csv").write_text("a,b\n1,2\n3\n")
    (place / "words.csv").write_text("a,b\n1,2\n3,four\n")
    (place / "gap.csv").write_text("a,b\n1,2\n3,\n")
    (place / "notes.txt").write_text("mine")
    (place / "nothing").mkdir()
    (place / "mixed").mkdir()
    (place / "damaged").mkdir()
    for i, size in enumerate([(4, 4), (5, 4)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(place / "mixed" / f"{i}.png")
        (place / "damaged" / f"{i}.png").write_bytes((place / "mixed" / f"{i}.png").read_bytes()[: 45 if i else None])
    recipe = RECIPES["vae"].changed(
        data="four-points", latent_dim=2, model_options={"hidden": [8]}, training={"epochs": 1}, validation=0.0
    )
    train(recipe, out=place / "run", progress=False)
    for name in ("other-run", "no-config", "bad-config", "new-config", "no-model", "bad-model"):
        shutil.copytree(place / "run", place / name)
    (place / "no-config" / "config.json").unlink()
    (place / "bad-config" / "config.json").write_text("{")
    config = json.loads((place / "run" / "config.json").read_text())
    (place / "new-config" / "config.json").write_text(json.dumps({**config, "format": 7}))
    (place / "no-model" / "model.safetensors").unlink()
    (place / "bad-model" / "model.safetensors").write_bytes((place / "run" / "model.safetensors").read_bytes()[:-8])
    mnist = place / "data" / "mnist"
    mnist.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        header = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in (10, 28, 28))
        (mnist / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(10 * 784 - 5))
        labels = (0x801).to_bytes(4, "big") + (10).to_bytes(4, "big") + bytes(10)
        with gzip.open(mnist / f"{prefix}-labels-idx1-ubyte.gz", "wb") as stream:
            stream.write(labels)
    return place


def training(*options: object, recipe: str = "vae", data: str = "four-points") -> list[object]:
    return ["train", recipe, "--data", data, "--out", "OUT", "--epochs", 1, "--quiet", "--hidden", 8, *options]


# what is typed, in a folder that holds what `prepared` made; OUT stands for a new folder or file. What the line says.
MISTAKES: dict[str, tuple[list[object], str]] = {
    "recipe": (training(recipe="vea"), "recipe: expected one of the known names, got 'vea'. Did you mean 'vae'?"),
    "no such data": (
        training(data="digit"),
        "digit: expected a built-in set or a path, got no such file or folder. Did you mean 'digits'",
    ),
    "no such file": (training(data="x/y.npy"), "x/y.npy: expected a built-in set or a path, got no such file"),
    "kind of file": (
        training(data="notes.txt"),
        "notes.txt: expected .npy, .npz, .csv, .parquet or a folder of pictures",
    ),
    "nan": (training(data="nan.npy"), "nan.npy: expected finite values, got nan in row 17. Repair"),
    "infinity": (training(data="inf.npy"), "inf.npy: expected finite values, got inf in row 17. Repair"),
    "one axis": (training(data="flat.npy"), "flat.npy: expected shape [n, ...]"),
    "no rows": (training(data="empty.npy"), "empty.npy: expected"),
    "texts": (training(data="text.npy"), "text.npy: expected real numbers"),
    "cut array": (training(data="cut.npy"), "cut.npy: expected a whole .npy array"),
    "npz without data": (
        training(data="nodata.npz"),
        "nodata.npz: expected an array named 'data', got arrays rows. Save",
    ),
    "ragged csv": (training(data="ragged.csv"), "ragged.csv, line 3: expected 2 cells, got 1 cells. Give every line"),
    "csv with words": (
        training(data="words.csv"),
        "words.csv, line 3, column 'b': expected a finite number, got 'four'",
    ),
    "csv with a gap": (
        training(data="gap.csv"),
        "gap.csv, line 3, column 'b': expected a finite number, got an empty cell",
    ),
    "empty folder": (training(data="nothing"), "nothing: expected a folder of pictures, got no picture"),
    "damaged picture": (training(data="damaged"), "damaged/1.png: expected a picture, got"),
    "image size": (training("--image-size", "0", data="mixed"), "image_size: expected a positive integer, got 0"),
    "image size of a table": (training("--image-size", "8", data="gap.csv"), "image_size: expected None for gap.csv"),
    "truncated mnist": (training(data="mnist"), "train-images-idx3-ubyte"),
    "grey bernoulli": (
        training("--likelihood", "bernoulli", "--binarize", "none", data="digits"),
        "Binarise them (--binarize",
    ),
    "real bernoulli": (
        training("--likelihood", "bernoulli", data="good.npy"),
        "good for likelihood bernoulli: expected only 0 and 1",
    ),
    "real logistic": (training("--likelihood", "logistic", data="good.npy"), "expected 8-bit pixels"),
    "estimator": (
        training("--gradient", "dreg", recipe="sbn", data="digits"),
        "dreg at node 'z1': expected a pathwise draw, got Bernoulli",
    ),
    "real counts": (
        training("--likelihood", "poisson", data="good.npy"),
        "good for likelihood poisson: expected counts, got ",
    ),
    "pixels as counts": (
        training("--likelihood", "zero-inflated-negative-binomial", data="digits"),
        "in row 0. Take --likelihood gaussian; or save counts as int32 or in a table, since uint8 means pixels",
    ),
    "real logistic mixture": (
        training("--likelihood", "logistic-mixture", data="good.npy"),
        "good for likelihood logistic-mixture: expected 8-bit pixels",
    ),
    "components": (
        training("--likelihood", "logistic-mixture", "--components", 0, data="digits"),
        "components: expected a positive integer, got 0",
    ),
    "real binarised": (
        training("--binarize", "static", data="good.npy"),
        "good.npy: expected values in [0, 1] to binarise",
    ),
    "likelihood": (training("--likelihood", "poison"), "got 'poison'. Did you mean 'poisson'?"),
    "binarisation": (
        training("--binarize", "treshold"),
        "binarize: expected one of the known names, got 'treshold'. Did you mean 'threshold'?",
    ),
    "posterior": (training("--posterior", "fall"), "Did you mean 'full'?"),
    "activation": (training("--activation", "rellu"), "Did you mean 'relu'?"),
    "optimizer": (
        training("--optimizer", "adm"),
        "optimizer: expected one of the known names, got 'adm'. Did you mean 'adam'?",
    ),
    "optimizer's option": (
        training("--optimizer-option", "foo=1"),
        "optimizer_options: expected options of Adam, got ['foo']",
    ),
    "optimizer's option's value": (training("--optimizer-option", "eps=-1"), "Invalid epsilon value: -1"),
    "schedule": (training("--schedule", "cosin"), "Did you mean 'cosine'?"),
    "precision": (
        training("--precision", "float16"),
        "precision: expected one of the known names, got 'float16'. Did you mean 'bfloat16'",
    ),
    "epochs": (training("--epochs", 0), "epochs: expected a positive integer, got 0"),
    "batch size": (training("--batch-size", 0), "batch_size: expected a positive integer, got 0"),
    "negative rate": (training("--lr", -1), "lr: expected a finite number above 0"),
    "no rate": (training("--lr", "nan"), "lr: expected a finite number above 0"),
    "latent size": (training("--latent-dim", 0), "latent_dim: expected a positive integer, got 0"),
    "layer of no size": (training("--hidden", "8,0"), "hidden: expected a positive integer, got 0"),
    "scale below zero": (
        training("--likelihood", "gaussian", "--scale", -1),
        "scale: expected a finite number above 0",
    ),
    "infinite scale": (
        training("--likelihood", "gaussian", "--scale", "inf"),
        "scale: expected a finite number above 0",
    ),
    "scale of a bernoulli": (training("--scale", 1), "option of bernoulli"),
    "particles": (training("--particles", 0, recipe="iwae"), "particles: expected a positive integer, got 0"),
    "groups": (training("--groups", 2, recipe="iwae"), "groups: expected a divisor of particles=5, got 2"),
    "order": (training("--alpha", 1, recipe="iwae"), "alpha: expected a number other than 1, got 1.0"),
    "weight of another objective": (training("--beta", 2, recipe="iwae"), "beta: expected an argument of IWAE"),
    "clip": (training("--clip", 0), "clip: expected a finite number above 0"),
    "long warm-up": (training("--kl-warmup", 10**6), "kl_warmup: expected at most the run's"),
    "validation share": (training("--validation", 1.5), "validation: expected a finite number"),
    "patience": (training("--patience", 2, "--validation", 0), "patience: expected validation rows"),
    "hidden sizes for convolutions": (
        training(recipe="conv-vae", data="digits"),
        "hidden: expected an argument of ConvVAE",
    ),
    "convolutions on rows": (
        ["train", "conv-vae", "--data", "four-points", "--out", "OUT"],
        "Take the model VAE, or network='dense', for rows that are no images",
    ),
    "device": (
        training("--device", "cuda:99"),
        "device: expected a device of this machine, got 'cuda:99'. Pass device='cpu'",
    ),
    "device's name": (training("--device", "gpu"), "device: expected a device of this machine, got 'gpu'"),
    "out is a run": (
        ["train", "vae", "--data", "four-points", "--out", "run"],
        "run: expected a new or empty folder, got a run",
    ),
    "out is a folder": (
        ["train", "vae", "--data", "four-points", "--out", "mixed"],
        "mixed: expected a new or empty folder, got other files",
    ),
    "out is a file": (
        ["train", "vae", "--data", "four-points", "--out", "notes.txt"],
        "notes.txt: expected a new or empty folder, got a file",
    ),
    "out below a file": (["train", "vae", "--data", "four-points", "--out", "notes.txt/x"], "notes.txt/x"),
    "resume of another run": (
        ["train", "vae", "--data", "four-points", "--out", "run", "--resume"],
        "expected the run's ",
    ),
    "resume of a damaged run": (
        ["train", "vae", "--data", "four-points", "--out", "bad-config", "--resume"],
        "config.json: expected a JSON document",
    ),
    "no run": (["evaluate", "nowhere"], "nowhere: expected a run folder, got no such folder. Check the path"),
    "a file as run": (["report", "notes.txt"], "notes.txt: expected"),
    "run without config": (["evaluate", "no-config"], "config.json: expected a file of a run folder, got no such file"),
    "run with a damaged config": (
        ["sample", "bad-config", "--out", "OUT.npy"],
        "config.json: expected a JSON document",
    ),
    "run of another version": (
        ["evaluate", "new-config"],
        "config.json: expected a file of run format 1, got 7. Use the version",
    ),
    "run without model": (
        ["sample", "no-model", "--out", "OUT.npy"],
        "model.safetensors: expected a checkpoint, got no such file",
    ),
    "run with a damaged model": (
        ["encode", "bad-model", "four-points", "--out", "OUT.npy"],
        "model.safetensors: expected a checkpoint of lowerbound",
    ),
    "measure": (
        ["evaluate", "run", "--measure", "elbow"],
        "expected one of elbo, elbo-K, iwae-K, is-K, quadrature, avb, ais, bdmc with a number K, got 'elbow'. Write",
    ),
    "measure without K": (["evaluate", "run", "--measure", "iwae"], "got 'iwae'. Write elbo, elbo-16 or iwae-1000"),
    "limit": (["evaluate", "run", "--limit", 0], "limit: expected a positive integer, got 0"),
    "split": (
        ["evaluate", "run", "--split", "tset"],
        "split: expected one of the known names, got 'tset'. Did you mean 'test'?",
    ),
    "split that is not there": (["evaluate", "run", "--split", "validation"], "split: expected a split of the run"),
    "evaluation on another shape": (
        ["evaluate", "run", "--data", "small.npy", "--quiet"],
        "x: expected shape (B, 4), got (9, 2, 2)",
    ),
    "evaluation on a device": (
        ["evaluate", "run", "--device", "gpu"],
        "device: expected a device of this machine, got 'gpu'",
    ),
    "grey rows for a bernoulli run": (
        ["evaluate", "run", "--data", "grey4.npy", "--quiet"],
        "takes only 0 and 1: binarise the data",
    ),
    "encoding another shape": (
        ["encode", "run", "small.npy", "--out", "OUT.npy"],
        "x: expected shape (B, 4), got (9, 2, 2). The first axis",
    ),
    "reconstructing another shape": (["reconstruct", "run", "digits", "--out", "OUT.npy"], "x: expected shape (B, 4)"),
    "encoding no such file": (
        ["encode", "run", "none.npy", "--out", "OUT.npy"],
        "none.npy: expected a built-in set or a path",
    ),
    "comparison with itself": (["compare", "run", "run"], "runs: expected different run folders, got run twice. Name"),
    "comparison of one run": (["compare", "run"], "runs: expected two or more, got only run. Name the runs"),
    "comparison before evaluation": (
        ["compare", "run", "other-run"],
        "run, other-run: expected evaluated runs, got no scores.json. Evaluate first (lowerbound evaluate run;",
    ),
    "comparison with nothing": (["compare", "run", "nowhere"], "nowhere: expected a run folder, got no such folder."),
    "split of other data": (
        ["evaluate", "run", "--data", "digits", "--split", "train"],
        "split: expected none beside other data, got 'train'. Leave one of them out",
    ),
    "no samples": (["sample", "run", "-n", 0, "--out", "OUT.npy"], "n: expected a positive integer, got 0"),
    "ending": (["sample", "run", "--out", "OUT.txt"], "out: expected one of the known names, got '.txt'"),
    "out cannot be written": (
        ["sample", "run", "--out", "notes.txt/x.npy"],
        "notes.txt/x.npy: expected a writable file",
    ),
    "exploring nothing": (["explore", "nowhere", "--port", 0], "nowhere: expected a run folder, got no such folder"),
    "exploring other data": (
        ["explore", "run", "--port", 0, "--data", "good.npy", "--no-browser"],
        "x: expected shape (B, 4), got (40, 3)",
    ),
    "a port that is none": (["explore", "run", "--port", 65536], "port: expected a free port, got 65536"),
    "sampling on a device": (["sample", "run", "--out", "OUT.npy", "--device", "cuda:99"], "device: expected a device"),
}


@pytest.mark.parametrize("typed, says", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_sentence(typed, says: str, prepared, tmp_path, monkeypatch, capsys) -> None:
    if "grey4.npy" in typed:
        np.save(prepared / "grey4.npy", RNG.uniform(size=(9, 4)))
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("LOWERBOUND_DATA", str(prepared / "data"))
    arguments = [str(word).replace("OUT", str(tmp_path / "new")) for word in typed]
    monkeypatch.setattr(sys, "argv", ["lowerbound", *arguments])
    before, state = files(prepared), torch.get_rng_state()
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert err.rstrip()[-1] in ".?)'" or "Known: " in err  # it ends with a sentence, the cure
    assert files(prepared) == before
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)


# what the parser refuses, and a part of its message
PARSER = {
    "command": (["trian"], "No such command 'trian'"),
    "no recipe": (["train", "--out", "OUT"], "Missing argument 'RECIPE'"),
    "no out": (["train", "vae"], "Missing option '--out'"),
    "unknown option": (training("--epoch", 3), "No such option: --epoch"),
    "no number": (training("--epochs", "ten"), "Invalid value for '--epochs'"),
    "no real number": (training("--lr", "fast"), "Invalid value for '--lr'"),
    "sizes": (training("--hidden", "8;9"), "expected sizes like 500,500, got '8;9'"),
    "scale": (training("--scale", "big"), "expected shared, per-dimension or a number, got 'big'"),
    "pairs": (training("--optimizer-option", "alpha"), "expected NAME=VALUE, got 'alpha'"),
    "no run": (["evaluate"], "Missing argument 'RUN'"),
    "no file": (["sample", "run"], "Missing option '--out'"),
    "limit": (["evaluate", "run", "--limit", "all"], "Invalid value for '--limit'"),
    "schema of no table": (["data", "--schema", "s.toml"], "it is about a table; name one."),
    "schema to write of no table": (["data", "--write-schema", "OUT.toml"], "it is about a table; name one."),
}


@pytest.mark.parametrize("typed, says", PARSER.values(), ids=PARSER)
def test_what_cannot_be_parsed_is_told_with_the_usage(typed, says, prepared, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(prepared)
    arguments = [str(word).replace("OUT", str(tmp_path / "new")) for word in typed]
    monkeypatch.setattr(sys, "argv", ["lowerbound", *arguments])
    before = files(prepared)
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert "--help" in err
    assert files(prepared) == before
    assert not list(tmp_path.iterdir())
