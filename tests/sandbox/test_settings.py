import math
from typing import Any

import pytest

from capillary_targets.sandbox import Sandbox


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("offset_mode", "sideways", "one of 'page', 'row', 'ignored', 'clamped', not 'sideways'"),
        ("total_mode", None, "one of 'rows'"),
        ("random_faults", 1.5, "`float` <= 1.0, not 1.5"),
        ("latency", math.nan, "`float` >= 0.0, not nan"),
        ("latency", math.inf, "`float` <= 1000000000.0, not inf"),
        ("carry_over", "NaN", "a number, not NaN"),
        ("capacity", 0, "`int` >= 1, not 0"),
        ("users", -1, "`int` >= 0, not -1"),
        ("targets", 1001, "`int` <= 1000, not 1001"),
        ("events", "many", "`int`, not 'many'"),
        ("iso", 1, "`bool`, not 1"),
        ("rate_limit", 100, "not 100"),
        ("rate_limit", (3, 0), "`float` >= 0.001"),
        ("rate_limit", (-1, 60), "`int` >= 0"),
        ("clock", 5, "not 5"),
        ("notify", 5, "`str | null`, not 5"),
        ("notify", "localhost:8000", "like http://127.0.0.1:8000/path"),
        ("notify", "ftp://localhost/", "like http://"),
        ("notify", "http://", "like http://"),
        ("notify", "http://localhost:99999/", "like http://"),
        ("notify_headers", {"X-Secret": "a\r\nb"}, "names and printable values, not 'X-Secret'"),
        ("notify_headers", {"X Secret": "a"}, "not 'X Secret'"),
        ("notify_envelope", "cooked", "one of 'raw', 'enriched', not 'cooked'"),
        ("notify_timeout", 0, "`float` >= 0.001, not 0"),
        ("notify_time_scale", -1, "`float` >= 0.0, not -1"),
        ("notify_headers", {"X": 5}, "`str`"),
        ("rows_per_id", 0, "`int` >= 1"),
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
