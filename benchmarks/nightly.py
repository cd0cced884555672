"""Requests of a first sweep and of the nights after it, and the changes that each way misses.

`python -m benchmarks.nightly [--members 10000]`

Worlds of members with three targets each, of which 30 % have a record; in each of two nights
something happens to 2 % of the members: mostly a sale, for some a late sale, a deletion, or a
purchase and its return. All ways ask the same sandbox; counts only, so the machine does not matter.
dlt, which costs ten times our processor time a request and the same requests for every member, is
asked for the first 300. `planned` is what `--plan` said before the first sweep and before the last
night. `--simulate MEMBERS` prints the arithmetic and no measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

import aiohttp

from capillary_targets import BasicAuth, TargetsClient
from capillary_targets.sandbox import Sandbox, World
from capillary_targets.sandbox.auth import basic_header
from capillary_targets.sweep import SweepOptions, plan, run

from .pagination_dialects import Ask
from .pagination_dialects import dlt as dlt_rows
from .tables import line, table

TARGETS: Final = 3
RECORDED: Final = 0.3
CHANGING: Final = 0.02
NIGHTS: Final = 2
DLT_MEMBERS: Final = 300
PER_MINUTE: Final = 1_000

Held: TypeAlias = defaultdict[tuple[int, int], Counter[Any]]
"""The log ids that a copy has, by member and target."""
Way: TypeAlias = Callable[[Sandbox, Path, Held, int], Awaitable[float | None]]
"""Brings a copy up to date in a night of that number; the requests that were planned, if any."""


async def ours(sandbox: Sandbox, out: Path, held: Held, night: int, **options: Any) -> float:
    """A sweep of this package."""
    auth, users = BasicAuth(*sandbox.credentials), sandbox.world.user_ids()
    settings = SweepOptions(incremental=night > 0, source="sandbox", **options)
    async with TargetsClient(sandbox.url, auth, concurrency=16) as client:
        planned = (await plan(client, users, out, settings)).requests.value
        sandbox.counts.clear()
        assert (await run(client, users, out, settings)).all_complete
    held.clear()
    for part in (*out.glob("events/part-*"), *out.glob("vanished/part-*")):  # noqa: ASYNC240
        for row in map(json.loads, part.read_text().splitlines()):
            pair = (row["user_id"], row["target_rule_id"])
            held[pair][row["event_log_id"]] += -1 if row.get("deleted") else 1
    return planned


async def by_hand(sandbox: Sandbox, _: Path, held: Held, night: int) -> None:
    """A careful loop by hand: it keeps how many events a target had, and asks from there on."""
    del night
    places, headers = asyncio.Semaphore(16), {"Authorization": basic_header(*sandbox.credentials)}

    async def get(path: str) -> Any:
        async with http.get(f"/v3/users/{path}") as response:
            return (await response.json(content_type=None))["data"] or []

    async def member(user: int) -> None:
        async with places:
            for target in await get(f"{user}/enrolledTargets"):
                rows = held[user, target["id"]]
                path = f"{user}/trackedTargetEvents/{target['id']}?limit=100"
                while True:
                    page, within = divmod(rows.total(), 100)
                    new = (await get(f"{path}&offset={page}"))[within:]
                    rows.update(row["eventLogId"] for row in new)
                    if within + len(new) < 100:
                        break

    async with (
        aiohttp.ClientSession(sandbox.url, headers=headers) as http,
        asyncio.TaskGroup() as group,
    ):
        for user in sandbox.world.user_ids():
            group.create_task(member(user))


async def by_dlt(sandbox: Sandbox, _: Path, held: Held, night: int) -> None:
    """REST client of dlt: the API takes no date, so each night reads everything and merges it."""
    del night

    def read_all() -> None:
        world = sandbox.world
        for user in world.user_ids():
            for rule in world.targets(user):  # told the targets: one request less for each member
                ask = Ask(sandbox.url, user, rule.id, *sandbox.credentials, "pages")
                try:
                    held[user, rule.id] |= Counter(dlt_rows(ask))
                except Exception as error:  # 310149 is one to it
                    if "400" not in str(error):
                        raise

    await asyncio.to_thread(read_all)


def change(world: World, draw: random.Random) -> Counter[str]:
    """One night's changes, and how many there were of each kind."""
    users = world.user_ids()
    done: Counter[str] = Counter()
    for user in draw.sample(users, max(1, round(CHANGING * len(users)))):
        recorded = [rule for rule in world.targets(user) if world.count(user, rule.id)]
        rule = draw.choice(recorded or world.targets(user))
        kind = draw.choices(("sale", "late", "deleted", "cancelled"), (80, 7, 3, 10))[0]
        if not recorded or (kind == "cancelled" and rule.behavioural):
            kind = "sale"
        if kind == "late":
            world.insert_late(user, rule.id)
        elif kind == "deleted":
            world.delete_events(user, rule.id, 0)
        elif kind == "cancelled":
            world.add_event(user, rule.id, value="19.990")
            world.add_event(user, rule.id, value="-19.990", event_name="RETURN_BILL")
        else:
            world.add_event(user, rule.id, value=Decimal(draw.randrange(1, 10**6)) / 1000)
        done[kind] += 1
    return done


