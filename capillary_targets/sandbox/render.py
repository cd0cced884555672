"""Rows to JSON text. Numbers are written as they are spelled, which `json.dumps` cannot do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .model import Event, Rule

_quote = json.JSONEncoder(ensure_ascii=False).encode


def event(row: Event, *, iso: bool = False) -> str:
    """One row of the events answer; with `iso`, its dates once more in ISO form (contract §7)."""
    date, processed = row.event_date, row.event_processed_date
    twins = (
        f'"eventDateISO":"{date[:10]}T{date[11:19]}Z",'
        f'"eventProcessedDateISO":"{processed[:10]}T{processed[11:19]}Z",'
        if iso
        else ""
    )
    name = "null" if row.event_display_name is None else _quote(row.event_display_name)
    value = "null" if row.target_value is None else row.target_value
    return (
        f'{{"eventLogId":{row.event_log_id},"eventName":{_quote(row.event_name)},'
        f'"customerId":{row.customer_id},"eventDisplayName":{name},'
        f'"uniqueId":{_quote(row.unique_id)},"eventDate":"{date}",'
        f'"eventProcessedDate":"{processed}",{twins}"periodId":{row.period_id},'
        f'"targetGroupId":{row.target_group_id},"targetRuleId":{row.target_rule_id},'
        f'"targetValue":{value}}}'
    )


def events_page(
    rows: Iterable[Event], pagination: Mapping[str, int | str] | None, *, iso: bool = False
) -> str:
    """The events answer: envelope 2 of contract §5.1."""
    head = f'"pagination":{json.dumps(pagination, separators=(",", ":"))},' if pagination else ""
    body = ",".join([event(row, iso=iso) for row in rows])
    return f'{{{head}"data":[{body}],"errors":[],"warnings":[]}}'


def attribution(created: str) -> dict[str, Any]:
    """Who made a thing and when (contract §6): a made-up person."""
    person = {"id": 4, "code": "sandbox", "description": None, "name": "User", "type": "ADMIN_USER"}
    return {
        "createdOn": created,
        "lastUpdatedOn": created,
        "lastUpdatedBy": person,
        "createdBy": person,
    }


@lru_cache(maxsize=4096)
def target(rule: Rule) -> str:
    """One row of the active targets answer (contract §6)."""
    stamp = datetime.fromtimestamp(rule.created_ms / 1000, UTC)
    created = f"{stamp.isoformat(timespec='milliseconds')[:23]}+0000"
    literal = {"arity": "literal", "value": rule.expression, "type": "boolean:primitive"}
    row = {
        "id": rule.id,
        "attribution": attribution(created),
        "name": rule.name,
        "emfRuleSetId": 2_000_000 + rule.id,
        "emfUnrolledRulesetId": 1_000_000 + rule.id,
        "targetType": rule.target_type,
        "targetEntity": rule.target_entity,
        "targetGroupId": rule.group.id,
        "active": True,
        "expression": rule.expression,
        "expressionJson": f"\n{json.dumps(literal, indent=2)}",
        "filters": [{"entityType": kind, "entityIds": ids} for kind, ids in rule.filters],
        "enrolmentMethod": rule.enrolment_method,
    }
    text = json.dumps(row, separators=(",", ":"))
    return f'{text[:-1]},"targetPeriodDefaultValuesMap":{_default_values(rule)}}}'


def _default_values(rule: Rule) -> str:
    if rule.default_value is None:
        return "{}"
    period = rule.group.periods[0].id
    return (
        f'{{"{period}":{{"id":{rule.id * 10},"periodId":{period},'
        f'"defaultValue":{rule.default_value}}}}}'
    )


def targets(rules: Iterable[Rule]) -> str:
    """The active targets answer: envelope 1 of contract §5.1."""
    return f'{{"data":[{",".join(map(target, rules))}],"errors":null,"warnings":null}}'


def failure(code: int, message: str) -> str:
    """A v3 error (contract §5.1)."""
    errors = f'[{{"code":{code},"message":{_quote(message)}}}]'
    return f'{{"data":null,"errors":{errors},"warnings":null}}'


def legacy_status(code: str, message: str) -> str:
    """The v1.1 envelope, where even a refusal says `success: "true"` (contract §1.3)."""
    status = {"success": "true", "code": code, "message": message}
    return json.dumps({"response": {"status": status}})
