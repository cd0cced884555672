"""`python -m benchmarks.pagination_dialects`: what each server does to a walk, ours and others'.

The same 1,000 events in the sandbox, once for each dialect and each way of moving, and four
extractors, the others set up as their users would: a REST stream with basic authentication, the
records under `data`, and the paginator of the library for offsets that count rows or pages. What
they lose, what they double, how often they call, and what they raise. "Lost" are events that
existed throughout the walk and never came.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from attrs import frozen

from capillary_targets import BasicAuth, CapillaryError, TargetsClient
from capillary_targets.sandbox import Sandbox, World

from .tables import between_marks, table

ROWS: Final = 1000
PAGE_SIZE: Final = 100
CUT: Final = 120
"""Calls after which a walk is taken to be without end."""
ROOT: Final = Path(__file__).parent.parent
IN_README: Final = {
    "as it should be",
    "pages capped at 50 without a word",
    "20 events deleted at the head between calls",
    "120 events arrive between calls",
    "one page comes back empty",
    "`offset` counts pages, not rows",
    "310149 behind the end",
}
"""What the README shows of the table; docs/pagination.md has all of it."""

Paging = Literal["rows", "pages"]


def situations(paging: Paging) -> dict[str, dict[str, Any]]:
    """The lines of the table, as settings of a sandbox whose offsets count rows or pages."""
    mode, other = ("row", "page") if paging == "rows" else ("page", "row")
    lines: dict[str, dict[str, Any]] = {
        "as it should be": {},
        "pages capped at 50, and it says so": {"max_limit": 50},
        "pages capped at 50 without a word": {"limit_mode": "capped-silent", "max_limit": 50},
        "5 late events in the middle between calls": {"insert_per_request": 5},
        "5 events deleted at the head between calls": {"delete_head_per_request": 5},
        "20 events deleted at the head between calls": {"delete_head_per_request": 20},
        "5 deleted and 5 arrive between calls": {
            "delete_head_per_request": 5,
            "append_per_request": 5,
        },
        "5 events arrive between calls": {"append_per_request": 5},
        "120 events arrive between calls": {"append_per_request": 120},
        "one page comes back empty": {"empty_page": 3},
        "one page comes back 3 short": {"short_page": 3},
        "an event on two pages, its neighbour on none": {"repeat_rows": "instead"},
        f"`offset` counts {other}s, not {paging}": {"offset_mode": other},
        "`offset` ignored": {"offset_mode": "ignored"},
        "`offset` clamped to the last page": {"offset_mode": "clamped"},
        "`total` counts pages": {"total_mode": "pages"},
        "`total` absent": {"total_mode": "absent"},
        "`total` always 0": {"total_mode": "zero"},
        "`total` says half": {"total_mode": "wrong"},
        "310149 behind the end": {"past_end": "310149"},
        "error 11003 behind the end": {"past_end": "error"},
        "404 behind the end": {"past_end": "404"},
        "a server that never ends": {"past_end": "endless"},
    }
    return {what: {"offset_mode": mode, **flags} for what, flags in lines.items()}


@frozen
class Ask:
    """Where the events are, and what the extractor is told about offsets."""

    url: str
    user: int
    rule: int
    username: str
    password: str
    paging: Paging

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
    got: list[int | None] = []

    async def walk() -> CapillaryError | None:
        async with TargetsClient(ask.url, BasicAuth(ask.username, ask.password)) as client:
            try:
                async for event in client.events(ask.user, ask.rule, page_size=PAGE_SIZE):
                    got.append(event.event_log_id)  # noqa: PERF401 - what came before an error counts
            except CapillaryError as error:
                return error
        return None

    failure = asyncio.run(walk())
    yield from got
    if failure is not None:
        raise failure


def dlt(ask: Ask) -> Iterator[int]:
    """The REST client of dlt."""
    from dlt.sources.helpers.rest_client import RESTClient, auth, paginators

    paginator: Any
    if ask.paging == "rows":
        paginator = paginators.OffsetPaginator(limit=PAGE_SIZE, total_path=None)
    else:
        paginator = paginators.PageNumberPaginator(0, page_param="offset", total_path=None)
    login = auth.HttpBasicAuth(ask.username, ask.hashed)
    client = RESTClient(ask.url, auth=login, paginator=paginator, data_selector="data")
    for page in client.paginate(ask.path, params={"limit": PAGE_SIZE}):
        yield from (row["eventLogId"] for row in page)


def singer(ask: Ask) -> Iterator[int]:
    """The Meltano SDK for Singer taps."""
    from requests.auth import HTTPBasicAuth
    from singer_sdk import RESTStream, Tap
    from singer_sdk.pagination import OffsetPaginator, PageNumberPaginator

    by_rows = ask.paging == "rows"

    class UntilEmpty(OffsetPaginator if by_rows else PageNumberPaginator):  # type: ignore[misc]
        def has_more(self, response: Any) -> bool:
            return bool(response.json()["data"])

    class Events(RESTStream):  # type: ignore[misc]
        name = "events"
        url_base = ask.url
        path = f"/{ask.path}"
        records_jsonpath = "$.data[*]"
        schema: Final = {"type": "object", "properties": {"eventLogId": {"type": "integer"}}}
        authenticator = HTTPBasicAuth(ask.username, ask.hashed)

        def get_new_paginator(self) -> Any:
            return UntilEmpty(0, PAGE_SIZE) if by_rows else UntilEmpty(0)

        def get_url_params(self, context: Any, next_page_token: Any) -> dict[str, Any]:
            del context
            return {"limit": PAGE_SIZE, "offset": next_page_token or 0}

        def backoff_max_tries(self) -> int:
            return 1

    class EventsTap(Tap):  # type: ignore[misc]
        name = "tap-events"
        config_jsonschema: Final = {"type": "object", "properties": {}}

        def discover_streams(self) -> list[Any]:
            return [Events(self)]

    stream = EventsTap(config={}).discover_streams()[0]
    for row in stream.get_records(None):
        yield row["eventLogId"]


MANIFEST = """
version: 7.0.0
type: DeclarativeSource
check: {{type: CheckStream, stream_names: [events]}}
streams:
- type: DeclarativeStream
  name: events
  primary_key: []
  schema_loader: {{type: InlineSchemaLoader, schema: {{type: object, properties: {{}}}}}}
  retriever:
    type: SimpleRetriever
    requester:
      type: HttpRequester
      url_base: {ask.url}
      path: {ask.path}
      http_method: GET
      authenticator:
        {{type: BasicHttpAuthenticator, username: {ask.username}, password: {ask.hashed}}}
    record_selector:
      {{type: RecordSelector, extractor: {{type: DpathExtractor, field_path: [data]}}}}
    paginator:
      type: DefaultPaginator
      page_token_option: {{type: RequestOption, inject_into: request_parameter, field_name: offset}}
      page_size_option: {{type: RequestOption, inject_into: request_parameter, field_name: limit}}
      pagination_strategy: {{type: {strategy}, page_size: 100, inject_on_first_request: true}}
