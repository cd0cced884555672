"""`sweep --engine ray`: the same sweep, by the workers of a Ray cluster."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capillary_targets.auth import BasicAuth
from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import Summary

from .connection import auth_of, base_url_of
from .output import warn

if TYPE_CHECKING:
    from capillary_targets.sweep.reading import Users

__all__ = ["sweep_on_cluster"]


async def sweep_on_cluster(
    sandbox: Sandbox | None, users: Users, out: Path, **settings: Any
) -> Summary:
    """Sweep on a cluster; `settings` are those of `capillary_targets.ray.sweep`.

    A sandbox is asked from this machine's workers only: its address means nothing elsewhere.
    """
    if sandbox is not None and settings.get("address"):
        raise UsageError("--sandbox is for Ray on this machine: leave out --address")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        from capillary_targets.ray import sweep  # noqa: PLC0415 - the extra, which loads slowly
    except ImportError as error:
        raise UsageError(str(error)) from error
    async with AsyncExitStack() as stack:
        if sandbox is not None:
            settings["base_url"] = await stack.enter_async_context(sandbox)
            settings["auth"] = BasicAuth(sandbox.username, sandbox.password)
            settings["source"] = "the sandbox"
        else:
            settings["base_url"] = base_url_of(os.environ)
            settings["auth"] = auth_of(os.environ)
        try:
            return await sweep(users, out, **settings)
        except asyncio.CancelledError:
            warn(f"the users done so far are safe in {out}; run the same command again to go on")
            raise
