"""The estimators: what they say against what is known, the laws they keep, and their errors."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lowerbound as lb
from lowerbound.core.errors import ArgumentError, DataError, ShapeError
from lowerbound.training import modes

SMALL: dict[str, Any] = {"latent_dim": 2, "hidden": (8,), "epochs": 2, "score_particles": 10, "random_state": 0}
SMALL_AVB = {**SMALL, "critic_hidden": (8,)}
LINEAR = lb.sklearn.VAE(latent_dim=2, hidden=(), epochs=100, batch_size=100, lr=1e-2, schedule="cosine", random_state=0)


def table(n: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return five columns that two factors and noise make, each of mean 0 and variance 1."""
    draw = np.random.default_rng(seed)
    loading = np.array([[1.0, 0.8, -0.9, 0.2, 0.0], [0.0, 0.5, 0.4, -1.0, 0.9]])
    x = draw.normal(size=(n, 2)) @ loading + 0.4 * draw.normal(size=(n, 5))
    return StandardScaler().fit_transform(x)


@pytest.fixture(scope="module")
def linear() -> lb.sklearn.VAE:
    """A VAE without hidden layers: probabilistic PCA, whose maximum is known."""
    return clone(LINEAR).fit(table())


# --- Truth ------------------------------------------------------------------------------------------------------------


def test_linear_vae_is_probabilistic_pca(linear: lb.sklearn.VAE) -> None:
    x = table()
    best = PCA(2).fit(x).score_samples(x)
    found = linear.score_samples(x)
    assert -0.03 < found.mean() - best.mean() < 0.005  # no model of this family has a higher mean on these rows
    assert np.abs(found - best).mean() < 0.1
    assert np.corrcoef(found, best)[0, 1] > 0.99


def test_other_rows_score_as_by_pca(linear: lb.sklearn.VAE) -> None:
    other = table(500, seed=1)
    assert abs(linear.score(other) - PCA(2).fit(table()).score(other)) < 0.05


def test_samples_have_the_moments_of_pca(linear: lb.sklearn.VAE) -> None:
    drawn = linear.sample(20_000, random_state=1)
    # Of 20 sums over 20,000 draws, one is beyond 0.04 (5.6 standard errors) with probability 4e-7.
    np.testing.assert_allclose(drawn.mean(0), 0.0, atol=0.04 + 0.05)
    np.testing.assert_allclose(np.cov(drawn.T), PCA(2).fit(table()).get_covariance(), atol=0.06 + 0.05)


def test_reconstruction_is_nearly_that_of_pca(linear: lb.sklearn.VAE) -> None:
    x, pca = table(), PCA(2).fit(table())
    error = np.square(linear.inverse_transform(linear.transform(x)) - x).mean()
    least = np.square(pca.inverse_transform(pca.transform(x)) - x).mean()
    assert least < error < 1.2 * least < 0.3 < x.var()


def test_score_is_the_bound_of_evaluate(linear: lb.sklearn.VAE) -> None:
    x = table(300)
    scores = lb.evaluate(linear.model_, lb.data.Dataset(x), ["iwae-100"])
    np.testing.assert_allclose(linear.score_samples(x), scores.rows["iwae-100"], atol=0.1)
    assert linear.score(x) == linear.score_samples(x).mean()


def test_densities_count_in_the_units_of_the_columns() -> None:
    x, units = table(60), np.array([4.0, 0.5, 1.0, 64.0, 0.25])
    plain, other = lb.sklearn.VAE(**SMALL).fit(x), lb.sklearn.VAE(**SMALL).fit(x * units)
    np.testing.assert_array_equal(other.transform(x * units), plain.transform(x))
    shift = other.score_samples(x * units) - plain.score_samples(x)
    np.testing.assert_allclose(shift, -np.log(units).sum(), atol=1e-4)
    odd = x * [3.0, 0.7, 1.0, 1.0, 1.0] + 5.0  # the same table up to rounding: other draws, and the same densities
    model = lb.sklearn.VAE(**SMALL).fit(odd).set_params(score_particles=1000)
    assert abs(model.score(odd) - plain.set_params(score_particles=1000).score(x) + np.log(2.1)) < 0.02


