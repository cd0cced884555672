"""The command line: `capillary-targets targets | events | sweep | report | sandbox`."""

from .app import main

__all__ = ["main"]
