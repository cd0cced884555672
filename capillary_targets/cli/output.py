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
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capillary_targets.models import JSON

CLEAR_LINE: Final = "\r\x1b[K"
"""Clears the terminal's line, on which a progress line may stand."""

_LONGEST_LINE: Final = 600
_NARROW: Final = 60
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


def write_json(values: Iterable[Mapping[str, object]]) -> None:
    """Write each as a line of JSON; characters that steer a terminal are spelled out in it."""
    lines = (JSON.encode(one).decode() for one in values)
    write("".join(f"{_UNPRINTABLE.sub(_json_escape, line)}\n" for line in lines))


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def show_facts(facts: Mapping[str, str]) -> None:
    """Print a `name: value` line for each; one that has no value is left out."""
    lines = (f"{name}: {printable(text.strip())}\n" for name, text in facts.items() if text.strip())
    write("".join(lines))


def show_records(title: str, records: Sequence[Mapping[str, object]]) -> None:
    """Print records of the same fields: as a table, or as facts where the terminal is too narrow.

    Fields that are empty in all records are left out. Only texts are wrapped, and not within a
    word; amounts (Decimal) are aligned at the point.
    """
    write(f"{printable(title)}\n")
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    columns: list[list[str]] = []
    needed = -_GAP
    for name in records[0] if records else ():
        values = [record[name] for record in records]
        column = _column(name, values)
        if any(map(str.strip, column[1:])):
            columns.append(column)
            wraps = all(isinstance(value, str | None) for value in values)
            least = max(map(cell_len, " ".join(column).split() if wraps else column))
            needed += least + _GAP
            table.add_column(column[0], no_wrap=not wraps, min_width=least, overflow="fold")
    if not columns:
        return
    write("\n")
    headings, *rows = zip(*columns, strict=True)
    size = shutil.get_terminal_size()
    if size.columns < _NARROW or needed > size.columns:
        for number, row in enumerate(rows):
            write("\n" * (number > 0))
            show_facts(dict(zip(map(str.strip, headings), row, strict=True)))
        return
    for row in rows:
        table.add_row(*map(Text, row))
    # Height too: rich takes 80 columns for a "dumb" terminal that is told its width alone.
    color: Literal["auto"] | None = None if is_dumb() else "auto"
    console = Console(width=size.columns, height=size.lines, color_system=color)
    with console.capture() as captured:
        console.print(table)
    write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))


def _column(name: str, values: Sequence[object]) -> list[str]:
    """A column's heading, then its texts. Where all its times are of one zone, the heading says it.

    Numbers are padded on the left, amounts to as many places on the right.
    """
    zones = {f"{value:%z}" for value in values if isinstance(value, datetime)}
    if len(zones) == 1 and (zone := zones.pop()):
        name = f"{name} ({'UTC' if zone == '+0000' else f'{zone[:3]}:{zone[3:]}'})"
        values = [v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in values]
    texts = [printable(_text(value)) for value in values]
    if any(type(value) in {int, Decimal} for value in values):
        tails = [len(text) - len(text.partition(".")[0]) for text in texts]
        texts = [text + " " * (max(tails) - tail) for text, tail in zip(texts, tails, strict=True)]
        widest = max(map(len, (name, *texts)))
        return [text.rjust(widest) for text in (name, *texts)]
    return [name, *texts]


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(sep=" ")
        case Decimal() if value.is_finite() and abs(value.adjusted()) < _PLAIN_DIGITS:
            return f"{value:f}"
        case _:
            return str(value)
