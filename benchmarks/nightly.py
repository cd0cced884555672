"""Requests of a first sweep and of the nights after it, and the changes that each way misses.

`python -m benchmarks.nightly [--members 10000] [--nights 2] [--only WAY ...]`

Worlds of members with three targets each, of which 30 % have a record; in a night something happens
to 2 % of the members: mostly a sale, for some a late sale, a deletion, or a purchase and its
return. All ways ask the same sandbox; counts only, so the machine does not matter. dlt, which costs
ten times our processor time a request and the same requests for every member, is asked for the
first 300. `planned` is what `--plan` said before the first sweep and before the last night.
`--simulate` prints the arithmetic for any number of members and no measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import aiohttp

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Sandbox, World
from capillary_targets.sweep import SweepOptions, plan, run

from .pagination_dialects import Ask
from .pagination_dialects import dlt as dlt_rows

TARGETS: Final = 3
RECORDED: Final = 0.3
EVENTS: Final = 20
CHANGING: Final = 0.02
DLT_MEMBERS: Final = 300
PER_MINUTE: Final = 1_000
Pair = tuple[int, int]


Way: TypeAlias = tuple[
    Callable[[int], Awaitable[float | None]], Callable[[], dict[Pair, Counter[Any]]]
]
"""Fetches what is new in a night, and says how many requests were planned; then what it has."""


def ours(sandbox: Sandbox, out: Path, **options: Any) -> Way:
    """A sweep of this package."""
    auth = BasicAuth(*sandbox.credentials)

    async def night(number: int) -> float:
        settings = SweepOptions(incremental=number > 0, source="sandbox", **options)
        async with TargetsClient(sandbox.url, auth, concurrency=16) as client:
            told = await plan(client, sandbox.world.user_ids(), out, settings)
            sandbox.counts.clear()
            summary = await run(client, sandbox.world.user_ids(), out, settings)
        assert summary.all_complete
        return told.requests.value

    def held() -> dict[Pair, Counter[Any]]:
        found: dict[Pair, Counter[Any]] = {}
        for kind in ("events", "vanished"):
            for part in sorted((out / kind).glob("part-*")):
                for line in part.read_text().splitlines():
                    row = json.loads(line)
                    pair = found.setdefault((row["user_id"], row["target_rule_id"]), Counter())
                    pair[row["event_log_id"]] += -1 if row.get("deleted") else 1
        return {pair: +rows for pair, rows in found.items()}

    return (night, held)


def by_hand(sandbox: Sandbox) -> Way:
    """A careful loop by hand: it keeps how many events a target had, and asks from there on."""
    kept: dict[Pair, list[Any]] = {}
    hashed = Ask("", 0, 0, *sandbox.credentials, "pages").hashed
    login = base64.b64encode(f"{sandbox.settings.username}:{hashed}".encode()).decode()

    async def night(_: int) -> None:
        places = asyncio.Semaphore(16)
        headers = {"Accept": "application/json", "Authorization": f"Basic {login}"}
        async with (
            aiohttp.ClientSession(sandbox.url, headers=headers) as http,
            asyncio.TaskGroup() as group,
        ):
            for user in sandbox.world.user_ids():
                group.create_task(member(http, places, user))

    async def member(http: Any, places: asyncio.Semaphore, user: int) -> None:
        async with places:
            for target in (await get(http, f"/v3/users/{user}/enrolledTargets"))["data"]:
                rows = kept.setdefault((user, target["id"]), [])
                path = f"/v3/users/{user}/trackedTargetEvents/{target['id']}"
                while True:
                    page, within = divmod(len(rows), 100)
                    answer = await get(http, f"{path}?limit=100&offset={page}")
                    new = (answer["data"] or [])[within:]
                    rows += [row["eventLogId"] for row in new]
                    if within + len(new) < 100:
                        break

    async def get(http: Any, path: str) -> Any:
        async with http.get(path) as response:
            return await response.json(content_type=None)

    return (night, lambda: {pair: Counter(rows) for pair, rows in kept.items()})


def by_dlt(sandbox: Sandbox) -> Way:
    """REST client of dlt: the API takes no date, so each night reads everything and merges it."""
    merged: dict[Pair, set[Any]] = {}

    async def night(_: int) -> None:
        await asyncio.to_thread(read_all)

    def read_all() -> None:
        world = sandbox.world
        for user in world.user_ids():
            for rule in world.targets(user):  # told the targets: one request less for each member
                ask = Ask(sandbox.url, user, rule.id, *sandbox.credentials, "pages")
                rows = merged.setdefault((user, rule.id), set())
                try:
                    rows.update(dlt_rows(ask))
                except Exception as error:  # 310149 is one to it
                    if "400" not in str(error):
                        raise

    return (night, lambda: {pair: Counter(rows) for pair, rows in merged.items()})


def change(world: World, draw: random.Random) -> Counter[str]:
    """One night's changes, and how many there were of each kind."""
    users = list(world.user_ids())
    done: Counter[str] = Counter()
    for user in draw.sample(users, max(1, round(CHANGING * len(users)))):
        recorded = [rule for rule in world.targets(user) if world.count(user, rule.id)]
        rule = draw.choice(recorded or world.targets(user))
        kind = draw.choices(("sale", "late", "deleted", "cancelled"), (80, 7, 3, 10))[0]
        if kind in {"late", "deleted"} and not recorded:
            kind = "sale"
        if kind == "late":
            world.insert_late(user, rule.id)
        elif kind == "deleted":
            world.delete_events(user, rule.id, 0)
        elif kind == "cancelled" and recorded and not rule.behavioural:
            world.add_event(user, rule.id, value="19.990")
            world.add_event(user, rule.id, value="-19.990", event_name="RETURN_BILL")
        else:
            kind = "sale"
            world.add_event(user, rule.id, value=Decimal(draw.randrange(1, 10**6)) / 1000)
        done[kind] += 1
    return done


