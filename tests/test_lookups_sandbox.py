"""The look-ups over real sockets: from an identifier to the events of one period, and that the
numbers of all endpoints agree.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capillary_targets import (
    AccountIdMissing,
    ApiError,
    CustomerNotFound,
    CustomerNotInSource,
    InvalidIdentifier,
    InvalidSourceAccount,
    InvalidUser,
    OAuth,
    TargetGroupNotFound,
    TargetsClient,
)
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.responses import identifiers

from .conftest import client_of, examples


@pytest.mark.parametrize("name", ["mobile", "email", "externalId"])
async def test_from_an_identifier_to_the_events_of_the_running_period(
    sandbox: Sandbox, name: str
) -> None:
    user = sandbox.world.user_ids()[3]
    async with client_of(sandbox) as client:
        found = await client.find_customer(
            identifier_name=name, identifier_value=identifiers(user)[name]
        )
        assert found == user
        groups = await client.target_groups(found)
        targets = list(groups.targets())
        assert [one.target_rule_id for one in targets] == [
            rule.id for rule in sandbox.world.targets(user)
        ]
        for one in targets:
            events = await client.events(found, one.target_rule_id, period="current").collect()
            assert {event.period_id for event in events} <= {one.period_id}
            assert sum(event.target_value or 0 for event in events) == one.target_achieved_value


@examples(15)
@given(seed=st.integers(0, 2**32), users=st.integers(1, 3), size=st.integers(0, 12))
async def test_what_a_target_has_achieved_is_the_sum_of_its_events(
    seed: int, users: int, size: int
) -> None:
    sandbox = Sandbox(seed=seed, users=users, events=size)
    async with sandbox, client_of(sandbox) as client:
        for user in sandbox.world.all_user_ids():
            groups = await client.target_groups(user, include_inactive=True)
            assert groups.user_id == groups.customer.id == user
            for group in groups.target_groups:
                periods = {one.id: one for one in await client.target_periods(group.id)}
                assert periods
                for one in group.targets:
                    events = await client.events(user, one.target_rule_id, one.period_id).collect()
                    values = [event.target_value or Decimal(0) for event in events]
                    assert one.target_achieved_value == sum(values)
                    period = periods[one.period_id or 0]
                    assert period.ref_code == one.period_ref_code
                    assert period.start_date == one.period_start_date
                    assert period.end_date == one.period_end_date
                    assert (period.period_status == "RUNNING") is one.current_period
                    assert all(
                        period.start_date <= event.event_date.date() <= period.end_date
                        for event in events
                    )


async def test_a_late_event_moves_both_numbers(sandbox: Sandbox) -> None:
    user = sandbox.world.user_ids()[0]
    rule = sandbox.world.targets(user)[0]

    async with client_of(sandbox) as client:

        async def both() -> tuple[Decimal | None, Decimal]:
            groups = await client.target_groups(user, target_rule_id=rule.id)
            (one,) = groups.targets()
            events = await client.events(user, rule.id, period="current").collect()
            values = [event.target_value or Decimal(0) for event in events]
            return one.target_achieved_value, sum(values, Decimal(0))

        before = await both()
        sandbox.world.add_event(user, rule.id)
        after = await both()
    assert before[0] == before[1] != after[0] == after[1]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"identifier_value": "919000000005"}, CustomerNotFound),
        ({"identifier_name": "shoeSize"}, InvalidIdentifier),
        ({"source": "WECHAT"}, AccountIdMissing),
        ({"source": "WECHAT", "account_id": "other"}, InvalidSourceAccount),
        ({"source": "WECHAT", "account_id": "sandbox"}, CustomerNotInSource),
    ],
)
async def test_each_refusal_is_an_error_of_its_own(
    sandbox: Sandbox, query: dict[str, str], kind: type[ApiError]
) -> None:
    asked = {"identifier_name": "mobile", "identifier_value": "919001000001"} | query
    async with client_of(sandbox) as client:
        with pytest.raises(kind) as caught:
            await client.find_customer(**asked)
    assert type(caught.value) is kind
    assert caught.value.request_id


async def test_unknown_users_and_groups(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidUser):
            await client.target_groups(5)
        with pytest.raises(TargetGroupNotFound):
            await client.target_periods(5)


async def test_a_login_by_token_serves_the_look_ups_too(sandbox: Sandbox) -> None:
    auth = OAuth(sandbox.settings.client_key, sandbox.settings.client_secret)
    async with TargetsClient(sandbox.url, auth) as client:
        user = await client.find_customer(
            identifier_name="mobile", identifier_value="919001000001", source="ALL"
        )
        assert (await client.target_groups(user)).target_groups
