"""What `import capillary_targets` loads beyond aiohttp: see "Import" in `docs/performance.md`."""

import subprocess
import sys

LOADED = """
import sys, aiohttp
before = set(sys.modules)
import capillary_targets
print(*set(sys.modules) - before)
from capillary_targets.cli import main
main(["targets"])
print(*(name for name in sys.modules if name.startswith("capillary_targets.")))
"""


def test_an_import_and_a_command_load_what_they_need_and_no_more() -> None:
    printed = subprocess.check_output([sys.executable, "-c", LOADED], text=True)
    modules, by_command = (set(line.split()) for line in printed.splitlines())
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    # aiohttp loads typing_extensions itself before Python 3.13, msgspec does where it is installed.
    assert foreign <= {"attr", "attrs", "capillary_targets", "msgspec", "typing_extensions"}
    assert not modules & {"fractions", "importlib.metadata", "sqlite3", "statistics"}
    rooms = {name.split(".")[1] for name in modules if name.startswith("capillary_targets.")}
    assert not rooms & {"cli", "converting", "otel", "ray", "sandbox", "sweep", "testing"}
    assert "capillary_targets.cli.queries" in by_command
    others = {f"capillary_targets.{one}" for one in ("cli.sweep", "sandbox", "sweep")}
    assert not by_command & others