"""


def airbyte(ask: Ask) -> Iterator[int]:
    """Airbyte's low-code CDK: a manifest, as its connector builder writes it."""
    import yaml  # type: ignore[import-untyped, unused-ignore]
    from airbyte_cdk import models
    from airbyte_cdk.sources.declarative.concurrent_declarative_source import (
        ConcurrentDeclarativeSource,
    )

    strategy = "OffsetIncrement" if ask.paging == "rows" else "PageIncrement"
    manifest = yaml.safe_load(MANIFEST.format(ask=ask, strategy=strategy))
    full, overwrite = models.SyncMode.full_refresh, models.DestinationSyncMode.overwrite
    stream = models.AirbyteStream(name="events", json_schema={}, supported_sync_modes=[full])
    catalog = models.ConfiguredAirbyteCatalog(
        [models.ConfiguredAirbyteStream(stream, sync_mode=full, destination_sync_mode=overwrite)]
    )
    source = ConcurrentDeclarativeSource(catalog, {}, None, source_config=manifest)
    for message in source.read(logging.getLogger("airbyte"), {}, catalog, None):
        if message.record is not None:
            yield message.record.data["eventLogId"]


EXTRACTORS: dict[str, Callable[[Ask], Iterator[int | None]]] = {
    "capillary-targets": ours,
    "dlt": dlt,
    "singer-sdk": singer,
    "airbyte-cdk": airbyte,
}
"""By the name of their distribution."""


