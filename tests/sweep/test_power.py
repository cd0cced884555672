"""The power may fail at any moment: every sync is needed, and together they are enough.

`kill -9` leaves the page cache, so it cannot find a missing sync. Here a sweep is recorded, call by
call, and every prefix of its calls recovered from, with unsynced changes lost, torn or reordered.
"""

import json
import random
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from capillary_targets.sweep import SweepRefused
from capillary_targets.sweep.store import open_directory
from tests.conftest import is_nightly

from .power import PLAINLY, Call, Disk, at_random, record, write_state

NIGHTLY = is_nightly()
STATES = 10_000 if NIGHTLY else 100
pytestmark = pytest.mark.nightly

DRIVER = """
import asyncio, json, os, sys
from pathlib import Path
from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import SweepOptions, run, store

marks = os.open("/dev/null", os.O_WRONLY)
commit = store.PartWriter.commit

def told(writer):
    commit(writer)
    ledger = writer._directory.ledger
    os.write(marks, json.dumps([ledger.run, ledger.users(ledger.run), False]).encode())

store.PartWriter.commit = told

async def main(out):
    sandbox = Sandbox(users=7, targets=2, events=5, exact_events=True)
    world = sandbox.world
    written = {}
    async with sandbox, TargetsClient(
        sandbox.url, BasicAuth(*sandbox.credentials), concurrency=2, page_size=4
    ) as client:
        for number in (1, 2):
            options = SweepOptions(
                source="power",
                part_users=3,
                incremental=number == 2,
                detect="groups",
            )
            written[number] = {
                user: [
                    (rule.id, event.event_log_id)
                    for rule in world.targets(user)
                    for event in world.events(user, rule.id)
                ]
                for user in world.user_ids()
            }
            summary = await run(client, [999, *world.user_ids()], out, options)
            assert (summary.complete, summary.refused) == (7, 1), summary
            os.write(marks, json.dumps([number, summary.complete, True]).encode())
            for user in world.user_ids():
                rule = world.targets(user)[0].id
                world.add_event(user, rule)
                world.delete_events(user, rule, 1)
    settings = options.settings("", client._settings.auth.account)
    Path(sys.argv[2]).write_text(json.dumps([written, settings]))

asyncio.run(main(sys.argv[1]))
"""


@frozen
class Recording:
    """The calls, the settings of the directory, and by run and user the rows there should be."""

    calls: list[Call]
    settings: dict[str, Any]
    rows: dict[int, dict[int, Counter[tuple[int, int]]]]
    out: str


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    root = tmp_path_factory.mktemp("power").resolve()
    (root / "disk").mkdir()
    out, told = root / "disk" / "sweeps" / "night", root / "told.json"
    command = [sys.executable, "-c", DRIVER, str(out), str(told)]
    calls = record(command, root / "disk", root / "log")
    found, directory = json.loads(told.read_text())
    first, second = (
        {int(user): Counter(map(tuple, rows)) for user, rows in found[run].items()}
        for run in ("1", "2")
    )
    # What was deleted at the source stays in the files.
    second = {user: first[user] | rows for user, rows in second.items()}
    return Recording(calls, directory, {1: first, 2: second}, str(root / "disk"))


class Broken(AssertionError):
    """A promise that a state does not keep."""


