"""The command line: parse, one library call, print."""

from lowerbound.cli.main import main

__all__ = ["main"]
