"""The networks that several models share: features of encoders, decoders, and the encoder of features and a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowerbound.core.checks import positive_int
from lowerbound.core.errors import ShapeError, explain
from lowerbound.nn import MLP, fold_particles, initialize, make_activation

__all__ = ["ConvDecoder", "ConvFeatures", "DenseDecoder", "DenseFeatures", "Encoder", "check_image"]


class Encoder(nn.Module):
    """Features of a row, and a head that turns them into a distribution or a sampler.

    Args:
        features: From rows ``[*, *event_shape]`` to ``[*, n]``.
        head: From ``[*, n]`` to a distribution over ``[latent_dim]``.
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        """Return the distribution for rows ``[*, *event_shape]``."""
        distribution: torch.distributions.Distribution = self.head(self.features(x))
        return distribution


class DenseFeatures(nn.Module):
    """Rows flattened and sent through hidden layers: ``[*, *event_shape]`` to ``[*, out_features]``.

    Args:
        shape: The event shape.
        hidden: The sizes of the hidden layers; with none, the features are the values themselves.
        activation: The name of the activation.
        init: How the weights start.
    """

    def __init__(self, shape: tuple[int, ...], hidden: Sequence[int], activation: str, init: str) -> None:
        super().__init__()
        self.event_dims = len(shape)
        self.body = MLP(math.prod(shape), hidden, None, activate=activation, init=init)
        self.out_features = self.body.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.body(x.flatten(x.dim() - self.event_dims))
        return features


class DenseDecoder(nn.Module):
    """From latents ``[*, latent_dim]`` to ``[*, *event_shape]``.

    Args:
        shape: The event shape.
        latent_dim: The size of z.
        hidden: The sizes of the encoder's hidden layers; the decoder has them in reverse.
        activation: The name of the activation.
        init: How the weights start.
        outputs: Numbers for each value of an event; more than one stand in an axis before those of the event.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        hidden: Sequence[int],
        activation: str,
        init: str,
        *,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.shape = shape if outputs == 1 else (outputs, *shape)
        self.body = MLP(latent_dim, list(reversed(hidden)), math.prod(self.shape), activate=activation, init=init)

    def forward(self, z: Tensor) -> Tensor:
        """Return the output."""
        output: Tensor = self.body(z).unflatten(-1, self.shape)
        return output


def check_image(shape: tuple[int, ...]) -> None:
    """Raise an error if an event shape is no image's.

    Raises:
        ShapeError: if it is not ``(height, width)`` or ``(channels, height, width)``.
    """
    if len(shape) not in (2, 3):
        cure = "Take the model VAE, or network='dense', for rows that are no images."
        expected = "(height, width) or (channels, height, width)"
        raise ShapeError(explain("event_shape", expected=expected, got=shape, cure=cure))


def _grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of an image shape."""
    height, width = shape[-2:]
    return (shape[0] if len(shape) == 3 else 1), height, width


def _channels_last(module: nn.Module) -> nn.Module:
    """Lay the weights out as the processor's convolutions are fastest."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class ConvFeatures(nn.Module):
    """Four convolutions and a dense layer: images ``[*, *event_shape]`` to ``[*, out_features]``.

    Args:
        shape: The event shape.
        width: The channels of the first convolution; the others have twice as many.
        features: The size of the dense layer.
        activation: The name of the activation.
        init: How the weights start.
    """

    def __init__(self, shape: tuple[int, ...], width: int, features: int, activation: str, init: str) -> None:
        super().__init__()
        self.shape, self.event_dims = _grid(shape), len(shape)
        positive_int("width", width)
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
        self.out_features = features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        lead = x.shape[: x.dim() - self.event_dims]
        return fold_particles(self._features, x.reshape(*lead, *self.shape), event_dims=3)

    def _features(self, x: Tensor) -> Tensor:
        # Channels lie last in memory, where convolutions are fastest; flattened in that order nothing is copied.
        image = self.body(x.contiguous(memory_format=torch.channels_last))
        features: Tensor = self.dense(image.permute(0, 2, 3, 1).flatten(1))
        return features


class ConvDecoder(nn.Module):
    """From latents ``[*, latent_dim]`` to images ``[*, *event_shape]``.

    Args:
        shape: The event shape.
        latent_dim: The size of z.
        width: The channels of the last hidden layer; the one before has twice as many.
        activation: The name of the activation.
        init: How the weights start.
        outputs: Numbers for each value of an image; more than one stand in an axis before those of the image.
    """

    def __init__(
        self, shape: tuple[int, ...], latent_dim: int, width: int, activation: str, init: str, *, outputs: int = 1
    ) -> None:
        super().__init__()
        self.event_shape, self.shape = shape if outputs == 1 else (outputs, *shape), _grid(shape)
        channels, height, image_width = self.shape
        self.coarse = ((height + 1) // 2, (image_width + 1) // 2, 2 * width)
        self.dense = nn.Sequential(nn.Linear(latent_dim, math.prod(self.coarse)), make_activation(activation))
        self.body = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1),
            make_activation(activation),
            nn.Conv2d(width, outputs * channels, 3, padding=1),
        )
        initialize(self.dense, init)
        _channels_last(initialize(self.body, init))

    def forward(self, z: Tensor) -> Tensor:
        """Return the output."""
        return fold_particles(self._image, z, event_dims=1)

    def _image(self, z: Tensor) -> Tensor:
        coarse = self.dense(z).unflatten(-1, self.coarse).permute(0, 3, 1, 2)
        _, height, width = self.shape
        image: Tensor = self.body(coarse)[..., :height, :width]  # odd sizes: the last row or column is cut
        return image.reshape(-1, *self.event_shape)
