"""A run on a folder of pictures: its size and colours hold for whatever it is shown later."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lowerbound import runs
from lowerbound.recipes import RECIPES, train


@pytest.fixture
def run(tmp_path):
    """A run on coloured pictures of several sizes, brought to another size than they would have by themselves."""
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    recipe = RECIPES["conv-vae"].changed(
        data=str(tmp_path / "photos"), image_size=6, model_options={"width": 2}, training={"epochs": 1, "batch_size": 9}
    )
    train(recipe, out=tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_the_run_says_what_was_done_and_finds_its_rows_again(run):
    data = json.loads((run / "config.json").read_text())["data"]
    assert data["event_shape"] == [3, 6, 6]
    assert data["images"] == {"resized": 1, "resized and cropped": 29}
    scores = runs.evaluate_run(run, ["elbo"])
    assert scores.measures["elbo"]["n"] == 3
    assert scores.measures["elbo"]["bits_per_dim"] > 0


def test_another_folder_is_brought_to_the_form_of_the_run(run, tmp_path):
    (tmp_path / "grey").mkdir()
    for number, size in enumerate([(50, 9), (7, 7)]):
        Image.new("L", size, 100).save(tmp_path / "grey" / f"{number}.png")
    inputs, outputs = runs.reconstruct(run, str(tmp_path / "grey"))
    assert inputs.shape == outputs.shape == (2, 3, 6, 6)
    assert np.allclose(inputs.numpy(), 100 / 255)


def test_an_array_of_the_same_form_is_taken_as_it_is(run, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((4, 3, 6, 6), dtype=np.uint8))
    assert runs.encode(run, str(tmp_path / "rows.npy"))[0].shape == (4, 2)
