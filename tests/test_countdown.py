"""A long wait ticks on a terminal, in place, and nowhere else."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from selectors import BaseSelector, SelectorKey

import pytest

from conftest import Capture
from orchestration.clock import SystemClock, iso
from orchestration.console import Console
from orchestration.countdown import Countdown
from orchestration.event_loop import EventLoop
from orchestration.events import Notice, Waiting

THEN = datetime(2026, 1, 20, tzinfo=UTC)


class Leaping(SystemClock):
    """A clock on which every wait is over at once."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """Return when it is after what was waited."""
        return THEN + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return what was waited."""
        return self.seconds

    def wait(self, deadline: float | None, selector: BaseSelector) -> list[tuple[SelectorKey, int]]:
        """Have waited already."""
        self.seconds = max(self.seconds, deadline or 0.0)
        return selector.select(0)


def waited(seconds: float, show: Callable[[EventLoop], object]) -> None:
    """Let something show on a loop for so many seconds."""
    with EventLoop(Leaping()) as loop:
        show(loop)
        over: list[bool] = []
        loop.after(seconds, lambda: over.append(True))
        loop.run_until(lambda: bool(over))


def test_it_ticks_every_minute_and_at_last_every_second() -> None:
    written: list[str] = []
    waited(4000, lambda loop: Countdown(loop, THEN + timedelta(seconds=3725), written.append))

    lines = [line.removeprefix("\r\x1b[K").strip() for line in written]
    assert lines[:4] == ["1 h 2 min left", "1 h 2 min left", "1 h 1 min left", "1 h 0 min left"]
    assert lines[-4:] == ["3 s left", "2 s left", "1 s left", ""]
    assert len(lines) < 190


def test_what_was_ended_says_no_more() -> None:
    written: list[str] = []

    def show(loop: EventLoop) -> None:
        countdown = Countdown(loop, THEN + timedelta(seconds=30), written.append)
        countdown.end()

    waited(60, show)

    assert written == ["\r\x1b[K  30 s left", "\r\x1b[K"]


@pytest.mark.parametrize(
    ("options", "term", "ticks"),
    [({}, "xterm", True), ({"quiet": True}, "xterm", False), ({"as_json": True}, "xterm", False), ({}, "dumb", False)],
)
def test_a_terminal_shows_it_below_the_line_until_something_else_happens(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], term: str, *, ticks: bool
) -> None:
    reading, writing = os.openpty()
    monkeypatch.setenv("TERM", term)
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        console = Console(**options)

        def show(loop: EventLoop) -> None:
            console.attach(loop)
            console.event(Waiting(why="a limit", until=iso(THEN + timedelta(seconds=100))))
            loop.after(3.5, lambda: console.event(Notice(code="x", text="on it goes")))

        waited(10, show)
        console.detach()
        os.set_blocking(reading, False)
        shown = ""
        with suppress(BlockingIOError):  # nothing at all was said
            shown = os.read(reading, 65536).decode()
    os.close(reading)

    assert ("100 s left" in shown) is ticks
    if ticks:
        assert re.findall(r"(\d+) s left", shown) == ["100", "99", "98", "97"]
        assert "waiting: a limit\r\n\r\x1b[K  100 s left" in shown
        assert shown.endswith("\x1b[K") or "97 s left\r\x1b[K" in shown


def test_elsewhere_it_is_the_one_line(capsys: Capture) -> None:
    console = Console()

    def show(loop: EventLoop) -> None:
        console.attach(loop)
        console.event(Waiting(why="a limit", until=iso(THEN + timedelta(seconds=100))))

    waited(10, show)

    assert capsys.readouterr().out == "waiting: a limit\n"
