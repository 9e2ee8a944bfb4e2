"""Deep latent-variable models, trained and evaluated honestly: in nats, with error bars, by bounds that hold."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.core.errors import LowerboundError

if TYPE_CHECKING:
    from lowerbound import data, distributions, evaluation, mcmc, models, nn, objectives, report, sklearn
    from lowerbound.core.types import Programs
    from lowerbound.evaluation import evaluate
    from lowerbound.net import BayesianNet, Program, Trace
    from lowerbound.objectives import avb, elbo, is_loglikelihood, iw_objective, klpq
    from lowerbound.runs import load
    from lowerbound.training import fit

__all__ = [
    "BayesianNet",
    "LowerboundError",
    "Program",
    "Programs",
    "Trace",
    "avb",
    "data",
    "distributions",
    "elbo",
    "evaluate",
    "evaluation",
    "fit",
    "is_loglikelihood",
    "iw_objective",
    "klpq",
    "load",
    "mcmc",
    "models",
    "nn",
    "objectives",
    "report",
    "sklearn",
]

_HOMES = {
    **dict.fromkeys(("BayesianNet", "Program", "Trace"), "net"),
    **dict.fromkeys(("avb", "elbo", "is_loglikelihood", "iw_objective", "klpq"), "objectives"),
    "Programs": "core.types",
    "evaluate": "evaluation",
    "fit": "training",
    "load": "runs",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first asked for: `lowerbound --help` need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    found = globals()[name] = getattr(home, name) if name in _HOMES else home
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
