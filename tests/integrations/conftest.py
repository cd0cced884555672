"""Integrations are tested with the real thing, where it is installed."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec

import pytest


def program(name: str) -> str:
    """The path of a program that a package brings, or that is on the PATH; "" if there is none."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name) or ""


def required(*modules: str, programs: tuple[str, ...] = ()) -> None:
    """Skip the module that calls this where something is missing; fail where all must be there."""
    missing = [module for module in modules if find_spec(module) is None]
    missing += [name for name in programs if not program(name)]
    if missing:
        reason = f"needs {', '.join(missing)}: pip install 'capillary-targets[integrations]'"
        if os.environ.get("CAPILLARY_TESTS_REQUIRE") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)


def in_environment(monkeypatch: pytest.MonkeyPatch, url: str, username: str, password: str) -> None:
    """What the examples read, for a sandbox."""
    monkeypatch.setenv("CAPILLARY_BASE_URL", url)
    monkeypatch.setenv("CAPILLARY_USERNAME", username)
    monkeypatch.setenv("CAPILLARY_PASSWORD", password)
