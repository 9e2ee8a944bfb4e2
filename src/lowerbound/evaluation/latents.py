"""What each latent unit carries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from lowerbound.core.random import seeded

__all__ = ["ACTIVE_VARIANCE", "COLLAPSED_KL", "has_standard_prior", "latent_summary", "prior_of", "unit_kl"]

ACTIVE_VARIANCE = 0.01

COLLAPSED_KL, _COLLAPSED_SHARE = 0.01, 0.99


def prior_of(model: Any, x: Tensor) -> Distribution | None:
    """Return the prior of a model's one latent, None if it has several.

    Args:
        model: The model.
        x: A few rows, shape ``[B, *event_shape]``.
    """
    program, observed, _ = model.programs(x)
    with seeded(0, "prior"):
        trace = program.run()
    latents = [name for name in trace.random_names() if name not in observed]
    return trace.node(latents[0]).distribution if len(latents) == 1 else None


def has_standard_prior(model: Any, x: Tensor) -> bool:
    """Return whether a model has one latent, whose prior is a standard normal: what a unit's KL is taken from.

    Args:
        model: The model.
        x: A few rows, shape ``[B, *event_shape]``.
    """
    prior: Any = prior_of(model, x)
    base = getattr(prior, "base_dist", prior)
    return isinstance(base, Normal) and bool((base.loc == 0).all() and (base.scale == 1).all())


def unit_kl(q: Distribution) -> Tensor | None:
    r"""Return the KL of each unit of a Gaussian posterior from a standard normal, shape ``[B, latent_dim]``, in nats.

    .. math:: \mathrm{KL}_d = \tfrac{1}{2} (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)

    The units of a diagonal posterior add up to the KL term of the bound; of a full covariance they are the marginals'.

    Args:
        q: The posterior, batch shape ``[B]`` and event shape ``[latent_dim]``.
    """
    diagonal = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
    if not diagonal and not isinstance(q, (MultivariateNormal, LowRankMultivariateNormal)):
        return None
    variance = q.variance
    return 0.5 * (q.mean.square() + variance - 1 - variance.log())


def latent_summary(means: Tensor, kl: Tensor | None, at_prior: Tensor | None = None) -> dict[str, Any]:
    r"""Count the latent units that vary with the data, and those that never leave the prior.

    A unit d is active if :math:`\mathrm{Var}_x(\mathbb{E}_{q(z|x)}[z_d]) > 0.01`, and collapsed if its KL is below 0.01
    nats for 99 % of the rows. A unit may be neither: the same for every row, and not the prior.

    Args:
        means: The posterior means, shape ``[n, latent_dim]``.
        kl: The mean KL of each unit, shape ``[latent_dim]``, in nats, or None.
        at_prior: The share of rows with a KL below 0.01 nats of each unit, shape ``[latent_dim]``, or None.

    Returns:
        ``latent_dim``, ``active_units``, ``threshold``, ``unit_variance``, ``unit_kl`` and ``collapsed_units``, plain
        values; the last is None without `at_prior`.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders (2016), section 5.2; Lucas, Tucker, Grosse
    and Norouzi, Don't Blame the ELBO! (2019), section 3.

    Example:
        >>> latent_summary(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), None)["active_units"]
        1
    """
    variance = means.double().var(0) if len(means) > 1 else torch.zeros(means.shape[1], dtype=torch.float64)
    return {
        "latent_dim": means.shape[1],
        "active_units": int((variance > ACTIVE_VARIANCE).sum()),
        "threshold": ACTIVE_VARIANCE,
        "unit_variance": [round(float(v), 6) for v in variance],
        "unit_kl": None if kl is None else [round(float(v), 6) for v in kl],
        "collapsed_units": None if at_prior is None else int((at_prior >= _COLLAPSED_SHARE).sum()),
    }
