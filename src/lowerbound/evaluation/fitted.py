r"""Importance sampling for posteriors without a density: from a Gaussian that is fitted to their draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from lowerbound.core.errors import NonFiniteError, explain
from lowerbound.net import BayesianNet, Program, Trace

__all__ = ["DRAWS", "FittedGaussian", "fitted_gaussian"]

DRAWS = 1000  # behind the moments of a row


class FittedGaussian(BayesianNet):
    """A posterior program whose latents are Gaussians, one for each row.

    Args:
        nodes: By name, distributions with batch shape ``[B]``.
    """

    def __init__(self, nodes: dict[str, Distribution]) -> None:
        super().__init__()
        self.nodes = nodes

    def forward(self, bn: Trace) -> None:
        """Draw all latents."""
        for name, distribution in self.nodes.items():
            bn.sample(name, distribution)


@torch.no_grad()
def fitted_gaussian(posterior: Program, *, draws: int = DRAWS) -> Program:
    r"""Return Gaussians with the mean and the covariance of a posterior's own draws, row by row.

    They are proposals for importance sampling: whatever their fit, the mean weight's logarithm is a lower bound of
    log p(x) in expectation, since the draws behind the moments are not used again.

    Args:
        posterior: The bound posterior program; its latents need no density. A latent vector gets a full covariance,
            other shapes a diagonal one.
        draws: The number of draws behind the moments.

    Returns:
        A bound program of the same latents.

    Example:
        >>> model = lb.models.ImplicitVAE(event_shape=(4,), latent_dim=2)
        >>> proposal = fitted_gaussian(model.posterior.bind(torch.eye(4)))
        >>> lb.is_loglikelihood(model.generator.bind(4), {"x": torch.eye(4)}, proposal, particles=100).shape
        torch.Size([4])
    """
    trace = posterior.run(particles=draws)
    names = trace.random_names(observed=False)
    batch = len(trace.batch)
    return FittedGaussian({name: _fit(trace[name], trace[name].dim() - 1 - batch) for name in names}).bind()


def _fit(values: Tensor, event_dims: int) -> Distribution:
    """Return the Gaussian with the moments of draws, shape ``[draws, *batch, *event]``."""
    mean = values.mean(0)
    if not bool(mean.isfinite().all()):
        cure = "Look at the rows: the posterior's network puts out numbers that are not finite for some."
        raise NonFiniteError(explain("measure 'is-K'", expected="finite draws of the posterior", got="NaN", cure=cure))
    if event_dims != 1:
        scale = values.std(0).clamp_min(1e-6)
        normal: Any = Normal(mean, scale)
        return Independent(normal, event_dims) if event_dims else normal
    centred = (values - mean).double()
    covariance = torch.einsum("k...i,k...j->...ij", centred, centred) / (len(values) - 1)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    # A ridge of a millionth of the variances keeps the matrix positive definite where draws lie on a line.
    ridge = torch.diag_embed(1e-6 * variance + 1e-10)
    tril = torch.linalg.cholesky(covariance + ridge)
    return MultivariateNormal(mean, scale_tril=tril.to(mean.dtype), validate_args=False)
