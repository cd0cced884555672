"""Targets to columns of Arrow, in the types of `schemas`: few that differ, with nested models.

Amounts must have been found to fit. Times as in `event_columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import pyarrow as pa

from capillary_targets.models import Target

from .fit import scaled
from .rows import encode, plain

__all__ = ["target_arrays", "target_values"]


def target_values(target: Target) -> tuple[Any, ...]:
    """A target's values in the order of the schema, without the user."""
    fields = plain(target)
    fields["extra"] = encode(target.extra).decode() if target.extra else None
    return tuple(_with_instants(fields).values())


def target_arrays(
    users: Sequence[int], rows: Sequence[tuple[Any, ...]], schema: pa.Schema
) -> list[pa.Array]:
    """The columns of targets. A row that comes again and again, the same object, costs once."""
    distinct = {id(row): row for row in rows}
    place = {key: number for number, key in enumerate(distinct)}
    places = pa.array([place[id(row)] for row in rows])
    columns = zip(*distinct.values(), strict=True)
    return [
        pa.array(users, pa.int64()),
        *(
            pa.array(values, column.type).take(places)
            for values, column in zip(columns, list(schema)[1:], strict=True)
        ),
    ]


def _plain(value: Any) -> Any:
    """A nested model as what pyarrow takes: dicts, lists, clock times, instants beside them."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, Decimal):
        return scaled(value)
    if attrs.has(type(value)):
        made = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return _with_instants(made)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return [(key, _plain(item)) for key, item in value.items()]
    return value


def _with_instants(fields: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in fields.items():
        if name.endswith("_iso"):
            moment = value or fields[name.removesuffix("_iso")]
            known = moment is not None and moment.tzinfo is not None
            made[name] = moment.astimezone(UTC) if known else None
        else:
            made[name] = _plain(value)
    return made
