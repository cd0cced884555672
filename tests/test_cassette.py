"""Cassettes: nothing that names a person survives, and walks over a replay end as they did."""

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import ApiError, BasicAuth, TargetsClient, UsageError
from capillary_targets.cassette import Pseudonyms, recording
from capillary_targets.contract import contract
from capillary_targets.sandbox import Fault, Sandbox

from .conftest import examples

MOBILE = "919001000001"


async def recorded(path: Path, sandbox: Sandbox, users: int = 4) -> list[list[Decimal | None]]:
    """Everything asked of some users, into a cassette; the amounts of each walk."""
    with recording(path) as recorder:
        async with (
            sandbox as url,
            TargetsClient(url, BasicAuth(*sandbox.credentials), observers=[recorder]) as client,
        ):
            found = await amounts(client, range(1_000_001, 1_000_001 + users))
            await client.find_customer(identifier_name="mobile", identifier_value=MOBILE)
    assert recorder.answers
    return found


async def amounts(client: TargetsClient, users: Any) -> list[list[Decimal | None]]:
    found = []
    for user in users:
        groups = await client.target_groups(user)
        assert groups.user_id == user
        for target in await client.active_targets(user):
            events = await client.events(user, target.id, page_size=5).collect()
            assert {event.customer_id for event in events} <= {user}
            found.append([event.target_value for event in events])
    return found


@pytest.mark.parametrize(
    "dialect",
    [
        {},
        {"offset_mode": "row", "total_mode": "pages"},
        {"rows_per_id": 2, "missing_ids": 0.3, "iso": True},
    ],
    ids=str,
)
async def test_a_replay_brings_what_was_recorded(tmp_path: Path, dialect: dict[str, Any]) -> None:
    tape = tmp_path / "tape.jsonl"
    before = await recorded(tape, Sandbox(users=4, targets=2, events=14, **dialect))
    replay = Sandbox.replay(tape)
    async with (
        replay as url,
        TargetsClient(url, BasicAuth(*replay.credentials)) as client,
    ):
        after = await amounts(client, replay.user_ids)
        with pytest.raises(ApiError, match="not in this cassette"):
            await client.active_targets(1)
    assert after == before


