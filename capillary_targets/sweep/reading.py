"""A list of users from wherever it is, in batches: a file, stdin, or the caller's own ids."""

from __future__ import annotations

import asyncio
import os
import stat
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

from capillary_targets.endpoints import checked_id

from .errors import SweepRefused
from .users import BadLine, Lines

__all__ = ["Users", "UsersFile", "batches"]

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


async def batches(users: Users) -> AsyncGenerator[list[int | BadLine], None]:
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
    lines = Lines(str(users.path), csv=users.is_csv, column=users.column)
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


def _fed(lines: Lines, raw: list[bytes]) -> list[int | BadLine]:
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
