"""The convolutional variational autoencoder for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.checks import positive_int
from lowerbound.models.base import EncoderDecoder
from lowerbound.models.networks import ConvDecoder, ConvFeatures, Encoder, check_image
from lowerbound.nn import make_likelihood, make_posterior

__all__ = ["ConvVAE"]


class ConvVAE(EncoderDecoder):
    r"""A variational autoencoder whose encoder and decoder are small convolutional networks.

    The encoder has 3 x 3 convolutions with 32, 64 (stride 2), 64 and 64 channels and a dense layer of 32; the decoder
    a dense layer, a transposed convolution with 32 channels and stride 2, and a convolution to the image.

    Args:
        event_shape: ``(height, width)``, or ``(channels, height, width)``.
        latent_dim: The size of z.
        width: The number of channels of the first convolution; the others are twice that.
        features: The size of the encoder's dense layer.
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
        ShapeError: if rows are no images.

    Source: the network of F. Chollet, Deep Learning with Python (2017).

    Example:
        >>> model = lb.models.ConvVAE(event_shape=(28, 28), latent_dim=2)
        >>> model.reconstruct(torch.zeros(3, 28, 28)).shape
        torch.Size([3, 28, 28])
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        latent_dim: int = 2,
        width: int = 32,
        features: int = 32,
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
        check_image(shape)
        body = ConvFeatures(shape, width, features, activation, init)
        head = make_posterior(posterior, features, latent_dim, options=posterior_options, init=init)
        super().__init__(
            event_shape=shape,
            latent_dim=latent_dim,
            encoder=Encoder(body, head),
            decoder=ConvDecoder(shape, latent_dim, width, activation, init, outputs=p_x.outputs),
            likelihood=p_x,
            prior=prior,
            prior_options=prior_options,
            missing=missing,
        )
        self._arguments = {
            "event_shape": list(shape),
            "latent_dim": latent_dim,
            "width": width,
            "features": features,
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
        return {"class": "ConvVAE", "arguments": self._arguments}
