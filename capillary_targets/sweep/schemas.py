"""The schemas of Parquet parts. Changing one makes parts that no longer fit the older ones."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

__all__ = ["EVENTS", "PRECISION", "SCALE", "TARGETS"]

PRECISION: Final = 38
SCALE: Final = 6
"""Amounts: 32 digits before the point, 6 behind it."""

_LONG, _TEXT, _FLAG = pa.int64(), pa.string(), pa.bool_()
_AMOUNT = pa.decimal128(PRECISION, SCALE)
_CLOCK, _INSTANT = pa.timestamp("us"), pa.timestamp("us", tz="UTC")

_ACTOR = pa.struct({"id": _LONG, "code": _TEXT, "description": _TEXT, "name": _TEXT, "type": _TEXT})
_DEFAULT = pa.struct(
    {"id": _LONG, "period_id": _LONG, "default_value": _AMOUNT, "target_name": _TEXT}
)

EVENTS: Final = pa.schema(
    {
        "user_id": _LONG,
        "event_log_id": _LONG,
        "event_name": _TEXT,
        "customer_id": _LONG,
        "event_display_name": _TEXT,
        "unique_id": _TEXT,
        "event_date": _CLOCK,
        "event_processed_date": _CLOCK,
        "period_id": _LONG,
        "target_group_id": _LONG,
        "target_rule_id": _LONG,
        "target_value": _AMOUNT,
        "event_date_iso": _INSTANT,
        "event_processed_date_iso": _INSTANT,
    }
)

TARGETS: Final = pa.schema(
    {
        "user_id": _LONG,
        "id": _LONG,
        "name": _TEXT,
        "target_type": _TEXT,
        "target_entity": _TEXT,
        "target_group_id": _LONG,
        "active": _FLAG,
        "expression": _TEXT,
        "expression_json": _TEXT,
        "filters": pa.list_(pa.struct({"entity_type": _TEXT, "entity_ids": pa.list_(_LONG)})),
        "enrolment_method": _TEXT,
        "attribution": pa.struct(
            {
                "created_on": _CLOCK,
                "last_updated_on": _CLOCK,
                "created_by": _ACTOR,
                "last_updated_by": _ACTOR,
                "created_on_iso": _INSTANT,
                "last_updated_on_iso": _INSTANT,
            }
        ),
        "description": _TEXT,
        "event_name": _TEXT,
        "emf_rule_set_id": _LONG,
        "emf_unrolled_ruleset_id": _LONG,
        "target_period_default_values_map": pa.map_(_LONG, _DEFAULT),
        "default_values": pa.list_(_DEFAULT),
        "extended_field_info": pa.struct(
            {
                "name": _TEXT,
                "aggregate_function": _TEXT,
                "aggregate_window": _TEXT,
                "program_id": _LONG,
                "alternate_currency_identifier": _TEXT,
            }
        ),
        "target_milestone_triggers": pa.list_(
            pa.struct(
                {
                    "id": _LONG,
                    "trigger_name": _TEXT,
                    "is_active": _FLAG,
                    "trigger_type": _TEXT,
                    "trigger_value_type": _TEXT,
                    "trigger_value": _AMOUNT,
                    "target_rule_id": _LONG,
                }
            )
        ),
        "target_audience_filter": pa.list_(
            pa.struct(
                {
                    "audience_group_id": _LONG,
                    "version_id": _LONG,
                    "audience_filter_meta_id": _LONG,
                    "last_updated_on": _CLOCK,
                }
            )
        ),
        "extra": _TEXT,  # JSON: the keys that the client does not know
    }
)
