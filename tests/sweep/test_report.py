"""`report.html`, as text and in a real browser."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from attrs import evolve

from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import (
    PartLimits,
    RequestTimeline,
    SweepOptions,
    SweepRefused,
    make_report,
    run,
)

from .browser import browser
from .conftest import Swept, connected, names, read_jsonl

CARDS = ["events", "targets", "users", "requests", "latency", "concurrency", "failures"]

DRAWN = """[...document.querySelectorAll('section')].map(card => ({
  id: card.id,
  shapes: [...card.querySelectorAll('svg .series :is(rect, path, circle)')]
    .filter(shape => { const box = shape.getBoundingClientRect();
                       return box.width + box.height > 4 }).length,
  smallest: Math.min(...[...card.querySelectorAll('svg text')]
    .map(text => text.getBoundingClientRect().height).filter(height => height > 0)),
}))"""

LIGHTNESS = """(selector => {
  const style = getComputedStyle(document.querySelector(selector));
  const of = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;
  return {paper: of(getComputedStyle(document.body).backgroundColor), ink: of(style.fill)};
})"""


@pytest.fixture
async def report(tmp_path: Path) -> Path:
    """The report of a sweep with failures, over several parts and two runs."""
    sandbox = Sandbox(users=30, targets=3, events=12)
    timeline = RequestTimeline()
    async with sandbox:
        users = [*sandbox.world.all_user_ids(), 5, 6]
        async with connected(sandbox, hooks=[timeline]) as client:
            options = SweepOptions(limits=PartLimits(users=7), source="the <sandbox>")
            await run(client, users, tmp_path, options, timeline=timeline)
            sandbox.world.add_event(1_000_001, sandbox.world.targets(1_000_001)[0].id)
            options = evolve(options, incremental=True)
            await run(client, users, tmp_path, options, timeline=timeline)
    return tmp_path / "report.html"


def text_of(path: Path) -> str:
    return path.read_text()


async def test_its_numbers_are_those_of_the_files(report: Path):
    text = text_of(report)
    out = report.parent
    rows = [row for part in names(out / "events") for row in read_jsonl(out / "events" / part)]
    sums: dict[int, Decimal] = {}
    counts: dict[int, int] = {}
    for row in rows:
        rule = row["target_rule_id"]
        sums[rule] = sums.get(rule, Decimal(0)) + (row["target_value"] or 0)
        counts[rule] = counts.get(rule, 0) + 1
    for rule, number in counts.items():
        shown = re.search(
            rf"<tr><td>{rule}</td><td>[^<]*</td><td>([^<]*)</td><td>([^<]*)</td></tr>", text
        )
        assert shown
        assert int(shown[1].replace(",", "")) == number
        assert Decimal(shown[2].replace(",", "")) == sums[rule]
    assert "Sweep of the &lt;sandbox&gt;" in text
    assert "InvalidUser" in text
    assert "<h2>Runs</h2>" in text


async def test_it_needs_nothing_from_anywhere(report: Path):
    text = text_of(report)
    assert "<script" not in text
    assert not re.search(r"(src|href)=[\"'](?!data:,|#)", text)
    assert not re.search(r"url\(", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert len(text) < 200_000


def test_it_can_be_made_again(report: Path):
    before = text_of(report)
    assert make_report(report.parent) == report
    assert text_of(report) == before
    report.write_text("")
    make_report(report.parent)
    assert text_of(report) == before


def test_a_directory_without_a_sweep_is_refused(tmp_path: Path):
    with pytest.raises(SweepRefused, match="holds no sweep"):
        make_report(tmp_path)
    assert names(tmp_path) == []


async def test_a_sweep_of_nobody_has_one_too(swept: Swept, tmp_path: Path):
    async with (sandbox := Sandbox(users=0)):
        await swept(sandbox, [])
    assert "No event was written." in text_of(tmp_path / "report.html")


async def test_a_browser_draws_it_offline(report: Path):
    async with browser() as page:
        await page.open(report.as_uri(), width=1280)
        cards = await page.ask(DRAWN)
        assert [card["id"] for card in cards] == CARDS
        for card in cards:
            assert card["shapes"] > 0, card
        assert page.complaints == []
        assert [url for url in page.requested if not url.startswith("data:")] == [report.as_uri()]


async def test_a_phone_shows_it_without_scrolling_sideways(report: Path):
    async with browser() as page:
        await page.open(report.as_uri(), width=390)
        wide = await page.ask("document.scrollingElement.scrollWidth - window.innerWidth")
        assert wide <= 0
        for card in await page.ask(DRAWN):
            assert card["smallest"] >= 9, card
        await page.ask("document.querySelector('details').open = true")
        assert await page.ask("document.scrollingElement.scrollWidth - window.innerWidth") <= 0
        assert page.complaints == []


async def test_dark_mode_is_dark_and_readable(report: Path):
    async with browser() as page:
        for dark in (True, False):
            await page.open(report.as_uri(), width=390, dark=dark)
            for selector in ("#events svg text", "#users svg .axis text"):
                seen = await page.ask(f"{LIGHTNESS}('{selector}')")
                assert (seen["paper"] < 0.2) == dark
                assert abs(seen["paper"] - seen["ink"]) > 0.5
