"""The API's ways to say no, as exceptions that handlers raise and the front door answers."""

from __future__ import annotations

import json

from . import render, samples

MESSAGES = {
    300004: "Invalid input",
    310011: "Invalid userId",
    310017: "Target group not found or deactivated",
    310018: "Target rule not found",
    310019: "Target period not found",
    310130: "Invalid enrollment type as input",
    310149: "No record found in user target for given UserId and TargetId",
    320001: "Invalid client key and secret",
    8011: "Invalid source account",
    8013: "Customer identifier invalid",
    8015: "Customer not found for the given identifiers",
    8045: "Account id is missing",
    8065: "Customer not found in the given source",
    11029: "Limit cannot be greater than 100",
    11003: "The offset value is greater than the total number of pages",
}
"""Contract §5.3. The wording of the 8xxx and of 11003 is ours; 11003 and 11029 are a sibling's."""


class Refusal(Exception):
    """An answer other than the one asked for.

    Args:
        code: what the journal notes.
        body: the JSON text.
        status: the HTTP status; None leaves it to the sandbox's `error_status`.
    """

    def __init__(self, code: int, body: str | bytes, status: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.body = body if isinstance(body, bytes) else body.encode()
        self.status = status


def refuse(code: int) -> Refusal:
    """A v3 error. The two that the API pages print come in the printed bytes."""
    return Refusal(code, samples.ERRORS.get(code) or render.failure(code, MESSAGES[code]))


def refuse_v2(code: int) -> Refusal:
    """A v2 error: its items carry a `status`, and there is no `data` (contract §5.1)."""
    errors = [{"status": False, "code": code, "message": MESSAGES[code]}]
    return Refusal(code, json.dumps({"errors": errors, "warnings": []}))


def unauthorised(code: int, message: str, status: int) -> Refusal:
    """A rejected login, in the v1.1 envelope (contract §1.3)."""
    return Refusal(code, render.legacy_status(str(code), message), status)
