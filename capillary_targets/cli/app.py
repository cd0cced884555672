"""The commands by name, and what every one of them owes the shell: one clear line, a status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pkgutil import resolve_name
from types import FrameType
from typing import Annotated, Any, Final, get_args

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Parameter,
    Token,
    convert,
)

from capillary_targets.cassette import recording
from capillary_targets.errors import ApiError, CapillaryError, UsageError
from capillary_targets.session import __version__

from . import connection, output

_OK, _FAILED, _USAGE, _REFUSED, _PIPE_CLOSED = 0, 1, 2, 3, 141
_LEAST_FILES: Final = 24
"""Open files that a command needs: streams, the event loop, a connection, a file or two."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MODULES: Final = {
    "user": "queries",
    "targets": "queries",
    "events": "queries",
    "explain": "queries",
    "sweep": "sweep",
    "report": "sweep",
    "doctor": "doctor",
    "sandbox": "sandbox",
}
"""The commands, and the module of this package that each is in."""

_HELP = """Ask the Capillary targets API which targets users are in, and which events counted.

Settings come from the environment: `CAPILLARY_BASE_URL` (a cluster's name such as `eu`, or an
address), and either `CAPILLARY_USERNAME` with `CAPILLARY_PASSWORD` or `CAPILLARY_PASSWORD_MD5`,
or `CAPILLARY_CLIENT_KEY` with `CAPILLARY_CLIENT_SECRET`. With `_FILE` behind its name
(`CAPILLARY_PASSWORD_FILE`), a variable names a file that holds the value. `CAPILLARY_TIMEZONE` is
the cluster's time zone; `HTTPS_PROXY` and `NO_PROXY` are kept to.

Try it without an account: with `--sandbox` a command asks a made-up API on this machine.

    capillary-targets user --mobile 919001000001 --sandbox

Exit status: 0 everything is there; 1 something failed that may be tried again; 3 it is finished,
but something was refused for good, such as a user id that nobody has; 2 nothing was begun because
a setting, a flag or a file is wrong.
"""


def _exact(wanted: Any, tokens: Sequence[Token]) -> Any:
    """A value as cyclopts reads it, which takes 1.6 for 2 and 0x10 for 16: no id is rounded."""
    kinds = {wanted, *get_args(wanted)}
    for token in tokens if int in kinds else ():
        if not re.fullmatch("-?[0-9]{1,30}", token.value):
            if str in kinds:  # a name
                return token.value
            raise ValueError(f"{token.value!r} is no whole number")
    return convert(wanted, tokens)


def _app(tokens: Sequence[str] = ()) -> App:
    """The application. Of commands only the one that is named is loaded: half of the start."""
    app = App(
        name="capillary-targets",
        help=_HELP,
        version=f"capillary-targets {__version__}",
        default_parameter=Parameter(
            negative="", converter=_exact, show_default=lambda given: given or None
        ),
    )
    for name, module in _MODULES.items():
        path = f"capillary_targets.cli.{module}:{name}"
        app.command(path if tokens and tokens[0] in _MODULES else resolve_name(path))
    app.command(_record, name="record")
    app.register_install_completion_command(help="Make your shell complete this command.")
    return app


async def _record(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)], out: connection.File
) -> int | None:
    """Run a command and keep the answers that it gets, with nothing in them that names a person.

    Try it without an account:

        capillary-targets record --out cassette.jsonl -- user --id 1000001 --sandbox

    Args:
        command: The command line to run, after --.
        out: The cassette to write: for Sandbox.replay and `sandbox --replay`.
    """
    if not command or command[0] in {"record", "report", "sandbox"}:
        raise UsageError(
            "record: give the command that asks the API, after --: record --out F -- user ..."
        )
    inner, bound, _ = _parsed(command)
    with recording(out) as recorder:
        connection.OBSERVERS.set((recorder,))
        result: Any = inner(*bound.args, **bound.kwargs)
        status: int | None = None if result is None else await result
    output.note(f"{out}: {recorder.answers} answers")
    return status


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit status."""
    output.open_streams()
    tokens = sys.argv[1:] if tokens is None else tokens
    log, warnings = logging.getLogger("capillary_targets"), _Warnings(logging.WARNING)
    if not {"--quiet", "-q"} & set(tokens):
        log.addHandler(warnings)
    try:
        return _run(tokens)
    except UsageError as error:
        output.fail(str(error))
        return _USAGE
    except output.OutputLost as error:
        if isinstance(error.error, BrokenPipeError):  # its reader has seen enough: `| head`
            return _PIPE_CLOSED
        output.fail(str(error))
    except CapillaryError as error:
        output.fail(str(error))
        for_good = isinstance(error, ApiError) and error.scope == "request" and not error.retryable
        return _REFUSED if for_good else _FAILED
    except OSError as error:
        output.fail(f"{error}; mend that, then run the same command again")
    except KeyboardInterrupt:
        output.note("interrupted")
        return 128 + signal.SIGINT
    finally:
        log.removeHandler(warnings)
    return _FAILED


class _Warnings(logging.Handler):
    """Prints what the package warns of as a line like any other."""

    def emit(self, record: logging.LogRecord) -> None:
        output.warn(record.getMessage())


def _run(tokens: Sequence[str]) -> int:
    command, bound, _ = _parsed(tokens)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _LEAST_FILES:
        raise UsageError(
            f"only {limit} files may be open at once: raise that with `ulimit -n`, to 256 or more"
        )
    with output.guarded():
        result: Any = command(*bound.args, **bound.kwargs)
    return _OK if result is None else run_until_done(result)  # None: help or the like was printed


def _parsed(tokens: Sequence[str]) -> Any:
    """The command that a command line names, and its arguments. Raises `UsageError`."""
    try:
        return _app(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
    except (CycloptsError, ValueError) as error:
        named = [one for one in tokens[:1] if one in {*_MODULES, "record"}]
        hint = " ".join(("capillary-targets", *named, "--help"))
        what = " ".join(str(error).split()).rstrip("., ?")
        if isinstance(error, CoercionError) and error.argument and error.argument.name not in what:
            what = f"Invalid value for {error.argument.name}: {what}"
        raise UsageError(f"{what}. See `{hint}`") from None


def run_until_done(command: Coroutine[Any, Any, int | None]) -> int:
    """Run a command to its exit status, 0 where it returns none.

    SIGINT, SIGTERM and SIGHUP cancel it, so that it can put its things in order, and give 130,
    143 and 129. A second one ends the process on the spot.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - the extra `speed`

        factory = uvloop.new_event_loop
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000)  # a fifth of a sweep, else: events are freed without its help
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_with_signals(command))
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _with_signals(command: Coroutine[Any, Any, int | None]) -> int:
    loop = asyncio.get_running_loop()
    task: Any = asyncio.current_task()
    caught: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        loop.call_soon_threadsafe(task.cancel)

    # Python's own handlers, not the loop's: the second signal has to work while the loop is stuck
    # in a write. One that is ignored stays so: nohup, or a shell's background job.
    ours = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in ours}
    try:
        status = await command
    except asyncio.CancelledError as interruption:
        if not caught:
            raise
        output.note(": ".join(("interrupted", *interruption.args)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + caught[0] if caught else status or _OK
