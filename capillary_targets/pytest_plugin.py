"""Sandbox and client of the pytest plugin's fixtures; imported when a test asks for one.

`capillary_targets_pytest` has the fixtures themselves: `capillary_sandbox` and `targets_client`.
Each takes its settings from a marker of its own name, on the test, its class or its module; the
nearest marker wins, setting by setting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from .auth import BasicAuth
from .client import TargetsClient
from .sandbox import Sandbox, SandboxSettings
from .testing import no_waiting

__all__ = ["client_for", "sandbox_for"]


def sandbox_for(node: pytest.Item) -> Sandbox:
    """The sandbox that a test's markers describe, not started yet."""
    settings = _settings(node, "capillary_sandbox")
    known = {field.name for field in attrs.fields(SandboxSettings) if field.init}
    if unknown := sorted(settings.keys() - known):
        raise pytest.UsageError(
            f"{node.nodeid}: the sandbox has no setting {', '.join(unknown)}; "
            f"it has {', '.join(sorted(known))}"
        )
    return Sandbox(**settings)


@asynccontextmanager
async def client_for(node: pytest.Item, sandbox: Sandbox) -> AsyncIterator[TargetsClient]:
    """An open client of a running sandbox, with the settings that a test's markers give.

    While it is open nothing waits: retries follow at once, and pauses and budgets do not count.
    """
    settings = {"auth": BasicAuth(*sandbox.credentials), **_settings(node, "targets_client")}
    with no_waiting():
        async with TargetsClient(sandbox.url, **settings) as client:
            yield client


def _settings(node: pytest.Item, name: str) -> dict[str, Any]:
    markers = list(node.iter_markers(name))  # the nearest first
    if any(marker.args for marker in markers):
        raise pytest.UsageError(f"{node.nodeid}: name the settings of the marker {name}")
    return {key: value for marker in reversed(markers) for key, value in marker.kwargs.items()}
