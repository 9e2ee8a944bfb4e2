"""An evaluation that was interrupted goes on where it was, and says nothing that it would not have said in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, Normal

import lowerbound as lb
from lowerbound import runs
from lowerbound.core.errors import ArgumentError, SamplingWarning
from lowerbound.evaluation import measures
from lowerbound.models import LatentVariableModel
from tiny import Rows

N = 45
X = torch.bernoulli(torch.full((N, 6), 0.5), generator=torch.Generator().manual_seed(0))
OPTIONS: dict[str, Any] = {"chains": 200, "temperatures": 3}  # 200 chains: ten rows at once
NAMES = ["elbo-200", "iwae-200", "ais", "bdmc"]


def make(seed: int = 0) -> lb.models.VAE:
    torch.manual_seed(seed)
    return lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(4,))


class Stops:
    """A measure's function of a batch that is interrupted at its nth batch, and counts those that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, at: int | None = None) -> None:
        self.real, self.at, self.count = measures.RUN[kind], at, 0
        monkeypatch.setitem(measures.RUN, kind, self._wrapped())

    def _wrapped(self) -> measures.Measure:
        def find(job: measures.Job) -> measures.Found:
            add = job.ledger.add

            def counted(values: Any) -> None:
                self.count += 1
                if self.count == self.at:
                    raise KeyboardInterrupt
                add(values)

            job.ledger.add = counted  # type: ignore[method-assign]
            return self.real.find(job)

        return measures.Measure(self.real.kind, find, self.real.rehearse)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = name.split("-")[0]
    whole = lb.evaluate(make(), Rows(X), name, **OPTIONS)
    with monkeypatch.context() as patched:
        Stops(patched, kind, at=2)
        with pytest.raises(KeyboardInterrupt):
            lb.evaluate(make(), Rows(X), name, keep=tmp_path, **OPTIONS)
    with monkeypatch.context() as patched:
        stops = Stops(patched, kind)
        again = lb.evaluate(make(), Rows(X), name, keep=tmp_path, **OPTIONS)
    assert stops.count == 4  # of five: one was done
    np.testing.assert_array_equal(again.rows[name], whole.rows[name])
    assert again.measures == whole.measures
    with monkeypatch.context() as patched:
        stops = Stops(patched, kind)
        assert lb.evaluate(make(), Rows(X), name, keep=tmp_path, **OPTIONS).measures == whole.measures
    assert stops.count == 0


OTHER: dict[str, Any] = {
    "activation": {"model": lb.models.VAE(event_shape=(6,), latent_dim=2, hidden=(4,), activation="tanh")},
    "weights": {"model": make(1)},
    "rows": {"data": Rows(X[:, [1, 0, 2, 3, 4, 5]])},
    "seed": {"seed": 1},
    "temperatures": {"temperatures": 4},
    "limit": {"limit": 44},
}


class Named(Rows):
    """Rows that say which they are."""

    def describe(self) -> dict[str, Any]:
        return {"name": "rows", "sum": float((self.values * torch.arange(6)).sum())}


