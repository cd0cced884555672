"""A page of 100 events: bytes to `TargetEvent`s, against `orjson.loads` alone."""

from __future__ import annotations

from timeit import timeit

from .workload import events_answer

__all__ = ["decode"]

_ROWS = 100
_LOOPS = 200


async def decode(rounds: int) -> list[dict[str, float]]:
    """Microseconds an event in each round: ours, and orjson's untyped and inexact."""
    import orjson

    from capillary_targets.structuring import structurer
    from capillary_targets.wire import Answer, read_events

    answer = Answer(200, events_answer(2001, _ROWS, 0, 250))
    plain = structurer()

    def microseconds(what: str) -> float:
        call = (
            (lambda: orjson.loads(answer.body))
            if what == "orjson"
            else (lambda: read_events(answer, plain))
        )
        return timeit(call, number=_LOOPS) / _LOOPS / _ROWS * 1e6

    microseconds("ours")
    return [{what: microseconds(what) for what in ("ours", "orjson")} for _ in range(rounds)]
