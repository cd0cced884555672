"""The documented API as a local server: for tests, examples and trying things out.

It imports nothing from the rest of the package, so it can be trusted to disagree with it.
"""

from .data import World
from .faults import Fault
from .journal import RecordedRequest
from .model import Event, Group, Period, Rule
from .server import Sandbox
from .settings import SandboxSettings

__all__ = [
    "Event",
    "Fault",
    "Group",
    "Period",
    "RecordedRequest",
    "Rule",
    "Sandbox",
    "SandboxSettings",
    "World",
]
