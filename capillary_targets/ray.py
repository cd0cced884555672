"""A sweep on a Ray cluster (extra `ray`): the list in partitions, each a sweep of its own.

Every partition has its own directory and ledger below `out`, which all machines share, so whatever
is killed, Ray runs the partition again and it goes on where it was. See `docs/how-to/cluster.md`
for when one machine is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec
from attrs import evolve, field, frozen

from .auth import Auth
from .client import TargetsClient
from .settings import Options
from .sweep import (
    BadLine,
    RequestTimeline,
    Summary,
    SweepOptions,
    SweepRefused,
    SweepStopped,
    UsersFile,
    run,
)
from .sweep.split import split
from .sweep.store import AtomicFile
from .sweep.together import join

try:
    import ray
    from ray.exceptions import RayError

    from .ray_budget import shared_budget
except ImportError as error:
    raise ImportError(
        "a sweep on a cluster needs the extra: pip install 'capillary-targets[ray]'"
    ) from error

if TYPE_CHECKING:
    from ray.data import Dataset

    from .sweep.user_list import Users

__all__ = ["sweep"]

_ray: Any = ray  # whose own types know neither its options nor its tasks
_PLAN: Final = "cluster.json"
_TRIES: Final = 10
"""How often Ray runs a partition again whose worker died."""


@frozen
class _Server:
    """What a worker needs to open a client."""

    base_url: str
    auth: Auth = field(repr=False)
    page_size: int
    options: Options


@frozen
class _Plan:
    """What `out` remembers of the cluster: how many partitions, and which run they are in."""

    partitions: int
    run: int = 1
    finished: bool = False


async def sweep(
    users: Dataset | Path | str | Users,
    out: Path | str,
    options: SweepOptions | None = None,
    *,
    base_url: str,
    auth: Auth,
    page_size: int = 100,
    column: str | None = None,
    partitions: int | None = None,
    address: str | None = None,
    **settings: Unpack[Options],
) -> Summary:
    """Sweep `users` on a Ray cluster; `out` then holds the files that one machine would have made.

    `users` is a Ray Data set, whose `column` (or only column) has the ids, or whatever
    `capillary_targets.sweep.run` takes. `out` is a directory that all machines of the cluster
    share. The same call on the same directory goes on after an interruption of any kind.

    The other settings are those of `TargetsClient`. `rate` is
    one budget for the whole cluster: kept by an actor, or by Redis if it is `shared` so.
    `concurrency` is each worker's own, and hooks are called in the workers. `partitions` is how
    many pieces the list is cut into, by default two for each processor; a directory keeps the
    number it was made with. `address` is that of a cluster, None an own one on this machine; where
    Ray is initialised, it is used as it is.

    Raises what `run` raises; `SweepStopped` where a partition's workers died again and again.
    """
    started = time.monotonic()
    if not ray.is_initialized():
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        _ray.init(address=address, **quiet)
    directory = Path(out)
    options = options or SweepOptions()
    plan = _plan(directory, partitions, incremental=options.incremental)
    paths = [directory / "partitions" / f"{number:05d}" for number in range(plan.partitions)]
    lists = [path.with_suffix(".txt") for path in paths]
    bad: list[BadLine] = []
    if not options.retry_failed:
        counts, bad = await split(_users(users, column), lists)
        lists = [path for path, count in zip(lists, counts, strict=True) if count]
        if not lists:
            raise SweepRefused("the list holds no user id")
    else:
        lists = [path for path in lists if (path.with_suffix("") / "ledger.sqlite").exists()]
    with shared_budget(settings.get("rate")) as shared:
        told: Any = settings | {"rate": shared}
        server = _Server(base_url, auth, page_size, told)
        again = {"max_retries": _TRIES, "retry_exceptions": [SweepStopped]}
        task = _ray.remote(num_cpus=1, **again)(_partition)
        await _all([task.remote(server, path, plan.run, options) for path in lists])
    made = [(n, path) for n, path in enumerate(paths) if (path / "ledger.sqlite").exists()]
    summary = join(directory, made, bad, time.monotonic() - started)
    _write(directory, _Plan(plan.partitions, plan.run, summary.finished))
    return summary


async def _all(partitions: list[Any]) -> None:
    """Wait for all. If one fails for good, or this is cancelled, the others finish their part."""
    try:
        await asyncio.gather(*partitions)
    except BaseException as error:
        for partition in partitions:
            ray.cancel(partition)
        ray.wait(partitions, num_returns=len(partitions), timeout=10)
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise cause from None  # what the partition's own sweep raised
        if isinstance(error, RayError):
            raise SweepStopped(f"{error}; run the same command again to go on") from error
        raise


def _partition(server: _Server, users: Path, wanted: int, asked: SweepOptions) -> Summary:
    """One partition, in a worker: a sweep like any other."""
    return asyncio.run(_sweep_partition(server, users, wanted, asked))


async def _sweep_partition(
    server: _Server, users: Path, wanted: int, asked: SweepOptions
) -> Summary:
    out = users.with_suffix("")
    timeline = RequestTimeline()
    options = server.options.copy()
    options["hooks"] = [timeline, *options.get("hooks", ())]
    async with TargetsClient(
        server.base_url, server.auth, page_size=server.page_size, **options
    ) as client:
        failed_only = asked.retry_failed
        given = () if failed_only else UsersFile(users)
        # A partition that was interrupted goes on with its run; one that is through begins anew.
        anew = wanted > 1 and not failed_only and _run_of(out) < wanted
        return await run(client, given, out, evolve(asked, incremental=anew), timeline=timeline)


def _run_of(partition: Path) -> int:
    try:
        return int(msgspec.json.decode((partition / "summary.json").read_bytes())["run"])
    except FileNotFoundError:
        return 0


def _plan(out: Path, partitions: int | None, *, incremental: bool) -> _Plan:
    """The plan for this session, written down. Raises `SweepRefused` where it does not fit."""
    try:
        before = msgspec.json.decode((out / _PLAN).read_bytes(), type=_Plan)
    except FileNotFoundError:
        if (out / "ledger.sqlite").exists():
            raise SweepRefused(
                f"{out} was made by a sweep on one machine; go on there, or name another directory"
            ) from None
        before = _Plan(partitions or max(1, 2 * int(_ray.cluster_resources().get("CPU", 1))))
    if partitions not in {None, before.partitions}:
        raise SweepRefused(
            f"{out} was made with {before.partitions} partitions, not {partitions}; keep to that, "
            "or name another directory"
        )
    (out / "partitions").mkdir(parents=True, exist_ok=True)
    plan = _Plan(before.partitions, before.run + (incremental and before.finished))
    _write(out, plan)
    return plan


def _write(out: Path, plan: _Plan) -> None:
    with AtomicFile(out / _PLAN) as file:
        file.write(msgspec.json.encode(plan) + b"\n")


def _users(users: Any, column: str | None) -> Any:
    if isinstance(users, str | Path):
        return UsersFile(Path(users), column)
    if hasattr(users, "iter_batches"):
        return _ids(users, column)
    return users


def _ids(dataset: Dataset, column: str | None) -> Iterator[int]:
    batch: Any
    for batch in dataset.iter_batches(batch_size=10_000, batch_format="pyarrow"):
        if column is None and batch.num_columns != 1:
            names = ", ".join(batch.column_names)
            raise SweepRefused(f"the data set has several columns: name one of {names}")
        yield from batch.column(0 if column is None else column).to_pylist()
