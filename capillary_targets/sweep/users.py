"""Lines of a list of users to ids: plain text or CSV. Pure: no file is opened here."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from .errors import SweepRefused

__all__ = ["BadLine", "Lines"]

_ID: Final = re.compile(r"[+-]?[0-9]{1,19}")
_LONG: Final = 2**63
_PATIENCE: Final = 1000
_SHOWN: Final = 80
_LONGEST_RECORD: Final = 100
_USUAL_NAMES: Final = ("user_id", "userid", "customer_id", "customerid", "user", "id")


@frozen
class BadLine:
    """A line that is no user id: its number, from 1, and the beginning of what it says."""

    number: int
    text: str


def _id_of(text: str) -> int | None:
    """The 64-bit integer that a text is, or None."""
    if _ID.fullmatch(text) and -_LONG <= (number := int(text)) < _LONG:
        return number
    return None


@define
class Lines:
    """Takes the lines of one list in order and says what each is.

    Text has one id a line; blank lines, and what follows a #, do not count. CSV (`csv`) has the id
    in one column: `column` names it, or counts it from 1; not given, it is the only column, or
    the one with a usual name (user_id, customer_id, ...), or the first if there is no heading.
    `name` is what errors call the list.
    """

    name: str
    csv: bool = False
    column: str | None = None
    good: int = field(init=False, default=0)
    _bad: int = field(init=False, default=0)
    _first_bad: BadLine | None = field(init=False, default=None)
    _number: int = field(init=False, default=0)
    _place: int | None = field(init=False, default=None)
    _delimiter: str = field(init=False, default=",")
    _open: list[str] = field(init=False, factory=list)

    def feed(self, line: str) -> int | BadLine | None:
        """A user id, a line that is none, or None for a line that does not count.

        Raises `SweepRefused` when a thousand lines have come and none was an id, or when the
        heading of a CSV does not say which column it is.
        """
        self._number += 1
        text = self._csv_text(line) if self.csv else line.partition("#")[0].strip()
        if not text:
            return None
        user = _id_of(text)
        if user is not None:
            self.good += 1
            return user
        found = BadLine(self._number, text[:_SHOWN])
        self._first_bad = self._first_bad or found
        self._bad += 1
        if not self.good and self._bad == _PATIENCE:
            self.finish()
        return found

    def finish(self) -> None:
        """The list is over. Raises `SweepRefused` if it held no id."""
        if self.good:
            return
        bad = self._first_bad
        why = f"line {bad.number} is {bad.text!r}" if bad else "it is empty"
        raise SweepRefused(
            f"the users file {self.name} holds no user id ({why}); put one id on each line, or "
            "name the column of a CSV file with --column"
        )

    def _csv_text(self, line: str) -> str:
        """What stands in the column; nothing for blank lines, the heading, or half a record."""
        if self._open or line.count('"') % 2:
            # A quoted field with a line end in it: the record goes on until its quotes balance.
            self._open.append(line)
            if "\n".join(self._open).count('"') % 2 and len(self._open) < _LONGEST_RECORD:
                return ""
            line = "\n".join(self._open)
            self._open.clear()
        if not line.strip() or line.lstrip().startswith("#"):
            return ""
        if self._place is None:
            self._delimiter = max(",;\t|", key=line.count)
        fields = [text.strip() for text in next(csv.reader([line], delimiter=self._delimiter), [])]
        if self._place is None:
            heading = self._find(fields)
            if heading:
                return ""
        place = self._place or 0
        return fields[place] if place < len(fields) else line.strip()

    def _find(self, fields: Sequence[str]) -> bool:
        """Settle the column by the first record; whether that was a heading."""
        names = [name.lower() for name in fields]
        wanted = (self.column or "").strip().lower()
        if wanted in names:
            self._place = names.index(wanted)
        elif wanted.isdigit() and 0 < int(wanted) <= len(fields):
            self._place = int(wanted) - 1
        elif not wanted:
            usual = [name for name in _USUAL_NAMES if name in names]
            if _id_of(fields[0]) is not None or len(fields) == 1:
                self._place = 0
            elif usual:
                self._place = names.index(usual[0])
        if self._place is None:
            shown = ", ".join(fields[:20])
            why = f"no column {self.column}" if self.column else "several columns"
            raise SweepRefused(
                f"the users file {self.name} has {why}: name one with --column, of {shown}"
            )
        return _id_of(fields[self._place]) is None
