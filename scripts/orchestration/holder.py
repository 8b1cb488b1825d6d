"""Who holds a work tree, without touching its lock: for `status`, which must not make a daemon's start fail."""

from pathlib import Path

import msgspec

from orchestration.reaper import started

CARD = "holder.json"


class Holder(msgspec.Struct, frozen=True):
    """The card of the process that holds the lock; `started` tells it from a later process with the same pid.

    Requests for it are left in the folder `control`.
    """

    pid: int
    started: int
    since: str
    control: str


def read_holder(own: Path) -> Holder | None:
    """Return the living holder, None if there is none."""
    try:
        holder = msgspec.json.decode((own / CARD).read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return holder if started(holder.pid) == holder.started else None
