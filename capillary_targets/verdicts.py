"""Verdicts: from a few answers of a cluster to how it behaves. No I/O; `doctor` makes the requests.

Each question has a function of the answers, by name, that returns what they say, the evidence, and
the settings of a sandbox that behaves so. Where they cannot tell, it says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from .contract import Finding, contract, findings

__all__ = [
    "FAR",
    "FEW",
    "LARGE",
    "NO_RECORD",
    "QUESTIONS",
    "SAFE",
    "Look",
    "Looks",
    "Verdict",
    "across_the_end",
    "dialect_of",
    "judge",
]

LARGE: Final = 1000
SAFE: Final = 100
"""Limits that are asked for: one that may be capped, and one that siblings keep."""
FAR: Final = 999_999
"""An offset behind the last row."""
NO_RECORD: Final = frozenset({310149, 310126})

FEW: Final = 4
"""Events that it takes to tell page numbers from rows."""
_NO_MEMBER: Final = "no member was given: add --user ID"
_BEGINS: Final = {"page": 2, "row": 1, "ignored": 0}
"""The row at which limit=2&offset=1 begins."""


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


Looks: TypeAlias = Mapping[str, Look]
Told: TypeAlias = tuple[str | None, str] | tuple[str | None, str, dict[str, Any]]
Judge: TypeAlias = Callable[[Looks], Told]
_JUDGES: Final[dict[str, Judge]] = {}


def judge(looks: Looks, kind: str, host: str) -> tuple[list[Verdict], list[Finding]]:
    """All verdicts in the order of `QUESTIONS`, and what the contract does not say.

    Args:
        looks: the answers by what was asked.
        kind: of the credentials: Basic or OAuth.
        host: that answered.
    """
    beside = {
        one.news: one
        for look in looks.values()
        if look.status and (call := contract().call_at(look.path))
        for one in findings(call.name, look.path, look.status, look.headers, look.body)
    }
    found = list(beside.values())
    told = {
        "auth": _auth(looks, kind),
        "host": _host(looks, host),
        **{name: judged(looks) for name, judged in _JUDGES.items()},
        "phase_out": _phase_out(looks, found),
        "fields": _fields(looks, found),
    }
    return [Verdict(name, *told[name]) for name in QUESTIONS], found


def _auth(looks: Looks, kind: str) -> Told:
    let_in = [one for one in looks.values() if one.failure != "AuthError"]
    if not let_in:
        return f"{kind} rejected", f"every call: {looks['nobody'].says}"
    calls = {call.name for one in let_in if (call := contract().call_at(one.path))}
    return f"{kind} accepted", f"by {', '.join(sorted(calls))}; the other kind was not tried"


def _host(looks: Looks, host: str) -> Told:
    family = next((one for one in ("intouch", "api") if f".{one}." in f".{host}"), "another")
    answered = sum(one.document is not None for one in looks.values())
    return family if answered else None, f"{host}: {answered} answers in the API's form"


def _question(*, events: int = 0) -> Callable[[Judge], Judge]:
    """A question, named as the function is; with fewer events than it needs, it cannot be told."""

    def decorate(judged: Judge) -> Judge:
        def told(looks: Looks) -> Told:
            full = looks.get("full")
            if full is None:
                return None, "no target to ask for" if "targets" in looks else _NO_MEMBER
            if full.failure is not None:
                return None, f"the events were refused ({full.says}): give another --rule ID"
            if len(full.rows) < events:
                return None, f"{len(full.rows)} events, {events} are needed: give another member"
            return judged(looks)

        _JUDGES[judged.__name__.removeprefix("_")] = told if events else judged
        return judged

    return decorate


# --- pagination ---


@_question(events=FEW)
def _offset(looks: Looks) -> Told:
    asked = "limit=2&offset=1"
    kinds = _kinds_of_offset(looks)
    if kinds is None:
        return None, f"no answer to {asked}"
    if len(kinds) != 1:
        reason = "rows are alike in every field" if kinds else "the rows changed meanwhile"
        return None, f"{asked} began nowhere in particular: {reason}"
    (kind,) = kinds
    return kind, f"{asked} began at row {_BEGINS[kind]}", {"offset_mode": kind}


def _kinds_of_offset(looks: Looks) -> list[str] | None:
    """The readings under which the second page is where it was."""
    rows, second = looks["full"].rows, looks.get("second")
    if second is None or not second.rows:
        return None
    size = len(second.rows)
    return [kind for kind, at in _BEGINS.items() if rows[at : at + size] == second.rows]


@_question(events=FEW)
def _total(looks: Looks) -> Told:
    full, second = looks["full"], looks.get("second")
    if second is None:
        return None, "no answer to limit=2&offset=1"
    total, other = full.number("total"), second.number("total")
    evidence = f"{total} with limit={full.limit}, {other} with limit=2; {len(full.rows)} events"
    mode: str | None
    if total is None or other is None:
        mode = "none" if full.pagination is None else "absent"
    elif total != other:
        # The same list in pages of two sizes: both counts must be of one number of rows.
        size = full.number("limit") or full.limit
        fits = (total - 1) * size < other * 2 and (other - 1) * 2 < total * size
        mode = "pages" if fits else None
    else:
        mode = "zero" if total == 0 else _count_of_rows(looks, total)
    if mode is None:
        return None, f"{evidence}: too little to tell what it counts"
    return _TOTALS.get(mode, mode), evidence, {"total_mode": mode}


_TOTALS: Final = {"text": "rows", "float": "rows", "wrong-high": "wrong", "none": "absent"}


def _count_of_rows(looks: Looks, total: int) -> str | None:
    """Whether a total that is the same for every limit counts the rows, and how it is written."""
    full, complete = looks["full"], _is_complete(looks)
    if (complete and total == len(full.rows)) or (complete is False and _ends_at(looks, total)):
        sent = type((full.pagination or {}).get("total"))
        return {str: "text", float: "float"}.get(sent, "rows")
    if complete or total < len(full.rows):
        return "wrong" if total < len(full.rows) else "wrong-high"
    return None


def _is_complete(looks: Looks) -> bool | None:
    """Whether the full page held all events: a next page, if asked for, had none that are new.

    None where it cannot be told: the next page was the same one.
    """
    full, following = looks["full"], looks.get("next")
    if following is None:
        return full.number("total") == len(full.rows)
    if following.rows == full.rows:
        return None
    return not following.rows or following.rows == full.rows[1:]


def across_the_end(looks: Looks, total: int) -> tuple[int, int]:
    """The limit and offset of a page that is not full if the last row stands where `total` says."""
    if _kinds_of_offset(looks) == ["row"]:
        return 2, total - 1
    limit = next(size for size in range(2, total + 2) if total % size)
    return limit, total // limit


def _ends_at(looks: Looks, total: int) -> bool:
    """Whether the last row stands where `total` says."""
    last, (limit, _) = looks.get("last"), across_the_end(looks, total)
    by_row = _kinds_of_offset(looks) == ["row"]
    return last is not None and len(last.rows) == (1 if by_row else total % limit)


@_question(events=1)
def _limit(looks: Looks) -> Told:
    full, default, refused = looks["full"], looks.get("default"), looks.get("refused")
    count, asked, echoed = len(full.rows), f"limit={full.limit}", full.number("limit")
    answers, evidence = [], []
    sandbox: dict[str, Any] = {}
    if default is not None and default.rows:
        size = default.number("limit")
        if size is None and len(default.rows) < count:
            size = len(default.rows)
        if size:
            answers.append(f"default {size}")
            evidence.append(f"{len(default.rows)} events without a limit")
            sandbox = {"default_limit": size}
    if refused is not None:
        answers.append(f"refused above a maximum of {SAFE} or more")
        evidence.append(f"limit={LARGE}: {refused.says}")
        sandbox |= {"limit_mode": "refused", "max_limit": SAFE}
    elif echoed is not None and echoed < full.limit:
        answers.append(f"capped at {echoed}")
        evidence.append(f"{asked} was echoed as {echoed}")
        sandbox |= {"limit_mode": "capped", "max_limit": echoed}
    elif count >= full.limit:
        answers.append(f"at least {full.limit}")
        evidence.append(f"{asked} brought as many")
    elif _is_complete(looks) is False and "next" in looks:
        answers.append(f"capped at {count} without a word")
        evidence.append(f"{asked} brought {count} events, and more followed")
        sandbox |= {"limit_mode": "capped-silent", "max_limit": count}
    else:
        evidence.append(f"{count} events are too few to meet a maximum")
    return ", ".join(answers) or None, "; ".join(evidence), sandbox


@_question(events=1)
def _past_end(looks: Looks) -> Told:
    behind = looks.get("behind")
    if behind is None or not behind.status:
        return None, f"no answer to offset={FAR}"
    size = len(behind.rows)
    evidence = f"offset={FAR}: {behind.says if behind.failure else f'{size} events'}"
    if behind.failure is not None:
        kind = "310149" if behind.code in NO_RECORD else "error" if behind.code else "404"
        answer = f"refused with {behind.code}" if behind.code else f"HTTP {behind.status}"
        return answer, evidence, {"past_end": kind}
    if not size:
        return "empty page", evidence, {"past_end": "empty"}
    if _kinds_of_offset(looks) == ["ignored"]:
        return "the first page", evidence
    if any(row in looks["full"].rows for row in behind.rows):
        return "the last page again", evidence, {"offset_mode": "clamped"}
    endless = _is_complete(looks)  # otherwise they may be some of those that are not known
    return ("it never ends", evidence, {"past_end": "endless"}) if endless else (None, evidence)


# --- errors, rows, times ---


@_question()
def _error_status(looks: Looks) -> Told:
    look, other = looks["nobody"], looks.get("no rule")
    evidence = f"a user id that nobody has: {look.says}"
    if look.code is None:
        return None, evidence
    if other is not None and other.code and other.status != look.status:
        evidence += f"; a target that nobody has: {other.says}"
    return f"HTTP {look.status}", evidence, {"error_status": look.status}


@_question()
def _no_record(looks: Looks) -> Told:
    look = looks.get("unrecorded")
    if look is None:
        return None, "every target has a record" if "targets" in looks else _NO_MEMBER
    answer = str(look.code) if look.code else f"{len(look.rows)} events"
    return answer, f"a target without a record: {look.says}"


@_question(events=1)
def _log_ids(looks: Looks) -> Told:
    rows = looks["full"].rows
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


@_question(events=1)
def _iso(looks: Looks) -> Told:
    rows = looks["full"].rows
    twins = sum(bool(row.get("eventDateISO")) for row in rows)
    return "sent" if twins else "not sent", f"{twins} of {len(rows)} events", {"iso": twins > 0}


@_question()
def _zone(looks: Looks) -> Told:
    if "targets" not in looks:
        return None, _NO_MEMBER
    rows = looks["full"].rows if "full" in looks else []
    known = [row for row in rows if row.get("eventLogId") is not None]
    dates = {str(row["eventLogId"]): row.get("eventDate") for row in known}
    achieved = looks["groups"].user_targets if "groups" in looks else []
    made = [
        one.get("createdOn")
        for one in _objects([r.get("attribution") for r in looks["targets"].rows])
    ]
    for evidence, pairs in (
        (
            "dates and their ISO twins",
            [(one.get("eventDate"), one.get("eventDateISO")) for one in rows],
        ),
        (
            "the event that reached a target, and when that was in UTC",
            [
                (
                    dates.get(str(one.get("targetAchievedEventLogId", ""))),
                    one.get("targetAchievedDateTime"),
                )
                for one in achieved
            ],
        ),
        ("likely: the offset that createdOn carries", [(str(one)[:19], one) for one in made]),
    ):
        offsets = set(_offsets(pairs))
        if len(offsets) == 1:
            minutes = round(offsets.pop() / timedelta(minutes=1))
            sign = "-" if minutes < 0 else "+"
            return f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}", evidence
    return None, f"no date came with and without a zone{_ahead(looks)}"


def _ahead(looks: Looks) -> str:
    """What the newest event says against `Date`: no event lies in the future."""
    full = looks.get("full")
    try:
        now = parsedate_to_datetime(full.headers["Date"]) if full is not None else None
    except (KeyError, TypeError, ValueError):
        now = None
    dates = (
        [moment for row in full.rows if (moment := _moment(row.get("eventDate")))] if full else []
    )
    newest = max((one for one in dates if one.tzinfo is None), default=None)
    if now is None or newest is None or newest <= now.replace(tzinfo=None):
        return ""
    minutes = (newest - now.replace(tzinfo=None)) // timedelta(minutes=1)
    return f"; by its newest event the cluster is at least {minutes} minutes ahead of UTC"


def _offsets(pairs: Iterable[tuple[object, object]]) -> Iterator[timedelta]:
    """The cluster's time less UTC, from times without and with a zone."""
    for local, zoned in pairs:
        naive, aware = _moment(local), _moment(zoned)
        if naive and aware and naive.tzinfo is None and aware.tzinfo:
            with suppress(OverflowError):  # in the first or the last year
                yield naive - aware.astimezone(UTC).replace(tzinfo=None)


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


