"""Notifications of every documented form are read; whatever else comes is one error."""

import json
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import notifications as n
from capillary_targets.notifications import BadNotification, Notification, parse

from .samples import ACHIEVED_ENRICHED, ACHIEVED_RAW, ALL, ENROLMENT, STREAK_START, UNIFIED


def test_raw_and_enriched_envelopes_say_the_same():
    raw, enriched = parse(ACHIEVED_RAW), parse(ACHIEVED_ENRICHED)
    assert type(raw) is type(enriched) is n.TargetAchievedValueUpdated
    for name in (
        "event_id",
        "name",
        "user_id",
        "transaction_id",
        "targets",
        "milestones",
        "current_value",
        "achieved_value",
        "defined_value",
        "org_id",
        "created_at",
        "ref_id",
    ):
        assert getattr(raw, name) == getattr(enriched, name) is not None, name
    assert raw.event_log_id == 615460983
    assert enriched.event_log_id is None  # `""` in older samples


def test_amounts_are_exact_and_times_aware():
    found = parse(ACHIEVED_RAW)
    assert str(found.achieved_value) == "2999.540"
    assert found.created_at == datetime(2025, 1, 22, 14, 0, 1, 385000, UTC)
    assert found.milestones[0].defined_value == Decimal("2500.000")
    assert found.milestones[0].achieved_at == datetime(2025, 1, 22, 14, 0, 1, tzinfo=UTC)


def test_stray_blanks_in_keys_are_ignored():
    found = parse(ACHIEVED_ENRICHED)
    assert found.current_value == Decimal("1000.000")
    assert found.extra["timeStamp"] == 1737554401403


def test_target_is_found_in_its_three_places():
    details, unified, flat = parse(ACHIEVED_RAW), parse(UNIFIED), parse(ENROLMENT)
    for found in (details, unified, flat):
        assert found.rule_ids == (1986,)
        assert found.targets[0].group_id == 1717
        assert found.targets[0].group_name == "January"
    assert flat.targets[0].period_id == 9887
    assert unified.targets[0].achieved_value == Decimal("3999.540")
    assert isinstance(flat, n.TargetCustomerEnrolment)
    assert (flat.source, flat.default_value) == ("TRANSACTION", Decimal("5000.000"))


@pytest.mark.parametrize(
    "place", ["eventLogId", "loyaltyEventId", "data.eventLogId", "EVENTLOGID", "eventLog Id"]
)
@pytest.mark.parametrize("value", ["77", 77])
def test_event_log_id_is_found_wherever_it_is(place, value):
    body = json.loads(ENROLMENT)
    if place.startswith("data."):
        body["data"]["eventLogId"] = value
    elif place in body or place == "eventLogId":
        body[place] = value
    else:
        body["data"]["triggeringActivity"] = {"identifiers": [{"key": place, "value": value}]}
    assert parse(json.dumps(body)).event_log_id == 77


def test_streaks():
    found = parse(STREAK_START)
    assert isinstance(found, n.StreakStart)
    assert isinstance(found, n.StreakNotification)
    assert found.streaks[0].name == "Visit daily"
    assert found.streaks[0].levels == 2
    assert found.streaks[0].extra["levelValues"] == ["3", "5"]


def test_name_is_taken_from_the_event_type_where_it_stands_nowhere_else():
    assert parse(b'{"eventType": "100_streakEnd", "attributes": {}}').name == "streakEnd"


def test_unknown_name_keeps_everything():
    found = parse(b'{"eventName": "targetRenamed", "eventId": "1", "shape": {"a b": 1.10}}')
    assert isinstance(found, n.UnknownNotification)
    assert found.extra["shape"] == {"a b": Decimal("1.10")}


