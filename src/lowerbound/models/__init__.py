"""Deep latent-variable models: a prior, a likelihood and a posterior, put together."""

from collections.abc import Callable

from lowerbound.models.base import EncoderDecoder, LatentVariableModel
from lowerbound.models.conv_vae import ConvVAE
from lowerbound.models.hierarchical import HierarchicalVAE
from lowerbound.models.implicit_vae import ImplicitVAE
from lowerbound.models.vae import VAE

__all__ = ["MODELS", "VAE", "ConvVAE", "EncoderDecoder", "HierarchicalVAE", "ImplicitVAE", "LatentVariableModel"]

MODELS: dict[str, Callable[..., EncoderDecoder]] = {
    "ConvVAE": ConvVAE,
    "HierarchicalVAE": HierarchicalVAE,
    "ImplicitVAE": ImplicitVAE,
    "VAE": VAE,
}
"""The models that a run folder can name, by the class in their description."""
