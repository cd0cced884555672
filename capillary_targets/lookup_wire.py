"""The look-ups' answers, bytes to models. No I/O.

They come in the envelopes that `wire` opens; "Get Customer ID" (v2) alone has its result under
`entity`. An excerpt of an answer about a person is never kept: it would be personal data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import evolve

from .errors import BadResponse
from .members import TargetPeriod, UserTargetGroups
from .structuring import Structurer
from .wire import Answer, data_of, success, warnings_of

__all__ = ["read_customer_id", "read_target_groups", "read_target_periods"]


def read_customer_id(answer: Answer, structurer: Structurer) -> int:
    """The answer of "Get Customer ID". Raises `CustomerNotFound` for 8015, and its like."""
    with _without_excerpt():
        return structurer.structure(success(answer).get("entity"), int, "entity")


def read_target_groups(answer: Answer, structurer: Structurer) -> UserTargetGroups:
    """The answer of "Get Associated Target Groups of a User"."""
    with _without_excerpt():
        document = success(answer)
        data_of(document, answer)
        found = structurer.structure(document["data"], UserTargetGroups, "data")
    return evolve(
        found, warnings=warnings_of(document.get("warnings")), request_id=answer.request_id
    )


def read_target_periods(answer: Answer, structurer: Structurer) -> list[TargetPeriod]:
    """The answer of "Get target periods"."""
    data = data_of(success(answer), answer)
    return list(structurer.structure(data, tuple[TargetPeriod, ...], "data"))


@contextmanager
def _without_excerpt() -> Iterator[None]:
    try:
        yield
    except BadResponse as error:
        error.excerpt = ""
        raise