def test_adversarial_score_is_below_the_evidence_and_near() -> None:
    x = np.repeat(np.eye(4), 64, 0)
    small = {**SMALL_AVB, "epochs": 40, "hidden": (32,), "batch_size": 32, "score_particles": 1000}
    avb = lb.sklearn.AVB(**small, likelihood="bernoulli").fit(x)
    exact = lb.evaluate(avb.model_, lb.data.Dataset(x[::64]), "quadrature").rows["quadrature"]
    found = avb.score_samples(x[::64])
    assert (found < exact + 0.05).all()
    assert (found > exact - 0.6).all()


def test_gaps_are_left_out_of_the_density() -> None:
    x = table(400)
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.3, np.nan, x)
    model = lb.sklearn.VAE(**{**SMALL, "epochs": 20, "lr": 1e-2}, missing=True).fit(holes)
    assert np.isfinite(model.transform(holes)).all()
    few = np.full((1, 5), np.nan)
    few[0, 0] = 0.3
    # Of one value, log p(x) is that of a column: about a standard normal's.
    assert abs(model.score(few) - (-0.5 * np.log(2 * np.pi) - 0.5 * 0.09)) < 0.3


# --- Laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        lb.sklearn.VAE(**SMALL),
        lb.sklearn.VAE(**SMALL, objective="IWAE", particles=3, gradient="dreg", posterior="iaf", prior="mixture"),
        lb.sklearn.ConvVAE(latent_dim=2, width=2, features=4, epochs=2, random_state=0),
        lb.sklearn.AVB(**SMALL_AVB),
    ],
    ids=["vae", "iwae", "conv", "avb"],
)
def test_epochs_add_up_through_a_pickle(estimator: Any) -> None:
    x = table(50)
    whole = clone(estimator).set_params(epochs=3, batch_size=20).fit(x)
    parts = clone(estimator).set_params(epochs=2, batch_size=20).fit(x)
    untouched = parts.transform(x)
    thawed = pickle.loads(pickle.dumps(parts))  # noqa: S301
    np.testing.assert_array_equal(thawed.score_samples(x), parts.score_samples(x))
    thawed.partial_fit(x)
    np.testing.assert_array_equal(thawed.transform(x), whole.transform(x))
    np.testing.assert_array_equal(thawed.score_samples(x), whole.score_samples(x))
    np.testing.assert_array_equal(parts.transform(x), untouched)
    assert [record["epoch"] for record in thawed.history_] == [1, 2, 3]
    alone = clone(estimator).set_params(batch_size=20)
    for _ in range(3):
        alone.partial_fit(x)
    np.testing.assert_array_equal(alone.transform(x), whole.transform(x))


def test_seeds() -> None:
    x = table(50)

    def found(random_state: Any) -> Any:
        return lb.sklearn.VAE(**{**SMALL, "random_state": random_state}).fit(x)

    one, same = found(7), found(7)
    np.testing.assert_array_equal(one.score_samples(x), same.score_samples(x))
    np.testing.assert_array_equal(one.sample(4, random_state=3), same.sample(4, random_state=3))
    assert (one.sample(4) != one.sample(4)).all()
    assert (found(None).transform(x) != found(None).transform(x)).all()
    assert (found(np.random.RandomState(1)).transform(x) == found(np.random.RandomState(1)).transform(x)).all()


def test_the_callers_random_numbers_are_left_alone() -> None:
    x = table(30)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model = lb.sklearn.AVB(**SMALL_AVB).fit(x)
    model.transform(x), model.score(x), model.sample(2, random_state=0)
    assert torch.rand(2).equal(expected)


def test_validation_chooses_the_epoch_and_partial_fit_goes_on_from_it() -> None:
    x = table(60)
    model = lb.sklearn.VAE(**{**SMALL, "epochs": 30, "lr": 0.3, "batch_size": 10}, validation=0.3).fit(x)
    bounds = [record["validation"]["elbo"] for record in model.history_]
    assert np.argmax(bounds) < len(bounds) - 1  # at this rate the last epoch is not the best
    before = model.transform(x)
    model.partial_fit(x)
    assert (model.transform(x) != before).any()


def test_settings_of_the_start_hold() -> None:
    model = lb.sklearn.VAE(**SMALL, kl_warmup=3).partial_fit(table(40))  # a warm-up goes on over calls
    assert [model.partial_fit(table(40)).history_[-1]["kl_weight"] for _ in range(3)] == pytest.approx([2 / 3, 1, 1])


