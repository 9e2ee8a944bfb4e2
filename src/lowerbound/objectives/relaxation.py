"""Which nodes a relaxed gradient relaxes, in the posterior and then in the model."""

from __future__ import annotations

from typing import Any

from torch.distributions import Categorical, Distribution

from lowerbound.core.checks import number
from lowerbound.core.errors import ArgumentError, NodeError, explain
from lowerbound.distributions import soften

__all__ = ["Relaxation", "relaxation_options"]


class Relaxation:
    """Relaxes the discrete nodes of a posterior, and the same nodes of a model.

    Args:
        temperature: Of the draws, positive.
        straight_through: Whether draws have the rounded value, and only the gradient of the relaxed one.
    """

    def __init__(self, temperature: float, straight_through: bool) -> None:
        self.temperature = number("temperature", temperature, low=0.0, open_low=True)
        self.straight_through = straight_through
        self._names: set[str] = set()

    def of_posterior(self, name: str, distribution: Distribution) -> Distribution:
        """Return the distribution from which the posterior draws a node; one with a path of its own keeps it.

        Raises:
            NodeError: if the node has neither a relaxation nor a path.
        """
        soft = self._soften(distribution)
        if soft is not None:
            self._names.add(name)
            return soft
        if distribution.has_rsample:
            return distribution
        base: Any = distribution
        kind = type(getattr(base, "base_dist", base)).__name__
        cure = (
            "Take OneHotCategorical, whose draw is a vector: between two indices there is nothing."
            if kind == Categorical.__name__
            else "Use reinforce, which takes any posterior."
        )
        expected = "a Bernoulli, a OneHotCategorical or a distribution with rsample"
        raise NodeError(explain(f"relaxed at node {name!r}", expected=expected, got=kind, cure=cure))

    def of_model(self, name: str, distribution: Distribution) -> Distribution:
        """Return the distribution that scores a node: a relaxed one where the posterior's draw is relaxed."""
        soft = self._soften(distribution) if name in self._names else None
        return distribution if soft is None else soft

    def require_names(self, latents: list[str]) -> None:
        """Raise a `NodeError` if none of the latents that were drawn was relaxed."""
        if not self._names:
            cure = "Use sgvb, which has no bias: every latent has a path of its own."
            expected = "a Bernoulli or a OneHotCategorical among the latents"
            raise NodeError(explain("relaxed", expected=expected, got=", ".join(latents), cure=cure))

    def _soften(self, distribution: Distribution) -> Distribution | None:
        return soften(distribution, self.temperature, straight_through=self.straight_through)


def relaxation_options(gradient: str, temperature: float | None, straight_through: bool) -> dict[str, Any]:
    """Return the arguments of `Bound.relaxed` for an objective: none for other gradients.

    Raises:
        ArgumentError: if the temperature is missing, or given to a gradient that has none.
    """
    if gradient == "relaxed":
        if temperature is None:
            cure = "Pass temperature=0.5, for example: lower has less bias and more variance."
            raise ArgumentError(explain("temperature", expected="a positive number", got=None, cure=cure))
        return {
            "temperature": number("temperature", temperature, low=0.0, open_low=True),
            "straight_through": straight_through,
        }
    for name, given in (("temperature", temperature is not None), ("straight_through", straight_through)):
        if given:
            cure = "Choose gradient='relaxed', or leave it out."
            raise ArgumentError(explain(name, expected=f"none for gradient {gradient!r}", got="one", cure=cure))
    return {}
