"""What people, other programs and cron do to a sweep: it goes on, or one line says what to do."""

import asyncio
import errno
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capillary_targets import BasicAuth, RetryPolicy, TargetsClient
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sweep import (
    Summary,
    SweepOptions,
    SweepRefused,
    SweepStopped,
    make_report,
    run,
)
from capillary_targets.sweep.ledger import Ledger
from capillary_targets.sweep.rows import Format

from .conftest import Swept, connected, names, read_jsonl, true_events, written

SMALL = {"users": 12, "targets": 2, "events": 7}
SPOILED: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "zipped": lambda part: part.rename(part.with_suffix(".jsonl.gz")),
    "cut": lambda part: os.truncate(part, 40),
    "longer": lambda part: part.write_bytes(part.read_bytes() + b"\n"),
    "rewritten": lambda part: part.write_bytes(part.read_bytes().swapcase()),
    "another": lambda part: shutil.copy(part.with_name("part-00001.jsonl"), part),
}


@pytest.mark.parametrize("how", SPOILED)
async def test_a_part_that_is_not_as_it_was_written_is_refused(
    swept: Swept, tmp_path: Path, how: str
):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, part_users=5)
        part = tmp_path / "events" / "part-00000.jsonl"
        kept = part.read_bytes()
        SPOILED[how](part)
        before = {path.name: path.read_bytes() for path in (tmp_path / "events").iterdir()}
        for incremental in (False, True):
            with pytest.raises(SweepRefused, match=r"events/part-00000.jsonl.*--moved"):
                await swept(sandbox, incremental=incremental)
        assert {p.name: p.read_bytes() for p in (tmp_path / "events").iterdir()} == before
        part.write_bytes(kept)  # put back, with another time of modification
        (tmp_path / "events" / "part-00000.jsonl.gz").unlink(missing_ok=True)
        await swept(sandbox, incremental=True)
    assert written(tmp_path) == true_events(sandbox.world)


