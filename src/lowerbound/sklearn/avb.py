"""Adversarial variational Bayes for tables, as an estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.core.random import seeded
from lowerbound.evaluation import fitted_gaussian
from lowerbound.objectives import is_loglikelihood
from lowerbound.recipes import RECIPES, Recipe
from lowerbound.sklearn.arguments import common, some
from lowerbound.sklearn.estimator import Estimator

__all__ = ["AVB"]


class AVB(Estimator):
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
        training = some(given, "batch_size", "lr", "schedule", "kl_warmup", "precision")
        return Recipe(
            **common(given),
            model="ImplicitVAE",
            model_options=some(given, "hidden", "sampler", "noise_dim", "critic_hidden", "activation"),
            objective="AVB",
            objective_options=some(given, "contrast", "particles", "critic_steps", "critic_lr"),
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
