"""Repeat turns until a limit, a request to stop, or something that a person must decide."""

import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

import orchestration
from orchestration import agents
from orchestration.clock import Clock, iso
from orchestration.collect import Collector
from orchestration.config import Resolved, routes
from orchestration.console import Console
from orchestration.control import Control, Request
from orchestration.environment import inherited
from orchestration.errors import ExitCode, OrchestrationError, Refused
from orchestration.events import AnyEvent, Notice, RunEnded, RunStarted, TurnEnded, Waiting
from orchestration.git import Git
from orchestration.journal import Claimed, Claiming, Entry, Idle, Journal, Routed, claim_of, must_be_kept
from orchestration.local_bus import LocalBus
from orchestration.lock import held
from orchestration.ports import Halt, Ports
from orchestration.process import Loop
from orchestration.reaper import become_subreaper
from orchestration.reports import Reports
from orchestration.runner import Runner
from orchestration.settings import Config
from orchestration.turn import STEPS
from orchestration.watch import watching
from orchestration.workspace import Workspace, boot_id, instance_id, working_branch

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BEFORE_THE_AGENT = (Idle, Claiming, Claimed, Routed)
"""Where a stop is immediate; after the agent the turn is handed off first, which takes no time."""


class Options(NamedTuple):
    """What a run is asked for beside the configuration."""

    once: bool = False


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
        if limit and self._first_iteration is not None and entry.iteration >= self._first_iteration + limit:
            done = f"{limit} iterations are" if limit > 1 else "1 iteration is"
            return Halt(ExitCode.OK, "iterations", f"{done} done", "start again for more")
        if requests.stands(Request.PAUSE):
            return self._wait_out_pause(ports) or self._between_turns(ports, entry)
        return None

    def _wait_out_pause(self, ports: Ports) -> Halt | None:
        """Wait until `resume`, a stop, or the longest wait that was allowed."""
        if self._options.once:
            return Halt(ExitCode.OK, "paused", "this clone is paused", "`orchestrator resume` lets it go on")
        ports.emit(Waiting(why="paused; `orchestrator resume` lets it go on"))
        requests, patience = self._stops.requests, ports.config.sync.max_wait
        expired: list[bool] = []
        timer = self._loop.after(patience, lambda: expired.append(True)) if patience else None
        # What arrived is taken before the files are looked at: a change after that look wakes the next step.
        while not (self._stops.now() or requests.stands(Request.STOP) or expired) and requests.stands(Request.PAUSE):
            self._loop.step()
        if timer:
            timer.cancel()
        if expired and requests.stands(Request.PAUSE):
            return Halt(ExitCode.WAITED, "waited", f"paused for more than {patience:g} s", "`orchestrator resume`")
        return self._stops.halt()


def run(workspace: Workspace, resolved: Resolved, options: Options, console: Console, clock: Clock) -> RunEnded:
    """Run turns in a workspace until something says halt; return why it ended.

    Raises:
        OrchestrationError: refused before the first look; everything is as it was.

    """
    environment = inherited()
    choices = agents.all_of(resolved.config, workspace.root, environment)
    requests = Control(workspace.control)
    with ExitStack() as stack:
        # Requests that stand were asked of an earlier daemon; who asks now waits for the card.
        forget = partial(requests.withdraw, Request.STOP, Request.STOP_NOW)
        stack.enter_context(held(workspace.own, clock.now(), forget))
        loop = stack.enter_context(Loop(clock, catch=STOP_SIGNALS, adopt=become_subreaper()))
        console.attach(loop.watch, loop.unwatch)
        stack.callback(console.detach)
        file_events = stack.enter_context(watching(requests.folder, loop.wake))
        stops = Stops(loop, requests)
        daemon = Daemon(loop, stops, options)
        if not file_events:
            _look_now_and_then(loop, resolved.config.sync.poll_interval)

        def emit(event: AnyEvent) -> None:
            stamped = replace(event, at=iso(clock.now()))
            console.event(stamped)
            ports.reports.event(stamped)
            daemon.count(stamped)

        git = Git(loop, workspace.top, environment).with_identity()
        started = RunStarted(
            version=orchestration.__version__,
            branch=_branch(git, resolved.config, Journal(workspace.journal).read()),
            agents=choices,
            iterations=resolved.config.limits.iterations,
        )
        runner = Runner(loop, workspace, git.environment, console.output, stops.now)
        ports = _ports(workspace, resolved, git, runner, started, emit)
        emit(started)
        for warning in resolved.warnings:
            ports.tell("config", warning)
        ended = _ended(_serve(daemon, ports), daemon.turns)
        emit(ended)
        return ended


def _look_now_and_then(loop: Loop, seconds: float) -> None:
    """Wake the loop again and again, where no file event does."""
    loop.after(seconds, partial(_look_now_and_then, loop, seconds))


def _ports(
    workspace: Workspace,
    resolved: Resolved,
    git: Git,
    runner: Runner,
    started: RunStarted,
    emit: Callable[[AnyEvent], None],
) -> Ports:
    config, clock = resolved.config, git.loop.clock
    facts = {
        **msgspec.to_builtins(started),
        "argv": sys.argv,
        "config": msgspec.to_builtins(config),
        "sources": resolved.sources,
    }
    reports = Reports(
        workspace.root / config.logs_dir,
        started.branch,
        clock.now(),
        facts,
        lambda text: emit(Notice(level="warning", code="log-lost", text=text)),
    )
    return Ports(
        bus=LocalBus(git, workspace, started.branch, config.state_file),
        git=git,
        runner=runner,
        journal=Journal(workspace.journal),
        collector=Collector(git, workspace, config),
        reports=reports,
        clock=clock,
        emit=emit,
        config=config,
        routes=routes(config),
        workspace=workspace,
        environment=runner.environment,
        holder=instance_id(workspace),
        process=secrets.token_hex(8),
        boot_id=boot_id(),
    )


def _branch(git: Git, config: Config, entry: Entry) -> str:
    """Return the branch to work on: the configured one, else the one checked out; a turn in progress decides.

    Raises:
        Refused: HEAD is detached, or a turn in progress belongs to another branch.

    """
    claim = claim_of(entry)
    if claim and git.branch() != claim.branch:
        raise Refused(
            f"{claim.name} is in progress on the branch {claim.branch}, which is not checked out",
            code="turn-on-other-branch",
            remedy=f"`git switch {claim.branch}`, and start again",
        )
    return working_branch(git, config.sync.branch)


def _serve(daemon: Daemon, ports: Ports) -> Halt:
    try:
        return daemon.run(ports)
    except OrchestrationError as error:
        return Halt(error.exit_code, error.code, error.message, error.remedy)
    except OSError as error:
        remedy = "mend it (`df -h`, permissions) and start again: the journal says where to go on"
        return Halt(ExitCode.REFUSED, "system", f"the system refused: {error}", remedy)


def _ended(halt: Halt, turns: int) -> RunEnded:
    return RunEnded(exit_code=halt.exit_code, code=halt.code, reason=halt.reason, remedy=halt.remedy, turns=turns)
