"""The only printer: events for a person or a script, and an agent's output, without ever blocking the loop."""

import json
import os
import re
import selectors
import stat
import sys
from collections import deque
from collections.abc import Callable
from datetime import datetime
from select import select
from typing import Any, TextIO

import click
import msgspec

from orchestration.countdown import Countdown
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError
from orchestration.event_loop import EventLoop
from orchestration.events import AnyEvent, AttemptEnded, Notice, RunEnded, RunStarted, TurnEnded, TurnStarted, Waiting

_QUEUE = 1 << 20
"""Bytes that wait for a slow terminal before an agent's output is left out of it; the log has everything."""
_CHUNK = 512
"""Bytes that a terminal or pipe that is ready for writing takes without blocking."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Watch = Callable[[int, int, Callable[[], None]], None]
Unwatch = Callable[[int], None]


class Console:
    """Standard output and error.

    Args:
        quiet: only failures and refusals.
        verbose: also what went as expected (notices of level info).
        as_json: events as JSON, one a line, and no agent output.

    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._json = as_json
        stream = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # None: closed before the start
        self._colour = stream.isatty() and "NO_COLOR" not in inherited()
        self._out = _Writer(stream)
        self._partial = b""
        self._ticks = stream.isatty() and inherited().get("TERM") != "dumb" and not (quiet or as_json)
        self._loop: EventLoop | None = None
        self._countdown: Countdown | None = None

    # --- for commands ------------------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """Print a line."""
        self._out.write((text if self._colour else click.unstyle(text)) + "\n")

    def dump(self, value: object, *, indent: int | None = 2) -> None:
        """Print a value as JSON for a script; on one line (indent None) where events may stand before it."""
        self.say(json.dumps(msgspec.to_builtins(value), indent=indent, ensure_ascii=False))

    def refuse(self, error: OrchestrationError) -> None:
        """Print a refusal: cause, remedy, stable name."""
        if self._json:
            self.dump(
                {"error": error.code, "exit_code": error.exit_code, "message": error.message, "remedy": error.remedy},
                indent=None,
            )
        self.flush()
        text = f"{click.style('error', fg='red')}: {error.message}\n  {error.remedy}  [{error.code}]"
        click.echo(text, err=True)  # noqa: TID251 - this is the one door

    def warn(self, text: str, remedy: str) -> None:
        """Print beside what a script reads what a person should know."""
        self.flush()
        click.echo(f"{click.style('warning', fg='yellow')}: {text}\n  {remedy}", err=True)  # noqa: TID251 - the same

    # --- for the daemon ----------------------------------------------------------------------------------------------

    def attach(self, loop: EventLoop) -> None:
        """Hand what a slow reader leaves to the loop, and have it count down on a terminal."""
        self._loop = loop
        self._out.attach(loop.watch, loop.unwatch)

    def detach(self) -> None:
        """Write what waits, and do without the loop again."""
        self.flush()
        self._loop = None
        self._out.attach(None, None)

    def event(self, event: AnyEvent) -> None:
        """Show an event."""
        if self._json:
            self.say(msgspec.json.encode(event).decode())
            return
        self._end_line()
        for line in self._lines(event):
            self.say(line)
        if isinstance(event, Waiting) and event.until and self._ticks and self._loop:
            self._countdown = Countdown(self._loop, datetime.fromisoformat(event.until), self._out.write)

    def output(self, data: bytes) -> None:
        """Show an agent's output, line by line behind a bar; control sequences stay in the log."""
        if self._quiet or self._json:
            return
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()[-_QUEUE:]
        if lines and not self._out.clogged():
            self.say(self._barred(b"\n".join(lines)))

    def flush(self) -> None:
        """Write what waits, for at most a second of no progress."""
        self._end_line()
        self._out.flush()

    def drain(self) -> bool:
        """Wait until the reader has taken everything; return False when nobody reads any more."""
        return self._out.drain()

    def _barred(self, lines: bytes) -> str:
        bar = click.style("  │ ", dim=True)
        return bar + plain(lines.decode(errors="replace")).replace("\n", f"\n{bar}")

    def _end_line(self) -> None:
        if self._countdown:
            self._countdown.end()
            self._countdown = None
        if self._partial:
            partial, self._partial = self._partial, b""
            self.say(self._barred(partial))

    def _lines(self, event: AnyEvent) -> list[str]:
        bad = (isinstance(event, TurnEnded) and not event.ok) or (isinstance(event, RunEnded) and event.exit_code != 0)
        if self._quiet and not bad:
            return []
        if isinstance(event, Notice) and event.level == "info" and not self._verbose:
            return []
        return _RENDER[type(event)](event)


def plain(text: str) -> str:
    """Return an agent's text without what a terminal would obey."""
    return _CONTROL.sub("", text)


def _began(event: RunStarted) -> list[str]:
    plural = "s" * (event.iterations != 1)
    what = f"turn{plural} of {event.solo} alone" if event.solo else f"iteration{plural}"
    loops = f"at most {event.iterations} {what}" if event.iterations else f"no limit of {what}"
    kept = ("no state commits", "one state commit a turn", "two state commits a turn, pushed")[event.commits]
    jobs: dict[str, list[str]] = {}
    for job, argv in event.agents.items():
        jobs.setdefault(" ".join(argv), []).append(job)
    runs = [f"  {', '.join(names)}: {command}" for command, names in jobs.items()]
    return [f"branch {event.branch} · {loops} · {kept} · Ctrl-C stops safely, the next start goes on", *runs]


