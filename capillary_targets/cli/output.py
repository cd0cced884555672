"""stdout and stderr: tables for a person, JSON Lines for a program, and lines that stay one line.

Whatever the API sent may hold escape sequences. None of it reaches a terminal raw.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capillary_targets.models import JSON, Target, TargetEvent

__all__ = [
    "CLEAR_LINE",
    "NoWrap",
    "OutputLost",
    "fail",
    "guarded",
    "is_dumb",
    "is_wanted_as_json",
    "log",
    "note",
    "open_streams",
    "printable",
    "show_facts",
    "show_records",
    "timestamp",
    "warn",
    "write",
    "write_json",
    "write_rows",
]

CLEAR_LINE: Final = "\r\x1b[K"
"""Clears the terminal's line, on which a progress line may stand."""

_LONGEST_LINE: Final = 600
_NARROW: Final = 60
_LEAST_TEXT: Final = 10
_LONG_WORD: Final = 20
_GAP: Final = 2
_PLAIN_DIGITS: Final = 40
# Control and format characters (bidirectional overrides among them), line separators, and halves
# of surrogate pairs; not the joiners inside emoji and Indic or Persian words.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class OutputLost(Exception):
    """stdout cannot be written to: `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to stdout: {error.strerror}")
        self.error = error


class NoWrap(str):
    """A text that a table never wraps."""

    __slots__ = ()


def open_streams() -> None:
    """Open the standard streams that the caller closed, and write UTF-8 whatever the locale.

    A socket must not become descriptor 0, 1 or 2. A closed stdin is empty; what goes to a closed
    stdout fails (`OutputLost`), for results must not vanish; what goes to a closed stderr is
    dropped.
    """
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free: this one
        if number:
            os.set_blocking(number, True)  # it is shared: another program may have changed it
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """The text with its control and format characters spelled out (escape is backslash x1b)."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever is printed within reaches stdout before its end. Raises `OutputLost`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise  # that was no write to stdout
        _discard(sys.stdout)
        raise OutputLost(error) from None


def write(text: str) -> None:
    """Write to stdout, at once. Raises `OutputLost`."""
    with guarded():
        sys.stdout.write(text)


