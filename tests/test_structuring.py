"""The quick way into models and the way over cattrs are one: same pages, same refusals."""

import copy
import gc
import json
import pickle
from decimal import Decimal
from typing import Any, cast, get_type_hints
from unittest.mock import patch
from zoneinfo import ZoneInfo

import attrs
import cattrs
import msgspec
import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import example, given
from hypothesis import strategies as st

from capillary_targets import BadResponse, CapillaryError, TargetEvent, structuring
from capillary_targets.models import wire_name
from capillary_targets.structuring import Structurer, structurer
from capillary_targets.wire import Answer, read_events, read_targets

from .conftest import examples, sample

ZONES = (None, ZoneInfo("Asia/Kolkata"))
ROW = {
    "eventLogId": 606072487,
    "eventName": "ADD_TRANSACTION",
    "customerId": 564332013,
    "eventDisplayName": None,
    "uniqueId": "880616667",
    "eventDate": "2025-01-09 13:00:12.0",
    "eventProcessedDate": "2025-01-09 13:00:12.0",
    "periodId": 9887,
    "targetGroupId": 1717,
    "targetRuleId": 1986,
    "targetValue": 2000,
}

# JSON texts, not values: the spelling of a number is what must survive.
INTEGERS = st.integers(-(2**64), 2**64).map(str) | st.sampled_from(
    ["1.0", "-0", "1e3", '"12"', '"-7"', '"٣"', '""', str(2**63), str(-(2**63)), "01", "1_0"]
)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.sampled_from(
    [
        "1.000",
        "-0",
        "-0.0",
        "1E+400",
        "1e-5",
        "9" * 40,
        '"350.000"',
        '"NaN"',
        '"1_000"',
        '" 1"',
        '"\u0661"',
        '"-Infinity"',
        '"1e5"',
        "1e99999999999999999999",
    ]
)
MOMENTS = (
    st.datetimes().map(str)
    | st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat())
    | st.sampled_from(
        [
            "2031-02-03 23:59:59.0",
            "2031-02-03T23:59:59Z",
            "2031-02-03T04:05:06.000+0530",
            "2031-02-03T04:05:06.000+05:30",
            "2031-02-03 04:05:06.123456789",
            "2031-02-30 00:00:00.0",
            "0000-00-00 00:00:00.0",
            "2031-02-03",
            "2031-02-03T24:00:00Z",
        ]
    )
).map(json.dumps) | st.sampled_from(["1723193084000", "1723193084000.5", "-1", "9" * 30, '""'])
TEXTS = st.text(max_size=6).map(json.dumps) | st.sampled_from(["7", '"\\ud800"', '"\\u0041"', "{}"])
ODD = st.sampled_from(["null", "true", "[]", "{}", '"x"', "3", "3.5", "[null]"])
KINDS = {
    "eventLogId": INTEGERS,
    "eventName": TEXTS,
    "customerId": INTEGERS,
    "eventDisplayName": TEXTS,
    "uniqueId": TEXTS,
    "eventDate": MOMENTS,
    "eventProcessedDate": MOMENTS,
    "periodId": INTEGERS,
    "targetGroupId": INTEGERS,
    "targetRuleId": INTEGERS,
    "targetValue": NUMBERS,
    "eventDateISO": MOMENTS,
    "eventProcessedDateISO": MOMENTS,
    "eventNameISO": TEXTS,
    "brandNew": NUMBERS | TEXTS,
}


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"


@st.composite
def rows(draw: st.DrawFn) -> str:
    """A documented row in which up to three fields are something else, or missing."""
    fields = {name: json.dumps(value) for name, value in ROW.items()}
    for name in draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=3)):
        text = draw(KINDS[name] | ODD | st.none())
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = text
    return _object(fields)


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    """A documented answer in which a part may be something else, or missing."""
    fields = {
        "pagination": '{"limit":10,"offset":0,"total":2}',
        "data": f"[{','.join(draw(st.lists(rows(), max_size=3)))}]",
        "errors": "[]",
        "warnings": "[]",
    }
    odd = {
        "pagination": st.sampled_from(['{"limit":"10"}', '{"total":1.0}', '{"offset":null}', "7"]),
        "data": st.just("null"),
        "errors": st.sampled_from(['[{"code":0}]', '[{"code":310149,"message":"none"}]', '"no"']),
        "warnings": st.sampled_from(['[{"code":"7","message":"capped"},"odd"]', '{"code":1}']),
        "response": st.sampled_from(['{"status":{"code":498,"message":"x"}}', '{"status":{}}']),
        "status": st.sampled_from(['{"code":401,"message":"x"}', '{"code":200}']),
        "more": TEXTS,
    }
    for name in draw(st.lists(st.sampled_from(sorted(odd)), max_size=2)):
        text = draw(odd[name] | ODD | st.none())
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = text
    return _object(fields).encode("utf-8", "surrogatepass")


