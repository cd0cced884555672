"""The contract as data: what `contract.toml` says of calls, fields, codes and contradictions.

The models, the error classes and the sandbox are held against it by tests; `doctor`, cassettes and
the drift watch read it. A new field of the vendor's is one line of that file.
"""

from __future__ import annotations

import json
import logging
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs
from attrs import define, field, frozen

_log = logging.getLogger("capillary_targets")

Kind: TypeAlias = Literal[
    "new key", "missing key", "changed type", "new value", "changed form", "phase-out", "dialect"
]
Who: TypeAlias = Literal["member", "personal", "event"]

_FORMS: Final[Mapping[str, re.Pattern[str]]] = {
    "server time": re.compile(r"\d{4,5}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,9})?"),
    "ISO time": re.compile(r"\d{4,5}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    "stamp": re.compile(r"\d{4,5}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)"),
    "day": re.compile(r"\d{4,5}-\d\d-\d\d"),
}
"""How times are written (contract §9): legacy, with a zone, either kind of zone, a calendar day."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}")
"""A key that is no text of somebody's."""
_MOST: Final = 1000
"""Findings kept: a server that makes up keys must not fill the memory."""
_LATER_PAGE: Final = re.compile(r"[?&]offset=[1-9]")
WORD: Final = re.compile(r"[A-Z][A-Z0-9_]{1,40}")
"""A value of an enumeration."""


@define(eq=False)
class Node:
    """A place in an answer: the JSON types that it may have, and what stands below it.

    `children` are an object's keys, `items` an array's items or a map's values.
    """

    types: frozenset[str] = frozenset({"object"})
    always: bool = False
    """Whether it is there, and not null, in every object that it belongs to."""
    values: frozenset[str] = frozenset()
    form: str | None = None
    who: Who | None = None
    free: bool = False
    """An object whose keys are the brand's own."""
    children: dict[str, Node] = field(factory=dict)
    items: Node | None = None
    mapped: bool = False
    """Whether `items` are the values of a map, whose keys are ids."""


@frozen
class Call:
    """One of the API's calls: its path with the ids in braces, and its answer from the top."""

    name: str
    path: str
    query: tuple[str, ...]
    answer: Node


@frozen
class Contract:
    """All of `contract.toml`. `codes` and `contradictions` are as they stand there."""

    calls: Mapping[str, Call]
    codes: Mapping[int, Mapping[str, Any]]
    contradictions: tuple[Mapping[str, str], ...]
    pattern: re.Pattern[str] = field(repr=False)
    """Of the end of a call's path, in a group of the call's name."""

    def call_at(self, path: str) -> Call | None:
        """The call that a path belongs to, wherever a gateway has put it; None: none of these."""
        found = self.pattern.search(path)
        return None if found is None else self.calls[found.lastgroup or ""]


@cache
def contract() -> Contract:
    """The contract, read once."""
    path = Path(__file__).with_name("contract.toml")
    given = tomllib.loads(path.read_text(encoding="utf-8"))
    calls = {
        name: Call(name, one["path"], tuple(one["query"]), _tree(one["fields"], given))
        for name, one in given["calls"].items()
    }
    paths = {name: re.sub(r"\\{\w+\\}", "[^/?]+", re.escape(c.path)) for name, c in calls.items()}
    return Contract(
        calls,
        {int(code): facts for code, facts in given["codes"].items()},
        tuple(given["contradictions"]),
        re.compile("|".join(rf"(?P<{name}>{path}/?(?:\?|$))" for name, path in paths.items())),
    )


def _tree(fields: Mapping[str, Any], given: Mapping[str, Any]) -> Node:
    """The fields of one object, by their dotted paths, as a tree."""
    top = Node()
    for path, facts in fields.items():
        node = top
        for name in path.split("."):
            key, mark, _ = name.partition("[]") if "[]" in name else name.partition("{}")
            node = node.children.setdefault(key, Node())
            if mark:
                node.mapped = mark == "{}"
                node.items = node = node.items or Node()
        node.always = facts.get("always", False)
        if shape := facts.get("shape"):
            node.children = _tree(given["shapes"][shape], given).children
        if types := facts.get("type"):
            node.types = frozenset(types.split("|"))
        node.values = frozenset(facts.get("values", ()))
        node.form, node.who = facts.get("form"), facts.get("who")
        node.free = facts.get("free", False)
    return top


def is_written_as(form: str, text: str) -> bool:
    """Whether a text has one of the forms of `contract.toml`, such as `day`."""
    return _FORMS[form].fullmatch(text) is not None


def _json_type(value: object) -> str:
    """The JSON type of a plain value; a number without a fraction is an `integer`."""
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    names: Mapping[type, str] = {int: "integer", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "number")


