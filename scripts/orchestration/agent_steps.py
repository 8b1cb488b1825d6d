"""The steps of a turn in which its agent runs: route → run → wait for another attempt (Claimed → Ran)."""

import hashlib
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestration import failpoints
from orchestration.agents import Agent, choose, named
from orchestration.attempts import OVERDUE, after, again
from orchestration.bus import Fenced
from orchestration.clock import iso
from orchestration.events import AttemptEnded, TurnStarted, Waiting
from orchestration.fence import fenced
from orchestration.fingerprint import address
from orchestration.halt import Halt
from orchestration.journal import Attempts, Claimed, Held, Outcome, Ran, Routed, Running, Turn
from orchestration.ports import Ports, Step
from orchestration.process import Why
from orchestration.prompt_context import USER_INPUT, Facts, block, interrupted
from orchestration.recall import recalled
from orchestration.router import Decision, RouteError, route, wants_override
from orchestration.runner import Invocation, Result
from orchestration.state import Failure
from orchestration.workspace import require_own_folder


def choose_prompt(ports: Ports, entry: Claimed) -> Step:
    """Route the turn; the router prompt, if there is one, is run first."""
    if wants_override(ports.routes, entry.turn.claim.actor) and ports.routes.router:
        return _begun(ports, entry.turn, None)
    return _routed(ports, entry.turn, None)


def _routed(ports: Ports, turn: Turn, override: str | None) -> Routed | Ran:
    """Return the turn with its prompt, of which the router prompt may have said `override`; no prompt fails it."""
    claim = turn.claim
    try:
        decision = route(
            claim.actor, claim.iteration, ports.routes, override, lambda name: _prompt(ports, name).is_file()
        )
    except RouteError as error:
        failure = Failure(reason=f"{error.message}; {error.remedy}", code=error.code)
        return Ran(turn, None, Outcome(failure=failure))
    failpoints.hit("turn.routed")
    return Routed(turn, decision)


def _prompt(ports: Ports, name: str) -> Path:
    return ports.workspace.root / ports.config.prompts_dir / name


def begin_agent(ports: Ports, entry: Routed) -> Step:
    """Begin the run of the turn's own agent."""
    return _begun(ports, entry.turn, entry.decision)


def _begun(ports: Ports, turn: Turn, decision: Decision | None) -> Running:
    """Note that an agent of this process is about to run; what it needs is there, and no older run's exit code."""
    prompt = _prompt_of(ports, decision)
    agent, _ = _prepare(ports, turn, prompt)
    turn = ports.work.go_on(turn)
    ports.runner.forget(turn.claim)
    log = _log(ports.reports.begin_turn(turn.claim, prompt))
    return Running(
        turn,
        decision,
        ports.process,
        ports.boot_id,
        iso(ports.clock.now()),
        understood=agent.preset is not None,
        log=str(log),
        offset=log.stat().st_size if log.is_file() else 0,
    )


def _log(base: Path) -> Path:
    return base.with_name(f"{base.name}.log")


def _prompt_of(ports: Ports, decision: Decision | None) -> str:
    """Return the prompt to run: without a decision, the one that chooses."""
    return decision.prompt if decision else ports.routes.router or ""


def _before_agent(turn: Turn, decision: Decision | None) -> Claimed | Routed:
    """Return where a turn stands whose agent is to run again."""
    return Routed(turn, decision) if decision else Claimed(turn)


def run_agent(ports: Ports, entry: Running) -> Step:
    """Run the agent; or, when another process began it, find out how it ended."""
    if entry.process != ports.process:
        return _after_death(ports, entry)
    turn, decision = entry.turn, entry.decision
    reason = decision.reason if decision else f"asked to route iteration {turn.claim.iteration}"
    again = _before_agent(replace(turn, interrupted=True), decision)

    def stopping() -> None:
        ports.journal.write(again)
        if not ports.lost:
            ports.tell("stopping", "stopping the agent; a second Ctrl-C kills it at once")

    result = _run(ports, turn, _prompt_of(ports, decision), reason, stopping)
    if result.completed.why is Why.STOPPED and ports.lost:
        return fenced(ports, _stopped(turn, result), None, ports.lost)
    if result.completed.why is Why.STOPPED:
        left = ports.work.keep(turn, "interrupted")
        return _before_agent(replace(_stopped(turn, result), interrupted=True, stopped=left), decision)
    failpoints.hit("turn.ran")
    return _tried(ports, turn, decision, result)


def _stopped(turn: Turn, result: Result) -> Turn:
    """Return the turn with what an attempt has used that was stopped: it is none that has failed."""
    return replace(turn, attempts=replace(after(turn.attempts, result.tried.ending), made=turn.attempts.made))


def _tried(ports: Ports, turn: Turn, decision: Decision | None, result: Result) -> Ran | Held | Routed:
    """Return what follows an attempt: the turn's end, or another attempt on the tree as it was left.

    What follows a router prompt's success is the turn's own agent.
    """
    before, now = turn.attempts, ports.clock.now()
    spent = after(before, result.tried.ending)
    if decision is None and result.outcome.failure is None:
        turn = replace(turn, attempts=Attempts(used=spent.used), interrupted=False)
        return _routed(ports, turn, result.said)
    ended = Ran(replace(turn, attempts=spent), decision, result.outcome)
    following = again(result.tried, before, ports.config.limits, now, random.random())  # noqa: S311 - a pause's length
    if result.outcome.failure is None or following is None:
        return ended
    claim, until = turn.claim, iso(following.until)
    ports.emit(
        AttemptEnded(
            iteration=claim.iteration,
            actor=claim.actor,
            agent=result.tried.agent,
            kind=result.tried.ending.kind,
            why=following.why,
            until=until,
            attempt=following.attempts.made,
        )
    )
    left = ports.work.keep(turn, "an attempt failed")
    return Held(
        replace(turn, attempts=following.attempts, interrupted=True, stopped=left), decision, until, following.why
    )


