"""The console script: Ctrl-C ends it in one line, from the first moment to the last.

It stands beside the package, because importing anything inside it imports all of it, which takes
half a second.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

__all__ = ["main"]


def main() -> int:
    """Run the process's command line and return its exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored: nohup and &
        signal.signal(signal.SIGINT, _interrupted)
    from capillary_targets.cli import main as run  # noqa: PLC0415 - it takes half a second

    return run()


def _interrupted(number: int, _frame: FrameType | None) -> None:
    """End at once: nothing has begun yet, or all is done. While a command runs, it decides."""
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
