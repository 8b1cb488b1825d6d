"""One run of the daemon: the lock, the loop, everything that a turn touches, and why it ended."""

import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec.structs import replace

import orchestration
from orchestration import agents, sharing
from orchestration.bus import Bus
from orchestration.buses import open_bus, require_checked_out, require_configured
from orchestration.ceilings import Meter, Spent
from orchestration.clock import Clock, iso
from orchestration.config import Resolved, routes
from orchestration.console import Console
from orchestration.control import Control, Request
from orchestration.daemon import Daemon, Options, Stops
from orchestration.environment import inherited
from orchestration.errors import ExitCode, OrchestrationError, UsageError
from orchestration.events import AnyEvent, Notice, RunEnded, RunStarted
from orchestration.git import Git
from orchestration.git_work import GitWork
from orchestration.halt import Halt
from orchestration.heart import Heart
from orchestration.journal import Idle, Journal, claim_of
from orchestration.local_bus import LocalBus
from orchestration.lock import held
from orchestration.masking import known, masked
from orchestration.no_work import NoWork
from orchestration.notify import Notifier
from orchestration.ports import Ports
from orchestration.process import Loop
from orchestration.remote import Remote
from orchestration.remote_bus import RemoteBus
from orchestration.reports import Reports
from orchestration.rescue_push import publish
from orchestration.runner import Runner
from orchestration.settings import Config, Stale
from orchestration.solo_bus import SoloBus
from orchestration.standstill import refuse_other_turns
from orchestration.state import Actor
from orchestration.subreaper import become_subreaper
from orchestration.verdict import Judge
from orchestration.watch import look_now_and_then, watching
from orchestration.word import Deliver, Word
from orchestration.work import Work
from orchestration.workspace import Workspace, boot_id, instance_id, working_branch

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(place: Workspace, resolved: Resolved, options: Options, console: Console, clock: Clock) -> RunEnded:
    """Run turns in a workspace until something says halt; return why it ended.

    Raises:
        OrchestrationError: refused before the first look; everything is as it was.

    """
    config = resolved.config
    choices = agents.all_of(config, place.root, inherited(), options.solo)
    if options.solo:
        place = place._replace(journal=place.journal.with_name(f"journal-{options.solo}.json"))
    requests = Control(place.control)
    _require_prompts(place, config, options.solo)
    with ExitStack() as stack:
        # Requests that stand were asked of an earlier daemon; who asks now waits for the card.
        stack.enter_context(held(place, clock.now(), partial(requests.withdraw, Request.STOP, Request.STOP_NOW)))
        loop = stack.enter_context(Loop(clock, catch=STOP_SIGNALS, adopt=become_subreaper()))
        console.attach(loop)
        stack.callback(console.detach)
        notifier = stack.enter_context(_notifier(place, config, loop, console))
        refuse_other_turns(place, config.state_file)
        if not stack.enter_context(watching(requests.folder, loop.wake)):
            look_now_and_then(loop, config.sync.poll_interval)
        stops = Stops(loop, requests)
        daemon = Daemon(loop, stops, options, config.sync)

        def emit(event: AnyEvent) -> None:
            stamped = replace(event, at=iso(clock.now()))
            console.event(stamped)
            ports.reports.event(stamped)
            daemon.count(stamped)
            notifier.event(stamped)

        git = Git(loop, place.top, inherited())
        git = git.with_identity() if place.git else git
        bus = _bus(place, config, git, options, stops)
        if isinstance(bus, RemoteBus):
            sharing.require(git, config.sync)
            if config.sync.stale is Stale.STANDBY:
                bus.remote.require_leases()
            _watch(bus.remote, loop, stack)
        started = RunStarted(
            version=orchestration.__version__,
            branch=bus.branch,
            agents=choices,
            iterations=config.limits.iterations,
            solo=options.solo,
            commits=_commits(place, bus, options),
        )
        runner = Runner(loop, place, git.environment, console.output, stops.now)
        runner.secrets = known(git.environment, *config.environments) if config.logs.mask else None
        outside = _Outside(place, resolved, git, bus, runner, emit, options.role)
        ports = outside.ports(stops, started)
        notifier.warn = partial(ports.tell, "notify")
        _announce(ports, started, resolved.warnings)
        ended = replace(_ended(_serve(daemon, ports), daemon.turns, ports.meter.run), at=iso(clock.now()))
        emit(ended)
        return ended


