"""The latent explorer: a page on this machine that shows what a trained model has learned."""

from lowerbound.explorer.serve import explore

__all__ = ["explore"]
