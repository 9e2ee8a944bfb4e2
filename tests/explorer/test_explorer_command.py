"""`lowerbound explore`, as it is typed: what it prints, how it ends, and its mistakes."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lowerbound.core.errors import ArgumentError, DataError, RunError
from lowerbound.explorer import explore, serve
from lowerbound.recipes import RECIPES, train

uvicorn = pytest.importorskip("uvicorn", reason="the extra `explorer` is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on a file of 40 images, which lies beside it."""
    place = tmp_path_factory.mktemp("explore")
    np.save(place / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8))
    recipe = RECIPES["vae"].changed(
        data=str(place / "images.npy"), latent_dim=2, model_options={"hidden": [8]}, training={"epochs": 1}
    )
    train(recipe, out=place / "run", progress=False)
    return place


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture
def page(monkeypatch):
    """What would be served and opened, in place of serving and opening it."""
    done = {"served": [], "opened": []}

    def serve_one(self, sockets):
        done["served"].append((self.config, sockets[0].getsockname()))

    monkeypatch.setattr(uvicorn.Server, "run", serve_one)
    monkeypatch.setattr(webbrowser, "open", done["opened"].append)
    return done


def test_the_address_is_of_this_machine_alone(run, page):
    said: list[str] = []
    explore(run, port=0, say=said.append)
    ((config, (host, port)),) = page["served"]
    assert host == "127.0.0.1"
    assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token=[\w-]{{43}}", said[0])
    for _ in range(200):
        if page["opened"]:
            break
        time.sleep(0.01)
    assert page["opened"] == said
    assert not config.access_log
    explore(run, port=0, say=said.append, browser=False)
    assert len(page["opened"]) == 1
    assert said[0].partition("=")[2] != said[1].partition("=")[2]


def test_answers_are_sent_without_delay():
    with serve.listen(0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks at


def test_a_port_that_is_taken(run, page):
    with serve.listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ArgumentError, match=rf"port: expected a free port, got {port} \(Address.*--port 0 for any"):
            explore(run, port=port)
    with pytest.raises(ArgumentError, match="port: expected a free port, got 70000"):
        explore(run, port=70_000)
    assert page["served"] == []


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_extra(run, page, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArgumentError, match=rf"explore: expected {package}, .* pip install 'lowerbound\[explorer\]'"):
        explore(run, port=0)


def test_runs_that_cannot_be_explored(run, page, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"expected a run folder, got no such folder"):
        explore(tmp_path / "nothing", port=0)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace("images.npy", "gone.npy"))
    with pytest.raises(DataError, match=r"data of the run: expected a path .*, got nothing at .*gone.npy\. .*--data"):
        explore(run, port=0)
    np.save(tmp_path / "other.npy", np.zeros((9, 4, 4), dtype=np.uint8))
    explore(run, port=0, source=str(tmp_path / "other.npy"), browser=False)
    assert len(page["served"]) == 1
    (run / "config.json").write_text(config)
    (run / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model.safetensors: expected .*, got no such file"):
        explore(run, port=0)
    foreign = SimpleNamespace(model=torch.nn.Linear(1, 1))
    monkeypatch.setattr("lowerbound.explorer.latents.load", lambda run: foreign)
    with pytest.raises(RunError, match="run: expected a model that encodes and decodes, got Linear"):
        explore(run, port=0)


def test_it_serves_until_it_is_interrupted(run):
    command = [sys.executable, "-m", "lowerbound", "explore", str(run), "--port", "0", "--no-browser", "--limit", "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as program:
        try:
            found = re.search(r"explore: http://127\.0\.0\.1:(\d+)(/\?token=.+)", program.stdout.readline())
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", found[2])
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            program.send_signal(signal.SIGINT)
            _, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (0, "")
