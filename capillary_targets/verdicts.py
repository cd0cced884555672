"""Verdicts: from a few answers of a cluster to how it behaves. No I/O; `doctor` makes the requests.

Each question has a function of the answers, by name, that returns what they say, the evidence, and
the settings of a sandbox that behaves so; or None, and why they cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from .contract import Finding, contract, findings

LARGE: Final = 1000
SAFE: Final = 100
"""Limits that are asked for: one that may be capped, and one that siblings keep."""
FAR: Final = 999_999
"""An offset behind the last row."""
NO_RECORD: Final = frozenset({310149, 310126})

FEW: Final = 4
"""Events that it takes to tell page numbers from rows."""
_BEGINS: Final = {"page": 2, "row": 1, "ignored": 0}
"""The row at which limit=2&offset=1 begins."""


class CannotTell(Exception):
    """There is no answer to judge, and why."""


@frozen
class Verdict:
    """What the evidence says about one question; `answer` None: it cannot be told, and why.

    `sandbox` are settings of a sandbox that behaves so.
    """

    question: str
    answer: str | None
    evidence: str
    sandbox: Mapping[str, Any] = field(factory=dict)


@frozen
class Look:
    """One answer: its body as an object (None: it was none), and the API's code if it refused.

    `status` 0: nothing came. `failure` is the name of the exception that it would have been.
    """

    path: str
    status: int
    headers: Mapping[str, str] = field(factory=dict)
    document: Mapping[str, Any] | None = None
    code: int | None = None
    failure: str | None = None
    body: bytes = field(default=b"", repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The objects in `data`, if that is an array."""
        return _objects((self.document or {}).get("data"))

    @property
    def user_targets(self) -> list[dict[str, Any]]:
        """The targets in all of a member's groups."""
        data = (self.document or {}).get("data")
        groups = data.get("targetGroups") if isinstance(data, dict) else None
        return [one for group in _objects(groups) for one in _objects(group.get("targets"))]

    @property
    def pagination(self) -> dict[str, Any] | None:
        """The object of that name, if there is one."""
        return next(iter(_objects([(self.document or {}).get("pagination")])), None)

    @property
    def limit(self) -> int:
        """The limit asked for."""
        return int(self.path.partition("limit=")[2].partition("&")[0])

    def number(self, name: str) -> int | None:
        """A number of `pagination`, which may come as text; None: none that counts anything."""
        try:
            return number if (number := int((self.pagination or {})[name])) >= 0 else None
        except (ArithmeticError, KeyError, TypeError, ValueError):
            return None

    @property
    def says(self) -> str:
        """The refusal, or the status."""
        return f"code {self.code}, HTTP {self.status}" if self.code else f"HTTP {self.status}"


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects in an array, if that is one."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class Answers(dict[str, Look]):
    """Answers by what was asked; what was not is an answer that never came.

    `kind` is that of the credentials, Basic or OAuth.
    """

    def __init__(self, kind: str, host: str, looks: Mapping[str, Look] | None = None) -> None:
        super().__init__(looks or {})
        self.kind = kind
        self.host = host

    @property
    def found(self) -> tuple[Finding, ...]:
        """What the contract does not say."""
        told = {
            one.news: one
            for look in self.values()
            if look.status and (call := contract().call_at(look.path))
            for one in findings(call.name, look.path, look.status, look.headers, look.body)
        }
        return tuple(told.values())

    def __missing__(self, name: str) -> Look:
        return Look(name, 0)

    def of_member(self, name: str) -> Look:
        """What a member's call answered. Raises `CannotTell` where no member was given."""
        if "targets" not in self:
            raise CannotTell("no member was given: add --user ID")
        return self[name]

    def events(self, least: int = 1) -> list[dict[str, Any]]:
        """The events of the largest page. Raises `CannotTell` where there are fewer."""
        full = self.of_member("full")
        if "full" not in self:
            raise CannotTell("no target to ask for")
        if full.failure is not None:
            raise CannotTell(f"the events were refused ({full.says}): give another --rule ID")
        if len(full.rows) < least:
            raise CannotTell(f"{len(full.rows)} events, {least} are needed: give another member")
        return full.rows

    @property
    def offsets(self) -> list[str]:
        """The readings of `offset` under which limit=2&offset=1 brought what it did."""
        rows, second = self["full"].rows, self["second"].rows
        return [kind for kind, at in _BEGINS.items() if rows[at : at + len(second)] == second]

    @property
    def complete(self) -> bool | None:
        """Whether the largest page held all events: a next one, if asked for, had none.

        None where it cannot be told: the next page was the same one, or did not come.
        """
        rows, following = self["full"].rows, self["next"]
        if "next" not in self:
            return self["full"].number("total") == len(rows)
        if following.rows == rows or (following.document is None and following.status != 404):
            return None
        return following.rows in ([], rows[1:])


