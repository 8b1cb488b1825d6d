"""How long to wait for a peer or for a remote, and how often to look meanwhile."""

import random

from orchestration import remote_kinds
from orchestration.clock import Clock
from orchestration.remote_kinds import Kind
from orchestration.settings import SyncSettings

_FIRST = 1.0
_GROWTH = 1.5
_MANY = 30
"""Tries after which a pause grows no more: a power of all the looks of a night is no number."""
_ONCE = 60.0
"""Seconds that a run of one turn gives the remote."""


class Patience:
    """Counts one wait after the other; `over` ends it.

    Args:
        clock: its stopwatch.
        sync: the poll interval, and the longest wait.
        once: whether the run is for one turn only.

    """

    def __init__(self, clock: Clock, sync: SyncSettings, *, once: bool) -> None:
        self._clock = clock
        self._sync = sync
        self._once = once
        self._since: float | None = None
        self._looks = self._failures = 0

    def over(self) -> None:
        """Begin anew: what was waited for is there."""
        self._since = None
        self._looks = self._failures = 0

    def for_peer(self) -> float | None:
        """Return the seconds until the next look, few at first; None when the wait was long enough."""
        pause = min(self._sync.poll_interval, _FIRST * _GROWTH ** min(self._looks, _MANY))
        self._looks, self._failures = self._looks + 1, 0
        return self._next(pause, self._sync.max_wait)

    def for_remote(self, kind: str) -> float | None:
        """Return the seconds until the next try, more and more of them; None when the wait was long enough."""
        self._failures += 1
        pause = remote_kinds.pause(Kind(kind), self._failures, random.random()) or 0.0  # noqa: S311
        return self._next(pause, min(_ONCE, self._sync.max_wait or _ONCE) if self._once else self._sync.max_wait)

    def _next(self, pause: float, longest: float | None) -> float | None:
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        if longest is None:
            return pause
        left = self._since + longest - now
        return min(pause, left) if left > 0 else None
