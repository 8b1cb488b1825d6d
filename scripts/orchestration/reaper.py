"""Finding and ending what an agent left behind.

Agents start tool shells in sessions of their own, which a signal to the group misses. Two marks find them all the same:
the turn's stamp in their environment, and, because the daemon is a subreaper, their place below this process.
"""

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

STAMP = "ORCH_TURN_STAMP"
PATIENCE = 5.0
"""Seconds until a process that survives SIGKILL (a hung disk) is reported instead of waited for."""

_STARTED = 19
"""The field of /proc/PID/stat, counted from the state, that holds the start in ticks since boot."""

_READ = 1 << 17

if sys.platform == "linux":

    def _processes(mark: bytes, since: int = 0) -> Iterator[tuple[int, int, bool]]:
        """Yield (pid, parent, carries the mark) of every process that is not a zombie.

        One that was started before the tick `since` is not looked into: it carries no mark.
        """
        for name in os.listdir("/proc"):  # noqa: PTH208 - this runs at every turn's end
            if not name.isdigit():
                continue
            fields = _content(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if not fields:
                continue
            if fields[0] in {b"Z", b"X"}:
                continue
            young = int(fields[_STARTED]) >= since
            yield int(name), int(fields[1]), young and mark in _content(f"/proc/{name}/environ").split(b"\0")

    def _content(path: str) -> bytes:
        """Return what a file of /proc holds, nothing if it is gone or not ours to read: quick, for every turn's end."""
        held = b""
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while more := os.read(descriptor, _READ):
                    held += more
            finally:
                os.close(descriptor)
        return held

    def started(pid: int) -> int:
        """Return when a process was started, in ticks since boot; 0 where there is none."""
        try:
            return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[_STARTED])
        except OSError:
            return 0

    def working_in(folder: Path, name: str) -> list[int]:
        """Return the living processes called `name` or `name-...` whose current folder is `folder` or below."""
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                called = (process / "comm").read_text().strip()
                where = (process / "cwd").readlink()
            except OSError:
                continue
            if called.partition("-")[0] == name and where.is_relative_to(folder):
                found.append(int(process.name))
        return found

else:
    import psutil

    def working_in(folder: Path, name: str) -> list[int]:
        """Return the living processes called `name` or `name-...` whose current folder is `folder` or below."""
        found: list[int] = []
        for process in psutil.process_iter():
            try:
                called, where = process.name(), Path(process.cwd())
            except psutil.Error:
                continue
            if called.partition("-")[0] == name and where.is_relative_to(folder):
                found.append(process.pid)
        return found

    def started(pid: int) -> int:
        """Return when a process was started, in seconds since 1970; 0 where there is none."""
        try:
            return int(psutil.Process(pid).create_time())
        except psutil.Error:
            return 0

    def _processes(mark: bytes, since: int = 0) -> Iterator[tuple[int, int, bool]]:  # noqa: ARG001
        """Yield (pid, parent, carries the mark) of every process that is not a zombie."""
        key, _, value = mark.decode().partition("=")
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process.pid, process.ppid(), process.environ().get(key) == value
            except psutil.Error:
                continue


def descendants() -> frozenset[int]:
    """Return the living processes below this one."""
    parents = {pid: parent for pid, parent, _ in _processes(b"", since=sys.maxsize)}
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return frozenset(below - {os.getpid()})


def survivors(stamp: str, *, spare: Collection[int] | None = None, since: int = 0) -> list[int]:
    """Return the living processes that carry `stamp`, and all below them: `env -i` and sudo drop the stamp.

    Only those are looked into that were `started` at `since` or later. With `spare` (what this process means to keep)
    also every descendant of this process that is not below one of it.
    """
    own = os.getpid()
    table = {pid: (parent, marked) for pid, parent, marked in _processes(f"{STAMP}={stamp}".encode(), since)}

    def of_the_turn(pid: int) -> bool:
        seen = set[int]()
        while pid in table and pid not in seen and pid != own:
            if table[pid][1]:
                return True
            seen.add(pid)
            pid = table[pid][0]
        return False

    def below_us(pid: int) -> bool:
        seen = set[int]()
        while pid in table and pid not in seen:
            seen.add(pid)
            if spare is None or pid in spare:
                return False
            pid = table[pid][0]
            if pid == own:
                return not seen & set(spare)
        return False

    return [pid for pid in table if pid != own and (of_the_turn(pid) or below_us(pid))]


def end_survivors(
    stamp: str, pause: Callable[[float], object], *, spare: Collection[int] | None = None, since: int = 0
) -> tuple[int, list[int]]:
    """SIGKILL the survivors until none is left.

    Args:
        stamp: the turn's stamp.
        pause: waits that many seconds; called between looks.
        spare: as for `survivors`.
        since: as for `survivors`.

    Returns:
        How many were ended, and which could not be.

    """
    ended = set[int]()
    left = survivors(stamp, spare=spare, since=since)
    wait = 0.001
    waited = 0.0
    while left and waited < PATIENCE:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        ended.update(left)
        pause(wait)
        waited += wait
        wait = min(2 * wait, 0.1)
        left = survivors(stamp, spare=spare, since=since)
    return len(ended.difference(left)), left