async def test_nothing_personal_survives(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    await recorded(tape, Sandbox(users=4, targets=3, events=6))
    text = tape.read_text()
    for personal in (
        r"10000\d\d\b",
        r"\b9190\d+",
        r"user\d{7}@",
        "Sample",
        "Asha",
        "Ben",
        "Chlo",
        "EXT",
        "till",
    ):
        assert not re.search(personal, text), personal
    assert MOBILE not in text


NAMES = st.sampled_from(["Asha Rao", "Ben", "Chloé", "O'Neill", "ΑΣΑ", "山田", 'O"x\\'])
PERSONAL = st.one_of(
    NAMES,
    st.integers(6 * 10**9, 10**10).map("+91{}".format),
    st.text("abcxyz", min_size=3, max_size=8).map("{0}@{0}.com".format),
    st.integers(2 * 10**9, 10**12),
)


@examples(60)
@given(PERSONAL, st.integers(0, 2**32))
def test_a_person_anywhere_in_an_answer_is_replaced(person: str | int, seed: int) -> None:
    """Planted in a random place: as a value, a key, in a list, below a key nobody knows."""
    draw = random.Random(seed)
    call = draw.choice(list(contract().calls.values()))
    shapes: list[Any] = [
        {"data": [{"customerId": person, "note": person}]},
        {"data": [{"memberName": {"first": [person]}}]},
        {"data": {"customer": {"customFields": {str(person): person}}}},
        {
            "data": {
                "customer": {
                    "profiles": [{"firstName": person, "commChannels": [{"value": person}]}]
                }
            }
        },
        {"errors": [{"code": 1, "message": f"no such member {person}"}]},
        {str(person): person},
        {"data": [{"uniqueId": str(person), "name": str(person)}]},
    ]
    body = Pseudonyms().body(call.answer, draw.choice(shapes))
    assert json.dumps(str(person))[1:-1] not in json.dumps(body)
    assert str(person) not in json.dumps(body, ensure_ascii=False)


@examples(50)
@given(st.lists(st.integers(1, 2**62), min_size=2, max_size=20))
def test_the_same_one_is_replaced_by_the_same_one(ids: list[int]) -> None:
    names = Pseudonyms()
    rows = [{"customerId": one, "eventLogId": one, "uniqueId": str(one)} for one in ids]
    answer = contract().calls["trackedTargetEvents"].answer
    replaced = names.body(answer, {"data": rows})["data"]
    for name in ("customerId", "eventLogId", "uniqueId"):
        pairs = set(zip([row[name] for row in rows], [row[name] for row in replaced], strict=True))
        assert len(pairs) == len({new for _, new in pairs}) == len(set(ids))
    order = [row["eventLogId"] for row in replaced]
    assert sorted(range(len(ids)), key=ids.__getitem__) == sorted(
        range(len(ids)), key=order.__getitem__
    )


async def test_what_the_server_said_in_other_forms_is_kept_as_a_status(tmp_path: Path) -> None:
    tape, sandbox = tmp_path / "tape.jsonl", Sandbox(users=1)
    sandbox.faults.add(Fault.gateway_page(502), times=1, path_contains="enrolledTargets")
    await recorded(tape, sandbox, users=1)
    lines = [json.loads(line) for line in tape.read_text().splitlines()]
    assert lines[0] == {"cassette": 1}
    assert [one["body"] for one in lines[1:] if one["status"] == 502] == [None]


def test_tokens_are_not_recorded_and_files_not_overwritten(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    with recording(tape) as recorder:
        recorder("/v3/oauth/token/generate", 200, {}, b'{"data": {"accessToken": "t"}}')
    assert tape.read_text().count("\n") == 1
    with pytest.raises(UsageError, match="exists"), recording(tape):
        pass
    with pytest.raises(UsageError, match="cannot be written"), recording(tmp_path / "no" / "tape"):
        pass
    with pytest.raises(ValueError, match="is no cassette"):
        Sandbox.replay(__file__)


def test_a_full_disk_is_told_at_the_end(tmp_path: Path) -> None:
    def record() -> None:
        with recording(tmp_path / "tape") as recorder:
            with Path("/dev/full").open("wb", buffering=0) as recorder.file:
                recorder("/v3/users/1/enrolledTargets", 200, {}, b'{"data": []}')
            recorder("/v3/users/1/enrolledTargets", 200, {}, b'{"data": []}')

    with pytest.raises(OSError, match="No space"):
        record()


def test_what_stands_for_a_text_is_of_its_kind_and_ids_of_a_brand_stay() -> None:
    names = Pseudonyms()
    kinds = {"asha@x.in": r"user\d+@example\.com", "919001000001": r"\d+", "Asha": r"text-\d+"}
    for text, pattern in kinds.items():
        assert re.fullmatch(pattern, names.text(text))
    target = {"id": 7, "filters": [{"entityType": "STORE", "entityIds": [11, 12]}]}
    body = names.body(contract().calls["enrolledTargets"].answer, {"data": [target]})
    assert body == {"data": [target]}


@pytest.mark.parametrize(
    ("path", "replaced"),
    [
        (
            "/v3/users/7/targetGroups?includeInactive=true",
            "/v3/users/1000000001/targetGroups?includeInactive=true",
        ),
        (
            "/gw/v3/users/7/enrolledTargets?targetRuleIds=1%2C2",
            "/v3/users/1000000001/enrolledTargets?targetRuleIds=1%2C2",
        ),
        ("/v3/targetGroups/9/targetPeriods", "/v3/targetGroups/9/targetPeriods"),
        (
            "/v2/customers/lookup?source=INSTORE&identifierValue=Asha",
            "/v2/customers/lookup?source=INSTORE&identifierValue=text-1",
        ),
        (
            "/v3/users/7/enrolledTargets?note=Asha",
            "/v3/users/1000000001/enrolledTargets?note=text-1",
        ),
        ("/elsewhere/Asha", "/"),
    ],
)
def test_a_path_names_nobody(path: str, replaced: str) -> None:
    assert Pseudonyms().path(path) == replaced
