"""A disk that is full or cannot be written: a clear line, nothing lost, and it goes on."""

import errno
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capillary_targets.models import TargetEvent
from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import SweepRefused, SweepStopped
from capillary_targets.sweep.atomic import AtomicFile
from capillary_targets.sweep.store import format_named

from .conftest import Swept, encoded, names, needed, true_events, written


def full(room: list[int]) -> Callable[[AtomicFile, bytes], int]:
    """Stands in for `write`; after so many bytes there is no room left."""

    def write(self: AtomicFile, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super(AtomicFile, self).write(data)

    return write


@pytest.mark.parametrize(("form", "enough"), [("jsonl", 80_000), ("parquet", 40_000)])
async def test_a_full_disk_stops_it_and_loses_nothing(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, enough: int
):
    if form == "parquet":
        needed("pyarrow")
    room = [enough]
    sandbox = Sandbox(users=30, targets=2, events=9)
    async with sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(AtomicFile, "write", full(room))
            with pytest.raises(SweepStopped, match="No space left on device") as caught:
                await swept(sandbox, format=form, part_users=3)
        assert "run the same command again" in str(caught.value)
        safe = names(tmp_path / "events")
        assert safe
        assert not [name for name in safe if name.endswith(".tmp")]
        summary = await swept(sandbox, format=form, part_users=3)
    assert summary.skipped > 0
    assert summary.all_complete
    if form == "jsonl":
        assert written(tmp_path) == true_events(sandbox.world)


def test_a_parquet_part_that_found_no_room_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    needed("pyarrow")
    monkeypatch.setattr("capillary_targets.sweep.parquet._GROUP_ROWS", 1)
    sink: Any = format_named("parquet", raw=False).part(
        AtomicFile(tmp_path / "part-00000.parquet"), "events"
    )
    room = [0]
    monkeypatch.setattr(AtomicFile, "write", full(room))
    with pytest.raises(OSError, match="No space left"):
        sink.add(encoded([TargetEvent(n) for n in range(100)], form="parquet"))
    asked = room[0]
    sink.rollback()
    # A writer left to itself tries once more when it is destroyed, in the middle of anything.
    del sink
    gc.collect()
    assert room[0] == asked
    assert names(tmp_path) == []


async def test_a_ledger_that_finds_no_room_stops_it_and_loses_nothing(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(users=30, targets=2, events=9)
    async with sandbox:
        await swept(sandbox, [1_000_001])
        # A process may write no file beyond this: the ledger's journal is the first to meet it.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        try:
            with pytest.raises(SweepStopped, match="run the same command again"):
                await swept(sandbox)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await swept(sandbox)
    assert written(tmp_path) == true_events(sandbox.world)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 KiB; for root only, and where a mount is allowed."""
    path = tmp_path / "tiny"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no mount here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


async def test_a_disk_that_is_really_full(swept: Swept, tiny: Path):
    sandbox = Sandbox(users=30, targets=2, events=9)
    async with sandbox:
        with pytest.raises(SweepStopped, match=r"No space left|full"):
            await swept(sandbox, out=tiny, part_users=3)
        remount(tiny, "size=4m")
        summary = await swept(sandbox, out=tiny, part_users=3)
    assert summary.all_complete
    assert written(tiny) == true_events(sandbox.world)


async def test_a_read_only_disk_is_refused(swept: Swept, tiny: Path):
    sandbox = Sandbox(users=3, targets=2, events=9)
    async with sandbox:
        await swept(sandbox, [1_000_001], out=tiny)
        before = (names(tiny), written(tiny))
        remount(tiny, "ro")
        with pytest.raises(SweepRefused, match=r"cannot be written to \(Read-only file system: "):
            await swept(sandbox, out=tiny)
        assert (names(tiny), written(tiny)) == before
        remount(tiny, "rw,size=4m")
        await swept(sandbox, out=tiny)
    assert written(tiny) == true_events(sandbox.world)


async def test_a_directory_without_permission_is_refused(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(self: Path, *arguments: Any, **more: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    sandbox = Sandbox(users=3)
    async with sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refused)  # root may write anywhere
            with pytest.raises(SweepRefused, match=r"cannot be written to \(Permission denied: "):
                await swept(sandbox, out=tmp_path / "out")


def test_the_command_says_so_in_one_line(tmp_path: Path):
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from capillary_targets.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    # Coverage could not write its own file either, and would say so.
    settings = {name: one for name, one in os.environ.items() if not name.startswith("COVERAGE")}
    ran = subprocess.run(
        [sys.executable, "-c", script, "sweep", "--sandbox", "--out", str(tmp_path / "out")],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: cannot write to ")
    assert "File too large" in ran.stderr
    assert ran.stderr.count("\n") == 1
