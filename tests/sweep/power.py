"""A disk that loses power: the file calls of a recorded process, replayed up to any moment.

What was synced survives. Of the rest, any part may have reached the disk, in any order: writes may
be missing or torn, names may be old or new. Stricter than most file systems, as POSIX allows.
"""

import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from attrs import define, field, frozen

SECTOR = 512
_CALLS = (
    "openat,creat,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,"
    "unlinkat,rmdir,truncate,ftruncate,mkdir,mkdirat,link,linkat,fallocate,copy_file_range,sendfile"
)
_LINE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_HANDLE = re.compile(r"^\d+<((?:\\x[0-9a-f]{2})*)>")
_IGNORED = ("-shm",)  # shared memory: made anew by whoever opens the ledger first

Kind = Literal["create", "mkdir", "write", "truncate", "rename", "unlink", "sync", "mark"]


@frozen
class Call:
    """One call that changes a file, a name, or what is durable."""

    kind: Kind
    path: str
    data: bytes = b""
    offset: int | None = None
    """None: at the end."""
    target: str = ""


def record(command: Sequence[str], root: Path, log: Path, **options: Any) -> list[Call]:
    """Run a command under strace; its calls on files below `root`, in order.

    What it writes to /dev/null are marks.
    """
    log.mkdir()
    traced = ["strace", "-ff", "-y", "-ttt", "-xx", "-s", "67108864", "-e", f"trace={_CALLS}"]
    subprocess.run([*traced, "-o", str(log / "trace"), *command], check=True, **options)
    lines = sorted(
        (match.groups() for path in log.iterdir() for match in _matches(path)),
        key=lambda groups: float(groups[0]),
    )
    calls = [_call(name, arguments) for _, name, arguments, result in lines if int(result) >= 0]
    prefix = f"{root}/"
    known: set[str] = set()
    found = []
    for call in calls:
        if call is None or call.path.endswith(_IGNORED):
            continue
        if call.kind != "mark" and not f"{call.path}/".startswith(prefix):
            continue
        if call.kind == "create" and call.path in known:
            continue
        if call.kind == "create":
            known.add(call.path)
        if call.kind in {"rename", "unlink"}:
            known.discard(call.path)
            known.add(call.target)
        found.append(call)
    return found


def _matches(path: Path) -> Iterator[re.Match[str]]:
    return filter(None, map(_LINE.match, path.read_text().splitlines()))


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _call(name: str, arguments: str) -> Call | None:
    texts = [_text(text) for text in _TEXT.findall(arguments)]
    handle = _HANDLE.match(arguments)
    path = _text(handle[1]).decode() if handle else texts[0].decode() if texts else ""
    if name == "openat":
        made = "O_CREAT" in arguments and texts
        return Call("create", texts[-1].decode()) if made else None
    if name in {"write", "pwrite64"}:
        if path == "/dev/null":
            return Call("mark", path, texts[-1])
        data = texts[-1]
        at = int(arguments.rsplit(",", 1)[1]) if name == "pwrite64" else None
        return Call("write", path, data, at)
    if name in {"fsync", "fdatasync"}:
        return Call("sync", path)
    if name == "rename":
        return Call("rename", path, target=texts[1].decode())
    if name == "unlink":
        return Call("unlink", path)
    if name == "ftruncate":
        return Call("truncate", path, offset=int(arguments.rsplit(",", 1)[1]))
    if name == "mkdir":
        return Call("mkdir", path)
    raise NotImplementedError(f"{name}({arguments[:200]})")


@define(eq=False)
class _File:
    directory: bool = False
    durable: bytearray = field(factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(factory=list)
    """Writes at an offset; None for a change of size to it."""
    size: int = 0


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@define(eq=False)
class Disk:
    """A disk below `root`, as far as calls have come."""

    root: str
    names: dict[str, _File] = field(init=False, factory=dict)
    durable: dict[str, _File] = field(init=False, factory=dict)
    pending: list[list[tuple[str, _File | None]]] = field(init=False, factory=list)
    """Changes of names that are not durable; each happens as a whole."""

    def __attrs_post_init__(self) -> None:
        self.names[self.root] = self.durable[self.root] = _File(directory=True)

    def play(self, call: Call) -> None:
        """Do what a call does."""
        if call.kind in {"create", "mkdir"}:
            file = _File(call.kind == "mkdir")
            self._rename([(call.path, file)])
        elif call.kind == "rename":
            self._rename([(call.path, None), (call.target, self.names[call.path])])
        elif call.kind == "unlink":
            self._rename([(call.path, None)])
        elif call.kind == "sync":
            self._sync(call.path)
        elif call.kind != "mark":
            file = self.names[call.path]
            offset = file.size if call.offset is None else call.offset
            data = None if call.kind == "truncate" else call.data
            file.pending.append((offset, data))
            file.size = offset if data is None else max(file.size, offset + len(data))

    def _rename(self, change: list[tuple[str, _File | None]]) -> None:
        self._change(self.names, change)
        self.pending.append(change)

    @staticmethod
    def _change(names: dict[str, _File], change: list[tuple[str, _File | None]]) -> None:
        for path, file in change:
            if file is None:
                names.pop(path, None)
            else:
                names[path] = file

    def _sync(self, path: str) -> None:
        file = self.names.get(path)
        if file is not None and not file.directory:
            for offset, data in file.pending:
                _apply(file.durable, offset, data)
            file.pending.clear()
            return
        left = []
        for change in self.pending:
            if str(PurePosixPath(change[0][0]).parent) == path:
                self._change(self.durable, change)
            else:
                left.append(change)
        self.pending = left

    def crash(self, keeps: Callable[[str], float]) -> dict[str, bytes | None]:
        """What is there after a loss of power: contents by path, None for a directory.

        `keeps("name")` and `keeps("data")` say how much of a change reaches the disk: 1 all of it,
        0 nothing, else a torn write's share.
        """
        names = dict(self.durable)
        for change in self.pending:
            if keeps("name") > 0:
                self._change(names, change)
        found: dict[str, bytes | None] = {}
        for path, file in names.items():
            content = bytearray(file.durable)
            for offset, data in file.pending:
                share = keeps("data")
                if share >= 1 or (share > 0 and data is None):
                    _apply(content, offset, data)
                elif share > 0 and data is not None:
                    _apply(content, offset, data[: int(len(data) * share) // SECTOR * SECTOR])
            found[path] = None if file.directory else bytes(content)
        return {
            path: content
            for path, content in found.items()
            if path != self.root
            and all(
                str(parent) in found
                for parent in PurePosixPath(path).parents
                if str(parent).startswith(f"{self.root}/")
            )
        }


def all_or_nothing(names: float, data: float) -> Callable[[str], float]:
    """All changes of names, or none; likewise all writes."""
    return lambda kind: names if kind == "name" else data


def at_random(chance: random.Random) -> Callable[[str], float]:
    """Each change by itself: whole, lost or torn."""
    return lambda _: chance.choice((0.0, 1.0, chance.random()))


PLAINLY = [all_or_nothing(names, data) for names in (0, 1) for data in (0, 1)]


def write_state(state: dict[str, bytes | None], old: str, new: Path) -> None:
    """Put a state on a real disk, below `new` instead of `old`."""
    for path, content in sorted(state.items()):
        there = new / PurePosixPath(path).relative_to(old)
        if content is None:
            there.mkdir()
        else:
            there.write_bytes(content)
