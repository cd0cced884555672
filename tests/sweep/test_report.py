"""`report.html`, as text and in a real browser."""

import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from attrs import evolve

from capillary_targets.sandbox import Sandbox
from capillary_targets.sweep import (
    RequestTimeline,
    SweepOptions,
    SweepRefused,
    make_report,
    run,
)
from capillary_targets.sweep.report import _page, _verdict, write_report
from capillary_targets.sweep.stats import EventStats

from .browser import tab
from .conftest import Swept, connected, names, read_jsonl
from .report_data import DATA
from .report_data import run as make_run

CARDS = ["totals", "failures", "events", "targets", "requests", "latency"]

DRAWN = """[...document.querySelectorAll('section')].map(card => ({
  id: card.id,
  shapes: [...card.querySelectorAll('.columns i, .bars i')]
    .filter(shape => { const box = shape.getBoundingClientRect();
                       return box.width + box.height > 1 }).length,
}))"""

# What is wrong with the layout, in words: text over text, text beyond its box or broken numbers.
FAULTS = """(width => {
  document.querySelectorAll('details').forEach(details => { details.open = true });
  const faults = [], texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest('title, style')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter(box => box.width > 0.5);
    const told = node.data.trim().slice(0, 30);
    if (parent.closest('b, td.n, .axis') && new Set(boxes.map(b => Math.round(b.top))).size > 1)
      faults.push('broken: ' + told);
    const frame = document.documentElement.getBoundingClientRect();
    for (const box of boxes) {
      if (!parent.closest('.wide') && (box.left < frame.left - 1 || box.right > frame.right + 1))
        faults.push('clipped: ' + told);
      const card = parent.closest('section, .verdict');
      if (card && !parent.closest('.wide')) {
        const edge = card.getBoundingClientRect();
        if (box.right > edge.right || box.left < edge.left || box.bottom > edge.bottom + 1)
          faults.push('beyond its card: ' + told);
      }
      texts.push({told, node, left: box.left, right: box.right, top: box.top, bottom: box.bottom});
    }
  }
  for (let i = 0; i < texts.length; i++)
    for (let j = i + 1; j < texts.length; j++) {
      const a = texts[i], b = texts[j];
      if (a.node !== b.node && a.left < b.right - 1 && b.left < a.right - 1 &&
          a.top < b.bottom - 4 && b.top < a.bottom - 4 &&
          !a.node.parentElement.closest('.wide') && !b.node.parentElement.closest('.wide'))
        faults.push('overlap: ' + a.told + ' / ' + b.told);
    }
  if (document.scrollingElement.scrollWidth > width) faults.push('scrolls sideways');
  return faults;
})"""

CONTRAST = """(selector => {
  const of = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
    .map(part => part / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
  const element = document.querySelector(selector), style = getComputedStyle(element);
  const ink = of(style.color);
  const card = element.closest('section, .verdict') || document.body;
  const paper = of(getComputedStyle(card).backgroundColor);
  return {paper, ratio: (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)};
})"""


@pytest.fixture
async def report(tmp_path: Path) -> Path:
    """The report of a sweep with failures, over several parts and two runs."""
    sandbox = Sandbox(users=30, targets=3, events=12)
    timeline = RequestTimeline()
    async with sandbox:
        users = [*sandbox.world.all_user_ids(), 5, 6]
        async with connected(sandbox, hooks=[timeline]) as client:
            options = SweepOptions(part_users=7, source="the <sandbox>")
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
            rf"<tr><td>{rule}</td><td>[^<]*</td><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>", text
        )
        assert shown
        assert int(shown[1].replace(",", "")) == number
        assert Decimal(shown[2].replace(",", "")) == sums[rule]
    together = text[text.index("All runs together") : text.index('id="failures"')]
    assert f">{len(rows):,}<" in together
    amounts = sum(value for rule, value in sums.items() if value != counts[rule])
    assert f">{amounts:,.2f}<" in together
    assert "Sweep of the &lt;sandbox&gt;" in text
    assert "<h2>Runs</h2>" in text
    assert re.search(r"<span>InvalidUser 310011: [^<]* \(refused for good\)</span> <b>2</b>", text)


def test_the_verdict_is_one_sentence_about_everything():
    summary = {"complete": 7, "events": 9}
    for sums, words in (
        ({}, "Complete: 7 users, and every event of theirs."),
        ({"by_value": 1}, "every event of theirs but for what cancels out: 1 targets are proven"),
        ({"failed": 1}, "Finished, but 1 of 8 users failed: 1 may come right when asked again"),
        ({"refused": 2}, "2 of 9 users failed: 2 refused for good."),
        ({"bad_lines": 3}, "0 of 7 users failed: 3 lines of the list that are no user id."),
        ({"finished": False}, "Not finished: 7 users complete so far."),
    ):
        data = evolve(DATA["half"](), runs=[make_run(**summary, **sums)])
        good, verdict = _verdict(data)
        assert good == (sums.keys() <= {"by_value"})
        assert words in verdict


