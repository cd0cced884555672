"""The command line: `capillary-targets user | targets | events | sweep | report | sandbox`."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit status."""
    try:
        from .app import main as run  # noqa: PLC0415 - to name the extra where it is missing
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"cyclopts", "rich"}:
            raise
        sys.stderr.write(
            f"error: the command line needs {package}: pip install 'capillary-targets[cli]'\n"
        )
        return 2
    return run(tokens)
