"""The package's sweep into files: what writing adds to the same sweep thrown away."""

from __future__ import annotations

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

from .contenders import Result, client_of
from .workload import Work

__all__ = ["to_jsonl", "to_parquet"]


async def to_jsonl(base: str, work: Work) -> Result:
    """Into JSON Lines."""
    return await _to_files(base, work, "jsonl")


async def to_parquet(base: str, work: Work) -> Result:
    """Into Parquet."""
    return await _to_files(base, work, "parquet")


async def _to_files(base: str, work: Work, form: str) -> Result:
    from capillary_targets.sweep import run

    out = Path(tempfile.mkdtemp(prefix="benchmark-"))
    async with client_of(base, work) as client:
        await run(client, range(1, work.users + 1), out, format=form)

    def proof() -> tuple[int, Decimal]:
        try:
            return _read_parquet(out) if form == "parquet" else _read_jsonl(out)
        finally:
            shutil.rmtree(out)

    return proof


def _read_jsonl(out: Path) -> tuple[int, Decimal]:
    import msgspec

    decode = msgspec.json.Decoder(float_hook=Decimal).decode
    rows = 0
    total = Decimal()
    for part in sorted((out / "events").glob("part-*")):
        for line in part.read_bytes().splitlines():
            rows += 1
            total += Decimal(decode(line)["target_value"])
    return rows, total


def _read_parquet(out: Path) -> tuple[int, Decimal]:
    import pyarrow.compute
    import pyarrow.parquet

    rows = 0
    total = Decimal()
    for part in sorted((out / "events").glob("part-*")):
        column = pyarrow.parquet.read_table(part, columns=["target_value"]).column("target_value")
        rows += len(column)
        total += pyarrow.compute.sum(column).as_py() or 0
    return rows, total
