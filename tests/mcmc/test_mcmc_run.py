"""The loop, the packing, the latents of a program, and what is refused or said in words."""

from __future__ import annotations

import builtins
import sys
import types
import warnings
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    HalfNormal,
    Independent,
    MixtureSameFamily,
    Normal,
    Uniform,
)

import lowerbound as lb
from exact import linear_gaussian, random
from lowerbound.core.errors import ArgumentError, NodeError, NonFiniteError, SamplingWarning, ShapeError
from lowerbound.mcmc import HMC, SGLD, LogJoint, pack
from planted import ForgetsJacobian

CHAINS, B, D = 3, 5, 2


def two(values: dict[str, Tensor]) -> Tensor:
    return -0.5 * values["a"].square().sum(-1) - 0.5 * values["b"].square()


START = {"a": random(0, CHAINS, B, D), "b": random(1, CHAINS, B)}


# --- Packing and running ----------------------------------------------------------------------------------------------


def test_packing_is_undone_and_keeps_the_density() -> None:
    packed = pack(two, START)
    assert packed.position.shape == (CHAINS, B, D + 1)
    for name, value in packed.unpack(packed.position).items():
        assert value.equal(START[name])
    assert packed.log_prob(packed.position).equal(two(START))


class Walk:
    """A random walk: a kernel of one's own that knows what was accepted, and of no divergences."""

    class Info(NamedTuple):
        log_prob: Tensor
        accepted: Tensor

    def init(self, log_prob: Any, position: Tensor, warmup: int = 0) -> Any:
        return SimpleNamespace(position=position, log_prob=log_prob(position))

    def step(self, log_prob: Any, state: Any) -> Any:
        there = state.position + 0.5 * torch.randn_like(state.position)
        value = log_prob(there)
        accepted = torch.rand_like(value).log() < value - state.log_prob
        position = torch.where(accepted[..., None], there, state.position)
        value = torch.where(accepted, value, state.log_prob)
        return SimpleNamespace(position=position, log_prob=value), self.Info(value, accepted)


def test_a_kernel_of_ones_own_is_run() -> None:
    samples = lb.mcmc.run(Walk(), two, START, warmup=5, draws=40)
    assert samples.draws["a"].shape == (CHAINS, 40, B, D)
    assert samples.divergences == 0
    assert 0.2 < samples.stats["accepted"].double().mean() < 0.9


def test_draws_have_chains_then_draws() -> None:
    samples = lb.mcmc.run(HMC(leapfrogs=2), two, START, warmup=2, draws=7)
    assert samples.draws["a"].shape == (CHAINS, 7, B, D)
    assert samples.draws["b"].shape == samples.stats["diverged"].shape == (CHAINS, 7, B)
    for i in range(7):
        now = {name: draws[:, i] for name, draws in samples.draws.items()}
        torch.testing.assert_close(samples.stats["log_prob"][:, i], two(now))


