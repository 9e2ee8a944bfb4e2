"""Estimators for scikit-learn: a VAE, a convolutional VAE, and adversarial variational Bayes."""

from __future__ import annotations

import copy
import hashlib
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lowerbound.core.checks import choice, number, positive_int
from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.device import find_device
from lowerbound.core.errors import ArgumentError, DataError, ShapeError, explain
from lowerbound.core.random import seeded
from lowerbound.data import Dataset
from lowerbound.evaluation import fitted_gaussian
from lowerbound.nn.likelihoods import LIKELIHOODS
from lowerbound.objectives import is_loglikelihood
from lowerbound.recipes import RECIPES, Recipe, build
from lowerbound.training import Settings, State, fit

__all__ = ["AVB", "VAE", "ConvVAE"]

_ROWS_AT_ONCE = 1000
_Own = TypeVar("_Own", bound="_Estimator")


class _Estimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
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
        seed = _seed(self.random_state)
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
            settings = self._start(self._dataset(x), _seed(self.random_state))
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
        with seeded(_seed(random_state), "sample"):
            rows: Tensor = self.model_.sample(_plain(n_samples))["x"]
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
        particles = positive_int("score_particles", _plain(self.score_particles))
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
        return {name: _plain(value) for name, value in self.get_params(deep=False).items()}

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
        _check_values(x[~gaps], self.likelihood, self._levels)
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
            state["model_"], state["_progress"] = state["_objective"].model, _on_cpu(self._progress)
        return state


