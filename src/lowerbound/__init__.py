"""Deep latent-variable models, trained and evaluated honestly: in nats, with error bars, by bounds that hold."""

from lowerbound import distributions, models, nn, objectives
from lowerbound.net import BayesianNet, Program, Trace
from lowerbound.objectives import elbo, is_loglikelihood, iw_objective

__all__ = [
    "BayesianNet",
    "Program",
    "Trace",
    "distributions",
    "elbo",
    "is_loglikelihood",
    "iw_objective",
    "models",
    "nn",
    "objectives",
]
