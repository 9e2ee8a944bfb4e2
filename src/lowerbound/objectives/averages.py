r"""How an importance-weighted bound averages its weights, with the first and second derivatives that estimators need.

.. math:: F(w_1, \ldots, w_K) = \beta \frac1K \sum_k \log w_k
          + (1 - \beta) \frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowerbound.objectives.log_weights import log_mean_exp

__all__ = ["Average"]


@dataclass(frozen=True)
class Average:
    r"""A power mean of the weights on the log scale, mixed with the mean of their logs.

    Attributes:
        alpha: The order :math:`\alpha` of Rényi's divergence, not 1; 0 averages the weights themselves.
        elbo_share: The share :math:`\beta` of the mean of the logs.

    Example:
        >>> Average()(torch.tensor([0.0, 1.0])), Average(alpha=2.0)(torch.tensor([0.0, 1.0]))
        (tensor(0.6201), tensor(0.3799))
    """

    alpha: float = 0.0
    elbo_share: float = 0.0

    def __call__(self, log_weights: Tensor) -> Tensor:
        """Return F over axis 0: from ``[K, *]`` to ``[*]``, in nats."""
        power = 1 - self.alpha
        tight = log_mean_exp(power * log_weights) / power if self.alpha else log_mean_exp(log_weights)
        if not self.elbo_share:
            return tight
        return self.elbo_share * log_weights.mean(0) + (1 - self.elbo_share) * tight

    def derivatives(self, log_weights: Tensor, kl_weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        r"""Return :math:`F_k = \partial F / \partial \log w_k` and the doubly reparameterised gradient's factor on it.

        The score term of q in a pathwise gradient is :math:`F_k \nabla_\phi \log q(z_k)`, and as :math:`z_k` is a draw
        of q its mean is that of :math:`F_{kk} \, \partial_z \log w_k \nabla_\phi z_k`. So draws carry the gradient
        :math:`(F_k - \beta_\mathrm{KL} F_{kk}) \, \partial_z \log w_k`, which is :math:`F_k` times

        .. math:: 1 - \beta_\mathrm{KL} (1 - \alpha) r_k (1 - \tilde w_k), \qquad \tilde w_k \propto w_k^{1 - \alpha}

        with :math:`r_k` the power mean's part of :math:`F_k`. For :math:`\alpha = \beta = 0` it is :math:`\tilde w_k`.

        Args:
            log_weights: Shape ``[K, *]``, constants.
            kl_weight: What log p(z) - log q(z|x) was multiplied with in the weights.

        Returns:
            Both of shape ``[K, *]``.

        Source: Tucker et al., Doubly Reparameterized Gradient Estimators (2019), for the importance-weighted bound.
        """
        power = 1 - self.alpha
        weights = (power * log_weights).softmax(0)
        if not self.elbo_share:
            bend = kl_weight * power
            return weights, (1 - bend) + bend * weights
        tight = (1 - self.elbo_share) * weights
        slope = tight + self.elbo_share / len(log_weights)
        bend = kl_weight * power * tight / slope
        return slope, (1 - bend) + bend * weights