async def test_with_groups_it_says_what_is_proven_by_what(swept: Swept, tmp_path: Path):
    sandbox = Sandbox(users=10, targets=2, events=4, recorded=0.5, last_updated_on=False)
    users = list(sandbox.world.user_ids())
    async with sandbox:
        for night in range(2):
            summary = await swept(
                sandbox, users, detect="groups", incremental=night > 0, full_every=4
            )
    for _ in range(2):  # `report` makes the same page once more
        text = text_of(tmp_path / "report.html")
        shown = dict(re.findall(r"<tr><td>([^<]*)</td><td[^>]*>(\d+)</td>", text))
        assert shown["Targets proven by events"] == f"{summary.by_events}"
        assert shown["Targets proven by value"] == f"{summary.by_value}"
        assert shown["No record"] == f"{summary.no_record}"
        assert summary.by_value > 0 < summary.no_record
        proof = summary.oldest_proof[:16].replace("T", " ")
        assert f'<td>Oldest proof</td><td class="n">{proof} UTC</td>' in text
        assert "but for what cancels out" in text
        make_report(tmp_path)


def test_amounts_are_drawn_and_counts_are_not():
    text = _page(DATA["half"]())
    card = text[text.index('id="targets"') : text.index('id="requests"')]
    bars, table = card.split("Exact sums")
    assert ("(2579)" in bars, "(2580)" in bars) == (True, False)
    assert ("<td>2579</td>" in table, "<td>2580</td>" in table) == (True, True)


async def test_it_needs_nothing_from_anywhere(report: Path):
    text = text_of(report)
    assert "<script" not in text
    assert not re.search(r"(src|href)=[\"'](?!data:,|#)", text)
    assert not re.search(r"url\(", text)
    assert "://" not in text
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


async def test_a_browser_draws_it_offline(chromium: str, report: Path):
    async with tab(chromium) as page:
        await page.open(report.as_uri(), width=1280)
        cards = {card["id"]: card["shapes"] for card in await page.ask(DRAWN)}
        assert [card for card in cards if card != "runs"] == CARDS
        for name in CARDS[1:]:
            assert cards[name] > 0, name
        assert page.complaints == []
        assert [url for url in page.requested if not url.startswith("data:")] == [report.as_uri()]


@pytest.mark.parametrize("name", DATA)
async def test_nothing_overlaps_or_is_clipped_at_any_width(
    chromium: str, tmp_path: Path, name: str
):
    path = write_report(tmp_path, DATA[name]())
    async with tab(chromium) as page:
        for width in (360, 768, 1280):
            for dark in (False, True):
                await page.open(path.as_uri(), width=width, dark=dark)
                assert await page.ask(f"{FAULTS}({width})") == [], (width, dark)
        assert page.complaints == []


async def test_the_check_of_the_layout_sees_faults(chromium: str, tmp_path: Path):
    """Each kind of fault, made by hand, is found: so that finding none means something."""
    path = write_report(tmp_path, DATA["half"]())
    text = path.read_text()
    faults = {
        ".axis { transform: translateX(-60px) }": "clipped",
        "h3 { height: 0 }": "overlap",
        "td.n { white-space: normal; overflow-wrap: anywhere; max-width: 2px }": "broken",
        "#totals { width: 90px }": "beyond its card",
        "main { width: 2000px }": "scrolls sideways",
    }
    async with tab(chromium) as page:
        for rule, fault in faults.items():
            path.write_text(text.replace("</style>", f"{rule}</style>"))
            await page.open(path.as_uri(), width=360)
            assert any(found.startswith(fault) for found in await page.ask(f"{FAULTS}(360)")), rule


async def test_light_and_dark_are_readable(chromium: str, tmp_path: Path):
    path = write_report(tmp_path, DATA["night"]())
    async with tab(chromium) as page:
        for dark in (True, False):
            await page.open(path.as_uri(), width=360, dark=dark)
            for selector in ("#events .axis", ".verdict", ".legend", ".bars b", "summary", "h1"):
                seen = await page.ask(f"{CONTRAST}('{selector}')")
                assert (seen["paper"] < 0.2) == dark
                assert seen["ratio"] >= 4.5, selector


def test_the_totals_add_no_counts_to_amounts():
    stats = EventStats()
    stats.values = {1: Decimal("1500.25"), 2: Decimal(42), 3: Decimal("0.25")}
    stats.events = Counter({1: 42, 2: 42, 3: 42})
    page = _page(evolve(DATA["night"](), runs=[make_run(stats=stats)]))
    totals = page[page.index('id="totals"') :]
    totals = totals[: totals.index("</section>")]
    assert '<td>Sum of amounts</td><td class="n">1,500.50</td>' in totals
    assert totals.count("Sum of") == 1
