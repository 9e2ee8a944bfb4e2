"""Networks, heads that turn a network's output into a distribution or a sampler, and critics."""

from lowerbound.nn.critics import BilinearCritic, Critic, MLPCritic
from lowerbound.nn.flows import FLOWS
from lowerbound.nn.fold import fold_particles
from lowerbound.nn.heads import BernoulliHead, GaussianHead, LowRankHead, MixtureHead
from lowerbound.nn.initialize import initialize
from lowerbound.nn.joint import JointMLP
from lowerbound.nn.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    LogisticLikelihood,
    LogisticMixtureLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
    ZeroInflatedPoissonLikelihood,
    make_likelihood,
)
from lowerbound.nn.mlp import MLP, make_activation
from lowerbound.nn.posteriors import POSTERIORS, FlowHead, make_posterior
from lowerbound.nn.priors import PRIORS, FlowPrior, MixturePrior, Prior, StandardNormal, VampPrior, make_prior
from lowerbound.nn.samplers import BasisSampler, NoiseSampler

__all__ = [
    "FLOWS",
    "MLP",
    "POSTERIORS",
    "PRIORS",
    "BasisSampler",
    "BernoulliHead",
    "BernoulliLikelihood",
    "BilinearCritic",
    "Critic",
    "FlowHead",
    "FlowPrior",
    "GaussianHead",
    "GaussianLikelihood",
    "JointMLP",
    "Likelihood",
    "LogisticLikelihood",
    "LogisticMixtureLikelihood",
    "LowRankHead",
    "MLPCritic",
    "MixtureHead",
    "MixturePrior",
    "NegativeBinomialLikelihood",
    "NoiseSampler",
    "PoissonLikelihood",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "ZeroInflatedNegativeBinomialLikelihood",
    "ZeroInflatedPoissonLikelihood",
    "fold_particles",
    "initialize",
    "make_activation",
    "make_likelihood",
    "make_posterior",
    "make_prior",
]