def note(line: str) -> None:
    """Write one line to stderr. A stderr that is gone or full changes nothing."""
    start = CLEAR_LINE if sys.stderr.isatty() and not is_dumb() else ""
    try:
        print(f"{start}{printable(line)}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def timestamp() -> str:
    """The time in UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def is_dumb() -> bool:
    """Whether the terminal understands no escape sequences."""
    return os.environ.get("TERM", "") in {"", "dumb", "unknown"}


def log(line: str) -> None:
    """Write one line with the time to stderr."""
    note(f"{timestamp()} {line}")


def warn(message: str) -> None:
    """Print a `warning:` line."""
    note(f"warning: {message}")


def fail(message: str) -> None:
    """Print an `error:` line. What is very long is cut in the middle: its end says what to do."""
    if len(message) > _LONGEST_LINE:
        message = f"{message[: _LONGEST_LINE // 2]} ... {message[-_LONGEST_LINE // 2 :]}"
    note(f"error: {message}")


def _discard(stream: TextIO) -> None:
    """Send what is still buffered nowhere, or the interpreter would fail on it at its exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_wanted_as_json(*, asked: bool) -> bool:
    """Whether rows go out as JSON Lines: asked for, or stdout is no terminal."""
    return asked or not sys.stdout.isatty()


def write_rows(rows: Iterable[Target | TargetEvent]) -> None:
    """Write each row as one line of JSON."""
    write_json(row.to_dict() for row in rows)


def write_json(values: Iterable[Mapping[str, object]]) -> None:
    """Write each as a line of JSON; characters that steer a terminal are spelled out in it."""
    lines = (JSON.encode(one).decode() for one in values)
    write("".join(f"{_UNPRINTABLE.sub(_json_escape, line)}\n" for line in lines))


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def show_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print names and values: a block on a terminal, `name: value` lines elsewhere."""
    if sys.stdout.isatty():
        write(
            f"{title}\n\n{_block({name: NoWrap(printable(text)) for name, text in facts.items()})}"
        )
    else:
        write("".join(f"{name}: {printable(text)}\n" for name, text in facts.items()))


def show_records(title: str, records: Sequence[Mapping[str, object]]) -> None:
    """Print records of the same fields: as a table, or a block for each on a narrow terminal.

    Fields that are empty in all records are left out. Numbers, dates and `NoWrap` are never
    wrapped or cut; amounts (Decimal) are aligned at the point.
    """
    columns = _columns(records)
    cells = {name: _cells(name, values) for name, values in columns.items()}
    cells = {name: texts for name, texts in cells.items() if any(map(str.strip, texts))}
    write(f"{printable(title)}\n")
    if not cells:
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    needed = -_GAP
    for name, texts in cells.items():
        number = any(type(value) in {int, Decimal} for value in columns[name])
        heading = name.rjust(len(texts[0])) if number else name
        fixed = isinstance(texts[0], NoWrap)
        least = _widest(heading, *texts)
        if not fixed:  # it wraps, but not within a word
            words = " ".join((name, *texts)).split()
            least = min(least, max(_LEAST_TEXT, min(_LONG_WORD, _widest(*words))))
        needed += least + _GAP
        table.add_column(heading, no_wrap=fixed, min_width=least, overflow="fold")
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns
    if width < _NARROW or needed > width:
        rows = zip(*cells.values(), strict=True)
        blocks = [_block(dict(zip(cells, row, strict=True))) for row in rows]
        write("".join(f"\n{block}" for block in blocks))
    else:
        write("\n" + _rendered(table))


def _columns(records: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    """The values by field; where all its times are of one zone, that stands in the field's name."""
    columns: dict[str, list[object]] = {}
    for name in records[0] if records else ():
        values = [record[name] for record in records]
        zones = {f"{value:%z}" for value in values if isinstance(value, datetime)}
        zone = zones.pop() if len(zones) == 1 else ""
        if zone:
            values = [v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in values]
        columns[f"{name} ({_zone_name(zone)})" if zone else name] = values
    return columns


def _zone_name(zone: str) -> str:
    return "UTC" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"


def _widest(*texts: str) -> int:
    return max(map(cell_len, texts), default=0)


def _cells(name: str, values: Sequence[object]) -> list[str]:
    """A column's texts. Numbers are padded on the left, amounts to as many places on the right."""
    texts = [_text(value) for value in values]
    if all(isinstance(value, str | None) and not isinstance(value, NoWrap) for value in values):
        return [printable(text) for text in texts]
    if any(isinstance(value, Decimal) for value in values):
        tails = [len(text) - len(text.partition(".")[0]) for text in texts]
        texts = [text + " " * (max(tails) - tail) for text, tail in zip(texts, tails, strict=True)]
    if any(type(value) in {int, Decimal} for value in values):
        widest = max(map(len, (name, *texts)))
        texts = [text.rjust(widest) for text in texts]
    return [NoWrap(printable(text)) for text in texts]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < _PLAIN_DIGITS:
        return f"{value:f}"
    return str(value)


def _block(record: Mapping[str, str]) -> str:
    """One record, a line for each field that has a value.

    Where the terminal has no room for a value beside the names, lines are left to it to wrap:
    nothing is cut.
    """
    shown = {name: text for name, text in record.items() if text.strip()}
    names = _widest(*shown)
    room = shutil.get_terminal_size().columns - names - _GAP
    fixed = (cell_len(text.strip()) for text in shown.values() if isinstance(text, NoWrap))
    if max(fixed, default=_LEAST_TEXT) > room:
        return "".join(f"{name}: {text.strip()}\n" for name, text in shown.items())
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, text in shown.items():
        grid.add_row(name, Text(text.strip()))
    return _rendered(grid)


def _rendered(table: Table) -> str:
    """The table as text with a terminal's styles, not wider than the terminal."""
    size = shutil.get_terminal_size()
    # Height too: rich takes 80 columns for a "dumb" terminal that is told its width alone.
    console = Console(
        file=sys.stdout,
        width=size.columns,
        height=size.lines,
        color_system=None if is_dumb() else "auto",
    )
    with console.capture() as captured:
        console.print(table)
    return re.sub(r" +$", "", captured.get(), flags=re.MULTILINE)