def test_partial_fit_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def timed(state: Any, x: Any, precision: str, step: Any) -> tuple[float, float]:
        asked.append(precision)
        return (1.0 if precision == "bfloat16" else 2.0), 0.0

    monkeypatch.setattr(modes, "_time", timed)
    model = lb.sklearn.VAE(**SMALL, precision="auto")
    for _ in range(3):
        model.partial_fit(table(40))
    assert asked == ["float32", "bfloat16"]
    told = lb.sklearn.VAE(**SMALL, precision="bfloat16")
    for _ in range(3):
        told.partial_fit(table(40))
    assert (model.transform(table(40)) == told.transform(table(40))).all()


# --- With the rest of scikit-learn ------------------------------------------------------------------------------------


def test_pipeline() -> None:
    images, digits = load_digits(return_X_y=True)
    even = digits < 2
    x, y = images[even], digits[even]
    vae = lb.sklearn.VAE(**{**SMALL, "hidden": (32,), "epochs": 60, "lr": 1e-2}, batch_size=30)
    pipeline = make_pipeline(StandardScaler(), vae, LogisticRegression()).fit(x[::2], y[::2])
    assert pipeline.score(x[1::2], y[1::2]) > 0.95
    assert list(pipeline[:-1].get_feature_names_out()) == ["vae0", "vae1"]


def test_search_over_latent_dim() -> None:
    vae = clone(LINEAR).set_params(epochs=40, batch_size=25, lr=2e-2, score_particles=20)
    search = GridSearchCV(vae, {"latent_dim": np.arange(1, 3)}, cv=2).fit(table(200))
    assert search.best_params_ == {"latent_dim": 2}
    assert search.cv_results_["mean_test_score"][1] - search.cv_results_["mean_test_score"][0] > 0.3


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    frames: Any = pytest.importorskip(library)
    x = frames.DataFrame(dict(zip("abcde", table(30).T, strict=True)))
    model = lb.sklearn.VAE(**SMALL).set_output(transform=library).fit(x)
    assert list(model.feature_names_in_) == list("abcde")
    found = model.transform(x)
    assert isinstance(found, frames.DataFrame)
    assert list(found.columns) == ["vae0", "vae1"]


