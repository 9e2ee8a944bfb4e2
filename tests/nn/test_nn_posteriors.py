"""Every posterior and prior that a name can choose: densities, draws, moments, precision, and where they start."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributions import Distribution, Independent, Normal
from torch.func import jacrev, vmap

from exact import random
from lowerbound.core.errors import ArgumentError
from lowerbound.nn import FLOWS, POSTERIORS, PRIORS, make_posterior, make_prior

K, B, H = 2, 3, 7
SMALL = {
    **{name: {"transforms": 3, "hidden": (8,)} for name in ("iaf", "coupling")},
    "maf": {"transforms": 3, "hidden": (8,), "covariance": "diagonal"},
    "nsf": {"transforms": 2, "hidden": (8,), "bins": 5, "covariance": "diagonal"},
    "planar": {"transforms": 4},
    "mixture": {"components": 3},
    "low-rank": {"rank": 2},
}


def shake(module, size: float = 0.5):
    """Move all parameters away from where they start, in float64."""
    module.double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(size * random(number, *parameter.shape) / max(1, parameter.shape[-1]) ** 0.5)
    return module


def posterior(name: str, dims: int, *, rows: int = B, seed: int = 0) -> Distribution:
    torch.manual_seed(seed)
    return shake(make_posterior(name, H, dims, options=SMALL.get(name)))(random(seed, rows, H))


class Encoder(torch.nn.Module):
    """A linear posterior of rows."""

    def __init__(self, rows: int, dims: int) -> None:
        super().__init__()
        self.encode = make_posterior("full", rows, dims)


def prior(name: str, dims: int) -> Distribution:
    torch.manual_seed(0)
    options = dict(SMALL["mixture"] if name == "vamp" else SMALL.get(name) or {})
    options.pop("covariance", None)
    return shake(make_prior(name, dims, event_shape=(4,), posterior=Encoder(4, dims), options=options))()


def cases(dims: int, *, rows: int = B) -> dict[str, Any]:
    return {
        **{f"posterior {name}": partial(posterior, name, dims, rows=rows) for name in POSTERIORS},
        **{f"prior {name}": lambda name=name: prior(name, dims).expand((rows,)) for name in PRIORS},
    }


ALL = sorted(cases(1))
OF_FLOWS = [name for name in ALL if name.split()[1] in FLOWS]


# --- Densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("name", OF_FLOWS)
def test_density_is_the_noises_over_the_jacobian(name, dims):
    q = cases(dims)[name]()
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob((K,))
    assert (z.shape, log_q.shape) == ((K, B, dims), (K, B))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=1e-10)  # through the inverse
    noise = random(4, 3, B, dims)

    def push(e):  # rows do not mix, so the Jacobian of a row's sum over rows is the row's own
        return q._push(e)[0]

    values, _ = q._push(noise)
    jacobian = vmap(jacrev(lambda e: push(e).reshape(-1)))(noise).reshape(3, B, dims, B, dims)
    own = jacobian.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    wanted = q.base.log_prob(noise) - torch.linalg.slogdet(own).logabsdet
    torch.testing.assert_close(q.log_prob(values), wanted, rtol=0, atol=1e-10)
    assert float((wanted - q.base.log_prob(values)).abs().max().detach()) > 0.1  # it is no standard normal


def mesh(z, margin: float, points: int):
    """Return nodes that cover draws ``[n, dims]`` and a margin, ``[points**dims, dims]``, and the volume of each."""
    low, high = z.amin(0), z.amax(0)
    margins = margin * (high - low)
    sides = [
        torch.linspace(float(a), float(b), points).double() for a, b in zip(low - margins, high + margins, strict=True)
    ]
    return torch.cartesian_prod(*sides).reshape(-1, len(sides)), math.prod(float(side[1] - side[0]) for side in sides)


@pytest.mark.parametrize("dims, points", [(1, 2001), (2, 161)])
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_densities_are_normalised(name, dims, points):
    q = cases(dims, rows=1)[name]()
    torch.manual_seed(0)
    nodes, volume = mesh(q.sample((1000,)).squeeze(1), 0.6, points)
    mass = float(q.log_prob(nodes.unsqueeze(1)).exp().sum()) * volume
    assert mass == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_draws_have_the_density(name):
    # The distribution function of one number, by summing the density. The largest distance from that of n draws is
    # above sqrt(log(2 / a) / 2n) with probability a at most (Massart): a = 1e-7 in each of 30 cases.
    q, n = cases(1, rows=1)[name](), 20_000
    torch.manual_seed(0)
    for draw in ("sample", "rsample") if q.has_rsample else ("sample",):
        z = getattr(q, draw)((n,)).flatten().sort().values
        nodes, volume = mesh(z.unsqueeze(1), 0.5, 4001)
        function = q.log_prob(nodes.unsqueeze(1)).exp().flatten().cumsum(0) * volume
        at = function[torch.searchsorted(nodes.flatten(), z) - 1]
        resolution = float(function.diff().max())
        distance = float((at - (torch.arange(n) + 0.5) / n).abs().max())
        assert distance < math.sqrt(math.log(2 / 1e-7) / (2 * n)) + resolution


# --- Where they start, and what they are in half precision ------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 4])
@pytest.mark.parametrize("name", FLOWS)
def test_flow_starts_as_its_gaussian(name, dims):
    torch.manual_seed(0)
    head = make_posterior(name, H, dims, options=SMALL[name]).double()
    h = random(0, B, H)
    q, gaussian = head(h), head.gaussian(h)
    z = gaussian.sample((K,))
    torch.testing.assert_close(q.log_prob(z), gaussian.log_prob(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.mean, gaussian.mean, rtol=0, atol=1e-12)
    variance = head.gaussian.log_variance(h).exp()
    torch.testing.assert_close(q.log_prob(z), Independent(Normal(q.mean, variance.sqrt()), 1).log_prob(z))


@pytest.mark.parametrize("name", [name for name in PRIORS if name in FLOWS])
def test_prior_flow_starts_as_the_standard_normal(name):
    p = make_prior(name, 4, event_shape=(4,), posterior=Encoder(4, 2))()
    z = random(0, K, B, 4).float()
    torch.testing.assert_close(p.log_prob(z), Independent(Normal(torch.zeros(4), 1.0), 1).log_prob(z))


@pytest.mark.parametrize("name", ALL)
def test_log_densities_stay_in_single_precision_under_autocast(name):
    kind, which = name.split()
    torch.manual_seed(0)
    if kind == "posterior":
        whole = make_posterior(which, H, 5)
    else:
        whole = make_prior(which, 5, event_shape=(H,), posterior=Encoder(H, 5))
    shake(whole, 0.1).float()

    def made():
        return whole(torch.linspace(-1, 1, B * H).reshape(B, H)) if kind == "posterior" else whole().expand((B,))

    torch.manual_seed(1)
    with torch.no_grad():
        z = made().sample((K,))
        exact = made().log_prob(z)
        with torch.autocast("cpu", torch.bfloat16):
            q = made()
            found = q.log_prob(z)
            drawn = q.rsample((K,)) if q.has_rsample else q.sample((K,))
            both = q.rsample_and_log_prob((K,)) if hasattr(q, "rsample_and_log_prob") else ()
    assert {found.dtype, drawn.dtype, *(part.dtype for part in both)} == {torch.float32}
    assert bool(found.isfinite().all())
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", [f"posterior {name}" for name in POSTERIORS])
def test_rows_are_independent_and_gradients_reach_all_parameters(name):
    torch.manual_seed(0)
    head = shake(make_posterior(name.split()[1], H, 5, options=SMALL.get(name.split()[1])))
    h = random(0, B, H)
    whole, part = head(h), head(h[1:2])
    z = whole.sample((K,))
    torch.testing.assert_close(whole.log_prob(z)[:, 1:2], part.log_prob(z[:, 1:2]), rtol=0, atol=1e-10)
    torch.testing.assert_close(whole.mean[1:2], part.mean, rtol=0, atol=1e-10)
    q = head(h)
    z = q.rsample((K,))
    (z.square().sum() + q.log_prob(z.detach()).sum()).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name


@pytest.mark.parametrize("checks", [True, False])
def test_torchs_own_checks_stay_as_they_are(monkeypatch, checks):
    for module in [name for name in sys.modules if name.startswith("zuko")]:
        monkeypatch.delitem(sys.modules, module)  # as in a process that has not loaded it: that switches them off
    monkeypatch.setattr(Distribution, "_validate_args", checks)
    make_posterior("nsf", H, 2)
    assert Distribution._validate_args is checks


@pytest.mark.parametrize("name", POSTERIORS)
def test_options_of_posteriors_are_checked(name):
    with pytest.raises(ArgumentError, match=f"posterior option: expected an option of {name} .*, got 'wings'"):
        make_posterior(name, H, 2, options={"wings": 2})


@pytest.mark.parametrize("name", PRIORS)
def test_options_of_priors_are_checked(name):
    with pytest.raises(ArgumentError, match=f"prior option: expected an option of {name} .*, got 'wings'"):
        make_prior(name, 2, event_shape=(4,), posterior=Encoder(4, 2), options={"wings": 2})


@pytest.mark.parametrize("options", [{"transforms": 0}, {"bins": 1.5}, {"hidden": (0,)}, {"context": -1}])
def test_sizes_are_checked(options):
    with pytest.raises(ArgumentError, match=f"{next(iter(options))}: expected a positive integer"):
        make_posterior("nsf", H, 2, options=options)
