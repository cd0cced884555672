"""from_env: a client of the cluster and the account that the environment names."""

from datetime import timedelta

import pytest

from capillary_targets import TargetsClient, UsageError, endpoints, from_env, open_session
from capillary_targets.sandbox import Sandbox

from .conftest import in_environment


async def test_every_way_in_takes_it(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, sandbox)
    monkeypatch.setenv("CAPILLARY_TIMEZONE", "Asia/Kolkata")
    user = sandbox.world.user_ids()[0]
    async with TargetsClient(**from_env(), timeout=5) as client:
        (rule, *_) = await client.active_targets(user)
        (event, *_) = await client.events(user, rule.id).collect()
    assert event.event_date.utcoffset() == timedelta(hours=5, minutes=30)
    async with open_session(**from_env()) as session:
        assert rule in await endpoints.active_targets(session, user)


@pytest.mark.parametrize("blank", ["", " "])
def test_a_variable_that_is_not_set_is_named(blank: str) -> None:
    with pytest.raises(UsageError, match=r"^CAPILLARY_BASE_URL is not set: .* or address$"):
        from_env({"CAPILLARY_BASE_URL": blank})
    with pytest.raises(UsageError, match=r"^CAPILLARY_USERNAME is not set: .*, or ask Ann$"):
        from_env({"CAPILLARY_BASE_URL": "eu"}, hint=", or ask Ann")
