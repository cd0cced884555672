"""Many users, to files that a kill at any moment cannot spoil: `run` sweeps into a directory."""

from .errors import SweepRefused, SweepStopped
from .hand import Limits
from .report import make_report
from .run import run
from .stats import RequestTimeline
from .summary import Summary
from .user_list import BadLine, UsersFile

__all__ = [
    "BadLine",
    "Limits",
    "RequestTimeline",
    "Summary",
    "SweepRefused",
    "SweepStopped",
    "UsersFile",
    "make_report",
    "run",
]