Told: TypeAlias = tuple[str | None, str] | tuple[str | None, str, dict[str, Any]]


def judge(answers: Answers) -> tuple[Verdict, ...]:
    """All verdicts, in the order of `QUESTIONS`."""
    return tuple(map(partial(_judged, answers), QUESTIONS, _JUDGES))


def _judged(answers: Answers, question: str, told: Callable[[Answers], Told]) -> Verdict:
    try:
        return Verdict(question, *told(answers))
    except CannotTell as reason:
        return Verdict(question, None, str(reason))


def _auth(answers: Answers) -> Told:
    let_in = [one for one in answers.values() if one.failure != "AuthError"]
    if not let_in:
        return f"{answers.kind} rejected", f"every call: {answers['nobody'].says}"
    calls = sorted({c.name for one in let_in if (c := contract().call_at(one.path))})
    return f"{answers.kind} accepted", f"by {', '.join(calls)}; the other kind was not tried"


def _host(answers: Answers) -> Told:
    family = next(
        (one for one in ("intouch", "api") if f".{one}." in f".{answers.host}"), "another"
    )
    answered = sum(one.document is not None for one in answers.values())
    return family if answered else None, f"{answers.host}: {answered} answers in the API's form"


# --- pagination ---


def _offset(answers: Answers) -> Told:
    answers.events(FEW)
    asked, kinds = "limit=2&offset=1", answers.offsets
    if not answers["second"].rows:
        return None, f"no answer to {asked}"
    if len(kinds) != 1:
        reason = "rows are alike in every field" if kinds else "the rows changed meanwhile"
        return None, f"{asked} began nowhere in particular: {reason}"
    return kinds[0], f"{asked} began at row {_BEGINS[kinds[0]]}", {"offset_mode": kinds[0]}


def _total(answers: Answers) -> Told:
    rows, full, second = answers.events(FEW), answers["full"], answers["second"]
    if second.failure is not None or second.document is None:
        return None, "no answer to limit=2&offset=1"
    total, other = full.number("total"), second.number("total")
    evidence = f"{total} with limit={full.limit}, {other} with limit=2; {len(rows)} events"
    mode: str | None
    if total is None or other is None:
        mode = "none" if full.pagination is None else "absent"
    elif total != other:
        # The same list in pages of two sizes: both counts must be of one number of rows.
        size = full.number("limit") or full.limit
        fits = (total - 1) * size < other * 2 and (other - 1) * 2 < total * size
        mode = "pages" if fits else None
    else:
        mode = _count_of_rows(answers, total) if total else "zero"
    if mode is None:
        return None, f"{evidence}: too little to tell what it counts"
    return _TOTALS.get(mode, mode), evidence, {"total_mode": mode}


_TOTALS: Final = {"text": "rows", "float": "rows", "wrong-high": "wrong", "none": "absent"}
"""What the sandbox's ways to send a total are to a walk."""


def _count_of_rows(answers: Answers, total: int) -> str | None:
    """Whether a total that is the same for every limit counts the rows, and how it is written."""
    full, complete = answers["full"], answers.complete
    if (complete and total == len(full.rows)) or (complete is False and _ends_at(answers, total)):
        sent = type((full.pagination or {}).get("total"))
        return {str: "text", float: "float"}.get(sent, "rows")
    if total < len(full.rows):
        return "wrong"
    return "wrong-high" if complete else None


def across_the_end(answers: Answers, total: int) -> tuple[int, int]:
    """The limit and offset of a page that is not full if the last row stands where `total` says."""
    if answers.offsets == ["row"]:
        return 2, total - 1
    limit = next(size for size in range(2, total + 2) if total % size)
    return limit, total // limit


def _ends_at(answers: Answers, total: int) -> bool:
    """Whether the last row stands where `total` says."""
    limit, _ = across_the_end(answers, total)
    count = 1 if answers.offsets == ["row"] else total % limit
    return len(answers["last"].rows) == count


def _limit(answers: Answers) -> Told:
    count, full, default = len(answers.events()), answers["full"], answers["default"]
    asked, echoed = f"limit={full.limit}", full.number("limit")
    told, evidence = [], []
    sandbox: dict[str, Any] = {}
    size = default.number("limit")
    if size is None and len(default.rows) < count:
        size = len(default.rows)
    if default.rows and size:
        told.append(f"default {size}")
        evidence.append(f"{len(default.rows)} events without a limit")
        sandbox = {"default_limit": size}
    if "refused" in answers:
        told.append(f"refused above a maximum of {SAFE} or more")
        evidence.append(f"limit={LARGE}: {answers['refused'].says}")
        sandbox |= {"limit_mode": "refused", "max_limit": SAFE}
    elif echoed is not None and echoed < full.limit:
        told.append(f"capped at {echoed}")
        evidence.append(f"{asked} was echoed as {echoed}")
        sandbox |= {"limit_mode": "capped", "max_limit": echoed}
    elif count >= full.limit:
        told.append(f"at least {full.limit}")
        evidence.append(f"{asked} brought as many")
    elif answers.complete is False and "next" in answers:
        told.append(f"capped at {count} without a word")
        evidence.append(f"{asked} brought {count} events, and more followed")
        sandbox |= {"limit_mode": "capped-silent", "max_limit": count}
    else:
        evidence.append(f"{count} events are too few to meet a maximum")
    return ", ".join(told) or None, "; ".join(evidence), sandbox


