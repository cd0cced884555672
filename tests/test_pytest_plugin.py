"""The pytest plugin as a project meets it: pytest within pytest, with nothing but the mode set."""

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from capillary_targets.sandbox import Fault, Sandbox, SandboxSettings
from capillary_targets.sandbox.faults import NAMED, ODD_BODIES
from tests.docs.blocks import blocks_of

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
TESTING = ROOT / "docs" / "how-to" / "testing.md"
DOCUMENTS = (ROOT / "README.md", TESTING)
FIVE_LINES = next(
    block.code
    for document in DOCUMENTS
    for block in blocks_of(document)
    if "(capillary_sandbox, targets_client)" in block.code
)
"""As it is printed."""

# pytest-asyncio itself warns where the scope is not settled.
OPTIONS = ("-W", "error", "--strict-markers", "-o", "asyncio_default_fixture_loop_scope=function")

STRICT = "import pytest\npytestmark = pytest.mark.asyncio\n"


def run(pytester: pytest.Pytester, code: str, *, mode: str = "auto") -> None:
    pytester.makepyfile(code)
    options = (*OPTIONS, "-o", f"asyncio_mode={mode}")
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=code.count("def test_"))


def test_five_lines_are_a_test(pytester: pytest.Pytester) -> None:
    assert len(FIVE_LINES.splitlines()) <= 8
    run(pytester, FIVE_LINES)


def test_the_how_to_is_a_test_module_as_printed(pytester: pytest.Pytester) -> None:
    blocks = [block for block in blocks_of(TESTING) if block.language == "python"]
    assert not [block for block in blocks if block.skipped]
    run(pytester, "\n".join(block.code for block in blocks))


def test_the_how_to_names_every_fault_and_every_setting_that_is_one() -> None:
    text = TESTING.read_text("utf-8")
    orders = re.findall(r"`(Fault\.(\w+)\(.*?\))`", text)
    assert {name for _, name in orders} == set(NAMED)
    for order, _ in orders:
        assert isinstance(eval(order, {"Fault": Fault}), Fault)
    assert set(ODD_BODIES) - {"malformed"} <= set(re.findall(r"[`\"](\w+)[`\"]", text))
    lasting = text.partition("What lasts is a setting")[2].partition("## See")[0]
    rows = "".join(line for line in lasting.splitlines() if line.startswith("|"))
    known = {field.name for field in attrs.fields(SandboxSettings)}
    named = set(re.findall(r"\b(\w+)=", rows)) - {"value"}  # `world.add_event(..., value=...)`
    assert {"random_faults", "notify_early"} <= named <= known


def test_strict_mode_needs_no_more_than_its_own_mark(pytester: pytest.Pytester) -> None:
    run(pytester, STRICT + FIVE_LINES, mode="strict")


def test_without_pytest_asyncio_the_fixtures_are_left_to_who_runs_the_tests() -> None:
    code = """
import sys
sys.modules["pytest_asyncio"] = None
import capillary_targets_pytest
assert not hasattr(capillary_targets_pytest.capillary_sandbox, "_force_asyncio_fixture")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_marker_takes_any_setting_and_the_nearest_wins(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.capillary_sandbox(users=2, events=7, exact_events=True)

        @pytest.mark.capillary_sandbox(users=5, targets=1)
        @pytest.mark.targets_client(page_size=3)
        async def test_mine(capillary_sandbox, targets_client):
            user = capillary_sandbox.world.user_ids()[-1]
            (target,) = await targets_client.active_targets(user)
            assert len(capillary_sandbox.world.user_ids()) == 5
            assert len(await targets_client.events(user, target.id).collect()) == 7
            assert capillary_sandbox.counts["trackedTargetEvents"] > 1  # pages of 3

        async def test_of_the_module(capillary_sandbox):
            assert len(capillary_sandbox.world.user_ids()) == 2
        """,
    )


def test_all_trouble_can_be_switched_on(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        import pytest
        from capillary_targets import OAuth, TargetsClient
        from capillary_targets.sandbox import Fault, Sandbox, SandboxSettings

        TROUBLE = [
            Fault.too_many_requests(5), Fault.too_many_requests(5, hint="date"),
            Fault.http(500), Fault.gateway_page(), Fault.reset(), Fault.truncated(),
            Fault.slow_body(0),
        ]

        async def test_met_and_survived(capillary_sandbox, targets_client):
            user = capillary_sandbox.world.user_ids()[0]
            for fault in TROUBLE:
                capillary_sandbox.faults.add(fault)
                assert await targets_client.active_targets(user)
            assert capillary_sandbox.faults.injected == len(TROUBLE)
            assert 429 in {entry.status for entry in capillary_sandbox.requests}

        @pytest.mark.targets_client(timeout=0.2)
        async def test_stalled(capillary_sandbox, targets_client):
            capillary_sandbox.faults.add(Fault.stall(), times=None)
            with pytest.raises(TimeoutError):
                await targets_client.active_targets(1_000_001)

        @pytest.mark.targets_client(auth=OAuth("sandbox-key", "sandbox-secret"))
        async def test_token_expires(capillary_sandbox, targets_client):
            await targets_client.active_targets(1_000_001)
            capillary_sandbox.expire_tokens()
            await targets_client.active_targets(1_000_001)
            assert capillary_sandbox.counts["token"] == 2

        @pytest.mark.capillary_sandbox(events=40, exact_events=True, append_per_request=1)
        async def test_rows_move(capillary_sandbox, targets_client):
            user = capillary_sandbox.world.user_ids()[0]
            (target, *_) = await targets_client.active_targets(user)
            pager = targets_client.events(user, target.id, page_size=10)
            ids = [event.event_log_id async for event in pager]
            assert len(set(ids)) == len(ids) >= 40 and pager.report.complete
        """,
    )


def test_misspelt_setting_names_the_known_ones(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.capillary_sandbox(usres=5)
        async def test_mine(capillary_sandbox): ...

        @pytest.mark.capillary_sandbox(5)
        async def test_bare(capillary_sandbox): ...
    """)
    result = pytester.runpytest_inprocess(*OPTIONS, "-o", "asyncio_mode=auto")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*no setting usres; it has *users*"])
    result.stdout.fnmatch_lines(["*name the settings of the marker capillary_sandbox*"])


def test_tests_that_ask_for_nothing_import_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a coverage plugin has not seen imported would look unrun, too.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins take seconds
    pytester.makepyfile("""
        import sys

        def test_other():
            assert "capillary_targets_pytest" in sys.modules
            assert not sys.modules.keys() & {"capillary_targets", "aiohttp", "cattrs"}
    """)
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "capillary_targets_pytest")
    pytester.runpytest_subprocess(*OPTIONS, *plugins).assert_outcomes(passed=1)


async def test_our_own_suite_has_the_fixtures_by_the_entry_point(
    capillary_sandbox: Sandbox,
) -> None:
    assert capillary_sandbox.url.startswith("http://127.0.0.1:")
