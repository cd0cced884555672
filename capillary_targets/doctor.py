"""Doctor: which way a cluster falls on each question that the API's pages leave open.

`diagnose` makes at most 15 read-only requests for one member and judges the answers. A verdict
names its evidence; "cannot tell" with the reason is one too. No member's data and no secret is
kept, so a diagnosis, and the `cluster.toml` made of it, can be sent to anybody.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field, frozen

from .auth import BasicAuth
from .contract import Finding, contract, findings
from .endpoints import checked_id
from .errors import CapillaryError, UsageError
from .session import Session
from .structuring import Structurer
from .transport import get
from .wire import Answer, success

__all__ = ["QUESTIONS", "Diagnosis", "Verdict", "diagnose", "load_verdicts"]

MOST_REQUESTS: Final = 15
_LARGE: Final = 1000
_SAFE: Final = 100
_NOBODY: Final = 9_007_199_254_740_991
_FAR: Final = 999_999
_NO_RECORD: Final = frozenset({310149, 310126})
_FEW: Final = 4
"""Events that it takes to tell page numbers from rows."""


@frozen
class Verdict:
    """What the evidence says about one question; `answer` None: it cannot be told, and why.

    `dialect` and `sandbox` are what follows for `Dialect` and for the settings of a sandbox.
    """

    question: str
    answer: str | None
    evidence: str
    dialect: Mapping[str, Any] = field(factory=dict)
    sandbox: Mapping[str, Any] = field(factory=dict)


@frozen
class _Look:
    """One answer: its parsed body (None: no JSON object), and the API's code where it refused."""

    path: str
    status: int
    headers: Mapping[str, str]
    document: Mapping[str, Any] | None
    code: int | None
    failure: str | None
    body: bytes = b""

    @property
    def rows(self) -> list[dict[str, Any]]:
        data = (self.document or {}).get("data")
        return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []

    def number(self, name: str) -> int | None:
        """A number of `pagination`, which may come as text."""
        given = ((self.document or {}).get("pagination") or {}).get(name)
        try:
            return None if given is None else int(given)
        except (TypeError, ValueError):
            return None

    @property
    def says(self) -> str:
        """The refusal, or the status."""
        return f"code {self.code}, HTTP {self.status}" if self.code else f"HTTP {self.status}"


Looks = Mapping[str, _Look]