def wrong_pairs(world: World, held: dict[Pair, Counter[Any]]) -> int:
    """Targets of members whose copy is not what the service holds."""
    return sum(
        held.get((user, rule.id), Counter())
        != Counter(row.event_log_id for row in world.events(user, rule.id))
        for user in world.user_ids()
        for rule in world.targets(user)
    )


WAYS: Final[dict[str, Callable[[Sandbox, Path], Way]]] = {
    "sweep": ours,
    "sweep --detect groups": lambda sandbox, out: ours(sandbox, out, detect="groups"),
    "the same, without lastUpdatedOn": lambda sandbox, out: ours(sandbox, out, detect="groups"),
    "a loop by hand": lambda sandbox, _: by_hand(sandbox),
    "dlt": lambda sandbox, _: by_dlt(sandbox),
}


async def measure(name: str, members: int, nights: int) -> str:
    """One row of the table."""
    shown = name
    if name == "dlt" and members > DLT_MEMBERS:
        members = DLT_MEMBERS
        shown = f"dlt ({members} members)"
    sandbox = Sandbox(
        users=members,
        targets=TARGETS,
        events=EVENTS,
        recorded=RECORDED,
        last_updated_on="without" not in name,
    )
    draw, asked, planned, changes = random.Random(1), [], [], Counter[str]()
    with tempfile.TemporaryDirectory() as directory:
        async with sandbox:
            night, held = WAYS[name](sandbox, Path(directory) / "out")
            for number in range(1 + nights):
                if number:
                    changes += change(sandbox.world, draw)
                sandbox.counts.clear()
                if (expected := await night(number)) is not None:
                    planned.append(expected / members)
                asked.append(sandbox.counts.total() / members)
            wrong = wrong_pairs(sandbox.world, held())
    later = sum(asked[1:]) / max(1, nights)
    told = f"{planned[0]:.2f}, {planned[-1]:.3f}" if planned else ""
    cells = (shown, f"{asked[0]:.2f}", f"{later:.3f}", told, f"{wrong}", f"{dict(changes)}")
    return f"| {' | '.join(cells)} |"


def arithmetic(
    targets: float = TARGETS,
    recorded: float = RECORDED,
    changing: float = CHANGING,
    full_every: float = 30,
) -> dict[str, tuple[float, float]]:
    """Requests for each member, of a first sweep and of a night.

    Each history is one page, and each change is of one target.
    """
    read = targets * recorded
    return {
        "sweep": (1 + targets, 1 + targets),
        "sweep --detect groups": (1 + read, 1 + changing),
        "the same, without lastUpdatedOn": (1 + read, 1 + changing + read / full_every),
    }


def simulate(members: int) -> Iterable[str]:
    """The table of the arithmetic."""
    yield f"| {members:,} members, {PER_MINUTE:,} requests a minute | first sweep | a night |"
    yield "| --- | --- | --- |"
    for name, cost in arithmetic().items():
        days = [f"{members * each / PER_MINUTE / 1440:.1f} days" for each in cost]
        yield f"| {name} | {' | '.join(days)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--nights", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--simulate", type=int, metavar="MEMBERS")
    given = parser.parse_args()
    if given.simulate is not None:
        print(*simulate(given.simulate), sep="\n")
        return
    print(
        f"| {given.members:,} members | first sweep | a night | planned | wrong targets | changes |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in given.only:
        print(asyncio.run(measure(name, given.members, given.nights)), flush=True)


if __name__ == "__main__":
    main()
