"""Values that are computed when they are first asked for, and once."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, TypeVar, overload

__all__ = ["lazy"]

T = TypeVar("T")


class lazy(Generic[T]):  # noqa: N801 (a decorator)
    """`functools.cached_property` without its lock, which Python 3.12 dropped and `torch.compile` does not trace.

    Example:
        >>> class Circle:
        ...     radius = 2.0
        ...
        ...     @lazy
        ...     def area(self):
        ...         print("once")
        ...         return 3.14 * self.radius**2
        >>> circle = Circle()
        >>> circle.area, circle.area
        once
        (12.56, 12.56)
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name = compute, compute.__name__
        update_wrapper(self, compute)  # type: ignore[arg-type]

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> lazy[T]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...

    def __get__(self, instance: object | None, owner: type[Any]) -> lazy[T] | T:
        """Return the value; it lies in the instance's own attributes from then on, where Python looks first."""
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
