"""Networks, and heads that turn a network's output into a distribution."""

from lowerbound.nn.fold import fold_particles
from lowerbound.nn.heads import GaussianHead
from lowerbound.nn.initialize import initialize
from lowerbound.nn.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    LogisticLikelihood,
    make_likelihood,
)
from lowerbound.nn.mlp import MLP, make_activation

__all__ = [
    "MLP",
    "BernoulliLikelihood",
    "GaussianHead",
    "GaussianLikelihood",
    "Likelihood",
    "LogisticLikelihood",
    "fold_particles",
    "initialize",
    "make_activation",
    "make_likelihood",
]