@frozen
class Diagnosis:
    """All verdicts, in the order of `QUESTIONS`, and what was found beside the contract."""

    host: str
    made_at: datetime
    """Aware, in UTC."""
    requests: int
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what `--json` prints and `cluster.toml` holds."""
        merged: dict[str, dict[str, Any]] = {"dialect": {}, "sandbox": {}}
        for one in self.verdicts:
            merged["dialect"] |= one.dialect
            merged["sandbox"] |= one.sandbox
        return {
            "host": self.host,
            "made_at": f"{self.made_at:%Y-%m-%dT%H:%M:%SZ}",
            "requests": self.requests,
            **merged,
            "verdicts": {
                one.question: {"answer": one.answer or "cannot tell", "evidence": one.evidence}
                for one in self.verdicts
            },
            "findings": [one.to_dict() for one in self.findings],
        }

    def to_toml(self) -> str:
        """The text of a `cluster.toml`: for `Dialect.load`, `Sandbox.like` and `--since`."""
        given = self.to_dict()
        lines = [
            "# Written by `capillary-targets doctor`. It holds no member's data and no secret."
        ]
        lines += [f"{name} = {_toml(given[name])}" for name in ("host", "made_at", "requests")]
        for table in ("dialect", "sandbox"):
            lines += ["", f"[{table}]"]
            lines += [f"{name} = {_toml(value)}" for name, value in given[table].items()]
        for question, said in given["verdicts"].items():
            lines += ["", f"[verdicts.{question}]"]
            lines += [f"{name} = {_toml(value)}" for name, value in said.items()]
        for one in given["findings"]:
            lines += ["", "[[findings]]"]
            lines += [f"{name} = {_toml(value)}" for name, value in one.items()]
        return "\n".join(lines) + "\n"

    def changes(self, before: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """(question, before, now) where an answer differs; `before` is of `load_verdicts`.

        What could not be told then, or cannot now, is no change.
        """
        return [
            (one.question, before[one.question], one.answer)
            for one in self.verdicts
            if one.answer is not None
            and before.get(one.question, "cannot tell") not in {one.answer, "cannot tell"}
        ]


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def load_verdicts(path: str | PathLike[str]) -> dict[str, str]:
    """The answers in a `cluster.toml` by question. Raises `UsageError`."""
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return {str(name): str(said["answer"]) for name, said in given["verdicts"].items()}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is no cluster.toml of `capillary-targets doctor`") from None


async def diagnose(
    session: Session, user_id: int | None = None, target_rule_id: int | None = None
) -> Diagnosis:
    """Ask at most 15 times, and judge.

    Args:
        session: of `open_session`; its dialect is neither used nor changed.
        user_id: a member with some events; without one, few questions can be told.
        target_rule_id: one of the member's targets; without it, the one with the highest value.

    Raises:
        AuthError: the credentials were not accepted, so that nothing can be told.
        CapillaryError: no answer came at all.
    """
    if user_id is None and target_rule_id is not None:
        raise UsageError("a target (rule) id needs the user id of one of its members")
    user = None if user_id is None else checked_id("user_id", user_id)
    rule = None if target_rule_id is None else checked_id("target_rule_id", target_rule_id)
    examination = _Examination(session)
    await examination.ask("nobody", f"/v3/users/{_NOBODY}/enrolledTargets")
    if user is not None:
        await examination.of_member(user, rule)
    looks = examination.looks
    if all(one.failure is not None and not one.status for one in looks.values()):
        raise examination.errors[0]
    verdicts = [_QUESTIONS[name](looks, session) for name in QUESTIONS]
    return Diagnosis(
        session.settings.base_url.host or "",
        datetime.now(UTC).replace(microsecond=0),
        session.counts.requests - examination.before,
        tuple(verdicts),
        tuple(_findings(looks)),
    )


@define(eq=False)
class _Examination:
    """The requests of one diagnosis, by name, each made once."""

    session: Session
    looks: dict[str, _Look] = field(factory=dict)
    errors: list[CapillaryError] = field(factory=list)
    before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.before = self.session.counts.requests

    async def ask(self, name: str, path: str) -> _Look | None:
        """Make the request, if the number allows; None: it does not, or nothing came."""
        attempts = self.session.settings.retry.attempts
        if self.session.counts.requests - self.before + attempts > MOST_REQUESTS:
            return None

        def read(answer: Answer, _: Structurer) -> _Look:
            return _look(path, answer)

        try:
            look = await get(self.session, path, read)
        except CapillaryError as error:
            self.errors.append(error)
            code = getattr(error, "code", None)
            look = _Look(path, error.status or 0, {}, None, code, type(error).__name__)
        self.looks[name] = look
        return look

    async def of_member(self, user: int, rule: int | None) -> None:
        """What a member's targets, groups and events tell."""
        targets = await self.ask("targets", f"/v3/users/{user}/enrolledTargets")
        groups = await self.ask("groups", f"/v3/users/{user}/targetGroups?includeInactive=true")
        candidates = [rule] if rule is not None else _candidates(targets, groups)
        path = ""
        for candidate in candidates[:2]:
            path = f"/v3/users/{user}/trackedTargetEvents/{candidate}"
            full = await self.ask("full", f"{path}?limit={_LARGE}&offset=0")
            if full is not None and len(full.rows) >= _FEW:
                break
        if not path:
            return
        full = self.looks.get("full")
        if full is not None and full.code and full.code not in _NO_RECORD:
            self.looks["refused"] = full
            full = await self.ask("full", f"{path}?limit={_SAFE}&offset=0")
        await self.ask("default", path)
        await self.ask("second", f"{path}?limit=2&offset=1")
        await self.ask("behind", f"{path}?limit=10&offset={_FAR}")
        if full is not None and full.rows:
            asked = _SAFE if "refused" in self.looks else _LARGE
            if full.number("total") != len(full.rows):
                await self.ask("next", f"{path}?limit={asked}&offset=1")
            total = full.number("total") or 0
            if total > len(full.rows):
                limit, offset = _across_the_end(self.looks, total)
                await self.ask("last", f"{path}?limit={limit}&offset={offset}")
        await self.ask("no rule", f"/v3/users/{user}/trackedTargetEvents/{_NOBODY}")
        if (unrecorded := _unrecorded(groups)) is not None:
            await self.ask("unrecorded", f"/v3/users/{user}/trackedTargetEvents/{unrecorded}")


