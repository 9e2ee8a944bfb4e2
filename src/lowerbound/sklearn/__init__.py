"""Estimators for scikit-learn: a VAE, a convolutional VAE, and adversarial variational Bayes."""

from lowerbound.sklearn.avb import AVB
from lowerbound.sklearn.conv_vae import ConvVAE
from lowerbound.sklearn.vae import VAE

__all__ = ["AVB", "VAE", "ConvVAE"]
