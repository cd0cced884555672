"""The page at /: what is here and how to ask for it. Self-contained, so it opens offline."""

from __future__ import annotations

from html import escape
from itertools import islice
from shlex import quote
from typing import TYPE_CHECKING

from . import samples
from .auth import basic_header

if TYPE_CHECKING:
    from .settings import SandboxSettings
    from .world import World

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5c6878; --paper: #fafaf7;
  --card: #fff; --line: #e3e3dc; --mark: #0b6e5f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --dim: #98a3b1;
  --paper: #14181d; --card: #1c2229; --line: #2d353f; --mark: #5fd0bb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .dim { color: var(--dim); } a { color: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; overflow-x: auto; margin: .5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--dim); font-weight: 500; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td a { display: inline-block; margin-right: .8rem; }
"""
_ORDER = '{"fault": "http", "arguments": {"status": 503}, "times": 2}'


def front_page(settings: SandboxSettings, world: World, url: str) -> str:
    """The HTML, with commands that work when pasted.

    Args:
        settings: for the credentials.
        world: for the first few users.
        url: the sandbox's own address.
    """
    header = basic_header(settings.username, settings.password)
    ids = world.user_ids()
    user = ids[0] if ids else samples.TRANSACTIONAL_USER
    held = world.targets(user)
    rule = held[0].id if held else 1986
    curl = f"curl -H 'Authorization: {header}' \\\n  '{url}/v3/users"
    commands = "\n".join(
        (
            f"export CAPILLARY_BASE_URL={url}",
            f"export CAPILLARY_USERNAME={quote(settings.username)}",
            f"export CAPILLARY_PASSWORD={quote(settings.password)}",
            f"capillary-targets targets {user}",
            f"capillary-targets events {user} {rule}",
            f"curl -s {url}/sandbox/users.txt > users.txt",
            "capillary-targets sweep users.txt --out out",
        )
    )
    trouble = "\n".join(
        (
            f"curl {url}/sandbox/faults -d '{_ORDER}'",
            f"curl -X POST {url}/sandbox/reset",
        )
    )
    seeded = f"{len(ids):,} users, {ids[0]} to {ids[-1]}" if ids else "no seeded users"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Targets sandbox</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body><main>
<h1>Targets sandbox</h1>
<p class="dim">The two target calls of the Capillary API, answered on this machine. Nothing here is
real, and nothing leaves it.</p>
<h2>What is here</h2>
<dl><dt>Address</dt><dd><code>{escape(url)}</code></dd>
<dt>User name</dt><dd><code>{escape(settings.username)}</code></dd>
<dt>Password</dt><dd><code>{escape(settings.password)}</code></dd>
<dt>Client key</dt><dd><code>{escape(settings.client_key)}</code></dd>
<dt>Client secret</dt><dd><code>{escape(settings.client_secret)}</code></dd>
<dt>Data</dt><dd>{seeded}; seed {settings.seed}</dd>
<dt>All users</dt><dd><a href="/sandbox/users.txt">users.txt</a>, one id a line</dd></dl>
<h2>Ask with curl</h2>
<p class="dim">The header holds the user name and the md5 of the password.</p>
<pre>{escape(f"{curl}/{user}/enrolledTargets'")}</pre>
<pre>{escape(f"{curl}/{user}/trackedTargetEvents/{rule}?limit=5&offset=0'")}</pre>
<h2>Ask with the command line</h2>
<pre>{escape(commands)}</pre>
<h2>Make trouble</h2>
<p class="dim">The next calls meet what is ordered here; <a href="/sandbox/state">the state</a>
tells what came of it.</p>
<pre>{escape(trouble)}</pre>
<h2>Users</h2>
<div class="wide"><table><tr><th>User</th><th>Target rule: events</th></tr>
{_users(world)}</table></div>
<h2>The API pages' own samples</h2>
<p class="dim">These answer byte for byte as printed.</p>
<div class="wide"><table><tr><th>User</th><th>Call</th></tr>{_samples()}</table></div>
</main></body></html>
"""


def _users(world: World) -> str:
    rows = []
    for user in islice(world.user_ids(), 8):
        cells = "".join(
            f"<code>{rule.id}</code>: {world.count(user, rule.id)} &ensp;"
            for rule in islice(world.targets(user), 6)
        )
        rows.append(f"<tr><td><code>{user}</code></td><td>{cells}</td></tr>")
    return "\n".join(rows)


def _samples() -> str:
    calls = (
        (samples.TRANSACTIONAL_USER, "trackedTargetEvents/1986"),
        (samples.TRANSACTIONAL_USER, "trackedTargetEvents/1986?periodId=9889"),
        (samples.BEHAVIOURAL_USER, "trackedTargetEvents/79192"),
        (samples.IMPORT_USER, "enrolledTargets"),
        (samples.TRANSACTION_USER, "enrolledTargets"),
    )
    return "\n".join(
        f"<tr><td><code>{user}</code></td><td><code>{call}</code></td></tr>" for user, call in calls
    )
