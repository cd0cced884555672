"""Why a user is not complete, as a row of `failures.jsonl`."""

from __future__ import annotations

from typing import Any

from .visit import Visit

__all__ = ["failure_of"]


def failure_of(visit: Visit) -> dict[str, Any] | None:
    """The row, or None where nothing is missing.

    `error` is the exception's class; `checkpoint`, where there is one, is where the walk that
    failed would have gone on.
    """
    error = visit.error
    if error is not None:
        return {
            "user_id": visit.user_id,
            "error": type(error).__name__,
            "message": error.message,
            "code": getattr(error, "code", None),
            "status": error.status,
            "request_id": error.request_id,
            "url": error.url,
            "attempts": error.attempts,
            "retryable": error.retryable,
            "checkpoint": None if error.checkpoint is None else error.checkpoint.to_dict(),
        }
    if visit.complete:
        return None
    missing = {rule: r.reason for rule, r in visit.reports.items() if not r.complete}
    told = "; ".join(f"target {rule}: {reason}" for rule, reason in missing.items())
    return {
        "user_id": visit.user_id,
        "error": "Incomplete",
        "message": f"not every event came ({told})",
        "retryable": True,
    }