def _notifier(place: Workspace, config: Config, loop: Loop, console: Console) -> Notifier:
    """Return who tells of the run's end, and, until the run has a log, warns on the terminal alone."""

    def warn(text: str) -> None:
        console.event(Notice(at=iso(loop.clock.now()), level="warning", code="notify", text=text))

    return Notifier(loop, place, config, inherited(), warn)


def _require_prompts(place: Workspace, config: Config, only: Actor | None) -> None:
    """Refuse to pay an agent when a later turn's prompt is missing, or kept from running.

    Raises:
        UsageError: it has no file, or is not on the allowlist.

    """
    names = routes(config)
    unlisted = names.unlisted([prompt for actor, prompt in agents.jobs(config) if only in {None, actor}])
    if unlisted:
        raise UsageError(
            f"not on the allowlist ({', '.join(names.allowed)}): {', '.join(dict.fromkeys(unlisted))}",
            code="route-unlisted",
            remedy="add it to `router.allowlist`, or name a listed one",
        )
    folder = place.root / config.prompts_dir
    if not (only or folder.is_dir()):
        return  # not set up at all, as the missing state says
    for actor, prompt in agents.jobs(config):
        if only in {None, actor} and not (folder / prompt).is_file():
            raise UsageError(
                f"{actor}'s prompt {config.prompts_dir}/{prompt} does not exist",
                code="prompt-missing",
                remedy="`orchestrator init` writes the usual ones; or correct the setting that names it",
            )


def _forget_attempts(journal: Journal) -> None:
    """Have turns of one actor begin anew: what an earlier start left is known, but no turn is tried again."""
    entry = journal.read()
    if isinstance(entry, Idle) and entry.carry:
        journal.write(replace(entry, carry=replace(entry.carry, iteration=0)))


def _announce(ports: Ports, started: RunStarted, warnings: Sequence[str]) -> None:
    """Say what begins, and what a person should know before they leave it alone."""
    ports.emit(started)
    for text in dict.fromkeys(text for argv in started.agents.values() for text in _permissions(ports.config, argv)):
        ports.tell("permissions", text)
    for warning in warnings:
        ports.tell("config", warning)
    if not ports.workspace.git:
        file = ports.config.state_file
        ports.tell("no-git", f"the turn lives in {file} alone: nothing is committed, judged or kept")


def _permissions(config: Config, argv: Sequence[str]) -> list[str]:
    """Say what an agent that asks nobody may do."""
    wrap = agents.wrap_of(config, argv)
    reach = f"in the sandbox that `{shlex.join(wrap)}` makes" if wrap else "it may do whatever you may"
    return [f"{what}{', ' if wrap else ': '}{reach}" for what in agents.bypasses(argv)]


def _bus(place: Workspace, config: Config, git: Git, options: Options, stops: Stops) -> Bus:
    """Return the bus of this run.

    Raises:
        Refused: the branch is not checked out, a turn in progress belongs to another, or one actor's state is damaged.
        UsageError: turns of one actor alone are asked for without git.

    """
    if not place.git:
        if options.solo:
            raise UsageError(
                f"turns of {options.solo} alone need git", code="solo-no-git", remedy="`orchestrator run --no-git`"
            )
        return open_bus(place, config, git)
    claim = claim_of(Journal(place.journal).read())
    if claim:
        require_checked_out(git, claim)
    else:
        require_configured(git, config)
    if options.solo is None:
        return open_bus(place, config, git, hurry=lambda: bool(stops.now()))
    local = LocalBus(git, place, working_branch(git, config.sync.branch), config.state_file)
    _forget_attempts(Journal(place.journal))
    return SoloBus(git, local, options.solo, claim.iteration if claim else None)


def _commits(place: Workspace, bus: Bus, options: Options) -> int:
    if not place.git or options.solo:
        return 0
    return 2 if isinstance(bus, RemoteBus) else 1


