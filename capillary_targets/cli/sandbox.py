"""`sandbox`: the documented API on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter

from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Replay, Sandbox, SandboxSettings

from . import output
from .connection import File, Rate

_FLAGS: Final = re.compile("^(?!clock|between_requests|port|rate_limit|notify_headers)")
"""All settings but the functions, and those that a flag of the command spells in its own way."""
_DEFAULT: Final = SandboxSettings()


async def sandbox(
    *,
    port: int = 8080,
    rate_limit: Rate = None,
    notify_header: str | None = None,
    like: File | None = None,
    replay: File | None = None,
    settings: Annotated[
        SandboxSettings, Parameter(name="*", negative=None, parse=_FLAGS)
    ] = _DEFAULT,
) -> None:
    """Serve a made-up world through the documented API until Ctrl-C.

    Try it:

        capillary-targets sandbox --port 0

    Args:
        port: Where to listen; 0 takes a free port.
        rate_limit: More calls than REQUESTS/SECONDS, such as 100/60, are refused with 429.
        notify_header: A static header of notifications, such as "X-Webhook-Secret: s3cret".
        like: Behave as the cluster of this cluster.toml, which `doctor --out` writes.
        replay: Serve the answers of this cassette, which `record` writes, and nothing else.
        settings: A flag for each setting of the sandbox.
    """
    given: dict[str, Any] = attrs.asdict(settings, recurse=False) | {"port": port}
    if rate_limit is not None:
        given["rate_limit"] = (rate_limit.requests, rate_limit.per)
    if notify_header is not None:
        name, colon, value = notify_header.partition(":")
        if not colon:
            raise UsageError(f"--notify-header takes NAME: VALUE, not {notify_header!r}")
        given["notify_headers"] = {name: value.strip()}
    server: Sandbox | Replay
    try:
        if replay is not None:
            server = Sandbox.replay(replay, host=settings.host, port=port)
        elif like is not None:
            server = Sandbox.like(like, **given)
        else:
            server = Sandbox(**given)
        url = await server.start()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"the sandbox cannot start: {error}; try other flags") from None
    with suppress(asyncio.CancelledError):  # a signal is how it ends
        try:
            output.write(f"{_welcome(server, url)}\n")
            await asyncio.get_running_loop().create_future()
        finally:
            await server.stop()


def _welcome(server: Sandbox | Replay, url: str) -> str:
    username, password = server.credentials
    if isinstance(server, Replay):
        again = f"curl -s {url}/sandbox/users.txt  # the members in the cassette"
    else:
        again = "capillary-targets events 564332013 1986"
    return f"""The sandbox is at {url} (open it in a browser to see what is there).
Paste this into another shell:

  export CAPILLARY_BASE_URL={url}
  export CAPILLARY_USERNAME={username}
  export CAPILLARY_PASSWORD={password}
  {again}

Ctrl-C ends it."""
