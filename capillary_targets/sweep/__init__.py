"""Many users, to files that a kill at any moment cannot spoil: `run` sweeps into a directory."""

from .options import Summary, SweepOptions, SweepRefused, SweepStopped
from .plan import Plan, plan
from .report import make_report
from .run import run
from .stats import RequestTimeline
from .user_list import BadLine, UsersFile

__all__ = [
    "BadLine",
    "Plan",
    "RequestTimeline",
    "Summary",
    "SweepOptions",
    "SweepRefused",
    "SweepStopped",
    "UsersFile",
    "make_report",
    "plan",
    "run",
]
