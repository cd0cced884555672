"""A list of users: lines or CSV, in any usual encoding, from a file, stdin or the caller.

`ListDecoder` (bytes to text) and `UserListParser` (text to ids) are pure; the rest reads.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import io
import os
import re
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from capillary_targets.endpoints import checked_id

from .options import SweepRefused, SweepStopped

_BATCH: Final = 500
_CHUNK: Final = 64 * 1024
_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_MAGIC: Final = b"\x1f\x8b"
_HEAD: Final = 4
"""Bytes that tell what a file is."""
_MAX_FIELD: Final = 1 << 20
_MAX_LINES: Final = 50_000
"""Lines of one record, whose quoted fields may hold line ends."""
_MAX_LEADING_BAD_LINES: Final = 1000
_SHOWN: Final = 80
_SHOWN_NAMES: Final = 300
_IS_NO_TEXT: Final = "is no text of lines; put one user id on each line"
_DELIMITERS: Final = ",;\t|\1"
_NAMES: Final = (
    r"(user|customer|member)ids?",
    r"(user|customer|member|uid)s?",
    r"ids?",
    r".*(user|customer|member)id",
)
"""Headings of a column of user ids, in letters alone; the first that occurs counts."""
_INVISIBLE: Final = dict.fromkeys([0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060])
"""Byte order marks and other characters without a width, to be deleted."""
_PLAIN_ID: Final = re.compile("[1-9][0-9]{,17}")
_NO_IDS: Final = {
    "": "empty",
    r"[+-]?[0-9]{1,3}([,._'\u2019\s][0-9]{2,3})*[,._'\u2019\s][0-9]{3}": (
        "digits in groups: write the number without separators"
    ),
    r"(?![+-]?[0-9]{1,41}([.,][0-9]{,30})?([eE][+-]?[0-9]{1,3})?\Z)(?s:.*)": "not a user id",
    "[+-]?0[0-9].*": "leading zeros: not a user id but some other number",
}
"""Patterns of what is no integer, and why; the first that matches counts."""
_NO_TEXT: Final = re.compile("[\0\2-\x08\x0e-\x1f]")
_BINARY: Final = re.compile(
    rb"PK\x03\x04|\xd0\xcf\x11\xe0|PAR1|SQLi|%PDF|BZh|\xfd7zX|\x28\xb5\x2f\xfd"
)
"""Beginnings of workbooks, Parquet, SQLite, PDF, bzip2, xz, zstd."""


@frozen
class BadLine:
    """A line that gives no user id: its number, from 1, its beginning, and why."""

    number: int
    text: str
    reason: str = "not a user id"


def parse_user_id(text: str) -> int | str:
    """The integer of 64 bits that a field spells, or why it spells none.

    Spreadsheets' ways to write a whole number are read (`'5`, `="5"`, `5.0`, `5.1E+1`) where all
    of its digits are there.
    """
    text = text.translate(_INVISIBLE).strip().removeprefix("=").strip("\"'").strip()
    for pattern, reason in _NO_IDS.items():
        if re.fullmatch(pattern, text):
            return reason
    number = Decimal(text.replace(",", "."))
    lost = f"lost digits ({text}): export the column as text"
    if int(number.as_tuple().exponent) > 0:
        return f"the number has {lost}"
    if number != number.to_integral_value():
        return "not a whole number"
    if not text.lstrip("+-").isdigit() and abs(number) > 2**53:  # more than a float holds
        return f"the number may have {lost}"
    return int(number) if -(2**63) <= number < 2**63 else "larger than 64 bits"


def _is_user_id(text: str) -> bool:
    return isinstance(parse_user_id(text), int)


def _letters(text: str) -> str:
    """A heading without case, blanks and punctuation: `User ID` and `user_id` are the same."""
    return re.sub(r"[\W_]", "", text.translate(_INVISIBLE)).casefold()


class UserListParser:
    """Takes the text of one list in order; returns each line's user id, or why there is none.

    The list is CSV of one column or more, with or without a heading; the delimiter is found out.
    Blank lines do not count, nor lines that begin with # (unless there are several columns, and an
    id is in its own), nor what follows a # in a list of one. A quoted field may hold line ends.
    `good` counts the ids so far, `line` the lines.

    Args:
        name: What errors call the list.
        column: The heading, or the number from 1, of the column with the ids; left out, it is the
            only one whose heading is usual for it (user_id, customerId, ...) or, without a
            heading, the only one that begins with a number.
        on_column: Told which column was taken, in words, where there are several.
    """

    def __init__(
        self, name: str, column: str | None = None, on_column: Callable[[str], None] | None = None
    ) -> None:
        self._name, self._column, self._on_column = name, column, on_column
        self.good: int = 0
        self.line: int = 0
        self._rest = self._delimiter = ""
        self._lines = deque[str]()  # whole ones, not parsed yet
        # Columns, 0 until the first record; how many of them are more than trailing delimiters.
        self._index = self._columns = self._required = 0
        self._first_bad: BadLine | None = None

    def feed(self, text: str, *, final: bool = False) -> list[int | BadLine]:
        """Take some text, of which line ends are newlines; the ids and bad lines that are complete.

        Raises:
            SweepRefused: it is no list of ids, or does not say which column has them.
        """
        *lines, self._rest = (self._rest + text + "\n" * final).split("\n")
        if len(self._rest) > _MAX_FIELD:
            raise self._refusal(_IS_NO_TEXT)
        self._lines += lines
        found = []
        limit = csv.field_size_limit(_MAX_FIELD)  # one for the whole process
        try:
            while self._lines:
                size, one = self._parse(self._lines[0], final=final)
                if not size:
                    break
                if one is not None:
                    found.append(one)
                self.line += size
                for _ in range(size):
                    self._lines.popleft()
        finally:
            csv.field_size_limit(limit)
        if final:
            self._refuse_without_ids()
        return found

    def _parse(self, line: str, *, final: bool) -> tuple[int, int | BadLine | None]:
        """How many lines the next record takes, 0 if more have to come, and what it gives.

        Where a quoted field is not closed, or not before other rows, only its first line is bad: no
        other user is lost to it.
        """
        if not line or (line[0] == "#" and self._columns < 2):
            return 1, None
        if not self._delimiter and not self._find_delimiter(line.translate(_INVISIBLE)):
            return 1, None
        if '"' not in line:
            return 1, self._take(line, line.split(self._delimiter))
        # RFC 4180 first; then Spark's and MySQL's way to write a quotation mark.
        for escape in (None, "\\") if '\\"' in line else (None,):
            ahead = (f"{line}\n" for line in islice(self._lines, _MAX_LINES))
            reader = self._reader(ahead, strict=True, escapechar=escape)
            try:
                fields = next(reader)
            except csv.Error:
                if reader.line_num == len(self._lines) and not final:
                    return 0, None
                continue
            at, columns = self._index, self._columns or len(fields)
            if not any(
                len(row) == columns and row[at] not in fields[at : at + 1] and _is_user_id(row[at])
                for row in self._reader(islice(self._lines, 1, reader.line_num))
            ):
                return reader.line_num, self._take(line, fields)
        return 1, self._bad_line(line, "a quoted field is not closed")

    def _reader(self, lines: Iterable[str], **options: Any) -> Any:
        return csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True, **options)

    def _find_delimiter(self, line: str) -> bool:
        """Find it in the first line that is no comment. Returns whether that is a record."""
        plain = line.strip()
        if not plain or plain.startswith("#"):
            return False
        if setting := re.fullmatch(r'"?sep=([^"\s]|\t)?"?', line, re.IGNORECASE):  # Excel's
            self._delimiter = setting[1] or ""
            return False
        if _NO_TEXT.search(line):
            raise self._refusal(_IS_NO_TEXT)
        if plain[0] in "[{<":  # its commas would make columns of what is none
            kind = "HTML or XML" if plain[0] == "<" else "JSON"
            raise self._refusal(f"looks like {kind}; put one user id on each line")
        ranks = {}
        for self._delimiter in _DELIMITERS:  # whichever shows the heading, or most fields
            (fields,) = self._reader([plain])
            headed = len(fields) > 1 and bool(self._headed(fields)[0])
            ranks[self._delimiter] = headed, len(fields)
        self._delimiter = max(ranks, key=ranks.__getitem__)
        return True

    def _refusal(self, why: str) -> SweepRefused:
        return SweepRefused(f"the users file {self._name} {why}")

    def _refuse_without_ids(self) -> None:
        if not self.good:
            bad = self._first_bad
            why = f"line {bad.number} is {bad.text!r}: {bad.reason}" if bad else "it is empty"
            raise self._refusal(
                f"holds no user id ({why}); put one id on each line, or name the column of a CSV "
                "file with --column"
            )

    def _take(self, line: str, record: list[str]) -> int | BadLine | None:
        """The id of a record, why there is none, or None for one that does not count."""
        if len(record) == self._columns and _PLAIN_ID.fullmatch(record[self._index]):
            self.good += 1  # nearly every line
            return int(record[self._index])
        fields = [text.translate(_INVISIBLE).strip() for text in record]
        if not any(fields) or (not self._columns and self._find_column(fields)):
            return None
        if self._columns == 1 and "#" in fields[0]:
            fields = [fields[0].partition("#")[0]]
        while len(fields) > self._required and not fields[-1]:
            fields.pop()
        if not self._required <= len(fields) <= self._columns:
            many = f"{len(fields)} field{'s' * (len(fields) > 1)}"
            return self._bad_line(line, f"{many} where there should be {self._columns}")
        user = parse_user_id(fields[self._index])
        if isinstance(user, str):
            return self._bad_line(line, user)
        self.good += 1
        return user

    def _bad_line(self, line: str, reason: str) -> BadLine | None:
        """The line behind those parsed so far; None where it is a comment after all."""
        if line.startswith("#"):
            return None
        found = BadLine(self.line + 1, line.translate(_INVISIBLE).strip()[:_SHOWN], reason)
        self._first_bad = self._first_bad or found
        if found.number - self._first_bad.number >= _MAX_LEADING_BAD_LINES:
            self._refuse_without_ids()
        return found

    def _headed(self, fields: Sequence[str]) -> tuple[list[int], bool]:
        """The places of headings that are asked for, or usual; whether they are beyond doubt."""
        names = [*map(_letters, fields)]
        if self._column is None:
            for usual in _NAMES:
                if found := [at for at, name in enumerate(names) if re.fullmatch(usual, name)]:
                    return found, usual is _NAMES[0]
            return [], False
        wanted = self._column.strip().casefold()
        exact = [at for at, text in enumerate(fields) if text.strip().casefold() == wanted]
        letters = _letters(wanted) or None
        return exact or [at for at, name in enumerate(names) if name == letters], True

    def _find_column(self, fields: list[str]) -> bool:
        """Choose the column by the first record. Returns whether that is a heading."""
        ids = [place for place, text in enumerate(fields) if _is_user_id(text)]
        found, certain = self._headed(fields)
        heading = True
        wanted = self._column or ""
        if wanted.isascii() and wanted.isdigit() and 0 < int(wanted) <= len(fields):
            found = [int(wanted) - 1]
            heading = found[0] not in ids
        elif self._column is None and not (found and (certain or not ids)):
            if not fields[0] and fields[1:] == [*map(str, range(len(fields) - 1))]:
                found = [*range(1, len(fields))]  # a pandas index beside columns without names
            else:
                found = ids or [*range(len(fields))]
                heading = not ids and not (len(fields) == 1 and re.search(r"\d", fields[0]))
        if len(found) != 1:
            names = [fields[at] or f"(column {at + 1})" for at in found or range(len(fields))]
            how = "name one with --column"
            if self._column is None:
                why = "may have its ids in several columns"
            elif found:
                why = f"has {len(found)} columns named {self._column}"
                how, names = "give --column the number of one", [f"{at + 1}" for at in found]
            else:
                why = f"has no column {self._column}"
            shown = ", ".join(names)
            more = "..." * (len(shown) > _SHOWN_NAMES)
            raise self._refusal(f"{why}: {how}, of {shown[:_SHOWN_NAMES]}{more}")
        (self._index,) = found
        if len(fields) > 1 and self._on_column is not None:
            self._on_column(f"column {self._index + 1}, {fields[self._index] or 'without a name'}")
        self._columns = len(fields)
        self._required = max(self._index, *(at for at, text in enumerate(fields) if text)) + 1
        return heading


@frozen
class UsersFile:
    """A file of user ids, one a line, or CSV with them in one column; either may be gzip.

    It is read as it is used, so it may be of any length.

    Args:
        path: The file; `-` is stdin.
        column: The heading, or the number from 1, of the column with the ids.
        on_column: Told which column was taken, in words, where there are several.
    """

    path: Path
    column: str | None = None
    on_column: Callable[[str], None] | None = field(default=None, eq=False)

    def expected(self) -> int | None:
        """About how many users it holds: its lines. None where that takes reading all of it."""
        with suppress(OSError):  # reading it for its ids will say what is wrong
            if str(self.path) == "-" or not self.path.is_file():
                return None
            with self.path.open("rb") as file:
                if file.peek(2).startswith(_GZIP_MAGIC):
                    return None
                lines, returns, last = 0, 0, b"\n"
                for last in iter(lambda: file.read(16 * _CHUNK), b""):
                    lines += last.count(b"\n")
                    returns += last.count(b"\r")
            return (lines or returns) + (last.rstrip(b"\0")[-1:] not in b"\r\n")
        return None


Users: TypeAlias = UsersFile | Iterable[int | BadLine] | AsyncIterable[int | BadLine]


async def read_batches(users: Users) -> AsyncGenerator[list[int | BadLine], None]:
    """The ids, and lines that give none, at most a few hundred at a time.

    Raises:
        SweepRefused: the file cannot be read, or is no list of ids.
        SweepStopped: the file breaks off or is damaged behind ids that were already given.
        UsageError: one of the caller's own ids is no integer of 64 bits.
    """
    if isinstance(users, UsersFile):
        async with aclosing(_read_file(users)) as found:
            async for batch in found:
                for start in range(0, len(batch), _BATCH):
                    yield batch[start : start + _BATCH]
    elif isinstance(users, AsyncIterable):
        async for user in users:
            yield [_checked(user)]
    else:
        iterator = iter(users)
        while batch := [_checked(user) for user in islice(iterator, _BATCH)]:
            yield batch


def _checked(user: int | BadLine) -> int | BadLine:
    return user if isinstance(user, BadLine) else checked_id("user id", user)


async def _read_file(users: UsersFile) -> AsyncGenerator[list[int | BadLine], None]:
    told = f"the users file {users.path}"
    parser = UserListParser(f"{users.path}", users.column, users.on_column)
    decoder = ListDecoder(f"{users.path}")
    try:
        async with aclosing(_chunks(users.path)) as chunks:
            async for chunk in chunks:
                for text in decoder.feed(chunk, final=not chunk):
                    yield parser.feed(text)
        yield parser.feed("", final=True)
    except (EOFError, zlib.error) as error:
        told += f" is {'cut off' if isinstance(error, EOFError) else 'damaged'} ({error})"
        if not parser.good:
            raise SweepRefused(f"{told}; make it again") from None
        raise SweepStopped(
            f"{told} behind line {parser.line}: make it again, then run the same command to go on"
        ) from None
    except OSError as error:
        raise SweepRefused(
            f"{told} cannot be read: {error.strerror}; give a file with one user id a line"
        ) from None


@define
class ListDecoder:
    """The text of a list, from its bytes as they come: gzip is unpacked, line ends are newlines."""

    _name: str
    _head: bytes = field(init=False, default=b"")
    _unpack: Any = field(init=False, default=None)
    _decoder: io.IncrementalNewlineDecoder | ListDecoder | None = field(init=False, default=None)

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[str]:
        """Text.

        Raises:
            SweepRefused: It is a well-known kind of file that is no text.
            zlib.error: It cannot be unpacked.
            EOFError: A gzip ends before its end.
        """
        if self._decoder is None:
            # So many bytes tell what it is; fewer are looked at only where a line ends.
            data = self._head = self._head + data
            if len(data) < _HEAD and not (final or data.endswith(b"\n")):
                return
            if data.startswith(_GZIP_MAGIC):
                self._unpack, self._decoder = zlib.decompressobj(_GZIP), ListDecoder(self._name)
            else:
                self._decoder = _decoder(self._name, data)
        if not isinstance(self._decoder, ListDecoder):
            yield self._decoder.decode(data, final)
            return
        while data:
            if self._unpack.eof:  # another gzip may follow, and zeros are padding
                if not (data := data.lstrip(b"\0")):
                    break
                self._unpack = zlib.decompressobj(_GZIP)
            yield from self._decoder.feed(self._unpack.decompress(data, 16 * _CHUNK))
            data = self._unpack.unconsumed_tail or self._unpack.unused_data
        if final:
            yield from self._decoder.feed(b"", final=True)
            if not self._unpack.eof:
                raise EOFError("a gzip without its end")


def _decoder(name: str, head: bytes) -> io.IncrementalNewlineDecoder:
    """The decoder that the first bytes of a list call for. Raises `SweepRefused`."""
    if _BINARY.match(head):
        raise SweepRefused(
            f"the users file {name} is no text but a workbook, an archive or the like; export it "
            "as CSV, and give that"
        )
    # Digits and commas in UTF-16 have a zero in every other byte.
    even, odd = (0 in head[at:4:2] for at in (0, 1))
    encoding = "utf-8-sig" if even == odd else "utf-16-be" if even else "utf-16-le"
    if head[:4] in {codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE}:
        encoding = "utf-32"
    elif head[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        encoding = "utf-16"
    # What is no text in that encoding cannot be part of an id.
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return io.IncrementalNewlineDecoder(decoder, translate=True)


async def _chunks(path: Path) -> AsyncGenerator[bytes, None]:
    """Bytes as they come, none at the end. Waiting for a pipe does not block the event loop."""
    # A named pipe is opened without waiting for its writer.
    handle = os.dup(0) if str(path) == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    chunk = None
    try:
        while chunk != b"":
            await _readable(handle)
            with suppress(BlockingIOError):  # another process read it first
                yield (chunk := os.read(handle, _CHUNK))
    finally:
        os.close(handle)


async def _readable(handle: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, ready.set)
    except PermissionError:  # not a thing one waits for: a file, /dev/null
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(handle)