def wrong_pairs(world: World, held: Held) -> int:
    """Targets of members whose copy is not what the service holds."""
    return sum(
        +held[user, rule.id] != Counter(row.event_log_id for row in world.events(user, rule.id))
        for user in world.user_ids()
        for rule in world.targets(user)
    )


WAYS: Final[dict[str, Way]] = {
    "sweep": ours,
    "sweep --detect groups": partial(ours, detect="groups"),
    "the same, without lastUpdatedOn": partial(ours, detect="groups"),
    "a loop by hand": by_hand,
    "dlt": by_dlt,
}


async def measure(name: str, members: int) -> str:
    """One row of the table."""
    members = min(members, DLT_MEMBERS) if name == "dlt" else members
    sandbox = Sandbox(
        users=members,
        targets=TARGETS,
        events=20,
        recorded=RECORDED,
        last_updated_on="without" not in name,
    )
    draw, held = random.Random(1), defaultdict[tuple[int, int], Counter[Any]](Counter)
    asked, planned, changes = [], [], Counter[str]()
    with TemporaryDirectory() as directory:
        async with sandbox:
            for night in range(1 + NIGHTS):
                if night:
                    changes += change(sandbox.world, draw)
                sandbox.counts.clear()
                planned.append(await WAYS[name](sandbox, Path(directory, "out"), held, night))
                asked.append(sandbox.counts.total() / members)
            wrong = wrong_pairs(sandbox.world, held)
    expected = [one / members for one in (planned[0], planned[-1]) if one is not None]
    told = ", ".join(f"{one:.3f}" for one in expected)
    later = f"{sum(asked[1:]) / NIGHTS:.3f}"
    return line(name, members, f"{asked[0]:.2f}", later, told, wrong, dict(changes))


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


def simulate(members: int) -> str:
    """The table of the arithmetic."""
    head = (f"{members:,} members, {PER_MINUTE:,} requests a minute", "first sweep", "a night")
    days = {
        name: [f"{members * each / PER_MINUTE / 1440:.1f} days" for each in cost]
        for name, cost in arithmetic().items()
    }
    return table(head, *((name, *each) for name, each in days.items()))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--simulate", type=int, metavar="MEMBERS")
    given = parser.parse_args()
    if given.simulate is not None:
        print(simulate(given.simulate))
        return
    head = ("way", "members", "first sweep", "a night", "planned", "wrong targets", "changes")
    print(table(head))
    for name in WAYS:
        print(asyncio.run(measure(name, given.members)), flush=True)


if __name__ == "__main__":
    main()
