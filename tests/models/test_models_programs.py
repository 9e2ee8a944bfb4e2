"""How a model meets a batch: objectives and evaluation bind its programs as the model itself says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import lowerbound as lb
from exact import LinearGenerator, farthest, gradients, linear_gaussian, random
from lowerbound.core.errors import ArgumentError
from tiny import Rows

B, D, L, K = 7, 5, 3, 11
CASE = linear_gaussian(D, L)
ROWS = random(3, B, 2 * D)


class Shifted(LinearGenerator):
    """y ~ N(W z + mu + shift, diag(noise^2)): the shift is an input, and the data have another name."""

    def forward(self, bn, shift):
        prior = Normal(self.weight.new_zeros(len(shift), L), 1.0)
        z = bn.sample("z", prior, event_dims=1)
        bn.sample("y", Normal(z @ self.weight.T + self.mean + shift, self.noise), event_dims=1)


class Conditional(lb.models.LatentVariableModel):
    """p(y | shift), for rows (shift, y)."""

    def programs(self, x):
        shift, y = x.split(D, -1)
        return lb.Programs(self.generator.bind(shift), {"y": y}, self.posterior.bind(y - shift))


def conditional(posterior: nn.Module | None = None) -> Conditional:
    made = Shifted(CASE.weight.clone(), CASE.mean.clone(), CASE.noise.clone())
    return Conditional(made, CASE.posterior() if posterior is None else posterior)


def plain(posterior: nn.Module | None = None) -> lb.models.LatentVariableModel:
    return lb.models.LatentVariableModel(CASE.generator(), CASE.posterior() if posterior is None else posterior)


def test_by_default_the_posterior_sees_the_rows_and_x_is_observed() -> None:
    x = random(4, B, D)
    programs = plain().programs(x)
    assert programs.model.inputs == (B,)
    assert programs.posterior.inputs == (x,)
    assert programs.observed == {"x": x}
    torch.testing.assert_close(lb.elbo(*programs).value, CASE.log_evidence(x), rtol=0, atol=1e-10)


OBJECTIVES = {
    "elbo": lambda m: lb.objectives.ELBO(m, particles=K),
    "stl": lambda m: lb.objectives.ELBO(m, particles=K, gradient="stl"),
    "reinforce": lambda m: lb.objectives.ELBO(m, particles=K, gradient="reinforce"),
    "iwae": lambda m: lb.objectives.IWAE(m, particles=K),
    "dreg": lambda m: lb.objectives.IWAE(m, particles=K, gradient="dreg"),
    "vimco": lambda m: lb.objectives.IWAE(m, particles=K, gradient="vimco"),
    "rws": lambda m: lb.objectives.RWS(m, particles=K),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_of_a_conditional_model_is_that_of_its_shifted_data(name: str) -> None:
    outcomes, grads = [], []
    for model, x in ((conditional(CASE.perturbed()), ROWS), (plain(CASE.perturbed()), ROWS[:, D:] - ROWS[:, :D])):
        objective = OBJECTIVES[name](model)
        objective.validate(x)
        torch.manual_seed(1)
        outcomes.append(objective(x))
        grads.append(gradients(outcomes[-1].cost, model))
    for term, value in outcomes[0].terms.items():
        torch.testing.assert_close(value, outcomes[1].terms[term], rtol=0, atol=1e-10)
    assert farthest(*grads) < 1e-10
    assert max(float(grad.abs().max()) for grad in grads[0].values()) > 1e-3


@pytest.mark.parametrize("measure", ["elbo", "iwae-20", "is-1000"])
def test_measure_of_a_conditional_model_is_that_of_its_shifted_data(measure: str) -> None:
    shifted = ROWS[:, D:] - ROWS[:, :D]
    found, wanted = (lb.evaluate(m, Rows(x), measure) for m, x in ((conditional(), ROWS), (plain(), shifted)))
    rows = torch.from_numpy(found.rows[measure])
    torch.testing.assert_close(rows, torch.from_numpy(wanted.rows[measure]), rtol=0, atol=1e-10)
    if measure != "elbo":  # whose KL is a closed form beside a term that is drawn
        atol = {"iwae-20": 1e-10, "is-1000": 0.05}[measure]
        torch.testing.assert_close(rows, CASE.log_evidence(shifted), rtol=0, atol=atol)
    assert found.gallery is not None
    assert found.gallery.samples is None  # this program has neither x nor x_mean


def test_gallery_draws_its_samples_at_the_inputs_of_the_rows() -> None:
    class Named(Shifted):
        def forward(self, bn, shift):
            bn.deterministic("x_mean", shift)
            super().forward(bn, shift)

    model = Conditional(Named(CASE.weight, CASE.mean, CASE.noise), CASE.posterior())
    scores = lb.evaluate(model, Rows(ROWS), "iwae-2")
    assert scores.gallery.samples.shape == (64, D)
    wanted = ROWS[torch.arange(64) % B, :D].float()
    torch.testing.assert_close(torch.from_numpy(scores.gallery.samples), wanted)


def test_model_without_programs_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.posterior = CASE.generator(), CASE.posterior()

        def describe(self):
            return {}

    with pytest.raises(ArgumentError, match=r"model: expected a module with .* and programs\(x\)"):
        lb.objectives.ELBO(Pair())
