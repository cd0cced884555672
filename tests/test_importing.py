"""What `import capillary_targets` loads beyond aiohttp: see "Import" in `docs/performance.md`."""

import subprocess
import sys

LOADED = """
import sys, aiohttp
before = set(sys.modules)
import capillary_targets
print(*set(sys.modules) - before)
"""


def loaded() -> set[str]:
    return set(subprocess.check_output([sys.executable, "-c", LOADED], text=True).split())


def test_import_loads_what_a_first_request_needs_and_no_more() -> None:
    modules = loaded()
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    # aiohttp loads typing_extensions itself before Python 3.13, msgspec does where it is installed.
    assert foreign <= {"attr", "attrs", "capillary_targets", "msgspec", "typing_extensions"}
    assert not modules & {"fractions", "importlib.metadata", "sqlite3", "statistics"}
    rooms = {name.split(".")[1] for name in modules if name.startswith("capillary_targets.")}
    assert not rooms & {"cli", "converting", "otel", "ray", "sandbox", "sweep", "testing"}


def test_a_command_loads_its_own_modules_and_no_others() -> None:
    script = "import sys; from capillary_targets.cli import main; main(['targets']);"
    script += "print(*(name for name in sys.modules if name.startswith('capillary_targets.')))"
    rooms = set(subprocess.check_output([sys.executable, "-c", script], text=True).split())
    assert "capillary_targets.cli.queries" in rooms
    assert not rooms & {f"capillary_targets.{one}" for one in ("cli.sweep", "sandbox", "sweep")}
