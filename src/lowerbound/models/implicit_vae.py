"""The autoencoder whose posterior is only a sampler, with the critic that judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowerbound.core.checks import choice, positive_int
from lowerbound.core.checks import event_shape as check_event_shape
from lowerbound.core.errors import ArgumentError, explain
from lowerbound.models.base import EncoderDecoder
from lowerbound.models.networks import (
    ConvDecoder,
    ConvFeatures,
    DenseDecoder,
    DenseFeatures,
    Encoder,
    check_image,
)
from lowerbound.nn import BasisSampler, BilinearCritic, Critic, MLPCritic, NoiseSampler, make_likelihood

__all__ = ["ImplicitVAE"]


class ImplicitVAE(EncoderDecoder):
    r"""An autoencoder with an implicit posterior, to be trained by `lowerbound.objectives.AVB`.

    .. math:: p(x, z) = \mathcal{N}(z; 0, I)\, p(x | f(z)), \qquad z = g(x, \epsilon) \text{ instead of } q(z | x)

    Args:
        event_shape: The shape of one row x.
        latent_dim: The size of z.
        network: ``"dense"``, or ``"conv"`` for images: the networks of `VAE` and of `ConvVAE`.
        sampler: ``"noise"`` joins the noise to the row (or to its convolutional features), ``"basis"`` mixes random
            vectors whose moments are known, which adaptive contrast uses.
        hidden: The sizes of the hidden layers of the dense networks, and of the sampler that joins noise.
        width: The channels of the convolutional networks.
        noise_dim: The size of the noise, of each basis vector if there are such.
        basis: The number of basis vectors.
        critic: ``"mlp"`` on row and latent, or ``"bilinear"``.
        critic_hidden: The sizes of the critic's hidden layers.
        activation: The name of the activation of encoder and decoder.
        likelihood: A name of `lowerbound.nn.likelihoods.LIKELIHOODS`, such as ``"bernoulli"`` or ``"gaussian"``.
        likelihood_options: Its arguments, such as ``{"scale": "per-dimension"}`` or ``{"levels": 17}``.
        init: How the weights start, as in `lowerbound.nn.initialize`.

    Raises:
        ArgumentError: if a size is not positive or a name is unknown.
        ShapeError: if `network` is ``"conv"`` and rows are no images.

    Source: Mescheder, Nowozin and Geiger, Adversarial Variational Bayes (2017).

    Example:
        >>> model = lb.models.ImplicitVAE(event_shape=(4,), latent_dim=2)
        >>> x = torch.eye(4)
        >>> model.encode(x).rsample((10,)).shape, model.decode(torch.zeros(3, 2)).mean.shape
        (torch.Size([10, 4, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        *,
        event_shape: Sequence[int],
        latent_dim: int = 2,
        network: Literal["dense", "conv"] = "dense",
        sampler: Literal["noise", "basis"] = "noise",
        hidden: Sequence[int] = (256, 256),
        width: int = 32,
        noise_dim: int = 4,
        basis: int = 16,
        critic: Literal["mlp", "bilinear"] = "mlp",
        critic_hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        likelihood: str = "bernoulli",
        likelihood_options: Mapping[str, Any] | None = None,
        init: str = "glorot",
    ) -> None:
        shape, options = check_event_shape(event_shape), dict(likelihood_options or {})
        positive_int("latent_dim", latent_dim)
        p_x = make_likelihood(likelihood, shape, **options)
        choice("network", network, ("dense", "conv"))
        choice("sampler", sampler, ("noise", "basis"))
        decoder: nn.Module
        features: Any
        if network == "conv":
            check_image(shape)
            if not hidden:
                cure = "Name the size of the dense layer behind the convolutions, such as hidden=(256,)."
                raise ArgumentError(explain("hidden", expected="at least one size for conv", got="none", cure=cure))
            features = ConvFeatures(shape, width, hidden[-1], activation, init)
            decoder = ConvDecoder(shape, latent_dim, width, activation, init, outputs=p_x.outputs)
        else:
            features = DenseFeatures(shape, hidden if sampler == "basis" else (), activation, init)
            decoder = DenseDecoder(shape, latent_dim, hidden, activation, init, outputs=p_x.outputs)
        head: nn.Module
        if sampler == "basis":
            head = BasisSampler(features.out_features, latent_dim, basis=basis, noise_dim=noise_dim, init=init)
        else:
            head = NoiseSampler(
                features.out_features, latent_dim, hidden=hidden, noise_dim=noise_dim, activate=activation, init=init
            )
        super().__init__(
            event_shape=shape,
            latent_dim=latent_dim,
            encoder=Encoder(features, head),
            decoder=decoder,
            likelihood=p_x,
        )
        kinds: dict[str, Any] = {"mlp": MLPCritic, "bilinear": BilinearCritic}
        self.critic: Critic = kinds[choice("critic", critic, kinds)](shape, latent_dim, hidden=critic_hidden, init=init)
        self._arguments: dict[str, Any] = {
            "event_shape": list(shape),
            "latent_dim": latent_dim,
            "network": network,
            "sampler": sampler,
            "hidden": list(hidden),
            "width": width,
            "noise_dim": noise_dim,
            "basis": basis,
            "critic": critic,
            "critic_hidden": list(critic_hidden),
            "activation": activation,
            "likelihood": likelihood,
            "likelihood_options": options,
            "init": init,
        }

    def standardize(self, center: Tensor, spread: Tensor) -> None:
        """Let encoder and critic see standardised rows, and a likelihood that has units count in those of the data.

        The critic's rows are in units of half the spread, as 2x - 1 is for binary values.

        Args:
            center: The mean of the rows, shape ``event_shape`` or ``[]``.
            spread: Their standard deviation, positive, shape ``event_shape`` or ``[]``.

        Raises:
            ArgumentError: if a spread is not positive.
        """
        super().standardize(center, spread)
        self.critic.standardize(center, spread / 2)

    @torch.no_grad()
    def fresh_critic(self) -> Critic:
        """Return an untrained critic of the same form, drawn from torch's generator; it sees rows as this one does."""
        made = ImplicitVAE(**self._arguments).critic
        made.standardize(self.critic.center, self.critic.spread)
        return made.to(self.critic.center)

    def describe(self) -> dict[str, Any]:
        """Return the class and the arguments that rebuild the model, as plain values."""
        return {"class": "ImplicitVAE", "arguments": self._arguments}
