"""Bounds over a data set, in nats with standard errors, and what the latents do."""

from lowerbound.evaluation.ais import Annealed, ais, gaussian_start
from lowerbound.evaluation.bdmc import Sandwich, bdmc
from lowerbound.evaluation.critic import calibration_error, judge_critic, refit_critic
from lowerbound.evaluation.evaluate import evaluate
from lowerbound.evaluation.fitted import fitted_gaussian
from lowerbound.evaluation.gallery import Gallery, gallery
from lowerbound.evaluation.impute import Imputation, impute
from lowerbound.evaluation.latents import latent_summary
from lowerbound.evaluation.measures import MEASURES
from lowerbound.evaluation.quadrature import quadrature
from lowerbound.evaluation.scores import Scores

__all__ = [
    "MEASURES",
    "Annealed",
    "Gallery",
    "Imputation",
    "Sandwich",
    "Scores",
    "ais",
    "bdmc",
    "calibration_error",
    "evaluate",
    "fitted_gaussian",
    "gallery",
    "gaussian_start",
    "impute",
    "judge_critic",
    "latent_summary",
    "quadrature",
    "refit_critic",
]
