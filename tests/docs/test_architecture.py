"""The map of the code is true: files, names, floors and words of docs/architecture.md exist."""

import ast
import re
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest

from capillary_targets import TargetEvent

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "capillary_targets"
MAP = (ROOT / "docs" / "architecture.md").read_text()
GUIDES = ["docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md"]
FILE = re.compile(r"[\w./-]+(/|\.(py|md|toml|yml))")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return MAP.split(f"\n## {title}\n")[1].split("\n## ")[0]


def spans(text: str) -> list[str]:
    """What stands in backquotes, on one line."""
    return re.findall(r"`([^`\n]+)`", text)


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, its head left out."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def module_of(file: str) -> Any:
    dotted = file.removesuffix(".py").replace("/", ".")
    return import_module(f"capillary_targets.{dotted}")


@pytest.mark.parametrize("guide", GUIDES)
def test_files_that_the_guides_mention_exist(guide: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / guide).read_text(), flags=re.DOTALL | re.MULTILINE)
    linked = re.findall(r"\]\(([\w./-]+\.md)", text)
    files = [one for span in spans(text) for one in span.split() if FILE.fullmatch(one)]
    files = [one for one in files if not one.startswith(".venv")]
    assert files
    missing = {
        one
        for one in [*files, *linked]
        if not any((base / one).exists() for base in (ROOT, PACKAGE, (ROOT / guide).parent))
    }
    assert not missing


def test_names_on_the_way_of_an_event_are_in_the_files_named_beside_them() -> None:
    lines = re.findall(
        r"^\d+\. .*", section("The way of an event, from socket to user"), re.MULTILINE
    )
    assert len(lines) == 10
    for line in lines:
        files = [span for span in spans(line) if span.endswith(".py")]
        assert files, line
        for name in set(spans(line)) - set(files):
            head, *rest = name.split(".")
            found = [getattr(module_of(file), head, None) for file in files]
            for attribute in rest:
                found = [getattr(one, attribute, None) for one in found]
            assert any(found), f"{name} is in none of {files}"


def drawn() -> list[set[str]]:
    """The rooms of each floor, from the top."""
    block = section("Floors").split("```text\n")[1].split("```")[0]
    floors = []
    for line in block.splitlines():
        first, *beside = re.split(r" {2,}", line)
        # After the first room stands what it does; further rooms stand behind a wide gap.
        floors.append({first, *" ".join(beside[1:]).split()})
    return floors


def rooms() -> set[str]:
    """The modules and packages directly below `capillary_targets`."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | packages


def test_the_drawing_has_every_room_once() -> None:
    assert sorted(room for floor in drawn() for room in floor) == sorted(rooms())


def test_the_drawing_is_what_the_import_contract_enforces() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one["layers"] for one in settings["contracts"] if one["type"] == "layers"]
    assert [set(re.findall(r"\w+", layer)) & rooms() for layer in layers] == drawn()


@cache
def said(path: Path) -> str:
    """The docstrings of a file, and the names that it defines."""
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return "\n".join(
        text
        for node in nodes
        for text in (getattr(node, "name", ""), ast.get_docstring(node) or "")
    )


@pytest.mark.parametrize(("word", "file"), rows("Words to search for"))
def test_a_search_for_the_fields_word_lands_in_the_room(word: str, file: str) -> None:
    pattern = re.compile(word.replace(" ", r"[\s_-]?"), re.IGNORECASE)
    found = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if pattern.search(said(path))
    ]
    assert file.strip("`") in found
    assert len(found) <= 5, f"too many rooms to search: {found}"


def test_the_guarding_tests_are_not_empty() -> None:
    for cells in rows("What must never break"):
        for file in spans(cells[-1]):
            assert "def test_" in (ROOT / file).read_text(), file


def test_the_reference_lists_the_fields_of_an_event() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", reference, re.MULTILINE)
    assert listed == [field.name for field in attrs.fields(TargetEvent)]


def test_the_tasks_that_contributors_are_told_of_exist() -> None:
    defined = set(re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text()))
    told = set(re.findall(r"nox -s (\w+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert told == defined


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    patterns = re.findall(r"grep -m1 -E '(.+?)' README\.md", ci)
    assert len(patterns) == 2
    for pattern in patterns:
        assert re.search(pattern, readme, re.MULTILINE), pattern
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in workflow


def test_properties_take_a_new_seed_in_every_run() -> None:
    fixed = re.compile(r"derandomize\s*=\s*True|@settings\(|@seed\(|max_examples")
    profiles = ROOT / "tests" / "conftest.py"
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if path not in {profiles, Path(__file__)} and fixed.search(path.read_text())
    ]
    assert not found, "use @examples of tests/conftest.py, which follows the profile"
