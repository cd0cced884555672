"""What a test needs beyond the group `dev`: skipped without it, except where all must be there."""

import os
import shutil
import sysconfig
from importlib.util import find_spec

import pytest

__all__ = ["program", "required"]


def program(name: str) -> str:
    """The path of a program that a package brings, or that is on the PATH; "" if there is none."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name) or ""


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def required(*modules: str, programs: tuple[str, ...] = ()) -> None:
    """Skip the module that calls this where something is missing; fail where all must be there."""
    missing = [module for module in modules if not _is_there(module)]
    missing += [name for name in programs if not program(name)]
    if missing:
        reason = f"needs {', '.join(missing)}: pip install --group integrations, or apt install"
        if os.environ.get("CAPILLARY_TESTS_REQUIRE") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)
