"""Doctor: which way a cluster falls on each question that the API's pages leave open.

`diagnose` makes at most 15 read-only requests for one member and judges the answers. A verdict
names its evidence; "cannot tell" with the reason is one too. No member's data and no secret is
kept, so a diagnosis, and the `cluster.toml` made of it, can be sent to anybody.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, frozen

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
    Answers,
    Look,
    Verdict,
    across_the_end,
    dialect_of,
    judge,
)
from .wire import Answer, success

__all__ = ["QUESTIONS", "Diagnosis", "Verdict", "diagnose", "load_known"]

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
        heading = (
            "# Written by `capillary-targets doctor`. It holds no member's data and no secret."
        )
        tables = [(heading, {name: given[name] for name in ("host", "made_at", "requests")})]
        tables += [(f"[{name}]", given[name]) for name in ("dialect", "sandbox")]
        tables += [(f"[verdicts.{name}]", said) for name, said in given["verdicts"].items()]
        tables += [("[[findings]]", one) for one in given["findings"]]
        lines: list[str] = []
        for title, values in tables:
            lines += [title, *(f"{name} = {_toml(one)}" for name, one in values.items()), ""]
        return "\n".join(lines)

    def changes(
        self, before: Mapping[str, str], findings: Iterable[Finding] = ()
    ) -> list[tuple[str, str, str]]:
        """(question, before, now) where an answer differs, and each finding that is new.

        What could not be told then, or cannot now, is no change.
        """
        known = {one.news for one in findings}
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


def load_known(path: str | PathLike[str]) -> tuple[dict[str, str], list[Finding]]:
    """The answers by question in a `cluster.toml`, and its findings. Raises `UsageError`."""
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        answers = {str(name): str(said["answer"]) for name, said in given["verdicts"].items()}
        return answers, [*map(Finding.from_dict, given.get("findings", ()))]
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
    if user_id is not None:
        user_id = checked_id("user_id", user_id)
    if target_rule_id is not None:
        target_rule_id = checked_id("target_rule_id", target_rule_id)
    kind = "Basic" if isinstance(session.settings.auth, BasicAuth) else "OAuth"
    answers = Answers(kind, session.settings.base_url.host or "")
    examination = _Examination(session, answers, session.counts.requests)
    await examination.ask("nobody", f"/v3/users/{_NOBODY}/enrolledTargets")
    if user_id is not None:
        await examination.of_member(user_id, target_rule_id)
    if examination.error is not None and not any(one.status for one in answers.values()):
        raise examination.error
    requests, now = examination.requests, datetime.now(UTC).replace(microsecond=0)
    return Diagnosis(answers.host, now, requests, judge(answers), answers.found)


@define(eq=False)
class _Examination:
    """The requests of one diagnosis, by name, each made once."""

    session: Session
    answers: Answers
    before: int
    error: CapillaryError | None = None
    """The latest."""

    @property
    def requests(self) -> int:
        """Those made so far."""
        return self.session.counts.requests - self.before

    async def ask(self, name: str, path: str) -> Look:
        """Make the request, if the number allows."""
        if self.requests + self.session.settings.retry.attempts <= MOST_REQUESTS:
            try:
                self.answers[name] = await get(self.session, path, partial(_look, path))
            except CapillaryError as error:
                self.error = error
                failure = type(error).__name__
                self.answers[name] = Look(path, error.status or 0, {}, None, error.code, failure)
        return self.answers[name]

    async def of_member(self, user: int, rule: int | None) -> None:
        """What a member's targets, groups and events tell."""
        targets = await self.ask("targets", f"/v3/users/{user}/enrolledTargets")
        groups = await self.ask("groups", f"/v3/users/{user}/targetGroups?includeInactive=true")
        recorded, unrecorded = _rules(groups)
        ids = [one["id"] for one in targets.rows if isinstance(one.get("id"), int)]
        rules = [rule] if rule is not None else [*dict.fromkeys(recorded + ids)][:2]
        events = f"/v3/users/{user}/trackedTargetEvents"
        path = ""
        for candidate in rules:
            path = f"{events}/{candidate}"
            full = await self.ask("full", f"{path}?limit={LARGE}&offset=0")
            if len(full.rows) >= FEW:
                break
        if not path:
            return
        full, asked = self.answers["full"], LARGE
        if full.code and full.code not in NO_RECORD:
            self.answers["refused"], asked = full, SAFE
            full = await self.ask("full", f"{path}?limit={SAFE}&offset=0")
        await self.ask("default", path)
        await self.ask("second", f"{path}?limit=2&offset=1")
        await self.ask("behind", f"{path}?limit=10&offset={FAR}")
        total = full.number("total") or 0
        if full.rows and total != len(full.rows):
            await self.ask("next", f"{path}?limit={asked}&offset=1")
        if full.rows and total > len(full.rows):
            limit, offset = across_the_end(self.answers, total)
            await self.ask("last", f"{path}?limit={limit}&offset={offset}")
        await self.ask("no rule", f"{events}/{_NOBODY}")
        if unrecorded:
            await self.ask("unrecorded", f"{events}/{unrecorded[0]}")


def _look(path: str, answer: Answer, _: Structurer) -> Look:
    code, failure = None, None
    try:
        success(answer)
    except CapillaryError as error:
        if error.retryable:
            raise
        code, failure = error.code, type(error).__name__
    try:
        document = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = None
    return Look(path, answer.status, answer.headers, document, code, failure, answer.body)


def _rules(groups: Look) -> tuple[list[int], list[int]]:
    """A member's rule ids: with a record in a period, the highest value first; and with none."""
    targets = [one for one in groups.user_targets if isinstance(one.get("targetRuleId"), int)]
    recorded = [one for one in targets if one.get("targetId") is not None]
    ranked = dict.fromkeys(
        one["targetRuleId"] for one in sorted(recorded, key=_achieved, reverse=True)
    )
    return [*ranked], [one["targetRuleId"] for one in targets if one["targetRuleId"] not in ranked]


def _achieved(target: Mapping[str, Any]) -> float:
    try:
        return float(target["targetAchievedValue"])
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return 0.0