def test_images_as_rows() -> None:
    x = load_digits().data / 16
    conv = lb.sklearn.ConvVAE(
        event_shape=(8, 8), width=4, likelihood="logistic", likelihood_options={"levels": 17}, epochs=3, random_state=0
    )
    before = clone(conv).set_params(lr=1e-9).fit(x).score(x[:50])
    assert conv.fit(x).score(x[:50]) > before + 5
    assert conv.inverse_transform(conv.transform(x)).shape == conv.sample(len(x)).shape == x.shape
    drawn = conv.sample(5) * 16
    assert np.abs(drawn - drawn.round()).max() < 1e-4  # pixels of 17 levels


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "zero-inflated-poisson"])
def test_counts(likelihood: str) -> None:
    x = np.random.default_rng(0).poisson([3.0, 0.5, 40.0], (100, 3))
    model = lb.sklearn.VAE(**{**SMALL, "epochs": 10}, likelihood=likelihood).fit(x)
    drawn = model.sample(500, random_state=0)
    assert (drawn == drawn.round()).all()
    assert (np.abs(np.log(drawn.mean(0) / x.mean(0))) < 1).all()


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator, x, error, match",
    [
        (lb.sklearn.VAE(latent_dim=0), None, ArgumentError, "latent_dim: expected a positive integer, got 0. Pass"),
        (lb.sklearn.AVB(latent_dim=None), None, ArgumentError, "latent_dim: expected a positive integer, got None"),
        (lb.sklearn.VAE(batch_size=None), None, ArgumentError, "batch_size: expected a positive integer, got None"),
        (lb.sklearn.VAE(epochs=0), None, ArgumentError, "epochs: expected a positive integer, got 0. Pass epochs=1"),
        (lb.sklearn.VAE(objective="AVB"), None, ArgumentError, "objective: expected.*got 'AVB'. Known: ELBO, IWAE"),
        (lb.sklearn.VAE(gradient="sgbv"), None, ArgumentError, "gradient.*got 'sgbv'. Did you mean 'sgvb'"),
        (lb.sklearn.VAE(likelihood="gauss"), None, ArgumentError, "likelihood.*got 'gauss'. Did you mean 'gaussian'"),
        (lb.sklearn.VAE(validation=2), None, ArgumentError, "validation: expected a finite number of at least 0"),
        (lb.sklearn.VAE(kl_warmup=99, epochs=1), None, ArgumentError, "kl_warmup: expected at most the run's 1 steps"),
        (lb.sklearn.VAE(patience=1), None, ArgumentError, "patience: expected validation rows"),
        (lb.sklearn.VAE(device="abacus"), None, ArgumentError, "device: expected a device of this machine"),
        (lb.sklearn.AVB(contrast="prio"), None, ArgumentError, "contrast.*got 'prio'. Did you mean 'prior'"),
        (lb.sklearn.ConvVAE(event_shape=(2, 2)), None, ShapeError, "event_shape: expected a shape of 3 values, the"),
        (lb.sklearn.ConvVAE(event_shape=(3,)), None, ShapeError, r"event_shape: expected \(height, width\) or"),
        (lb.sklearn.VAE(), [[0.0, np.nan, 1.0]], DataError, "X of VAE: expected finite values, got NaN in row 0"),
        (lb.sklearn.AVB(), [[0.0, np.nan, 1.0]], DataError, "X of AVB: expected.*take lowerbound.sklearn.VAE.missing"),
        (lb.sklearn.VAE(missing=True), [[0.0, np.nan, 1.0]], DataError, "value 1 of X: expected a row that holds it"),
        (lb.sklearn.VAE(likelihood="bernoulli"), None, DataError, "likelihood='bernoulli': expected only 0 and 1"),
        (lb.sklearn.VAE(likelihood="poisson"), None, DataError, "likelihood='poisson': expected counts, got 0.5."),
        (lb.sklearn.VAE(likelihood="logistic"), None, DataError, "expected multiples of 1/255, got 0.5. Scale"),
    ],
)
def test_errors_of_fit(estimator: Any, x: Any, error: type[Exception], match: str) -> None:
    rows = [[0.5, 1.0, 0.0], [1.0, 0.5, 1.0]] if x is None else x
    with pytest.raises(error, match=match):
        estimator.fit(rows)
    with pytest.raises(NotFittedError, match=f"This {type(estimator).__name__} instance is not fitted yet"):
        estimator.transform(rows)


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score_samples", "score", "sample"])
def test_not_fitted(method: str) -> None:
    with pytest.raises(NotFittedError, match="This VAE instance is not fitted yet"):
        getattr(lb.sklearn.VAE(), method)(np.ones((3, 2)) if method != "sample" else 1)


def test_errors_of_a_fitted_estimator() -> None:
    x = table(20)
    model = lb.sklearn.VAE(**SMALL).fit(x)
    with pytest.raises(ShapeError, match="X of inverse_transform: expected 2 columns, one for.*got 5. Pass"):
        model.inverse_transform(x)
    with pytest.raises(ArgumentError, match="n: expected a positive integer, got 0"):
        model.sample(0)
    with pytest.raises(ArgumentError, match="score_particles: expected a positive integer, got 0"):
        clone(model).set_params(score_particles=0).fit(x).score(x)
    with pytest.raises(DataError, match="X of VAE: expected finite values, got NaN in row 3"):
        model.score(np.where(np.arange(20)[:, None] == 3, np.nan, x))
    ended = lb.sklearn.VAE(**SMALL, schedule="cosine").fit(x)
    with pytest.raises(ArgumentError, match="schedule of VAE.partial_fit: expected 'constant', got 'cosine'. Train"):
        ended.partial_fit(x)
    binary = lb.sklearn.VAE(**SMALL, likelihood="bernoulli").fit(x > 0)
    with pytest.raises(DataError, match="X for likelihood='bernoulli': expected only 0 and 1"):
        binary.score(x)


def test_training_that_fails_leaves_no_model_behind() -> None:
    x = table(20)
    model = lb.sklearn.VAE(**SMALL).fit(x).set_params(lr=-1.0)
    with pytest.raises(ArgumentError, match="lr: expected a finite number above 0"):
        model.fit(x)
    with pytest.raises(NotFittedError, match="This VAE instance is not fitted yet"):
        model.transform(x)
