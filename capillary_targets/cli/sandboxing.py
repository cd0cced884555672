"""`sandbox`: the documented API on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter, validators

from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Sandbox

__all__ = ["sandbox"]

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


async def sandbox(
    *,
    port: Port = 8080,
    host: str = "127.0.0.1",
    users: int = 200,
    targets: int = 3,
    events: int = 25,
    seed: int = 7,
) -> int:
    """Serve a made-up world through the documented API until Ctrl-C.

    Args:
        port: Where to listen; 0 takes a free port.
        host: The address to listen at.
        users: How many users there are, besides those of the API's printed samples.
        targets: How many targets each is enrolled in.
        events: How many events each target has, on average.
        seed: Another seed, another world.
    """
    try:
        server = Sandbox(
            port=port, host=host, users=users, targets=targets, events=events, seed=seed
        )
        url = await server.start()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"the sandbox cannot start: {error}; try other flags") from None
    try:
        print(_welcome(server, url), flush=True)
        await asyncio.get_running_loop().create_future()  # until a signal cancels us
    finally:
        await server.stop()
    return 0


def _welcome(server: Sandbox, url: str) -> str:
    return f"""The sandbox is at {url} (open it in a browser to see what is there).
Paste this into another shell:

  export CAPILLARY_BASE_URL={url}
  export CAPILLARY_USERNAME={server.username}
  export CAPILLARY_PASSWORD={server.password}
  capillary-targets events 564332013 1986

Ctrl-C ends it."""
