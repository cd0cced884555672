"""Pages that update live: the vendor's notifications in, server-sent events out.

For one process. With several, let the receiver publish to Redis or NATS and each process subscribe.
"""

import os
from asyncio import Event
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from capillary_targets import TargetsClient
from capillary_targets.cached import CachedClient
from capillary_targets.notifications import Notification, NotificationHandler

router = APIRouter()
open_pages: dict[int, set[Event]] = {}  # by the member that they show


def notification_handler(client: TargetsClient, members: CachedClient) -> NotificationHandler:
    """Expires what is cached of a member, and tells the pages that show it."""
    secret = os.environ.get("WEBHOOK_SECRET")
    handler = NotificationHandler(secrets=[secret] if secret else [])

    @handler.on(Notification)
    async def tell(notification: Notification) -> None:
        user_id = notification.user_id
        if user_id is None:
            return
        if user_id in open_pages and notification.rule_ids:
            await client.settle(notification, window=5)  # the push may come before its event
        members.expire(user_id)
        for page in open_pages.get(user_id, ()):
            page.set()

    return handler


@router.post("/capillary")
async def receive(request: Request) -> Response:
    handler: NotificationHandler = request.app.state.handler
    reply = await handler.handle(await request.body(), request.headers)
    return Response(status_code=reply.status)


@router.get("/users/{user_id}/changes", response_class=EventSourceResponse)
async def changes(user_id: int) -> AsyncIterator[ServerSentEvent]:
    """One event at once, so that a page that connects again catches up, and one for each change."""
    page = Event()
    open_pages.setdefault(user_id, set()).add(page)
    try:
        while True:
            yield ServerSentEvent(data={}, retry=500)
            await page.wait()
            page.clear()
    finally:  # the browser has gone, or the server ends
        open_pages[user_id].discard(page)
        if not open_pages[user_id]:
            del open_pages[user_id]
