"""A list in partitions, swept apart and joined: what one sweep would have left."""

import json
from collections import Counter
from pathlib import Path

from capillary_targets.sandbox import Fault, Sandbox
from capillary_targets.sweep import SweepOptions, UsersFile, run
from capillary_targets.sweep.split import partition_of, split
from capillary_targets.sweep.together import join

from .conftest import connected, names, parts, read_jsonl, true_events, write, written

PARTITIONS = 3


def test_users_spread_evenly_whatever_their_ids_have_in_common() -> None:
    for step in (1, 2, 8, 1000):
        shares = Counter(partition_of(user, 8) for user in range(0, 8000 * step, step))
        assert len(shares) == 8
        assert max(shares.values()) < 1.2 * min(shares.values())
    assert 0 <= partition_of(-5, 8) < 8


async def test_a_list_falls_into_lists(tmp_path: Path) -> None:
    lists = [tmp_path / f"{number}.txt" for number in range(PARTITIONS)]
    users = write(tmp_path / "users.txt", "11\n12\nwho\n13\n12\n")
    counts, bad = await split(UsersFile(users), lists)
    assert [(line.number, line.text) for line in bad] == [(3, "who")]
    assert counts == [len(path.read_text().split()) for path in lists]
    found = sorted(line for path in lists for line in path.read_text().split())
    assert found == ["11", "12", "12", "13"]


async def test_joined_they_are_the_files_of_one(tmp_path: Path) -> None:
    sandbox = Sandbox(users=20, targets=2, events=8)
    out = tmp_path / "out"
    (out / "partitions").mkdir(parents=True)
    paths = [out / "partitions" / f"{number}" for number in range(PARTITIONS)]
    lists = [path.with_suffix(".txt") for path in paths]
    async with sandbox:
        users = list(sandbox.world.user_ids())
        text = "\n".join(map(str, users))
        listed = write(tmp_path / "users.txt", f"1x\n{text}\n")
        _, bad = await split(UsersFile(listed), lists)

        async def one_night(*, incremental: bool) -> dict[str, object]:
            for path in paths:
                async with connected(sandbox) as client:
                    users_file = UsersFile(path.with_suffix(".txt"))
                    await run(client, users_file, path, SweepOptions(incremental=incremental))
            return join(out, list(enumerate(paths)), bad, 5.0).as_dict()

        sandbox.faults.add(Fault.http(500), times=None, path_contains=f"/{users[4]}/")
        first = await one_night(incremental=False)
        sandbox.faults.clear()
        assert first["failed"] == first["bad_lines"] == 1
        assert written(out) == true_events(sandbox.world, [*users[:4], *users[5:]])

        second = await one_night(incremental=True)
        again = join(out, list(enumerate(paths)), bad, 5.0).as_dict()
    assert (second["run"], second["complete"], second["failed"]) == (2, 20, 0)
    assert again == second
    assert written(out) == true_events(sandbox.world, users)
    assert len(parts(out, "targets")) == 40
    assert names(out / "events")[0] == "part-00000000.jsonl"
    assert "part-00200000.jsonl" in names(out / "events")
    assert [line["error"] for line in read_jsonl(out / "failures.jsonl")] == ["not a user id"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["run"], summary["seconds"]) == (2, 5.0)
    assert "<h2>Runs</h2>" in (out / "report.html").read_text()
