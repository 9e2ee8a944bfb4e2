"""The priors that a name can choose: modules that return a distribution over latents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from lowerbound.core.checks import choice, positive_int
from lowerbound.distributions import Flow, GaussianMixture, standard_normal
from lowerbound.nn.flows import Transforms, affine_autoregressive, coupling, spline_autoregressive
from lowerbound.nn.options import checked_options

__all__ = ["PRIORS", "FlowPrior", "MixturePrior", "Prior", "StandardNormal", "VampPrior", "make_prior"]


class Prior(nn.Module):
    """A module whose ``forward()`` returns p(z): no batch shape, event shape ``[features]``."""

    def forward(self) -> Distribution:
        """Return the prior."""
        raise NotImplementedError

    def start(self, rows: Tensor) -> None:
        """Start from rows of the data, shape ``[n, *event_shape]``, where the prior has parameters in their space."""


class StandardNormal(Prior):
    """The standard normal prior, which has no parameters.

    Args:
        features: The size of z.
    """

    zeros: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(positive_int("features", features)), persistent=False)

    def forward(self) -> Distribution:
        """Return the prior."""
        return standard_normal(self.zeros)


class MixturePrior(Prior):
    r"""A learned mixture of diagonal Gaussians, :math:`p(z) = \sum_c \pi_c \mathcal{N}(z; \mu_c, \sigma_c^2)`.

    Args:
        features: The size of z.
        components: The number of Gaussians.

    Source: Dilokthanakul et al., Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (2016).

    Example:
        >>> MixturePrior(2, components=3)().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(self, features: int, *, components: int = 10) -> None:
        super().__init__()
        shape = (positive_int("components", components), positive_int("features", features))
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self) -> GaussianMixture:
        """Return the prior."""
        return GaussianMixture(self.logits, self.loc, self.log_scale.exp())


class VampPrior(Prior):
    r"""The mixture of the posteriors of learned pseudo-inputs, :math:`p(z) = \frac1C \sum_c q(z|u_c)`.

    The posterior's parameters are p's in this place: they are a part of this module too, and estimators that hold q's
    parameters constant hold them constant in log q(z|x) only. They are saved once, as the posterior's.

    Args:
        features: The size of z.
        event_shape: The shape of one row x, and of each pseudo-input.
        posterior: A module whose ``encode`` returns q(z | x), batch shape ``[C]``, for rows ``[C, *event_shape]``.
        components: The number C of pseudo-inputs.

    Source: Tomczak and Welling, VAE with a VampPrior (2018).

    Example:
        >>> model = lb.models.VAE(event_shape=(4,), latent_dim=2, prior="vamp", prior_options={"components": 3})
        >>> model.prior().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, features: int, event_shape: tuple[int, ...], posterior: nn.Module, *, components: int = 100
    ) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.rand(positive_int("components", components), *event_shape))
        self.posterior: Any = posterior
        self.register_state_dict_post_hook(_leave_out_posterior)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_keep_posterior)  # type: ignore[no-untyped-call]

    def forward(self) -> MixtureSameFamily:
        """Return the prior."""
        weights = Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)), validate_args=False)
        return MixtureSameFamily(weights, self.posterior.encode(self.pseudo_inputs), validate_args=False)

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Start the pseudo-inputs as rows of the data, shape ``[n, *event_shape]``, taken in turn."""
        numbers = torch.arange(len(self.pseudo_inputs)) % len(rows)
        self.pseudo_inputs.copy_(rows[numbers.to(rows.device)])


def _leave_out_posterior(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Save the weights of the posterior where it stands itself, and not here."""
    for name in [name for name in state if name.startswith(f"{prefix}posterior.")]:
        del state[name]


def _keep_posterior(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load the posterior's weights where it stands itself: here they are what they are."""
    state.update({f"{prefix}posterior.{name}": value for name, value in module.posterior.state_dict().items()})


class FlowPrior(Prior):
    """A normalizing flow whose densities are fast; it starts as the standard normal.

    Args:
        features: The size of z.
        flow: From the size of z to the maps.
        options: Arguments of `flow`.

    Source: Chen et al., Variational Lossy Autoencoder (2017); Papamakarios et al., Masked Autoregressive Flow for
    Density Estimation (2017).

    Example:
        >>> prior = FlowPrior(2, flow=lb.nn.FLOWS["maf"], transforms=2, hidden=(16,))
        >>> prior().log_prob(torch.zeros(2))
        tensor(-1.8379, grad_fn=<AddBackward0>)
    """

    def __init__(self, features: int, *, flow: Callable[..., Transforms], **options: Any) -> None:
        super().__init__()
        self.base = StandardNormal(features)
        self.transforms = flow(features, **options)

    def forward(self) -> Flow:
        """Return the prior."""
        return Flow(self.base(), self.transforms(None))


PRIORS: dict[str, Callable[..., Prior]] = {
    "standard": StandardNormal,
    "mixture": MixturePrior,
    "vamp": VampPrior,
    "maf": partial(FlowPrior, flow=partial(affine_autoregressive, density=True)),
    "nsf": partial(FlowPrior, flow=partial(spline_autoregressive, density=True)),
    "coupling": partial(FlowPrior, flow=coupling),
}
"""The priors by name: from the size of z, and options, to a module."""


def make_prior(
    name: str,
    features: int,
    *,
    event_shape: tuple[int, ...],
    posterior: nn.Module,
    options: Mapping[str, Any] | None = None,
) -> Prior:
    """Return the prior of a name.

    | name | prior | options |
    | --- | --- | --- |
    | ``standard`` | standard normal | |
    | ``mixture`` | mixture of diagonal Gaussians | ``components`` |
    | ``vamp`` | mixture of the posteriors of pseudo-inputs | ``components`` |
    | ``maf`` | masked autoregressive flow | ``transforms, hidden, activation`` |
    | ``nsf`` | the same with splines | those, and ``bins`` |
    | ``coupling`` | affine coupling flow | as ``maf`` |

    Args:
        name: One of the names above.
        features: The size of z.
        event_shape: The shape of one row x.
        posterior: A module whose ``encode`` returns q(z | x) for rows, for priors that are made of posteriors.
        options: Arguments of the prior.

    Raises:
        ArgumentError: if the name or an option is unknown.
    """
    make = PRIORS[choice("prior", name, PRIORS)]
    parts = {"event_shape": event_shape, "posterior": posterior}
    taken = {part: value for part, value in parts.items() if part in inspect.signature(make).parameters}
    return make(features, **taken, **checked_options("prior", name, make, options))
