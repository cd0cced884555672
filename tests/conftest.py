"""Fixtures shared by all rooms' tests."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aioresponses import aioresponses
from hypothesis import HealthCheck, settings

from capillary_targets import BasicAuth, RetryPolicy, TargetsClient
from capillary_targets.sandbox import Sandbox, SandboxSettings
from capillary_targets.testing import aioresponses_shim
from tests.sweep.browser import browser

# Properties take a new random seed in every run, in CI too; a failure prints its blob and seed.
# A failure found becomes an `@example`. 40 of each by day: many days make many;
# `--hypothesis-profile=nightly` asks for 5,000.
settings.register_profile(
    "default",
    max_examples=40,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("ci", settings.get_profile("default"), database=None)
settings.register_profile("nightly", settings.get_profile("ci"), max_examples=5000)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# What tests write lies in memory where there is room: each `fsync` of theirs waits for no disk.
if os.access("/dev/shm", os.W_OK):
    _memory = os.statvfs("/dev/shm")
    _is_large = _memory.f_bavail * _memory.f_frsize > 1 << 30
    if _is_large and not _memory.f_flag & os.ST_NOEXEC:  # some tests write programs
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

# Background jobs ignore Ctrl-C and `nohup` a closed terminal; what they start inherits that.
for _number, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

SAMPLES = Path(__file__).parent.parent / "capillary_targets" / "sandbox" / "samples"
BASE = "https://eu.api.capillarytech.com"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: the whole suite on all processors; a part of it, named or found, in this one."""
    whole = config.args == config.getini("testpaths") and not config.option.keyword
    return None if whole else 0


def is_nightly() -> bool:
    """Whether the profile `nightly` asks for more than the suite has time for."""
    return settings.get_current_profile_name() == "nightly"


def examples(count: int) -> settings:
    """Settings of a property: `count` examples, or 5,000 in the profile `nightly`."""
    return settings(max_examples=settings.default.max_examples if is_nightly() else count)


@pytest.fixture
def mocked() -> Iterator[aioresponses]:
    """Answers for aiohttp without a socket: for tests of a request's shape."""
    with aioresponses_shim(), aioresponses() as mock:
        yield mock


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds for which `asyncio.sleep` is told to wait; it does not."""
    told: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        told.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return told


@pytest.fixture
def auth() -> BasicAuth:
    return BasicAuth("store.server", "server123")


@pytest.fixture
async def client(auth: BasicAuth) -> AsyncIterator[TargetsClient]:
    """A client of the documented host, for use with `mocked`; one attempt, so nothing waits."""
    async with TargetsClient(BASE, auth, retry=RetryPolicy(attempts=1)) as client:
        yield client


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def turns_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Let the event loop turn until the condition holds; give up, failing, in the end.

    What takes more than a few turns depends on another process, which needs this processor.
    """
    async with asyncio.timeout(seconds):
        for turn in count():
            if condition():
                return
            await asyncio.sleep(0 if turn < 200 else 0.002)


def sample(name: str) -> bytes:
    """A printed answer of the vendor's, byte for byte."""
    return (SAMPLES / f"{name}.json").read_bytes()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A running sandbox: 20 users, 3 targets each, 25 events to a target on average."""
    sandbox = Sandbox(users=20)
    async with sandbox:
        yield sandbox


@pytest.fixture
def small_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes made without `users=` have 12 of them, not 200: a sweep of one is short."""
    monkeypatch.setitem(SandboxSettings.__init__.__kwdefaults__, "users", 12)


def variables_of(sandbox: Sandbox) -> dict[str, str]:
    """The environment variables of a command that asks a running sandbox."""
    username, password = sandbox.credentials
    return {
        "CAPILLARY_BASE_URL": sandbox.url,
        "CAPILLARY_USERNAME": username,
        "CAPILLARY_PASSWORD": password,
    }


def in_environment(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """A running sandbox in the environment of this process."""
    for name, value in variables_of(sandbox).items():
        monkeypatch.setenv(name, value)


@contextmanager
def in_thread(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A running sandbox whose event loop has a thread of its own, for callers that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        yield sandbox
        asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """A browser for all: each test has a `tab` of its own."""
    with browser() as address:
        yield address


def users_file(tmp_path: Path, users: Iterable[object]) -> Path:
    """A list of users, one a line."""
    path = tmp_path / "users.txt"
    path.write_text("".join(f"{user}\n" for user in users))
    return path


@asynccontextmanager
async def client_of(sandbox: Sandbox, **settings: Any) -> AsyncIterator[TargetsClient]:
    """A client of a running sandbox."""
    auth = BasicAuth(*sandbox.credentials)
    async with TargetsClient(sandbox.url, auth, **settings) as client:
        yield client