def test_thinning_keeps_every_kth_step_and_seeds_repeat() -> None:
    before = torch.random.get_rng_state()
    every = lb.mcmc.run(SGLD(0.1), two, START, warmup=2, draws=6, seed=3).draws["a"]
    assert before.equal(torch.random.get_rng_state())
    third = lb.mcmc.run(SGLD(0.1), two, START, warmup=2, draws=2, thin=3, seed=3).draws["a"]
    assert third.equal(every[:, 2::3])
    assert not lb.mcmc.run(SGLD(0.1), two, START, warmup=2, draws=6, seed=4).draws["a"].equal(every)


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    lb.mcmc.run(SGLD(0.1), two, START, warmup=1, draws=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "draws" in captured.err


def test_a_chain_that_leaves_the_numbers_does_not_take_others_along() -> None:
    """Beyond 1 the density is NaN: trajectories that come there are rejected and counted, and the rest go on."""

    def log_prob(z: Tensor) -> Tensor:
        return torch.where(z < 1, -0.5 * z**2, torch.nan)

    start = torch.tensor([-30.0, 0.0, 0.5], dtype=torch.float64)
    with pytest.warns(SamplingWarning, match=r"chains: expected no divergences, got \d+ in 300 transitions. Give"):
        samples = lb.mcmc.run(HMC(step_size=0.5, leapfrogs=4), log_prob, start, warmup=0, draws=100)
    assert (samples.draws["position"] < 1).all()
    assert samples.divergences == int(samples.stats["diverged"].sum()) > 0
    assert not samples.stats["accepted"][samples.stats["diverged"]].any()
    assert samples.stats["accepted"].any(1).all()


def test_chains_that_never_accept_are_named() -> None:
    with pytest.warns(SamplingWarning) as said:
        samples = lb.mcmc.run(HMC(step_size=30.0, leapfrogs=1), lambda z: -(z**2), torch.ones(2), warmup=0, draws=20)
    assert [str(one.message) for one in said] == samples.remarks
    assert "got 2 of 2 that accepted no proposal. Take a smaller step_size" in samples.remarks[-1]
    torch.testing.assert_close(samples.draws["position"], torch.ones(2, 20))


def test_steps_between_draws_count() -> None:
    """One draw a chain, of which a fifth come from a rejected step: every chain has moved."""
    kernel = HMC(step_size=0.8, leapfrogs=3, jitter=0.9)
    with pytest.warns(SamplingWarning, match="divergences"):
        samples = lb.mcmc.run(kernel, lambda z: -(z**4), random(2, 500), warmup=0, draws=1, thin=40)
    assert not samples.stats["accepted"].all()
    assert not any("chains that move" in remark for remark in samples.remarks)
    found = [remark for remark in samples.remarks if "divergences" in remark]
    with pytest.warns(SamplingWarning, match="divergences"):
        every = lb.mcmc.run(kernel, lambda z: -(z**4), random(2, 500), warmup=0, draws=40)
    assert every.divergences > 2 * samples.divergences
    assert f"got {every.divergences} in 20000 transitions" in found[0]


@pytest.mark.parametrize(
    "start, error, message",
    [
        (torch.tensor([1.0, -1.0]), NonFiniteError, "at the start: expected a finite value, got 1 of 2 chains"),
        (torch.tensor([1, 2]), ArgumentError, "position: expected tensors of one floating type, got torch.int64"),
        (torch.tensor(1.0), ShapeError, r"position 'position': expected a leading shape of at least one axis"),
    ],
)
def test_bad_starts_are_refused(start: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lb.mcmc.run(HMC(), torch.log, start)


def test_a_density_that_sums_over_chains_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"position 'a': expected a leading shape .*: \(5,\), got \(3, 5, 2\)"):
        pack(lambda values: two(values).sum(0), START)


@pytest.mark.parametrize("counts", [{"draws": 0}, {"thin": 0}, {"warmup": -1}, {"warmup": 2.5}])
def test_bad_counts_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"{next(iter(counts))}: expected a positive integer"):
        lb.mcmc.run(SGLD(0.1), two, START, **counts)


def test_a_summary_of_one_chain_is_refused() -> None:
    samples = lb.mcmc.run(SGLD(0.1), two, {name: value[:1] for name, value in START.items()}, warmup=0, draws=20)
    with pytest.raises(ArgumentError, match="rhat: expected .* at least 2 chains and 10 draws.* Run more chains or"):
        samples.summary()


@pytest.mark.parametrize("arguments", [{"step_size": 0.0}, {"leapfrogs": 0}, {"jitter": 1.5}])
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        HMC(**arguments)


# --- ArviZ ------------------------------------------------------------------------------------------------------------


def test_arviz_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = lb.mcmc.run(HMC(leapfrogs=1), two, START, warmup=0, draws=4)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "arviz":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ArgumentError, match="to_arviz: expected arviz, got no such package. Install it"):
        samples.to_arviz()


def test_arviz_is_given_both_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = types.ModuleType("arviz")
    fake.InferenceData, fake.from_dict = object, lambda **groups: groups
    monkeypatch.setitem(sys.modules, "arviz", fake)
    samples = lb.mcmc.run(HMC(leapfrogs=1), two, START, warmup=0, draws=4)
    groups = samples.to_arviz()
    assert groups["posterior"]["a"].shape == (CHAINS, 4, B, D)
    assert set(groups["sample_stats"]) == {"lp", "acceptance_rate", "accepted", "diverging"}


