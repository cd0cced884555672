"""Many users, to files: `run` sweeps a list of users into a directory."""

from .errors import SweepRefused, SweepStopped
from .run import run
from .summary import Summary
from .users import UsersFile

__all__ = ["Summary", "SweepRefused", "SweepStopped", "UsersFile", "run"]
