"""The page at /: what is here and how to ask for it. Self-contained, so it opens offline."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from itertools import islice
from shlex import quote
from string import Template

from . import samples
from .auth import basic_header
from .settings import SandboxSettings
from .world import World


def front_page(settings: SandboxSettings, world: World, url: str) -> str:
    """The HTML, with commands that work when pasted."""
    ids = world.user_ids()
    user = ids[0] if ids else samples.CALLS[0][0]
    rule = next((rule.id for rule in world.targets(user)), 1986)
    texts = {
        "url": url,
        "username": settings.username,
        "password": settings.password,
        "client_key": settings.client_key,
        "client_secret": settings.client_secret,
        "seeded": f"{len(ids):,} users, {ids[0]} to {ids[-1]}" if ids else "no seeded users",
        "seed": settings.seed,
        "authorization": basic_header(settings.username, settings.password),
        "user": user,
        "rule": rule,
        "quoted_username": quote(settings.username),
        "quoted_password": quote(settings.password),
    }
    rows = [(one, _counts(world, one)) for one in islice(ids, 8)]
    template = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        {name: escape(str(text)) for name, text in texts.items()},
        users=_table(rows),
        samples=_table((one, f"<code>{call}</code>") for one, call in samples.CALLS),
    )


def _counts(world: World, user: int) -> str:
    return " &ensp;".join(
        f"<code>{rule.id}</code>: {world.count(user, rule.id)}"
        for rule in islice(world.targets(user), 6)
    )


def _table(rows: Iterable[tuple[int, str]]) -> str:
    return "\n".join(f"<tr><td><code>{user}</code></td><td>{cell}</td></tr>" for user, cell in rows)