def _past_end(answers: Answers) -> Told:
    rows, behind = answers.events(), answers["behind"]
    if not behind.status:
        return None, f"no answer to offset={FAR}"
    if behind.failure is not None:
        kind = "310149" if behind.code in NO_RECORD else "error" if behind.code else "404"
        answer = f"refused with {behind.code}" if behind.code else f"HTTP {behind.status}"
        return answer, f"offset={FAR}: {behind.says}", {"past_end": kind}
    evidence = f"offset={FAR}: {len(behind.rows)} events"
    if not behind.rows:
        return "empty page", evidence, {"past_end": "empty"}
    if answers["second"].rows and answers.offsets == ["ignored"]:
        return "the first page", evidence
    if any(row in rows for row in behind.rows):
        return "the last page again", evidence, {"offset_mode": "clamped"}
    endless = answers.complete  # otherwise they may be some of those that are not known
    return ("it never ends", evidence, {"past_end": "endless"}) if endless else (None, evidence)


# --- errors, rows, times ---


def _error_status(answers: Answers) -> Told:
    look, other = answers["nobody"], answers["no rule"]
    evidence = f"a user id that nobody has: {look.says}"
    if look.code is None:
        return None, evidence
    if other.code and other.status != look.status:
        evidence += f"; a target that nobody has: {other.says}"
    return f"HTTP {look.status}", evidence, {"error_status": look.status}


def _no_record(answers: Answers) -> Told:
    look = answers.of_member("unrecorded")
    if "unrecorded" not in answers:
        return None, "every target has a record"
    answer = str(look.code) if look.code else f"{len(look.rows)} events"
    return answer, f"a target without a record: {look.says}"


def _log_ids(answers: Answers) -> Told:
    rows = answers.events()
    known = [str(row["eventLogId"]) for row in rows if row.get("eventLogId") is not None]
    repeated, missing = len(known) - len(set(known)), len(rows) - len(known)
    if not repeated and not missing and len(rows) < 10:
        return None, f"each of {len(rows)} events has its own: too few to tell"
    sandbox: dict[str, Any] = {"rows_per_id": 2} if repeated else {}
    if missing:
        sandbox["missing_ids"] = round(missing / len(rows), 2)
        sandbox["missing_id_key"] = any(row.get("eventLogId", 0) is None for row in rows)
    kinds = ["repeated"] * bool(repeated) + ["missing"] * bool(missing)
    evidence = f"{len(rows)} events, {repeated} repeat an id, {missing} have none"
    return " and ".join(kinds) or "one each", evidence, sandbox


def _iso(answers: Answers) -> Told:
    rows = answers.events()
    twins = sum(bool(row.get("eventDateISO")) for row in rows)
    return "sent" if twins else "not sent", f"{twins} of {len(rows)} events", {"iso": twins > 0}


def _zone(answers: Answers) -> Told:
    targets, events = answers.of_member("targets").rows, answers["full"].rows
    dates = {str(row["eventLogId"]): row.get("eventDate") for row in events if "eventLogId" in row}
    dates.pop("None", None)
    made = [one.get("createdOn") for one in _objects([row.get("attribution") for row in targets])]
    pairs: dict[str, list[tuple[object, object]]] = {
        "dates and their ISO twins": [
            (row.get("eventDate"), row.get("eventDateISO")) for row in events
        ],
        "the event that reached a target, and when that was in UTC": [
            (dates.get(str(one.get("targetAchievedEventLogId"))), one.get("targetAchievedDateTime"))
            for one in answers["groups"].user_targets
        ],
        "likely: the offset that createdOn carries": [(str(one)[:19], one) for one in made],
    }
    for evidence, times in pairs.items():
        offsets = {one for pair in times if (one := _offset_between(*pair)) is not None}
        if len(offsets) == 1:
            minutes = round(offsets.pop() / timedelta(minutes=1))
            sign = "-" if minutes < 0 else "+"
            return f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}", evidence
    return None, f"no date came with and without a zone{_ahead(answers['full'])}"


