"""The invertible maps of flows, each a module from a context to transforms of base draws; networks are zuko's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from lowerbound.core.checks import positive_int
from lowerbound.distributions import PlanarTransform
from lowerbound.nn.heads import Widen
from lowerbound.nn.initialize import initialize
from lowerbound.nn.mlp import make_activation

__all__ = ["FLOWS", "Transforms", "affine_autoregressive", "coupling", "planar", "spline_autoregressive"]


class Transforms(nn.Module):
    """Invertible maps in a row; all of them start as the identity.

    Args:
        layers: Modules from a context ``[*, context]``, or None, to a `torch.distributions.Transform`.
        density: Whether each map is taken backwards, which makes the density of given values fast and not the draws.
    """

    def __init__(self, layers: Sequence[nn.Module], *, density: bool = False) -> None:
        super().__init__()
        self.layers, self.density = nn.ModuleList(layers), density

    def forward(self, context: Tensor | None) -> list[Transform]:
        """Return the maps, in the order in which a draw goes through them, for a context ``[*, context]``."""
        maps = [layer(context) for layer in self.layers]
        return [transform.inv for transform in maps] if self.density else maps


def affine_autoregressive(
    features: int,
    context: int = 0,
    *,
    density: bool = False,
    transforms: int = 4,
    hidden: Sequence[int] = (256,),
    activation: str = "elu",
) -> Transforms:
    r"""Return maps :math:`y_i = x_i\, e^{s_i} + m_i` whose :math:`s_i, m_i` depend on :math:`x_1, \dots, x_{i-1}`.

    In the direction of draws it is the inverse autoregressive flow (IAF): a draw takes one pass of the networks, the
    density of another's value D passes. With `density` it is the masked autoregressive flow (MAF): the other way round.

    Args:
        features: The size D of a draw.
        context: The size of the context; 0 for none.
        density: Whether the density of given values is the fast direction.
        transforms: The number of maps; the order of the coordinates is reversed from each to the next.
        hidden: The sizes of the hidden layers of each map's network.
        activation: The name of the activation.

    Source: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016); Papamakarios et al.,
    Masked Autoregressive Flow for Density Estimation (2017).
    """
    return _autoregressive(features, context, transforms, density=density, **_network(hidden, activation))


def spline_autoregressive(
    features: int,
    context: int = 0,
    *,
    density: bool = False,
    transforms: int = 2,
    hidden: Sequence[int] = (256,),
    activation: str = "elu",
    bins: int = 8,
) -> Transforms:
    r"""Return autoregressive maps that are monotonic rational-quadratic splines on [-5, 5], and the identity outside.

    Args:
        features: The size D of a draw.
        context: The size of the context; 0 for none.
        density: Whether the density of given values is the fast direction.
        transforms: The number of maps.
        hidden: The sizes of the hidden layers of each map's network.
        activation: The name of the activation.
        bins: The number of bins of a spline.

    Source: Durkan et al., Neural Spline Flows (2019).
    """
    spline = {
        "univariate": _zuko().transforms.MonotonicRQSTransform,
        "shapes": [(positive_int("bins", bins),), (bins,), (bins - 1,)],
    }
    return _autoregressive(features, context, transforms, density=density, **spline, **_network(hidden, activation))


def coupling(
    features: int,
    context: int = 0,
    *,
    transforms: int = 6,
    hidden: Sequence[int] = (256,),
    activation: str = "elu",
) -> Transforms:
    """Return affine maps of one half of the coordinates given the other half: draws and densities take one pass.

    Args:
        features: The size D of a draw.
        context: The size of the context; 0 for none.
        transforms: The number of maps; the halves change places from each to the next.
        hidden: The sizes of the hidden layers of each map's network.
        activation: The name of the activation.

    Source: Dinh, Sohl-Dickstein and Bengio, Density Estimation using Real NVP (2017).
    """
    options = _network(hidden, activation)
    make = _zuko().flows.GeneralCouplingTransform
    masks = [torch.arange(features) % 2 == number % 2 for number in range(positive_int("transforms", transforms))]
    return Transforms([_ready(make(features, context, mask=mask, **options)) for mask in masks])


def planar(features: int, context: int, *, transforms: int = 10) -> Transforms:
    """Return planar maps whose parameters are linear functions of the context.

    Args:
        features: The size D of a draw.
        context: The size of the context.
        transforms: The number of maps.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015).
    """
    return Transforms([_Planar(features, context) for _ in range(positive_int("transforms", transforms))])


class _Planar(nn.Module):
    """One planar map: the identity at first, along directions of its own."""

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.u, self.w, self.b = (initialize(nn.Linear(context, size)) for size in (features, features, 1))
        nn.init.zeros_(self.u.weight)
        nn.init.normal_(self.w.bias, std=features**-0.5)

    def forward(self, context: Tensor) -> PlanarTransform:
        u, w, b = (Widen()(layer(context)) for layer in (self.u, self.w, self.b))
        return PlanarTransform(u, w, b.squeeze(-1))


FLOWS: dict[str, Callable[..., Transforms]] = {
    "maf": partial(affine_autoregressive, density=True),
    "iaf": partial(affine_autoregressive, density=False),
    "nsf": partial(spline_autoregressive, density=False),
    "coupling": coupling,
    "planar": planar,
}
"""The flows of posteriors by name: from the sizes of a draw and of the context to the maps."""


def _network(hidden: Sequence[int], activation: str) -> dict[str, Any]:
    """Return what zuko's networks take."""
    sizes = [positive_int("hidden", size) for size in hidden]
    return {"hidden_features": sizes, "activation": partial(make_activation, activation)}


def _autoregressive(features: int, context: int, transforms: int, *, density: bool, **options: Any) -> Transforms:
    make = _zuko().flows.MaskedAutoregressiveTransform
    order = torch.arange(features)
    layers = [
        _ready(make(features, context, order=order if number % 2 == 0 else order.flip(0), **options))
        for number in range(positive_int("transforms", transforms))
    ]
    return Transforms(layers, density=density)


def _ready(layer: Any) -> nn.Module:
    """Let a transform of zuko start as the identity, with parameters of full precision."""
    if hasattr(layer, "hyper"):
        last = layer.hyper[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        layer.hyper.append(Widen())
    else:  # one feature and no context: the parameters themselves
        for parameter in layer.phi:
            nn.init.zeros_(parameter)
    module: nn.Module = layer
    return module


def _zuko() -> Any:
    """Import zuko, and leave torch's own checks of distributions as they were: zuko switches them off for all."""
    checks = Distribution._validate_args
    import zuko

    Distribution.set_default_validate_args(checks)
    return zuko
