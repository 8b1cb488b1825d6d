"""Leases: whether a peer is alive, judged by what changes and by this machine's own stopwatch (docs/protocol.md).

Safety never depends on it: a lease only says when a standby may try to take a turn over.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestration import files
from orchestration.clock import Clock
from orchestration.workspace import boot_id


class _Observed(msgspec.Struct, frozen=True):
    """The newest sign of life of a turn, and when it was first seen: seconds since the start `boot` of this machine."""

    turn: str
    beat: str
    since: float
    boot: str


class Observer:
    """Remembers since when a sign of life has not changed, also from one short-lived process to the next.

    Args:
        path: the file that remembers.
        clock: its stopwatch goes on while the machine sleeps.

    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def unchanged(self, turn: str, beat: Callable[[], str]) -> float:
        """Return for how many seconds nothing new was seen of a turn; 0 also after a restart of the machine.

        Of a turn that was not seen before, the remote is not asked for a `beat`: that it began is sign enough.
        """
        now, boot = self._clock.boottime(), boot_id()
        try:
            seen = msgspec.json.decode(self._path.read_bytes(), type=_Observed)
        except (OSError, msgspec.DecodeError):
            seen = None
        newest = beat() if seen and seen.turn == turn else ""
        if seen and (seen.turn, seen.beat, seen.boot) == (turn, newest, boot) and seen.since <= now:
            return now - seen.since
        files.replace(self._path, msgspec.json.encode(_Observed(turn, newest, now, boot)))
        return 0.0
