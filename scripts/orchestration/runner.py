"""One prompt with one agent: an Invocation in, an Outcome out."""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from orchestration import environment, failpoints
from orchestration.agents import Agent
from orchestration.attempts import Tried
from orchestration.errors import Refused
from orchestration.event_loop import Timer
from orchestration.hearing import Hearing
from orchestration.journal import Claim, Outcome
from orchestration.masking import MaskedSink, known
from orchestration.process import Child, Completed, Loop, Request, Why
from orchestration.reaper import STAMP
from orchestration.reports import RawLog
from orchestration.reset_times import zone
from orchestration.witness import noted, witnessed
from orchestration.workspace import Workspace

_LOOK = 60.0
"""Seconds of rest until the time of day is looked at again: a machine may have slept."""

Over = TypeVar("Over")

KILLED = 128 + signal.SIGKILL
BY_STOP = {128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM, KILLED}
"""Exit codes of an agent that a signal stopped."""


def _not_lost() -> bool:
    return False


class Invocation(NamedTuple):
    """Everything that decides one run of an agent."""

    claim: Claim
    agent: Agent
    prompt_name: str
    prompt: bytes
    report_folder: Path
    log: RawLog
    log_path: str
    session: str | None = None

    @property
    def argv(self) -> list[str]:
        """The agent's command line."""
        return self.agent.resumed(self.session)


class Result(NamedTuple):
    """What happened; `said` is the agent's answer, `tried` what decides about another attempt."""

    completed: Completed
    outcome: Outcome
    said: str
    tried: Tried


class _Stop(NamedTuple):
    """How an agent is stopped that is heard, and what is done before the first signal."""

    hearing: Hearing
    before: Callable[[], None]

    def begin(self, child: Child) -> None:
        """Stop it; one that has said how it went is only made to exit: it is believed, and does not run again."""
        if self.hearing.done:
            child.stop(Why.GRACE)
        else:
            self.before()
            child.stop()

    def came_first(self, completed: Completed) -> Completed:
        """Return what a signal comes to that somebody sent to the agent together with us: the same."""
        if self.hearing.done:
            return replace(completed, why=Why.GRACE)
        self.before()
        return replace(completed, why=Why.STOPPED)


