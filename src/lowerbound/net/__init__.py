"""Stochastic programs with named nodes: `BayesianNet`, its bound form `Program`, and the `Trace` of one run."""

from lowerbound.net.bayesian_net import BayesianNet, Program, constants
from lowerbound.net.masks import masked_log_prob
from lowerbound.net.trace import Node, Trace

__all__ = ["BayesianNet", "Node", "Program", "Trace", "constants", "masked_log_prob"]
