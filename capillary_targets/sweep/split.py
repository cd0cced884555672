"""A list of users, split into partitions: for a sweep by several processes at once."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Final

from .store import AtomicFile
from .user_list import BadLine, Users, read_batches

__all__ = ["partition_of", "split"]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_64_BITS: Final = 2**64 - 1


def partition_of(user: int, partitions: int) -> int:
    """The partition that a user belongs to: the same one in every list, evenly spread."""
    return (((user * _GOLDEN) & _64_BITS) >> 32) % partitions


async def split(users: Users, lists: list[Path]) -> tuple[list[int], list[BadLine]]:
    """Write each user's id into the list of its partition, in flat memory.

    Returns how many ids each list has, and the lines that are no id.
    """
    counts = [0] * len(lists)
    bad: list[BadLine] = []
    with ExitStack() as stack:
        files = [stack.enter_context(AtomicFile(path)) for path in lists]
        async with aclosing(read_batches(users)) as found:
            async for batch in found:
                for user in batch:
                    if isinstance(user, BadLine):
                        bad.append(user)
                    else:
                        place = partition_of(user, len(lists))
                        files[place].write(b"%d\n" % user)
                        counts[place] += 1
    return counts, bad
