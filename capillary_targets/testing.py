"""For the tests of those who use this package."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from aiohttp import ClientResponse

from .retry import waiting_disabled

__all__ = ["aioresponses_shim", "no_waiting"]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within it, retries wait for nothing: as many attempts as configured, at once.

    Pauses, the rate budget, the learned pace and a place under the concurrency limit are not
    waited for either. It holds for the running task and those started within it.

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


@contextmanager
def aioresponses_shim() -> Iterator[None]:
    """Within it, aioresponses 0.7.9 works on aiohttp 3.14, which asks for a `stream_writer`.

    It changes nothing on an older aiohttp.

    ```python
    with aioresponses_shim(), aioresponses() as mocked:
        mocked.get(url, payload=answer)
    ```
    """
    if "stream_writer" not in inspect.signature(ClientResponse).parameters:
        yield
        return
    with patch("aioresponses.core.ClientResponse", _Response):
        yield


class _Response(ClientResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)