def _outcome(read, answer: Answer, zone) -> tuple[Any, ...]:
    """Everything that can be told apart about what a reader did, spelling of numbers included."""
    try:
        made = read(answer, structurer(zone))
    except CapillaryError as error:
        return type(error), str(error), {**vars(error), "retry_at": None}
    return type(made), repr(made), made


def _over_cattrs(read, answer: Answer, zone) -> tuple[Any, ...]:
    with (
        patch.object(Structurer, "events", lambda *_: None),
        patch.object(Structurer, "targets", lambda *_: None),
    ):
        return _outcome(read, answer, zone)


@examples(80)
@given(pages(), st.sampled_from(ZONES), st.sampled_from([200, 200, 200, 400]))
@example(b'{"data":[{"eventLogId":1,"brandNew":"\\ud800"}]}', None, 200)
@example(b'{"data":[{"eventLogId":1,"eventDate":"2031-02-03 24:00:00"}]}', None, 200)
@example(b'{"data":[{"eventLogId":1,"eventLogId":null}]}', None, 200)
def test_both_ways_agree_on_every_page(body: bytes, zone, status: int) -> None:
    quick = _outcome(read_events, Answer(status, body), zone)
    reference = _over_cattrs(read_events, Answer(status, body), zone)
    if quick != reference:
        # Only what no model holds may differ: the quick way does not look inside unknown fields.
        assert reference[0] is BadResponse
        assert reference[2]["where"] is None
        known = json.loads(body)
        for row in known["data"]:
            row.pop("brandNew", None)
        known.pop("more", None)
        assert _over_cattrs(read_events, Answer(status, json.dumps(known).encode()), zone) == quick


@pytest.mark.parametrize("name", ["behavioral", "one_period", "transactional"])
@pytest.mark.parametrize("zone", ZONES)
def test_the_samples_take_the_quick_way(name: str, zone) -> None:
    answer = Answer(200, sample(f"target_events_{name}"))
    assert structurer(zone).events(answer.body) is not None
    assert _outcome(read_events, answer, zone) == _over_cattrs(read_events, answer, zone)


@pytest.mark.parametrize("name", ["active_targets_import", "active_targets_transaction"])
@pytest.mark.parametrize("zone", ZONES)
def test_targets_take_the_quick_way(name: str, zone) -> None:
    answer = Answer(200, sample(name))
    assert structurer(zone).targets(answer.body) is not None
    for _ in range(2):
        quick = _outcome(read_targets, answer, zone)
        assert quick == _over_cattrs(read_targets, answer, zone)


TARGET_FIELDS = st.dictionaries(
    st.sampled_from(["id", "name", "attribution", "filters", "active", "extra", "brandNew"]),
    st.sampled_from(
        [
            *("1", "null", "true", '"x"', "[]", "{}", "1e9", "01", '{"createdOn":3}'),
            '{"createdOn":"2031-02-03T04:05:06.000+0530"}',
            '[{"entityType":"ZONE","entityIds":[1]}]',
        ]
    ),
    max_size=6,
)


@examples(50)
@given(st.lists(TARGET_FIELDS, max_size=3), st.sampled_from(ZONES))
def test_both_ways_agree_on_targets(rows: list[dict[str, str]], zone) -> None:
    body = f'{{"data": [{",".join(map(_object, rows))}], "errors": null}}'.encode()
    answer = Answer(200, body)
    expected = _over_cattrs(read_targets, answer, zone)
    assert _outcome(read_targets, answer, zone) == expected
    assert _outcome(read_targets, answer, zone) == expected  # from the cache


