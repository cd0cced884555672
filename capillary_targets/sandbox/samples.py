"""The vendor's printed answers, and the few users who give exactly those.

Source: the samples of the two API pages ("Get active targets", "Get target events"). Whatever those
do not print (a second row, the rule behind a history) is made up here, and marked so.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from importlib.resources import files

import msgspec

from .model import Event, Group, Period, Rule


def read(name: str) -> bytes:
    """The bytes of a printed answer."""
    return (files(__package__) / "samples" / f"{name}.json").read_bytes()


TRANSACTIONAL = read("target_events_transactional")
ONE_PERIOD = read("target_events_one_period")
BEHAVIOURAL = read("target_events_behavioral")
IMPORT_TARGETS = read("active_targets_import")
TRANSACTION_TARGETS = read("active_targets_transaction")
ERRORS = {
    310011: read("error_310011_invalid_user"),
    310130: read("error_310130_invalid_enrollment_type"),
}

TRANSACTIONAL_USER = 564_332_013
BEHAVIOURAL_USER = 387_544_807
IMPORT_USER = 42_381_788
TRANSACTION_USER = 42_381_789


PRINTED_EVENTS = {
    (TRANSACTIONAL_USER, 1986, None): (TRANSACTIONAL, 10),
    (TRANSACTIONAL_USER, 1986, 9889): (ONE_PERIOD, 30),
    (BEHAVIOURAL_USER, 79192, None): (BEHAVIOURAL, 1),
}
"""A page's bytes and the page size printed in it, by (user, rule, period asked for)."""

PRINTED_TARGETS = {2579: IMPORT_TARGETS, 50: TRANSACTION_TARGETS}
"""By the rule that the answer lists."""


class _Printed(msgspec.Struct):
    data: list[Event]


def _rows(body: bytes) -> list[Event]:
    """The rows of a printed answer, amounts with the digits that are printed."""
    return msgspec.json.decode(body, type=_Printed).data


_BEHAVIOURAL_ROWS = _rows(BEHAVIOURAL)
# Made up: the printed page says `total` 2 and shows one row.
_BEHAVIOURAL_ROWS += [
    msgspec.structs.replace(
        _BEHAVIOURAL_ROWS[0],
        event_log_id=31_748_166,
        unique_id="0f7c1d52-93b8-4c1e-a7f0-5e2b8d6c4a19",
        event_date="2024-12-06 00:00:00.0",
    )
]

HISTORIES: dict[tuple[int, int], list[Event]] = {
    (TRANSACTIONAL_USER, 1986): _rows(TRANSACTIONAL),
    (BEHAVIOURAL_USER, 79192): _BEHAVIOURAL_ROWS,
}
"""By (user, rule)."""


def _group(group_id: int, *periods: tuple[int, str, str]) -> Group:
    """A group around printed ids; the periods' days are made up to fit the printed events."""
    return Group(
        group_id,
        f"Group {group_id}",
        "DEFAULT",
        tuple(
            Period(number, start, end, f"G{group_id}-{number}") for number, start, end in periods
        ),
    )


def _printed_rule(body: bytes, group: Group, *, user_created: bool) -> Rule:
    """The rule that a printed answer of active targets lists."""
    row = msgspec.json.decode(body)["data"][0]
    created = datetime.fromisoformat(row["attribution"]["createdOn"])
    return Rule(
        id=row["id"],
        name=row["name"],
        target_type=row["targetType"],
        target_entity=row["targetEntity"],
        group=group,
        enrolment_method=row["enrolmentMethod"],
        user_created=user_created,
        created_ms=int(created.timestamp() * 1000),
        expression=row["expression"],
    )


RULES: dict[int, Rule] = {
    rule.id: rule
    for rule in (
        # The page's example asks for user-created targets only and gets this one.
        _printed_rule(
            IMPORT_TARGETS, _group(1898, (9801, "2024-08-01", "2024-12-31")), user_created=True
        ),
        _printed_rule(
            TRANSACTION_TARGETS, _group(40, (201, "2022-08-01", "2025-12-31")), user_created=False
        ),
        Rule(
            id=1986,
            name="Spend 1986",
            target_type="GROSS_SALES",
            target_entity="TRANSACTION",
            group=_group(
                1717,
                (9887, "2025-01-01", "2025-01-15"),
                (9888, "2025-01-16", "2025-01-21"),
                (9889, "2025-01-22", "2025-01-31"),
            ),
            enrolment_method="TRANSACTION",
            user_created=False,
            created_ms=1_735_500_000_000,
            target_value=Decimal("5000.000"),
            shows_default=True,
        ),
        Rule(
            id=79192,
            name="Behavioural 79192",
            target_type="COUNT",
            target_entity="EVENT",
            group=_group(52065, (77865, "2024-12-01", "2024-12-31")),
            enrolment_method="IMPORT",
            user_created=False,
            created_ms=1_732_900_000_000,
        ),
    )
}

ENROLLED = {
    TRANSACTIONAL_USER: (1986,),
    BEHAVIOURAL_USER: (79192,),
    IMPORT_USER: (2579,),
    TRANSACTION_USER: (50,),
}
"""Rule ids by sample user."""

CALLS = (
    (TRANSACTIONAL_USER, "trackedTargetEvents/1986"),
    (TRANSACTIONAL_USER, "trackedTargetEvents/1986?periodId=9889"),
    (BEHAVIOURAL_USER, "trackedTargetEvents/79192"),
    (IMPORT_USER, "enrolledTargets"),
    (TRANSACTION_USER, "enrolledTargets"),
)
"""What answers as printed: (user, the end of the path)."""
