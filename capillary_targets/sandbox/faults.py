"""Trouble to order: what may go wrong between asking and being answered, and when it should."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, field, frozen, validators

from . import render
from .seeded import mix

if TYPE_CHECKING:
    from typing import Self

    from .settings import RetryHint

Kind = Literal[
    "answer", "reset", "truncated", "malformed", "slow_body", "stall", "huge", "gzip_bomb"
]

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


@frozen(slots=True, kw_only=True)
class Fault:
    """One thing going wrong. Make one with a named constructor, such as `Fault.http(503)`."""

    kind: Kind = "answer"
    status: int = field(default=200, validator=validators.instance_of(int))
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(
        factory=dict, validator=validators.deep_mapping(value_validator=validators.instance_of(str))
    )
    size: int = 0
    """Bytes, once unpacked."""
    interval: float = field(default=0.0, validator=validators.ge(0.0))
    """Seconds between two bytes."""
    gate: asyncio.Event | None = None
    code: int | None = None
    """The API's own code, for the journal."""

    @classmethod
    def too_many_requests(
        cls, retry_after: float | None = None, hint: RetryHint = "seconds"
    ) -> Self:
        """HTTP 429; its Retry-After in seconds (rounded up) or as an HTTP date, or without one."""
        headers = {}
        if retry_after is not None and hint == "seconds":
            headers["Retry-After"] = str(math.ceil(retry_after))
        elif retry_after is not None and hint == "date":
            # Dates have whole seconds: rounded up, so that nobody comes too early.
            moment = datetime.now(UTC) + timedelta(seconds=math.ceil(retry_after) + 1)
            headers["Retry-After"] = format_datetime(moment, usegmt=True)
        return cls(status=429, body=b'{"message": "Too many requests"}', headers=headers)

    @classmethod
    def http(cls, status: int, body: str = "", *, retry_after: int | str | None = None) -> Self:
        """Any HTTP status with a plain text, or empty, body."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls(status=status, body=body.encode(), content_type="text/plain", headers=headers)

    @classmethod
    def gateway_page(cls, status: int = 502) -> Self:
        """The HTML page of a gateway in front."""
        return cls(
            status=status, body=_HTML.format(status=status).encode(), content_type="text/html"
        )

    @classmethod
    def not_found(cls) -> Self:
        """HTTP 404 without an envelope: wrong host, or the call is gone."""
        return cls(status=404, body=b"404 page not found\n", content_type="text/plain")

    @classmethod
    def api_code(cls, code: int, message: str = "", *, status: int = 400) -> Self:
        """A v3 error; 461 and 521 bring their documented text along (contract §5.2)."""
        text = message or _RETRYABLE_CODES.get(code, "Made up by the sandbox")
        return cls(status=status, body=render.failure(code, text).encode(), code=code)

    @classmethod
    def authorisation(cls, code: int = 4001) -> Self:
        """4000 (denied) or 4001 (unavailable), in the text shape of contract §1.4."""
        status, message = _AUTHORISATION[code]
        text = f"HttpStatusCode={status} errorMessage={message} errorCode={code}"
        return cls(status=status, body=text.encode(), content_type="text/plain", code=code)

    @classmethod
    def redirect(cls, location: str = "https://login.example.com/") -> Self:
        """A 302 to another origin."""
        return cls(status=302, headers={"Location": location})

    @classmethod
    def empty(cls, status: int = 200) -> Self:
        """No body at all."""
        return cls(status=status)

    @classmethod
    def reset(cls) -> Self:
        """The connection is reset before an answer."""
        return cls(kind="reset")

    @classmethod
    def truncated(cls) -> Self:
        """The connection closes in the middle of the right answer's body."""
        return cls(kind="truncated")

    @classmethod
    def malformed(cls) -> Self:
        """The right answer, broken off and spoiled so that it is no JSON."""
        return cls(kind="malformed")

    @classmethod
    def slow_body(cls, interval: float = 0.01, gate: asyncio.Event | None = None) -> Self:
        """The right answer a byte at a time; with a gate, one byte and no more until it opens."""
        return cls(kind="slow_body", interval=interval, gate=gate)

    @classmethod
    def stall(cls) -> Self:
        """The right answer, but not before `faults.release()`."""
        return cls(kind="stall")

    @classmethod
    def huge(cls, megabytes: float = 256) -> Self:
        """Valid JSON of that size, sent as fast as it is taken."""
        return cls(kind="huge", size=int(megabytes * (1 << 20)))

    @classmethod
    def gzip_bomb(cls, megabytes: float = 256) -> Self:
        """The same, compressed a thousandfold."""
        return cls(kind="gzip_bomb", size=int(megabytes * (1 << 20)))


NAMED: dict[str, Callable[..., Fault]] = {
    "too_many_requests": Fault.too_many_requests,
    "http": Fault.http,
    "gateway_page": Fault.gateway_page,
    "not_found": Fault.not_found,
    "api_code": Fault.api_code,
    "authorisation": Fault.authorisation,
    "redirect": Fault.redirect,
    "empty": Fault.empty,
    "reset": Fault.reset,
    "truncated": Fault.truncated,
    "malformed": Fault.malformed,
    "slow_body": Fault.slow_body,
    "stall": Fault.stall,
    "huge": Fault.huge,
    "gzip_bomb": Fault.gzip_bomb,
}
"""The constructors, for those who can only send JSON."""

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


@define
class _Order:
    fault: Fault
    times: int | None
    path_contains: str | None


class Faults:
    """The faults to come. The first order that fits a call is taken, once per call.

    Args:
        seed: for the random ones.

    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._orders: deque[_Order] = deque()
        self._drawn = 0
        self._released = asyncio.Event()
        self.stalled = 0
        """Calls that are kept waiting by `Fault.stall`."""
        self.injected = 0
        """Faults met so far, random ones included."""

    def __len__(self) -> int:
        return len(self._orders)

    def add(self, fault: Fault, times: int | None = 1, path_contains: str | None = None) -> None:
        """Order a fault.

        Args:
            fault: which.
            times: for how many calls; None is for all, until `clear`.
            path_contains: only calls with this in their path and query. Without it any data call
                fits, but not the token call.

        """
        self._orders.append(_Order(fault, times, path_contains))

    def clear(self) -> None:
        """Drop all orders, release what is stalled and start the random ones anew."""
        self._orders.clear()
        self._drawn = self.injected = 0
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

    def draw(self, path: str, *, data_call: bool, rate: float) -> Fault | None:
        """The fault that this call meets, if any."""
        fault = self._ordered(path, data_call=data_call)
        if fault is None and rate and data_call:
            lot = mix(self._seed, self._drawn)
            self._drawn += 1
            if lot % 1_000_000 < rate * 1_000_000:
                fault = TRANSIENT[(lot >> 32) % len(TRANSIENT)]
        self.injected += fault is not None
        return fault

    def _ordered(self, path: str, *, data_call: bool) -> Fault | None:
        for order in self._orders:
            if data_call if order.path_contains is None else order.path_contains in path:
                if order.times is not None:
                    order.times -= 1
                    if order.times <= 0:
                        self._orders.remove(order)
                return order.fault
        return None


def named(name: str, arguments: Mapping[str, Any]) -> Fault:
    """A fault by the name of its constructor; ValueError if there is none, or it wants others."""
    if name not in NAMED:
        raise ValueError(f"no fault named {name!r}; there are {', '.join(sorted(NAMED))}")
    try:
        return NAMED[name](**arguments)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from None