def _ahead(full: Look) -> str:
    """What the newest event says against `Date`: no event lies in the future."""
    dates = [_moment(row.get("eventDate")) for row in full.rows]
    with suppress(KeyError, TypeError, ValueError):  # a time is missing, or no time
        now = parsedate_to_datetime(full.headers["Date"]).replace(tzinfo=None)
        newest = max(one for one in dates if one is not None and one.tzinfo is None)
        if (minutes := (newest - now) // timedelta(minutes=1)) > 0:
            return f"; by its newest event the cluster is at least {minutes} minutes ahead of UTC"
    return ""


def _offset_between(local: object, zoned: object) -> timedelta | None:
    """The cluster's time less UTC, from the same time without and with a zone."""
    naive, aware = _moment(local), _moment(zoned)
    if naive and aware and naive.tzinfo is None and aware.tzinfo:
        with suppress(OverflowError):  # in the first or the last year
            return naive - aware.astimezone(UTC).replace(tzinfo=None)
    return None


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _returns(answers: Answers) -> Told:
    returned = [row for row in answers.events() if row.get("eventName") == "RETURN_BILL"]
    sent = [row.get("targetValue") for row in returned]
    values = [one for one in sent if isinstance(one, int | float) and one]
    if not values:
        return None, "no return among the events: give a member who returned something"
    negative = sum(one < 0 for one in values)
    answer = {0: "unsigned", len(values): "negative"}.get(negative, "both")
    evidence = f"{negative} of {len(values)} returns are negative"
    return answer, evidence, {"signed_returns": negative > 0}


# --- the other calls, headers, fields ---


def _groups(answers: Answers) -> Told:
    look = answers.of_member("groups")
    if look.failure == "AuthError":
        return "refused", f"{look.says}: the account needs the resource Target Loyalty"
    return "allowed" if look.failure is None else None, look.says


def _last_updated(answers: Answers) -> Told:
    targets = answers.of_member("groups").user_targets
    if not targets:
        return None, "no target in `targetGroups`"
    keys = {"last_updated_on": "lastUpdatedOn", "achieved_log_id": "targetAchievedEventLogId"}
    sent = {name: any(key in one for one in targets) for name, key in keys.items()}
    answer = " and ".join(keys[name] for name, there in sent.items() if there) or "neither"
    return answer, f"keys of {len(targets)} targets", sent


def _rate_limit(answers: Answers) -> Told:
    names = {name.lower() for look in answers.values() for name in look.headers}
    told = sorted(name for name in names if "ratelimit" in name.replace("-", ""))
    if not told:
        return None, f"no header tells, and none of {len(answers)} answers was a refusal"
    return f"told by {', '.join(told)}", f"{len(answers)} answers"


def _request_id(answers: Answers) -> Told:
    names = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")
    found = [name for name in names if any(look.headers.get(name) for look in answers.values())]
    answer = "both" if len(found) == len(names) else next(iter(found), "none")
    return answer, f"headers of {len(answers)} answers", {"request_id_headers": answer}


def _phase_out(answers: Answers) -> Told:
    signs = [str(one) for one in answers.found if one.kind == "phase-out"]
    if signs:
        return "announced", "; ".join(signs)
    return "no sign", f"{len(answers)} answers without Deprecation, Sunset or 410"


def _fields(answers: Answers) -> Told:
    others = [str(one) for one in answers.found if one.kind != "phase-out"]
    if not others:
        return "as in the contract", f"{len(answers)} answers"
    more = "; ..." if len(others) > 3 else ""
    return f"{len(others)} not in the contract", "; ".join(others[:3]) + more


_JUDGES: Final[tuple[Callable[[Answers], Told], ...]] = (
    *(_auth, _host, _offset, _total, _limit, _past_end, _error_status, _no_record, _log_ids),
    *(_iso, _zone, _returns, _groups, _last_updated, _rate_limit, _request_id, _phase_out, _fields),
)
QUESTIONS: Final = tuple(one.__name__.removeprefix("_") for one in _JUDGES)
"""What is judged, by the names that verdicts and `contract.toml` use."""


def dialect_of(sandbox: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Dialect` that the settings of a sandbox amount to."""
    dialect: dict[str, Any] = {}
    if offset := sandbox.get("offset_mode"):
        dialect["offset"] = "page" if offset == "clamped" else offset
    if total := sandbox.get("total_mode"):
        dialect["total"] = _TOTALS.get(total, total)
    if limit := sandbox.get("limit_mode"):
        dialect |= {"cap": sandbox["max_limit"]} | ({} if limit == "refused" else {"limit": limit})
    if offset == "clamped":
        dialect["past_end"] = "clamped"
    elif (past_end := sandbox.get("past_end")) not in {None, "endless"}:
        dialect["past_end"] = "empty" if past_end == "empty" else "refused"
    return dialect
