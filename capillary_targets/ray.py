"""A sweep on a Ray cluster (extra `ray`): the list in partitions, each swept by a task.

A partition has its own directory and ledger below a directory that all machines share. So whatever
is killed, Ray runs the task again and it resumes. See `docs/how-to/cluster.md`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import attrs
import msgspec

from .auth import Auth
from .budget import Budget, SqliteBudget
from .client import TargetsClient
from .limits import RateLimit
from .models import JSON
from .settings import Options, Settings
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
from .sweep.atomic import AtomicFile
from .sweep.user_list import Users, read_batches

try:
    import ray
    from ray.exceptions import RayError
except ImportError as _error:
    raise ImportError(
        "a sweep on a cluster needs the extra: pip install 'capillary-targets[ray]'"
    ) from _error

if TYPE_CHECKING:
    from ray.data import Dataset

_ray: Any = ray  # whose own types know neither its options nor its tasks
_RETRIES: Final = 10
_TELL_EVERY: Final = 1.0
_USERS, _PROGRESS, _SUMMARY = "_users.jsonl", "_progress.json", "summary.json"
_GOLDEN: Final = 0x9E3779B97F4A7C15


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
    progress: Callable[[Summary], None] | None = None,
    **settings: Unpack[Options],
) -> Summary:
    """Sweep `users` on a Ray cluster into `out/partition=…/`; the same call resumes.

    Args:
        users: A Ray Data set, or what `capillary_targets.sweep.run` takes.
        out: A directory that all machines of the cluster share.
        options: What to ask for and how to write it; `max_failures` counts in each partition.
        base_url: A cluster's short name or an address.
        auth: The credentials; they travel to the workers through Ray.
        page_size: Events asked for in one request.
        column: Of a data set or CSV file, the column with the ids.
        partitions: Pieces of the list, by default two for each processor; a directory keeps its
            number.
        address: The Ray cluster's; None starts a Ray on this machine. One that is initialised is
            used as it is.
        progress: Called with the sums of all partitions about once a second.
        settings: The settings of `TargetsClient`. `rate` is one budget for the whole cluster,
            `concurrency` is each worker's own, and hooks are called in the workers.

    Returns:
        The sums of all partitions, as in `out/summary.json`.

    Raises:
        CapillaryError: As `capillary_targets.sweep.run`; `SweepStopped` where a task's workers
            died again and again.
    """
    started = time.monotonic()
    Settings.of(base_url, auth, settings)  # refused before anything is begun
    options, out = options or SweepOptions(), Path(out)
    if not ray.is_initialized():
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        _ray.init(address=address, **quiet)
    paths = _directories(out, partitions)
    if not options.retry_failed:
        await _partition(_opened(users, column), paths)
    before = _read(out / _SUMMARY)
    latest = max(1, before.run + (options.incremental and before.finished))
    _write(out / _SUMMARY, Summary(run=latest))
    task = _ray.remote(num_cpus=1, max_retries=_RETRIES)(_sweep_partition)
    client = {"base_url": base_url, "auth": auth, "page_size": page_size, **settings}
    with shared_budget(settings.get("rate")) as client["rate"]:
        showing = asyncio.ensure_future(_show(paths, progress))
        try:
            summaries = await _all([task.remote(client, path, options, latest) for path in paths])
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    total = _total(summaries)
    total.seconds = round(time.monotonic() - started, 3)
    _write(out / _SUMMARY, total)
    return total


def partition_of(user: int, partitions: int) -> int:
    """The partition of a user: the same one in every list, and evenly spread."""
    return ((user * _GOLDEN) >> 32) % 2**32 % partitions


def _directories(out: Path, partitions: int | None) -> list[Path]:
    """The directories of the partitions, whose number is in their names."""
    if (out / "ledger.sqlite").exists():
        raise SweepRefused(f"{out} was made by a sweep on one machine; name another directory")
    made = [int(path.name.rpartition("-")[2]) for path in out.glob("partition=*-of-*")]
    count = made[0] if made else partitions
    count = count or max(1, 2 * int(_ray.cluster_resources().get("CPU", 1)))
    if partitions not in {None, count}:
        raise SweepRefused(
            f"{out} was made with {count} partitions, not {partitions}; keep to that, or name "
            "another directory"
        )
    paths = [out / f"partition={number:05d}-of-{count:05d}" for number in range(count)]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        (path / _PROGRESS).unlink(missing_ok=True)
    return paths


async def _partition(users: Users, paths: list[Path]) -> None:
    """Write each user's id to the list of its partition, a line's error to that of the first."""
    with ExitStack() as stack:
        lists = [stack.enter_context(AtomicFile(path / _USERS)) for path in paths]
        async for batch in read_batches(users):
            for user in batch:
                place = 0 if isinstance(user, BadLine) else partition_of(user, len(paths))
                lists[place].write(msgspec.json.encode(user) + b"\n")


def _opened(users: Any, column: str | None) -> Users:
    if isinstance(users, str | Path):
        return UsersFile(Path(users), column)
    return _ids(users, column) if hasattr(users, "iter_batches") else users


def _ids(dataset: Dataset, column: str | None) -> Iterator[int]:
    batch: Any
    for batch in dataset.iter_batches(batch_size=10_000, batch_format="pyarrow"):
        if column is None and batch.num_columns != 1:
            names = ", ".join(batch.column_names)
            raise SweepRefused(f"the data set has several columns: name one of {names}")
        yield from batch.column(0 if column is None else column).to_pylist()


def _sweep_partition(
    client: dict[str, Any], path: Path, options: SweepOptions, latest: int
) -> Summary:
    """The task: one partition's sweep, of the run `latest`."""
    timeline, due = RequestTimeline(), 0.0

    def tell(summary: Summary) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _TELL_EVERY
            _write(path / _PROGRESS, summary)

    async def swept() -> Summary:
        hooks = (timeline, *client.get("hooks", ()))
        async with TargetsClient(**{**client, "hooks": hooks}) as opened:
            # One that was interrupted in this run resumes; one that has not begun it, begins.
            new = options.incremental and _read(path / _SUMMARY).run < latest
            users = () if options.retry_failed else _listed(path)
            given = attrs.evolve(options, incremental=new)
            return await run(opened, users, path, given, timeline=timeline, progress=tell)

    return asyncio.run(swept())


