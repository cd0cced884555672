"""Progress: the service's own figure in one request, and which reading of the events makes it."""

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import (
    AuthError,
    Explanation,
    InvalidUser,
    Milestone,
    TargetEvent,
    TargetGroup,
    TargetProgress,
    UnknownPeriod,
    UsageError,
    UserTarget,
    UserTargetGroups,
)
from capillary_targets.progress import explain, progress_of
from capillary_targets.sandbox import Fault, Sandbox, World

from .conftest import client_of, examples

D = Decimal
GROUP = TargetGroup(id=7, name="Winter")


def target(**fields: Any) -> UserTarget:
    return UserTarget(**{"target_rule_id": 3, "target_id": 1, **fields})


# --- one row ---

amounts = st.decimals(-(10**6), 10**6, places=3)


@given(goal=amounts, value=amounts, reached=st.integers(0, 4))
def test_what_remains_and_the_milestones_follow_from_the_row(
    goal: D, value: D, reached: int
) -> None:
    steps = tuple(
        Milestone(id=n, trigger_value=D(n) * 10, is_achieved=n < reached) for n in (3, 0, 2, 1)
    )
    found = progress_of(
        GROUP,
        target(target_value=goal, target_achieved_value=value, milestones=steps),
    )
    assert found.remaining == max(goal - value, 0)
    assert found.is_achieved is (value >= goal)
    assert {one.id for one in found.milestones_reached} == set(range(reached))
    assert (found.next_milestone and found.next_milestone.id) == (reached if reached < 4 else None)
    assert (found.target_group_id, found.group_name) == (7, "Winter")


def test_what_the_service_does_not_say_is_none() -> None:
    bare = progress_of(GROUP, UserTarget(target_rule_id=3))
    assert (bare.remaining, bare.is_achieved, bare.share, bare.recorded) == (
        None,
        None,
        None,
        False,
    )
    dated = progress_of(GROUP, target(target_achieved_date_time=datetime(2025, 3, 4, tzinfo=UTC)))
    assert dated.is_achieved is True
    nameless = Milestone(id=1), Milestone(id=2, trigger_value=D(5))
    assert progress_of(GROUP, target(milestones=nameless)).next_milestone == nameless[1]


def test_a_cycles_name_has_no_blank_at_its_end_and_amounts_keep_their_digits() -> None:
    goal = D(f"1{'0' * 40}.001")  # 44 digits: more than the usual context
    found = progress_of(
        GROUP,
        target(period_ref_code="Cycle_1 ", target_value=goal, target_achieved_value=D("0.500")),
    )
    assert found.period == "Cycle_1"
    assert str(found.achieved_value) == "0.500"
    assert found.remaining is not None
    assert str(found.remaining) == "9" * 40 + ".501"


# --- over HTTP ---


async def test_one_request_tells_how_far_a_member_is(sandbox: Sandbox) -> None:
    world = sandbox.world
    user = world.user_ids()[0]
    async with client_of(sandbox) as client:
        found = await client.progress(user)
        assert dict(sandbox.counts) == {"targetGroups": 1}
        assert [one.target_rule_id for one in found] == [rule.id for rule in world.targets(user)]
        assert all(one.is_current and one.period for one in found)
        every = await client.progress(user, all_periods=True)
        assert len(every) > len(found)
        assert {one.period_id for one in found} < {one.period_id for one in every}
        rule = found[1].target_rule_id
        assert await client.progress(user, target_rule_id=rule) == [found[1]]
        assert (found.user_id, found.warnings) == (user, ())
        assert found.request_id
        with pytest.raises(InvalidUser):
            await client.progress(5)
        with pytest.raises(UsageError):
            await client.progress(True)
        sandbox.faults.add(Fault.authorisation(4000))
        with pytest.raises(AuthError):
            await client.progress(user)


