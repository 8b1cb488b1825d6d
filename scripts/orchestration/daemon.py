"""Repeat turns until a limit, a request to stop, or something that a person must decide."""

from typing import NamedTuple

from orchestration.control import Control, Request
from orchestration.errors import ExitCode
from orchestration.events import AnyEvent, TurnEnded, Waiting
from orchestration.halt import Halt
from orchestration.journal import Claimed, Claiming, Idle, Routed, claim_of, must_be_kept
from orchestration.ports import Ports
from orchestration.process import Loop
from orchestration.state import Actor
from orchestration.turn import STEPS

_BEFORE_THE_AGENT = (Idle, Claiming, Claimed, Routed)
"""Where a stop is immediate; after the agent the turn is handed off first, which takes no time."""


class Options(NamedTuple):
    """What a run is asked for beside the configuration: one turn at most; turns of one actor alone."""

    once: bool = False
    solo: Actor | None = None


class Stops:
    """Whether to stop: signals, and the requests in the control folder."""

    def __init__(self, loop: Loop, requests: Control) -> None:
        self._loop = loop
        self.requests = requests

    def now(self) -> int:
        """Return how often a stop at once was asked for."""
        self._loop.listen()
        return len(self._loop.signals) + self.requests.stands(Request.STOP_NOW)

    def halt(self) -> Halt | None:
        """Return how to stop if a stop at once was asked for."""
        remedy = "the next start goes on where this one stood"
        self._loop.listen()
        if self._loop.signals:
            number = self._loop.signals[0]
            return Halt(ExitCode(128 + number), "signal", f"{number.name} was received", remedy)
        if self.requests.stands(Request.STOP_NOW):
            return Halt(ExitCode.TERMINATED, "stop-now", "`orchestrator stop --now` was given", remedy)
        return None


class Daemon:
    """Turns, one after the other.

    Args:
        loop: where it waits.
        stops: what it stops for.
        options: once, or until a limit.

    """

    def __init__(self, loop: Loop, stops: Stops, options: Options) -> None:
        self._loop = loop
        self._stops = stops
        self._options = options
        self._first_iteration: int | None = None
        self._failed = False
        self.turns = 0

    def run(self, ports: Ports) -> Halt:
        """Serve the step table until something says halt."""
        entry = ports.journal.read()
        claim = claim_of(entry)
        if claim:  # no second agent starts beside a living one
            ports.end_leavings(claim)
        while True:
            halt = self._stops.halt() if isinstance(entry, _BEFORE_THE_AGENT) else None
            if halt is None and isinstance(entry, Idle):
                halt = self._between_turns(ports, entry)
            if halt:
                return halt
            step = STEPS[type(entry)](ports, entry)
            if isinstance(step, Halt):
                return step
            if must_be_kept(step):
                ports.journal.write(step)
            entry = step

    def count(self, event: AnyEvent) -> None:
        """Count finished turns, for limits and the closing line."""
        if isinstance(event, TurnEnded):
            self.turns += 1
            self._failed = not event.ok
            if self._first_iteration is None:
                self._first_iteration = event.iteration

    def _between_turns(self, ports: Ports, entry: Idle) -> Halt | None:
        if self._failed:
            return None  # the next look at the state says so, and exits 4
        requests = self._stops.requests
        if requests.stands(Request.STOP):
            requests.withdraw(Request.STOP)
            return Halt(ExitCode.OK, "stop", "`orchestrator stop` was given", "start again to go on")
        if self._options.once and self.turns:
            return Halt(ExitCode.OK, "once", "one turn was asked for")
        limit = ports.config.limits.iterations
        if limit and self._done(entry) >= limit:
            what = "turn" if self._options.solo else "iteration"
            done = f"{limit} {what}s are" if limit > 1 else f"1 {what} is"
            return Halt(ExitCode.OK, "iterations", f"{done} done", "start again for more")
        if requests.stands(Request.PAUSE):
            return self._wait_out_pause(ports) or self._between_turns(ports, entry)
        return None

    def _done(self, entry: Idle) -> int:
        """Return how many iterations, or turns of one actor alone, this run has done."""
        if self._options.solo or self._first_iteration is None:
            return self.turns
        return entry.iteration - self._first_iteration

    def _wait_out_pause(self, ports: Ports) -> Halt | None:
        """Wait until `resume`, a stop, or the longest wait that was allowed."""
        resume = f"`orchestrator resume{ports.workspace.option}`"
        if self._options.once:
            return Halt(ExitCode.OK, "paused", "this clone is paused", f"{resume} lets it go on")
        ports.emit(Waiting(why=f"paused; {resume} lets it go on"))
        requests, patience = self._stops.requests, ports.config.sync.max_wait
        expired: list[bool] = []
        timer = self._loop.after(patience, lambda: expired.append(True)) if patience else None
        # What arrived is taken before the files are looked at: a change after that look wakes the next step.
        while not (self._stops.now() or requests.stands(Request.STOP) or expired) and requests.stands(Request.PAUSE):
            self._loop.step()
        if timer:
            timer.cancel()
        if expired and requests.stands(Request.PAUSE):
            return Halt(ExitCode.WAITED, "waited", f"paused for more than {patience:g} s", resume)
        return self._stops.halt()
