"""Progress: what a line says, at every width, and that it never decides over the work."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import RateLimit
from capillary_targets.cli.progress import ProgressDisplay
from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sweep import Summary
from tests.conftest import examples, users_file, variables_of

from .terminal import ROOT, environment, on_terminal, read_until, resize


def display(seconds: float, expected: int | None, before: Summary, now: Summary) -> ProgressDisplay:
    """One that has been told `before` at the start and `now` after some seconds."""
    clock = iter([0.0, *[seconds] * 10])
    shown = ProgressDisplay(expected, clock=lambda: next(clock))
    shown.update(before, 16)
    shown.update(now, 16)
    return shown


def test_a_line_says_how_far_it_is_how_fast_and_how_long():
    now = Summary(complete=50, failed=5, events=5000, requests=165)
    assert display(5.0, 400, Summary(), now).line() == (
        "14%: 55 users (11/s), 0:31 left, 5 failed, 0:05 elapsed, 5000 events (1000/s), "
        "16 at a time"
    )
    assert display(3723, None, Summary(), now).line(80) == (
        "55 users (0/s), 5 failed, 1:02:03 elapsed, 5000 events (1/s), 16 at a time"
    )


def test_what_earlier_sessions_did_does_not_count_as_fast():
    before = Summary(complete=1000, events=9000, skipped=3, requests=3000)
    now = Summary(complete=1010, events=9100, skipped=3, requests=3030)
    assert display(10.0, 2000, before, now).line() == (
        "51%: 1010 users (1/s), 16:27 left, 0 failed, 0:10 elapsed, 3 skipped, "
        "9100 events (10/s), 16 at a time"
    )


def test_a_budget_that_has_let_the_first_requests_through_tells_the_time_that_is_left():
    clock = iter([0.0, 2.0])
    shown = ProgressDisplay(10_300, rate=RateLimit(1000, per=60), clock=lambda: next(clock))
    shown.update(Summary())
    shown.update(Summary(complete=300, requests=900))
    assert ", 30:00 left, " in shown.line()  # 30,000 requests, not 1:06


def test_elapsed_and_left_stand_on_eighty_columns_and_the_line_gets_shorter_with_them():
    now = Summary(complete=34_567, failed=89, events=7_654_321, skipped=1000, requests=103_968)
    shown = {width: display(9000.0, 400_000, Summary(), now).line(width) for width in (119, 79, 39)}
    assert shown[119] == (
        "9%: 34656 users (4/s), 26:16:58 left, 89 failed, 2:30:00 elapsed, 1000 skipped, "
        "7654321 events (850/s), 16 at a time"
    )
    assert shown[79] == (
        "9%: 34656 users (4/s), 26:16:58 left, 89 failed, 2:30:00 elapsed, 1000 skipped"
    )
    assert shown[39] == "9%: 34656 users (4/s), 26:16:58 left"


@examples(40)
@given(
    width=st.integers(1, 200),
    numbers=st.tuples(*[st.integers(0, 10**9)] * 6),
    expected=st.none() | st.integers(1, 10**9),
)
def test_a_line_is_never_longer_than_the_terminal(
    width: int, numbers: tuple[int, ...], expected: int | None
):
    complete, failed, events, skipped, bad, requests = numbers
    now = Summary(complete=complete, failed=failed, events=events, skipped=skipped)
    now.bad_lines, now.requests = bad, requests
    assert len(display(1.0, expected, Summary(), now).line(width)) <= width


class Held:
    """A sandbox that stops answering after its tenth call, until it is let go."""

    def __init__(self) -> None:
        self.sandbox = Sandbox(users=20, targets=1, events=4)
        self.reached = asyncio.Event()
        self.sandbox.settings.between_requests = self._watch

    def _watch(self, world, before: int) -> None:
        if before >= 10 and not self.reached.is_set():
            self.sandbox.faults.add(Fault.stall(), times=None)
            self.reached.set()

    def release(self) -> None:
        self.sandbox.settings.between_requests = None
        self.sandbox.faults.clear()

    def users(self, tmp_path: Path) -> Path:
        return users_file(tmp_path, self.sandbox.world.all_user_ids())


def complete(out: Path) -> int:
    found: int = json.loads((out / "summary.json").read_text())["complete"]
    return found


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    held = Held()
    async with held.sandbox:
        yield held


async def test_a_terminal_that_is_resized_and_then_goes_away(tmp_path: Path, held: Held):
    tokens = ("sweep", held.users(tmp_path), "--out", tmp_path / "out")
    with on_terminal(*tokens, columns=120, **variables_of(held.sandbox)) as (process, handle):
        await held.reached.wait()
        await asyncio.to_thread(read_until, handle, "at a time")
        resize(handle, 40)
        for _ in range(3):  # the first may have been drawn before
            shown = await asyncio.to_thread(read_until, handle, "\r\x1b[K")
        assert len(shown.rpartition("\x1b[K")[2]) <= 39
        os.dup2(os.open(os.devnull, os.O_RDWR), handle)  # the last hold on the terminal is gone
        held.release()
        assert await asyncio.to_thread(process.wait, 20) == 0
    assert complete(tmp_path / "out") == 24


@pytest.mark.parametrize("stopped_by", ["ctrl-s", "closed pipe"])
async def test_a_stderr_that_nobody_reads(tmp_path: Path, held: Held, stopped_by: str):
    """The sweep goes on, ends, and gives its status."""
    ours, theirs = pty.openpty() if stopped_by == "ctrl-s" else os.pipe()
    script = "import sys, capillary_targets.cli.progress as progress;"
    script += "progress._LOG_EVERY = 0.05; from capillary_targets_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "sweep", str(held.users(tmp_path))]
    with subprocess.Popen(  # noqa: ASYNC220
        [*command, "--out", str(tmp_path / "out"), "--verbose"],
        cwd=ROOT,
        env=environment(**variables_of(held.sandbox)),
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        if stopped_by == "ctrl-s":
            await asyncio.to_thread(read_until, ours, "left")
            os.write(ours, b"\x13")
        elif stopped_by == "closed pipe":
            os.close(ours)
        await held.reached.wait()
        held.release()
        said, _ = await asyncio.to_thread(process.communicate, None, 30)
    assert process.returncode == 0
    assert b"users: 24\n" in said
    assert complete(tmp_path / "out") == 24
    if stopped_by != "closed pipe":
        os.close(ours)
