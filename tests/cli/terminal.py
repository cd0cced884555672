"""A command on a real pseudo-terminal of a given width, and what it wrote there."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["COMMAND", "captured", "environment", "on_terminal", "read_until", "resize", "session"]

COMMAND = [sys.executable, "-m", "capillary_targets_cli"]
_SESSION = """
import fcntl, shlex, struct, sys, termios
from capillary_targets.cli import main
for line in sys.argv[1:]:
    if line.isdigit():
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, int(line), 0, 0))
        print("columns", line, flush=True)
        continue
    print("$", line, flush=True)
    print("status", main(shlex.split(line)[1:]), flush=True)
"""
ROOT = Path(__file__).parent.parent.parent
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def environment(**settings: str) -> dict[str, str]:
    """The caller's own, without what would change what a command does or prints."""
    dropped = ("CAPILLARY_", "PYTHONIO", "LC_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"LANG": "C", "TERM": "xterm-256color"} | settings


def resize(handle: int, columns: int, lines: int = 24) -> None:
    """Give a terminal another size."""
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def on_terminal(
    *tokens: object, columns: int = 80, command: Sequence[str] = COMMAND, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running command whose stdin, stdout and stderr are a terminal; and its other end."""
    ours, theirs = pty.openpty()
    try:
        resize(theirs, columns)
        with subprocess.Popen(
            [*command, *map(str, tokens)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**settings),
            cwd=ROOT,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        os.close(ours)


def read_until(handle: int, wanted: str | None = None) -> str:
    """What a terminal is sent, until it holds `wanted`, or is closed."""
    found = b""
    while wanted is None or wanted.encode() not in found:
        try:
            chunk = os.read(handle, 65536)
        except OSError:  # the other end is closed
            chunk = b""
        if not chunk:
            break
        found += chunk
    text = found.decode()
    assert wanted is None or wanted in text, text
    return text


def captured(*tokens: object, columns: int = 80, **settings: str) -> tuple[int, str]:
    """The exit status and the text of a command on a terminal; its styles are left out."""
    with on_terminal(*tokens, columns=columns, **settings) as (process, handle):
        text = read_until(handle)
        status = process.wait(20)
    return status, _STYLE.sub("", text).replace("\r\n", "\n")


def session(*lines: str) -> str:
    """What a terminal shows after several commands, one after the other in one process.

    A line that is a number gives it so many columns.
    """
    command = [sys.executable, "-c", _SESSION]
    with on_terminal(*lines, command=command) as (_, handle):
        return _STYLE.sub("", read_until(handle)).replace("\r\n", "\n")
