"""Networks, heads that turn a network's output into a distribution or a sampler, and critics."""

from lowerbound.nn.critics import BilinearCritic, Critic, MLPCritic
from lowerbound.nn.fold import fold_particles
from lowerbound.nn.heads import GaussianHead
from lowerbound.nn.initialize import initialize
from lowerbound.nn.joint import JointMLP
from lowerbound.nn.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    LogisticLikelihood,
    make_likelihood,
)
from lowerbound.nn.mlp import MLP, make_activation
from lowerbound.nn.samplers import BasisSampler, NoiseSampler

__all__ = [
    "MLP",
    "BasisSampler",
    "BernoulliLikelihood",
    "BilinearCritic",
    "Critic",
    "GaussianHead",
    "GaussianLikelihood",
    "JointMLP",
    "Likelihood",
    "LogisticLikelihood",
    "MLPCritic",
    "NoiseSampler",
    "fold_particles",
    "initialize",
    "make_activation",
    "make_likelihood",
]
