"""`sandbox`: the documented API on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
from cyclopts import Parameter, validators

from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Replay, Sandbox
from capillary_targets.sandbox.settings import NotifyEnvelope, NotifyLogId

from . import output
from .connection import rate_of

__all__ = ["sandbox"]

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Pushes:
    """The flags about the vendor's notifications.

    Args:
        notify: Push the vendor's notification of whatever changes to this address.
        notify_header: A static header that these carry, such as "X-Webhook-Secret: s3cret".
        notify_envelope: The form of the body; enriched holds personal data.
        notify_log_id: Where the event's log id stands.
        notify_stray_blanks: The share of keys that hold a stray blank.
        notify_shuffled: Notifications that wait together change places.
        notify_duplicates: The share that is sent twice.
        notify_losses: The share of changes that are never announced.
        notify_early: The share of events that are announced before the API shows them.
        notify_early_requests: Requests for them that miss such an event yet.
        notify_delay: Seconds from the event to its push.
        notify_timeout: Seconds for an answer; then the push is repeated.
        notify_backoff: Seconds to the first repetition; each next wait is twice as long.
        notify_give_up: Seconds of waits after which a push is given up.
        notify_time_scale: What a second of the delay and the waits takes, such as 0.001.
    """

    notify: str | None = None
    notify_header: str | None = None
    notify_envelope: NotifyEnvelope = "raw"
    notify_log_id: NotifyLogId = "both"
    notify_stray_blanks: float = 0.0
    notify_shuffled: bool = False
    notify_duplicates: float = 0.0
    notify_losses: float = 0.0
    notify_early: float = 0.0
    notify_early_requests: int = 1
    notify_delay: float = 0.0
    notify_timeout: float = 10.0
    notify_backoff: float = 1.0
    notify_give_up: float = 7 * 86_400.0
    notify_time_scale: float = 1.0

    def settings(self) -> dict[str, Any]:
        """Those of `Sandbox`. Raises `UsageError`."""
        settings = attrs.asdict(self)
        header = settings.pop("notify_header")
        name, colon, value = (header or "").partition(":")
        if header and not colon:
            raise UsageError(f"--notify-header takes NAME: VALUE, not {header!r}")
        return settings | {"notify_headers": {name: value.strip()} if colon else {}}


_NO_PUSHES: Final = Pushes()


async def sandbox(
    *,
    port: Port = 8080,
    host: str = "127.0.0.1",
    users: int = 200,
    targets: int = 3,
    events: int = 25,
    exact_events: bool = False,
    seed: int = 7,
    iso: bool = False,
    random_faults: float = 0.0,
    rate_limit: str | None = None,
    latency: float = 0.0,
    capacity: int | None = None,
    error_status: int = 400,
    offset_mode: Literal["page", "row", "ignored", "clamped"] = "page",
    max_limit: int = 1000,
    insert_per_request: int = 0,
    append_per_request: int = 0,
    like: Path | None = None,
    replay: Path | None = None,
    pushes: Pushes = _NO_PUSHES,
) -> int:
    """Serve a made-up world through the documented API until Ctrl-C.

    Try it:

        capillary-targets sandbox --port 0

    Args:
        port: Where to listen; 0 takes a free port.
        host: The address to listen at.
        users: How many users there are, besides those of the API's printed samples.
        targets: How many targets each is enrolled in.
        events: How many events each target has, on average.
        exact_events: Exactly that many.
        seed: Another seed, another world.
        iso: Events carry their dates with a zone as well.
        random_faults: The share of calls that meet a passing fault, such as 0.05.
        rate_limit: More calls than REQUESTS/SECONDS, such as 100/60, are refused with 429.
        latency: Seconds that a call takes.
        capacity: Calls served at a time; more wait in line.
        error_status: The HTTP status that an API error comes with.
        offset_mode: What offset counts.
        max_limit: The most rows on a page, whatever is asked for.
        insert_per_request: Events that come late, before each request for them.
        append_per_request: Events that come, before each request for them.
        like: Behave as the cluster of this cluster.toml, which `doctor --out` writes.
        replay: Serve the answers of this cassette, which `record` writes, and nothing else.
        pushes: The vendor's notifications.
    """
    if rate_limit is not None:
        limit = rate_of(rate_limit, "--rate-limit")
        budget: tuple[int, float] | None = (limit.requests, limit.per)
    else:
        budget = None
    settings: dict[str, Any] = {
        "port": port,
        "host": host,
        "users": users,
        "targets": targets,
        "events": events,
        "exact_events": exact_events,
        "seed": seed,
        "iso": iso,
        "random_faults": random_faults,
        "rate_limit": budget,
        "latency": latency,
        "capacity": capacity,
        "error_status": error_status,
        "offset_mode": offset_mode,
        "max_limit": max_limit,
        "insert_per_request": insert_per_request,
        "append_per_request": append_per_request,
        **pushes.settings(),
    }
    server: Sandbox | Replay
    try:
        if replay is not None:
            server = Sandbox.replay(replay, host=host, port=port)
        elif like is not None:
            server = Sandbox.like(like, **settings)
        else:
            server = Sandbox(**settings)
        url = await server.start()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"the sandbox cannot start: {error}; try other flags") from None
    with suppress(asyncio.CancelledError):  # a signal is how it ends
        try:
            output.write(f"{_welcome(server, url)}\n")
            await asyncio.get_running_loop().create_future()
        finally:
            await server.stop()
    return 0


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
