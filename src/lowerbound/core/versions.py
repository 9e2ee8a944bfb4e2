"""Which versions are installed."""

from __future__ import annotations

from importlib import metadata

__all__ = ["version"]


def version(package: str) -> str:
    """Return the version of an installed package, ``"unknown"`` if none is installed under this name."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