async def test_a_server_that_ignores_the_query_changes_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = sandbox.world.user_ids()[0]
    async with client_of(sandbox) as client:
        running = await client.progress(user)
        whole = await client.target_groups(user, include_inactive=True)

        async def ignoring(*_args: Any, **_query: Any) -> UserTargetGroups:
            return whole

        monkeypatch.setattr("capillary_targets.progress.target_groups", ignoring)
        assert await client.progress(user) == running
        rule = running[1].target_rule_id
        assert await client.progress(user, target_rule_id=rule) == [running[1]]


# --- which reading of the events makes the value ---

TRUTHS = (
    *("plain sum", "unsigned returns", "returns ignored", "count instead of amount"),
    *("carried-over start", "capped", "prorated"),
)
CYCLES = [(date(2025, month, 1), date(2025, month, 28), 500 + month) for month in range(1, 7)]


def world_of(truth: str, draw: random.Random) -> tuple[list[TargetProgress], list[TargetEvent]]:
    """A member's cycles and events, the service's values made by one of `TRUTHS`."""
    rows: list[TargetProgress] = []
    events: list[TargetEvent] = []
    start = D(draw.randrange(-500_000, 500_000)) / 1000 or D(1)
    signed = truth != "unsigned returns"
    for first, last, period in CYCLES[: draw.randrange(2, 7)]:
        mine = []
        for n in range(draw.randrange(1, 9)):
            back = n > 0 and draw.random() < 0.3
            amount = D(draw.randrange(1, 4_000_000)) / 1000
            mine.append(
                TargetEvent(
                    event_log_id=len(events) + n,
                    event_name="RETURN_BILL" if back else "ADD_TRANSACTION",
                    event_date=datetime(2025, first.month, 1 + 3 * n, tzinfo=UTC),
                    period_id=period if draw.random() < 0.9 else None,
                    target_value=-amount if back and signed else amount,
                )
            )
        bought = sum((e.target_value or D(0) for e in mine if not is_return(e)), D(0))
        returned = sum((abs(e.target_value or D(0)) for e in mine if is_return(e)), D(0))
        net = bought - returned
        goal, enrolled = net * 10, date(2024, 1, 1)
        value: D = net
        if truth == "returns ignored":
            value = bought
        elif truth == "count instead of amount":
            value = D(sum(not is_return(e) for e in mine))
        elif truth == "carried-over start":
            value = net + start
        elif truth == "capped":
            value = goal = (
                D("0.5") if net <= 1 else net - D(draw.randrange(1, int(net * 1000))) / 1000
            )
        elif truth == "prorated":
            enrolled = date(2025, first.month, draw.randrange(2, 29))
            days = (last - enrolled).days + 1
            value = D(round(net * days / ((last - first).days + 1), 3))
        rows.append(
            TargetProgress(
                3,
                period_id=period,
                period_start=first,
                period_end=last,
                recorded=True,
                target_value=goal,
                achieved_value=value,
                enrolled_on=datetime.combine(enrolled, datetime.min.time()),
            )
        )
        events += mine
    return rows, events


def is_return(event: TargetEvent) -> bool:
    return event.event_name == "RETURN_BILL"


def words(one: Explanation) -> str:
    return one.then or one.basis


@examples(80)
@given(truth=st.sampled_from(TRUTHS), seed=st.integers(0, 2**32))
def test_the_right_explanation_is_always_among_those_that_fit(truth: str, seed: int) -> None:
    rows, events = world_of(truth, random.Random(seed))
    for cycle in explain(random.Random(seed).sample(rows, len(rows)), events):
        found = {words(one) for one in cycle.explanations}
        returns = [*filter(is_return, cycle.events)]
        if found == {truth}:
            assert cycle.unexplained is None
            continue
        # Another one that is as simple, or simpler, makes the very same value.
        assert found
        simple = found <= {*TRUTHS[:4]}
        assert truth in found or (simple and (not returns or truth in TRUTHS[4:]))
        if truth in {"unsigned returns", "returns ignored"} and not returns:
            assert found == {"plain sum"}


