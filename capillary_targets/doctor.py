"""Doctor: which way a cluster falls on each question that the API's pages leave open.

`diagnose` makes at most 15 read-only requests for one member and judges the answers. A verdict
names its evidence; "cannot tell" with the reason is one too. No member's data and no secret is
kept, so a diagnosis, and the `cluster.toml` made of it, can be sent to anybody.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field, frozen

from .auth import BasicAuth
from .contract import Finding
from .endpoints import checked_id
from .errors import CapillaryError, UsageError
from .session import Session
from .structuring import Structurer
from .transport import get
from .verdicts import (
    FAR,
    FEW,
    LARGE,
    NO_RECORD,
    QUESTIONS,
    SAFE,
    Look,
    Verdict,
    across_the_end,
    dialect_of,
    judge,
)
from .wire import Answer, success

__all__ = ["QUESTIONS", "Diagnosis", "Known", "Verdict", "diagnose", "load_known"]

MOST_REQUESTS: Final = 15
_NOBODY: Final = 9_007_199_254_740_991


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
        sandbox: dict[str, Any] = {}
        for one in self.verdicts:
            sandbox |= one.sandbox
        return {
            "host": self.host,
            "made_at": f"{self.made_at:%Y-%m-%dT%H:%M:%SZ}",
            "requests": self.requests,
            "dialect": dialect_of(sandbox),
            "sandbox": sandbox,
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

    def changes(self, since: Known) -> list[tuple[str, str, str]]:
        """(question, before, now) where an answer differs, and each finding that is new.

        What could not be told then, or cannot now, is no change.
        """
        before, known = since.answers, {one.news for one in since.findings}
        answers = [
            (one.question, before[one.question], one.answer)
            for one in self.verdicts
            if one.answer is not None
            and one.question != "fields"
            and before.get(one.question, "cannot tell") not in {one.answer, "cannot tell"}
        ]
        new = [one for one in self.findings if one.news not in known and one.kind != "phase-out"]
        return answers + [("fields", "as in the contract", str(one)) for one in new]


def _toml(value: object) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


@frozen
class Known:
    """What a `cluster.toml` says: answers by question, and findings."""

    answers: Mapping[str, str]
    findings: tuple[Finding, ...] = ()


def load_known(path: str | PathLike[str]) -> Known:
    """The verdicts and findings in a `cluster.toml`. Raises `UsageError`."""
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        answers = {str(name): str(said["answer"]) for name, said in given["verdicts"].items()}
        return Known(answers, tuple(map(Finding.from_dict, given.get("findings", ()))))
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
    kind = "Basic" if isinstance(session.settings.auth, BasicAuth) else "OAuth"
    host = session.settings.base_url.host or ""
    verdicts, found = judge(looks, kind, host)
    requests = session.counts.requests - examination.before
    now = datetime.now(UTC).replace(microsecond=0)
    return Diagnosis(host, now, requests, tuple(verdicts), tuple(found))


@define(eq=False)
class _Examination:
    """The requests of one diagnosis, by name, each made once."""

    session: Session
    looks: dict[str, Look] = field(factory=dict)
    errors: list[CapillaryError] = field(factory=list)
    before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.before = self.session.counts.requests

    async def ask(self, name: str, path: str) -> Look | None:
        """Make the request, if the number allows; None: it does not, or nothing came."""
        attempts = self.session.settings.retry.attempts
        if self.session.counts.requests - self.before + attempts > MOST_REQUESTS:
            return None

        def read(answer: Answer, _: Structurer) -> Look:
            return _look(path, answer)

        try:
            look = await get(self.session, path, read)
        except CapillaryError as error:
            self.errors.append(error)
            code = getattr(error, "code", None)
            look = Look(path, error.status or 0, {}, None, code, type(error).__name__)
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
            full = await self.ask("full", f"{path}?limit={LARGE}&offset=0")
            if full is not None and len(full.rows) >= FEW:
                break
        if not path:
            return
        full = self.looks.get("full")
        if full is not None and full.code and full.code not in NO_RECORD:
            self.looks["refused"] = full
            full = await self.ask("full", f"{path}?limit={SAFE}&offset=0")
        await self.ask("default", path)
        await self.ask("second", f"{path}?limit=2&offset=1")
        await self.ask("behind", f"{path}?limit=10&offset={FAR}")
        if full is not None and full.rows:
            asked = SAFE if "refused" in self.looks else LARGE
            if full.number("total") != len(full.rows):
                await self.ask("next", f"{path}?limit={asked}&offset=1")
            total = full.number("total") or 0
            if total > len(full.rows):
                limit, offset = across_the_end(self.looks, total)
                await self.ask("last", f"{path}?limit={limit}&offset={offset}")
        await self.ask("no rule", f"/v3/users/{user}/trackedTargetEvents/{_NOBODY}")
        if (unrecorded := _unrecorded(groups)) is not None:
            await self.ask("unrecorded", f"/v3/users/{user}/trackedTargetEvents/{unrecorded}")


def _look(path: str, answer: Answer) -> Look:
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
    return Look(path, answer.status, answer.headers, document, code, failure, answer.body)


def _candidates(targets: Look | None, groups: Look | None) -> list[int]:
    """Rule ids of the member, those with the highest achieved values first."""
    values: dict[int, float] = {}
    for row in targets.rows if targets is not None else ():
        if isinstance(row.get("id"), int):
            values.setdefault(row["id"], 0.0)
    for one in groups.user_targets if groups is not None else ():
        if isinstance(rule := one.get("targetRuleId"), int) and one.get("targetId") is not None:
            value = 0.0
            with suppress(TypeError, ValueError):
                value = float(one.get("targetAchievedValue") or 0)
            values[rule] = max(values.get(rule, 0.0), value + 1)
    return sorted(values, key=lambda rule: -values[rule])


def _unrecorded(groups: Look | None) -> int | None:
    """A target of the member's without a record in any period."""
    recorded: dict[int, bool] = {}
    for one in groups.user_targets if groups is not None else ():
        if isinstance(rule := one.get("targetRuleId"), int):
            recorded[rule] = recorded.get(rule, False) or one.get("targetId") is not None
    return next((rule for rule, known in recorded.items() if not known), None)
