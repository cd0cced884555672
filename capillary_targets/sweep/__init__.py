"""Many users, to files that a kill at any moment cannot spoil: `run` sweeps into a directory."""

from .errors import SweepRefused, SweepStopped
from .hand import Limits
from .meter import Meter
from .reading import UsersFile
from .report import make_report
from .run import run
from .summary import Summary
from .users import BadLine

__all__ = [
    "BadLine",
    "Limits",
    "Meter",
    "Summary",
    "SweepRefused",
    "SweepStopped",
    "UsersFile",
    "make_report",
    "run",
]
