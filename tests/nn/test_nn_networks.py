"""Networks, their first weights, and leading axes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from exact import random
from lowerbound.core.errors import ArgumentError, ShapeError
from lowerbound.nn import MLP, fold_particles, initialize, make_activation
from lowerbound.nn.initialize import SCHEMES
from lowerbound.nn.mlp import ACTIVATIONS

# --- MLP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (5,), (5, 3), (4, 4, 4)])
@pytest.mark.parametrize("out", [2, None])
def test_sizes(hidden, out):
    net = MLP(7, hidden, out)
    sizes = [7, *hidden, *([] if out is None else [out])]
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(itertools.pairwise(sizes))
    assert len(net) - len(linear) == len(hidden)  # an activation behind every hidden layer and no other
    assert net.out_features == sizes[-1]
    assert net(torch.zeros(3, 2, 7)).shape == (3, 2, sizes[-1])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_network_is_its_formula(name):
    net = MLP(3, [5], 2, activate=name)
    x = torch.randn(4, 3)
    first, activation, last = net
    wanted = activation(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), wanted)
    assert type(activation) is type(make_activation(name))
    bent = activation(torch.linspace(-3, 3, 7))
    assert float((bent[2:] - 2 * bent[1:-1] + bent[:-2]).abs().max()) > 1e-3  # it is not linear


def test_last_layer_without_output_keeps_its_activation():
    assert MLP(3, [50], None)(torch.randn(9, 3)).min().item() == 0.0


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((0, [2], 1), "in_features: expected a positive integer, got 0"),
        ((1, [2, -1], 1), "hidden: expected a positive integer, got -1"),
        ((1, [2.5], 1), r"hidden: expected a positive integer, got 2\.5"),
        ((1, [2], 0), "out_features: expected a positive integer, got 0"),
    ],
)
def test_sizes_are_positive(sizes, message):
    with pytest.raises(ArgumentError, match=message):
        MLP(*sizes)


def test_names_are_known():
    with pytest.raises(ArgumentError, match=r"activation: .*got 'rellu'\. Did you mean 'relu'\? Known: elu, gelu"):
        MLP(1, [2], 1, activate="rellu")
    with pytest.raises(ArgumentError, match=r"init: .*got 'xavier'\. Known: glorot, he, lecun, torch"):
        MLP(1, [2], 1, init="xavier")


# --- Initialisation ---------------------------------------------------------------------------------------------------

# A layer, how many of its weights an output sees (fan in), and how many outputs a weight's input reaches (fan out).
LAYERS = {
    "Linear": (lambda: nn.Linear(300, 100), 300, 100),
    "Conv1d": (lambda: nn.Conv1d(60, 90, 5), 60 * 5, 90 * 5),
    "Conv2d": (lambda: nn.Conv2d(40, 50, 3), 40 * 9, 50 * 9),
    "Conv2d, stride": (lambda: nn.Conv2d(40, 50, 3, stride=2), 40 * 9, 50 * 9),
    "Conv2d, groups": (lambda: nn.Conv2d(80, 100, 3, groups=2), 40 * 9, 100 * 9),
    "Conv3d": (lambda: nn.Conv3d(15, 25, 3), 15 * 27, 25 * 27),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(60, 90, 6, stride=3), 60 * 2, None),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(40, 50, 4, stride=2), 40 * 4, None),
    "ConvTranspose2d, groups": (lambda: nn.ConvTranspose2d(80, 100, 4, stride=2, groups=2), 40 * 4, None),
    "ConvTranspose2d, stride 1": (lambda: nn.ConvTranspose2d(40, 50, 3), 40 * 9, None),
}


@pytest.mark.parametrize("scheme", ["he", "lecun", "glorot"])
@pytest.mark.parametrize("layer", LAYERS)
def test_variance_of_first_weights(layer, scheme):
    make, fan_in, fan_out = LAYERS[layer]
    module = initialize(make(), scheme)
    if scheme == "glorot" and fan_out is None:
        fan_in, fan_out = module.weight[0].numel(), module.weight[:, 0].numel()
    wanted = {"he": 2 / fan_in, "lecun": 1 / fan_in, "glorot": 2 / (fan_in + (fan_out or 0))}[scheme]
    # The variance of n normal weights has relative error sqrt(2 / n), of uniform ones less: 5 of these for n > 1e4.
    assert module.weight.numel() > 9_000
    relative = 5 * math.sqrt(2 / module.weight.numel())
    assert module.weight.var().item() == pytest.approx(wanted, rel=relative)
    assert module.weight.mean().abs().item() < 5 * math.sqrt(wanted / module.weight.numel())
    assert module.bias.abs().max().item() == 0


@pytest.mark.parametrize("scheme", ["he", "lecun"])
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_have_the_scale_that_the_scheme_promises(layer, scheme):
    """Fan in is what an output sees: with unit inputs, lecun keeps the variance and he doubles it."""
    make, _, _ = LAYERS[layer]
    module = initialize(make(), scheme)
    channels = module.weight.shape[1] if isinstance(module, nn.Linear) else module.in_channels
    axes = {"1": 1, "2": 2, "3": 3}.get(type(module).__name__[-2], 0)
    y = module(torch.randn(20, channels, *[12] * axes))
    inner = y[(..., *[slice(y.shape[-1] // 3, -(y.shape[-1] // 3))] * axes)]  # outputs at the border see less
    # Channels share their weights, so outputs are no independent draws: 15 % is wide for them and narrow against 2.
    assert inner.var().item() == pytest.approx({"he": 2.0, "lecun": 1.0}[scheme], rel=0.15)


def test_torchs_own_start_is_left_alone():
    torch.manual_seed(1)
    wanted = nn.Linear(3, 4)
    torch.manual_seed(1)
    found = initialize(nn.Linear(3, 4), "torch")
    assert found.weight.equal(wanted.weight)
    assert found.bias.equal(wanted.bias)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_layers_and_missing_biases_are_left_alone(scheme):
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.ConvTranspose2d(1, 8, 1, stride=2))
    assert initialize(net, scheme) is net
    assert net[1].weight.equal(torch.ones(3))


# --- fold_particles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (5,), (3, 5), (5, 5), (2, 3, 5), (1, 1)], ids=str)
def test_folding_is_a_loop(lead):
    conv = nn.Conv2d(2, 4, 3, padding=1).double()
    x = random(0, *lead, 2, 6, 7)
    found = fold_particles(conv, x, event_dims=3)
    assert found.shape == (*lead, 4, 6, 7)
    for place in itertools.product(*map(range, lead)):
        torch.testing.assert_close(found[place], conv(x[place][None])[0], rtol=0, atol=1e-12)


def test_folding_may_change_the_event():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5))
    assert fold_particles(net, torch.zeros(3, 4, 2, 3), event_dims=2).shape == (3, 4, 5)
    assert fold_particles(lambda x: x[:, None], torch.zeros(3, 4), event_dims=0).shape == (3, 4, 1)


def test_folding_needs_an_event():
    with pytest.raises(ShapeError, match=r"x: expected at least 3 axes, got \(5, 5\)\. Give the input its event axes"):
        fold_particles(nn.Identity(), torch.zeros(5, 5), event_dims=3)