@pytest.mark.parametrize("other", OTHER)
def test_values_of_another_measurement_are_not_taken(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": make(), "data": Rows(X), **OPTIONS}
    changed = {**given, **OTHER[other]}
    if other == "activation":  # the same weights
        changed["model"].load_state_dict(given["model"].state_dict())
    given["data"], changed["data"] = Named(given["data"].values), Named(changed["data"].values)
    lb.evaluate(measures="ais", keep=tmp_path, **given)
    stops = Stops(monkeypatch, "ais")
    lb.evaluate(measures="ais", keep=tmp_path, **changed)
    assert stops.count == 5


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    whole = lb.evaluate(make(), Rows(X), "ais", keep=tmp_path, **OPTIONS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = lb.evaluate(make(), Rows(X), "ais", keep=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(again.rows["ais"], whole.rows["ais"])


def test_weights_of_any_shape_and_type_tell_models_apart(tmp_path: Path) -> None:
    """A scalar, an integer and a boolean among them."""
    model = LatentVariableModel(Narrow(), Wide())
    model.register_buffer("count", torch.tensor(3))
    model.register_buffer("seen", torch.tensor([True, False]))
    options: dict[str, Any] = {"keep": tmp_path, "seed": 0}
    first, again = (lb.evaluate(model, Rows(X), "elbo", **options).rows["elbo"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    model.posterior.weight.data += 0.1
    assert not np.array_equal(lb.evaluate(model, Rows(X), "elbo", **options).rows["elbo"], first)


def test_a_run_keeps_what_is_done_until_its_scores_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = lb.data.digits()
    model = lb.models.VAE(event_shape=(8, 8), latent_dim=2, hidden=(8,))
    lb.fit(lb.objectives.ELBO(model), train, epochs=1, out=tmp_path / "run", progress=False)
    options: dict[str, Any] = {**OPTIONS, "limit": N}
    whole = runs.evaluate_run(tmp_path / "run", ["elbo", "ais"], **options)
    with monkeypatch.context() as patched:
        Stops(patched, "ais", at=3)
        with pytest.raises(KeyboardInterrupt):
            runs.evaluate_run(tmp_path / "run", ["elbo", "ais"], **options)
    left = tmp_path / "run" / "evaluation"
    assert {path.name for path in left.iterdir()} == {"elbo.safetensors", "ais.safetensors"}
    stops = Stops(monkeypatch, "ais")
    again = runs.evaluate_run(tmp_path / "run", ["elbo", "ais"], **options)
    assert stops.count == 3
    assert again.measures == whole.measures
    assert not left.exists()


# --- What is refused or remarked on -----------------------------------------------------------------------------------


class Rates(lb.BayesianNet):
    def forward(self, bn: Any, n: int) -> None:
        rate = bn.sample("rate", Gamma(torch.full((n, 6), 2.0), 1.0), event_dims=1)
        bn.sample("x", Normal(rate, 1.0), event_dims=1)


class RatesGuess(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, bn: Any, x: Any) -> None:
        bn.sample("rate", Gamma(2.0 + x.abs(), self.weight), event_dims=1)


@pytest.mark.parametrize(
    "late, message", [("is-10", "latents on the whole real line"), ("avb", "trained against a critic")]
)
def test_a_measure_that_the_model_does_not_allow_is_refused_before_any_work(
    late: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = Stops(monkeypatch, "ais")
    with pytest.raises(ArgumentError, match=message):
        lb.evaluate(LatentVariableModel(Rates(), RatesGuess()), Rows(X), ["ais", late], chains=2, temperatures=3)
    assert stops.count == 0


@pytest.mark.parametrize("numbers, message", [({"chains": 1}, "at least two"), ({"temperatures": 0}, "temperatures")])
def test_bad_numbers_are_refused_before_any_work(
    numbers: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = Stops(monkeypatch, "elbo")
    with pytest.raises(ArgumentError, match=message):
        lb.evaluate(make(), Rows(X), ["elbo", "ais"], **numbers)
    assert stops.count == 0


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(ArgumentError, match="data: expected a data set, got Tensor. Load it"):
        lb.evaluate(make(), X, "elbo")  # type: ignore[arg-type]


class Narrow(lb.BayesianNet):
    """Its posterior is narrower than a few steps from a wide start can follow."""

    def forward(self, bn: Any, n: int) -> None:
        z = bn.sample("z", Normal(torch.zeros(n, 6), 30.0), event_dims=1)
        bn.sample("x", Normal(z, 0.01), event_dims=1)


class Wide(lb.BayesianNet):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, bn: Any, x: Any) -> None:
        bn.sample("z", Normal(0.0 * x, 3.0 * self.weight), event_dims=1)


def test_loose_weights_are_said_and_tight_ones_are_not() -> None:
    model = LatentVariableModel(Narrow(), Wide())
    with pytest.warns(SamplingWarning, match="of 45 rows rests on fewer than 2 of 16 chains.*Raise --temperatures"):
        loose = lb.evaluate(model, Rows(X), "ais", temperatures=3)
    assert loose.measures["ais"]["rows_of_low_ess"] > 40
    tight = lb.evaluate(make(), Rows(X), "ais", temperatures=20)  # a warning here would be an error
    assert tight.measures["ais"]["rows_of_low_ess"] == 0


def test_chains_that_do_not_move_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = measures.ais

    def stuck(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        return type(found)(found.log_weights, torch.zeros_like(found.acceptance))

    monkeypatch.setattr(measures, "ais", stuck)
    with pytest.warns(SamplingWarning, match=r"chains of 45 of 45 rows hardly move \(acceptance below 5%\)"):
        lb.evaluate(make(), Rows(X), "ais", temperatures=20)