def _look(path: str, answer: Answer) -> _Look:
    code, failure = None, None
    try:
        success(answer)
    except CapillaryError as error:
        if error.retryable:
            raise
        code, failure = getattr(error, "code", None), type(error).__name__
    try:
        document = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = None
    return _Look(path, answer.status, answer.headers, document, code, failure, answer.body)


def _user_targets(groups: _Look | None) -> list[dict[str, Any]]:
    data = (groups.document or {}).get("data") if groups is not None else None
    found = data.get("targetGroups") if isinstance(data, dict) else None
    return [
        target
        for group in found or ()
        if isinstance(group, dict)
        for target in group.get("targets") or ()
        if isinstance(target, dict)
    ]


def _candidates(targets: _Look | None, groups: _Look | None) -> list[int]:
    """Rule ids of the member, those with the highest achieved values first."""
    values: dict[int, float] = {}
    for row in targets.rows if targets is not None else ():
        if isinstance(row.get("id"), int):
            values.setdefault(row["id"], 0.0)
    for one in _user_targets(groups):
        rule, value = one.get("targetRuleId"), one.get("targetAchievedValue")
        if isinstance(rule, int) and one.get("targetId") is not None:
            values[rule] = max(values.get(rule, 0.0), float(value or 0) + 1)
    return sorted(values, key=lambda rule: -values[rule])


def _unrecorded(groups: _Look | None) -> int | None:
    """A target of the member's without a record in any period."""
    recorded: dict[int, bool] = {}
    for one in _user_targets(groups):
        if isinstance(rule := one.get("targetRuleId"), int):
            recorded[rule] = recorded.get(rule, False) or one.get("targetId") is not None
    return next((rule for rule, known in recorded.items() if not known), None)


def _findings(looks: Looks) -> Iterator[Finding]:
    seen = set()
    for look in looks.values():
        call = contract().call_at(look.path)
        if call is None or not look.status:
            continue
        for one in findings(call.name, look.path, look.status, look.headers, look.body):
            if one.news not in seen:
                seen.add(one.news)
                yield one


# --- the questions: from the looks to a verdict each ---


def _few(looks: Looks, least: int = _FEW) -> str | None:
    """Why the events cannot tell; None if there are enough of them."""
    full = looks.get("full")
    if full is None:
        return "no member was given: add --user ID" if "targets" not in looks else "no target"
    if full.failure is not None and not full.rows:
        return f"the events were refused ({full.says}): give --rule ID of a target with events"
    if len(full.rows) < least:
        return (
            f"{len(full.rows)} events; at least {least} are needed: give another --user and --rule"
        )
    return None


def _all_rows(looks: Looks) -> list[dict[str, Any]]:
    return looks["full"].rows if "full" in looks else []


def _auth(looks: Looks, session: Session) -> Verdict:
    kind = "Basic" if isinstance(session.settings.auth, BasicAuth) else "OAuth"
    rejected = [one for one in looks.values() if one.failure == "AuthError"]
    other = "OAuth" if kind == "Basic" else "Basic"
    if len(rejected) == len(looks):
        return Verdict("auth", f"{kind} rejected", f"every call: {rejected[0].says}")
    calls = ", ".join(
        sorted(
            {
                one.name
                for look in looks.values()
                if look not in rejected
                if (one := contract().call_at(look.path))
            }
        )
    )
    return Verdict("auth", f"{kind} accepted", f"by {calls}; {other} was not tried")


def _host(looks: Looks, session: Session) -> Verdict:
    host = session.settings.base_url.host or ""
    family = next((one for one in ("intouch", "api") if f".{one}." in f".{host}"), "another")
    answered = sum(1 for one in looks.values() if one.document is not None)
    if not answered:
        return Verdict("host", None, f"{host} answered nothing in the API's form")
    return Verdict("host", family, f"{host}: {answered} answers in the API's form")


