"""Deep latent-variable models: a prior, a likelihood and a posterior, put together."""

from lowerbound.models.base import LatentVariableModel
from lowerbound.models.conv_vae import ConvVAE
from lowerbound.models.vae import VAE

__all__ = ["VAE", "ConvVAE", "LatentVariableModel"]
