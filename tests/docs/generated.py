"""Tables of the documents made from the code; `python -m tests.docs.generated` writes them."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.nightly import simulate
from benchmarks.tables import between_marks, table
from capillary_targets import errors, settings, wire
from capillary_targets.contract import contract
from examples.backend.errors import PROBLEMS

__all__ = ["TABLES", "rendered"]

ROOT: Final = Path(__file__).parent.parent.parent


def _sentence(kind: type) -> str:
    """The first paragraph of a docstring, without the codes before it."""
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    text = re.sub(r"^\d+( or \d+)?: ", "", text)
    return text[:1].upper() + text[1:]


def _statuses() -> Iterator[tuple[str, type, str]]:
    """HTTP statuses without an error of the service's own in the body, ranges as ranges."""
    groups: dict[tuple[type, str], list[int]] = {}
    for status, (kind, text) in wire._BY_STATUS.items():
        groups.setdefault((kind, text), []).append(status)
    for (kind, text), statuses in groups.items():
        listed = [*map(str, sorted(statuses))]
        if kind is errors.BadResponse:
            listed = ["300 to 399"]
        yield ", ".join(listed), kind, text


def codes() -> str:
    """Codes and statuses, each with its exception."""
    rows = [("code or status", "where", "raises", "says")]
    known = contract().codes
    wanted = {*known, *errors._BY_CODE, *errors._TO_CHECK}
    for code in sorted(wanted, key=lambda code: (code < 1000, str(code))):
        kind = type(errors.api_error(code, ""))
        message = known.get(code, {}).get("message", "(wording unknown)")
        said = (
            _sentence(kind)
            if message == "(wording unknown)"
            else f"“{message.replace('<', '&lt;')}”"
        )
        rows.append((str(code), "code in the body", f"`{kind.__name__}`", said))
    rows += [(status, "HTTP", f"`{kind.__name__}`", text) for status, kind, text in _statuses()]
    return table(*rows, ("another, 400 or above", "HTTP", "`ApiError`", "the service refused"))


def classes() -> str:
    """Exceptions, each with what it means and what to do."""
    rows = [("class", "means", "retryable", "scope")]
    bases = {errors.CapillaryError, errors.Transient}
    for name, kind in sorted(vars(errors).items()):
        if (
            not inspect.isclass(kind)
            or not issubclass(kind, errors.CapillaryError)
            or kind in bases
        ):
            continue
        decided = "`retryable`" in (inspect.getdoc(kind) or "")
        retryable = "it depends" if decided else "yes" if kind.retryable else "no"
        rows.append((f"`{name}`", _sentence(kind), retryable, kind.scope))
    return table(*rows)


def options() -> str:
    """Settings of a client: types and docstrings of `Options`, defaults of `Settings`."""
    used, found = (
        ast.parse(inspect.getsource(kind)).body[0] for kind in (settings.Settings, settings.Options)
    )
    assert isinstance(used, ast.ClassDef)
    assert isinstance(found, ast.ClassDef)
    defaults = {
        ast.unparse(field.target): ast.unparse(keyword.value)
        for field in used.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call)
        for keyword in field.value.keywords
        if keyword.arg == "default"
    }
    rows = [("setting", "type", "default", "")]
    for attribute, after in zip(found.body, [*found.body[1:], None], strict=True):
        if not isinstance(attribute, ast.AnnAssign):
            continue
        name = ast.unparse(attribute.target)
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = " ".join(str(after.value.value).split())
        default = "none known" if name == "dialect" else defaults[name]
        kind = ast.unparse(attribute.annotation).replace("|", "\\|")
        rows.append((f"`{name}`", f"`{kind}`", f"`{default}`", said))
    return table(*rows)


def statuses() -> str:
    """The example backend's HTTP statuses, each with its exceptions and its words."""
    rows: dict[tuple[int, str], list[str]] = {}
    for kind, said in PROBLEMS.items():
        rows.setdefault(said, []).append(f"`{kind.__name__}`")
    return table(
        ("status", "of", "title"),
        *((str(status), ", ".join(kinds), title) for (status, title), kinds in rows.items()),
    )


def nights() -> str:
    """What nights of 50 million members cost, by arithmetic."""
    return simulate(50_000_000)


def contradictions() -> str:
    """What the API's pages leave open, by `contract.toml`."""
    names = ("about", "readings", "question", "section")
    found = contract().contradictions
    return table(names, *(tuple(one.get(name, "") for name in names) for one in found))


TABLES: Final[dict[str, dict[str, Callable[[], str]]]] = {
    "docs/contract.md": {"contradictions": contradictions},
    "docs/errors.md": {"codes": codes, "classes": classes},
    "docs/how-to/backend.md": {"statuses": statuses},
    "docs/nightly.md": {"nights": nights},
    "docs/settings.md": {"options": options},
}


def rendered(document: str) -> str:
    """The document with its tables as the code has them."""
    text = (ROOT / document).read_text()
    for name, make in TABLES[document].items():
        text = between_marks(text, name, make())
    return text


if __name__ == "__main__":
    for document in TABLES:
        (ROOT / document).write_text(rendered(document))
