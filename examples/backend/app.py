"""A web backend with one client for the whole process: FastAPI. README.md says how to start it."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, WithJsonSchema

from capillary_targets import CapillaryError, TargetEvent, TargetsClient, UsageError, from_env
from capillary_targets.cached import CachedClient
from capillary_targets.models import JSON

from . import live
from .errors import Problem, problem

log = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with TargetsClient(**from_env(), timeout=10) as client:
        app.state.client = client
        app.state.members = client.cached(ttl=30, stale_if_error=3600)
        app.state.handler = live.notification_handler(client, app.state.members)
        yield


errors: dict[int | str, dict[str, Any]] = {"default": {"model": Problem}}
app = FastAPI(title="Loyalty targets", lifespan=lifespan, responses=errors)
app.include_router(live.router)


def the_client(request: Request) -> TargetsClient:
    client: TargetsClient = request.app.state.client
    return client


def the_members(request: Request) -> CachedClient:
    members: CachedClient = request.app.state.members
    return members


Client = Annotated[TargetsClient, Depends(the_client)]
Members = Annotated[CachedClient, Depends(the_members)]

Amount = Annotated[Decimal, WithJsonSchema({"type": "number"})]


class Exact(Response):
    """JSON whose amounts are numbers with the digits that the service sent, never floats."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return JSON.encode(content)


class Progress(BaseModel):
    """How far a member is with one target, by the service's own figure."""

    model_config = ConfigDict(from_attributes=True)

    target_rule_id: int
    target_name: str | None
    target_type: str | None
    period: str | None
    period_start: date | None
    period_end: date | None
    target_value: Amount | None
    achieved_value: Amount | None
    remaining: Amount | None
    is_achieved: bool | None


class MemberProgress(BaseModel):
    """A member's targets. `stale`: the service fails, and this is what was last known."""

    user_id: int
    targets: list[Progress]
    fetched_at: datetime
    stale: bool


@app.get("/users/{user_id}/progress", response_model=MemberProgress)
async def progress(user_id: int, members: Members) -> Response:
    """Each target of a member in its running period."""
    found = await members.progress(user_id)
    targets = [Progress.model_validate(target) for target in found.value]
    answer = MemberProgress(
        user_id=user_id, targets=targets, fetched_at=found.fetched_at, stale=found.stale
    )
    return Exact(answer.model_dump())


async def walk(user_id: int, client: TargetsClient) -> AsyncGenerator[TargetEvent, None]:
    for target in await client.active_targets(user_id):
        async with aclosing(aiter(client.events(user_id, target.id))) as events:
            async for event in events:
                yield event


async def walked(user_id: int, client: Client) -> AsyncIterator[AsyncIterator[TargetEvent]]:
    """A member's events. The walk ends with the response, also when the browser goes away."""
    async with aclosing(walk(user_id, client)) as events:
        yield events


Events = Annotated[AsyncIterator[TargetEvent], Depends(walked)]


@app.get("/users/{user_id}/events")
async def events(events: Events) -> Response:
    """Every event of a member as it arrives, as server-sent events; `end` is the last one."""
    first = await anext(events, None)  # an error of the first page still gets its HTTP status
    return StreamingResponse(stream(first, events), media_type="text/event-stream")


async def stream(
    first: TargetEvent | None, others: AsyncIterator[TargetEvent]
) -> AsyncIterator[str]:
    try:
        if first is not None:
            yield f"data: {first.to_json()}\n\n"
        async for event in others:
            yield f"data: {event.to_json()}\n\n"
        yield "event: end\ndata: {}\n\n"
    except CapillaryError as error:  # too late for an HTTP status
        log.warning("%s", error)
        yield f"event: failed\ndata: {JSON.encode(problem(error)[0]).decode()}\n\n"


@app.get("/", include_in_schema=False)
@app.get("/members/{member}", include_in_schema=False)
async def page() -> Response:
    """The page reads the member from its own address."""
    return FileResponse(Path(__file__).with_name("page.html"))


@app.exception_handler(CapillaryError)
async def failed(request: Request, error: CapillaryError) -> Response:
    body, status, headers = problem(error)
    if status >= 500:
        log.warning("%s: %s", request.url.path, error)
    return Exact(body, status, headers)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> Response:
    wrong = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
    return await failed(request, UsageError(wrong))
