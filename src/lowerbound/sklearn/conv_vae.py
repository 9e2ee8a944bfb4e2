"""The convolutional variational autoencoder, as an estimator of flat rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.errors import ShapeError, explain
from lowerbound.recipes import Recipe
from lowerbound.sklearn.arguments import certified
from lowerbound.sklearn.estimator import Estimator
from lowerbound.sklearn.values import plain

__all__ = ["ConvVAE"]


class ConvVAE(Estimator):
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
        return certified("ConvVAE", given, "width", "features", "activation", "posterior", "prior")

    def _event_shape(self, features: int) -> tuple[int, ...]:
        if self.event_shape is None:
            return (1, features)
        shape = check_event_shape(plain(self.event_shape))
        if math.prod(shape) != features:
            cure = "Pass the shape of one image; a row holds its values in order, as image.reshape(-1) does."
            expected = f"a shape of {features} values, the columns of X"
            raise ShapeError(explain("event_shape", expected=expected, got=shape, cure=cure))
        return shape
