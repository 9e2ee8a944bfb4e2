"""What `torch.distributions` lacks: the discretised logistic, samplers without a density, and KL for events."""

from lowerbound.distributions.discretized_logistic import DiscretizedLogistic
from lowerbound.distributions.implicit import Implicit
from lowerbound.distributions.kl import kl_divergence

__all__ = ["DiscretizedLogistic", "Implicit", "kl_divergence"]
