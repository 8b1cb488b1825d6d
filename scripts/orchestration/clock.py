"""Time is an argument: whoever needs it is given a Clock, and nothing else waits."""

import time
from datetime import UTC, datetime
from selectors import BaseSelector, SelectorKey
from typing import Protocol

_LONGEST = 86_400.0
"""Seconds of one wait; the caller waits again. A system call takes no more than about 24 days."""


class Clock(Protocol):
    """The hours of the day, a stopwatch, and the only way to wait."""

    def now(self) -> datetime:
        """Return the time of day in UTC; informational, safety never reads it."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""

    def boottime(self) -> float:
        """Return seconds since the machine was started, those in which it slept included."""

    def wait(self, deadline: float | None, selector: BaseSelector) -> list[tuple[SelectorKey, int]]:
        """Wait for the selector until `deadline` (monotonic seconds; None: for ever)."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def boottime(self) -> float:
        """Return seconds of CLOCK_BOOTTIME; elsewhere of the monotonic clock."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def wait(self, deadline: float | None, selector: BaseSelector) -> list[tuple[SelectorKey, int]]:
        """Wait for the selector until `deadline`."""
        return selector.select(None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST))


def iso(moment: datetime) -> str:
    """Return ISO 8601 UTC with seconds: `2026-01-20T03:29:29Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def folder_stamp(moment: datetime) -> str:
    """Return the form that names a run's folder: `2026-01-20T032929Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