def _turned(event: TurnStarted) -> list[str]:
    actor = click.style(str(event.actor), bold=True, fg="magenta" if event.actor == "galph" else "cyan")
    return ["", f"{actor} · iteration {event.iteration} · {event.prompt} ({event.reason}) · agent {event.agent}"]


def _retried(event: AttemptEnded) -> list[str]:
    return [click.style("  ↻ ", fg="yellow") + f"attempt {event.attempt}: {event.why}  [{event.kind}]"]


def _spent(cost: float | None, tokens: int | None) -> str:
    """Return what was used, as far as agents told."""
    told = [f"{cost:.2f} USD"] if cost is not None else []
    told += [f"{tokens:,} tokens"] if tokens else []
    return "".join(f" · {word}" for word in told)


def _ended(event: TurnEnded) -> list[str]:
    if not event.ok:
        turn = f"{event.actor}, iteration {event.iteration}: "  # what began is not shown with -q, nor without a prompt
        return [click.style("  ✗ ", fg="red") + f"{turn}failed after {event.seconds:.1f} s"]
    passed = click.style("  ✓ ", fg="green") + f"{event.seconds:.1f} s{_spent(event.cost_usd, event.tokens)}"
    if event.commit is None and not event.commits:
        return [passed]
    work = f"{len(event.commits)} commit{'s' * (len(event.commits) != 1)}, {event.files} file{'s' * (event.files != 1)}"
    lines = f"+{event.insertions} -{event.deletions}"
    last = f" · {event.commits[-1].partition(' ')[2]}" if event.commits else ""
    return [f"{passed} · {work} {lines}{last}"]


def _stopped(event: RunEnded) -> list[str]:
    mark = click.style("stopped", fg="red" if event.exit_code else "green")
    turns = f"{event.turns} turn{'s' * (event.turns != 1)}{_spent(event.cost_usd, event.tokens)}"
    lines = ["", f"{mark} after {turns}: {event.reason}  [{event.code}, exit {event.exit_code}]"]
    return [*lines, f"  {event.remedy}"] if event.remedy else lines


def _noticed(event: Notice) -> list[str]:
    mark = click.style("  · ", dim=True) if event.level == "info" else click.style("  ! ", fg="yellow")
    return [f"{mark}{event.text}  [{event.code}]"]


def _waiting(event: Waiting) -> list[str]:
    return [click.style(f"waiting: {event.why}", dim=True)]


_RENDER: dict[type[AnyEvent], Callable[[Any], list[str]]] = {
    RunStarted: _began,
    TurnStarted: _turned,
    AttemptEnded: _retried,
    TurnEnded: _ended,
    RunEnded: _stopped,
    Notice: _noticed,
    Waiting: _waiting,
}


class _Writer:
    """A stream that is written only when it is ready; what it does not take yet waits in a queue."""

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        try:
            self._fd = stream.fileno()
            self._file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        except (OSError, ValueError):  # a test's captured stream, or a closed one
            self._fd, self._file = -1, False
        self._stream = stream
        self._queue: deque[memoryview] = deque()
        self._size = 0
        self._watch: Watch | None = None
        self._unwatch: Unwatch | None = None
        self._watched = False
        self._gone = False

    def attach(self, watch: Watch | None, unwatch: Unwatch | None) -> None:
        if self._watched and self._unwatch:
            self._unwatch(self._fd)
        self._watched = False
        self._watch, self._unwatch = watch, unwatch

    def clogged(self) -> bool:
        return self._size > _QUEUE

    def write(self, text: str) -> None:
        if self._fd < 0:
            self._stream.write(text)
            return
        data = memoryview(text.encode(errors="replace"))  # what is not taken yet is not copied
        self._queue.append(data)
        self._size += len(data)
        if self._watch is None:
            self.flush()
        else:
            self._pump()

    def flush(self) -> None:
        """Write the queue, waiting up to a second for a reader that does not read."""
        while self._queue and self._fd >= 0:
            before = self._size
            self._pump(patience=1.0)
            if self._size == before:
                return

    def drain(self) -> bool:
        while self._queue:
            self._pump(patience=None)
        return not self._gone

    def _pump(self, patience: float | None = 0.0) -> None:
        try:
            while self._queue and (self._file or select([], [self._fd], [], patience)[1]):
                data = self._queue.popleft()
                written = os.write(self._fd, data if self._file else data[:_CHUNK])
                self._size -= written
                if written < len(data):
                    self._queue.appendleft(data[written:])
        except OSError:  # nobody reads any more: the loop goes on, the log has everything
            self._queue.clear()
            self._size = 0
            self._gone = True
        self._follow()

    def _follow(self) -> None:
        if self._watch and self._queue and not self._watched:
            self._watched = True
            self._watch(self._fd, selectors.EVENT_WRITE, self._pump)
        elif self._unwatch and not self._queue and self._watched:
            self._watched = False
            self._unwatch(self._fd)
