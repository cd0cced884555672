"""What a sweep finds new in the answers: told once, kept in the ledger, shown in the report."""

import logging
from pathlib import Path

import pytest

from capillary_targets.sandbox import Fault, Sandbox

from .conftest import Swept


def plant(sandbox: Sandbox) -> None:
    edit = Fault.edited('"eventName":', '"storeId":7,"eventName":')
    sandbox.faults.add(edit, times=None, path_contains="trackedTargetEvents")


async def test_a_finding_is_news_in_one_run_only(
    swept: Swept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = Sandbox(users=4, targets=1, events=3)
    plant(sandbox)
    async with sandbox:
        await swept(sandbox)
        assert [one.message for one in caplog.records if one.levelno == logging.WARNING] == [
            "the API is not as it was: new key: trackedTargetEvents: data[].storeId (integer)"
        ]
        assert "trackedTargetEvents: data[].storeId" in (tmp_path / "report.html").read_text()
        caplog.clear()
        await swept(sandbox, incremental=True)
    assert not [one for one in caplog.records if one.levelno == logging.WARNING]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data[].storeId") == 1


async def test_nothing_new_is_nothing_in_the_report(swept: Swept, tmp_path: Path) -> None:
    sandbox = Sandbox(users=2)
    async with sandbox:
        await swept(sandbox)
    assert 'id="drift"' not in (tmp_path / "report.html").read_text()
