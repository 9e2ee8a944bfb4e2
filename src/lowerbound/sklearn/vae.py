"""The variational autoencoder for tables, as an estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lowerbound.recipes import Recipe
from lowerbound.sklearn.arguments import certified
from lowerbound.sklearn.estimator import Estimator

__all__ = ["VAE"]


class VAE(Estimator):
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
        return certified("VAE", given, "hidden", "activation", "posterior", "prior")