def test_in_nearly_every_world_one_explanation_is_left_and_it_is_right() -> None:
    draw = random.Random(21)
    for truth in TRUTHS:
        unique = right = 0
        for _ in range(60):
            for cycle in explain(*world_of(truth, draw)):
                ambiguous = "return" in truth and not any(map(is_return, cycle.events))
                unique += not ambiguous
                right += not ambiguous and [words(e) for e in cycle.explanations] == [truth]
        assert right >= 0.97 * unique > 50, (truth, right, unique)


@given(seed=st.integers(0, 2**32), beyond=st.integers(1, 10**9))
def test_what_nothing_explains_is_named_to_the_last_digit(seed: int, beyond: int) -> None:
    rows, events = world_of("plain sum", random.Random(seed))
    odd = D(beyond) / 10**6 + D("0.0000001")  # finer than any amount, so no sum makes it
    rows[-1] = evolve(rows[-1], achieved_value=rows[-1].achieved_value + odd)
    cycle = explain(rows, events)[-1]
    assert (cycle.explanations, cycle.unexplained, cycle.difference) == ((), odd, odd)
    assert cycle.verdict == f"unexplained by {odd:f}"


def test_what_two_alike_cycles_have_in_common_is_no_start() -> None:
    """Capped at 2000 with fifteen events each: not fifteen and a start of 1985."""
    rows, events = [], []
    for first, last, period in CYCLES[:2]:
        about = {"period_start": first, "period_end": last, "recorded": True}
        goal = D(2000)
        rows.append(
            TargetProgress(3, period_id=period, target_value=goal, achieved_value=goal, **about)
        )
        amounts = range(first.month, first.month + 15)
        events += [
            TargetEvent(period_id=period, event_name="A", target_value=D(500 + one))
            for one in amounts
        ]
    assert [cycle.verdict for cycle in explain(rows, events)] == ["capped at 2000"] * 2


def test_a_cycle_can_start_with_what_the_one_before_left() -> None:
    rows, _ = world_of("plain sum", random.Random(1))
    first, second = rows[:2]
    event = TargetEvent(period_id=second.period_id, event_name="A", target_value=D("70.5"))
    for left, start in ((D(130), D(30)), (D(90), D(-10)), (D("-12.25"), D("-12.25"))):
        before = evolve(first, target_value=D(100), achieved_value=left)
        after = evolve(second, target_value=D(100), achieved_value=event.target_value + start)
        cycle = explain([after, before], [event])[-1]
        assert cycle.explanations == (Explanation("plain sum", "carried-over start", start),)
        assert (
            cycle.verdict
            == f"carried-over start of {event.target_value + start - event.target_value}"
        )


def cycles(*values: str | None, goal: str = "1000", **fields: Any) -> list[TargetProgress]:
    """January, February, ... with those values of the service."""
    return [
        TargetProgress(
            3,
            period_id=None if fields.get("nameless") else period,
            period_start=first,
            period_end=last,
            recorded=value is not None,
            target_value=D(goal),
            achieved_value=None if value is None else D(value),
            enrolled_on=fields.get("enrolled_on"),
        )
        for (first, last, period), value in zip(CYCLES, values, strict=False)
    ]


def sold(month: int, *amounts: str, named: bool = True) -> list[TargetEvent]:
    """Purchases on the last day of a cycle; `-5` is a return, signed, `r5` one that is not."""
    return [
        TargetEvent(
            event_name="RETURN_BILL" if amount[0] in "-r" else "ADD_TRANSACTION",
            event_date=datetime(2025, month, 28, 23, 59, 59, tzinfo=UTC),
            period_id=500 + month if named else None,
            target_value=D(amount.lstrip("r")),
        )
        for amount in amounts
    ]


