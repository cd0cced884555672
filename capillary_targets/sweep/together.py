"""The directories of several sweeps as one: the files that a single process would have left."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import attrs

from .options import Summary
from .report import Cause, ReportData, Run, collect, write_data
from .rows import encode
from .stats import EXACT, PartStats, RequestTimeline
from .store import KINDS, AtomicFile, Directory, sync_directory
from .user_list import BadLine

__all__ = ["join"]

_PARTS: Final = 100_000
"""A partition's parts are numbered from this many times its own number."""


def join(
    out: Path, partitions: Sequence[tuple[int, Path]], bad: Sequence[BadLine], seconds: float
) -> Summary:
    """Make `out` hold what the partitions, numbered directories below it, hold together.

    The parts are links, so nothing is copied where the file system has links. `bad` are the lines
    of the list that are no id, `seconds` how long this session took. May be repeated.
    """
    names: dict[str, set[str]] = {kind: set() for kind in KINDS}
    found = []
    for kind in KINDS:
        (out / kind).mkdir(exist_ok=True)
    with AtomicFile(out / "failures.jsonl") as failures:
        for line in bad:
            about = {"line": line.number, "text": line.text, "error": line.reason}
            failures.write(encode(about) + b"\n")
        for number, path in partitions:
            with Directory(path, None) as directory:
                found.append(collect(directory.ledger))
                for detail in directory.ledger.failures():
                    failures.write(detail.encode() + b"\n")
                for kind in KINDS:
                    for part in directory.ledger.parts():
                        if part.kind == kind:
                            there = directory.part(kind, part.name)
                            names[kind].add(_link(there, out / kind, number))
    for kind in KINDS:
        for path in (out / kind).glob("part-*"):
            if path.name not in names[kind]:
                path.unlink()
        sync_directory(out / kind)
    together = _together(found)
    summary = together.runs[-1].summary if together.runs else Summary(finished=True)
    summary.bad_lines, summary.seconds = len(bad), round(seconds, 3)
    with AtomicFile(out / "summary.json") as file:
        file.write(encode(summary.as_dict()) + b"\n")
    write_data(out, together)
    return summary


def _link(part: Path, directory: Path, partition: int) -> str:
    """Put a part into the common directory; its name there."""
    number = partition * _PARTS + int(part.stem.removeprefix("part-"))
    name = f"part-{number:08d}{part.suffix}"
    with suppress(FileExistsError):
        try:
            os.link(part, directory / name)
        except FileExistsError:
            raise
        except OSError:  # no links on this file system
            aside = directory / f"{name}.partial"
            shutil.copyfile(part, aside)
            aside.rename(directory / name)
    return name


def _together(found: Sequence[ReportData]) -> ReportData:
    stats, users = PartStats(), Counter[int]()
    failures: dict[str, Cause] = {}
    for one in found:
        stats.merge(one.stats)
        for name, cause in one.failures.items():
            known = failures.setdefault(name, Cause(cause.message, cause.retryable))
            known.add(cause.users, cause.ids)
        users.update(dict(one.users_by_events))
    runs = sorted({run.number for one in found for run in one.runs})
    return ReportData(
        found[0].settings if found else {},
        [
            _run(number, [r for one in found for r in one.runs if r.number == number])
            for number in runs
        ],
        stats,
        sorted(users.items()),
        _timeline([one for one in found if one.runs]),
        failures,
    )


def _run(number: int, parts: Sequence[Run]) -> Run:
    ends = [part.finished for part in parts]
    return Run(
        number,
        min(part.started for part in parts),
        None if None in ends else max(end for end in ends if end is not None),
        _sum([part.summary for part in parts]),
    )


def _sum(parts: Sequence[Summary]) -> Summary:
    total = attrs.evolve(parts[0])
    for part in parts[1:]:
        for field in attrs.fields(Summary):
            mine, other = getattr(total, field.name), getattr(part, field.name)
            if field.name in {"run", "seconds"}:
                setattr(total, field.name, max(mine, other))
            elif isinstance(mine, bool):
                setattr(total, field.name, mine and other)
            elif isinstance(mine, Decimal):
                setattr(total, field.name, EXACT.add(mine, other))
            else:
                setattr(total, field.name, mine + other)
    return total


def _timeline(found: Sequence[ReportData]) -> RequestTimeline:
    """Requests over the latest run's time: each partition's, from when it began."""
    total = RequestTimeline()
    if not found:
        return total
    latest = max(one.runs[-1].number for one in found)
    begun = {
        place: datetime.fromisoformat(one.runs[-1].started)
        for place, one in enumerate(found)
        if one.runs[-1].number == latest
    }
    first = min(begun.values())
    for place, started in begun.items():
        offset = (started - first).total_seconds()
        total.merge(found[place].timeline.as_dict(), offset)
    return total
