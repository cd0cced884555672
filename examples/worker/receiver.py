"""The receiver: the vendor's notification in, 200 once the broker has it on disk.

    WEBHOOK_SECRET=s3cret python -m examples.worker.receiver

It answers 429 while the broker is away: the vendor repeats that for days. Never 400: that is final.
"""

import hmac
import os
from collections.abc import AsyncIterator
from hashlib import blake2b
from urllib.parse import quote

import msgspec
import nats
from aiohttp import web
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from capillary_targets.notifications import BadNotification, parse

WINDOW = 24 * 3600  # seconds in which the broker drops a repeated id
SECRET = os.environ.get("WEBHOOK_SECRET", "")
LARGEST = 256 * 1024  # bytes; NATS takes 1 MiB, and a notification has some thousand
JETSTREAM = web.AppKey("jetstream", JetStreamContext)


async def receive(request: web.Request) -> web.Response:
    given = request.headers.get("X-Webhook-Secret", "")
    if SECRET and not hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), SECRET.encode()
    ):
        return web.Response(status=401)
    body = await request.read()
    try:
        # What the broker cannot take is cut; it is no notification then, and kept as such.
        subject, key = "members.notified", quote(parse(body[:LARGEST]).event_id)
    except BadNotification as error:
        # Kept for a human: no repetition would help.
        subject, key = "members.dead", f"dead.{blake2b(body, digest_size=16).hexdigest()}"
        reason = {"error": type(error).__name__, "reason": str(error)}
        body = msgspec.json.encode(reason | {"message": body[:LARGEST].decode("utf-8", "replace")})
    try:
        await request.app[JETSTREAM].publish(subject, body, headers={"Nats-Msg-Id": key})
    except (nats.errors.Error, OSError, TimeoutError):
        return web.Response(status=429)
    return web.Response()


async def connected(app: web.Application) -> AsyncIterator[None]:
    url = os.environ.get("NATS_URL", "nats://localhost:4222")
    connection = await nats.connect(url, max_reconnect_attempts=-1)
    app[JETSTREAM] = connection.jetstream()
    try:
        await app[JETSTREAM].stream_info("MEMBERS")
    except NotFoundError:
        config = StreamConfig(name="MEMBERS", subjects=["members.*"], duplicate_window=WINDOW)
        await app[JETSTREAM].add_stream(config)
    yield
    await connection.close()


def application() -> web.Application:
    app = web.Application(client_max_size=64 * LARGEST)
    app.router.add_post("/capillary", receive)
    app.cleanup_ctx.append(connected)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(os.environ.get("DOOR_PORT", "8000")))
