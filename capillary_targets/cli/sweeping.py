"""`sweep`: many users, to files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from capillary_targets.errors import UsageError
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import Summary, UsersFile, run
from capillary_targets.sweep.users import BadLine

from .connection import connected
from .progress import progress

__all__ = ["sweep"]


async def sweep(
    users_file: Path | None = None,
    /,
    *,
    out: Path,
    concurrency: int = 16,
    page_size: int = 100,
    sandbox: bool = False,
) -> int:
    """Fetch the targets and events of many users into files.

    The directory receives `events/part-00000.jsonl`, `targets/part-00000.jsonl`,
    `failures.jsonl` and `summary.json`.

    Args:
        users_file: One user id a line; blank lines and # comments are skipped. May be left out
            with --sandbox, whose users are then all swept.
        out: The directory for the files.
        concurrency: Requests in flight at once.
        page_size: Events asked for in one request.
        sandbox: Ask a sandbox started for the occasion: no account needed.
    """
    server = Sandbox() if sandbox else None
    users: Iterable[int | BadLine]
    if users_file is not None:
        users = UsersFile(users_file)
    elif server is not None:
        users = server.world.all_user_ids()
    else:
        raise UsageError("USERS_FILE is missing: name a file with one user id a line")
    async with connected(server, concurrency=concurrency, page_size=page_size) as client:
        with progress() as shown:
            summary = await run(client, users, out, progress=shown.update)
    _show(summary, out)
    return 0 if summary.all_complete else 1


def _show(summary: Summary, out: Path) -> None:
    facts = {
        "users": f"{summary.users}",
        "targets": f"{summary.targets}",
        "events": f"{summary.events}",
        "sum of values": f"{summary.value_sum:f}",
        "requests": f"{summary.requests}",
        "retries": f"{summary.retries}",
        "seconds": f"{summary.seconds:.1f}",
        "failures": f"{summary.failed + summary.bad_lines}",
        "files": f"{out}",
    }
    if not summary.all_complete:
        facts["failures"] += f" (listed in {out / 'failures.jsonl'})"
    if sys.stdout.isatty():
        table = Table(title="Swept", title_justify="left", show_header=False)
        for name, value in facts.items():
            table.add_row(name, value)
        Console(markup=False, emoji=False, highlight=False).print(table)
    else:
        for name, value in facts.items():
            print(f"{name}: {value}")
