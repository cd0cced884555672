"""Whatever comes over the socket, not even HTTP: the caller sees a CapillaryError or an answer."""

import asyncio
import gzip
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from capillary_targets import BasicAuth, CapillaryError, RetryPolicy, TargetsClient

from .conftest import examples

BODY = b'{"data": [], "errors": null}'
RIGHT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
ZIPPED = (
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%s\r\n0\r\n\r\n"
)
SMALL = gzip.compress(BODY, mtime=0)
ONCE = RetryPolicy(attempts=1)


async def answered(raw: bytes) -> None:
    """One call to a server that says just these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with TargetsClient(url, BasicAuth("t", "p"), retry=ONCE, timeout=20) as client:
            with suppress(CapillaryError):
                assert isinstance(await client.active_targets(1), list)


@examples(60)
@given(st.binary(max_size=200))
@example(b"")
@example(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 3\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe=\x00\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n{}")
@example(b"HTTP/9.9 abc\r\n\r\n")
@example(b"HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n")
@example(b"HTTP/1.1 429 Slow\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n")
@example(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
@example(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
async def test_any_bytes_for_an_answer(raw: bytes) -> None:
    await answered(raw)


@examples(60)
@given(
    st.sampled_from(
        [
            RIGHT % (len(BODY), BODY),
            ZIPPED % (len(SMALL), SMALL),
        ]
    ),
    st.integers(0, 300),
    st.integers(0, 8),
    st.binary(max_size=4),
)
async def test_a_mutated_answer(raw: bytes, place: int, length: int, put: bytes) -> None:
    at = place % (len(raw) + 1)
    await answered(raw[:at] + put + raw[at + length :])