AMBIGUOUS = (
    "ambiguous: carried-over start of -40.5 or unsigned returns, carried-over start of -20.5 or "
    "returns ignored, carried-over start of -30.5"
)
KINDS: list[tuple[str, list[TargetProgress], list[TargetEvent], list[str]]] = [
    (
        "purchases in two currencies, of which the service converts one",
        cycles("183.2", "91.7"),
        sold(1, "100", "80") + sold(2, "70", "20"),
        ["unexplained by 3.2", "unexplained by 1.7"],
    ),
    (
        "prorated, the third decimal cut off",
        cycles("66.666", enrolled_on=datetime(2025, 1, 15, 23, 0, tzinfo=UTC)),
        sold(1, "100", "33.333"),
        ["prorated to 0.5"],
    ),
    (
        "prorated, returns unsigned",
        cycles("45", enrolled_on=datetime(2025, 1, 15, tzinfo=UTC)),
        sold(1, "100", "r10"),
        ["unsigned returns, prorated to 0.5"],
    ),
    (
        "a goal that is prorated, which changes no value",
        cycles("120", goal="500.5", enrolled_on=datetime(2025, 1, 15, tzinfo=UTC)),
        sold(1, "120"),
        ["plain sum"],
    ),
    ("capped, returns unsigned", cycles("90", goal="90"), sold(1, "99", "r2"), ["capped at 90"]),
    (
        "capped, which only the count exceeds",
        cycles("2", goal="2"),
        sold(1, "0.1", "0.2", "0.3"),
        ["count instead of amount, capped at 2"],
    ),
    (
        "a debt, and returns unsigned",
        cycles("-20.5", "69.5", "39.5"),
        sold(1, "r20.5") + sold(2, "100", "r10") + sold(3, "80", "r20"),
        [
            "unsigned returns",
            "unsigned returns, carried-over start of -20.5",
            "unsigned returns, carried-over start of -20.5",
        ],
    ),
    (
        "a start below zero, and nothing bought",
        cycles("-150.25", "-150.25", "-50.25"),
        sold(3, "100"),
        ["carried-over start of -150.25"] * 3,
    ),
    (
        "the last second of a cycle, which neither list names",
        cycles("10", "20", nameless=True),
        sold(1, "10", named=False) + sold(2, "20", named=False),
        ["plain sum", "plain sum"],
    ),
    (
        "cycles that only the events name",
        cycles("10", "20", nameless=True),
        sold(1, "10") + sold(2, "20"),
        ["plain sum", "plain sum"],
    ),
    (
        "as much returned in one cycle as in the other",
        cycles("-20.5", "69.5", "39.5"),
        sold(1, "r20.5") + sold(2, "100", "r10") + sold(3, "70", "r10"),
        [
            "unsigned returns",
            AMBIGUOUS,
            AMBIGUOUS,
        ],
    ),
    (
        "a cycle that the groups do not tell of",
        cycles("10"),
        sold(1, "10") + sold(4, "7", "8"),
        ["plain sum", "the service gives no value"],
    ),
    (
        "a count, one less for each return",
        cycles("1", goal="5"),
        sold(1, "12.5", "13.5", "-12.5"),
        ["count less returns"],
    ),
    ("a count of returns too", cycles("3"), sold(1, "9.5", "8.5", "r9.5"), ["count with returns"]),
    (
        "several that fit",
        cycles("3"),
        sold(1, "0.5", "2.5", "r1.5", "1.5"),
        ["ambiguous: unsigned returns or count instead of amount"],
    ),
    (
        "the cap, or all purchases",
        cycles("1070", "1000"),
        sold(1, "1070") + sold(2, "930", "r5", "70"),
        ["plain sum", "ambiguous: returns ignored or capped at 1000"],
    ),
]


