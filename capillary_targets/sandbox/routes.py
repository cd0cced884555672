"""The two documented calls: parameters in, rows out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from . import dialects, render, samples
from .movers import move
from .refusals import refuse
from .settings import SandboxSettings

if TYPE_CHECKING:
    from .data import World
    from .model import Rule

_ENROLMENT_TYPES = {"TRANSACTION", "IMPORT", "AUDIENCE_FILTER"}
_JSON = "application/json"


def user_of(request: web.Request, world: World) -> int:
    """The user in the path, or 310011."""
    try:
        user = int(request.match_info["user"])
    except ValueError:
        raise refuse(310011) from None
    if not world.has_user(user):
        raise refuse(310011)
    return user


def flag_of(request: web.Request, name: str) -> bool:
    """A Boolean query parameter, spelled in lower case; anything else is invalid input."""
    text = request.query.get(name, "false")
    if text not in {"true", "false"}:
        raise refuse(300004)
    return text == "true"


def number_of(request: web.Request, name: str, least: int) -> int | None:
    """A numeric query parameter if it is given; garbled or too small is invalid input."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        raise refuse(300004) from None
    if number < least:
        raise refuse(300004)
    return number


class DataCalls:
    """Handlers of contract §6 and §7.

    Args:
        settings: read anew for each request, so that they may change while the sandbox runs.
        world: where the rows come from.
    """

    def __init__(self, settings: SandboxSettings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._events_requests = 0

    async def enrolled_targets(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/enrolledTargets`."""
        method = request.query.get("enrollmentType")
        if method is not None and method not in _ENROLMENT_TYPES:
            raise refuse(310130)
        user = user_of(request, self._world)
        wanted = _ids(request.query.get("targetRuleIds"))
        # As of that date: the page's own example lists a target made 39 minutes before it.
        as_of = number_of(request, "trackingDate", 0)
        only_user_created = flag_of(request, "includeOnlyUserCreated")

        def shown(rule: Rule) -> bool:
            return (
                (wanted is None or rule.id in wanted)
                and (method is None or rule.enrolment_method == method)
                and (as_of is None or rule.created_ms <= as_of)
                and (rule.user_created or not only_user_created)
            )

        rules = [rule for rule in self._world.targets(user) if shown(rule)]
        printed = samples.PRINTED_TARGETS.get(rules[0].id) if len(rules) == 1 else None
        if printed is not None and user in samples.ENROLLED:
            return web.Response(body=printed, content_type=_JSON)
        return web.Response(text=render.targets(rules), content_type=_JSON)

    async def tracked_target_events(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/trackedTargetEvents/{rule}`."""
        user = user_of(request, self._world)
        rule = self._rule_of(request)
        period_id = number_of(request, "periodId", 0)
        period = None if period_id is None else rule.group.period(period_id)
        if period_id is not None and period is None:
            raise refuse(310019)
        move(self._settings, self._world, user, rule.id, self._events_requests)
        self._events_requests += 1
        log = self._world.history(user, rule.id)
        if not len(log):
            raise refuse(310149)
        printed = samples.PRINTED_EVENTS.get((user, rule.id, period_id))
        usual = printed.limit if printed else self._settings.default_limit
        limit, offset = number_of(request, "limit", 1) or usual, number_of(request, "offset", 0)
        page = dialects.page(self._settings, log, log.span(period), limit, offset)
        if (
            printed is not None
            and not log.touched
            and not self._settings.iso
            and page == dialects.page(SandboxSettings(), log, log.span(period), printed.limit, 0)
        ):
            return web.Response(body=printed.body, content_type=_JSON)
        text = render.events_page(page.rows, page.pagination, iso=self._settings.iso)
        return web.Response(text=text, content_type=_JSON)

    def _rule_of(self, request: web.Request) -> Rule:
        try:
            rule = self._world.rule(int(request.match_info["rule"]))
        except ValueError:
            rule = None
        if rule is None:
            raise refuse(310018)
        return rule


def _ids(text: str | None) -> frozenset[int] | None:
    """A comma list of ids; an empty one asks for nothing in particular."""
    if not text:
        return None
    try:
        return frozenset(int(one) for one in text.split(","))
    except ValueError:
        raise refuse(300004) from None
