"""Where the time of a step goes: products are counted, and time that was planted is found where it was planted."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import lowerbound as lb
import tiny
from lowerbound.core.errors import ArgumentError
from lowerbound.training import modes
from lowerbound.training.profile import PARTS, profile_steps


def find(goal=None, data=None, **settings):
    goal = tiny.objective() if goal is None else goal
    return profile_steps(goal, tiny.rows() if data is None else data, **{"steps": 3, "batch_size": 8, **settings})


def test_parts_add_up_to_the_step():
    found = find()
    assert set(found.parts) == set(PARTS)
    assert all(milliseconds > 0 for milliseconds in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.step)
    assert 0 < found.floor < found.step


@pytest.mark.parametrize("hidden, layers", [((8,), 5), ((8, 7), 7), ((), 3)])
def test_products_are_those_of_the_layers(hidden, layers):
    """One forward and one for the weights a layer, and one for the input where that is no data: all but the first."""
    first = 1 if hidden else 2  # without hidden layers two heads see the data
    goal = tiny.objective(model=tiny.vae(hidden=hidden))
    assert find(goal).products == 3 * layers - first


def test_products_of_convolutions_count_once_forward_and_once_backward():
    model = lb.models.ConvVAE(event_shape=(8, 8), latent_dim=2, width=4)
    convolutions, dense = 6, 4  # behind the convolutions, so that each has three products
    assert find(lb.objectives.ELBO(model), lb.data.digits()[0]).products == 2 * convolutions + 3 * dense


class Sleepy(tiny.Rows):
    def batches(self, batch_size, *, seed, epoch, start=0):
        for x in super().batches(batch_size, seed=seed, epoch=epoch, start=start):
            time.sleep(0.03)
            yield x


class Waiting(nn.Module):
    def forward(self, x):
        time.sleep(0.03)
        return x


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0 * torch.randn(2_000_000).sum()


class Busy(nn.Module):
    def forward(self, x):
        return x + 0 * torch.ones(5_000_000).exp().log().sum()


class Multiplying(nn.Module):
    def forward(self, x):
        return x + 0 * (torch.ones(800, 800) @ torch.ones(800, 800)).sum()


PLANTED = {
    "data": (None, Sleepy((torch.rand(48, tiny.WIDTH) > 0.5).float())),
    "calls": (Waiting, None),
    "noise": (Noisy, None),
    "elementwise": (Busy, None),
    "products": (Multiplying, None),
}


@pytest.mark.parametrize("part", PLANTED)
def test_time_is_found_where_it_was_planted(part):
    layer, data = PLANTED[part]
    goal = tiny.objective()
    if layer is not None:
        decoder = goal.model.generator.decoder
        goal.model.generator.decoder = nn.Sequential(layer(), decoder)
    found = find(goal, data)
    assert max(found.parts, key=found.parts.get) == part
    assert found.parts[part] > 0.6 * found.step


def test_settings_are_those_of_a_run():
    assert find(precision="bfloat16").mode == "computed in bfloat16"
    with pytest.raises(ArgumentError, match="steps: expected a positive integer, got 0"):
        find(steps=0)
    with pytest.raises(ArgumentError, match="device: expected a device of this machine, got 'gpu9'"):
        find(device="gpu9")


@pytest.mark.parametrize("epochs, tried", [(1, 0), (10**6, 1)])
def test_the_length_of_the_run_decides_whether_compiling_is_tried(epochs, tried, monkeypatch):
    ways, real = [], modes._make
    monkeypatch.setattr(modes, "_time", lambda state, x, precision, step: (0.001, 0.0))
    monkeypatch.setattr(modes, "_make", lambda state, way: (ways.append(way), real(state, way))[1])
    find(compile="auto", epochs=epochs)
    assert ways == [False] + [True] * tried
