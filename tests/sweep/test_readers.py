"""The documentation's one-liners, run by the real readers on what sweeps of several worlds left."""

import re
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import SweepOptions, run

from .conftest import connected, needed

DOCS = Path(__file__).parents[2] / "docs" / "sweeps.md"
LINES = re.findall(r"```python\n(import [^\n]*)\n```", DOCS.read_text())
READERS = ("duckdb", "polars", "pandas", "pyarrow")
WORLDS: list[dict[str, Any]] = [
    {"seed": 1},
    {"seed": 2, "iso": True, "missing_ids": 0.3},
    {"seed": 3, "rows_per_id": 2},
]


class Truth(NamedTuple):
    """What the queries are to say: of the files, of the service now."""

    sums: dict[int, Decimal]
    names: Counter[str]
    enrolled: set[tuple[int, int]]
    joined: dict[str, Decimal]
    held: Counter[int]


async def two_nights(out: Path, form: str, world: dict[str, Any]) -> Truth:
    """Sweep twice; in between a user leaves a target, events are deleted and added."""
    sandbox = Sandbox(users=8, targets=3, events=20, **world)
    world_ = sandbox.world
    users = list(world_.all_user_ids())
    known = [(user, rule.id) for user in users for rule in world_.targets(user)]
    written = [(key, event) for key in known for event in world_.events(*key)]
    full = [key for key in known if len(world_.events(*key)) > 3]
    leaves, loses = full[0], full[-1]
    async with sandbox, connected(sandbox) as client:
        options = {"format": form, "part_users": 3}
        await run(client, users, out, SweepOptions(**options))
        world_.unenrol(*leaves)
        world_.delete_events(*loses, 1)
        new = world_.add_event(*loses, value="12.5")
        summary = await run(client, users, out, SweepOptions(incremental=True, **options))
        assert summary.all_complete
    written.append((loses, new))
    sums: dict[int, Decimal] = defaultdict(Decimal)
    joined: dict[str, Decimal] = defaultdict(Decimal)
    for (user, rule), event in written:
        sums[rule] += Decimal(event.target_value or 0)
        if (user, rule) != leaves:
            joined[world_.rule(rule).name] += Decimal(event.target_value or 0)
    held = Counter({rule: 0 for _, rule in known})
    for user, rule in known:
        held[rule] += len(world_.events(user, rule))
    return Truth(
        dict(sums),
        Counter(event.event_name for _, event in written),
        {key for key in known if key != leaves},
        dict(joined),
        held,
    )


@pytest.fixture(scope="module")
def directories() -> dict[tuple[str, int], tuple[Path, Truth]]:
    """What was swept already, by format and world."""
    return {}


def rows(shown: Any) -> list[tuple[Any, ...]]:
    """The rows of any reader's table."""
    if hasattr(shown, "fetchall"):
        return list(shown.fetchall())
    if hasattr(shown, "rows"):
        return list(shown.rows())
    if hasattr(shown, "to_pylist"):
        return [tuple(row.values()) for row in shown.to_pylist()]
    if hasattr(shown, "itertuples"):
        return list(shown.itertuples(index=False, name=None))
    return list(shown.items())


def expected(line: str, truth: Truth) -> dict[Any, Any] | set[Any]:
    if "vanished" in line:
        return {rule: number for rule, number in truth.held.items() if number}
    if "join" in line:
        return truth.joined
    if "targets" in line:
        return truth.enrolled
    return truth.sums if "target_value" in line else truth.names


def test_there_are_one_liners_for_each_reader():
    for reader in READERS:
        assert sum(line.startswith("import ") and f"{reader}." in line for line in LINES) >= 2


@pytest.mark.parametrize("world", range(len(WORLDS)))
@pytest.mark.parametrize("line", LINES)
async def test_a_one_liner(
    directories: dict[tuple[str, int], tuple[Path, Truth]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    world: int,
):
    needed(next(name for name in READERS if f"{name}." in line))
    needed("pyarrow")
    form = "jsonl" if "json" in line else "parquet"
    if (form, world) not in directories:
        out = tmp_path_factory.mktemp("swept")
        directories[form, world] = (out, await two_nights(out, form, WORLDS[world]))
    out, truth = directories[form, world]
    monkeypatch.chdir(out)
    shown: list[Any] = []
    exec(line, {"print": shown.append})
    (table,) = shown
    wanted = expected(line, truth)
    if isinstance(wanted, set):
        assert sorted((user, rule) for user, rule, *_ in rows(table)) == sorted(wanted)
    else:
        assert {key: value or 0 for key, value in rows(table)} == wanted  # of nulls alone: null
