"""The code blocks of a Markdown document."""

from pathlib import Path

from attrs import frozen
from markdown_it import MarkdownIt

__all__ = ["Block", "blocks_of"]


@frozen
class Block:
    """A fenced block: its language, its code, and the line in the document where the code begins.

    `skipped` says why it cannot run, from a comment before it: `<!-- not run: WHY -->`. A
    `fragment` (`<!-- fragment -->`) needs names that it does not define.
    """

    language: str
    code: str
    line: int
    skipped: str = ""
    fragment: bool = False


def blocks_of(document: Path) -> list[Block]:
    """Every fenced block, those within lists and quotes included."""
    found: list[Block] = []
    comment = ""
    for token in MarkdownIt().parse(document.read_text("utf-8")):
        if token.type == "html_block":
            comment = token.content.strip()
        elif token.type == "fence":
            start = token.map[0] + 1 if token.map else 0
            why = comment.removeprefix("<!-- not run:").removesuffix("-->").strip()
            skipped = why if comment.startswith("<!-- not run:") else ""
            language = (token.info.split() or [""])[0]
            fragment = comment == "<!-- fragment -->"
            found.append(Block(language, token.content, start, skipped, fragment))
            comment = ""
        elif not token.hidden:
            comment = ""
    return found