def hold(ports: Ports, entry: Held) -> Step:
    """Wait for the next attempt of the agent, showing life; any stop ends that at once, and the turn goes on later.

    A clock that was ahead when the end was noted does not prolong that beyond what a limit is slept out.
    """
    longest = timedelta(seconds=ports.config.limits.max_limit_sleep) + OVERDUE
    until = min(datetime.fromisoformat(entry.until), ports.clock.now() + longest)
    with ports.watched(entry.turn.claim) as lost:

        def over() -> Halt | Fenced | None:
            return Fenced(ports.lost or "") if lost() else ports.resting()

        if until > ports.clock.now():
            ports.emit(Waiting(why=f"{entry.why}; the next attempt begins at {iso(until)}", until=iso(until)))
        found = ports.runner.rest(until, over)
    if isinstance(found, Fenced):
        return fenced(ports, entry.turn, None, found.why)
    if isinstance(found, Halt):
        return found
    fence = ports.bus.holds(entry.turn.claim)  # hours may have passed, and a machine that sleeps shows no life
    if fence:
        return fenced(ports, entry.turn, None, fence.why)
    return _before_agent(entry.turn, entry.decision)


def _after_death(ports: Ports, entry: Running) -> Step:
    """Go on after a daemon died while its agent ran.

    An agent of which it is known how its run ended is not run again for that. Otherwise the tree is kept and the turn
    runs again for the same claim; too many unclean deaths fail it. A reboot does not count.
    """
    turn, decision = entry.turn, entry.decision
    result = recalled(ports.runner, entry, _agent(ports, turn, _prompt_of(ports, decision)))
    if result.completed.why is not Why.STOPPED:
        ports.tell(
            "agent-ended", f"{turn.name}: its agent had ended ({result.tried.ending.reason}); going on from there"
        )
        return _tried(ports, turn, decision, result)
    ports.work.keep(turn, "the daemon died")
    reruns = turn.reruns + (entry.boot_id == ports.boot_id)
    turn = replace(_stopped(turn, result), reruns=reruns, interrupted=True)
    if reruns > ports.config.limits.interrupted_reruns:
        failure = Failure(
            reason=f"the daemon died {reruns} times while the agent ran (limits.interrupted_reruns)", code="interrupted"
        )
        return Ran(turn, decision, Outcome(failure=failure))
    return _before_agent(turn, decision)


def _agent(ports: Ports, turn: Turn, prompt: str) -> Agent:
    """Return who runs a prompt of the turn.

    Raises:
        UsageError: the agent cannot be started.

    """
    actor, other, ground = turn.claim.actor, turn.attempts.agent, (ports.workspace.root, ports.environment)
    chosen = choose(ports.config, actor, prompt, *ground)
    return named(other, ports.config, actor, *ground) if other else chosen


def _prepare(ports: Ports, turn: Turn, prompt: str) -> tuple[Agent, bytes]:
    """Return the agent, and what its prompt says.

    Raises:
        UsageError: the agent cannot be started.
        OSError: the prompt cannot be read.

    """
    agent = _agent(ports, turn, prompt)
    note = interrupted() if turn.interrupted else ""
    return agent, _prompt(ports, prompt).read_bytes() + note.encode()


def _context(ports: Ports, turn: Turn, prompt: str) -> bytes:
    """Return what an actor's prompt is told of its turn; a router prompt only chooses."""
    if prompt == ports.routes.router or not ports.config.prompts.context:
        return b""
    word = ports.workspace.root / USER_INPUT
    left = USER_INPUT if word.is_file() and word.stat().st_size else None
    now = ports.bus.state_at(turn.claim.base)
    return block(Facts(turn.claim, now, str(ports.reports.folder), left)).encode(errors="surrogateescape")


def _run(ports: Ports, turn: Turn, prompt: str, reason: str, before_stop: Callable[[], None]) -> Result:
    claim = turn.claim
    agent, text = _prepare(ports, turn, prompt)
    base = ports.reports.begin_turn(claim, prompt)
    asked = hashlib.sha256(text).hexdigest()
    text += _context(ports, turn, prompt)
    log = _log(base)
    ports.emit(
        TurnStarted(
            iteration=claim.iteration, actor=claim.actor, prompt=prompt, reason=reason, agent=agent.name, log=str(log)
        )
    )
    begun = ports.clock.now()
    job = Invocation(claim, agent, prompt, text, ports.reports.folder, ports.reports.open_log(base), str(log))
    job = job._replace(session=turn.attempts.session)
    with ports.watched(claim, ports.work.snapshots(turn)) as lost:
        result = ports.runner.run(job, before_stop, lost)
    require_own_folder(ports.workspace, address(claim.settings))
    fields: dict[str, Any] = {
        "iteration": claim.iteration,
        "actor": claim.actor,
        "prompt": prompt,
        "prompt_sha256": asked,
        "routed": reason,
        "agent": agent.name,
        "argv": job.argv,
        "attempts": turn.attempts.made + 1,
        "begun": iso(begun),
        "ended": iso(ports.clock.now()),
        "seconds": round(result.completed.seconds, 3),
        "exit_code": result.completed.code,
        "ended_by": result.completed.why,
        "outcome": result.tried.ending.kind,
        "session": result.tried.ending.session,
        "usage": after(turn.attempts, result.tried.ending).used,
    }
    ports.reports.record(base, fields, result.outcome.message)
    return result