async def test_a_copied_directory_is_read_once_to_be_sure(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sandbox = Sandbox(**SMALL)
    copy = tmp_path / "copy"
    async with sandbox:
        await swept(sandbox, out=tmp_path / "out")
        shutil.copytree(tmp_path / "out", copy, copy_function=shutil.copyfile)
        await swept(sandbox, out=copy)
        monkeypatch.delattr("capillary_targets.sweep.store.file_digest")
        await swept(sandbox, out=copy)


async def test_parts_may_leave(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    taken = tmp_path / "taken"
    taken.mkdir()

    def take(night: int) -> None:
        for part in (tmp_path / "out" / "events").iterdir():
            part.rename(taken / f"{night}-{part.name}")

    async with sandbox:
        world = sandbox.world
        out = tmp_path / "out"
        await swept(sandbox, out=out, moved=True)
        take(1)
        for user in world.user_ids():
            world.add_event(user, world.targets(user)[0].id)
        second = await swept(sandbox, out=out, moved=True, incremental=True)
        take(2)
        with pytest.raises(SweepRefused, match="made with moved True, not False"):
            await swept(sandbox, out=out)
    assert second.events == 12
    (tmp_path / "all").mkdir()
    taken.rename(tmp_path / "all" / "events")
    for path in (tmp_path / "all" / "events").iterdir():
        path.rename(path.with_name(f"part-{path.name}"))
    assert written(tmp_path / "all") == true_events(world)


@pytest.mark.parametrize("kind", ["events", "targets"])
async def test_whatever_goes_wrong_with_rows_is_one_users_failure(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    encode = Format.encode

    def broken(self: Format, of: str, columns: Any) -> Any:
        if of == kind and 1_000_003 in columns["user_id"]:
            raise RuntimeError("no such luck")
        return encode(self, of, columns)

    monkeypatch.setattr(Format, "encode", broken)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        summary = await swept(sandbox)
    assert (summary.complete, summary.failed, summary.refused) == (15, 1, 0)
    (failure,) = read_jsonl(tmp_path / "failures.jsonl")
    assert (failure["user_id"], failure["error"]) == (1_000_003, "RuntimeError")
    assert failure["message"] == "no such luck"
    others = [user for user in sandbox.world.all_user_ids() if user != 1_000_003]
    assert written(tmp_path) == true_events(sandbox.world, others)


async def test_a_part_that_cannot_be_read_back_fails_its_users_alone(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sandbox = Sandbox(users=3, targets=1, events=6, exact_events=True)
    async with sandbox:
        world = sandbox.world
        first = world.user_ids()[0]
        await swept(sandbox)
        world.delete_events(first, world.targets(first)[0].id, 0)

        def broken(*_: object) -> None:
            raise RuntimeError("no such luck")

        monkeypatch.setattr(Format, "read_events", broken)
        summary = await swept(sandbox, incremental=True)
    assert (summary.complete, summary.failed) == (6, 1)


async def test_another_program_may_read_the_ledger_meanwhile(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        reader = sqlite3.connect(tmp_path / "ledger.sqlite")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM users").fetchone() == (1,)
        assert (await swept(sandbox, part_users=2)).all_complete
        assert reader.execute("SELECT count(*) FROM users").fetchone() == (1,)
        reader.close()
    assert written(tmp_path) == true_events(sandbox.world)


async def test_a_ledger_that_stays_locked_is_refused(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("_LOCK_POLL", "_LOCK_WAIT"):
        monkeypatch.setattr(sys.modules[run.__module__], name, 0.0)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SweepRefused, match="database is locked"):
            await swept(sandbox)
        make_report(tmp_path)  # which changes nothing in it
        other.close()
        assert (await swept(sandbox)).all_complete
    assert written(tmp_path) == true_events(sandbox.world)


async def test_it_waits_for_a_program_that_writes_to_the_ledger(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules[run.__module__], "_LOCK_POLL", 0.0)
    sandbox = Sandbox(**SMALL)
    tried = asyncio.Event()
    commit = Ledger.commit

    def trying(self: Ledger, *arguments: Any, **more: Any) -> None:
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            commit(self, *arguments, **more)
        except sqlite3.OperationalError:
            tried.set()
            raise

    monkeypatch.setattr(Ledger, "commit", trying)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)

        def progress(summary: Summary) -> None:
            if summary.complete == 3 and not other.in_transaction and not tried.is_set():
                other.execute("BEGIN IMMEDIATE")

        sweep = asyncio.create_task(swept(sandbox, part_users=1, progress=progress))
        await tried.wait()
        other.execute("ROLLBACK")
        assert (await sweep).all_complete
        other.close()
    assert written(tmp_path) == true_events(sandbox.world)


async def test_the_safe_users_are_counted_in_the_ledger(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = Ledger.commit

    def full(self: Ledger, number: int, *part: Any, **more: Any) -> None:
        if number == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        commit(self, number, *part, **more)

    monkeypatch.setattr(Ledger, "commit", full)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepStopped, match=r"No space left on device; (\d+) users") as caught:
            await swept(sandbox, part_users=4)
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    (done,) = db.execute("SELECT count(*) FROM users").fetchone()
    db.close()
    assert f"; {done} users are safe" in str(caught.value)
    assert done == 8


async def test_two_accounts_do_not_share_a_directory(tmp_path: Path):
    sandbox = Sandbox(**SMALL)
    options = SweepOptions(source="the sandbox")
    async with sandbox:
        async with connected(sandbox) as client:
            await run(client, [1_000_001], tmp_path, options)
        another = BasicAuth("another.till", "another")
        async with TargetsClient(sandbox.url, another, retry=RetryPolicy(attempts=1)) as client:
            with pytest.raises(SweepRefused, match="made with another account"):
                await run(client, [1_000_002], tmp_path, options)
    assert b"till.sandbox" not in (tmp_path / "ledger.sqlite").read_bytes()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
async def test_a_disk_that_refuses_to_sync_directories_will_do(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    sync, refused = os.fsync, []

    def refusing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(handle)
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", refusing)
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        assert (await swept(sandbox)).all_complete
    assert refused
    assert written(tmp_path) == true_events(sandbox.world)


async def test_a_disk_that_fails_to_sync_a_directory_stops_it(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
):
    sync = os.fsync

    def failing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    sandbox = Sandbox(**SMALL)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(SweepStopped, match="Input/output error"):
            await swept(sandbox)


def limited(files: int, *tokens: str) -> subprocess.CompletedProcess[str]:
    """The real command, which may have so many files open."""
    return subprocess.run(
        [sys.executable, "-m", "capillary_targets_cli", *tokens],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_few_files_may_be_open(tmp_path: Path):
    out = tmp_path / "out"
    users = tmp_path / "users.txt"
    users.write_text("".join(f"{user}\n" for user in range(1_000_001, 1_000_031)))
    ran = limited(40, "sweep", str(users), "--sandbox", "--out", str(out), "--format", "parquet")
    assert ran.returncode == 0, ran.stderr
    (summary,) = read_jsonl(out / "summary.json")
    assert (summary["users"], summary["failed"]) == (30, 0)


def test_too_few_files_may_be_open(tmp_path: Path):
    ran = limited(12, "sweep", "--sandbox", "--out", str(tmp_path / "out"))
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: only 12 files may be open at once")
    assert ran.stderr.count("\n") == 1


async def test_progress_never_decides_over_the_work(
    swept: Swept, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    called = 0

    def progress(summary: Summary) -> None:
        nonlocal called
        called += 1
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    sandbox = Sandbox(**SMALL)
    async with sandbox:
        assert (await swept(sandbox, progress=progress)).all_complete
    assert called == 1
    assert "progress" in caplog.text
    assert written(tmp_path) == true_events(sandbox.world)


@pytest.mark.parametrize(("most", "asked"), [(3, 4), (0, 1), (0.25, 100)])
async def test_too_many_failures_stop_it(swept: Swept, tmp_path: Path, most: float, asked: int):
    sandbox = Sandbox(users=5)
    users = [*range(1, 80), *sandbox.world.all_user_ids(), *range(80, 400)]
    async with sandbox:
        with pytest.raises(SweepStopped, match="more than max_failures allows"):
            await swept(sandbox, users, max_failures=most, concurrency=1)
        (summary,) = read_jsonl(tmp_path / "summary.json")
        assert summary["users"] == asked
        assert len(read_jsonl(tmp_path / "failures.jsonl")) == summary["refused"]
        again = await swept(sandbox, [*sandbox.world.all_user_ids(), 5], max_failures=most + 4)
    assert again.complete == 9


async def test_a_server_that_cannot_be_reached_is_not_asked_for_everybody(
    swept: Swept, tmp_path: Path
):
    sandbox = Sandbox(users=60, targets=1, events=2)
    async with sandbox:
        sandbox.faults.add(Fault.reset(), times=None)
        with pytest.raises(SweepStopped, match="the server cannot be reached"):
            await swept(sandbox)
        (summary,) = read_jsonl(tmp_path / "summary.json")
        assert 3 <= summary["failed"] <= 20
        sandbox.faults.clear()
        assert (await swept(sandbox)).all_complete
    assert written(tmp_path) == true_events(sandbox.world)


async def test_an_answer_in_between_shows_that_it_can_be_reached(swept: Swept):
    sandbox = Sandbox(users=110, targets=1, events=2)
    async with sandbox:
        for user in [*sandbox.world.user_ids()][::2]:
            sandbox.faults.add(Fault.reset(), times=None, path_contains=f"/{user}/")
        summary = await swept(sandbox, concurrency=1)
    assert summary.failed == 55
    assert summary.finished


def test_unfinished_parts_are_where_readers_do_not_look(tmp_path: Path):
    from capillary_targets.sweep.atomic import AtomicFile

    part = AtomicFile(tmp_path / "part-00000.jsonl")
    (name,) = names(tmp_path)
    assert name.startswith(".")
    assert not [*tmp_path.glob("*.jsonl"), *tmp_path.glob("part-*")]
    part.rollback()


@pytest.mark.parametrize("how", ["older", "foreign", "no database"])
async def test_another_ledger_is_refused_and_left_alone(swept: Swept, tmp_path: Path, how: str):
    ledger = tmp_path / "ledger.sqlite"
    if how == "no database":
        ledger.write_text("notes of mine\n" * 99)
    else:
        db = sqlite3.connect(ledger)
        db.execute("CREATE TABLE runs (id INTEGER)")
        db.execute(f"PRAGMA user_version = {3 if how == 'older' else 0}")
        db.close()
    before = ledger.read_bytes()
    words = "cannot be used" if how == "no database" else "made by another version"
    sandbox = Sandbox(**SMALL)
    async with sandbox:
        with pytest.raises(SweepRefused, match=f"ledger.sqlite.* {words}.*another directory"):
            await swept(sandbox)
    assert ledger.read_bytes() == before
