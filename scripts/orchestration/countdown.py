"""The time that is left of a long wait, rewritten in place on a terminal's last line."""

import math
from collections.abc import Callable
from datetime import datetime

from orchestration.event_loop import EventLoop, Timer

_CLOSE = 120
"""Seconds from the end from which on every one is shown; before, every minute."""
_REWRITE = "\r\x1b[K"


class Countdown:
    """Shows at once, and then now and then, how long it is until a moment; `end` leaves the line empty.

    Args:
        loop: where it waits, and whose clock it is.
        until: the moment.
        write: takes text for the terminal as it is.

    """

    def __init__(self, loop: EventLoop, until: datetime, write: Callable[[str], None]) -> None:
        self._loop = loop
        self._until = until
        self._write = write
        self._timer: Timer | None = None
        self._tick()

    def _tick(self) -> None:
        left = math.ceil((self._until - self._loop.clock.now()).total_seconds())
        self._write(f"{_REWRITE}  {_told(left)} left" if left > 0 else _REWRITE)
        pause = 1 if left <= _CLOSE else left % 60 or 60
        self._timer = self._loop.after(pause, self._tick) if left > 0 else None

    def end(self) -> None:
        """Take the line away."""
        if self._timer:
            self._timer.cancel()
            self._write(_REWRITE)


def _told(seconds: int) -> str:
    if seconds <= _CLOSE:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