@frozen
class Finding:
    """What the contract does not say: `call` and `place` locate it, `seen` describes it."""

    kind: Kind
    call: str
    place: str
    seen: str = ""

    def __str__(self) -> str:
        where = f"{self.call}: {self.place}" if self.call else self.place
        return f"{self.kind}: {where}{f' ({self.seen})' if self.seen else ''}"

    def to_dict(self) -> dict[str, str]:
        """Plain values, as ledgers and `cluster.toml` keep them."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, str]) -> Finding:
        """The inverse of `to_dict`, whatever else is `given` beside it."""
        return cls(*(given[name] for name in attrs.fields_dict(cls)))  # type: ignore[arg-type]

    @property
    def news(self) -> tuple[str, str, str, str]:
        """What makes it another one: what was seen counts for new values and types only."""
        told = self.kind in {"new value", "changed type", "dialect"}
        return self.kind, self.call, self.place, self.seen if told else ""


def compare(node: Node, value: Any, call: str = "", place: str = "") -> Iterator[Finding]:
    """What stands in `value`, a plain JSON value, that `node` does not describe."""
    kind = _json_type(value)
    if kind == "null":
        if node.always and "null" not in node.types:
            yield Finding("changed type", call, place, "null")
    elif kind not in node.types and not (kind == "integer" and "number" in node.types):
        yield Finding("changed type", call, place, kind)
    elif isinstance(value, dict) and not node.mapped:
        yield from _compare_keys(node, value, call, f"{place}." if place else "")
    elif isinstance(value, dict | list) and node.items is not None:
        rows, mark = (value.values(), "{}") if isinstance(value, dict) else (value, "[]")
        yield from _compare_items(node.items, rows, call, f"{place}{mark}")
    elif isinstance(value, str):
        if node.values and value not in node.values:
            shown = value if WORD.fullmatch(value) else "another spelling"
            yield Finding("new value", call, place, shown)
        elif node.form and not is_written_as(node.form, value):
            yield Finding("changed form", call, place, f"no longer a {node.form}")


def _compare_keys(
    node: Node, value: Mapping[str, Any], call: str, before: str
) -> Iterator[Finding]:
    for key, below in value.items():
        if (child := node.children.get(key)) is not None:
            yield from compare(child, below, call, f"{before}{key}")
        elif not node.free:
            name = key if NAME.fullmatch(key) else "a key that is no name"
            yield Finding("new key", call, f"{before}{name}", _json_type(below))
    for key, child in node.children.items():
        if child.always and key not in value:
            yield Finding("missing key", call, f"{before}{key}")


def _compare_items(node: Node, rows: Collection[Any], call: str, place: str) -> Iterator[Finding]:
    """Each finding of the rows once; a key counts as missing where half of the rows lack it.

    One row without it is one odd row: old rows have been seen without what newer ones have.
    """
    found = Counter(one for row in rows for one in set(compare(node, row, call, place)))
    for one, times in found.items():
        if one.kind != "missing key" or 2 * times >= len(rows):
            yield one


def findings(
    call: str, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> Iterator[Finding]:
    """What one answer says that the contract does not; `call` is the name of the call.

    A 404 without an envelope is a sign of removal, but for a page behind the last row.
    """
    for name in ("Deprecation", "Sunset"):
        if headers.get(name):
            yield Finding("phase-out", call, f"header {name}", "the call is to be removed")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        if status in {404, 410} and not _LATER_PAGE.search(path):
            yield Finding("phase-out", call, f"HTTP {status}", "nothing is served there")
    elif errors := document.get("errors"):
        for item in errors if isinstance(errors, list) else ():
            code = item.get("code") if isinstance(item, dict) else None
            if isinstance(code, int) and code and code not in contract().codes:
                yield Finding("new value", call, "errors[].code", str(code))
    elif 200 <= status < 300 and "response" not in document:
        yield from compare(contract().calls[call].answer, document, call)


@define(eq=False)
class DriftWatch:
    """An observer of answers: hands each new `Finding` to `report`, and logs it once.

    It looks at the first answer of each call, at one in so many after that, and at refusals. A
    finding names a place and a kind of value, never a member's.

    Args:
        report: what is called with each finding that is new.
        every: one answer of each call in so many is looked at, and the first one.
    """

    report: Callable[[Finding], None]
    every: int = 1000
    found: list[Finding] = field(init=False, factory=list)
    """The new findings, in their order."""
    _news: set[tuple[str, str, str, str]] = field(init=False, factory=set)
    _answers: Counter[str] = field(init=False, factory=Counter)
    """Answers of each call that were no refusals."""

    def know(self, known: Iterable[Finding]) -> None:
        """Take findings of before as known: they are news no more."""
        self._news.update(one.news for one in known)

    def __call__(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Look at an answer, if it is its turn."""
        call = contract().call_at(path)
        if call is None:
            return
        refused = status >= 400
        if refused or self._answers[call.name] % self.every == 0:
            for one in findings(call.name, path, status, headers, body):
                self.add(one)
        self._answers[call.name] += not refused

    def dialect_changed(self, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        """What the walks have known of the pagination, and what they found instead."""
        for name, was in before.items():
            if after.get(name, was) != was:
                self.add(Finding("dialect", "", name, f"{was}, now {after[name]}"))

    def add(self, one: Finding) -> None:
        """Tell it, unless it is known already."""
        if one.news in self._news or len(self._news) >= _MOST:
            return
        self._news.add(one.news)
        self.found.append(one)
        _log.warning("the API is not as it was: %s", one)
        self.report(one)
