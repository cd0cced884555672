"""The documented API as a local server: for tests, examples and trying things out.

It imports nothing from the rest of the package, so it can be trusted to disagree with it.
"""

from .faults import Fault
from .model import Event, Group, Period, Rule
from .notifications import Notifications, PushAttempt
from .replay import Replay
from .server import RecordedRequest, Sandbox
from .settings import SandboxSettings
from .world import EventHistory, World

__all__ = [
    "Event",
    "EventHistory",
    "Fault",
    "Group",
    "Notifications",
    "Period",
    "PushAttempt",
    "RecordedRequest",
    "Replay",
    "Rule",
    "Sandbox",
    "SandboxSettings",
    "World",
]
