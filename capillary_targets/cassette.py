"""Cassettes: recorded answers in which nothing names a person, for `Sandbox.replay`.

A cassette is JSON Lines: a heading, then one line for each answer. Ids of members and events, and
every text that the contract does not know to be harmless (enumerations, dates, the API's own
messages), are replaced, the same one by the same one, so that walks still join. The replacements
are known to the recorder only, and forgotten with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from attrs import define, field

from .contract import NAME, WORD, Node, contract, is_written_as
from .errors import UsageError

__all__ = ["Recorder", "recording"]

_DECODE: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_ENCODE: Final = msgspec.json.Encoder(decimal_format="number").encode
_HEADERS: Final = ("Content-Type", "Date", "Deprecation", "Retry-After", "Sunset")
_FIRST_MEMBER: Final = 1_000_000_001


@define(eq=False)
class Pseudonyms:
    """Replacements, made as values are met. Event ids keep their order: all move by one number."""

    _ids: dict[int, int] = field(factory=dict)
    _texts: dict[str, str] = field(factory=dict)
    _shift: int = field(factory=lambda: secrets.randbelow(10**12) + 10**6)

    def id(self, value: int) -> int:
        """The id that stands for an id."""
        return self._ids.setdefault(value, _FIRST_MEMBER + len(self._ids))

    def text(self, value: str) -> str:
        """The text that stands for a text: digits for digits, an address for an address."""
        if value not in self._texts:
            number = len(self._texts) + 1
            made = f"user{number}@example.com" if "@" in value else f"text-{number}"
            self._texts[value] = f"{9_000_000_000 + number}" if value.isdecimal() else made
        return self._texts[value] if value else ""

    def body(self, node: Node | None, value: Any) -> Any:
        """A JSON value with everything replaced that could name a person.

        Args:
            node: its place in the contract; None: a place that the contract does not know.
            value: as decoded; amounts are Decimal.
        """
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            return self._object(node, value)
        if isinstance(value, list):
            items = node.items if node is not None else None
            kept = node is not None and items is None and node.who is None
            return [
                one if kept and isinstance(one, int) else self.body(items, one) for one in value
            ]
        if isinstance(value, str):
            return value if node is not None and _is_harmless(node, value) else self.text(value)
        return self._number(node, value)

    def _object(self, node: Node | None, value: Mapping[str, Any]) -> dict[str, Any]:
        replaced = {}
        for key, one in value.items():
            if node is not None and node.mapped:
                known, below = key.isdecimal(), node.items
            else:
                below = None if node is None or node.free else node.children.get(key)
                known = below is not None  # a key that nobody knows may be a name
            replaced[key if known else self.text(key)] = self.body(below, one)
        return replaced

    def _number(self, node: Node | None, value: int | Decimal) -> int | Decimal:
        if node is not None and node.who is None:
            return value
        if isinstance(value, int):
            event = node is not None and node.who == "event"
            return value + self._shift if event else self.id(value)
        return Decimal(self.id(hash(value)))

    def path(self, path: str) -> str:
        """A path and query; ids of a group, a rule or a period stay."""
        call = contract().call_at(path)
        where, _, query = path.partition("?")
        if call is None:
            return "/"
        _, users, after = where.partition("/users/")
        if users:
            user, slash, rest = after.partition("/")
            where = f"/v3/users/{self.id(int(user))}{slash}{rest}"
        else:
            where = call.path if "{" not in call.path else f"/v3/{where.partition('/v3/')[2]}"
        given = [(name, self._argument(call.query, name, text)) for name, text in parse_qsl(query)]
        return f"{where}?{urlencode(given)}" if given else where

    def _argument(self, known: tuple[str, ...], name: str, text: str) -> str:
        plain = name in known and name not in {"identifierValue", "accountId"}
        numbers = text.replace(",", "").isdecimal()
        if plain and (numbers or NAME.fullmatch(text)):
            return text
        return ",".join(map(self.text, text.split(",")))


def _is_harmless(node: Node, text: str) -> bool:
    """Whether a text is an enumeration, a date, a number, or the API's own words."""
    if node.who is not None:
        return False
    if node.values:
        return text in node.values or WORD.fullmatch(text) is not None
    if node.form:
        return is_written_as(node.form, text)
    if "number" in node.types:
        return text.isdecimal()
    return text in {facts["message"] for facts in contract().codes.values()}


@contextmanager
def recording(path: Path) -> Iterator[Recorder]:
    """The observer that writes a new cassette, for as long as the block lasts.

    Raises:
        UsageError: there is a file already, or none can be written.
        OSError: at the end: an answer could not be written.
    """
    try:
        file = path.open("xb")
    except FileExistsError:
        raise UsageError(f"{path} exists: name a new file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        recorder = Recorder(file)
        recorder.write({"cassette": 1})
        yield recorder
    if recorder.error is not None:
        raise recorder.error


@define(eq=False)
class Recorder:
    """An observer of a session: writes each answer to a cassette."""

    file: BinaryIO
    pseudonyms: Pseudonyms = field(factory=Pseudonyms)
    answers: int = 0
    """Answers written so far."""
    error: OSError | None = None
    """Why no more are written. The work itself goes on."""

    def __call__(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Write one answer. What is no JSON object is kept as its status alone."""
        call = contract().call_at(path)
        if call is None or self.error is not None:
            return
        try:
            document = _DECODE(body)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
            document = None
        known = isinstance(document, dict)
        self.write(
            {
                "path": self.pseudonyms.path(path),
                "status": status,
                "headers": {name: headers[name] for name in _HEADERS if name in headers},
                "body": self.pseudonyms.body(call.answer, document) if known else None,
            }
        )
        self.answers += 1

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line, at once."""
        try:
            self.file.write(_ENCODE(line) + b"\n")
            self.file.flush()
        except OSError as error:
            self.error = error
