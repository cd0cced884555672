"""The command line: `capillary-targets targets | events | sweep | sandbox`."""

from .app import main

__all__ = ["main"]
