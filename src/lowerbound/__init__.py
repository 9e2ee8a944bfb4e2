"""Deep latent-variable models, trained and evaluated honestly: in nats, with error bars, by bounds that hold."""

from typing import TYPE_CHECKING, Any

from lowerbound import data, distributions, evaluation, mcmc, models, nn, objectives, report
from lowerbound.core.errors import LowerboundError
from lowerbound.core.types import Programs
from lowerbound.evaluation import evaluate
from lowerbound.net import BayesianNet, Program, Trace
from lowerbound.objectives import avb, elbo, is_loglikelihood, iw_objective, klpq
from lowerbound.runs import load
from lowerbound.training import fit

if TYPE_CHECKING:
    from lowerbound import sklearn

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


def __getattr__(name: str) -> Any:
    """Import `lowerbound.sklearn` when it is first asked for: scikit-learn takes a second to import."""
    if name == "sklearn":
        import lowerbound.sklearn as estimators

        return estimators
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
