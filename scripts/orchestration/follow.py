"""Follow the newest run while it happens: what the daemon's own screen shows, from the files that it writes."""

from contextlib import ExitStack
from pathlib import Path

from orchestration.clock import Clock, iso
from orchestration.console import Console
from orchestration.events import RunEnded, TurnStarted, Waiting
from orchestration.holder import Holder, read_holder
from orchestration.logbook import Choice, Growing, Logbook, Run, decoded, tail_start
from orchestration.process import Loop
from orchestration.watch import look_now_and_then, watching


class Follower:
    """What was shown already, and what comes next.

    Args:
        book: the runs.
        own: the folder of the daemon's card.
        choice: which turns are shown.
        console: where.
        clock: waits, and says when something was waited for.
        lines: of the raw log that is there at the start (0: all of it); those of earlier turns are not shown.

    """

    def __init__(self, book: Logbook, own: Path, choice: Choice, console: Console, clock: Clock, lines: int) -> None:
        self._book = book
        self._own = own
        self._choice = choice
        self._console = console
        self._clock = clock
        self._lines = lines
        self._run: Run | None = None
        self._events: Growing | None = None
        self._log: Growing | None = None
        self._fresh = True
        self._ended = False
        self._told = ""

    def places(self) -> set[Path]:
        """Return the folders in which something may happen next, as far as they are there.

        Among them the newest: it may be a run's whose first event is still to be written.
        """
        wanted = [self._book.folder, *self._book.folders()[:1], *([self._run.folder] if self._run else [])]
        return {next(path for path in (folder, *folder.parents) if path.is_dir()).resolve() for folder in wanted}

    def look(self) -> bool:
        """Show what is new; return whether that was all."""
        daemon = read_holder(self._own)  # before the events: who is gone by now has written them all
        newest = next(self._book.newest_first(), None)
        if newest and newest != self._run:
            self._read()
            self._run, self._events, self._log, self._ended = newest, newest.events, None, False
        self._read()
        later = daemon if daemon and self._run and daemon.since > self._run.started.at else None
        if self._ended and not later:
            return True
        self._tell(daemon, later)
        return not self._console.drain()

    def _read(self) -> None:
        """Show the events since the last look, and between them what the agents say."""
        if self._run is None or self._events is None:
            return
        events = list(decoded(self._events.lines()))
        begun = [event for event in events if isinstance(event, TurnStarted) and self._choice.takes(event)]
        heard = begun[-1:] if self._fresh else begun
        for event in events:
            self._ended = self._ended or isinstance(event, RunEnded)
            self._copy_log()
            if self._choice.takes(event):
                self._console.event(event)
            if isinstance(event, TurnStarted):
                self._log = self._open_log(self._run, event) if event in heard else None
        self._copy_log()
        self._fresh = False

    def _open_log(self, run: Run, event: TurnStarted) -> Growing:
        log = run.log(event.iteration, event.actor, event.prompt)
        return Growing(log, tail_start(log, self._lines) if self._fresh else 0)

    def _copy_log(self) -> None:
        for block in self._log.blocks() if self._log else ():
            self._console.output(block)
            if not self._console.drain():
                return

    def _tell(self, daemon: Holder | None, later: Holder | None) -> None:
        """Say what is waited for, once."""
        why = ""
        if self._run is None:
            why = f"the first run on {self._book.branch}"
        elif later:
            why = f"the first turn of process {later.pid}"
        elif daemon is None:
            why = "the next run; no daemon runs, and this one did not say how it ended"
        if why and why != self._told:
            self._console.event(Waiting(why=why, at=iso(self._clock.now())))
        self._told = why


def follow(follower: Follower, clock: Clock, seconds: float) -> None:
    """Look whenever something happens, until that was all.

    Args:
        follower: who looks.
        clock: waits.
        seconds: between looks without a file event: a daemon that is killed makes none, nor does a remote disk.

    """
    with Loop(clock) as loop:
        look_now_and_then(loop, seconds)
        over = False
        while not over:
            places = follower.places()
            with ExitStack() as stack:
                for place in places:
                    stack.enter_context(watching(place, loop.wake))
                while not (over := follower.look()) and follower.places() == places:
                    loop.step()
