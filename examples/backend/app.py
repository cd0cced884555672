"""A web backend with one client for the whole process: FastAPI.

    CAPILLARY_BASE_URL=eu CAPILLARY_USERNAME=till.id CAPILLARY_PASSWORD=... \
        uvicorn --timeout-graceful-shutdown 3 examples.backend.app:app

Then open /members/USER_ID. The vendor's notifications go to /capillary, with WEBHOOK_SECRET as the
header X-Webhook-Secret. An open page is a request that does not end: hence the limit of shutdown.
"""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from capillary_targets import BasicAuth, CapillaryError, Target, TargetsClient

from . import live
from .errors import described, status_of


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    auth = BasicAuth(os.environ["CAPILLARY_USERNAME"], os.environ["CAPILLARY_PASSWORD"])
    async with TargetsClient(os.environ["CAPILLARY_BASE_URL"], auth, timeout=10) as client:
        app.state.client = client
        app.state.handler = live.notification_handler(client)
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(live.router)


def the_client(request: Request) -> TargetsClient:
    client: TargetsClient = request.app.state.client
    return client


Client = Annotated[TargetsClient, Depends(the_client)]


@app.get("/users/{user_id}/progress")
async def progress(user_id: int, client: Client) -> list[dict[str, object]]:
    """The service's own figures for each target. Amounts are text, because JSON has no decimals."""
    groups = await client.target_groups(user_id)
    return [
        {
            "id": target.target_rule_id,
            "name": target.target_name,
            "achieved": amount(target.target_achieved_value),
            "target": amount(target.target_value),
        }
        for target in groups.targets()
    ]


def amount(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


@app.get("/users/{user_id}/events")
async def events(user_id: int, client: Client) -> Response:
    """Every event as it arrives, as server-sent events; `end` is the last one."""
    targets = await client.active_targets(user_id)  # an error here still gets its HTTP status
    return StreamingResponse(stream(client, user_id, targets), media_type="text/event-stream")


async def stream(
    client: TargetsClient, user_id: int, targets: list[Target]
) -> AsyncIterator[bytes]:
    # When the browser disconnects, the server cancels this generator. `aclosing` then ends the walk
    # at once and cancels the pages being fetched ahead.
    try:
        for target in targets:
            async with aclosing(aiter(client.events(user_id, target.id))) as found:
                async for event in found:
                    yield f"data: {event.to_json()}\n\n".encode()
        yield b"event: end\ndata: {}\n\n"
    except CapillaryError as error:  # too late for an HTTP status
        yield b"event: failed\ndata: " + msgspec.json.encode(described(error)) + b"\n\n"


@app.get("/members/{user_id}")
async def page(user_id: int) -> Response:
    del user_id  # the page reads it from its own address
    return FileResponse(Path(__file__).with_name("page.html"))


@app.exception_handler(CapillaryError)
async def failed(request: Request, error: Exception) -> Response:
    del request
    status, headers = status_of(error)
    return JSONResponse(described(error), status, headers)
