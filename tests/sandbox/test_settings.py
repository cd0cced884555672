from __future__ import annotations

import math
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox, SandboxSettings


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("offset_mode", "sideways", "one of 'page', 'row', 'ignored', 'clamped', not 'sideways'"),
        ("total_mode", None, "one of 'rows'"),
        ("random_faults", 1.5, "between 0 and 1, not 1.5"),
        ("latency", math.nan, "at least 0, not nan"),
        ("capacity", 0, "at least 1, not 0"),
        ("users", -1, "at least 0, not -1"),
        ("targets", 1001, "between 0 and 1000, not 1001"),
        ("events", "many", "not 'many'"),
        ("rows_per_id", 0, "at least 1"),
        ("not_enrolled_code", 310018, "one of 310149, 310126"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(setting: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be") as caught:
        Sandbox(**{setting: value})
    (message,) = caught.value.args
    assert says in message
    assert "\n" not in message


def test_a_wrong_value_is_refused_while_it_runs_too() -> None:
    sandbox = Sandbox(users=1)
    with pytest.raises(ValueError, match="total_mode must be one of"):
        sandbox.settings.total_mode = "many"  # type: ignore[assignment]
    assert sandbox.settings.total_mode == "rows"


@pytest.mark.parametrize("setting", ["users", "seed", "port", "rows_per_id", "signed_returns"])
def test_what_shapes_the_world_and_the_socket_is_fixed(setting: str) -> None:
    sandbox = Sandbox(users=1)
    with pytest.raises(AttributeError, match=f"{setting} is fixed"):
        setattr(sandbox.settings, setting, 5)


def test_log_ids_reserved_for_an_enrolment_suffice() -> None:
    assert SandboxSettings(events=1 << 20, exact_events=True).events == 1 << 20
    with pytest.raises(ValueError, match="at most 131072 without exact_events"):
        SandboxSettings(events=1 << 20)  # a few have ten times the mean
