"""Why a sweep as a whole does not go on. A single user's failure is an outcome, not an error."""

from __future__ import annotations

__all__ = ["SweepRefused", "SweepStopped"]


class SweepRefused(Exception):
    """Nothing was begun: the list of users, the directory or a setting is not fit for it."""


class SweepStopped(Exception):
    """It was begun and had to stop, a full disk for one. What was noted as done is safe."""
