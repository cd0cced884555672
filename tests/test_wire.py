"""Bytes to models and to exceptions: the vendor's samples, and every envelope it is known for."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import errors
from capillary_targets.structuring import structurer
from capillary_targets.wire import Answer, NullData, read_events, read_targets

PLAIN = structurer()


def _events(body: bytes | str, status: int = 200):
    body = body.encode() if isinstance(body, str) else body
    return read_events(Answer(status, body), PLAIN)


def _event(**fields: object) -> str:
    row = {"eventLogId": 1} | fields
    return f'{{"data": [{json.dumps(row)}], "errors": [], "warnings": []}}'


def test_the_other_fields_of_a_target_read_and_unknown_ones_are_kept() -> None:
    body = """{"data": [{"id": 9, "eventName": "ReturnBill", "description": null,
      "brandNew": {"a": 1.10},
      "targetPeriodDefaultValuesMap": {"501": {"id": 1, "periodId": 501, "defaultValue": 250.500}},
      "defaultValues": [{"id": 2, "defaultValue": "350.000", "targetName": "x"}],
      "extendedFieldInfo": {"name": "f", "aggregateFunction": "SUM"},
      "targetMilestoneTriggers": [{"id": 3, "isActive": true, "triggerValue": 5}],
      "targetAudienceFilter": [{"audienceGroupId": 4}], "enrolmentMethod": "AUDIENCE_FILTER",
      "attribution": {"createdOn": "2031-02-03T04:05:06.000+0530",
                      "createdOnISO": "2031-02-02T22:35:06Z"}
      }], "errors": null}"""
    (target,) = read_targets(Answer(200, body.encode()), PLAIN)
    assert target.target_period_default_values_map[501].default_value == Decimal("250.500")
    assert str(target.default_values[0].default_value) == "350.000"
    assert target.extended_field_info.aggregate_function == "SUM"
    assert target.target_milestone_triggers[0].trigger_value == 5
    assert target.target_audience_filter[0].audience_group_id == 4
    assert target.enrolment_method == "AUDIENCE_FILTER"
    assert target.event_name == "ReturnBill"
    assert target.extra == {"brandNew": {"a": Decimal("1.10")}}
    assert target.attribution.created_on == datetime(2031, 2, 2, 22, 35, 6, tzinfo=UTC)


def test_an_empty_list_is_nothing() -> None:
    body = b'{"data": [], "errors": null, "warnings": null}'
    assert read_targets(Answer(200, body), PLAIN) == []
    assert _events(body).events == ()


@pytest.mark.parametrize("read", [read_targets, read_events])
def test_null_data_without_errors_is_asked_again(read: Any) -> None:
    with pytest.raises(NullData) as caught:
        read(Answer(200, b'{"data": null, "errors": null, "warnings": null}'), PLAIN)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("pagination", "empty"),
    [
        ('{"limit": 10, "offset": 0, "total": 0}', True),
        ('{"limit": 10, "offset": 3, "total": 30}', True),
        ('{"limit": 10, "offset": 2, "total": 30}', False),
        ('{"limit": 10, "offset": 0, "total": null}', False),
        ("{}", False),
    ],
)
def test_null_events_are_nothing_where_the_numbers_beside_say_so(
    pagination: str, empty: bool
) -> None:
    body = f'{{"data": null, "errors": null, "pagination": {pagination}}}'
    if empty:
        assert _events(body).events == ()
    else:
        with pytest.raises(NullData):
            _events(body)


def test_pagination_may_be_text_or_absent() -> None:
    page = _events('{"data": [], "pagination": {"limit": "10", "offset": "2", "total": "31"}}')
    assert (page.pagination.limit, page.pagination.offset, page.total) == (10, 2, 31)
    assert _events('{"data": []}').total is None


def test_warnings_are_shown_never_raised() -> None:
    body = '{"data": [], "errors": [], "warnings": [{"code": "7", "message": "capped"}, "odd", 3]}'
    assert [(w.code, w.message) for w in _events(body).warnings] == [
        (7, "capped"),
        (None, "odd"),
        (None, None),
    ]


@pytest.mark.parametrize("digits", ["", ".0", ".123456", ".123456789"])
def test_times_have_none_to_nine_fraction_digits(digits: str) -> None:
    (event,) = _events(_event(eventDate=f"2031-02-03 01:02:03{digits}")).events
    assert event.event_date.replace(microsecond=0) == datetime(2031, 2, 3, 1, 2, 3)  # noqa: DTZ001


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_amount_is_exact(amount: Decimal) -> None:
    text = f"{amount:f}" if abs(amount.adjusted()) < 40 else str(amount)
    for spelled in (text, f'"{text}"'):
        (event,) = _events('{"data": [{"eventLogId": 1, "targetValue": ' + spelled + "}]}").events
        assert event.target_value == amount
        assert event.target_value.as_tuple().exponent == Decimal(text).as_tuple().exponent


@pytest.mark.parametrize(
    ("row", "where", "says"),
    [
        ({"eventLogId": True}, "data[1].eventLogId", "boolean"),
        ({"eventLogId": 2**63}, "data[1].eventLogId", "64 bits"),
        ({"targetValue": "12,5"}, "data[1].targetValue", "a string"),
        ({"eventDate": "yesterday"}, "data[1].eventDate", "a time"),
        ({"uniqueId": []}, "data[1].uniqueId", "an array"),
    ],
)
def test_a_bad_field_is_named(row: dict, where: str, says: str) -> None:
    bad = json.dumps({"eventLogId": 2} | row)
    with pytest.raises(errors.BadResponse, match=says) as caught:
        _events('{"data": [{"eventLogId": 1}, ' + bad + "]}")
    assert caught.value.where == where
    assert not caught.value.retryable


def test_a_deep_bad_field_of_a_target_is_named() -> None:
    body = b'{"data": [{"id": 1, "filters": [{"entityIds": [1, "x"]}]}]}'
    with pytest.raises(errors.BadResponse) as caught:
        read_targets(Answer(200, body), PLAIN)
    assert caught.value.where == "data[0].filters[0].entityIds[1]"
    assert caught.value.excerpt == "'x'"


@pytest.mark.parametrize("status", [200, 201, 400, 404, 500])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (310011, errors.InvalidUser),
        (310130, errors.InvalidEnrollmentType),
        (310018, errors.TargetRuleNotFound),
        (310019, errors.TargetPeriodNotFound),
        (310149, errors.NoRecordFound),
        (320001, errors.AuthError),
        (4000, errors.AuthError),
    ],
)
def test_the_body_decides_whatever_the_status(
    code: int, kind: type[errors.CapillaryError], status: int
) -> None:
    for spelled in (code, str(code)):
        body = {"data": None, "errors": [{"code": spelled, "message": "why"}], "warnings": None}
        with pytest.raises(kind, match="why") as caught:
            _events(json.dumps(body), status)
        assert (vars(caught.value)["code"], caught.value.status) == (code, status)
        assert caught.value.retryable is False


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (200, '{"errors": [{"code": 521, "message": "busy"}]}', errors.ServerBusy, True),
        (500, '{"errors": [{"code": 99, "message": "?"}]}', errors.ApiError, True),
        (400, '{"errors": [{"code": 99, "message": "?"}]}', errors.ApiError, False),
        (400, '{"errors": [{"message": "no code"}]}', errors.ApiError, False),
        (400, '{"errors": ["text"]}', errors.ApiError, False),
        (
            200,
            '{"response": {"status": {"success": "true", "code": "498", "message": "x"}}}',
            errors.AuthError,
            False,
        ),
        (200, '{"status": {"code": 401, "message": "x"}}', errors.AuthError, False),
        (200, '{"status": 503, "error": "busy"}', errors.ServiceUnavailable, True),
        (200, '{"statusCode": "429", "message": "slow"}', errors.RateLimited, True),
        (200, '{"error": {"code": 504, "status": "LATE"}}', errors.ServiceUnavailable, True),
        (200, '{"code": 401, "message": "x"}', errors.AuthError, False),
        (200, '{"code": 0, "status": "SUCCESS", "error": "?"}', errors.BadResponse, False),
        (404, '{"code": 404, "message": "no route"}', errors.EndpointGone, False),
        (
            403,
            "HttpStatusCode=403 errorMessage=Not authorized. errorCode=4000",
            errors.AuthError,
            False,
        ),
        (
            503,
            "HttpStatusCode=503 errorMessage=Status unavailable! errorCode=4001",
            errors.AuthorizationUnavailable,
            True,
        ),
        (400, '{"message": "plain"}', errors.ApiError, False),
        (401, "", errors.AuthError, False),
        (403, "<html>Cloudflare</html>", errors.AuthError, False),
        (404, "<html></html>", errors.EndpointGone, False),
        (410, "", errors.EndpointGone, False),
        (429, "", errors.RateLimited, True),
        (429, '{"errors": [{"code": 99, "message": "slow down"}]}', errors.RateLimited, True),
        (461, "", errors.ServerBusy, True),
        (502, "<html>Bad gateway</html>", errors.ServiceUnavailable, True),
        (522, "", errors.ServiceUnavailable, True),
        (302, "", errors.BadResponse, False),
        (200, "", errors.BadResponse, True),
        (200, '{"data": [', errors.BadResponse, True),
        (200, "[1]", errors.BadResponse, True),
        (200, "{}", errors.BadResponse, False),
        (200, '{"data": {}}', errors.BadResponse, False),
    ],
)
def test_every_refusal_has_its_class(
    status: int, body: str, kind: type[errors.CapillaryError], retryable: bool
) -> None:
    with pytest.raises(errors.CapillaryError) as caught:
        _events(body, status)
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.status in {status, None}


@pytest.mark.parametrize(
    "body",
    [
        b"<title>400 The plain HTTP request was sent to HTTPS port</title>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
)
def test_a_server_that_wants_https_is_told(body: bytes) -> None:
    with pytest.raises(errors.BadResponse, match="wants https, not http: check the base URL"):
        _events(body, 400)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://eu.example/v3/users/5?mobile=12", "redirects to https://eu.example, which"),
        ("http://me:hidden@host:81/x", "redirects to http://host:81, which"),
        *(
            (odd, "redirects, which is not followed")
            for odd in ("", "/login", "http://[::bad", "x:")
        ),
    ],
)
def test_a_redirect_says_where_to_and_no_more(location: str, shown: str) -> None:
    with pytest.raises(errors.BadResponse, match=f"the server {shown}"):
        read_events(Answer(301, b"", {"Location": location}), PLAIN)


def test_an_error_item_with_code_0_is_no_error() -> None:
    assert _events('{"data": [], "errors": [{"code": 0, "message": ""}]}').events == ()


# --- answers that are never retried, and what is kept on those that are ---


@pytest.mark.parametrize("status", [200, 400, 429, 500, 503, 522])
@pytest.mark.parametrize("code", [310126, 310008, 310999, 310000, 300004, "310126"])
def test_an_answer_of_the_service_is_never_retried_whatever_its_status(
    code: int | str, status: int
) -> None:
    body = json.dumps({"data": None, "errors": [{"code": code, "message": "why"}]})
    with pytest.raises(errors.ApiError, match="why") as caught:
        _events(body, status)
    assert (caught.value.code, caught.value.retryable) == (int(code), False)
    assert caught.value.scope == "request"


def _said(code: int) -> str:
    return json.dumps({"errors": [{"code": code, "message": "busy"}]})


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, _said(461)),
        (200, _said(521)),
        (503, _said(4001)),
        (200, _said(429)),
        (200, _said(503)),
        (500, _said(99)),
        (200, '{"status": {"code": 503, "message": "busy"}}'),
        (200, '{"response": {"status": {"code": "504", "message": "busy"}}}'),
        (503, "HttpStatusCode=503 errorMessage=busy errorCode=4001"),
        (461, ""),
        (429, ""),
        (502, "<html>busy</html>"),
        (503, '{"message": "busy"}'),
    ],
)
def test_every_retryable_error_keeps_retry_after(status: int, body: str) -> None:
    with pytest.raises(errors.CapillaryError) as caught:
        read_events(Answer(status, body.encode(), {"Retry-After": "7"}), PLAIN)
    assert caught.value.retryable
    assert caught.value.retry_after == 7
    assert caught.value.scope == "server"


def test_a_refusal_has_no_retry_after() -> None:
    with pytest.raises(errors.InvalidUser) as caught:
        read_events(Answer(429, _said(310011).encode(), {"Retry-After": "7"}), PLAIN)
    assert caught.value.retry_after is None


# --- an answer that belongs to another call ---


def _page(*rows: dict[str, object]) -> Answer:
    return Answer(200, json.dumps({"data": rows, "errors": [], "warnings": []}).encode())


@pytest.mark.parametrize("way", ["direct", "plain"])
def test_rows_of_another_target_only_are_another_calls_answer(way: str) -> None:
    odd = {"eventLogId": "1"} if way == "plain" else {"eventLogId": 1}
    rows = [{**odd, "targetRuleId": rule} for rule in (9, 10)]
    with pytest.raises(errors.BadResponse, match="rows of target rule 9, not 8") as caught:
        read_events(_page(*rows), PLAIN, 5, 8)
    assert caught.value.retryable
    for right in (8, None):  # one row of the right rule, or of no rule, and it may be ours
        page = read_events(_page(*rows, {**odd, "targetRuleId": right}), PLAIN, 5, 8)
        assert len(page.events) == 3


@pytest.mark.parametrize(
    ("customers", "named"),
    [([5, None], None), ([], None), ([5, 7], "7"), ([9, 7, 7, 8, 6], "6, 7, 8"), ([7], "7")],
)
def test_rows_of_another_customer_are_noted(customers: list[int | None], named: str | None) -> None:
    rows = [{"eventLogId": 1, "customerId": one, "targetRuleId": 8} for one in customers]
    page = read_events(_page(*rows), PLAIN, 5, 8)
    assert len(page.events) == len(customers)
    if named is None:
        assert page.warnings == ()
    else:
        (note,) = page.warnings
        assert note.code is None
        assert note.message == f"rows with another customerId than 5: {named}"


def test_rows_of_another_period_are_noted() -> None:
    rows = [{"eventLogId": 1, "periodId": one, "targetRuleId": 8} for one in (9889, None, 7)]
    assert read_events(_page(*rows), PLAIN, 5, 8).warnings == ()
    (note,) = read_events(_page(*rows), PLAIN, 5, 8, 9889).warnings
    assert note.message == "rows with another periodId than 9889: 7"


# --- characters that are none ---

EMOJI = "\N{PARTY POPPER}"
NOTE = "not plain UTF-8"


def _named(spelled: bytes) -> bytes:
    return b'{"data": [{"eventLogId": 1, "eventName": "' + spelled + b'"}], "errors": []}'


@pytest.mark.parametrize(
    ("body", "charset", "name"),
    [
        (_named(b"a\\ud83c"), None, "a\ufffd"),
        (_named(b"\\ud83cb"), None, "\ufffdb"),
        (_named(b"\\udf89\\ud83c"), None, "\ufffd\ufffd"),
        (_named(b"\\ud83c\\ud83c\\udf89"), None, "\ufffd\U0001f389"),
        (_named(b"\\\\ud83c \\ud83c"), None, "\\ud83c \ufffd"),
        (_named(b"a\xff"), None, "a\ufffd"),
        (_named(EMOJI.encode()[:3]), "utf-8", "\ufffd"),
        (_named(b"\xed\xa0\xbc"), None, "\ufffd\ufffd\ufffd"),
        (b"\xef\xbb\xbf" + _named(EMOJI.encode()), None, EMOJI),
        (_named("é".encode("latin-1")), "ISO-8859-1", "é"),
        (_named("é".encode("latin-1")), '"latin1"', "é"),
        (_named("д".encode("cp1251")), "windows-1251", "д"),
        (_named("é".encode()).decode().encode("utf-16"), None, "é"),
        (_named("é".encode()).decode().encode("utf-16-le"), "utf-16-le", "é"),
        (_named("é".encode("latin-1")), "no-such-thing", "\ufffd"),
        (_named("é".encode("latin-1")), "zlib", "\ufffd"),
        (_named("é".encode("latin-1")), "utf-7", "\ufffd"),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_what_is_no_character_is_replaced_and_noted(
    body: bytes, charset: str | None, name: str, status: int
) -> None:
    kind = "application/json" if charset is None else f"application/json; charset={charset}"
    if status == 400:
        body = body.replace(b'"errors": []', b'"errors": [{"code": 310011, "message": "m"}]')
        if b"310011" in body:
            with pytest.raises(errors.InvalidUser):
                read_events(Answer(status, body, {"Content-Type": kind}), PLAIN)
        return
    page = read_events(Answer(status, body, {"Content-Type": kind}), PLAIN)
    assert page.events[0].event_name == name
    assert [NOTE in (one.message or "") for one in page.warnings] == [True]
    assert json.loads(page.body)["data"][0]["eventName"] == name  # what is kept can be read again


def test_targets_with_such_characters_are_read_and_noted() -> None:
    found = read_targets(Answer(200, b'{"data": [{"id": 1, "name": "\\ud83c"}]}'), PLAIN)
    assert (found[0].name, len(found.warnings)) == ("\ufffd", 1)
    assert found[0].raw is not None


def test_a_date_of_zeros_in_a_target_is_noted_too() -> None:
    body = b'{"data": [{"id": 1, "attribution": {"createdOn": "0000-00-00 00:00:00"}}]}'
    for _ in range(2):
        (target,) = found = read_targets(Answer(200, body), PLAIN)
        assert target.attribution.created_on is None
        assert [one.message for one in found.warnings] == [
            "'0000-00-00 00:00:00' was read as no value"
        ]


def test_plain_text_is_left_alone() -> None:
    page = _events(_named(f"\\u00e9 {EMOJI} \\ud83c\\udf89".encode()))
    assert page.events[0].event_name == f"é {EMOJI} {EMOJI}"
    assert page.warnings == ()


# --- values that are none ---


@pytest.mark.parametrize(
    "zero",
    [
        "0000-00-00 00:00:00",
        "0000-00-00 00:00:00.0",
        "0000-00-00",
        "0000-00-00T00:00:00Z",
        "0000-00-00T00:00:00.000+0000",
        "",
        "  ",
        "null",
    ],
)
def test_a_date_of_zeros_is_none_and_noted(zero: str) -> None:
    page = _events(_event(eventDate=zero, eventDateISO=zero, eventProcessedDate="2031-02-03"[:0]))
    (event,) = page.events
    assert (event.event_date, event.event_date_iso, event.event_processed_date) == (None,) * 3
    assert {one.message for one in page.warnings} == {
        f"{zero!r} was read as no value",
        "'' was read as no value",
    }


@pytest.mark.parametrize("name", ["eventLogId", "customerId", "periodId", "targetValue"])
def test_an_empty_number_is_none_and_noted(name: str) -> None:
    page = _events(_event(**{name: ""}))
    assert len(page.events) == len(page.warnings) == 1


def test_an_empty_text_is_a_text() -> None:
    page = _events(_event(eventName="", eventDisplayName="null"))
    assert (page.events[0].event_name, page.events[0].event_display_name) == ("", "null")
    assert page.warnings == ()


def test_whole_numbers_may_have_zeros_behind_the_point() -> None:
    body = (
        '{"data": [{"eventLogId": 7.0, "customerId": 1e3}], '
        '"pagination": {"total": 2.0, "limit": 1E1, "offset": "0"}}'
    )
    page = _events(body)
    assert (page.events[0].event_log_id, page.events[0].customer_id) == (7, 1000)
    assert (page.total, page.pagination.limit, page.pagination.offset) == (2, 10, 0)


@pytest.mark.parametrize("number", ["1.5", "1e99999999", "1e19", "-0.1"])
def test_other_fractions_are_no_integers(number: str) -> None:
    with pytest.raises(errors.BadResponse, match=r"data\[0\]\.eventLogId: expected an integer"):
        _events(f'{{"data": [{{"eventLogId": {number}}}]}}')


def test_an_id_that_is_needed_cannot_be_empty() -> None:
    with pytest.raises(errors.BadResponse, match=r"data\[0\]\.id"):
        read_targets(Answer(200, b'{"data": [{"id": ""}]}'), PLAIN)


# --- keys that the models do not know ---


@pytest.mark.parametrize("number", ['"1"', "1"])
def test_unknown_keys_of_an_event_are_kept(number: str) -> None:
    body = (
        f'{{"data": [{{"eventLogId": {number}, "new": 1.50, "none": null, "extra": [1]}}, {{}}]}}'
    )
    first, second = _events(body).events
    assert first.extra == {"new": Decimal("1.50"), "extra": [1]}
    assert str(first.extra["new"]) == "1.50"
    assert (first.event_log_id, second.event_log_id, second.extra) == (1, None, {})
    with pytest.raises(TypeError, match="cannot be changed"):  # all events share it
        second.extra["mine"] = 1
    assert len({first, second, first}) == 2
