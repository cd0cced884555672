"""Our client and three well-known extractors, each asked for all events of one user's target.

The others are set up as their users would: a REST stream with basic authentication, the records
under `data`, and the paginator of the library for offsets that count rows or pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from hashlib import md5
from typing import Any, Final, Literal

from attrs import frozen

__all__ = ["EXTRACTORS", "Ask", "Paging"]

Paging = Literal["rows", "pages"]

_SCHEMA: Final = {"type": "object", "properties": {"eventLogId": {"type": "integer"}}}
_NO_CONFIG: Final[dict[str, Any]] = {"type": "object", "properties": {}}


@frozen
class Ask:
    """Where the events are, and what the extractor is told about offsets."""

    url: str
    user: int
    rule: int
    username: str
    password: str
    paging: Paging
    page_size: int = 100

    @property
    def path(self) -> str:
        """Below the address, without a slash before it."""
        return f"v3/users/{self.user}/trackedTargetEvents/{self.rule}"

    @property
    def hashed(self) -> str:
        """The password as the API wants it."""
        return md5(self.password.encode(), usedforsecurity=False).hexdigest()


def ours(ask: Ask) -> Iterator[int | None]:
    """capillary-targets, which is told nothing about offsets."""
    from capillary_targets import BasicAuth, CapillaryError, TargetsClient

    got: list[int | None] = []

    async def walk() -> None:
        auth = BasicAuth(ask.username, ask.password)
        async with TargetsClient(ask.url, auth) as client:
            pager = client.events(ask.user, ask.rule, page_size=ask.page_size)
            async for event in pager:
                got.append(event.event_log_id)  # noqa: PERF401 - what came before an error counts

    failure: CapillaryError | None = None
    try:
        asyncio.run(walk())
    except CapillaryError as error:
        failure = error
    yield from got
    if failure is not None:
        raise failure


def dlt(ask: Ask) -> Iterator[int]:
    """The REST client of dlt."""
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.auth import HttpBasicAuth
    from dlt.sources.helpers.rest_client.paginators import OffsetPaginator, PageNumberPaginator

    paginator: Any
    if ask.paging == "rows":
        paginator = OffsetPaginator(limit=ask.page_size, total_path=None)
    else:
        paginator = PageNumberPaginator(base_page=0, page_param="offset", total_path=None)
    auth = HttpBasicAuth(ask.username, ask.hashed)
    client = RESTClient(ask.url, auth=auth, paginator=paginator, data_selector="data")
    for page in client.paginate(ask.path, params={"limit": ask.page_size}):
        yield from (row["eventLogId"] for row in page)


def singer(ask: Ask) -> Iterator[int]:
    """The Meltano SDK for Singer taps."""
    from requests.auth import HTTPBasicAuth
    from singer_sdk import RESTStream, Tap
    from singer_sdk.pagination import OffsetPaginator, PageNumberPaginator

    def not_empty(response: Any) -> bool:
        return bool(response.json()["data"])

    class Rows(OffsetPaginator):  # type: ignore[misc]
        def has_more(self, response: Any) -> bool:
            return not_empty(response)

    class Pages(PageNumberPaginator):  # type: ignore[misc]
        def has_more(self, response: Any) -> bool:
            return not_empty(response)

    class Events(RESTStream):  # type: ignore[misc]
        name = "events"
        url_base = ask.url
        path = f"/{ask.path}"
        records_jsonpath = "$.data[*]"
        schema = _SCHEMA

        @property
        def authenticator(self) -> Any:
            return HTTPBasicAuth(ask.username, ask.hashed)

        def get_new_paginator(self) -> Any:
            if ask.paging == "rows":
                return Rows(start_value=0, page_size=ask.page_size)
            return Pages(start_value=0)

        def get_url_params(self, context: Any, next_page_token: Any) -> dict[str, Any]:
            del context
            return {"limit": ask.page_size, "offset": next_page_token or 0}

        def backoff_max_tries(self) -> int:
            return 1

    class EventsTap(Tap):  # type: ignore[misc]
        name = "tap-events"
        config_jsonschema = _NO_CONFIG

        def discover_streams(self) -> list[Any]:
            return [Events(self)]

    stream = EventsTap(config={}).discover_streams()[0]
    for row in stream.get_records(None):
        yield row["eventLogId"]


def airbyte(ask: Ask) -> Iterator[int]:
    """Airbyte's low-code CDK: a manifest, as its connector builder writes it."""
    from airbyte_cdk.models import (
        AirbyteStream,
        ConfiguredAirbyteCatalog,
        ConfiguredAirbyteStream,
        DestinationSyncMode,
        SyncMode,
        Type,
    )
    from airbyte_cdk.sources.declarative.concurrent_declarative_source import (
        ConcurrentDeclarativeSource,
    )

    kind = "OffsetIncrement" if ask.paging == "rows" else "PageIncrement"
    option = {"type": "RequestOption", "inject_into": "request_parameter"}
    stream = {
        "type": "DeclarativeStream",
        "name": "events",
        "primary_key": [],
        "schema_loader": {"type": "InlineSchemaLoader", "schema": _SCHEMA},
        "retriever": {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": ask.url,
                "path": ask.path,
                "http_method": "GET",
                "authenticator": {
                    "type": "BasicHttpAuthenticator",
                    "username": ask.username,
                    "password": ask.hashed,
                },
            },
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["data"]},
            },
            "paginator": {
                "type": "DefaultPaginator",
                "page_token_option": {**option, "field_name": "offset"},
                "page_size_option": {**option, "field_name": "limit"},
                "pagination_strategy": {
                    "type": kind,
                    "page_size": ask.page_size,
                    "inject_on_first_request": True,
                },
            },
        },
    }
    manifest = {
        "version": "7.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["events"]},
        "streams": [stream],
    }
    described = AirbyteStream(
        name="events", json_schema=_SCHEMA, supported_sync_modes=[SyncMode.full_refresh]
    )
    catalog = ConfiguredAirbyteCatalog(
        streams=[
            ConfiguredAirbyteStream(
                stream=described,
                sync_mode=SyncMode.full_refresh,
                destination_sync_mode=DestinationSyncMode.overwrite,
            )
        ]
    )
    source = ConcurrentDeclarativeSource(
        catalog=catalog, config={}, state=None, source_config=manifest
    )
    for message in source.read(logging.getLogger("airbyte"), {}, catalog, None):
        if message.type == Type.RECORD and message.record is not None:
            yield message.record.data["eventLogId"]


EXTRACTORS: dict[str, Callable[[Ask], Iterator[int | None]]] = {
    "capillary-targets": ours,
    "dlt": dlt,
    "singer-sdk": singer,
    "airbyte-cdk": airbyte,
}
"""By the name of their distribution."""
