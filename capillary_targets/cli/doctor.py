"""`doctor`: which way a cluster falls on what the API's pages leave open."""

from __future__ import annotations

from capillary_targets.doctor import diagnose, load_known
from capillary_targets.retry import RetryPolicy

from . import output
from .connection import DEFAULT, File, Query

_SANDBOX_USER = 1_000_001
_CHANGED = 3


async def doctor(
    *,
    user: int | None = None,
    rule: int | None = None,
    out: File | None = None,
    since: File | None = None,
    query: Query = DEFAULT,
) -> int:
    """Find out how a cluster behaves, in at most 15 requests that change nothing.

    What it prints and writes holds no member's data and no secret, so it may be sent to anybody.

    Try it without an account:

        capillary-targets doctor --sandbox

    Args:
        user: A member with events; without one, few questions can be told.
        rule: One of the member's targets; by default the one with the highest value.
        out: Write the verdicts to this cluster.toml: for Dialect.load, sandbox --like and --since.
        since: Compare with this cluster.toml; with a difference, the exit status is 3.
        query: How to reach the API, and how to print.
    """
    before = None if since is None else load_known(since)
    if user is None and query.sandbox:
        user = _SANDBOX_USER
    async with query.client(retry=RetryPolicy(attempts=2)) as client:
        diagnosis = await diagnose(client.session, user, rule)
    if out is not None:
        out.write_text(diagnosis.to_toml(), encoding="utf-8")
    changes = [] if before is None else diagnosis.changes(*before)
    found = diagnosis.to_dict()
    if query.is_json:
        if before is not None:
            found["changes"] = [
                {"question": q, "before": was, "now": now} for q, was, now in changes
            ]
        output.write_json([found])
    else:
        rows = [{"question": name, **said} for name, said in found["verdicts"].items()]
        output.show_records(f"{diagnosis.host}: {diagnosis.requests} requests", rows)
        for question, was, now in changes:
            output.write(f"changed: {question}: {was}, now {now}\n")
        if before is not None and not changes:
            output.write(f"nothing changed since {since}\n")
    return _CHANGED if changes else 0
