"""Markdown tables, and the places that documents have for them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["between_marks", "line", "table"]


def line(*cells: object) -> str:
    """A row."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Iterable[object], *rows: Iterable[object]) -> str:
    """A whole table; without rows, what stands above them."""
    names = [*head]
    return "\n".join([line(*names), line(*["---"] * len(names)), *(line(*one) for one in rows)])


def between_marks(document: str, name: str, text: str) -> str:
    """The text of a document with another table between the two marks of that name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = document.partition(begin)
    return f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
