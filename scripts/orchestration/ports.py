"""What a turn touches outside itself, and what a step may answer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from orchestration.background import Task, background
from orchestration.bus import Bus
from orchestration.ceilings import Meter
from orchestration.clock import Clock
from orchestration.events import AnyEvent, Notice
from orchestration.halt import Halt, Wait
from orchestration.heart import Heart
from orchestration.journal import Claim, Entry, Journal
from orchestration.reports import Reports
from orchestration.router import Routes
from orchestration.runner import Runner
from orchestration.settings import Config
from orchestration.state import Actor
from orchestration.work import Work
from orchestration.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything outside that a turn touches, built in one place.

    `stopped` tells how to stop if a stop at once was asked for, `resting` also if one after the turn was, while no
    agent runs; `deliver` commits the word that a person has left, between turns; `process` names this daemon process;
    `role` is the one actor whose turns it takes, None for both.
    """

    bus: Bus
    work: Work
    runner: Runner
    journal: Journal
    reports: Reports
    clock: Clock
    emit: Callable[[AnyEvent], None]
    config: Config
    routes: Routes
    workspace: Workspace
    environment: Mapping[str, str]
    stopped: Callable[[], Halt | None]
    resting: Callable[[], Halt | None]
    meter: Meter
    deliver: Callable[[], object]
    holder: str
    process: str
    boot_id: str
    role: Actor | None = None
    heart: Heart | None = None
    publish: Callable[[str], None] | None = None

    @property
    def lost(self) -> str | None:
        """Who took the turn while its agent ran, None: nobody."""
        return self.heart.lost if self.heart else None

    @contextmanager
    def watched(self, claim: Claim, *tasks: Task[None]) -> Iterator[Callable[[], str | None]]:
        """Show life, and do these tasks, while an agent runs; what is given tells whether the turn was taken."""
        beats = [self.heart.beats(claim)] if self.heart else []
        with background(self.runner.loop, *beats, *tasks) as go_on:

            def lost() -> str | None:
                go_on()
                return self.lost

            yield lost

    def note(self, code: str, text: str) -> None:
        """Emit what went as expected; shown with -v, always in the log."""
        self.emit(Notice(level="info", code=code, text=text))

    def end_leavings(self, claim: Claim) -> None:
        """End what is left of a turn's agent, and the locks of its git."""
        self.runner.reap(claim)
        self.break_locks(claim)

    def tidy(self) -> None:
        """Take away what killed gits of ours left, and finish what they were at."""
        self.break_locks(None)
        self.work.finish_move()

    def break_locks(self, claim: Claim | None) -> None:
        """Remove the locks that a killed git left, and say so."""
        whose = f"a git of {claim.name}" if claim else "a git"
        for lock in self.work.break_locks(claim):
            self.tell("lock-removed", f"{whose} was killed and left {lock}; it was removed")

    def tell(self, code: str, text: str) -> None:
        """Emit a warning that a person should see."""
        self.emit(Notice(level="warning", code=code, text=text))


Step = Entry | Halt | Wait