def test_what_has_no_field_is_kept_where_it_stood():
    found = parse(UNIFIED)
    assert found.extra["data"]["unifiedTargetGroupDetails"]["unifiedTargetsAchievementCondition"]
    body = json.loads(ACHIEVED_RAW)
    body["data"]["targetDetails"]["description"] = "spend more"
    body["data"]["milestoneDetails"][0]["points"] = 5
    found = parse(json.dumps(body))
    assert found.targets[0].extra == {"description": "spend more"}
    assert found.milestones[0].extra == {"points": 5}
    assert found.activity.extra["enteredBy"] == {"id": 100007}


def test_one_unreadable_item_loses_no_other():
    body = json.loads(UNIFIED)
    body["data"]["targetData"].append("nonsense")
    found = parse(json.dumps(body))
    assert found.rule_ids == (1986,)
    assert found.extra["data"]["targetData"][1] == "nonsense"


def test_an_unreadable_field_is_none_and_stays_in_extra():
    body = json.loads(ACHIEVED_RAW)
    body["data"]["achievedTargetValue"] = "a lot"
    body["createdAt"] = {"not": "a time"}
    found = parse(json.dumps(body))
    assert found.achieved_value is None
    assert found.extra["data"]["achievedTargetValue"] == "a lot"
    assert found.created_at is None
    assert found.extra["createdAt"] == {"not": "a time"}
    assert found.user_id == 564332013


def test_without_an_event_id_the_body_is_its_own_key():
    one, other = b'{"eventName":"streakEnd"}', b'{"eventName": "streakEnd"}'
    assert parse(one).event_id == parse(one).event_id != parse(other).event_id


def test_personal_data_is_in_no_repr():
    body = json.loads(ACHIEVED_RAW)
    body["data"]["customerIdentifiers"] |= {"mobile": "919900112233", "firstName": "Asha"}
    body["data"]["triggeringActivity"]["enteredBy"]["name"] = "Asha"
    found = parse(json.dumps(body))
    assert found.extra["customerIdentifiers"]["mobile"] == "919900112233"
    assert "9199" not in repr(found)
    assert "Asha" not in repr(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"streakEnd"',
        b"{}",
        b'{"eventName": ""}',
        b'{"eventName": 7.5}',
        b"\xff\xfe{",
        b'{"eventName": "streakEnd"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"name=streakEnd&mobile=919900112233",
    ],
    ids=range(12),
)
def test_what_is_no_notification_is_one_error_that_quotes_nothing(body):
    with pytest.raises(BadNotification) as caught:
        parse(body)
    assert "9199" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not caught.value.retryable


def _mutated(sample: bytes, random_: random.Random) -> bytes:
    """A sample with bytes changed, cut, doubled, or values of another kind."""
    if random_.random() < 0.5:
        body = bytearray(sample)
        for _ in range(random_.randint(1, 8)):
            at = random_.randrange(len(body))
            body[at : at + random_.randint(0, 3)] = random_.randbytes(random_.randint(0, 3))
        return bytes(body[: random_.randint(0, len(body))] if random_.random() < 0.3 else body)
    odd: list = [
        None,
        0,
        -1,
        2**70,
        1e400,
        "",
        "x",
        "1e999999999",
        [],
        [[]],
        [None],
        {},
        {"id": []},
        True,
    ]

    def change(value: object) -> object:
        if random_.random() < 0.08:
            return random_.choice(odd)
        if isinstance(value, dict):
            return {k: change(v) for k, v in value.items() if random_.random() > 0.05}
        return [change(v) for v in value] if isinstance(value, list) else value

    return json.dumps(change(json.loads(sample))).encode()


@given(seed=st.integers(0, 2**32))
def test_mutated_samples_are_a_notification_or_bad(seed):
    random_ = random.Random(seed)
    for _ in range(40):
        try:
            found = parse(_mutated(random_.choice(ALL), random_))
        except BadNotification:
            continue
        assert isinstance(found, Notification)
        assert isinstance(found.event_id, str)
        hash(found), repr(found)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_notification_or_bad(body):
    with pytest.raises(BadNotification):
        parse(body)
