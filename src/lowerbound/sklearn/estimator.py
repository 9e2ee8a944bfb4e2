"""What the estimators for scikit-learn share: fitting, transforming, scoring, and what scikit-learn asks of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lowerbound.core.checks import number, positive_int
from lowerbound.core.device import find_device
from lowerbound.core.errors import ArgumentError, DataError, ShapeError, explain
from lowerbound.core.random import seeded
from lowerbound.data import Dataset
from lowerbound.objectives import is_loglikelihood
from lowerbound.recipes import Recipe, build
from lowerbound.sklearn.values import check_values, on_cpu, plain, seed_of
from lowerbound.training import Settings, State, fit

__all__ = ["Estimator"]

_ROWS_AT_ONCE = 1000
_Own = TypeVar("_Own", bound="Estimator")


class Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What the estimators share; each adds its arguments and says which recipe they make."""

    model_: Any
    likelihood: str
    likelihood_options: Mapping[str, Any] | None
    missing = False  # an argument of those that take gaps
    score_particles: int
    validation: float = 0.0
    epochs: int
    progress: bool
    device: str
    random_state: Any

    def fit(self: _Own, X: ArrayLike, y: Any = None) -> _Own:
        """Train a new model for `epochs` on rows.

        Args:
            X: Rows, shape ``[n, n_features]``.
            y: Not used.

        Returns:
            The estimator.

        Raises:
            LowerboundError: if an argument is out of range or the rows do not suit it, a ValueError; or if training
                meets a value that is not finite.
        """
        rows = self._dataset(self._checked(X, reset=True))
        seed = seed_of(self.random_state)
        held_out = None
        if number("validation", self.validation, low=0.0, high=0.9):
            rows, held_out = rows.split_off(self.validation, seed=seed)
        settings = self._start(rows, seed)
        steps = self._plain["epochs"] * rows.batches_per_epoch(settings.batch_size)
        settings.check_length(steps)
        self._train(rows, held_out, settings, self._state(settings, steps), self._plain["epochs"])
        return self

    def partial_fit(self: _Own, X: ArrayLike, y: Any = None) -> _Own:
        """Train for one epoch on rows, from the present weights and the optimizer's present state.

        Without a model, the rows start one: standardisation and a prior's start are theirs, for good. With one, all
        settings of training but `device` and `progress` are those with which it was started. Steps are counted on,
        and so is a warm-up. An epoch consists of full batches, or of one batch where there are fewer rows.

        Args:
            X: Rows, shape ``[n, n_features]``.
            y: Not used.

        Returns:
            The estimator.

        Raises:
            LowerboundError: as `fit`; and if the schedule is one that ends.
        """
        first = not hasattr(self, "model_")
        x = self._checked(X, reset=first)
        if first:
            settings = self._start(self._dataset(x), seed_of(self.random_state))
            state = None
        else:
            settings, state = self._settings, self._progress
        if settings.schedule != "constant":
            cure = "Train with schedule='constant', or call fit with more epochs."
            where = f"schedule of {type(self).__name__}.partial_fit"
            raise ArgumentError(explain(where, expected="'constant'", got=repr(settings.schedule), cure=cure))
        moving = self._state(settings, 1)
        if state is not None:
            moving.unpack({**state, "objective": self._objective.state_dict()})
        self._train(self._dataset(x), None, settings, moving, moving.epoch + 1)
        return self

    @torch.no_grad()
    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the means of q(z | x), shape ``[n, latent_dim]``, for rows ``[n, n_features]``.

        A flow's mean is that of 64 evenly spread draws. The mean of a posterior without moments is that of 100 draws,
        which depend on the seed and the row alone.

        Raises:
            NotFittedError: if there is no model yet.
            LowerboundError: if the rows do not suit the model, a ValueError.
        """
        check_is_fitted(self, "model_")
        x = self._checked(X, reset=False)
        return self._means(x).numpy(force=True).astype(x.dtype)

    @torch.no_grad()
    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the means of p(x | z), shape ``[n, n_features]``, for latents ``[n, latent_dim]``.

        Raises:
            NotFittedError: if there is no model yet.
            ShapeError: if there is another number of columns.
        """
        check_is_fitted(self, "model_")
        z = check_array(X, dtype=[np.float64, np.float32], input_name="X")
        if z.shape[1] != self.model_.latent_dim:
            cure = "Pass what transform returns."
            expected = f"{self.model_.latent_dim} columns, one for each latent"
            raise ShapeError(explain("X of inverse_transform", expected=expected, got=z.shape[1], cure=cure))
        model = self._exact()
        parts = [model.decode(part).mean for part in _tensor(z, model).split(_ROWS_AT_ONCE)]
        return torch.cat(parts).flatten(1).numpy(force=True).astype(z.dtype)

    @torch.no_grad()
    def sample(self, n_samples: int = 1, random_state: Any = None) -> NDArray[np.float64]:
        """Return rows drawn from the model, shape ``[n_samples, n_features]``.

        Args:
            n_samples: The number of rows.
            random_state: A seed; a `numpy.random.RandomState`, which moves on; or None for other rows at every call.

        Raises:
            NotFittedError: if there is no model yet.
            ArgumentError: if `n_samples` is not positive.
        """
        check_is_fitted(self, "model_")
        with seeded(seed_of(random_state), "sample"):
            rows: Tensor = self.model_.sample(plain(n_samples))["x"]
        return rows.flatten(1).numpy(force=True).astype(np.float64)

    @torch.no_grad()
    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""Return a lower bound, in expectation, of log p(x) for each row in nats, shape ``[n]``.

        .. math:: \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

        with `score_particles` draws; where q has no density, they come from a Gaussian that is fitted to its draws. A
        density counts in units of `X`; of a row with gaps, it is that of the values which are there. The draws of a
        row depend on the seed and the row alone, so its value does not change with the rows beside it. Every row is
        computed for itself: that takes some milliseconds each.

        Args:
            X: Rows, shape ``[n, n_features]``.

        Raises:
            NotFittedError: if there is no model yet.
            LowerboundError: if the rows do not suit the model, a ValueError.

        Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016).
        """
        check_is_fitted(self, "model_")
        rows = self._dataset(self._checked(X, reset=False)).to(self._device)
        particles = positive_int("score_particles", plain(self.score_particles))
        values = np.empty(len(rows))
        for i, x in enumerate(rows.evaluation_batches(1)):
            with seeded(self._seed, "score", self._digest(x)):
                values[i] = self._bound(x, particles)
        return values

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Return the mean of `score_samples`, in nats a row: higher is better.

        Args:
            X: Rows, shape ``[n, n_features]``.
            y: Not used.
        """
        return float(self.score_samples(X).mean())

    # --- What the estimators differ in --------------------------------------------------------------------------------

    def _event_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape in which the model sees a row."""
        return (features,)

    def _recipe(self, given: Mapping[str, Any]) -> Recipe:
        """Return what to train, from the arguments as plain values."""
        raise NotImplementedError

    def _bound(self, x: Tensor, particles: int) -> float:
        """Return the bound of one row, shape ``[1, *event_shape]``."""
        return float(is_loglikelihood(*self.model_.programs(x), particles=particles))

    def _means(self, x: NDArray[Any]) -> Tensor:
        """Return the posterior means of rows, shape ``[n, latent_dim]``."""
        model = self._exact()
        rows = _tensor(x, model).reshape(-1, *model.event_shape)
        return torch.cat([model.encode(part).mean for part in rows.split(_ROWS_AT_ONCE)])

    # --- Machinery ----------------------------------------------------------------------------------------------------

    @property
    def _plain(self) -> dict[str, Any]:
        """The arguments without NumPy's numbers, as a search over a grid sets them."""
        return {name: plain(value) for name, value in self.get_params(deep=False).items()}

    @property
    def _n_features_out(self) -> int:
        """The number of columns that `transform` returns, which scikit-learn asks for to name them."""
        latent_dim: int = self.model_.latent_dim
        return latent_dim

    @property
    def _device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.model_.parameters()).device
        return device

    def _start(self, rows: Dataset, seed: int) -> Settings:
        """Put an untrained model in place, and return the settings of its training."""
        if hasattr(self, "model_"):
            del self.model_  # a training that fails leaves no model, rather than the one before
        recipe = self._recipe(self._plain).changed(seed=seed)
        settings = Settings(epochs=positive_int("epochs", self._plain["epochs"]), **recipe.training, seed=seed)
        self._objective: Any = build(recipe, rows)
        self._seed, self._settings = seed, settings
        return settings

    def _state(self, settings: Settings, steps: int) -> State:
        """Return moving parts that have not moved, on the device that is named: a pickle comes from the processor."""
        self._objective.to(find_device(self.device))
        return State(self._objective, settings, steps)

    def _train(self, rows: Dataset, held_out: Dataset | None, settings: Settings, state: State, epochs: int) -> None:
        """Train until so many epochs are over in all, and keep what another call needs."""
        run = fit(
            self._objective,
            rows,
            validation=held_out,
            device=self.device,
            progress=self.progress,
            state=state,
            **{**vars(settings), "epochs": epochs},
        )
        self.model_, self.history_ = run.model, run.history
        kept = state.snapshot()
        self._settings = state.settings  # what was left to measuring is settled
        self._progress = {**kept, "objective": None, "best": {}}

    def _checked(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Return rows as an array of float64 or float32 that suits the model."""
        x: NDArray[Any] = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan"
        )
        gaps = np.isnan(x)
        if gaps.any() and not self.missing:
            cure = "Leave the rows out, impute them, or take lowerbound.sklearn.VAE(missing=True), which takes gaps."
            where = f"NaN in row {int(gaps.any(1).argmax())}"
            raise DataError(explain(f"X of {type(self).__name__}", expected="finite values", got=where, cure=cure))
        check_values(x[~gaps], self.likelihood, self._levels)
        return x

    @property
    def _levels(self) -> int | None:
        if self.likelihood not in ("logistic", "logistic-mixture"):
            return None
        return int((self.likelihood_options or {}).get("levels", 256))

    def _dataset(self, x: NDArray[Any]) -> Dataset:
        shape = self._event_shape(x.shape[1])
        rows = x.astype(np.float32).reshape(-1, *shape)
        return Dataset(rows, name="X", levels=self._levels, missing=self.missing)

    def _digest(self, row: Tensor) -> int:
        """Return a number that identifies a row by its standardised values, ``[1, *event_shape]``, in any units."""
        seen: Any = self.model_.posterior
        digest = hashlib.blake2b(((row - seen.center) / seen.spread).cpu().numpy().tobytes(), digest_size=7)
        return int.from_bytes(digest.digest(), "big")

    def _exact(self) -> Any:
        """Return a copy of the model in float64: a row's numbers then do not depend on the rows beside it."""
        model = copy.deepcopy(self.model_)
        return model.to("cpu" if self._device.type == "mps" else self._device, torch.float64)

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.missing)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: weights and the optimizer's state as they lie on the processor."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["_objective"] = copy.deepcopy(self._objective).cpu()
            state["model_"], state["_progress"] = state["_objective"].model, on_cpu(self._progress)
        return state


def _tensor(x: NDArray[Any], like: Any) -> Tensor:
    """Return an array in float64 on the device of a model."""
    return torch.from_numpy(x.astype(np.float64)).to(next(like.parameters()).device)
