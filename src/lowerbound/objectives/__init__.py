"""Bounds on log p(x) and the estimators of their gradients; one bound a file."""

from lowerbound.objectives.avb import AVB, AdversarialEstimate, avb
from lowerbound.objectives.elbo import ELBO, EvidenceLowerBound, elbo
from lowerbound.objectives.enumerated import EnumeratedBound, enumerated
from lowerbound.objectives.iwae import IWAE, ImportanceWeightedBound, is_loglikelihood, iw_objective
from lowerbound.objectives.rws import RWS, InclusiveKL, klpq

__all__ = [
    "AVB",
    "ELBO",
    "IWAE",
    "RWS",
    "AdversarialEstimate",
    "EnumeratedBound",
    "EvidenceLowerBound",
    "ImportanceWeightedBound",
    "InclusiveKL",
    "avb",
    "elbo",
    "enumerated",
    "is_loglikelihood",
    "iw_objective",
    "klpq",
]