def _listed(path: Path) -> Iterator[int | BadLine]:
    decoder = msgspec.json.Decoder(int | BadLine)
    with (path / _USERS).open("rb") as lines:
        yield from map(decoder.decode, lines)


async def _all(tasks: list[Any]) -> list[Summary]:
    """Wait for all. If one fails, or this is cancelled, the others commit their part and end."""
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException as error:
        for task in tasks:
            ray.cancel(task)
        ray.wait(tasks, num_returns=len(tasks), timeout=10)
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise cause from None  # what the partition's own sweep raised
        if isinstance(error, RayError):
            raise SweepStopped(f"{error}; run the same command again to resume") from error
        raise


def _read(file: Path) -> Summary:
    """A summary, or that of a run 0 where there is no file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Summary)
    except FileNotFoundError:
        return Summary(run=0, finished=True)


def _write(path: Path, summary: Summary) -> None:
    with AtomicFile(path) as file:
        file.write(JSON.encode(summary.as_dict()) + b"\n")


async def _show(paths: list[Path], progress: Callable[[Summary], None] | None) -> None:
    """Call `progress` with the sums of what the tasks have told so far."""
    while progress is not None:
        await asyncio.sleep(_TELL_EVERY)
        with suppress(OSError):  # of a file server: the next look may succeed
            progress(_total([_read(path / _PROGRESS) for path in paths]))


def _total(summaries: list[Summary]) -> Summary:
    """Sums of disjoint users. They are finished when all are."""
    total = Summary(
        run=max(one.run for one in summaries),
        finished=all(one.finished for one in summaries),
        groups_off=min((one.groups_off for one in summaries if one.groups_off), default=None),
        oldest_proof=min((one.oldest_proof for one in summaries if one.oldest_proof), default=None),
    )
    for one in summaries:
        total.add(one)
    return total


class BudgetActor(SqliteBudget):
    """A rate budget in memory. Its permits are leases: a worker that dies gives its own back.

    One that Ray restarted knows nothing of the requests before: it lets a whole window pass first.
    """

    def __init__(self, limit: RateLimit) -> None:
        super().__init__(limit, ":memory:")
        self._restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        """As `Budget`."""
        if self._restarted:
            self._restarted = False
            await self.pause(self._limit.per)
        return await super().acquire(background=background)


class _ActorBudget:
    """The `Budget` of a worker: asks the actor, which lives as long as the sweep."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def acquire(self, *, background: bool) -> tuple[str, float]:
        ticket, wait = await self._actor.acquire.remote(background=background)
        return ticket, wait

    async def release(self, ticket: str) -> None:
        await self._actor.release.remote(ticket)

    async def pause(self, seconds: float) -> None:
        await self._actor.pause.remote(seconds)

    async def close(self) -> None: ...


@contextmanager
def shared_budget(rate: RateLimit | Budget | None) -> Iterator[RateLimit | Budget | None]:
    """The rate limit of all workers together: kept by an actor, unless it is shared already."""
    if not isinstance(rate, RateLimit) or rate.shared is not None:
        yield rate
        return
    actor = _ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(BudgetActor).remote(rate)
    try:
        yield _ActorBudget(actor)
    finally:
        ray.kill(actor)
