"""The posteriors that a name can choose: heads from an encoder's features to a distribution over latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributions import AffineTransform, MultivariateNormal, Transform

from lowerbound.core.checks import choice, positive_int
from lowerbound.distributions import Flow, TriangularTransform, standard_normal
from lowerbound.nn.flows import FLOWS, Transforms
from lowerbound.nn.heads import GaussianHead, LowRankHead, MixtureHead, widen
from lowerbound.nn.initialize import initialize
from lowerbound.nn.options import checked_options

__all__ = ["POSTERIORS", "FlowHead", "make_posterior"]


class FlowHead(nn.Module):
    r"""A flow in the units of a Gaussian: :math:`z = \mu(h) + L(h)\, T(\epsilon; h)`, with standard normal noise.

    The maps T start as the identity and L as a diagonal matrix, so the flow starts as a diagonal Gaussian. The maps
    work on noise of unit scale, where splines have their bins, however narrow the posterior is.

    Args:
        in_features: The size of the features.
        features: The size of z.
        flow: From the sizes of z and of the context to the maps, one of `lowerbound.nn.FLOWS`.
        covariance: The Gaussian's, ``"diagonal"`` or ``"full"``: L is lower triangular, with features squared / 2 more
            outputs, and turns the axes of each row.
        context: The size of the linear summary of the features that the maps see.
        init: How the weights of the linear layers start, as in `initialize`.
        options: Arguments of `flow`.

    Source: Rezende and Mohamed (2015); Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow
    (2016).

    Example:
        >>> q = FlowHead(8, 2, flow=lb.nn.FLOWS["iaf"], transforms=2, hidden=(16,))(torch.randn(5, 8))
        >>> z, log_q = q.rsample_and_log_prob((3,))
        >>> z.shape, log_q.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        flow: Callable[..., Transforms],
        covariance: Literal["diagonal", "full"] = "full",
        context: int = 64,
        init: str = "glorot",
        **options: Any,
    ) -> None:
        super().__init__()
        self.gaussian = GaussianHead(in_features, features, covariance=covariance, init=init)
        if self.gaussian.below is not None:
            nn.init.zeros_(self.gaussian.below.weight)
        self.context = initialize(nn.Linear(in_features, positive_int("context", context)), init)
        self.transforms = flow(features, context, **options)

    def forward(self, h: Tensor) -> Flow:
        """Return the flow for features ``[*, in_features]``: batch shape ``[*]``, event shape ``[features]``."""
        q = self.gaussian(h)
        outermost: Transform = AffineTransform(q.mean, q.stddev, event_dim=1)
        if isinstance(q, MultivariateNormal):
            outermost = TriangularTransform(q.mean, q.scale_tril)
        return Flow(standard_normal(q.mean), [*self.transforms(widen(self.context(h))), outermost])


POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "diagonal": GaussianHead,
    "full": partial(GaussianHead, covariance="full"),
    "low-rank": LowRankHead,
    "mixture": MixtureHead,
    **{name: partial(FlowHead, flow=flow) for name, flow in FLOWS.items()},
}
"""The heads of posteriors by name: from the sizes of features and of z, and options, to a module."""


def make_posterior(
    name: str, in_features: int, features: int, *, options: Mapping[str, Any] | None = None, init: str = "glorot"
) -> nn.Module:
    """Return the head of a name: a module from features ``[*, in_features]`` to a distribution over ``[features]``.

    | name | posterior | options |
    | --- | --- | --- |
    | ``diagonal`` | Gaussian with independent units | |
    | ``full`` | Gaussian with a full covariance | |
    | ``low-rank`` | Gaussian with a covariance of low rank plus a diagonal | ``rank`` |
    | ``mixture`` | mixture of diagonal Gaussians | ``components`` |
    | ``iaf`` | inverse autoregressive flow: fast draws | ``transforms, hidden, activation, context, covariance`` |
    | ``nsf`` | the same with splines | those, and ``bins`` |
    | ``maf`` | masked autoregressive flow: fast densities, draws take D passes | as ``iaf`` |
    | ``coupling`` | affine coupling flow: both fast | as ``iaf`` |
    | ``planar`` | planar flow | ``transforms, context, covariance`` |

    Args:
        name: One of the names above.
        in_features: The size of the features.
        features: The size of z.
        options: Arguments of the head.
        init: How the weights of linear layers start, as in `initialize`.

    Raises:
        ArgumentError: if the name or an option is unknown.

    Example:
        >>> type(make_posterior("low-rank", 8, 4, options={"rank": 2})).__name__
        'LowRankHead'
    """
    make = POSTERIORS[choice("posterior", name, POSTERIORS)]
    return make(in_features, features, init=init, **checked_options("posterior", name, make, options))
