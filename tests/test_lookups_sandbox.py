"""The look-ups over real sockets: from an identifier to the events of one period, and that the
numbers of all endpoints agree.
"""

import pytest

from capillary_targets import (
    AccountIdMissing,
    ApiError,
    CustomerNotFound,
    CustomerNotInSource,
    InvalidIdentifier,
    InvalidSourceAccount,
    InvalidUser,
    TargetGroupNotFound,
)
from capillary_targets.sandbox import Sandbox
from capillary_targets.sandbox.responses import identifiers

from .conftest import client_of


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