class VAE(_Estimator):
    r"""A variational autoencoder for tables, as a scikit-learn estimator.

    .. math:: p(x, z) = \mathcal{N}(z; 0, I)\, p(x | f(z)), \qquad q(z | x) = \mathcal{N}(z; \mu(x), \Sigma(x))

    With a Gaussian likelihood, the networks see every column in units of its spread; densities count in those of X.

    Args:
        latent_dim: The size of z.
        hidden: The sizes of the encoder's hidden layers; the decoder has them in reverse.
        activation: The name of the activation between layers.
        likelihood: A name of `lowerbound.nn.likelihoods.LIKELIHOODS`: ``"gaussian"`` for real values, ``"bernoulli"``
            for 0 and 1, ``"poisson"`` or ``"negative-binomial"`` for counts, ``"logistic"`` for pixels in [0, 1].
        likelihood_options: Its arguments, such as ``{"scale": "per-dimension"}`` or ``{"levels": 17}``.
        posterior: The name of q(z | x), as in `lowerbound.nn.make_posterior`.
        prior: The name of p(z), as in `lowerbound.nn.make_prior`.
        missing: Whether NaN is a gap, which the likelihood leaves out (Mattei and Frellsen, MIWAE, 2019), or an error.
        objective: ``"ELBO"`` or ``"IWAE"``.
        particles: Its number of draws a row, in training.
        gradient: Its gradient; None for its own default.
        epochs: How often `fit` goes through the rows.
        batch_size: Rows a step.
        lr: The learning rate of Adam.
        schedule: ``"constant"``, or ``"cosine"``, which ends at zero: for `fit` only.
        kl_warmup: Steps over which the weight of the KL term rises to 1.
        validation: The share of the rows of `fit` that is held out to choose the epoch whose weights are kept.
        patience: Epochs without a better bound on them after which training stops; None for never.
        score_particles: The number of draws a row in `score_samples`.
        device: Where to compute, such as ``"cpu"`` or ``"cuda"``; ``"auto"`` takes an accelerator if there is one.
        precision: ``"float32"``, ``"bfloat16"`` for the networks while they train, or ``"auto"`` for the faster.
        progress: Whether to show a progress bar.
        random_state: The seed of everything, which repeats all results; None for another one each time.

    Attributes:
        model_: The trained model, a `lowerbound.models.VAE`: for `lowerbound.evaluate` and whatever else takes one.
        history_: One record for each epoch.
        n_features_in_: The number of columns.
        feature_names_in_: Their names, if they have any.

    Raises:
        ArgumentError: by `fit`, if an argument is out of range or a name is unknown.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).

    Example:
        >>> X = torch.randn(100, 5).numpy()
        >>> vae = lb.sklearn.VAE(latent_dim=2, hidden=(16,), epochs=2, random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.score_samples(X).shape, vae.sample(3).shape
        ((100, 2), (100,), (3, 5))
    """

    def __init__(
        self,
        *,
        latent_dim: int = 10,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        likelihood: str = "gaussian",
        likelihood_options: Mapping[str, Any] | None = None,
        posterior: str = "diagonal",
        prior: str = "standard",
        missing: bool = False,
        objective: Literal["ELBO", "IWAE"] = "ELBO",
        particles: int = 1,
        gradient: str | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        schedule: Literal["constant", "cosine"] = "constant",
        kl_warmup: int = 0,
        validation: float = 0.0,
        patience: int | None = None,
        score_particles: int = 100,
        device: str = "cpu",
        precision: Literal["float32", "bfloat16", "auto"] = "float32",
        progress: bool = False,
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.activation = activation
        self.likelihood = likelihood
        self.likelihood_options = likelihood_options
        self.posterior = posterior
        self.prior = prior
        self.missing = missing
        self.objective = objective
        self.particles = particles
        self.gradient = gradient
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.kl_warmup = kl_warmup
        self.validation = validation
        self.patience = patience
        self.score_particles = score_particles
        self.device = device
        self.precision = precision
        self.progress = progress
        self.random_state = random_state

    def _recipe(self, given: Mapping[str, Any]) -> Recipe:
        return _certified("VAE", given, "hidden", "activation", "posterior", "prior")


class ConvVAE(_Estimator):
    r"""A convolutional variational autoencoder for images as flat rows, as a scikit-learn estimator.

    The networks are those of `lowerbound.models.ConvVAE`.

    Args:
        event_shape: The shape of the image in a row: ``(height, width)``, or ``(channels, height, width)``; None for
            a signal, ``(1, n_features)``.
        latent_dim: The size of z.
        width: The number of channels of the first convolution; the others are twice that.
        features: The size of the encoder's dense layer.
        activation: As for `VAE`.
        likelihood: As for `VAE`: ``"logistic"`` with the option ``levels`` for pixels in [0, 1], or ``"bernoulli"`` for
            binary ones.
        likelihood_options: As for `VAE`.
        posterior: As for `VAE`.
        prior: As for `VAE`.
        missing: As for `VAE`.
        objective: As for `VAE`.
        particles: As for `VAE`.
        gradient: As for `VAE`.
        epochs: As for `VAE`.
        batch_size: As for `VAE`.
        lr: As for `VAE`.
        schedule: As for `VAE`.
        kl_warmup: As for `VAE`.
        validation: As for `VAE`.
        patience: As for `VAE`.
        score_particles: As for `VAE`.
        device: As for `VAE`.
        precision: As for `VAE`.
        progress: As for `VAE`.
        random_state: As for `VAE`.

    Attributes:
        model_: The trained model, a `lowerbound.models.ConvVAE`.
        history_: One record for each epoch.
        n_features_in_: The number of pixels.
        feature_names_in_: Their names, if they have any.

    Raises:
        ArgumentError: by `fit`, if an argument is out of range or a name is unknown.
        ShapeError: by `fit`, if a row has another number of values than an image.

    Source: the network of F. Chollet, Deep Learning with Python (2017).

    Example:
        >>> X = torch.rand(50, 64).round().numpy()
        >>> settings = {"latent_dim": 2, "width": 4, "likelihood": "bernoulli", "epochs": 1, "random_state": 0}
        >>> vae = lb.sklearn.ConvVAE(event_shape=(8, 8), **settings).fit(X)
        >>> vae.inverse_transform(vae.transform(X)).shape
        (50, 64)
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int] | None = None,
        latent_dim: int = 2,
        width: int = 32,
        features: int = 32,
        activation: str = "relu",
        likelihood: str = "gaussian",
        likelihood_options: Mapping[str, Any] | None = None,
        posterior: str = "diagonal",
        prior: str = "standard",
        missing: bool = False,
        objective: Literal["ELBO", "IWAE"] = "ELBO",
        particles: int = 1,
        gradient: str | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        schedule: Literal["constant", "cosine"] = "constant",
        kl_warmup: int = 0,
        validation: float = 0.0,
        patience: int | None = None,
        score_particles: int = 100,
        device: str = "cpu",
        precision: Literal["float32", "bfloat16", "auto"] = "float32",
        progress: bool = False,
        random_state: Any = None,
    ) -> None:
        self.event_shape = event_shape
        self.latent_dim = latent_dim
        self.width = width
        self.features = features
        self.activation = activation
        self.likelihood = likelihood
        self.likelihood_options = likelihood_options
        self.posterior = posterior
        self.prior = prior
        self.missing = missing
        self.objective = objective
        self.particles = particles
        self.gradient = gradient
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.kl_warmup = kl_warmup
        self.validation = validation
        self.patience = patience
        self.score_particles = score_particles
        self.device = device
        self.precision = precision
        self.progress = progress
        self.random_state = random_state

    def _recipe(self, given: Mapping[str, Any]) -> Recipe:
        return _certified("ConvVAE", given, "width", "features", "activation", "posterior", "prior")

    def _event_shape(self, features: int) -> tuple[int, ...]:
        if self.event_shape is None:
            return (1, features)
        shape = check_event_shape(_plain(self.event_shape))
        if math.prod(shape) != features:
            cure = "Pass the shape of one image; a row holds its values in order, as image.reshape(-1) does."
            expected = f"a shape of {features} values, the columns of X"
            raise ShapeError(explain("event_shape", expected=expected, got=shape, cure=cure))
        return shape


class AVB(_Estimator):
    r"""Adversarial variational Bayes for tables: a posterior that is only a sampler, as a scikit-learn estimator.

    .. math:: p(x, z) = \mathcal{N}(z; 0, I)\, p(x | f(z)), \qquad z = g(x, \epsilon) \text{ instead of } q(z | x)

    What training reports (``history_``) is an estimate and no bound; `score_samples` is a bound in expectation.

    Args:
        latent_dim: The size of z.
        hidden: The sizes of the hidden layers of sampler and decoder.
        sampler: ``"noise"`` joins noise to the row, ``"basis"`` mixes random vectors whose moments are known.
        noise_dim: The size of the noise, of each basis vector if there are such.
        critic_hidden: The sizes of the critic's hidden layers.
        activation: As for `VAE`.
        likelihood: As for `VAE`.
        likelihood_options: As for `VAE`.
        contrast: ``"adaptive"``, from the moments of q for each row, or ``"prior"``.
        particles: The number of draws a row, in training.
        critic_steps: Updates of the critic for each of the model's.
        critic_lr: The critic's learning rate; None for `lr`.
        epochs: As for `VAE`.
        batch_size: As for `VAE`.
        lr: The learning rate of Adam, with the betas 0.5 and 0.999.
        schedule: As for `VAE`.
        kl_warmup: As for `VAE`.
        score_particles: As for `VAE`; the draws come from a Gaussian that is fitted to 1,000 of the sampler's.
        device: As for `VAE`.
        precision: As for `VAE`.
        progress: As for `VAE`.
        random_state: As for `VAE`.

    Attributes:
        model_: The trained model, a `lowerbound.models.ImplicitVAE`.
        history_: One record for each epoch.
        n_features_in_: The number of columns.
        feature_names_in_: Their names, if they have any.

    Raises:
        ArgumentError: by `fit`, if an argument is out of range or a name is unknown.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> X = torch.eye(4).repeat(8, 1).numpy()
        >>> small = {"hidden": (8,), "critic_hidden": (8,), "epochs": 1, "random_state": 0}
        >>> lb.sklearn.AVB(likelihood="bernoulli", **small).fit_transform(X).shape
        (32, 2)
    """

    def __init__(
        self,
        *,
        latent_dim: int = 2,
        hidden: Sequence[int] = (256, 256),
        sampler: Literal["noise", "basis"] = "noise",
        noise_dim: int = 4,
        critic_hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        likelihood: str = "gaussian",
        likelihood_options: Mapping[str, Any] | None = None,
        contrast: Literal["adaptive", "prior"] = "adaptive",
        particles: int = 1,
        critic_steps: int = 2,
        critic_lr: float | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        lr: float = 1e-3,
        schedule: Literal["constant", "cosine"] = "constant",
        kl_warmup: int = 0,
        score_particles: int = 100,
        device: str = "cpu",
        precision: Literal["float32", "bfloat16", "auto"] = "float32",
        progress: bool = False,
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.sampler = sampler
        self.noise_dim = noise_dim
        self.critic_hidden = critic_hidden
        self.activation = activation
        self.likelihood = likelihood
        self.likelihood_options = likelihood_options
        self.contrast = contrast
        self.particles = particles
        self.critic_steps = critic_steps
        self.critic_lr = critic_lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.kl_warmup = kl_warmup
        self.score_particles = score_particles
        self.device = device
        self.precision = precision
        self.progress = progress
        self.random_state = random_state

    def _recipe(self, given: Mapping[str, Any]) -> Recipe:
        training = _some(given, "batch_size", "lr", "schedule", "kl_warmup", "precision")
        return Recipe(
            **_common(given),
            model="ImplicitVAE",
            model_options=_some(given, "hidden", "sampler", "noise_dim", "critic_hidden", "activation"),
            objective="AVB",
            objective_options=_some(given, "contrast", "particles", "critic_steps", "critic_lr"),
            training={**RECIPES["avb"].training, **training},
        )

    def _bound(self, x: Tensor, particles: int) -> float:
        model, observed, posterior = self.model_.programs(x)
        return float(is_loglikelihood(model, observed, fitted_gaussian(posterior), particles=particles))

    def _means(self, x: NDArray[Any]) -> Tensor:
        means = []
        for row in self._dataset(x).to(self._device).evaluation_batches(1):
            with seeded(self._seed, "transform", self._digest(row)):
                means.append(self.model_.encode(row).mean)
        return torch.cat(means)


def _certified(model: str, given: Mapping[str, Any], *own: str) -> Recipe:
    """Return the recipe of a model that is trained on a bound, with arguments of its own by name."""
    options = _some(given, "particles", "gradient")
    return Recipe(
        **_common(given),
        missing=given["missing"],
        model=model,
        model_options=_some(given, *own),
        objective=choice("objective", given["objective"], ("ELBO", "IWAE")),
        objective_options={name: value for name, value in options.items() if value is not None},
        training=_some(given, "batch_size", "lr", "schedule", "kl_warmup", "patience", "precision"),
    )


def _common(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all recipes have, by name."""
    options = {"likelihood_options": given["likelihood_options"] or {}}
    return {"name": "sklearn", "summary": "", **_some(given, "latent_dim", "likelihood"), **options}


def _check_values(x: NDArray[Any], likelihood: str, levels: int | None) -> None:
    """Raise an error if values do not suit a likelihood by name; `recipes.build` checks the rows of training only."""
    kind = LIKELIHOODS[choice("likelihood", likelihood, LIKELIHOODS)]
    if likelihood == "bernoulli":
        bad, expected = (x != 0) & (x != 1), "only 0 and 1"
        cure = "Binarise them, as sklearn.preprocessing.Binarizer does, or take likelihood='gaussian' or 'logistic'."
    elif getattr(kind, "counts", False):
        bad, expected = (x < 0) | (x != np.round(x)), "counts"
        cure = "Take likelihood='gaussian' for other numbers."
    elif levels is not None:
        steps = x * (levels - 1)
        bad, expected = (x < 0) | (x > 1) | (np.abs(steps - np.round(steps)) > 1e-3), f"multiples of 1/{levels - 1}"
        cure = "Scale pixels k to k / (levels - 1), and pass likelihood_options={'levels': ...} unless it is 256."
    else:
        return
    if bad.any():
        got = f"{x[bad][0]:g}"
        raise DataError(explain(f"X for likelihood={likelihood!r}", expected=expected, got=got, cure=cure))


def _some(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers and tuples in place of NumPy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return tuple(_plain(one) for one in value)
    return value


def _seed(random_state: Any) -> int:
    """Return a seed: the number that is given, or one that is drawn as scikit-learn draws them."""
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _tensor(x: NDArray[Any], like: Any) -> Tensor:
    """Return an array in float64 on the device of a model."""
    return torch.from_numpy(x.astype(np.float64)).to(next(like.parameters()).device)


def _on_cpu(tree: Any) -> Any:
    """Return a tree with its tensors on the processor."""
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, Mapping):
        return {key: _on_cpu(value) for key, value in tree.items()}
    return [_on_cpu(value) for value in tree] if isinstance(tree, list) else tree