@_question(events=1)
def _returns(looks: Looks) -> Told:
    values = [
        value
        for row in looks["full"].rows
        if row.get("eventName") == "RETURN_BILL"
        and isinstance(value := row.get("targetValue"), int | float)
        and value
    ]
    if not values:
        return None, "no return among the events: give a member who returned something"
    negative = sum(one < 0 for one in values)
    answer = {0: "unsigned", len(values): "negative"}.get(negative, "both")
    evidence = f"{negative} of {len(values)} returns are negative"
    return answer, evidence, {"signed_returns": negative > 0}


# --- the other calls, headers, fields ---


@_question()
def _groups(looks: Looks) -> Told:
    look = looks.get("groups")
    if look is None:
        return None, _NO_MEMBER
    if look.failure == "AuthError":
        return "refused", f"{look.says}: the account needs the resource Target Loyalty"
    return "allowed" if look.failure is None else None, look.says


@_question()
def _last_updated(looks: Looks) -> Told:
    if "groups" not in looks:
        return None, _NO_MEMBER
    targets = looks["groups"].user_targets
    if not targets:
        return None, "no target in `targetGroups`"
    keys = {"last_updated_on": "lastUpdatedOn", "achieved_log_id": "targetAchievedEventLogId"}
    sent = {name: any(key in one for one in targets) for name, key in keys.items()}
    answer = " and ".join(keys[name] for name, there in sent.items() if there) or "neither"
    return answer, f"keys of {len(targets)} targets", sent


