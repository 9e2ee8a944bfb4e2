"""Bounds over a data set, in nats with standard errors, and what the latents do."""

from lowerbound.evaluation.evaluate import MEASURES, evaluate
from lowerbound.evaluation.gallery import Gallery, gallery
from lowerbound.evaluation.latents import latent_summary
from lowerbound.evaluation.scores import Scores

__all__ = ["MEASURES", "Gallery", "Scores", "evaluate", "gallery", "latent_summary"]
