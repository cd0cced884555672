"""Fault injection: what may go wrong between a call and its answer, and when it does."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar, get_type_hints

import msgspec
from aiohttp import web
from attrs import define, evolve, field, frozen

from . import responses
from .settings import RetryHint

T = TypeVar("T")

_JSON = "application/json"
_IS_JSON = {"Content-Type": _JSON}
_ANY_BYTES = ("utf-8", "surrogateescape")
_HTML = """<!DOCTYPE html>
<html><head><title>{status}</title></head>
<body><center><h1>{status} Error</h1></center><hr><center>gateway</center></body></html>
"""
_AUTHORISATION = {
    4000: (403, "Not authorized. Access is denied!"),
    4001: (503, "Authorization status unavailable!"),
}
_RETRYABLE_CODES = {
    461: "Search Engine is busy. Please try again after some time",
    521: "Multiple actions are running for the same customer. Please try again after some time",
}
_NAME = r'("(?:name|eventName|firstName|targetName)":\s*")'
_DATE = r'"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d'
_AMOUNT = r'("(?:targetValue|targetAchievedValue)":\s*)-?[\d.]+'
ODD_BODIES: dict[str, tuple[str, str]] = {
    # Values that are legal JSON.
    "null_data": (r'("data":\s*)\[.*\](?=,\s*"errors")', r"\1null"),
    "other_rule": (r'("targetRuleId":\s*)\d+', r"\g<1>999999"),
    "text_ids": (r'("(?:id|eventLogId)":\s*)(\d+)', r'\1"\2"'),
    "zero_dates": (_DATE, r'"0000-00-00\g<1>00:00:00'),
    "far_dates": (_DATE, r'"10000-01-01\g<1>00:00:00'),
    "huge_amounts": (_AMOUNT, rf"\g<1>{'9' * 40}.999"),
    "exponents": (_AMOUNT, r"\g<1>1.5E+3"),
    "escape_codes": (_NAME, r"\1\\u001b[31m\\u0007"),
    "lone_surrogate": (_NAME, r"\1\\ud83d"),
    # Bytes that are not; those that are no UTF-8 are spelled as Python's `surrogateescape` does.
    "bom": (r"\A", "\ufeff"),
    "cut_emoji": (_NAME, "\\1\udcf0\udc9f\udc98"),
    "latin_1": (_NAME, "\\1Caf\udce9"),
    "malformed": (r"\A(.*),[^,]*\Z", r"\1,,}"),
}
"""What is wrong in an otherwise right answer: a pattern, and what replaces it."""


@frozen(slots=True)
class Call:
    """A call that meets a fault; `answer` makes the right answer, which some spoil or delay."""

    request: web.Request
    answer: Callable[[], Awaitable[web.StreamResponse]]
    stall: Callable[[], Awaitable[None]]
    """Waits until the faults are released."""

    @property
    def transport(self) -> asyncio.Transport:
        """The connection. Raises `ConnectionResetError` if the other side has left."""
        if self.request.transport is None:
            raise ConnectionResetError
        return self.request.transport

    async def right(self) -> tuple[int, bytes]:
        """Status and body of the right answer."""
        right = await self.answer()
        body = right.body if isinstance(right, web.Response) else b""
        return right.status, body if isinstance(body, bytes) else b""

    async def begin(self) -> tuple[web.StreamResponse, bytes]:
        """Send the head of the right answer; its body is to follow."""
        status, body = await self.right()
        response = web.StreamResponse(status=status)
        response.content_type, response.content_length = _JSON, len(body)
        await response.prepare(self.request)
        return response, body


Send: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse | None]]


@frozen(slots=True)
class Fault:
    """One thing going wrong. Make one with a named constructor, such as `Fault.http(503)`."""

    name: str
    send: Send = field(repr=False)
    """Answers a call with it; None: the connection was reset."""
    code: int | None = None
    """The API's own code, for the record of the request."""

    @classmethod
    def http(
        cls,
        status: int,
        body: str = "",
        *,
        retry_after: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Any HTTP status and body, plain text unless the headers say otherwise."""
        known = {} if retry_after is None else {"Retry-After": str(retry_after)}
        known |= {"Content-Type": "text/plain"} | dict(headers or {})

        async def send(_: Call) -> web.Response:
            return web.Response(status=status, body=body.encode(), headers=known)

        return cls(f"http {status}", send)

    @classmethod
    def too_many_requests(
        cls, retry_after: float | None = None, hint: RetryHint = "seconds"
    ) -> Self:
        """HTTP 429; its Retry-After in seconds (rounded up) or as an HTTP date, or without one."""
        body = '{"message": "Too many requests"}'
        if retry_after is None or hint == "none":
            return cls.http(429, body, headers=_IS_JSON)
        seconds: int | str = math.ceil(retry_after)
        if hint == "date":
            # Dates have whole seconds: rounded up, so that no client comes too early.
            moment = datetime.now(UTC) + timedelta(seconds=math.ceil(retry_after) + 1)
            seconds = format_datetime(moment, usegmt=True)
        return cls.http(429, body, retry_after=seconds, headers=_IS_JSON)

    @classmethod
    def gateway_page(cls, status: int = 502) -> Self:
        """The HTML page of a gateway in front."""
        page = _HTML.format(status=status)
        return cls.http(status, page, headers={"Content-Type": "text/html"})

    @classmethod
    def redirect(cls, location: str = "https://login.example.com/") -> Self:
        """A 302 to another origin."""
        return cls.http(302, headers={"Location": location})

    @classmethod
    def api_code(cls, code: int, message: str = "", *, status: int = 400) -> Self:
        """A v3 error; 461 and 521 bring their documented text along (contract §5.2)."""
        text = message or _RETRYABLE_CODES.get(code, "Made up by the sandbox")
        body = responses.error_body(code, text).decode()
        return evolve(cls.http(status, body, headers=_IS_JSON), code=code)

    @classmethod
    def authorisation(cls, code: Literal[4000, 4001] = 4001) -> Self:
        """4000 (denied) or 4001 (unavailable), in the text shape of contract §1.4."""
        status, message = _AUTHORISATION[code]
        text = f"HttpStatusCode={status} errorMessage={message} errorCode={code}"
        return evolve(cls.http(status, text), code=code)

    @classmethod
    def reset(cls) -> Self:
        """The connection is reset before an answer."""

        async def send(call: Call) -> None:
            # Closed so that the other side sees a reset, not an end.
            plug = call.transport.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            call.transport.abort()

        return cls("reset", send)

    @classmethod
    def truncated(cls) -> Self:
        """The connection closes in the middle of the right answer's body."""

        async def send(call: Call) -> web.StreamResponse:
            response, body = await call.begin()
            await response.write(body[: len(body) // 2])
            call.transport.close()  # once what was written has gone out
            return response

        return cls("truncated", send)

    @classmethod
    def slow_body(
        cls,
        interval: Annotated[float, msgspec.Meta(ge=0)] = 0.01,
        gate: asyncio.Event | None = None,
    ) -> Self:
        """The right answer a byte at a time; with a gate, one byte and no more until it opens."""

        async def send(call: Call) -> web.StreamResponse:
            response, body = await call.begin()
            for index in range(len(body)):
                await response.write(body[index : index + 1])
                await (asyncio.sleep(interval) if gate is None else gate.wait())
            return response

        return cls("slow body", send)

    @classmethod
    def stall(cls) -> Self:
        """No answer until the client goes away, or `faults.release()` lets the right one out.

        How long that takes is the client's own deadline.
        """

        async def send(call: Call) -> web.StreamResponse:
            await call.stall()
            return await call.answer()

        return cls("stall", send)

    @classmethod
    def second_answer(cls) -> Self:
        """The right answer, and then another one that nobody asked for on the same connection."""

        async def send(call: Call) -> web.StreamResponse:
            response, body = await call.begin()
            await response.write_eof(body)
            body = responses.data(None)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {_JSON}\r\nContent-Length: {len(body)}"
            call.transport.write(f"{head}\r\n\r\n".encode() + body)
            return response

        return cls("second answer", send)

    @classmethod
    def odd_body(cls, name: str) -> Self:
        """The right answer with something odd in it: a name of `ODD_BODIES`, such as `null_data`.

        Raises:
            ValueError: there is no such name.
        """
        if name not in ODD_BODIES:
            raise ValueError(f"no odd body named {name!r}; there are {', '.join(ODD_BODIES)}")
        return evolve(cls.edited(*ODD_BODIES[name]), name=name)

    @classmethod
    def edited(
        cls, pattern: str, replacement: str, *, headers: Mapping[str, str] | None = None
    ) -> Self:
        """The right answer with each match of a regular expression replaced, and more headers.

        Raises:
            ValueError: the expression, or what replaces it, cannot be read.
        """
        try:
            re.sub(pattern, replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"edited: {error}") from None

        async def send(call: Call) -> web.Response:
            status, body = await call.right()
            text = re.sub(pattern, replacement, body.decode(*_ANY_BYTES), flags=re.DOTALL)
            more = _IS_JSON | dict(headers or {})
            return web.Response(status=status, body=text.encode(*_ANY_BYTES), headers=more)

        return cls("edited", send)

    @classmethod
    def huge(cls, megabytes: float = 256, *, gzip: bool = False) -> Self:
        """Valid JSON of that size, sent as fast as it is taken; `gzip` makes it a bomb."""
        size, step = int(megabytes * (1 << 20)), 1 << 20 if gzip else 1 << 16

        async def send(call: Call) -> web.StreamResponse:
            encoding = {"Content-Encoding": "gzip"} if gzip else {}
            response = web.StreamResponse(headers=_IS_JSON | encoding)
            await response.prepare(call.request)
            packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16) if gzip else None
            blanks = (b" " * min(step, size - done) for done in range(0, size, step))
            for piece in (b'{"data":[', *blanks, b'],"errors":[],"warnings":[]}'):
                await response.write(packer.compress(piece) if packer else piece)
                await asyncio.sleep(0)
            await response.write(packer.flush() if packer else b"")
            return response

        return cls("huge", send)


NAMED: dict[str, Callable[..., Fault]] = dict(inspect.getmembers(Fault, inspect.ismethod))
"""The constructors by name, for the control API."""

TRANSIENT = (
    Fault.http(503),
    Fault.gateway_page(502),
    Fault.gateway_page(520),
    Fault.http(504),
    Fault.too_many_requests(),
    Fault.api_code(521, status=200),
    Fault.authorisation(4001),
    Fault.reset(),
    Fault.truncated(),
)
"""What `random_faults` picks from: each is worth another try."""


def named(name: str, arguments: bytes = b"{}") -> Fault:
    """A fault by the name of its constructor; the arguments are a JSON object.

    Raises:
        ValueError: there is none of that name, or it takes other arguments.
    """
    if name not in NAMED:
        raise ValueError(f"no fault named {name!r}; there are {', '.join(NAMED)}")
    try:
        return order(NAMED[name], arguments)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None


def order(function: Callable[..., T], given: bytes) -> T:
    """What a function returns for its keywords, read from a JSON object.

    Raises:
        ValueError: they are not what its annotations say.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return function(**msgspec.json.decode(given, type=dict[str, Any]))
    keywords = msgspec.defstruct(
        function.__name__,
        [
            (name, hints[name], *(() if one.default is one.empty else (one.default,)))
            for name, one in parameters.items()
        ],
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return function(**msgspec.structs.asdict(msgspec.json.decode(given, type=keywords)))


@define
class _Scheduled:
    fault: Fault
    times: int | None
    path_contains: str | None
    probability: float


class Faults:
    """The faults to come. The first one that fits a call is taken, once per call."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._scheduled: list[_Scheduled] = []
        self._released = asyncio.Event()
        self.stalled: int = 0
        """Calls held by `Fault.stall` now."""
        self.clear()

    def __len__(self) -> int:
        return len(self._scheduled)

    def add(
        self,
        fault: Fault,
        times: int | None = 1,
        path_contains: str | None = None,
        *,
        probability: float = 1.0,
    ) -> None:
        """Schedule a fault.

        Args:
            fault: which.
            times: for how many calls; None is for all, until `clear`.
            path_contains: only calls with this in their path and query. Without it any data call
                fits, but not the token call.
            probability: of each call that fits, by the seed.

        Raises:
            ValueError: no times at all, or a probability that is none.
        """
        if times is not None and times < 1:
            raise ValueError(f"times must be at least 1, or None for all calls; not {times}")
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, not {probability}")
        self._scheduled.append(_Scheduled(fault, times, path_contains, probability))

    def clear(self) -> None:
        """Drop what is scheduled, release what is stalled and start the random ones anew."""
        self._scheduled.clear()
        self._random = Random(self._seed)
        self.injected: int = 0
        """Faults met so far, random ones included."""
        self.release()

    def release(self) -> None:
        """Let every stalled call have its answer now."""
        self._released.set()
        self._released = asyncio.Event()

    async def stall(self) -> None:
        """Wait for `release`."""
        self.stalled += 1
        try:
            await self._released.wait()
        finally:
            self.stalled -= 1

    def pick(self, path: str, *, data_call: bool, rate: float) -> Fault | None:
        """The fault that a call meets, if any: a scheduled one, or by `rate` one of `TRANSIENT`."""
        fault = next(self._due(path, data_call=data_call), None)
        if fault is None and data_call and self._random.random() < rate:
            fault = self._random.choice(TRANSIENT)
        self.injected += fault is not None
        return fault

    def _due(self, path: str, *, data_call: bool) -> Iterator[Fault]:
        for one in self._scheduled:
            fits = data_call if one.path_contains is None else one.path_contains in path
            if fits and self._random.random() < one.probability:
                if one.times is not None:
                    one.times -= 1
                if one.times == 0:
                    self._scheduled.remove(one)
                yield one.fault