def _offset(looks: Looks, _: Session) -> Verdict:
    if reason := _few(looks):
        return Verdict("offset", None, reason)
    rows, second = looks["full"].rows, looks.get("second")
    if second is None or not second.rows:
        return Verdict("offset", None, "no answer to limit=2&offset=1")
    size = len(second.rows)
    begins = {"page": 2, "row": 1, "ignored": 0}
    found = [kind for kind, at in begins.items() if rows[at : at + size] == second.rows]
    if len(found) != 1:
        reason = "rows alike in every field" if found else "the rows changed meanwhile"
        return Verdict("offset", None, f"limit=2&offset=1 began nowhere in particular: {reason}")
    (kind,) = found
    return Verdict(
        "offset",
        kind,
        f"limit=2&offset=1 began at row {begins[kind]}",
        {"offset": kind},
        {"offset_mode": kind},
    )


def _total(looks: Looks, _: Session) -> Verdict:
    second = looks.get("second")
    if (reason := _few(looks)) or second is None:
        return Verdict("total", None, reason or "no answer to limit=2&offset=1")
    full = looks["full"]
    paging = (full.document or {}).get("pagination")
    total, other = full.number("total"), second.number("total")
    evidence = f"{total} with limit={_limit(full)}, {other} with limit=2; {len(full.rows)} events"
    answer: str | None
    form: str | None
    if total is None or other is None:
        answer = "absent"
        form = "absent" if isinstance(paging, dict) else "none"
    elif total != other:
        size = full.number("limit") or _limit(full)
        # The same list in pages of two sizes: both counts must be of one number of rows.
        fits = (total - 1) * size < other * 2 and (other - 1) * 2 < total * size
        answer = form = "pages" if fits else None
    elif total == 0:
        answer = form = "zero"
    else:
        answer, form = _count_of_rows(looks, total)
    if answer is None or form is None:
        return Verdict("total", None, f"{evidence}: too little to tell what it counts")
    return Verdict("total", answer, evidence, {"total": answer}, {"total_mode": form})


def _count_of_rows(looks: Looks, total: int) -> tuple[str | None, str | None]:
    """Whether a total that is the same for every limit counts the rows, and how it is written."""
    full, complete = looks["full"], _is_complete(looks)
    if (complete and total == len(full.rows)) or (complete is False and _ends_at(looks, total)):
        sent = (full.document or {})["pagination"]["total"]
        return "rows", {str: "text", float: "float"}.get(type(sent), "rows")
    if complete or total < len(full.rows):
        return "wrong", "wrong" if total < len(full.rows) else "wrong-high"
    return None, None


def _limit(look: _Look) -> int:
    return int(look.path.partition("limit=")[2].partition("&")[0])


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


def _across_the_end(looks: Looks, total: int) -> tuple[int, int]:
    """The limit and offset of a page that is not full if the last row stands where `total` says."""
    if _offset_kind(looks) == "row":
        return 2, total - 1
    limit = next(size for size in range(2, total + 2) if total % size)
    return limit, total // limit


def _ends_at(looks: Looks, total: int) -> bool:
    """Whether the last row stands where `total` says."""
    last = looks.get("last")
    if last is None:
        return False
    limit, _ = _across_the_end(looks, total)
    return len(last.rows) == (1 if _offset_kind(looks) == "row" else total % limit)


def _offset_kind(looks: Looks) -> str | None:
    rows, second = looks["full"].rows, looks.get("second")
    if second is None or not second.rows:
        return None
    for kind, at in (("page", 2), ("row", 1)):
        if rows[at : at + len(second.rows)] == second.rows:
            return kind
    return None


