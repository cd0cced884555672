"""The same sweep with the libraries that people reach for, each used the way its manual says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from attrs import define, frozen

from .contenders import HEADERS, Result, walk
from .workload import Work

__all__ = ["aiohttp_json_cattrs", "aiohttp_orjson_cattrs", "dlt_rest_client", "httpx_pydantic"]


@frozen
class Event:
    event_log_id: int
    event_name: str
    customer_id: int
    event_display_name: str | None
    unique_id: str
    event_date: datetime
    event_processed_date: datetime
    period_id: int
    target_group_id: int
    target_rule_id: int
    target_value: Decimal


@define
class PlainEvent:
    eventLogId: int  # noqa: N815 - as it comes: the field is called what the API calls it
    eventName: str  # noqa: N815
    customerId: int  # noqa: N815
    eventDisplayName: str | None  # noqa: N815
    uniqueId: str  # noqa: N815
    eventDate: datetime  # noqa: N815
    eventProcessedDate: datetime  # noqa: N815
    periodId: int  # noqa: N815
    targetGroupId: int  # noqa: N815
    targetRuleId: int  # noqa: N815
    targetValue: Decimal  # noqa: N815


@define
class Target:
    id: int


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


async def aiohttp_orjson_cattrs(base: str, work: Work) -> Result:
    """With aiohttp, orjson, and a tuned cattrs converter: no detailed validation."""
    import aiohttp
    import attrs
    import orjson
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn, override

    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(str(value)))
    renamed: Any = {f.name: override(rename=_camel(f.name)) for f in attrs.fields(Event)}
    event = make_dict_structure_fn(Event, converter, **renamed)

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> Any:
            async with session.get(base + path) as response:
                return orjson.loads(await response.read())

        def rows_of(page: Any) -> tuple[int, Decimal, int]:
            rows = [event(row, Event) for row in page["data"]]
            value = sum((row.target_value for row in rows), Decimal())
            return len(rows), value, page["pagination"]["total"]

        return await walk(work, get, lambda answer: [row["id"] for row in answer["data"]], rows_of)


async def aiohttp_json_cattrs(base: str, work: Work) -> Result:
    """With aiohttp's `.json()` and a cattrs converter as it comes, but for two hooks."""
    import json

    import aiohttp
    from cattrs import Converter

    converter = Converter()
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))

    def loads(text: str) -> Any:
        return json.loads(text, parse_float=Decimal)

    connector = aiohttp.TCPConnector(limit=work.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def get(path: str) -> Any:
            async with session.get(base + path) as response:
                return await response.json(loads=loads)

        def rows_of(page: Any) -> tuple[int, Decimal, int]:
            rows = converter.structure(page["data"], list[PlainEvent])
            value = sum((row.targetValue for row in rows), Decimal())
            return len(rows), value, page["pagination"]["total"]

        return await walk(work, get, lambda answer: [row["id"] for row in answer["data"]], rows_of)


async def httpx_pydantic(base: str, work: Work) -> Result:
    """With httpx and pydantic v2: bytes validated straight into models."""
    import httpx
    from pydantic import BaseModel, ConfigDict
    from pydantic.alias_generators import to_camel

    class Model(BaseModel):
        model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    class Row(Model):
        event_log_id: int
        event_name: str
        customer_id: int
        event_display_name: str | None
        unique_id: str
        event_date: datetime
        event_processed_date: datetime
        period_id: int
        target_group_id: int
        target_rule_id: int
        target_value: Decimal

    class Numbers(Model):
        limit: int
        offset: int
        total: int

    class Page(Model):
        data: list[Row]
        pagination: Numbers

    class Enrolled(Model):
        id: int

    class Targets(Model):
        data: list[Enrolled]

    for model in (Row, Numbers, Page, Enrolled, Targets):
        model.model_rebuild(_types_namespace={**globals(), **locals()})
    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    async with httpx.AsyncClient(headers=HEADERS, limits=limits, timeout=30) as client:

        async def get(path: str) -> bytes:
            return (await client.get(base + path)).content

        def rows_of(body: bytes) -> tuple[int, Decimal, int]:
            page = Page.model_validate_json(body)
            value = sum((row.target_value for row in page.data), Decimal())
            return len(page.data), value, page.pagination.total

        def targets_of(body: bytes) -> list[int]:
            return [row.id for row in Targets.model_validate_json(body).data]

        return await walk(work, get, targets_of, rows_of)


async def dlt_rest_client(base: str, work: Work) -> Result:
    """With dlt's REST client, extract only: pages of plain rows, one request after the other."""
    return await asyncio.to_thread(_dlt, base, work)


def _dlt(base: str, work: Work) -> Result:
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator, SinglePagePaginator

    client = RESTClient(base, headers=HEADERS, data_selector="data")
    events = 0
    total = 0.0

    def pages(path: str) -> Iterator[list[Any]]:
        # How many pages there are is told here; by itself it would ask for an empty one more.
        paginator = PageNumberPaginator(
            base_page=0, page_param="offset", total_path=None, maximum_page=work.pages
        )
        return client.paginate(path, params={"limit": work.page_size}, paginator=paginator)

    for user in range(1, work.users + 1):
        enrolled = client.paginate(
            f"/v3/users/{user}/enrolledTargets", paginator=SinglePagePaginator()
        )
        for target in [target["id"] for page in enrolled for target in page]:
            for page in pages(f"/v3/users/{user}/trackedTargetEvents/{target}"):
                events += len(page)
                total += sum([row["targetValue"] for row in page])
    return lambda: (events, total)
