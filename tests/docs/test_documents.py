"""Every example in the documents runs as printed: `eu` is a sandbox for the while.

A block of Python is a script: it runs by itself, or as a module of tests. One with the comment
`<!-- fragment -->` before it goes on from the blocks before, with names that stand for the reader's
own things (`user_ids`, `publish`, ...), see `_reader`. A block that cannot run has a comment that
says why: `<!-- not run: WHY -->`.
"""

import ast
import asyncio
import inspect
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import capillary_targets
from capillary_targets import BasicAuth, CapillaryError, TargetsClient
from capillary_targets.cli import main
from capillary_targets.sandbox import Sandbox
from capillary_targets.settings import _OAUTH, _TILL, CLUSTERS
from tests.conftest import in_environment

from .blocks import Block, blocks_of
from .generated import TABLES, rendered

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
COMMAND = "capillary-targets "


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A sandbox with the credentials that the documents print, in place of the cluster `eu`."""
    sandbox = Sandbox(
        users=12,
        username="till.id",
        password="password",
        client_key="key",
        client_secret="secret",
    )
    async with sandbox as url:
        monkeypatch.setitem(CLUSTERS, "eu", url)
        yield sandbox


@pytest.mark.usefixtures("small_sandboxes")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
async def test_examples_run(
    document: Path,
    cluster: Sandbox,
    capillary_sandbox: Sandbox,
    targets_client: TargetsClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    users = "".join(f"{user}\n" for user in cluster.world.user_ids())
    (tmp_path / "users.txt").write_text(users)
    fixtures = {"capillary_sandbox": capillary_sandbox, "targets_client": targets_client}
    names: dict[str, Any] = {}
    async with TargetsClient("eu", BasicAuth("till.id", "password")) as client:
        for block in blocks_of(document):
            if block.skipped:
                continue
            async with asyncio.timeout(120):
                if block.language == "python":
                    if not block.fragment:
                        own: dict[str, Any] = {}
                        await asyncio.to_thread(_run_script, block, document, own)
                        await _run_tests(own, fixtures)
                        names |= own
                        continue
                    names |= _reader(cluster, client)
                    await _run_fragment(block, document, names)
                    await _run_tests(names, fixtures)
                elif block.language in {"sh", "bash"} and block.code.startswith(COMMAND):
                    await _run_commands(block, cluster, monkeypatch)


def _run_script(block: Block, document: Path, names: dict[str, Any]) -> None:
    """Run a block as `python FILE` does: in a thread, since it may start an event loop."""
    names |= {"__name__": "__main__"}
    exec(compile("\n" * block.line + block.code, str(document), "exec"), names)


async def _run_fragment(block: Block, document: Path, names: dict[str, Any]) -> None:
    source = "\n" * block.line + block.code  # so that a traceback names the document's line
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    running = eval(compile(source, str(document), "exec", flags), names)
    if inspect.iscoroutine(running):
        await running


async def _run_tests(names: dict[str, Any], fixtures: dict[str, Any]) -> None:
    for name in [name for name in names if name.startswith("test_")]:
        test = names.pop(name)
        fixtures["capillary_sandbox"].reset()
        await test(**{one: fixtures[one] for one in inspect.signature(test).parameters})


async def _run_commands(block: Block, cluster: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each line in this process, which has loaded everything already."""
    in_environment(monkeypatch, cluster)
    monkeypatch.setattr("capillary_targets.cli.app._SIGNALS", ())  # a thread cannot handle any
    for line in block.code.replace("\\\n", " ").splitlines():
        command, _, accepted = line.partition(" || [ $? -eq ")
        status = await asyncio.to_thread(main, shlex.split(command, comments=True)[1:])
        assert status in {0, int(accepted.rstrip(" ]") or 0)}, f"line {block.line}: {line}"


def _reader(cluster: Sandbox, client: TargetsClient) -> dict[str, Any]:
    """What a reader is assumed to have."""
    user = 564332013
    auth = BasicAuth("till.id", "password")

    async def taken(*things: Any, **more: Any) -> None:
        """Somebody's queue."""

    public = {name: getattr(capillary_targets, name) for name in capillary_targets.__all__}
    return public | {
        "__name__": "the document",
        "auth": auth,
        "client": client,
        "client_key": "key",
        "client_secret": "secret",
        "message": SimpleNamespace(
            user_id=user, target_rule_id=1986, nack=taken, dead_letter=taken, ack=taken
        ),
        "publish": taken,
        "save": lambda *things: None,
        "target_rule_id": 1986,
        "user_id": user,
        "user_ids": cluster.world.user_ids(),
    }


def test_a_document_without_a_block_that_runs_is_noticed() -> None:
    run = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    assert len(run) >= 4
    assert not [block for block in run if block.fragment or block.skipped]


@pytest.mark.parametrize("document", TABLES)
def test_tables_made_from_the_code_are_up_to_date(document: str) -> None:
    assert (ROOT / document).read_text() == rendered(document), "python -m tests.docs.generated"


def test_every_error_and_code_is_on_one_page() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    kinds = [
        name
        for name in capillary_targets.__all__
        if inspect.isclass(kind := getattr(capillary_targets, name))
        and issubclass(kind, CapillaryError)
    ]
    for name in [*kinds, "429", "310011", "503", "320001"]:
        assert name in page


def test_every_environment_variable_is_on_the_page_of_settings() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "capillary_targets").rglob("*.py"))
    names = {f"CAPILLARY_{name}" for name in (*_TILL, *_OAUTH)}
    names |= set(re.findall(r'environ(?:ment)?(?:\.\w+\(|\[)"([A-Z_]+)"', sources))
    names |= set(re.findall(r"\b(?:CAPILLARY_[A-Z0-9_]*[A-Z0-9]|[A-Z]+_PROXY)\b", sources))
    assert {"TERM", "CAPILLARY_TIMEZONE", "NO_PROXY"} <= names
    assert not [name for name in names if f"`{name}`" not in page]


def test_blocks_know_their_line_and_what_keeps_them_from_running(tmp_path: Path) -> None:
    document = tmp_path / "one.md"
    document.write_text(
        "a\n\n```python\nx\n```\n\n<!-- not run: because -->\n\n```sh\ny\n```\n\n"
        "- b\n\n  <!-- fragment -->\n  ```python\n  z\n  ```\n"
    )
    assert blocks_of(document) == [
        Block("python", "x\n", 3),
        Block("sh", "y\n", 9, "because"),
        Block("python", "z\n", 16, fragment=True),
    ]