def test_arviz_itself_says_the_same() -> None:
    """ArviZ 0.23.4, for chains that are short and far from independent; where there is none this is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version
        arviz = pytest.importorskip("arviz", reason="an oracle: pip install -e '.[arviz]'")
    samples = lb.mcmc.run(HMC(step_size=0.3, leapfrogs=2), two, START, warmup=0, draws=50)
    data = samples.to_arviz()
    for name, found in samples.summary().items():
        np.testing.assert_array_equal(data.posterior[name], samples.draws[name])
        truth = {
            "mean": data.posterior[name].mean(("chain", "draw")),
            "mcse": arviz.mcse(data, var_names=[name])[name],
            "ess_bulk": arviz.ess(data, var_names=[name])[name],
            "ess_tail": arviz.ess(data, var_names=[name], method="tail")[name],
            "rhat": arviz.rhat(data, var_names=[name])[name],
        }
        for what, values in truth.items():
            np.testing.assert_allclose(found[what], values, rtol=1e-8, err_msg=f"{what} of {name}")
    for name, stat in {"lp": "log_prob", "acceptance_rate": "acceptance", "diverging": "diverged"}.items():
        np.testing.assert_array_equal(data.sample_stats[name], samples.stats[stat])


# --- Programs ---------------------------------------------------------------------------------------------------------

CASE = linear_gaussian(5, D)


class Mixed(lb.BayesianNet):
    """Latents of every kind of support, one row for each of B."""

    def forward(self, bn):
        share = bn.sample("share", Beta(torch.full((B,), 2.0, dtype=torch.float64), 3.0))
        weights = bn.sample("weights", Dirichlet(torch.ones(B, 3, dtype=torch.float64)))
        scale = bn.sample("scale", HalfNormal(torch.ones(B, D, dtype=torch.float64)), event_dims=1)
        both = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(random(4, 2, D), 1.0), 1))
        z = bn.sample("z", both.expand((B,)))
        bn.sample("x", Normal(z.sum(-1) * share + weights[..., 0], scale.prod(-1)))


def test_positions_of_constrained_latents_and_back() -> None:
    target = LogJoint(Mixed().bind(), {"x": random(2, B)})
    position = target.initial(chains=CHAINS)
    assert {name: tuple(value.shape) for name, value in position.items()} == {
        "share": (CHAINS, B),
        "weights": (CHAINS, B, 2),
        "scale": (CHAINS, B, D),
        "z": (CHAINS, B, D),
    }
    again = target.unconstrain(target.constrain(position))
    for name, value in position.items():
        torch.testing.assert_close(again[name], value, rtol=1e-8, atol=1e-8)
    assert target(position).shape == (CHAINS, B)
    samples = lb.mcmc.run(HMC(step_size=1e-3, leapfrogs=2), target, position, warmup=0, draws=2)
    torch.testing.assert_close(samples.draws["weights"].sum(-1), torch.ones(CHAINS, 2, B, dtype=torch.float64))
    assert (samples.draws["scale"] > 0).all()


def test_log_determinants_are_those_of_autograd() -> None:
    target = LogJoint(Mixed().bind(), {"x": random(2, B)})
    position = {name: value[:1] for name, value in target.initial(chains=1).items()}
    found, total = target.log_det(position, target.constrain(position)), torch.zeros(B, dtype=torch.float64)
    for name, bijection in target.bijections.items():
        for row in range(B):
            u = position[name][0, row]
            jacobian = torch.autograd.functional.jacobian(lambda u, t=bijection: t(u[None])[0], u)
            square = jacobian.reshape(-1, max(u.numel(), 1))[: max(u.numel(), 1)]  # a simplex: without its last share
            total[row] += torch.linalg.slogdet(square).logabsdet
    torch.testing.assert_close(found[0], total, rtol=1e-8, atol=1e-8)


def test_hmc_finds_the_posteriors_of_all_rows_at_once() -> None:
    """A linear Gaussian model: chains for five rows as one batch, against the exact posterior of each."""
    x = random(3, B, 5)
    target = LogJoint(CASE.generator().bind(B), {"x": x})
    samples = lb.mcmc.run(HMC(leapfrogs=5), target, target.initial(chains=60), warmup=80, draws=20)
    gain, offset, tril = CASE.exact()
    found = samples.summary()["z"]
    assert ((found["mean"] - (x @ gain.T + offset)).abs() < 5 * found["mcse"]).all()  # false alarms 6e-7 a number
    sd = (tril @ tril.T).diagonal().sqrt()
    assert (found["mcse"] < 0.1 * sd).all()
    torch.testing.assert_close(found["sd"], sd.expand(B, D), rtol=0.2, atol=0)


def test_given_other_data_is_the_target_of_those() -> None:
    one, other = random(3, B, 5), random(4, B, 5)
    target, net = LogJoint(CASE.generator().bind(B), {"x": one}), CASE.generator()
    position = target.initial(chains=CHAINS)
    moved = target.given(net.bind(B), {"x": other})
    assert moved(position).equal(LogJoint(net.bind(B), {"x": other})(position))
    assert not moved(position).equal(target(position))


def test_given_and_minibatches_are_those_of_the_same_class() -> None:
    net, x = Mixed(), {"x": random(2, B)}
    for kind in (LogJoint, ForgetsJacobian):
        target = kind(net.bind(), x)
        position = target.initial(chains=CHAINS)
        wanted = target(position)
        assert target.given(net.bind(), x)(position).equal(wanted)
        stream = target.minibatches([(net.bind(), x)] * 2)
        assert stream(position).equal(wanted)
        assert stream.given(net.bind(), x)(position).equal(wanted)
    assert not LogJoint(net.bind(), x)(position).equal(wanted)


class Spread(lb.BayesianNet):
    """Rows that share their deviation; B of them stand for all by the scale."""

    def forward(self, bn, rows, scale):
        sd = bn.sample("sd", HalfNormal(torch.tensor(1.0, dtype=torch.float64)))
        bn.sample("y", Normal(torch.zeros(rows), sd[..., None]), event_dims=1, scale=scale)


def test_minibatches_are_taken_one_a_call() -> None:
    net, y = Spread(), random(5, 6)
    target = LogJoint(net.bind(6, 1.0), {"y": y})
    position = target.initial(chains=CHAINS)
    halves = target.minibatches((net.bind(3, 2.0), {"y": half}) for half in y.reshape(2, 3))
    first, second = halves(position), halves(position)
    torch.testing.assert_close(0.5 * (first + second), target(position))  # the mean of all minibatches is the whole
    assert not first.allclose(second)
    assert halves.constrain(position)["sd"].equal(target.constrain(position)["sd"])
    with pytest.raises(ArgumentError, match="minibatches: expected one for every step, got no more. Let them go on"):
        halves(position)


def test_every_chain_may_have_a_minibatch_of_its_own() -> None:
    net, y = Spread(), random(5, CHAINS, 3)
    target = LogJoint(net.bind(3, 2.0), {"y": y[0]})
    position = target.initial(chains=CHAINS)
    together = target.minibatches([(net.bind(3, 2.0), {"y": y})])(position)
    alone = [target.given(net.bind(3, 2.0), {"y": row})(position)[i] for i, row in enumerate(y)]
    torch.testing.assert_close(together, torch.stack(alone))


class Discrete(lb.BayesianNet):
    def forward(self, bn):
        k = bn.sample("k", Bernoulli(torch.full((B,), 0.5)))
        bn.sample("x", Normal(k, 1.0))


class Sampler(lb.BayesianNet):
    def forward(self, bn):
        z = bn.implicit("z", torch.randn(*bn.particles, B), event_dims=0)
        bn.sample("x", Normal(z, 1.0))


class Moving(lb.BayesianNet):
    def forward(self, bn):
        low = bn.sample("low", Normal(torch.zeros(B), 1.0))
        z = bn.sample("z", Uniform(low, low + 1.0))
        bn.sample("x", Normal(z, 1.0))


@pytest.mark.parametrize(
    "net, observed, message",
    [
        (Discrete(), {"x": torch.zeros(B)}, r"node 'k': expected a continuous latent, got a discrete one.*Sum it out"),
        (Sampler(), {"x": torch.zeros(B)}, r"node 'z': expected a latent with a density, got an implicit one"),
        (Moving(), {"x": torch.zeros(B)}, r"node 'z': expected a fixed support, got one that depends on other latents"),
        (Discrete(), {"x": torch.zeros(B), "k": torch.zeros(B)}, r"program: expected latents to sample, got none"),
        (Discrete(), {"y": torch.zeros(B)}, r"node 'y'"),
    ],
)
def test_programs_that_gradients_cannot_move_are_refused(net: Any, observed: Any, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        LogJoint(net.bind(), observed)
