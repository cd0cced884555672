"""A nightly pipeline into DuckDB: our sweep as a dlt source, with incremental state.

    CAPILLARY_BASE_URL=eu CAPILLARY_USERNAME=till.id CAPILLARY_PASSWORD=... \
        python -m examples.dlt_pipeline users.txt

Two ledgers, one number between them. The sweep's ledger (in `sweep/`) records how far each target
was read, so a night fetches what is new, and a killed night resumes. dlt's state records which part
was loaded last; dlt commits it together with that part's rows, so no row is loaded twice.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import pyarrow.parquet as pq

from capillary_targets import TargetsClient, from_env
from capillary_targets.sweep import Summary, SweepOptions, UsersFile, run

SWEEP = Path("sweep")
OF_TARGETS = ["user_id", "id", "name", "target_type", "target_entity", "target_group_id", "active"]


async def sweep(users: Path) -> Summary:
    """Fetch what is new since the last sweep, as Parquet."""
    async with TargetsClient(**from_env()) as client:
        options = SweepOptions(format="parquet", incremental=True)
        return await run(client, UsersFile(users), SWEEP, options)


def parts(kind: str, columns: list[str] | None = None) -> Iterator[Any]:
    """Parts not loaded yet, in Arrow batches. The state is one number."""
    state = dlt.current.resource_state()
    for part in sorted((SWEEP / kind).glob("part-*.parquet"), key=number):
        if number(part) > state.get("loaded", -1):
            yield from pq.ParquetFile(part).iter_batches(columns=columns)
            state["loaded"] = number(part)


def number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


@dlt.source(name="capillary")
def capillary() -> Any:
    return (
        # An event never changes: rows are only added.
        dlt.resource(parts("events"), name="events", write_disposition="append"),
        # A target's row is written again when it changed: keep the latest one.
        dlt.resource(
            parts("targets", OF_TARGETS),
            name="targets",
            write_disposition="merge",
            primary_key=("user_id", "id"),
        ),
    )


def pipeline() -> dlt.Pipeline:
    return dlt.pipeline("capillary", destination=dlt.destinations.duckdb("members.duckdb"))


if __name__ == "__main__":
    summary = asyncio.run(sweep(Path(sys.argv[1])))
    pipeline().run(capillary())
    failed = summary.failed + summary.refused
    print(f"{summary.complete} users, {summary.events} new events, {failed} failed")
    sys.exit(0 if summary.all_complete else 1)
