"""The steps of a turn in which its agent runs: route → run → wait for another attempt (Claimed → Ran)."""

import hashlib
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestration import failpoints
from orchestration.agents import Agent, choose, named
from orchestration.attempts import after, again
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
from orchestration.router import Decision, RouteError, route, wants_override
from orchestration.runner import Invocation, Result
from orchestration.state import Failure
from orchestration.workspace import require_own_folder


def choose_prompt(ports: Ports, entry: Claimed) -> Step:
    """Route the turn; the router prompt, if there is one, is run first. No prompt fails the turn."""
    claim, routes = entry.turn.claim, ports.routes
    override = None
    try:
        if wants_override(routes, claim.actor) and routes.router:
            entry = Claimed(ports.work.go_on(entry.turn))
            ports.journal.write(entry)  # an agent is about to run: a restart must find its stamp
            result = _run(ports, entry.turn, routes.router, f"asked to route iteration {claim.iteration}", lambda: None)
            if result.completed.why is Why.STOPPED:
                turn = _stopped(entry.turn, result)
                return fenced(ports, turn, None, ports.lost) if ports.lost else Claimed(turn)
            if result.outcome.failure:
                return _tried(ports, entry.turn, None, result)
            spent = after(entry.turn.attempts, result.tried.ending).used
            entry = Claimed(replace(entry.turn, attempts=Attempts(used=spent), interrupted=False))
            override = result.said
        decision = route(claim.actor, claim.iteration, routes, override, lambda name: _prompt(ports, name).is_file())
    except RouteError as error:
        failure = Failure(reason=f"{error.message}; {error.remedy}", code=error.code)
        return Ran(entry.turn, None, Outcome(failure=failure))
    failpoints.hit("turn.routed")
    return Routed(entry.turn, decision)


def _prompt(ports: Ports, name: str) -> Path:
    return ports.workspace.root / ports.config.prompts_dir / name


def begin_agent(ports: Ports, entry: Routed) -> Step:
    """Note that an agent of this process is about to run; what it needs is there, and no older run's exit code."""
    _prepare(ports, entry.turn, entry.decision.prompt)
    turn = ports.work.go_on(entry.turn)
    ports.runner.forget(turn.claim)
    return Running(turn, entry.decision, ports.process, ports.boot_id, iso(ports.clock.now()))


def run_agent(ports: Ports, entry: Running) -> Step:
    """Run the agent; or, when another process began it, find out how it ended."""
    if entry.process != ports.process:
        return _after_death(ports, entry)
    turn, decision = entry.turn, entry.decision
    again = Routed(replace(turn, interrupted=True), decision)
    result = _run(ports, turn, decision.prompt, decision.reason, lambda: ports.journal.write(again))
    if result.completed.why is Why.STOPPED and ports.lost:
        return fenced(ports, _stopped(turn, result), None, ports.lost)
    if result.completed.why is Why.STOPPED:
        left = ports.work.keep(turn, "interrupted")
        return Routed(replace(_stopped(turn, result), interrupted=True, stopped=left), decision)
    failpoints.hit("turn.ran")
    return _tried(ports, turn, decision, result)


def _stopped(turn: Turn, result: Result) -> Turn:
    """Return the turn with what an attempt has used that was stopped: it is none that has failed."""
    return replace(turn, attempts=replace(after(turn.attempts, result.tried.ending), made=turn.attempts.made))


def _tried(ports: Ports, turn: Turn, decision: Decision | None, result: Result) -> Ran | Held:
    """Return what follows an attempt: the turn's end, or another attempt on the tree as it was left."""
    before, now = turn.attempts, ports.clock.now()
    ended = Ran(replace(turn, attempts=after(before, result.tried.ending)), decision, result.outcome)
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
    """Wait for the next attempt of the agent, showing life; any stop ends that at once, and the turn goes on later."""
    with ports.watched(entry.turn.claim) as lost:

        def over() -> Halt | Fenced | None:
            return Fenced(ports.lost or "") if lost() else ports.resting()

        if datetime.fromisoformat(entry.until) > ports.clock.now():
            ports.emit(Waiting(why=f"{entry.why}; the next attempt begins at {entry.until}"))
        found = ports.runner.rest(datetime.fromisoformat(entry.until), over)
    if isinstance(found, Fenced):
        return fenced(ports, entry.turn, None, found.why)
    if isinstance(found, Halt):
        return found
    fence = ports.bus.holds(entry.turn.claim)  # hours may have passed, and a machine that sleeps shows no life
    if fence:
        return fenced(ports, entry.turn, None, fence.why)
    return Routed(entry.turn, entry.decision) if entry.decision else Claimed(entry.turn)


def _after_death(ports: Ports, entry: Running) -> Step:
    """Go on after a daemon died while its agent ran.

    An agent that ended by itself is not run again. Otherwise the tree is kept and the turn runs again for the same
    claim; too many unclean deaths fail it. A reboot does not count.
    """
    code = ports.runner.witnessed(entry.turn.claim)
    if code is not None:
        failure = Failure(
            reason=f"the agent ended with exit code {code} while its daemon was being killed",
            exit_code=code,
            code="agent-failed",
        )
        ports.tell("agent-ended", f"{entry.turn.name}: the agent had ended with exit code {code}; going on from there")
        return Ran(entry.turn, entry.decision, Outcome(failure=failure if code else None, exit_code=code))
    ports.work.keep(entry.turn, "the daemon died")
    reruns = entry.turn.reruns + (entry.boot_id == ports.boot_id)
    if reruns > ports.config.limits.interrupted_reruns:
        failure = Failure(
            reason=f"the daemon died {reruns} times while the agent ran (limits.interrupted_reruns)", code="interrupted"
        )
        return Ran(entry.turn, entry.decision, Outcome(failure=failure))
    return Routed(replace(entry.turn, reruns=reruns, interrupted=True), entry.decision)


def _prepare(ports: Ports, turn: Turn, prompt: str) -> tuple[Agent, bytes]:
    """Return the agent, and what its prompt says.

    Raises:
        UsageError: the agent cannot be started.
        OSError: the prompt cannot be read.

    """
    actor, other, ground = turn.claim.actor, turn.attempts.agent, (ports.workspace.root, ports.environment)
    chosen = choose(ports.config, actor, prompt, *ground)
    agent = named(other, ports.config, actor, *ground) if other else chosen
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
    log = base.with_name(f"{base.name}.log")
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