@frozen
class Outcome:
    """One cell. `error` is the exception's class; `endless` that the walk had to be cut."""

    lost: int
    doubled: int
    calls: int
    error: str | None
    endless: bool

    def __str__(self) -> str:
        if self.endless:
            return "**never ends**"
        harm = {"lost": self.lost, "doubled": self.doubled}
        told = ", ".join(f"{what} {count}" for what, count in harm.items() if count)
        told = f"`{self.error}`" if self.error else f"**{told}**" if told else "exact"
        return f"{told}, {self.calls} call{'s' * (self.calls != 1)}"


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Where the sandbox runs: the extractors block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def measure(
    loop: asyncio.AbstractEventLoop, name: str, flags: dict[str, Any], paging: Paging
) -> Outcome:
    """Walk once."""
    sandbox = Sandbox(users=1, events=ROWS, exact_events=True, **flags)
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0].id

    def cut(_: World, number: int) -> None:
        if number >= CUT:
            sandbox.settings.limit_mode, sandbox.settings.max_limit = "refused", 1

    def ids() -> set[int | None]:
        return {row.event_log_id for row in sandbox.world.events(user, rule)}

    sandbox.settings.between_requests = cut
    before, counted, failure = ids(), Counter[int | None](), None
    url = asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
    try:
        for event in EXTRACTORS[name](Ask(url, user, rule, *sandbox.credentials, paging)):
            counted[event] += 1
    except Exception as error:  # noqa: BLE001 - whatever an extractor raises is its answer
        failure = type(error).__name__
    calls = sandbox.counts["trackedTargetEvents"]
    asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    lasting = before & ids()
    doubled = sum(counted[event] - 1 for event in lasting if counted[event] > 1)
    return Outcome(len(lasting - counted.keys()), doubled, calls, failure, calls > CUT)


def main() -> None:
    """Measure, print, and on request write the tables into the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into README.md and docs/")
    write = parser.parse_args().write
    logging.disable(logging.CRITICAL)
    names = [name for name in EXTRACTORS if find_spec(name.replace("-", "_"))]
    if write and len(names) < len(EXTRACTORS):
        parser.error("--write would drop a column: pip install -e . --group bench-extractors")
    others = [f"{name} {version(name)}" for name in names[1:]]
    head = (f"{ROWS:,} events, {PAGE_SIZE} to a page", "**capillary-targets**", *others)
    with loop_in_a_thread() as loop:
        for paging in ("rows", "pages"):
            rows = [
                (what, *(measure(loop, name, flags, paging) for name in names))
                for what, flags in situations(paging).items()
            ]
            print(f"\nOffsets that count {paging}\n\n{table(head, *rows)}", flush=True)
            shown = {"docs/pagination.md": (f"pagination dialects {paging}", rows)}
            if paging == "rows":
                few = [row for row in rows if row[0] in IN_README]
                shown["README.md"] = ("pagination dialects", few)
            for file, (name, some) in shown.items() if write else ():
                text = between_marks((ROOT / file).read_text(), name, table(head, *some))
                (ROOT / file).write_text(text)


if __name__ == "__main__":
    main()