def _limits(looks: Looks, _: Session) -> Verdict:
    if reason := _few(looks, 1):
        return Verdict("limit", None, reason)
    full, default = looks["full"], looks.get("default")
    sandbox: dict[str, Any] = {}
    dialect: dict[str, Any] = {}
    answers, evidence = [], []
    if default is not None and default.rows:
        size = default.number("limit") or (
            len(default.rows) if len(default.rows) < len(full.rows) else None
        )
        if size:
            answers.append(f"default {size}")
            evidence.append(
                f"{len(default.rows)} events without a limit, echoed {default.number('limit')}"
            )
            sandbox["default_limit"] = size
    refused = looks.get("refused")
    echoed, count = full.number("limit"), len(full.rows)
    following = looks.get("next")
    if refused is not None:
        answers.append(f"refused above a maximum of {_SAFE} or more")
        evidence.append(f"limit={_LARGE}: {refused.says}")
        dialect, sandbox = {"cap": _SAFE}, sandbox | {"limit_mode": "refused", "max_limit": _SAFE}
    elif echoed is not None and echoed < _limit(full):
        answers.append(f"capped at {echoed}")
        evidence.append(f"limit={_limit(full)} was echoed as {echoed}")
        dialect = {"limit": "capped", "cap": echoed}
        sandbox |= {"limit_mode": "capped", "max_limit": echoed}
    elif (
        following is not None
        and following.rows
        and _is_complete(looks) is False
        and count < _limit(full)
    ):
        answers.append(f"capped at {count} without a word")
        evidence.append(f"limit={_limit(full)} brought {count} events, and more followed")
        dialect = {"limit": "capped-silent", "cap": count}
        sandbox |= {"limit_mode": "capped-silent", "max_limit": count}
    elif count >= _limit(full):
        answers.append(f"at least {_limit(full)}")
        evidence.append(f"limit={_limit(full)} brought as many")
        dialect = {"limit": "kept"}
    else:
        evidence.append(f"{count} events are too few to meet a maximum")
    answer = ", ".join(answers) or None
    return Verdict("limit", answer, "; ".join(evidence), dialect, sandbox)


def _past_end(looks: Looks, session: Session) -> Verdict:
    behind = looks.get("behind")
    if (reason := _few(looks, 1)) or behind is None or not behind.status:
        return Verdict("past_end", None, reason or f"no answer to offset={_FAR}")
    size = len(behind.rows)
    evidence = f"offset={_FAR}: {behind.says if behind.failure else f'{size} events'}"
    if behind.failure is not None:
        kind = "310149" if behind.code in _NO_RECORD else "error" if behind.code else "404"
        refused = f"refused with {behind.code}" if behind.code else f"HTTP {behind.status}"
        return Verdict("past_end", refused, evidence, {"past_end": "refused"}, {"past_end": kind})
    if not size:
        known = {"past_end": "empty"}
        return Verdict("past_end", "empty page", evidence, known, known)
    if _offset(looks, session).answer == "ignored":
        return Verdict("past_end", "the first page", evidence)
    if any(row in looks["full"].rows for row in behind.rows):
        clamped = {"past_end": "clamped"}, {"offset_mode": "clamped"}
        return Verdict("past_end", "the last page again", evidence, *clamped)
    # Where not all events are known, these may be some of them.
    answer, known = (
        (None, {}) if not _is_complete(looks) else ("it never ends", {"past_end": "endless"})
    )
    return Verdict("past_end", answer, evidence, {}, known)


def _error_status(looks: Looks, _: Session) -> Verdict:
    look = looks["nobody"]
    if look.code is None:
        return Verdict("error_status", None, f"a user id that nobody has: {look.says}")
    others = {one.status for name in ("no rule",) if (one := looks.get(name)) and one.code}
    same = "" if others <= {look.status} else f"; another error HTTP {others.pop()}"
    return Verdict(
        "error_status",
        f"HTTP {look.status}{same}",
        f"a user id that nobody has: {look.says}",
        {},
        {"error_status": look.status},
    )


def _no_record(looks: Looks, _: Session) -> Verdict:
    look = looks.get("unrecorded")
    if look is None:
        reason = (
            "no target without a record among the member's"
            if "targets" in looks
            else "no member was given: add --user ID"
        )
        return Verdict("no_record", None, reason)
    if look.code:
        return Verdict("no_record", f"{look.code}", f"a target without a record: {look.says}")
    return Verdict("no_record", "empty page", f"a target without a record: {len(look.rows)} events")


