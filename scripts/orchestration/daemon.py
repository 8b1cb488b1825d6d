"""Repeat turns until a limit, a request to stop, or something that a person must decide."""

from typing import NamedTuple

from orchestration.control import Control, Request
from orchestration.errors import ExitCode, Unreachable
from orchestration.events import AnyEvent, TurnEnded, Waiting
from orchestration.fence import fenced
from orchestration.halt import Halt, Wait
from orchestration.journal import Claimed, Claiming, Entry, Held, Idle, Routed, Stamped, claim_of, must_be_kept, turn_of
from orchestration.patience import Patience
from orchestration.ports import Ports
from orchestration.process import Loop
from orchestration.remote_kinds import Kind
from orchestration.settings import SyncSettings
from orchestration.state import Actor
from orchestration.turn import STEPS

_BEFORE_THE_AGENT = (Idle, Claiming, Claimed, Routed, Held)
"""Where a stop is immediate; after the agent the turn is handed off first, which takes no time."""
_CALM = 0.25
"""Seconds in which a peer that has just claimed its turn is not kept from beginning it."""


class Options(NamedTuple):
    """What a run is asked for beside the configuration.

    One turn at most; turns of one actor alone, not asking whose turn it is; turns of one `role`, waiting for the other.
    """

    once: bool = False
    solo: Actor | None = None
    role: Actor | None = None


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

    def soon(self) -> Halt | None:
        """Return that `orchestrator stop` was given; it is withdrawn with that."""
        if not self.requests.stands(Request.STOP):
            return None
        self.requests.withdraw(Request.STOP)
        return Halt(ExitCode.OK, "stop", "`orchestrator stop` was given", "start again to go on")

    def resting(self) -> Halt | None:
        """Return how to stop if any stop was asked for, while no agent runs."""
        return self.halt() or self.soon()


class Daemon:
    """Turns, one after the other.

    Args:
        loop: where it waits.
        stops: what it stops for.
        options: once, or until a limit.
        sync: how long to wait.

    """

    def __init__(self, loop: Loop, stops: Stops, options: Options, sync: SyncSettings) -> None:
        self._longest = sync.max_wait or 0.0
        self._patience = Patience(loop.clock, sync, once=options.once)
        self._loop = loop
        self._stops = stops
        self._options = options
        self._first_iteration: int | None = None
        self._failed = False
        self._restarted = False
        self._told = ""
        self.turns = 0

    def run(self, ports: Ports) -> Halt:
        """Serve the step table until something says halt."""
        entry = ports.journal.read()
        claim = claim_of(entry)
        self._restarted = claim is not None
        if claim:  # no second agent starts beside a living one
            ports.end_leavings(claim)
        ports.tidy()
        while True:
            halt = self._stops.halt() if isinstance(entry, _BEFORE_THE_AGENT) else None
            if halt is None and isinstance(entry, Idle):
                halt = self._between_turns(ports, entry)
            if halt:
                return halt
            step = self._step(ports, entry)
            if isinstance(step, Halt):
                return step
            if step is not entry and must_be_kept(step):
                ports.journal.write(step)
            entry = step

    def _step(self, ports: Ports, entry: Entry) -> Entry | Halt:
        """Do the next step; where it has to wait for somebody, wait a while and stay at the same entry."""
        self._loop.listen()
        self._loop.woken = False  # what has woken us until now, this step sees; what comes meanwhile may be too late
        try:
            step = self._fenced(ports, entry) or STEPS[type(entry)](ports, entry)
        except Unreachable as trouble:
            return self._hold_out(ports, trouble) or entry
        if isinstance(step, Wait):
            return self._wait(ports, step) or entry
        self._patience.over()
        self._told = ""
        return step

    def _fenced(self, ports: Ports, entry: Entry) -> Halt | None:
        """Look, once after a restart, whether a turn in progress still is ours: before its agent runs again.

        A hand-off that is built may have landed, and the next turn may have been claimed: its own step finds out.
        """
        turn = turn_of(entry)
        if not self._restarted or turn is None or isinstance(entry, Stamped):
            return None
        fence = ports.bus.holds(turn.claim)
        if fence:
            return fenced(ports, turn, None, fence.why)
        self._restarted = False
        return None

    def _wait(self, ports: Ports, wait: Wait) -> Halt | None:
        """Wait until the next look at whose turn it is."""
        self._failed = False  # it says that nothing has failed: somebody has decided about that turn elsewhere
        if self._options.once:
            return Halt(ExitCode.OK, "not-my-turn", wait.why)
        pause = self._patience.for_peer()
        if pause is None:
            remedy = "is it being run there? `orchestrator status` tells; start again to go on waiting"
            return Halt(ExitCode.WAITED, "waited", f"waited {self._longest:g} s: {wait.why}", remedy)
        self._tell(ports, wait.why, wait.subject)
        self._rest(pause, until_woken=True)
        if wait.calm and self._loop.woken:
            self._loop.woken = False
            self._rest(_CALM, until_woken=True)
        return None

    def _hold_out(self, ports: Ports, trouble: Unreachable) -> Halt | None:
        """Wait until the next try of a remote that did not answer."""
        pause = self._patience.for_remote(trouble.kind)
        if pause is None:
            return Halt(trouble.exit_code, trouble.code, trouble.message, trouble.remedy)
        self._tell(ports, f"{trouble.message}; trying again ({trouble.remedy})", trouble.kind)
        self._rest(pause)
        if trouble.kind == Kind.LOCAL_LOCK:
            ports.tidy()
        return self._stops.resting()

    def _tell(self, ports: Ports, why: str, subject: str) -> None:
        if subject != self._told:
            self._told = subject
            ports.emit(Waiting(why=why))

    def _rest(self, seconds: float, *, until_woken: bool = False) -> None:
        """Serve for some seconds, or until a stop, or until somebody wakes us."""
        rung: list[bool] = []
        timer = self._loop.after(seconds, lambda: rung.append(True))
        requests = self._stops.requests
        while not (rung or self._stops.now() or requests.stands(Request.STOP) or (until_woken and self._loop.woken)):
            self._loop.step()
        timer.cancel()

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
        halt = self._stops.soon() or ports.meter.reached(self._loop.clock.now())
        if halt:
            return halt
        ports.deliver()
        if self._options.once and self.turns:
            return Halt(ExitCode.OK, "once", "one turn was asked for")
        limit = ports.config.limits.iterations
        if limit and self._done(entry) >= limit:
            what = "turn" if self._options.solo or self._options.role else "iteration"
            done = f"{limit} {what}s are" if limit > 1 else f"1 {what} is"
            return Halt(ExitCode.OK, "iterations", f"{done} done", "start again for more")
        if self._stops.requests.stands(Request.PAUSE):
            return self._wait_out_pause(ports) or self._between_turns(ports, entry)
        return None

    def _done(self, entry: Idle) -> int:
        """Return how many iterations, or turns of one actor alone, this run has done."""
        if self._options.solo or self._options.role or self._first_iteration is None:
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
