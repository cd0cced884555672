"""Plain JSON values to models: one structurer for each cluster time zone.

Two converters share the hooks: a quick one, and one with detailed validation that runs only after
the quick one has failed, to name the field (`data[3].targetValue`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import tzinfo
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .errors import BadResponse

if TYPE_CHECKING:
    from .converting import Converter

__all__ = ["Structurer", "structurer"]

T = TypeVar("T")

_EXCERPT: Final = 80


class Structurer:
    """Makes models of plain JSON values; knows the cluster's zone (or None)."""

    def __init__(self, timezone: tzinfo | None = None) -> None:
        self.timezone = timezone

    @cached_property
    def _quick(self) -> Converter:
        return self._converter(detailed=False)

    @cached_property
    def _detailed(self) -> Converter:
        return self._converter(detailed=True)

    def _converter(self, *, detailed: bool) -> Converter:
        from .converting import converter  # noqa: PLC0415 - cattrs, which few processes need

        return converter(self.timezone, detailed=detailed)

    def quick(self, value: object, type_: type[T]) -> T:
        """`value` as a `type_`. Raises anything at all where it does not fit."""
        return self._quick.structure(value, type_)

    def structure(self, value: object, type_: type[T], where: str) -> T:
        """`value` as a `type_`. Raises `BadResponse`, naming the field below `where`."""
        with suppress(Exception):  # whatever it was, the detailed converter says it better
            return self.quick(value, type_)
        from .converting import REFUSALS, first_fault  # noqa: PLC0415 - as above

        try:
            return self._detailed.structure(value, type_)
        except REFUSALS as error:
            path, fault = first_fault(error, where)
            reason = "it is missing" if isinstance(fault, KeyError) else str(fault)
        # Raised outside the handler: the error must not drag along what the server sent.
        raise BadResponse(
            f"not the documented shape at {path}: {reason}",
            where=path,
            excerpt=repr(_at(value, path.removeprefix(where)))[:_EXCERPT],
        )


def _at(value: Any, path: str) -> object:
    """What stands at `path`, as far as it can be followed."""
    for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", path):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and index.isdigit() and int(index) < len(value):
            value = value[int(index)]
        else:
            break
    return value


@lru_cache(maxsize=16)
def structurer(timezone: tzinfo | None = None) -> Structurer:
    """The structurer for a zone: building one costs milliseconds, so it is built once."""
    return Structurer(timezone)
