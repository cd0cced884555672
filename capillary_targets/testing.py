"""For the tests of those who use this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import stamina

from .retry import waiting_disabled

__all__ = ["no_waiting"]

_MANY: Final = 1_000_000


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within it, retries wait for nothing: as many attempts as configured, at once.

    ```python
    with capillary_targets.testing.no_waiting():
        ...  # a sandbox that answers 503 twice is asked three times in no time
    ```

    It switches stamina's test mode on for the whole process, and back to what it was.
    """
    token = waiting_disabled.set(True)
    try:
        with stamina.set_testing(True, attempts=_MANY, cap=True):
            yield
    finally:
        waiting_disabled.reset(token)
