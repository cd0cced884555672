"""For the tests of those who use this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .retry import waiting_disabled

__all__ = ["no_waiting"]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within it, retries wait for nothing: as many attempts as configured, at once.

    Pauses, the rate budget and the learned pace are not waited for either. It holds for the
    running task and those started within it.

    ```python
    with capillary_targets.testing.no_waiting():
        ...  # a sandbox that answers 503 twice is asked three times in no time
    ```
    """
    token = waiting_disabled.set(True)
    try:
        yield
    finally:
        waiting_disabled.reset(token)
