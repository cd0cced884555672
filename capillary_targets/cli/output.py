"""What a command prints: a table for a person, JSON Lines for a program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from capillary_targets.models import Target, TargetEvent
from capillary_targets.sweep.rows import encode, plain

__all__ = ["is_wanted_as_json", "show_events", "show_facts", "show_targets", "warn", "write_rows"]


def is_wanted_as_json(*, asked: bool) -> bool:
    """Whether rows go out as JSON Lines: asked for, or nobody is looking."""
    return asked or not sys.stdout.isatty()


def write_rows(rows: Iterable[Target | TargetEvent]) -> None:
    """Each row as one line of JSON on stdout, handed on at once."""
    for row in rows:
        sys.stdout.write(encode(plain(row) if isinstance(row, Target) else row).decode() + "\n")
    sys.stdout.flush()


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {message}", file=sys.stderr)


def show_targets(user: int, found: Sequence[Target]) -> None:
    """A table of targets."""
    table = Table(title=f"Targets of user {user}: {len(found)}", title_justify="left")
    for name in ("id", "name", "type", "entity", "group", "active", "enrolment", "created on"):
        table.add_column(name, justify="right" if name in {"id", "group"} else "left")
    for one in found:
        created = one.attribution and one.attribution.created_on
        table.add_row(
            str(one.id),
            one.name,
            one.target_type,
            one.target_entity,
            _text(one.target_group_id),
            {True: "yes", False: "no", None: None}[one.active],
            one.enrolment_method,
            _text(created),
        )
    _print(table)


def show_events(user: int, rule: int, found: Sequence[TargetEvent]) -> None:
    """A table of events."""
    title = f"Events of user {user} towards target {rule}: {len(found)}"
    table = Table(title=title, title_justify="left")
    for name in ("event log id", "date", "event", "display name", "unique id", "period", "value"):
        right = name in {"event log id", "period", "value"}
        table.add_column(name, justify="right" if right else "left")
    for one in found:
        table.add_row(
            str(one.event_log_id),
            _text(one.event_date),
            one.event_name,
            one.event_display_name,
            one.unique_id,
            _text(one.period_id),
            _text(one.target_value),
        )
    _print(table)


def show_facts(title: str, facts: Mapping[str, str]) -> None:
    """Names and values: a table on a terminal, `name: value` lines elsewhere."""
    if not sys.stdout.isatty():
        for name, value in facts.items():
            print(f"{name}: {value}")
        return
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    _print(table)


def _print(table: Table) -> None:
    # What the server sent is text, never markup, emoji names or something to be coloured in.
    Console(markup=False, emoji=False, highlight=False).print(table)


def _text(value: object) -> str | None:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return None if value is None else str(value)
