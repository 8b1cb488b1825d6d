"""Who holds a work tree, without touching its lock: for `status`, which must not make a daemon's start fail."""

from pathlib import Path

import msgspec

CARD = "holder.json"


class Holder(msgspec.Struct, frozen=True):
    """The card of the process that holds the lock; `started` tells it from a later process with the same pid.

    Requests for it are left in the folder `control`.
    """

    pid: int
    started: str
    since: str
    control: str


def start_time(pid: int) -> str:
    """Return the process's start in clock ticks since boot, "" where it or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def read_holder(own: Path) -> Holder | None:
    """Return the living holder, None if there is none."""
    try:
        holder = msgspec.json.decode((own / CARD).read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return holder if start_time(holder.pid) == holder.started else None