@_question()
def _rate_limit(looks: Looks) -> Told:
    names = {name.lower() for look in looks.values() for name in look.headers}
    told = sorted(name for name in names if "ratelimit" in name.replace("-", ""))
    if told:
        return f"told by {', '.join(told)}", f"{len(looks)} answers"
    return None, f"no header tells, and none of {len(looks)} answers was a refusal"


@_question()
def _request_id(looks: Looks) -> Told:
    names = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")
    found = [name for name in names if any(look.headers.get(name) for look in looks.values())]
    answer = "both" if len(found) == len(names) else next(iter(found), "none")
    return answer, f"headers of {len(looks)} answers", {"request_id_headers": answer}


def _phase_out(looks: Looks, found: Iterable[Finding]) -> Told:
    signs = [str(one) for one in found if one.kind == "phase-out"]
    if signs:
        return "announced", "; ".join(signs)
    return "no sign", f"{len(looks)} answers without Deprecation, Sunset or 410"


def _fields(looks: Looks, found: Iterable[Finding]) -> Told:
    others = [str(one) for one in found if one.kind != "phase-out"]
    if not others:
        return "as in the contract", f"{len(looks)} answers"
    more = "; ..." if len(others) > 3 else ""
    return f"{len(others)} not in the contract", "; ".join(others[:3]) + more


QUESTIONS: Final = ("auth", "host", *_JUDGES, "phase_out", "fields")
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
