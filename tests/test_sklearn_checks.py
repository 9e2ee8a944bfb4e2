"""scikit-learn's own checks of an estimator: every one that applies, and none is excused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import estimator_checks as also
from sklearn.utils.estimator_checks import parametrize_with_checks

import lowerbound as lb

SMALL = {"latent_dim": 2, "epochs": 2, "score_particles": 5}
ESTIMATORS = [
    lb.sklearn.VAE(hidden=(8,), **SMALL),
    lb.sklearn.VAE(hidden=(8,), missing=True, **SMALL),
    lb.sklearn.ConvVAE(width=2, features=4, **SMALL),
    lb.sklearn.AVB(hidden=(8,), critic_hidden=(8,), **SMALL),
]


@parametrize_with_checks(ESTIMATORS)
def test_check(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        check(estimator)


# Checks that scikit-learn runs on its own transformers only; those for frames are skipped where pandas is missing.
OF_TRANSFORMERS = [
    also.check_dataframe_column_names_consistency,
    also.check_global_output_transform_pandas,
    also.check_global_set_output_transform_polars,
    also.check_inplace_ensure_writeable,
    also.check_set_output_transform,
    also.check_set_output_transform_pandas,
    also.check_set_output_transform_polars,
    also.check_transformer_get_feature_names_out,
    also.check_transformer_get_feature_names_out_pandas,
]


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # provoked by the checks
@pytest.mark.parametrize("check", OF_TRANSFORMERS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["vae", "vae-missing", "conv", "avb"])
def test_check_of_transformers(estimator: Any, check: Callable[[str, Any], None]) -> None:
    check(type(estimator).__name__, estimator)
