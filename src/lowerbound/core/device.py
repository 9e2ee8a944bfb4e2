"""Which device to compute on."""

from __future__ import annotations

import torch

__all__ = ["find_device"]


def find_device(name: str) -> str:
    """Return a device's name; ``"auto"`` is an accelerator if torch sees one, else the processor."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
