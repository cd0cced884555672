"""What is installed: extras, groups, the version, and the README as a package index shows it."""

import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import capillary_targets
import capillary_targets_cli
from capillary_targets.cli import main

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=<]", one)[0] for one in requirements}


def test_the_core_installs_what_a_backend_needs_and_no_more() -> None:
    assert names(PROJECT["dependencies"]) == {"aiohttp", "attrs", "cattrs", "msgspec", "yarl"}


def test_what_only_developers_need_is_in_groups_not_in_extras() -> None:
    groups = SETTINGS["dependency-groups"]
    assert {"dev", "docs", "bench", "test"} <= groups.keys()
    assert not groups.keys() & PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_the_command_names_the_extra_that_is_missing(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capillary_targets, "cli", capillary_targets.cli)  # as it is, afterwards
    for name in [
        name for name in sys.modules if name.startswith(("capillary_targets.cli", "rich"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert capillary_targets_cli.main() == 2
    assert capsys.readouterr() == (
        "",
        f"error: the command line needs {missing}: pip install 'capillary-targets[cli]'\n",
    )


@pytest.mark.parametrize(("module", "missing"), [("otel", "opentelemetry"), ("ray", "ray")])
def test_a_module_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, module: str, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, f"capillary_targets.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"pip install 'capillary-targets\[{module}\]'"):
        import_module(f"capillary_targets.{module}")


def test_another_missing_module_is_not_taken_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capillary_targets.cli, "app", import_module("capillary_targets.cli.app"))
    monkeypatch.delitem(sys.modules, "capillary_targets.cli.app")
    monkeypatch.setitem(sys.modules, "capillary_targets.cli.sweep", None)
    with pytest.raises(ModuleNotFoundError, match=r"capillary_targets\.cli\.sweep"):
        main(["--version"])


def test_the_version_is_newer_than_the_latest_one_in_the_changelog() -> None:
    released = re.search(
        r"^## (\d+)\.(\d+)\.(\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    running = re.match(r"(\d+)\.(\d+)\.(\d+)", capillary_targets.__version__)
    assert released
    assert running
    assert tuple(map(int, running.groups())) >= tuple(map(int, released.groups()))


def test_the_index_shows_the_readme_with_absolute_links_to_files_that_exist() -> None:
    (rule,) = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = (ROOT / "README.md").read_text()
    shown = re.sub(rule["pattern"], rule["replacement"], text)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", shown)
    assert len(links) > 10
    blob = f"{PROJECT['urls']['Source']}/blob/main/"
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(blob):
            assert (ROOT / link.removeprefix(blob)).exists(), link
