"""The vendor's printed answers, and the few users who give exactly those.

Source: the samples of the two API pages ("Get active targets", "Get target events"). What those do
not print is made up: the second row of a history, and in `rules.json` the groups, their periods,
and the two rules that have only events.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec

from .model import Event, Rule


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

_RULES = files(__package__) / "rules.json"
RULES = {rule.id: rule for rule in msgspec.json.decode(_RULES.read_bytes(), type=list[Rule])}
ENROLLED = {564_332_013: (1986,), 387_544_807: (79192,), 42_381_788: (2579,), 42_381_789: (50,)}
"""Rule ids by sample user."""
PRINTED_EVENTS = {
    (564_332_013, 1986, None): (TRANSACTIONAL, 10),
    (564_332_013, 1986, 9889): (ONE_PERIOD, 30),
    (387_544_807, 79192, None): (BEHAVIOURAL, 1),
}
"""A page's bytes and the page size printed in it, by (user, rule, period asked for)."""
PRINTED_TARGETS = {2579: IMPORT_TARGETS, 50: TRANSACTION_TARGETS}
"""By the rule that the answer lists."""


class _Printed(msgspec.Struct):
    data: list[Event]


HISTORIES = {
    (user, rule): msgspec.json.decode(body, type=_Printed).data
    for (user, rule, period), (body, _) in PRINTED_EVENTS.items()
    if period is None
}
"""By (user, rule); amounts with the digits that are printed."""
# The printed page says `total` 2 and shows one row.
HISTORIES[387_544_807, 79192].append(
    msgspec.structs.replace(
        HISTORIES[387_544_807, 79192][0],
        event_log_id=31_748_166,
        unique_id="0f7c1d52-93b8-4c1e-a7f0-5e2b8d6c4a19",
        event_date="2024-12-06 00:00:00.0",
    )
)

CALLS = (
    *((user, f"trackedTargetEvents/{rule}") for user, rule, period in PRINTED_EVENTS if not period),
    (564_332_013, "trackedTargetEvents/1986?periodId=9889"),
    *((user, "enrolledTargets") for user, (rule,) in ENROLLED.items() if rule in PRINTED_TARGETS),
)
"""What answers as printed: (user, the end of the path)."""
