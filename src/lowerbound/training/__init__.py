"""THE loop, on one page (`fit`), and what it stands on: settings, state, checkpoints, the watch for bad numbers."""

from lowerbound.training.callbacks import Callback, ProgressBar, TensorBoard
from lowerbound.training.fit import fit
from lowerbound.training.mlflow import MLflow
from lowerbound.training.profile import Profile, profile_steps
from lowerbound.training.run import Run
from lowerbound.training.settings import Settings
from lowerbound.training.state import State

__all__ = [
    "Callback",
    "MLflow",
    "Profile",
    "ProgressBar",
    "Run",
    "Settings",
    "State",
    "TensorBoard",
    "fit",
    "profile_steps",
]
