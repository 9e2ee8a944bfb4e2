"""Markov chain Monte Carlo: one algorithm a file, all with `init` and `step`; `run`, and diagnostics."""

from lowerbound.mcmc.diagnostics import ess, ess_bulk, ess_tail, mcse, rhat
from lowerbound.mcmc.hmc import HMC, HMCInfo, HMCState
from lowerbound.mcmc.kernel import Kernel
from lowerbound.mcmc.log_joint import LogJoint
from lowerbound.mcmc.psgld import PSGLD, PSGLDState
from lowerbound.mcmc.run import run
from lowerbound.mcmc.samples import Samples
from lowerbound.mcmc.sghmc import SGHMC, SGHMCState
from lowerbound.mcmc.sgld import SGLD, SGLDState
from lowerbound.mcmc.sgnht import SGNHT, SGNHTInfo, SGNHTState
from lowerbound.mcmc.target import Packed, pack

__all__ = [
    "HMC",
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "HMCInfo",
    "HMCState",
    "Kernel",
    "LogJoint",
    "PSGLDState",
    "Packed",
    "SGHMCState",
    "SGLDState",
    "SGNHTInfo",
    "SGNHTState",
    "Samples",
    "ess",
    "ess_bulk",
    "ess_tail",
    "mcse",
    "pack",
    "rhat",
    "run",
]
