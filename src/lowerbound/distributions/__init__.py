"""What `torch.distributions` lacks: the discretised logistic, and Kullback-Leibler divergences for events."""

from lowerbound.distributions.discretized_logistic import DiscretizedLogistic
from lowerbound.distributions.kl import kl_divergence

__all__ = ["DiscretizedLogistic", "kl_divergence"]