def _watch(remote: Remote, loop: Loop, stack: ExitStack) -> None:
    """Have what happens in a remote on this machine wake the loop, so that nobody waits for the next poll."""
    folder = remote.folder()

    def wake() -> None:
        remote.stir()
        loop.wake()

    if folder:
        stack.enter_context(watching(folder / "refs", wake, refs=True))


@dataclass(frozen=True)
class _Outside:
    """What the ports are made of."""

    place: Workspace
    resolved: Resolved
    git: Git
    bus: Bus
    runner: Runner
    emit: Callable[[AnyEvent], None]
    role: Actor | None

    def ports(self, stops: Stops, started: RunStarted) -> Ports:
        config = self.resolved.config
        return Ports(
            bus=self.bus,
            work=self._work(),
            runner=self.runner,
            journal=Journal(self.place.journal),
            reports=self._reports(started),
            clock=self.git.loop.clock,
            emit=self.emit,
            config=config,
            routes=routes(config),
            workspace=self.place,
            environment=self.runner.environment,
            stopped=stops.halt,
            resting=stops.resting,
            deliver=self._deliver(),
            meter=Meter(self.place.counters, config.limits),
            holder=instance_id(self.place),
            process=secrets.token_hex(8),
            boot_id=boot_id(),
            role=self.role,
            heart=self._heart(),
            publish=self._publish(),
        )

    def _deliver(self) -> Deliver:
        if not self.place.git or isinstance(self.bus, RemoteBus):  # there, word is left where it belongs at once
            return lambda: None
        return Word(self.git, self.place, self.bus.branch).deliver

    def _heart(self) -> Heart | None:
        sync = self.resolved.config.sync
        if not isinstance(self.bus, RemoteBus):
            return None
        return Heart(self.bus, sync.heartbeat, 2 / 3 * sync.lease, self._tell)

    def _publish(self) -> Callable[[str], None] | None:
        config = self.resolved.config
        if not (isinstance(self.bus, RemoteBus) and config.sync.push_rescue):
            return None
        return partial(publish, self.bus.remote, config, self.place)

    def _work(self) -> Work:
        config = self.resolved.config
        if not self.place.git:
            return NoWork(self.place.root, config.state_file, self._tell)
        judge = Judge(self.git, self.place, self.bus, config, self._tell)
        return GitWork(self.git, judge, config, self.bus.branch, withholds=isinstance(self.bus, RemoteBus))

    def _reports(self, started: RunStarted) -> Reports:
        config = self.resolved.config
        facts = {
            **msgspec.to_builtins(started),
            "argv": sys.argv,
            "config": msgspec.to_builtins(config),
            "sources": self.resolved.sources,
        }
        if self.runner.secrets is not None:
            facts = msgspec.json.decode(masked(msgspec.json.encode(facts).decode(), self.runner.secrets))
        folder, now = self.place.root / config.logs_dir, self.git.loop.clock.now()
        return Reports(folder, started.branch, now, facts, partial(self._tell, "log-lost"), config.logs.keep)

    def _tell(self, code: str, text: str) -> None:
        self.emit(Notice(level="warning", code=code, text=text))


def _serve(daemon: Daemon, ports: Ports) -> Halt:
    try:
        return daemon.run(ports)
    except OrchestrationError as error:
        return Halt(error.exit_code, error.code, error.message, error.remedy)
    except OSError as error:
        remedy = (
            "`orchestrator doctor` looks at disk and permissions; then start again: the journal says where to go on"
        )
        return Halt(ExitCode.REFUSED, "system", f"the system refused: {error}", remedy)


def _ended(halt: Halt, turns: int, spent: Spent) -> RunEnded:
    at = halt.at
    return RunEnded(
        exit_code=halt.exit_code,
        code=halt.code,
        reason=halt.reason,
        remedy=halt.remedy,
        turns=turns,
        epoch=at.epoch if at else None,
        iteration=at.iteration if at else None,
        actor=Actor(at.actor) if at else None,
        cost_usd=round(spent.cost_usd, 6) if spent.cost_usd else None,
        tokens=spent.tokens,
    )