def test_users_share_no_mutable_part_of_a_target() -> None:
    body = b'{"data":[{"id":9,"brandNew":{"a":[1]},"targetPeriodDefaultValuesMap":{"1":{}}}]}'
    answer = Answer(200, body)
    (first,) = read_targets(answer, structurer())
    first.extra["brandNew"]["a"].append(2)
    cast("dict[str, Any]", first.extra)["mine"] = 1
    with pytest.raises(TypeError, match="cannot be changed"):
        cast("dict[int, Any]", first.target_period_default_values_map).clear()
    (second,) = read_targets(answer, structurer())
    assert second.extra == {"brandNew": {"a": [1]}}
    assert list(second.target_period_default_values_map) == [1]
    assert pickle.loads(pickle.dumps(second)) == copy.deepcopy(second) == second


def test_a_zone_is_part_of_what_is_remembered() -> None:
    body = b'{"data":[{"id":8,"attribution":{"createdOn":"2031-02-03 04:05:06.0"}}]}'
    for zone in (*ZONES, *ZONES):
        (target,) = read_targets(Answer(200, body), structurer(zone))
        assert target.attribution.created_on.tzinfo is zone


def test_a_long_row_is_read_but_not_kept() -> None:
    before = structuring._read_target.cache_info().currsize
    body = json.dumps({"data": [{"id": 7, "name": "x" * 2**16}]}).encode()
    (target,) = read_targets(Answer(200, body), structurer())
    assert len(target.name) == 2**16
    assert structuring._read_target.cache_info().currsize == before


def test_an_event_read_quickly_is_an_event_like_any_other() -> None:
    page = structurer().events(sample("target_events_transactional"))
    event = page.data[0]
    made = TargetEvent(**{f.name: getattr(event, f.name) for f in attrs.fields(TargetEvent)})
    assert type(event) is TargetEvent
    assert (event, hash(event), repr(event)) == (made, hash(made), repr(made))
    assert pickle.loads(pickle.dumps(event)) == made
    assert copy.copy(event) == attrs.evolve(event) == made
    with pytest.raises(FrozenInstanceError):
        event.event_log_id = 1
    with pytest.raises(FrozenInstanceError):
        del event.event_log_id
    assert not hasattr(event, "__dict__")


def test_an_event_is_an_attrs_class_that_the_garbage_collector_does_not_look_at() -> None:
    event = TargetEvent(7, target_value=Decimal("1.000"))
    assert attrs.asdict(event)["target_value"] == Decimal("1.000")
    assert attrs.evolve(event, event_name="x") == TargetEvent(7, "x", target_value=Decimal("1.000"))
    fields: Any = attrs.fields(TargetEvent)
    *plain, extra = fields
    assert [field.default for field in plain] == [None] * 13
    assert extra.default == {}
    assert cattrs.structure(cattrs.unstructure(TargetEvent(7)), TargetEvent) == TargetEvent(7)
    assert not gc.is_tracked(event)


def test_an_event_is_read_and_written_under_the_apis_names() -> None:
    names = [field.name for field in attrs.fields(TargetEvent)]
    spelled = [field.encode_name for field in msgspec.structs.fields(TargetEvent)]
    assert spelled == [wire_name(name) for name in names]
    event = structurer().events(sample("target_events_transactional")).data[0]
    assert list(msgspec.json.decode(msgspec.json.encode(event))) == spelled
    assert list(msgspec.structs.asdict(event)) == list(attrs.asdict(event)) == names


HINTS = get_type_hints(TargetEvent)


@pytest.mark.parametrize("name", [name for name, hint in HINTS.items() if hint == Decimal | None])
@pytest.mark.parametrize("text", ["NaN", "-inf", "Infinity", "sNaN12"])
def test_an_amount_that_is_no_number_is_refused(text: str, name: str) -> None:
    body = json.dumps({"data": [{"eventLogId": 1, wire_name(name): text}]}).encode()
    with pytest.raises(BadResponse, match=rf"data\[0\]\.{wire_name(name)}"):
        read_events(Answer(200, body), structurer())


@pytest.mark.parametrize("twin", [name for name in HINTS if name.endswith("_iso")])
def test_a_time_with_a_zone_is_preferred_to_its_twin_without_one(twin: str) -> None:
    name = twin.removesuffix("_iso")
    times = {wire_name(name): "2025-01-01 00:00:00", wire_name(twin): "2025-01-01T00:00:00+05:30"}
    body = json.dumps({"data": [{"eventLogId": 1, **times}]}).encode()
    (event,) = read_events(Answer(200, body), structurer()).events
    assert getattr(event, name).isoformat() == "2025-01-01T00:00:00+05:30"
