"""One daemon, or one operator command, a work tree."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from orchestration import files
from orchestration.clock import iso
from orchestration.errors import Locked
from orchestration.holder import CARD, Holder, read_holder
from orchestration.reaper import started
from orchestration.workspace import Workspace

_LEFT_OVER = 1.0
"""Seconds for a lock whose holder is dead: a child that it was just starting holds it until it is its own program."""


@contextmanager
def held(place: Workspace, now: datetime, first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the work tree's lock, and say so on a card that others read.

    Args:
        place: whose locks, and where requests are left.
        now: since when.
        first: called with the lock, before the card tells others.

    Raises:
        Locked: another process holds it; the message names it.

    """
    card = Holder(os.getpid(), started(os.getpid()), iso(now), str(place.control))
    with ExitStack() as stack:
        if not place.git:
            _ignore(place.own)
        for folder in place.locks:
            _acquire(folder, stack)
        first()
        for folder in place.locks:
            stack.callback((folder / CARD).unlink, missing_ok=True)
            files.replace(folder / CARD, msgspec.json.encode(card))
        yield


def _ignore(own: Path) -> None:
    """Hide our folder from git before anything lies in it, though another run may hold the work tree."""
    path = own / ".gitignore"
    if not path.is_file():
        files.replace(path, b"*\n")


def _acquire(folder: Path, stack: ExitStack) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "lock"), read_holder(folder)
    try:
        lock.acquire(timeout=0 if holder else _LEFT_OVER)
    except Timeout:
        holder = holder or read_holder(folder)
        who = f"process {holder.pid}, since {holder.since}" if holder else "another process"
        raise Locked(
            f"this clone is held by {who}",
            code="clone-locked",
            remedy="`orchestrator status` shows it; `orchestrator stop` ends it after its turn",
        ) from None
    stack.callback(lock.release)
