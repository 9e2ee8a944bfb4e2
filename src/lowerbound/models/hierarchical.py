"""Models with several layers of latents, Gaussian or binary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from lowerbound.core.checks import choice, positive_int
from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.models.base import DecoderProgram, EncoderDecoder, EncoderProgram
from lowerbound.models.networks import DenseDecoder, DenseFeatures, Encoder
from lowerbound.net import Trace
from lowerbound.nn import MLP, BernoulliHead, BernoulliLikelihood, GaussianHead, Likelihood, make_likelihood
from lowerbound.nn.priors import Prior, StandardNormal

__all__ = ["HierarchicalVAE"]

_RAREST = 1e-3  # the least probability of a pixel that a decoder starts from


class HierarchicalVAE(EncoderDecoder):
    r"""A variational autoencoder with L layers of latents, ``z1`` next to x and ``zL`` at the top.

    .. math:: p(x, z) = p(z_L) \prod_{l=1}^{L-1} p(z_l | z_{l+1})\; p(x | z_1), \qquad
              q(z | x) = q(z_1 | x) \prod_{l=1}^{L-1} q(z_{l+1} | z_l)

    With Gaussian latents :math:`p(z_L) = \mathcal{N}(0, I)`, and pathwise estimators apply. With binary latents every
    layer is a vector of independent Bernoulli variables given its parent, :math:`p(z_L)` has a probability of its own
    for each unit, and score-function estimators such as VIMCO apply; without hidden layers (``hidden=()`` and
    ``between=()``) that is a sigmoid belief net. Networks see a binary latent as -1 or 1.

    ``encode(x)`` is the posterior of the first layer, q(z1 | x); ``decode(z)`` is p(x | z1); ``reconstruct`` decodes
    the mean of the first, for binary latents the probabilities; ``prior()`` is that of the top layer, p(zL).

    Args:
        event_shape: The shape of one row x.
        latent_dim: The size of ``z1``.
        above: The sizes of ``z2`` to ``zL``; empty for one layer.
        hidden: The sizes of the hidden layers between x and ``z1``; the decoder has them in reverse.
        between: The sizes of the hidden layers between two layers of latents; the generator has them in reverse.
        latent: ``"gaussian"`` or ``"bernoulli"``.
        activation: The name of the activation in hidden layers.
        likelihood: A name of `lowerbound.nn.likelihoods.LIKELIHOODS`, such as ``"bernoulli"`` or ``"gaussian"``.
        likelihood_options: Its arguments, such as ``{"scale": "per-dimension"}`` or ``{"levels": 17}``.
        init: How the weights start, as in `lowerbound.nn.initialize`.
        missing: Whether rows may have gaps, NaN, as in `VAE`.

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.

    Source: Neal, Connectionist Learning of Belief Networks (1992); Rezende, Mohamed and Wierstra (2014); Burda, Grosse
    and Salakhutdinov (2016), whose network of two layers has the default sizes.

    Example:
        >>> model = lb.models.HierarchicalVAE(event_shape=(28, 28), latent_dim=100, above=(50,))
        >>> {name: tuple(value.shape) for name, value in model.sample(3).items()}
        {'z2': (3, 50), 'z1': (3, 100), 'x_mean': (3, 28, 28), 'x': (3, 28, 28)}
        >>> net = lb.models.HierarchicalVAE(event_shape=(8,), latent_dim=4, above=(3,), hidden=(), latent="bernoulli")
        >>> sorted(lb.objectives.IWAE(net, particles=5, gradient="vimco")(torch.ones(2, 8)).terms)
        ['iwae-5', 'kl', 'reconstruction']
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        latent_dim: int = 100,
        above: Sequence[int] = (50,),
        hidden: Sequence[int] = (200, 200),
        between: Sequence[int] = (100, 100),
        latent: Literal["gaussian", "bernoulli"] = "gaussian",
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        likelihood_options: Mapping[str, Any] | None = None,
        init: str = "glorot",
        missing: bool = False,
    ) -> None:
        shape, options = check_event_shape(event_shape), dict(likelihood_options or {})
        positive_int("latent_dim", latent_dim)
        sizes = [latent_dim, *(positive_int("above", size) for size in above)]
        binary = choice("latent", latent, ("gaussian", "bernoulli")) == "bernoulli"

        def link(size: int, target: int, widths: Sequence[int]) -> nn.Module:
            """Return the network of one layer of latents given another."""
            body = MLP(size, widths, None, activate=activation, init=init)
            last = head(body.out_features, target)
            if isinstance(last, GaussianHead):  # a far draw of the other layer must not start from a tiny variance
                with torch.no_grad():
                    last.log_variance.weight.mul_(0.1)
            return nn.Sequential(seeing(body), last)

        def head(features: int, target: int) -> nn.Module:
            return (BernoulliHead if binary else GaussianHead)(features, target, init=init)

        def seeing(body: nn.Sequential) -> nn.Sequential:
            """Let a network of latents see binary ones as -1 and 1."""
            return body.insert(0, _Signs()) if binary else body

        features = DenseFeatures(shape, hidden, activation, init)
        encoder = Encoder(features, head(features.out_features, latent_dim))
        chosen = make_likelihood(likelihood, shape, **options)
        decoder = DenseDecoder(shape, latent_dim, hidden, activation, init, outputs=chosen.outputs)
        seeing(decoder.body)
        super().__init__(event_shape=shape, latent_dim=latent_dim, encoder=encoder, decoder=decoder, likelihood=chosen)
        upward = [link(below, size, between) for below, size in pairwise(sizes)]
        downward = [link(size, below, list(reversed(between))) for below, size in pairwise(sizes)]
        self.posterior = _Upward(encoder, shape, upward, see=chosen.see, missing=missing)
        top = _Coins(sizes[-1]) if binary else StandardNormal(sizes[-1])
        self.generator = _Downward(top, decoder, chosen, downward)
        self._arguments = {
            "event_shape": list(shape),
            "latent_dim": latent_dim,
            "above": list(above),
            "hidden": list(hidden),
            "between": list(between),
            "latent": latent,
            "activation": activation,
            "likelihood": likelihood,
            "likelihood_options": options,
            "init": init,
            "missing": missing,
        }

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Do as other models do, and let a Bernoulli likelihood start from the mean of the data, by its biases."""
        super().standardize(center, spread)
        if isinstance(self.generator.likelihood, BernoulliLikelihood):
            output: Any = self.generator.decoder
            mean = center.expand(self.event_shape).clamp(_RAREST, 1 - _RAREST)
            with torch.no_grad():
                output.body[-1].bias.copy_(mean.logit().flatten())

    def describe(self) -> dict[str, Any]:
        """Return the class and the arguments that rebuild the model, as plain values."""
        return {"class": "HierarchicalVAE", "arguments": self._arguments}


class _Upward(EncoderProgram):
    """The posterior, from x to the top: an encoder for ``z1``, and for every further layer a network of the last."""

    def __init__(
        self, encoder: nn.Module, event_shape: tuple[int, ...], links: Sequence[nn.Module], **options: Any
    ) -> None:
        super().__init__(encoder, event_shape, **options)
        self.links = nn.ModuleList(links)

    def forward(self, bn: Trace, x: Tensor) -> None:
        """Draw ``z1``, ``z2`` and so on for rows `x`, shape ``[B, *event_shape]``."""
        z = bn.sample("z1", self.encode(x))
        for layer, link in enumerate(self.links, 2):
            z = bn.sample(f"z{layer}", link(z))


class _Downward(DecoderProgram):
    """The generator, from the top to x: a prior, for every further layer a network of the last, and a decoder."""

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood, links: Sequence[nn.Module]) -> None:
        super().__init__(prior, decoder, likelihood)
        self.links = nn.ModuleList(links)  # links[0] ends in z1

    def forward(self, bn: Trace, n: int, mask: Tensor | None = None) -> None:
        """Draw the latents from the top to ``z1``, and ``x``, for n rows; where `mask` is False, x is not observed."""
        p_z: Distribution = self.prior()
        z = bn.sample(f"z{len(self.links) + 1}", p_z.expand(torch.Size([n])))
        for layer in range(len(self.links), 0, -1):
            z = bn.sample(f"z{layer}", self.links[layer - 1](z))
        p_x = self.likelihood(self.decoder(z))
        bn.deterministic("x_mean", lambda: p_x.mean)
        bn.sample("x", p_x, mask=mask)


class _Coins(Prior):
    """Independent Bernoulli variables, each with a probability of its own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(features))

    def forward(self) -> Distribution:
        """Return the prior."""
        return Independent(Bernoulli(logits=self.logits, validate_args=False), 1, validate_args=False)


class _Signs(nn.Module):
    """From 0 and 1 to -1 and 1, so that no layer starts from inputs that are mostly on one side."""

    def forward(self, z: Tensor) -> Tensor:
        return 2 * z - 1
