"""The vendor's printed notifications, and one of each documented form."""

from typing import Any

from capillary_targets.notifications import NotificationHandler, parse
from tests.conftest import sample

ACHIEVED_RAW = sample("notification_achieved_value_raw")
ACHIEVED_ENRICHED = sample("notification_achieved_value_enriched")
ENROLMENT = sample("notification_enrolment_raw")
STREAK_START = sample("notification_streak_start_raw")
UNIFIED = sample("notification_unified_achieved_raw")
ALL = (ACHIEVED_RAW, ACHIEVED_ENRICHED, ENROLMENT, STREAK_START, UNIFIED)


async def announced_by(store: Any) -> None:
    """What a store tells a sweep: each notification once, in order, behind a position."""
    bodies = (ACHIEVED_RAW, ACHIEVED_RAW, STREAK_START, UNIFIED, ENROLMENT)
    handler = NotificationHandler(store)
    for body in bodies:
        assert (await handler.handle(body)).status == 200
    failed = parse(ACHIEVED_RAW.replace(b"d7b01", b"d7b09"))
    for _ in range(2):
        assert await store.begin(failed) == "new"
        await store.release(failed.event_id)
    found = await store.announced(564332013)
    ids = [parse(one).event_id for one in (ACHIEVED_RAW, UNIFIED, ENROLMENT)]
    assert [*dict.fromkeys(one.event_id for one in found)] == [*ids, failed.event_id]
    told = found[0]
    assert (told.name, told.rule_ids) == ("targetAchievedValueUpdated", (1986,))
    assert (told.event_log_id, told.transaction_id) == (615460983, 881101809)
    assert await store.announced(564332013, found[1].position) == found[2:]
    assert await store.announced(5) == []
