"""Fixtures of the pytest plugin, which pytest loads wherever the package is installed.

This module is beside the package because importing anything inside it imports all of it: half a
second at the start of every test run, even where no test uses a sandbox. The fixtures import
`capillary_targets.pytest_plugin` when a test asks for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_asyncio import fixture
except ImportError:  # another runner of async tests, such as anyio's, drives plain fixtures
    fixture = pytest.fixture  # type: ignore[assignment]

if TYPE_CHECKING:
    from capillary_targets import TargetsClient
    from capillary_targets.sandbox import Sandbox

__all__ = ["capillary_sandbox", "targets_client"]

_MARKERS = (
    "capillary_sandbox(**settings): settings of the sandbox that the test's fixtures give it",
    "targets_client(**settings): settings of the client that the test's fixtures give it",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, for `--strict-markers` and `--markers`."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@fixture
async def capillary_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A running sandbox of the Capillary targets API; see the marker of the same name."""
    from capillary_targets.pytest_plugin import sandbox_for  # noqa: PLC0415 - see above

    sandbox = sandbox_for(request.node)
    async with sandbox:
        yield sandbox


@fixture
async def targets_client(
    request: pytest.FixtureRequest, capillary_sandbox: Sandbox
) -> AsyncIterator[TargetsClient]:
    """An open client of that sandbox, whose retries wait for nothing."""
    from capillary_targets.pytest_plugin import client_for  # noqa: PLC0415 - see above

    async with client_for(request.node, capillary_sandbox) as client:
        yield client
