"""A list of users: text, CSV or gzip, from a file, stdin or the caller, read in batches.

`UserListParser` is pure and takes text; the rest reads bytes.
"""

from __future__ import annotations

import asyncio
import csv
import os
import re
import stat
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from attrs import define, field, frozen

from capillary_targets.endpoints import checked_id

from .options import SweepRefused

__all__ = ["BadLine", "UserListParser", "Users", "UsersFile", "read_batches"]

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
class UserListParser:
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


_CHUNK: Final = 64 * 1024
_BATCH: Final = 500
_STDIN: Final = 0
_GZIP: Final = 16 + zlib.MAX_WBITS
_LONGEST_LINE: Final = 1 << 20


@frozen
class UsersFile:
    """A file of user ids, one a line, or a CSV file with them in one column; either may be gzip.

    `path` may be `-` for stdin. It is a CSV file if its name says so or `column` is given. It is
    read as it is used, so it may be of any length.
    """

    path: Path
    column: str | None = None

    @property
    def is_csv(self) -> bool:
        """Whether it is read as CSV."""
        return self.column is not None or ".csv" in [text.lower() for text in self.path.suffixes]

    def expected(self) -> int | None:
        """About how many users it holds: its lines. None where that takes reading all of it."""
        try:
            if str(self.path) == "-" or not stat.S_ISREG(self.path.stat().st_mode):
                return None
            with self.path.open("rb", buffering=0) as file:
                if (chunk := file.read(_CHUNK)).startswith(b"\x1f\x8b"):
                    return None
                lines = 0
                last = b""
                while chunk:
                    lines += chunk.count(b"\n")
                    last = chunk
                    chunk = file.read(16 * _CHUNK)
        except OSError:
            return None  # whoever reads it will say what is wrong
        return lines + bool(last and not last.endswith(b"\n"))


Users: TypeAlias = UsersFile | Iterable[int | BadLine] | AsyncIterable[int | BadLine]


async def read_batches(users: Users) -> AsyncGenerator[list[int | BadLine], None]:
    """The ids a few hundred at a time, each kind of list read in its own way.

    Raises `SweepRefused` where a file cannot be read or is no list of ids, `UsageError` where one
    of the caller's own ids is none.
    """
    if isinstance(users, UsersFile):
        async with aclosing(_of_file(users)) as found:
            async for batch in found:
                yield batch
    elif isinstance(users, AsyncIterable):
        async for user in users:
            yield [_checked(user)]
    else:
        iterator = iter(users)
        while batch := [_checked(user) for user in islice(iterator, _BATCH)]:
            yield batch


def _checked(user: int | BadLine) -> int | BadLine:
    return user if isinstance(user, BadLine) else checked_id("user id", user)


async def _of_file(users: UsersFile) -> AsyncGenerator[list[int | BadLine], None]:
    lines = UserListParser(str(users.path), csv=users.is_csv, column=users.column)
    rest = b""
    async with AsyncExitStack() as stack:
        handle = stack.enter_context(_opened(users.path))
        packed = await stack.enter_async_context(aclosing(_chunks(users.path, handle)))
        chunks = await stack.enter_async_context(aclosing(_unzipped(users.path, packed)))
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise SweepRefused(
                    f"the users file {users.path} is no text of lines; put one id on each line"
                )
            for start in range(0, len(whole), _BATCH):
                if batch := _fed(lines, whole[start : start + _BATCH]):
                    yield batch
    if rest and (batch := _fed(lines, [rest])):
        yield batch
    lines.finish()


def _fed(lines: UserListParser, raw: list[bytes]) -> list[int | BadLine]:
    texts = (line.decode("utf-8", "replace").lstrip("\ufeff") for line in raw)
    return [found for text in texts if (found := lines.feed(text)) is not None]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file descriptor to read from. Raises `SweepRefused` where there is no such file."""
    if str(path) == "-":
        yield _STDIN
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        yield handle
    finally:
        os.close(handle)


async def _chunks(path: Path, handle: int) -> AsyncGenerator[bytes, None]:
    """Bytes as they come. Waiting for a pipe or a keyboard holds up nobody else."""
    waits = not stat.S_ISREG(os.fstat(handle).st_mode)
    while True:
        if waits:
            await _readable(handle)
        try:
            chunk = os.read(handle, _CHUNK)
        except OSError as error:
            raise _unreadable(path, error) from None
        if not chunk:
            return
        yield chunk


async def _readable(handle: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(handle, _wake, ready)
    except PermissionError:  # not a thing one waits for, /dev/null for one
        return
    try:
        await ready
    finally:
        loop.remove_reader(handle)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _unzipped(path: Path, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The bytes, unpacked if they begin like gzip."""
    zipped = None
    unpack = zlib.decompressobj(_GZIP)
    try:
        async for chunk in chunks:
            if zipped is None:
                zipped = chunk.startswith(b"\x1f\x8b")
            if not zipped:
                yield chunk
                continue
            data = chunk
            while data:
                if unpack.eof:  # one gzip after another is a gzip
                    unpack = zlib.decompressobj(_GZIP)
                yield unpack.decompress(data, 16 * _CHUNK)
                data = unpack.unconsumed_tail or unpack.unused_data
    except zlib.error as error:
        raise SweepRefused(f"the users file {path} is damaged ({error}); make it again") from None
    if zipped and not unpack.eof:
        raise SweepRefused(f"the users file {path} is cut off; make it again")


def _unreadable(path: Path, error: OSError) -> SweepRefused:
    return SweepRefused(
        f"the users file {path} cannot be read: {error.strerror}; give a file with one user id "
        "a line"
    )
