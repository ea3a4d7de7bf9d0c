"""The command `jaxdiff`."""

from jaxdiff.cli.main import main

__all__ = ["main"]
