"""What `torch.distributions` lacks: flows, planar maps, mixtures with gradients, and more; and KL for events."""

from lowerbound.distributions.counts import NegativeBinomial, Poisson, ZeroInflated
from lowerbound.distributions.discretized_logistic import DiscretizedLogistic
from lowerbound.distributions.flow import Flow, standard_normal
from lowerbound.distributions.implicit import Implicit
from lowerbound.distributions.kl import kl_divergence
from lowerbound.distributions.mixture import GaussianMixture
from lowerbound.distributions.planar import PlanarTransform
from lowerbound.distributions.precision import LowRankGaussian, TriangularTransform
from lowerbound.distributions.relaxed import SoftBernoulli, SoftOneHotCategorical, soften
from lowerbound.distributions.support import support_mismatch

__all__ = [
    "DiscretizedLogistic",
    "Flow",
    "GaussianMixture",
    "Implicit",
    "LowRankGaussian",
    "NegativeBinomial",
    "PlanarTransform",
    "Poisson",
    "SoftBernoulli",
    "SoftOneHotCategorical",
    "TriangularTransform",
    "ZeroInflated",
    "kl_divergence",
    "soften",
    "standard_normal",
    "support_mismatch",
]