def check(recording: Recording, state: dict[str, Any], mark: tuple[int, int, bool]) -> None:
    """Recover a state. Raises `Broken` where anything is lost, torn or there twice."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        write_state(state, recording.out, Path(scratch))
        out = Path(scratch) / "sweeps" / "night"
        run, done, finished = mark
        if finished:  # files of a finished run are read without another start
            check_summary(out, run)
        before = {(path.parent.name, path.name) for path in out.glob("*/part-*")}
        try:
            with open_directory(out, recording.settings) as directory:
                users = dict(directory.ledger._db.execute("SELECT user_id, run FROM users"))
                parts = {(part.kind, part.name) for part in directory.ledger.parts()}
                old = directory.ledger._db.execute(
                    "SELECT kind, name FROM parts WHERE run <= ?", (run,)
                ).fetchall()
        except (SweepRefused, sqlite3.Error) as error:
            raise Broken(f"not recovered: {error}") from error
        found = rows_in(out)
        check_rows(recording, found, users)
        if finished and not before.issuperset(old):
            raise Broken(f"a finished run left temporary names of {set(old) - before}")
        there = {(path.parent.name, path.name) for path in out.glob("*/*")}
        if there != parts:
            raise Broken(f"in the ledger {parts - there}, not in it {there - parts}")
        if sum(latest >= run for latest in users.values()) < done:
            raise Broken(f"{done} users were done in run {run}")


def rows_in(out: Path) -> dict[int, Counter[tuple[int, int]]]:
    found: defaultdict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
    for path in out.glob("events/part-*"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["user_id"]][row["target_rule_id"], row["event_log_id"]] += 1
    return found


def check_rows(recording: Recording, found: dict[int, Any], users: dict[int, int]) -> None:
    for user, rows in found.items():
        if user not in users:
            raise Broken(f"rows of user {user}, who is not in the ledger")
        if rows != recording.rows[users[user]][user]:
            raise Broken(f"user {user} in run {users[user]} has {rows}")
    if missing := users.keys() - found.keys():
        raise Broken(f"no rows of users {missing}")


def check_summary(out: Path, run: int) -> None:
    try:
        summary = json.loads((out / "summary.json").read_text())
        report = (out / "report.html").read_text()
        failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise Broken(f"a finished run left no summary: {error}") from error
    if [failure["user_id"] for failure in failures] != [999]:
        raise Broken(f"a finished run left {failures}")
    if summary["run"] < run or not summary["finished"] or not report.rstrip().endswith("</html>"):
        raise Broken(f"a finished run left {summary}")


SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


def states(
    recording: Recording,
    without: frozenset[int] = frozenset(),
    *,
    extra: int = 0,
    start: int = 0,
    writes: bool = True,
) -> Iterator[tuple[dict[str, Any], tuple[int, int, bool]]]:
    """Every crash of every prefix: plain ones, and `extra` at random.

    Calls in `without` are left out. From `start`; without `writes`, not after each of those.
    """
    disk = Disk(recording.out)
    mark = (1, 0, False)
    chance = random.Random(2026)
    for number, call in enumerate(recording.calls):
        if number in without:
            continue
        disk.play(call)
        if call.kind == "mark":
            mark = tuple(json.loads(call.data))
        if number < start or (call.kind == "write" and not writes):
            continue
        for keeps in [*PLAINLY, *(at_random(chance) for _ in range(extra))]:
            yield disk.crash(keeps), mark


def test_every_state_is_recovered(recording: Recording):
    plain = len(recording.calls) * len(PLAINLY)
    extra = max(1, (STATES - plain) // len(recording.calls) + 1)
    stride = 1 if NIGHTLY else (plain + extra * len(recording.calls)) // STATES
    looked = 0
    for state, mark in islice(states(recording, extra=extra), 0, None, stride):
        check(recording, state, mark)
        looked += 1
    assert looked >= STATES


def test_every_sync_is_needed(recording: Recording):
    syncs = [
        n for n, call in enumerate(recording.calls) if call.kind == "sync" and ours(n, recording)
    ]
    assert len(syncs) > 15
    if not NIGHTLY:  # one for each kind of file
        syncs = sorted({kind_of(recording.calls[n].path): n for n in syncs}.values())
    unneeded = [
        (number, recording.calls[number].path)
        for number in syncs
        if not breaks_without(recording, number)
    ]
    assert unneeded == []


def ours(number: int, recording: Recording) -> bool:
    """Whether a sync is this package's, or commits a part to the ledger: SQLite has more."""
    path = recording.calls[number].path
    if path.endswith("-wal"):
        return recording.calls[number + 1].kind == "rename"
    before = next(call for call in reversed(recording.calls[:number]) if call.kind != "sync")
    if path.endswith("/night"):
        return before.kind in {"mkdir", "rename"}
    return "ledger.sqlite" not in path


def kind_of(path: str) -> str:
    return re.sub(r"part-\d+", "part", path)


def breaks_without(recording: Recording, number: int) -> bool:
    for state, mark in states(recording, frozenset({number}), start=number, writes=False):
        try:
            check(recording, state, mark)
        except Broken:
            return True
    return False
