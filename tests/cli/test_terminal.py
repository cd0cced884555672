"""What a person sees: captures of a real terminal at 40, 80 and 120 columns, line by line.

`CAPILLARY_TESTS_UPDATE=1` writes the captures anew, to be looked at before they are kept.
"""

import io
import os
import re
import unicodedata
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from capillary_targets.cli import output
from capillary_targets.cli.output import printable, show_records
from tests.conftest import examples

from .terminal import captured, session

CAPTURES = Path(__file__).parent / "captures"
COMMANDS = (
    "capillary-targets targets 42381788 --sandbox",
    "capillary-targets events 564332013 1986 --sandbox",
    "capillary-targets events 387544807 79192 --sandbox --timezone Asia/Kolkata",
    "capillary-targets user --id 1000001 --show-profile --sandbox",
    "capillary-targets user --id 564332013 --all-periods --sandbox",
)


def test_what_a_terminal_shows():
    widths = ("40", "80", "120")
    text = session(*(line for columns in widths for line in (columns, *COMMANDS)))
    _, *shown = re.split(r"columns \d+\n", text)
    for columns, lines in zip(widths, shown, strict=True):
        path = CAPTURES / f"{columns}-columns.txt"
        if os.environ.get("CAPILLARY_TESTS_UPDATE") == "1":
            path.write_text(lines, "utf-8")
        assert lines == path.read_text("utf-8")
        assert lines.count("status 0\n") == len(COMMANDS)


def test_a_sweeps_summary_on_a_narrow_dumb_terminal(tmp_path: Path):
    out = tmp_path / "out"
    (tmp_path / "users.txt").write_text("564332013\n387544807\n")
    tokens = ("sweep", tmp_path / "users.txt", "--sandbox", "--out", out)
    status, text = captured(*tokens, columns=20, TERM="dumb")
    assert status == 0
    assert "sum of values: 15002.460\n" in text
    assert f"files: {out}\n" in text
    assert "\x1b[K" not in text


RECORD = st.fixed_dictionaries(
    {
        "id": st.integers(1, 2**63 - 1),
        "name": st.none() | st.text(max_size=60),
        "when": st.none() | st.datetimes(timezones=st.sampled_from([UTC])),
        "day": st.none() | st.dates(),
        "amount": st.none() | st.decimals(allow_nan=False, min_value=-(10**12), max_value=10**12),
        "active": st.none() | st.booleans(),
    }
)


def shown_at(columns: int, records: list[dict]) -> list[str]:
    """The lines of records on a terminal without styles."""
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(written):
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "dumb")
        show_records("Title", records)
    return written.getvalue().split("\n")


@examples(50)
@given(columns=st.integers(1, 200), records=st.lists(RECORD, max_size=4))
def test_nothing_is_cut_or_wrapped_within(columns: int, records: list[dict]):
    lines = shown_at(columns, records)
    words = [word for line in lines for word in line.split()]
    for record in records:
        assert str(record["id"]) in words
        if record["when"] is not None:
            shown = record["when"].replace(tzinfo=None).isoformat(sep=" ")
            assert any(shown in line for line in lines)
        if record["amount"] is not None and abs(record["amount"].adjusted()) < 40:
            assert any(f"{record['amount']:f}" in line for line in lines)
    assert not {*map(unicodedata.category, "".join(lines))} & {"Cc", "Cs", "Zl", "Zp"}
    if columns >= 60 and "─" * 10 in "".join(lines):
        assert max(map(cell_len, lines)) <= columns


def test_amounts_stand_with_their_points_below_each_other():
    amounts = ["1000", "2000.46", "-0.5", "1E+2", "1E+99", None]
    lines = shown_at(80, [{"of": None if a is None else Decimal(a)} for a in amounts])
    assert lines[4:] == [" 1000", " 2000.46", "   -0.5", "  100", "1E+99", "", ""]


def test_fields_without_values_are_left_out_and_nothing_at_all_is_a_title():
    lines = shown_at(80, [{"a": None, "b": "", "c": 1}, {"a": None, "b": "", "c": 2}])
    assert lines == ["Title", "", "c", "─", "1", "2", ""]
    assert shown_at(80, [{"a": None}]) == ["Title", ""]
    assert shown_at(80, []) == ["Title", ""]


def test_times_of_several_zones_keep_them():
    india = timezone(timedelta(hours=5, minutes=30))
    noon = datetime(2025, 1, 9, 12)  # noqa: DTZ001 - as the API sends it
    one_zone = [{"at": noon.replace(tzinfo=india)}, {"at": None}]
    assert shown_at(80, one_zone)[2:5:2] == ["at (+05:30)", "2025-01-09 12:00:00"]
    two = [{"at": noon.replace(tzinfo=india)}, {"at": noon.replace(tzinfo=UTC)}, {"at": noon}]
    assert shown_at(80, two)[4:7] == [
        "2025-01-09 12:00:00+05:30",
        "2025-01-09 12:00:00+00:00",
        "2025-01-09 12:00:00",
    ]


def test_below_sixty_columns_each_record_is_a_block():
    records = [{"day": date(2025, 1, 9), "note": "a b"}, {"day": None, "note": "c"}]
    assert shown_at(60, records)[2].startswith("day")
    assert shown_at(59, records) == [
        *("Title", "", "day: 2025-01-09", "note: a b", "", "note: c", "")
    ]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202etxt\u2028\ud83d"


def test_control_characters_are_spelled_out(capsys: pytest.CaptureFixture[str]):
    assert printable(HOSTILE) == (
        "\\x1b]0;owned\\x07\\x1b[2J\\r\\n\\x9b31m\\u202etxt\\u2028\\ud83d"
    )
    kept = "Zoë 東京 नमस्ते 👩\u200d🚀 \u0645\u06cc\u200c\u062e"  # joiners belong to words
    assert printable(kept) == kept
    output.fail(HOSTILE)
    output.warn(HOSTILE)
    assert capsys.readouterr().err.count("\n") == 2
    output.write_json([{"a": "\x7f\u202e\U000e0041"}])
    assert capsys.readouterr().out == '{"a":"\\u007f\\u202e\\udb40\\udc41"}\n'
