"""Whatever bytes come, the caller sees a CapillaryError or a right answer: nothing raw."""

import json
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from capillary_targets import CapillaryError, EventsPage, Target
from capillary_targets.structuring import structurer
from capillary_targets.wire import Answer, read_events, read_targets, read_token

from .conftest import examples, sample

PLAIN = structurer()
SAMPLES = [
    sample(name)
    for name in (
        "active_targets_import",
        "active_targets_transaction",
        "error_310011_invalid_user",
        "target_events_behavioral",
        "target_events_one_period",
        "target_events_transactional",
    )
]
STATUSES = st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 429, 498, 500, 503, 522, 999])

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["2025-01-22 14:00:00.0", "0000-00-00 00:00:00.0", "1e999", "310149", "498"])
)
KEYS = st.sampled_from(
    """data errors warnings pagination limit offset total response status code message id filters
    entityIds attribution createdOn createdOnISO createdBy defaultValues extra eventLogId eventDate
    targetPeriodDefaultValuesMap eventDateISO targetValue uniqueId accessToken ttlSeconds
    extendedFieldInfo targetMilestoneTriggers""".split()  # noqa: SIM905 - readable as it is
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=25,
)


def _read(body: bytes, status: int) -> None:
    answer = Answer(status, body)
    with suppress(CapillaryError):
        assert all(isinstance(target, Target) for target in read_targets(answer, PLAIN))
    with suppress(CapillaryError):
        assert isinstance(read_events(answer, PLAIN), EventsPage)
    with suppress(CapillaryError):
        assert read_token(answer, PLAIN).ttl_seconds > 0


@examples(60)
@given(st.binary(max_size=64), STATUSES)
@example(b"[" * 100_000, 200)
@example(b'{"data":' * 50_000, 200)
@example(b'{"data": [{"eventLogId": 1, "targetValue": 1e99999999999999999999}]}', 200)
@example(b'{"data": [{"eventLogId": 1, "targetValue": "1e99999"}]}', 200)
@example(b'{"data": [{"eventLogId": ' + b"9" * 5000 + b"}]}", 200)
@example(b'{"data": [{"id": 1, "name": "\\ud800"}]}', 200)
def test_any_bytes(body: bytes, status: int) -> None:
    _read(body, status)


@examples(100)
@given(
    st.sampled_from(SAMPLES),
    st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 30), st.binary(max_size=6)),
        min_size=1,
        max_size=3,
    ),
    STATUSES,
)
def test_mutated_samples(body: bytes, cuts: list[tuple[int, int, bytes]], status: int) -> None:
    for place, length, put in cuts:
        at = place % (len(body) + 1)
        body = body[:at] + put + body[at + length :]
    _read(body, status)


@examples(60)
@given(st.sampled_from(SAMPLES), st.data())
def test_samples_with_a_value_replaced(body: bytes, data: st.DataObject) -> None:
    document = json.loads(body)
    node = document
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(JSON)
            break
        node = node[key]
    _read(json.dumps(document).encode(), 200)
