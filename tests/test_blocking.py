"""capillary_targets.blocking: the client for code without an event loop."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from capillary_targets import BasicAuth, ClientClosed, InvalidUser, TargetEvent, UsageError
from capillary_targets.blocking import BlockingClient
from capillary_targets.sandbox import Fault, Sandbox
from tests.conftest import in_thread

NAME = "capillary_targets.blocking"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox in a thread of its own."""
    with in_thread(Sandbox(users=5, targets=2, events=250, exact_events=True)) as sandbox:
        yield sandbox


def opened(sandbox: Sandbox) -> BlockingClient:
    return BlockingClient(sandbox.url, BasicAuth(*sandbox.credentials), page_size=100)


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[BlockingClient]:
    with opened(sandbox) as client:
        yield client


def threads() -> int:
    return sum(one.name == NAME for one in threading.enumerate())


def true_ids(sandbox: Sandbox, user: int, rule: int) -> list[int | None]:
    return [event.event_log_id for event in sandbox.world.events(user, rule)]


def test_calls_and_loops(sandbox: Sandbox, client: BlockingClient) -> None:
    user = sandbox.world.user_ids()[0]
    targets = client.active_targets(user)
    assert [one.id for one in targets] == [one.id for one in sandbox.world.targets(user)]
    pager = client.events(user, targets[0].id)
    expected = true_ids(sandbox, user, targets[0].id)
    assert [event.event_log_id for event in pager] == expected
    assert pager.pager.report.complete
    assert [one.event_log_id for page in pager.pages() for one in page.events] == expected
    assert [event.event_log_id for event in pager.collect()] == expected
    assert len(client.progress(user)) == 2
    assert client.run(client.client.progress(user)) == client.progress(user)
    found = {one.user_id: len(one.events) for one in client.sweep(sandbox.world.user_ids())}
    assert found == dict.fromkeys(sandbox.world.user_ids(), 500)
    with pytest.raises(InvalidUser):
        client.active_targets(999)


def test_a_loop_that_is_left_can_be_resumed_and_fetches_nothing_more(
    sandbox: Sandbox, client: BlockingClient
) -> None:
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=1")
    pager, first = client.events(user, rule), list[TargetEvent]()
    for event in pager:
        first.append(event)
        if len(first) == 7:
            break
    asked = dict(sandbox.counts)
    assert not client.run(_walks())  # the page fetched ahead is cancelled, not waited for
    sandbox.faults.clear()
    rest = client.events(user, rule, start=pager.pager.checkpoint).collect()
    assert [one.event_log_id for one in (*first, *rest)] == true_ids(sandbox, user, rule)
    assert dict(sandbox.counts) != asked


async def _walks() -> list[str]:
    return [str(one) for one in asyncio.all_tasks() if one is not asyncio.current_task()]


def test_threads_share_a_client(sandbox: Sandbox, client: BlockingClient) -> None:
    users = list(sandbox.world.user_ids()) * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client.active_targets, users))
    assert [len(one) for one in found] == [2] * len(users)
    assert threads() == 1


def test_it_ends_its_thread(sandbox: Sandbox) -> None:
    with opened(sandbox) as client:
        user = sandbox.world.user_ids()[0]
        left = iter(client.events(user, sandbox.world.targets(user)[0].id))
        next(left)
    assert threads() == 0
    with pytest.raises(ClientClosed, match="with BlockingClient"):
        client.progress(user)
    with pytest.raises(ClientClosed):
        next(left)
    with pytest.raises(ClientClosed, match="make a new one"):
        client.__enter__()
    client.__exit__()
    forgotten = opened(sandbox).__enter__()
    assert threads() == 1
    del forgotten
    assert threads() == 0


def test_before_it_is_opened() -> None:
    client = BlockingClient("eu", BasicAuth("till", "password"))
    for call in (
        lambda: client.progress(1),
        lambda: client.events(1, 2),
        lambda: client.sweep([1]),
    ):
        with pytest.raises(ClientClosed, match="use `with BlockingClient"):
            call()
    with pytest.raises(UsageError):
        BlockingClient("nowhere", BasicAuth("till", "password"))
    assert threads() == 0


def test_inside_a_running_loop(client: BlockingClient) -> None:
    async def handler() -> None:
        client.progress(1)

    with pytest.raises(UsageError, match="use TargetsClient with await"):
        asyncio.run(handler())


def test_after_a_fork(sandbox: Sandbox, client: BlockingClient) -> None:
    pid = os.fork()
    if not pid:  # the child: never returns into pytest
        status = 1
        try:
            client.progress(sandbox.world.user_ids()[0])
        except UsageError as error:
            status = 0 if "open one in each process" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.progress(sandbox.world.user_ids()[0])


SCRIPT = """
import sys
from capillary_targets import BasicAuth
from capillary_targets.blocking import BlockingClient
client = BlockingClient(sys.argv[1], BasicAuth(sys.argv[2], sys.argv[3])).__enter__()
user, rule = map(int, sys.argv[4:])
events = iter(client.events(user, rule))
next(events)
print("ready", flush=True)
for event in events:
    pass
"""


@pytest.mark.parametrize("interrupted", [True, False])
def test_the_interpreter_ends(sandbox: Sandbox, interrupted: bool) -> None:
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id
    if interrupted:
        sandbox.faults.add(Fault.stall(), times=None, path_contains="offset=1")
    command = [sys.executable, "-c", SCRIPT, sandbox.url, *sandbox.credentials]
    with subprocess.Popen(
        [*command, str(user), str(rule)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if interrupted:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGINT if interrupted else 0)
    # A signal before a coroutine is handed over to the thread leaves it, with a warning.
    said = [line for line in errors.splitlines() if line and "never awaited" not in line]
    assert said[-1:] == (["KeyboardInterrupt"] if interrupted else [])
