"""A guard against slow code that does not time: CPU instructions, which a busy machine repeats."""

import sys
import sysconfig
from importlib.metadata import version

import pytest

from benchmarks.instructions import count
from tests.needs import required

required(programs=("valgrind", "callgrind_control"))

# By what was measured: the builds of Python and msgspec decide how many instructions there are.
# After a change that is meant to cost or save: `python -m benchmarks.instructions`.
FIGURES = {
    ("3.11", False, "0.22"): {
        "request": 93_600,
        "user": 1_115_100,
        "pager": 71_700,
        "reading 100": 983_500,
    },
}
BUILD = (
    f"{sys.version_info.major}.{sys.version_info.minor}",
    "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
    version("msgspec").rpartition(".")[0],
)


@pytest.mark.skipif(BUILD not in FIGURES, reason=f"no figures for {BUILD}: add them")
def test_a_request_a_page_and_an_event_cost_what_they_did() -> None:
    expected = FIGURES[BUILD]
    found = count(tuple(expected))
    assert {name: round(found[name] / expected[name], 2) for name in expected} == {
        name: pytest.approx(1, abs=0.05) for name in expected
    }, f"now {found}: if that is meant, commit it"
