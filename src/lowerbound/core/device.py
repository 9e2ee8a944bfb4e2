"""Which device to compute on."""

from __future__ import annotations

import torch

from lowerbound.core.errors import ArgumentError, explain

__all__ = ["find_device"]


def find_device(name: str) -> str:
    """Return a device's name; ``"auto"`` is an accelerator if torch sees one, else the processor.

    Raises:
        ArgumentError: if torch cannot use the device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cure = "Pass device='cpu', or a device that torch can use on this machine."
        raise ArgumentError(
            explain("device", expected="a device of this machine", got=repr(name), cure=cure)
        ) from error
    return name