def _log_ids(looks: Looks, _: Session) -> Verdict:
    if reason := _few(looks, 1):
        return Verdict("log_ids", None, reason)
    rows = looks["full"].rows
    ids = [row.get("eventLogId") for row in rows]
    known = [one for one in ids if one is not None]
    repeated, missing = len(known) - len(set(known)), len(ids) - len(known)
    said = [f"{repeated} repeated"] * bool(repeated) + [f"{missing} missing"] * bool(missing)
    kinds = ["repeated"] * bool(repeated) + ["missing"] * bool(missing)
    sandbox: dict[str, Any] = {}
    if repeated:
        sandbox["rows_per_id"] = 2
    if missing:
        sandbox["missing_ids"] = round(missing / len(ids), 2)
        sandbox["missing_id_key"] = any(
            "eventLogId" in row and row["eventLogId"] is None for row in rows
        )
    if not kinds and len(rows) < 10:
        return Verdict("log_ids", None, f"each of {len(rows)} events has one; too few to tell")
    answer = " and ".join(kinds) or "one each"
    return Verdict(
        "log_ids",
        answer,
        f"{len(rows)} events, {', '.join(said) or 'each with its own'}",
        {},
        sandbox,
    )


def _iso(looks: Looks, _: Session) -> Verdict:
    if reason := _few(looks, 1):
        return Verdict("iso", None, reason)
    rows = looks["full"].rows
    with_twin = sum(1 for row in rows if row.get("eventDateISO"))
    sent = with_twin > 0
    return Verdict(
        "iso",
        "sent" if sent else "not sent",
        f"{with_twin} of {len(rows)} events",
        {},
        {"iso": sent},
    )


def _zone(looks: Looks, _: Session) -> Verdict:
    offsets = set(_twin_offsets(_all_rows(looks)))
    if len(offsets) == 1:
        return Verdict("zone", _offset_text(offsets.pop()), "dates and their ISO twins")
    offsets = set(_achieved_offsets(_all_rows(looks), _user_targets(looks.get("groups"))))
    if len(offsets) == 1:
        return Verdict(
            "zone",
            _offset_text(offsets.pop()),
            "the event that reached a target, and when that was in UTC",
        )
    made = {
        text[-5:]
        for row in (looks["targets"].rows if "targets" in looks else ())
        if isinstance(text := (row.get("attribution") or {}).get("createdOn"), str)
        and text[-5:-4] in "+-"
    }
    if len(made) == 1:
        text = made.pop()
        return Verdict(
            "zone", f"{text[:3]}:{text[3:]}", "likely: the offset that createdOn carries"
        )
    return Verdict(
        "zone",
        None,
        "no date came with and without a zone"
        if "targets" in looks
        else "no member was given: add --user ID",
    )


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _twin_offsets(rows: Iterable[Mapping[str, Any]]) -> Iterator[timedelta]:
    for row in rows:
        naive, aware = _moment(row.get("eventDate")), _moment(row.get("eventDateISO"))
        if naive and aware and naive.tzinfo is None and aware.tzinfo:
            yield naive - aware.astimezone(UTC).replace(tzinfo=None)


def _achieved_offsets(
    rows: Sequence[Mapping[str, Any]], targets: Iterable[Mapping[str, Any]]
) -> Iterator[timedelta]:
    dates = {row["eventLogId"]: row.get("eventDate") for row in rows if row.get("eventLogId")}
    for one in targets:
        naive = _moment(dates.get(one.get("targetAchievedEventLogId")))
        aware = _moment(one.get("targetAchievedDateTime"))
        if naive and aware and naive.tzinfo is None and aware.tzinfo:
            yield naive - aware.astimezone(UTC).replace(tzinfo=None)


