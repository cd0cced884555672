"""The list of users as a file: one id a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from .errors import SweepRefused

__all__ = ["BadLine", "UsersFile"]

_ID: Final = re.compile(r"[+-]?[0-9]{1,19}")
_LONG: Final = 2**63
_PATIENCE: Final = 1000
_SHOWN: Final = 80


@frozen
class BadLine:
    """A line that is no user id: its number, from 1, and the beginning of what it says."""

    number: int
    text: str


@frozen
class UsersFile:
    """A text file of user ids, one a line. Blank lines and those that begin with # do not count.

    It is read as it is iterated, line by line, so it may be of any length.
    """

    path: Path

    def __iter__(self) -> Iterator[int | BadLine]:
        """The ids, and the lines that are none.

        Raises `SweepRefused` where the file cannot be read, or is evidently no list of ids: it
        holds none at all, or none in the first thousand lines.
        """
        good = 0
        bad: BadLine | None = None
        bad_lines = 0
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    text = line.partition("#")[0].strip()
                    if not text:
                        continue
                    if _ID.fullmatch(text) and -_LONG <= int(text) < _LONG:
                        good += 1
                        yield int(text)
                        continue
                    found = BadLine(number, text[:_SHOWN])
                    bad, bad_lines = bad or found, bad_lines + 1
                    if good == 0 and bad_lines == _PATIENCE:
                        break
                    yield found
        except OSError as error:
            raise SweepRefused(
                f"the users file {self.path} cannot be read: {error.strerror}; give a file with "
                "one user id a line"
            ) from None
        if good == 0:
            why = f"line {bad.number} is {bad.text!r}" if bad else "it is empty"
            raise SweepRefused(
                f"the users file {self.path} holds no user id ({why}); put one id on each line"
            )