class Runner:
    """Runs agents in one workspace.

    Args:
        loop: serves their pipes.
        workspace: where they work.
        inherited: the environment to start from.
        show: takes their output as it comes; must not block.
        stop_wanted: how often the run was asked to stop now: 1 begins the ladder, 2 kills.

    """

    def __init__(
        self,
        loop: Loop,
        workspace: Workspace,
        inherited: Mapping[str, str],
        show: Callable[[bytes], None],
        stop_wanted: Callable[[], int],
    ) -> None:
        self.loop = loop
        self._workspace = workspace
        self.environment = inherited
        self.secrets: list[bytes] | None = known(inherited)  # None: nothing is masked
        self._show = show
        self._stop_wanted = stop_wanted

    def run(self, job: Invocation, before_stop: Callable[[], None], lost: Callable[[], object] = _not_lost) -> Result:
        """Run the agent to its end, and end everything that it leaves behind.

        Args:
            job: the invocation.
            before_stop: called when a stop was asked for, before the first signal is sent.
            lost: asked again and again, whether the turn is ours no longer: then the agent is stopped, too.

        Raises:
            Refused: a process of the turn cannot be ended (code `agent-alive`).

        """
        failpoints.hit("turn.before_spawn")
        if self._stop_wanted():  # the agent need not even begin
            before_stop()
            job.log.close()
            done = Completed(argv=job.argv, code=128 + signal.SIGTERM, why=Why.STOPPED, seconds=0.0)
            return self.result(job.agent, done, self._hearing(job))
        record = self._record(job.claim)
        record.unlink(missing_ok=True)
        scratch = _scratch(job.claim)
        scratch.mkdir(mode=0o700, exist_ok=True)
        hearing = self._hearing(job)
        stop = _Stop(hearing, before_stop)
        child = self.loop.spawn(self._request(job, record, scratch), masked := MaskedSink(hearing, self.secrets))
        try:
            failpoints.hit("turn.after_spawn")
            with self._ending_in_time(child, job.agent, hearing) as look:
                completed = self._serve(child, stop, lambda: look() or lost())
        except BaseException:
            child.stop()
            if self.loop.wait(child).why is Why.STOPPED:
                record.unlink(missing_ok=True)  # it did not end: we ended it
            raise
        if completed.why is Why.GRACE:
            record.unlink(missing_ok=True)  # its exit code is what our signal made of it
        failpoints.hit("turn.agent_ended")
        if completed.why is Why.EXITED and completed.code in BY_STOP and self._stop_wanted():
            completed = stop.came_first(completed)
        masked.close()
        job.log.close()
        shutil.rmtree(scratch, ignore_errors=True)
        require_dead(completed.unkillable)
        return self.result(job.agent, completed, hearing)

    def _hearing(self, job: Invocation) -> Hearing:
        return Hearing(job.agent, job.log.write, job.log_path, self._show)

    def result(self, agent: Agent, completed: Completed, hearing: Hearing, heard: datetime | None = None) -> Result:
        """Return what a run comes to.

        Args:
            agent: whose it was.
            completed: what became of the process.
            hearing: what was heard of it.
            heard: when the last of that came; None: now.

        """
        clock = zone(agent.env.get("TZ", "UTC")) if agent.preset else UTC
        ending, outcome = hearing.concluded(completed, (heard or self.loop.clock.now()).astimezone(clock))
        return Result(completed, outcome, hearing.said(ending), Tried(ending, agent.name, agent.fallback))

    def rest(self, until: datetime, over: Callable[[], Over | None]) -> Over | None:
        """Serve everything until a time of day, or until something says that it is `over`; return what that was."""
        while (left := (until - self.loop.clock.now()).total_seconds()) > 0:
            timer = self.loop.after(min(left, _LOOK), lambda: None)
            while not timer.idle:
                if found := over():
                    timer.cancel()
                    return found
                self.loop.step()
        return over()

    @contextmanager
    def _ending_in_time(self, child: Child, agent: Agent, hearing: Hearing) -> Iterator[Callable[[], None]]:
        """End an agent that has said how it went and does not exit; what is given looks whether it has."""
        waits: list[Timer] = []

        def look() -> None:
            if hearing.done and not waits and agent.exit_grace is not None:
                waits.append(self.loop.after(agent.exit_grace, partial(child.stop, Why.GRACE)))
            elif waits and not hearing.done:  # a task in the background has ended, and it goes on
                waits.pop().cancel()

        try:
            yield look
        finally:
            for timer in waits:
                timer.cancel()

    def _serve(self, child: Child, stop: _Stop, lost: Callable[[], object]) -> Completed:
        """Serve the agent until it has ended, stopping it when that is wanted."""
        asked, taken = self._obey(child, 0, stop), False
        while child.completed is None:
            self.loop.step()
            asked = self._obey(child, asked, stop)
            if lost() and not taken and child.code is None:
                taken = True
                stop.before()  # its exit code will be ours, not its own
                child.stop()
        return child.completed

    def _obey(self, child: Child, asked: int, stop: _Stop) -> int:
        """Stop the agent if that was asked for more often than `asked`; return how often it was."""
        now = self._stop_wanted()
        if child.code is not None:  # an agent that has ended is not interrupted
            return asked
        if now and not asked:
            stop.begin(child)
        if now > 1 and now > asked:
            child.kill()
        return now

    def reap(self, claim: Claim) -> None:
        """End what an earlier daemon's agent left alive: no second agent starts beside a living one.

        Raises:
            Refused: a process cannot be ended.

        """
        require_dead(self.loop.end_survivors(claim.stamp))
        shutil.rmtree(_scratch(claim), ignore_errors=True)

    def witnessed(self, claim: Claim) -> int | None:
        """Return the exit code of an agent that ended while no daemon looked, None if it did not end by itself."""
        return noted(self._record(claim))

    def forget(self, claim: Claim) -> None:
        """Drop the note of a turn that is over."""
        self._record(claim).unlink(missing_ok=True)

    def _record(self, claim: Claim) -> Path:
        """Name the note: beside the journal, each write of which makes durable that an older run's note is gone."""
        return self._workspace.journal.with_name(f"exit-{claim.stamp}")

    def _request(self, job: Invocation, record: Path, scratch: Path) -> Request:
        claim = job.claim
        ours = {
            "ORCH_TURN": f"{claim.iteration}/{claim.actor}",
            "ORCH_ITERATION": str(claim.iteration),
            "ORCH_ACTOR": str(claim.actor),
            "ORCH_PROMPT": job.prompt_name,
            "ORCH_BRANCH": claim.branch,
            "ORCH_REPORT_DIR": str(job.report_folder),
            STAMP: claim.stamp,
        }
        return Request(
            argv=witnessed(job.argv, record),
            cwd=self._workspace.root,
            env=self._environment(job.agent, ours) | {"TMPDIR": str(scratch)},
            stdin=job.prompt,
            timeout=job.agent.timeout,
            idle=job.agent.idle_timeout,
            ladder=job.agent.ladder,
            stamp=claim.stamp,
        )

    def _environment(self, agent: Agent, ours: Mapping[str, str]) -> dict[str, str]:
        """Return what an agent inherits and is given; one of a preset inherits only what is named."""
        if agent.preset is None:
            return environment.for_agent(self.environment) | agent.env | dict(ours)
        return environment.for_preset({**self.environment, **ours}, agent.passed, agent.env)


def _scratch(claim: Claim) -> Path:
    """Name the turn's TMPDIR: short, since sockets lie in it."""
    return Path(tempfile.gettempdir()) / f"orch-{claim.stamp[:12]}"


def require_dead(unkillable: object) -> None:
    """Refuse to go on beside processes of a turn that cannot be ended.

    Raises:
        Refused: there are any.

    """
    if unkillable:
        raise Refused(
            f"processes of the turn survive SIGKILL: {unkillable}",
            code="agent-alive",
            remedy="see what they wait for (a hung disk?), end them, and start again",
        )
