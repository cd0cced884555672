"""The vendor's printed notifications, and one of each documented form."""

from tests.conftest import sample

ACHIEVED_RAW = sample("notification_achieved_value_raw")
ACHIEVED_ENRICHED = sample("notification_achieved_value_enriched")
ENROLMENT = sample("notification_enrolment_raw")
STREAK_START = sample("notification_streak_start_raw")
UNIFIED = sample("notification_unified_achieved_raw")
ALL = (ACHIEVED_RAW, ACHIEVED_ENRICHED, ENROLMENT, STREAK_START, UNIFIED)
