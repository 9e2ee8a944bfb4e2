"""The errors that a user meets, and the one sentence that all of them follow.

Every message names what was wrong, what was expected, what came, and the cure. All classes derive from
`LowerboundError`, so that a command line (or a service) can catch exactly the mistakes that a user can mend.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "DataError",
    "EvaluationWarning",
    "LowerboundError",
    "NodeError",
    "NonFiniteError",
    "RunError",
    "SamplingWarning",
    "ShapeError",
    "TrainingWarning",
    "explain",
]


class LowerboundError(Exception):
    """Any mistake that the user of the library can mend."""


class ArgumentError(LowerboundError, ValueError):
    """An argument has a value that the function cannot take."""


class ShapeError(LowerboundError, ValueError):
    """A tensor has another shape than its place asks for."""


class NodeError(LowerboundError, ValueError):
    """A stochastic program is inconsistent; the message names the node."""


class DataError(LowerboundError, ValueError):
    """A file or an array does not hold usable data."""


class RunError(LowerboundError, RuntimeError):
    """A run folder is missing, damaged, foreign or already taken."""


class NonFiniteError(LowerboundError, ArithmeticError):
    """Training met a value that is not finite; the message says where."""


class TrainingWarning(UserWarning):
    """Training goes on, and its user should know something about it."""


class EvaluationWarning(UserWarning):
    """Scores were written, and their user should know something about them."""


class SamplingWarning(UserWarning):
    """Markov chains ran, and what they returned should not be trusted as it is."""


def explain(what: str, *, expected: object, got: object, cure: str) -> str:
    """Compose an error message in the one form that the library uses.

    Args:
        what: The argument, node or file that is wrong, named as the user knows it.
        expected: What it should have been.
        got: What it was.
        cure: A sentence that tells the user what to do.

    Returns:
        One line: ``what: expected ..., got .... Cure.``

    Example:
        >>> explain("particles", expected="a positive integer", got=0, cure="Pass particles=1 or more.")
        'particles: expected a positive integer, got 0. Pass particles=1 or more.'
    """
    return f"{what}: expected {expected}, got {got}. {cure}"
