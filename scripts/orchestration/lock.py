"""One daemon, or one operator command, a work tree."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from orchestration import files
from orchestration.clock import iso
from orchestration.errors import Locked
from orchestration.holder import Holder, read_holder, start_time


@contextmanager
def held(own: Path, now: datetime, first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the work tree's lock, and say so on a card that others read.

    Args:
        own: the folder of lock and card.
        now: since when.
        first: called with the lock, before the card tells others.

    Raises:
        Locked: another process holds it; the message names it.

    """
    own.mkdir(parents=True, exist_ok=True)
    lock = FileLock(own / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_holder(own)
        who = f"process {holder.pid}, since {holder.since}" if holder else "another process"
        raise Locked(
            f"this clone is held by {who}",
            code="clone-locked",
            remedy="`orchestrator status` shows it; `orchestrator stop` ends it after its turn",
        ) from None
    card = own / "holder.json"
    try:
        first()
        files.replace(card, msgspec.json.encode(Holder(os.getpid(), start_time(os.getpid()), iso(now))))
        yield
    finally:
        card.unlink(missing_ok=True)
        lock.release()