@pytest.mark.parametrize(
    ("kind", "rows", "events", "verdicts"),
    KINDS,
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_each_kind_of_difference_has_its_name(
    kind: str, rows: list[TargetProgress], events: list[TargetEvent], verdicts: list[str]
) -> None:
    found = explain(rows[::-1], events)
    assert [cycle.verdict for cycle in found] == verdicts
    assert sum(len(cycle.events) for cycle in found) == len(events)  # none is passed over


def test_a_value_that_the_service_does_not_give_is_not_explained() -> None:
    (cycle,) = explain([TargetProgress(3, period_id=1, recorded=True)], [])
    assert (cycle.explanations, cycle.difference) == ((), None)
    assert cycle.verdict == "the service gives no value"
    assert explain([TargetProgress(3, period_id=1)], []) == []


SETTINGS: dict[str, dict[str, Any]] = {
    "plain sum": {},
    "unsigned returns": {"signed_returns": False},
    "returns ignored": {"achieved_by": "gross"},
    "count instead of amount": {"achieved_by": "count"},
    "carried-over start": {"carry_over": D("-150.25")},
    "capped": {"achieved_by": "capped"},
}
DIALECTS = (
    {"offset_mode": "row", "total_mode": "pages"},
    {"past_end": "310149", "max_limit": 7},
    {"total_mode": "none", "rows_per_id": 3, "iso": True},
)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("truth", SETTINGS)
async def test_reconcile_finds_the_services_setting(truth: str, dialect: dict[str, Any]) -> None:
    sandbox = Sandbox(users=2, events=40, exact_events=True, **SETTINGS[truth], **dialect)
    world = sandbox.world
    user = world.user_ids()[1]
    rule = next(one.id for one in world.targets(user) if not one.behavioural)
    for amount in ("9999999.5", "12.25"):
        world.add_event(user, rule, value=amount)
    value = D("30") if sandbox.settings.signed_returns is False else D("-30")
    world.add_event(user, rule, value=value, event_name="RETURN_BILL")
    async with sandbox, client_of(sandbox) as client:
        found = await client.reconcile(user, rule)
        assert found.is_member
        assert all(cycle.explanations for cycle in found.cycles)
        assert sum(len(one.events) for one in found.cycles) == world.count(user, rule)
        named = [{words(e) for e in cycle.explanations} for cycle in found.cycles]
        assert {truth} in named
        assert all(one <= {truth, "plain sum"} for one in named)
        assert sandbox.counts["targetGroups"] == 1
        period = found.cycles[-1].progress.period
        (last,) = (await client.reconcile(user, rule, period)).cycles
        assert last == found.cycles[-1]
        assert (await client.reconcile(user, rule, last.progress.period_id)).cycles == (last,)
        with pytest.raises(UnknownPeriod, match=str(period)):
            await client.reconcile(user, rule, "never")
        with pytest.raises(UsageError):
            await client.reconcile(user, rule, " ")
        other = await client.reconcile(user, 1986)
        assert (other.cycles, other.is_member) == ((), False)
        rest = [one for one in world.rule(rule).group.periods if one.start >= "2026"]
        if not sandbox.settings.carry_over:
            none_yet = await client.reconcile(user, rule, rest[-1].id)
            assert (none_yet.cycles, none_yet.is_member) == ((), True)


async def test_a_sale_between_the_two_requests_is_no_riddle() -> None:
    sandbox = Sandbox(users=1)
    world = sandbox.world
    user = world.user_ids()[0]
    rule = world.targets(user)[0].id

    def sell(world: World, request: int) -> None:
        if request == 0:
            world.add_event(user, rule, value="77.77")

    sandbox.settings.between_requests = sell
    async with sandbox, client_of(sandbox) as client:
        found = await client.reconcile(user, rule)
    assert all(cycle.explanations for cycle in found.cycles)
    assert sandbox.counts["targetGroups"] == 2


@examples(5)
@given(seed=st.integers(0, 2**32), carried=st.sampled_from([D(0), D("-20.5"), D(7)]))
async def test_progress_over_http_is_what_the_world_holds(seed: int, carried: D) -> None:
    sandbox = Sandbox(seed=seed, users=2, events=6, carry_over=carried)
    async with sandbox, client_of(sandbox) as client:
        for user in sandbox.world.user_ids():
            for one in await client.progress(user, all_periods=True):
                rows = sandbox.world.events(user, one.target_rule_id, one.period_id)
                total = sum((row.target_value or D(0) for row in rows), carried)
                assert one.achieved_value == (total if one.recorded else 0)
                assert one.remaining == max(one.target_value - one.achieved_value, 0)