def _offset_text(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _returns(looks: Looks, _: Session) -> Verdict:
    if reason := _few(looks, 1):
        return Verdict("returns", None, reason)
    values = [
        value
        for row in looks["full"].rows
        if row.get("eventName") == "RETURN_BILL"
        and isinstance(value := row.get("targetValue"), int | float)
        and value
    ]
    negative = sum(1 for one in values if one < 0)
    if not values:
        return Verdict(
            "returns", None, "no return among the events: give a member who returned something"
        )
    kinds = {True: "negative", False: "unsigned"}
    answer = kinds[negative > 0] if negative in {0, len(values)} else "both"
    return Verdict(
        "returns",
        answer,
        f"{negative} of {len(values)} returns are negative",
        {},
        {"signed_returns": negative > 0},
    )


def _groups(looks: Looks, _: Session) -> Verdict:
    look = looks.get("groups")
    if look is None:
        return Verdict("groups", None, "no member was given: add --user ID")
    if look.failure == "AuthError":
        return Verdict(
            "groups", "refused", f"{look.says}: the account needs the resource Target Loyalty"
        )
    if look.failure is not None:
        return Verdict("groups", None, look.says)
    return Verdict("groups", "allowed", look.says)


def _last_updated(looks: Looks, _: Session) -> Verdict:
    targets = _user_targets(looks.get("groups"))
    if not targets:
        return Verdict(
            "last_updated",
            None,
            "no target in `targetGroups`"
            if "groups" in looks
            else "no member was given: add --user ID",
        )
    updated = any("lastUpdatedOn" in one for one in targets)
    achieved = any("targetAchievedEventLogId" in one for one in targets)
    answer = {
        (True, True): "both sent",
        (True, False): "lastUpdatedOn only",
        (False, True): "targetAchievedEventLogId only",
        (False, False): "neither sent",
    }[updated, achieved]
    return Verdict(
        "last_updated",
        answer,
        f"keys of {len(targets)} targets",
        {},
        {"last_updated_on": updated, "achieved_log_id": achieved},
    )


def _rate_limit(looks: Looks, _: Session) -> Verdict:
    answered = [one for one in looks.values() if one.status]
    names = sorted(
        {
            name.lower()
            for one in answered
            for name in one.headers
            if "ratelimit" in name.lower().replace("-", "")
        }
    )
    if names:
        return Verdict("rate_limit", f"told by {', '.join(names)}", f"{len(answered)} answers")
    return Verdict(
        "rate_limit", None, f"no header tells, and none of {len(answered)} answers was a refusal"
    )


def _request_id(looks: Looks, _: Session) -> Verdict:
    names = ("X-Cap-Requestid", "X-CAP-REQUEST-ID")
    answered = [one for one in looks.values() if one.status and one.headers]
    found = [name for name in names if any(one.headers.get(name) for one in answered)]
    mode = {0: "none", 1: found[0] if found else "", 2: "both"}[len(found)]
    return Verdict(
        "request_id", mode, f"headers of {len(answered)} answers", {}, {"request_id_headers": mode}
    )


def _phase_out(looks: Looks, _: Session) -> Verdict:
    signs = [one for one in _findings(looks) if one.kind == "phase-out"]
    if signs:
        return Verdict("phase_out", "announced", "; ".join(map(str, signs)))
    return Verdict(
        "phase_out", "no sign", f"{len(looks)} answers without Deprecation, Sunset or 410"
    )


def _fields(looks: Looks, _: Session) -> Verdict:
    others = [one for one in _findings(looks) if one.kind != "phase-out"]
    if others:
        shown = "; ".join(map(str, others[:3])) + ("; ..." if len(others) > 3 else "")
        return Verdict("fields", f"{len(others)} not in the contract", shown)
    return Verdict("fields", "as in the contract", f"{len(looks)} answers")


_QUESTIONS: Final[Mapping[str, Callable[[Looks, Session], Verdict]]] = {
    "auth": _auth,
    "host": _host,
    "offset": _offset,
    "total": _total,
    "limit": _limits,
    "past_end": _past_end,
    "error_status": _error_status,
    "no_record": _no_record,
    "log_ids": _log_ids,
    "iso": _iso,
    "zone": _zone,
    "returns": _returns,
    "groups": _groups,
    "last_updated": _last_updated,
    "rate_limit": _rate_limit,
    "request_id": _request_id,
    "phase_out": _phase_out,
    "fields": _fields,
}
QUESTIONS: Final = tuple(_QUESTIONS)
"""What `diagnose` answers, by the names that verdicts and `contract.toml` use."""
