"""The convolutional variational autoencoder for images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ShapeError, explain
from lowerbound.models.base import EncoderDecoder
from lowerbound.nn import GaussianHead, fold_particles, initialize, make_activation, make_likelihood

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
        likelihood: ``"bernoulli"``, ``"gaussian"`` or ``"logistic"``.
        likelihood_options: Its arguments, such as ``{"scale": "per-dimension"}`` or ``{"levels": 17}``.
        posterior: The covariance of q(z | x), ``"diagonal"`` or ``"full"``.
        init: How the weights start, as in `lowerbound.nn.initialize`.

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
        posterior: Literal["diagonal", "full"] = "diagonal",
        init: str = "glorot",
    ) -> None:
        shape, options = check_event_shape(event_shape), dict(likelihood_options or {})
        positive_int("latent_dim", latent_dim)
        if len(shape) not in (2, 3):
            cure = "Take the model VAE for rows that are no images."
            expected = "(height, width) or (channels, height, width)"
            raise ShapeError(explain("event_shape", expected=expected, got=shape, cure=cure))
        positive_int("width", width)
        super().__init__(
            event_shape=shape,
            latent_dim=latent_dim,
            encoder=_Encoder(shape, latent_dim, width, features, activation, posterior, init),
            decoder=_Decoder(shape, latent_dim, width, activation, init),
            likelihood=make_likelihood(likelihood, shape, **options),
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
            "init": init,
        }

    def describe(self) -> dict[str, Any]:
        """Return the class and the arguments that rebuild the model, as plain values."""
        return {"class": "ConvVAE", "arguments": self._arguments}


def _grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of an image shape."""
    height, width = shape[-2:]
    return (shape[0] if len(shape) == 3 else 1), height, width


def _channels_last(module: nn.Module) -> nn.Module:
    """Lay the weights out as the processor's convolutions are fastest."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class _Encoder(nn.Module):
    """From images ``[*, *event_shape]`` to a Gaussian over ``[latent_dim]``."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        width: int,
        features: int,
        activation: str,
        posterior: Any,
        init: str,
    ) -> None:
        super().__init__()
        self.shape = _grid(shape)
        self.event_dims = len(shape)
        channels, height, image_width = self.shape
        flat = 2 * width * ((height + 1) // 2) * ((image_width + 1) // 2)
        body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            make_activation(activation),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            make_activation(activation),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            make_activation(activation),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            make_activation(activation),
        )
        dense = nn.Sequential(nn.Linear(flat, positive_int("features", features)), make_activation(activation))
        self.body = _channels_last(initialize(body, init))
        self.dense = initialize(dense, init)
        self.head = GaussianHead(features, latent_dim, covariance=posterior, init=init)

    def forward(self, x: Tensor) -> Distribution:
        lead = x.shape[: x.dim() - self.event_dims]
        h = fold_particles(self._features, x.reshape(*lead, *self.shape), event_dims=3)
        distribution: Distribution = self.head(h)
        return distribution

    def _features(self, x: Tensor) -> Tensor:
        # Channels lie last in memory, where convolutions are fastest; flattened in that order nothing is copied.
        image = self.body(x.contiguous(memory_format=torch.channels_last))
        features: Tensor = self.dense(image.permute(0, 2, 3, 1).flatten(1))
        return features


class _Decoder(nn.Module):
    """From latents ``[*, latent_dim]`` to images ``[*, *event_shape]``."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, activation: str, init: str) -> None:
        super().__init__()
        self.event_shape, self.shape = shape, _grid(shape)
        channels, height, image_width = self.shape
        self.coarse = ((height + 1) // 2, (image_width + 1) // 2, 2 * width)
        self.dense = nn.Sequential(nn.Linear(latent_dim, math.prod(self.coarse)), make_activation(activation))
        self.body = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1),
            make_activation(activation),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        initialize(self.dense, init)
        _channels_last(initialize(self.body, init))

    def forward(self, z: Tensor) -> Tensor:
        return fold_particles(self._image, z, event_dims=1)

    def _image(self, z: Tensor) -> Tensor:
        coarse = self.dense(z).unflatten(-1, self.coarse).permute(0, 3, 1, 2)
        _, height, width = self.shape
        image: Tensor = self.body(coarse)[..., :height, :width]  # odd sizes: the last row or column is cut
        return image.reshape(-1, *self.event_shape)
