"""The commands by name, and what every one of them owes the shell: one clear line, a status."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from capillary_targets.errors import CapillaryError, UsageError
from capillary_targets.sweep import SweepRefused, SweepStopped

from .queries import events, targets, user
from .sandbox import sandbox
from .sweep import report, sweep

__all__ = ["main", "relaxed_gc"]

OK, FAILED, USAGE, PIPE_CLOSED = 0, 1, 2, 141

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_COMMANDS = (user, targets, events, sweep, report, sandbox)

_HELP = """Ask the Capillary targets API which targets users are in, and which events counted.

Settings come from the environment: `CAPILLARY_BASE_URL` (a cluster's name such as `eu`, or an
address), and either `CAPILLARY_USERNAME` with `CAPILLARY_PASSWORD` or `CAPILLARY_PASSWORD_MD5`,
or `CAPILLARY_CLIENT_KEY` with `CAPILLARY_CLIENT_SECRET`.
Without an account, add `--sandbox`: the command then runs against a made-up API on this machine.

Exit status: 0 everything is there, 1 something failed, 2 nothing was begun because a setting, a
flag or a file is wrong.
"""


def _app() -> App:
    app = App(
        name="capillary-targets",
        help=_HELP,
        version=lambda: f"capillary-targets {version('capillary-targets')}",
        default_parameter=Parameter(negative=""),
    )
    for command in _COMMANDS:
        app.command(command)
    return app


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit status."""
    try:
        status = _run(sys.argv[1:] if tokens is None else tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has gone, `| head` for one. The interpreter must not flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (UsageError, SweepRefused) as error:
        return _fail(str(error), USAGE)
    except (CapillaryError, SweepStopped) as error:
        return _fail(str(error), FAILED)
    return status


def _run(tokens: Sequence[str]) -> int:
    try:
        command, bound, _ = _app().parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        asked = next((token for token in tokens if not token.startswith("-")), "")
        known = asked if asked in {command.__name__ for command in _COMMANDS} else ""
        hint = " ".join(filter(None, ("capillary-targets", known, "--help")))
        return _fail(f"{' '.join(str(error).split())} See `{hint}`", USAGE)
    result: Any = command(*bound.args, **bound.kwargs)
    if result is None:  # help or version has been printed
        return OK
    status: int = run_until_done(result)
    return status


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def run_until_done(command: Coroutine[Any, Any, int]) -> int:
    """Run a command to its exit status.

    SIGINT and SIGTERM cancel it, so that it can put its things in order, and give 130 and 143. A
    second signal ends the process on the spot.
    """
    with relaxed_gc(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_with_signals(command))


@contextmanager
def relaxed_gc() -> Iterator[None]:
    """Let the garbage collector look rarely, and not at what was imported, for as long as it lasts.

    A sweep makes events by the hundred thousand, all of them freed without its help; looking
    through them takes a fifth of the time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where the extra `speed` is installed."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - it is optional

        return uvloop.new_event_loop
    return None


async def _with_signals(command: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    caught: list[int] = []

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        if task is not None:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await command
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
