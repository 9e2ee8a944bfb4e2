"""The variational autoencoder with fully connected networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.checks import positive_int
from lowerbound.models.base import EncoderDecoder
from lowerbound.models.networks import DenseDecoder, DenseFeatures, Encoder
from lowerbound.nn import make_likelihood, make_posterior

__all__ = ["VAE"]


class VAE(EncoderDecoder):
    r"""A variational autoencoder whose encoder and decoder are multilayer perceptrons.

    .. math:: p(x, z) = p(z)\, p(x | f(z)), \qquad q(z | x) = \mathcal{N}(z; \mu(x), \Sigma(x)) \text{, or a flow}

    Args:
        event_shape: The shape of one row x, such as ``(28, 28)`` or ``(64,)``.
        latent_dim: The size of z.
        hidden: The sizes of the encoder's hidden layers; the decoder has them in reverse.
        activation: The name of the activation between layers.
        likelihood: A name of `lowerbound.nn.likelihoods.LIKELIHOODS`, such as ``"bernoulli"`` or ``"gaussian"``.
        likelihood_options: Its arguments, such as ``{"scale": "per-dimension"}`` or ``{"levels": 17}``.
        posterior: The name of q(z | x), as in `lowerbound.nn.make_posterior`, such as ``"diagonal"``, ``"full"`` or
            ``"iaf"``.
        posterior_options: Its arguments, such as ``{"transforms": 2}``.
        prior: The name of p(z), as in `lowerbound.nn.make_prior`, such as ``"standard"`` or ``"vamp"``.
        prior_options: Its arguments, such as ``{"components": 500}``.
        init: How the weights start, as in `lowerbound.nn.initialize`.
        missing: Whether rows may have gaps, NaN: the encoder sees the mean in their place, and the likelihood is that
            of the values which are there (Mattei and Frellsen, MIWAE, 2019).

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).

    Example:
        >>> model = lb.models.VAE(event_shape=(28, 28), latent_dim=40)
        >>> x = torch.zeros(5, 28, 28)
        >>> model.encode(x).event_shape, model.decode(torch.zeros(3, 40)).mean.shape
        (torch.Size([40]), torch.Size([3, 28, 28]))
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        likelihood: str = "bernoulli",
        likelihood_options: Mapping[str, Any] | None = None,
        posterior: str = "diagonal",
        posterior_options: Mapping[str, Any] | None = None,
        prior: str = "standard",
        prior_options: Mapping[str, Any] | None = None,
        init: str = "glorot",
        missing: bool = False,
    ) -> None:
        shape, options = check_event_shape(event_shape), dict(likelihood_options or {})
        positive_int("latent_dim", latent_dim)
        p_x = make_likelihood(likelihood, shape, **options)
        features = DenseFeatures((p_x.seen_size,) if p_x.mixed else shape, hidden, activation, init)
        head = make_posterior(posterior, features.out_features, latent_dim, options=posterior_options, init=init)
        super().__init__(
            event_shape=shape,
            latent_dim=latent_dim,
            encoder=Encoder(features, head),
            decoder=DenseDecoder(shape, latent_dim, hidden, activation, init, outputs=p_x.outputs),
            likelihood=p_x,
            prior=prior,
            prior_options=prior_options,
            missing=missing,
        )
        self._arguments = {
            "event_shape": list(shape),
            "latent_dim": latent_dim,
            "hidden": list(hidden),
            "activation": activation,
            "likelihood": likelihood,
            "likelihood_options": options,
            "posterior": posterior,
            "posterior_options": dict(posterior_options or {}),
            "prior": prior,
            "prior_options": dict(prior_options or {}),
            "init": init,
            "missing": missing,
        }

    def describe(self) -> dict[str, Any]:
        """Return the class and the arguments that rebuild the model, as plain values."""
        return {"class": "VAE", "arguments": self._arguments}
