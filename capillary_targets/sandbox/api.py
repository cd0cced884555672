"""The API's calls: parameters in, answers out. All follow from one world, so their numbers agree.

Sources: contract §6 and §7, and §11 for the look-ups.
"""

from __future__ import annotations

from random import Random

from aiohttp import web

from . import paging, responses, samples
from .auth import Authenticator
from .model import Rule
from .responses import as_json, error
from .settings import SandboxSettings
from .world import World

_ENROLMENT_TYPES = {"TRANSACTION", "IMPORT", "AUDIENCE_FILTER"}
_ONE_ACCOUNT = {"INSTORE", "ALL"}
_OTHER_SOURCES = frozenset(
    "FACEBOOK WEB_ENGAGE WECHAT MARTJACK TMALL TAOBAO JD ECOMMERCE WEBSITE LINE".split()  # noqa: SIM905
)
_OTHER_NAMES = frozenset("cardnumber cardExternalId wechat martjackId fbId".split())  # noqa: SIM905
"""Kinds of identifiers that no member here has."""
_ACCOUNT = "sandbox"
"""The one account of each other source."""


class Api:
    """Handlers of the API's calls. Settings are read anew for each call: they may change."""

    def __init__(
        self, settings: SandboxSettings, world: World, authenticator: Authenticator
    ) -> None:
        self._settings = settings
        self._world = world
        self._authenticator = authenticator
        self._random = Random(settings.seed)
        self._events_requests = 0

    def routes(self) -> list[web.RouteDef]:
        """The paths of the calls; a name is what `sandbox.counts` counts by."""
        calls = [
            ("enrolledTargets", "/v3/users/{user}/enrolledTargets", self.targets),
            ("trackedTargetEvents", "/v3/users/{user}/trackedTargetEvents/{rule}", self.events),
            ("targetGroups", "/v3/users/{user}/targetGroups", self.target_groups),
            ("targetPeriods", "/v3/targetGroups/{group}/targetPeriods", self.target_periods),
            ("lookup", "/v2/customers/lookup", self.customer_id),
        ]
        # No HEAD: it would go through faults that send bodies.
        routes = [web.get(path, call, name=name, allow_head=False) for name, path, call in calls]
        return [*routes, web.post("/v3/oauth/token/generate", self.token, name="token")]

    async def targets(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/enrolledTargets` (contract §6)."""
        method = request.query.get("enrollmentType")
        if method is not None and method not in _ENROLMENT_TYPES:
            raise error(310130)
        user = self._user(request)
        wanted = _ids(request.query.get("targetRuleIds"))
        # As of that date: the page's own example lists a target made 39 minutes before it.
        as_of = _number(request, "trackingDate")
        only_user_created = _flag(request, "includeOnlyUserCreated")
        rules = [
            rule
            for rule in self._world.targets(user)
            if (wanted is None or rule.id in wanted)
            and (method is None or rule.enrolment_method == method)
            and (as_of is None or rule.created_ms <= as_of)
            and (rule.user_created or not only_user_created)
        ]
        printed = samples.PRINTED_TARGETS.get(rules[0].id) if len(rules) == 1 else None
        if printed is not None and user in samples.ENROLLED:
            return as_json(printed)
        return as_json(responses.targets(rules))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/trackedTargetEvents/{rule}` (contract §7)."""
        settings, world = self._settings, self._world
        user, rule = self._user(request), self._rule(request)
        period_id = _number(request, "periodId")
        period = None if period_id is None else rule.group.period(period_id)
        if period_id is not None and period is None:
            raise error(310019)
        self._change(user, rule.id)
        history = world.history(user, rule.id)
        if not history:
            enrolled = rule in world.targets(user)
            raise error(310149 if enrolled else settings.not_enrolled_code)
        printed, usual = samples.PRINTED_EVENTS.get(
            (user, rule.id, period_id), (None, settings.default_limit)
        )
        limit = _number(request, "limit", least=1) or usual
        offset = _number(request, "offset") or 0
        span = history.span(period)
        page = paging.page_at(settings, history, span, limit, offset)
        plain = printed and paging.page_at(SandboxSettings(), history, span, usual, 0)
        if printed and page == plain and not settings.iso:
            return as_json(printed)
        return as_json(responses.events_page(*page, settings))

    async def target_groups(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/users/{user}/targetGroups` (contract §11.2): the running cycle, or all."""
        settings, world, user = self._settings, self._world, self._user(request)
        every_cycle = _flag(request, "includeInactive")
        _flag(request, "includeInactiveTargets")  # every rule of this world is active
        wanted = _number(request, "targetRuleId")
        rules = [rule for rule in world.targets(user) if wanted in {None, rule.id}]
        answer = responses.target_groups(world, settings, user, rules, every_cycle=every_cycle)
        return as_json(answer)

    async def target_periods(self, request: web.Request) -> web.StreamResponse:
        """`GET /v3/targetGroups/{group}/targetPeriods` (contract §11.3)."""
        group_id = _integer(request.match_info["group"])
        group = None if group_id is None else self._world.group(group_id)
        if group is None:
            raise error(310017)
        return as_json(responses.target_periods(group))

    async def customer_id(self, request: web.Request) -> web.StreamResponse:
        """`GET /v2/customers/lookup` (contract §11.1): an envelope of its own. All are INSTORE."""
        query = request.query
        name, value = query.get("identifierName"), query.get("identifierValue")
        source = query.get("source")
        known = source in _ONE_ACCOUNT | _OTHER_SOURCES
        if not known or name not in {*responses.IDENTIFIERS, *_OTHER_NAMES} or not value:
            raise error(8013)
        account = _ACCOUNT if source in _ONE_ACCOUNT else query.get("accountId")
        if account != _ACCOUNT:
            raise error(8011 if account else 8045)
        user = responses.identified_user(name, value)
        if user is None or not self._world.has_user(user):
            raise error(8015)
        if source not in _ONE_ACCOUNT:
            raise error(8065)
        return as_json(responses.encode({"entity": user, "warnings": []}))

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`POST /v3/oauth/token/generate` (contract §1.2)."""
        return as_json(self._authenticator.token(await request.read()))

    def _user(self, request: web.Request) -> int:
        user = _integer(request.match_info["user"])
        if user is None or not self._world.has_user(user):
            raise error(310011)
        return user

    def _rule(self, request: web.Request) -> Rule:
        rule_id = _integer(request.match_info["rule"])
        rule = None if rule_id is None else self._world.rule(rule_id)
        if rule is None:
            raise error(310018)
        return rule

    def _change(self, user: int, rule: int) -> None:
        """Change the world before an events request, as the settings say."""
        settings, world = self._settings, self._world
        world.count_request(user, rule)
        number, self._events_requests = self._events_requests, self._events_requests + 1
        if settings.between_requests is not None:
            settings.between_requests(world, number)
        if not world.history(user, rule):
            return
        for _ in range(settings.append_per_request):
            world.add_event(user, rule)
        for _ in range(settings.insert_per_request):
            world.insert_late(user, rule)
        if settings.delete_head_per_request:
            world.delete_events(user, rule, slice(0, settings.delete_head_per_request))
        for _ in range(settings.delete_any_per_request):
            if history := world.history(user, rule):
                world.delete_events(user, rule, self._random.randrange(len(history)))


def _integer(text: str) -> int | None:
    """The number that a text of plain digits spells; None if it is anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _number(request: web.Request, name: str, least: int = 0) -> int | None:
    """A numeric query parameter if it is given; anything else, or too small, is invalid input."""
    text = request.query.get(name)
    if text is None:
        return None
    number = _integer(text)
    if number is None or number < least:
        raise error(300004)
    return number


def _flag(request: web.Request, name: str) -> bool:
    """A Boolean query parameter, spelled in lower case; anything else is invalid input."""
    text = request.query.get(name, "false")
    if text not in {"true", "false"}:
        raise error(300004)
    return text == "true"


def _ids(text: str | None) -> frozenset[int | None] | None:
    """A comma list of ids; an empty one asks for nothing in particular."""
    if not text:
        return None
    ids = frozenset(_integer(one.strip()) for one in text.split(","))
    if None in ids:
        raise error(300004)
    return ids
