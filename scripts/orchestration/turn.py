"""One turn as a table of steps: claim → route → run → check → hand off.

`STEPS[type(entry)](ports, entry)` does one step and returns the next entry, which the daemon writes to the journal. A
restart reads the journal and enters the same table: there is no other recovery code, so every step is idempotent.
"""

import hashlib
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestration import failpoints, state
from orchestration.admission import open_turn, take_turn
from orchestration.agents import Agent, choose, named
from orchestration.attempts import again, used
from orchestration.bus import Conflict, Fenced, Moved
from orchestration.clock import iso
from orchestration.errors import ExitCode
from orchestration.events import AttemptEnded, TurnEnded, TurnStarted, Waiting
from orchestration.fingerprint import address, require_same
from orchestration.gates import run_gates
from orchestration.halt import Halt
from orchestration.journal import (
    Attempts,
    Checked,
    Claimed,
    Claiming,
    Entry,
    Held,
    Idle,
    Judged,
    Outcome,
    Posted,
    Ran,
    Routed,
    Running,
    Stamped,
    Turn,
)
from orchestration.ports import Ports, Step
from orchestration.posting import settle_post
from orchestration.process import Why
from orchestration.router import Decision, RouteError, route, wants_override
from orchestration.runner import Invocation, Result
from orchestration.state import CONFLICT, Actor, Failure
from orchestration.workspace import require_own_folder

_FACTS = ("ok", "reason", "commits", "files", "insertions", "deletions", "cost_usd", "tokens")
_INTERRUPTED = (
    b"\n\nNote: an earlier attempt at this turn was interrupted. The work tree is as it left it; go on from there.\n"
)


def choose_prompt(ports: Ports, entry: Claimed) -> Step:
    """Route the turn; the router prompt, if there is one, is run first. No prompt fails the turn."""
    claim, routes = entry.turn.claim, ports.routes
    override = None
    try:
        if wants_override(routes, claim.actor) and routes.router:
            ports.journal.write(entry)  # an agent is about to run: a restart must find its stamp
            result = _run(ports, entry.turn, routes.router, f"asked to route iteration {claim.iteration}", lambda: None)
            if result.completed.why is Why.STOPPED:
                return fenced(ports, entry.turn, None, ports.lost) if ports.lost else entry
            if result.outcome.failure:
                return _tried(ports, entry.turn, None, result)
            entry = Claimed(replace(entry.turn, attempts=Attempts(used=used(entry.turn.attempts, result.tried.ending))))
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
        return fenced(ports, turn, None, ports.lost)
    if result.completed.why is Why.STOPPED:
        spent = replace(turn.attempts, used=used(turn.attempts, result.tried.ending))
        return Routed(replace(again.turn, attempts=spent, stopped=ports.work.keep(turn, "interrupted")), decision)
    failpoints.hit("turn.ran")
    return _tried(ports, turn, decision, result)


def _tried(ports: Ports, turn: Turn, decision: Decision | None, result: Result) -> Ran | Held:
    """Return what follows an attempt: the turn's end, or another attempt on the tree as it was left."""
    before, now = turn.attempts, ports.clock.now()
    after = replace(before, made=before.made + 1, used=used(before, result.tried.ending))
    ended = Ran(replace(turn, attempts=after), decision, result.outcome)
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
    """Return the agent and its prompt's text.

    Raises:
        UsageError: the agent cannot be started.
        OSError: the prompt cannot be read.

    """
    actor, other, ground = turn.claim.actor, turn.attempts.agent, (ports.workspace.root, ports.environment)
    chosen = choose(ports.config, actor, prompt, *ground)
    agent = named(other, ports.config, actor, *ground) if other else chosen
    return agent, _prompt(ports, prompt).read_bytes() + (_INTERRUPTED if turn.interrupted else b"")


def _run(ports: Ports, turn: Turn, prompt: str, reason: str, before_stop: Callable[[], None]) -> Result:
    claim = turn.claim
    agent, text = _prepare(ports, turn, prompt)
    base = ports.reports.begin_turn(claim, prompt)
    log = base.with_name(f"{base.name}.log")
    ports.emit(
        TurnStarted(
            iteration=claim.iteration, actor=claim.actor, prompt=prompt, reason=reason, agent=agent.name, log=str(log)
        )
    )
    begun = ports.clock.now()
    job = Invocation(claim, agent, prompt, text, ports.reports.folder, ports.reports.open_log(base), str(log))
    job = job._replace(session=turn.attempts.session)
    with ports.watched(claim) as lost:
        result = ports.runner.run(job, before_stop, lost)
    require_own_folder(ports.workspace, address(claim.settings))
    fields: dict[str, Any] = {
        "iteration": claim.iteration,
        "actor": claim.actor,
        "prompt": prompt,
        "prompt_sha256": hashlib.sha256(text).hexdigest(),
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
        "usage": used(turn.attempts, result.tried.ending),
    }
    ports.reports.record(base, fields, result.outcome.message)
    return result


def check_work(ports: Ports, entry: Ran) -> Step:
    """Judge the work, and commit or keep what the agent left uncommitted."""
    ports.break_locks(entry.turn.claim)
    taken = ports.work.take(entry)
    if taken is None:
        return entry
    if isinstance(taken, Fenced):
        return fenced(ports, entry.turn, None, taken.why)
    gates = ports.config.actors.of(entry.turn.claim.actor).gates
    return ports.work.judged(entry, taken) if gates and not taken.failure else ports.work.close(entry, taken)


def pass_gates(ports: Ports, entry: Judged) -> Step:
    """Let the gates judge the work; it is not judged anew when they are cut short and run again."""
    passed = run_gates(ports, entry)
    if isinstance(passed, Halt):
        return passed
    if isinstance(passed, Fenced):
        return fenced(ports, entry.turn, entry.work_head, passed.why)
    ports.break_locks(entry.turn.claim)
    return ports.work.gated(entry, passed.failure)


def build_hand_off(ports: Ports, entry: Checked) -> Step:
    """Make the hand-off commit on the work; nothing refers to it yet.

    Raises:
        Refused: the agent changed where it would be published to. What a person changes from here on is theirs.

    """
    claim = entry.turn.claim
    settings = ports.bus.settings()
    before = ports.bus.state_at(entry.on or claim.base)
    now = ports.clock.now()
    if entry.failure:
        after = state.failed(before, claim.token, entry.work_head, entry.failure, now)
    else:
        after = state.succeeded(before, claim.token, entry.work_head, now)
    after = replace(after, branch=claim.branch)
    if entry.decision and ports.routes.enabled:
        after = replace(after, last_prompt=entry.decision.prompt, last_prompt_actor=claim.actor)
    if entry.exit_reason is not None:
        after = replace(after, exit=True, exit_reason=entry.exit_reason)
    hand_off = ports.bus.stamp(entry.work_head, before, after)
    require_same(claim.settings, settings())
    failpoints.hit("stamp.built")
    return Stamped(entry, hand_off)


def settle(ports: Ports, entry: Stamped) -> Step:
    """Publish the hand-off; when somebody committed meanwhile, make it anew on top."""
    checked = entry.checked
    answer = ports.bus.settle(entry.hand_off, checked.turn.claim.base)
    if isinstance(answer, Moved):
        return replace(checked, work_head=answer.tip, on=answer.on or checked.on)
    if isinstance(answer, Conflict):
        return _conflict(ports, checked, answer)
    if isinstance(answer, Fenced):
        return fenced(ports, checked.turn, checked.work_head, answer.why)
    _report(ports, checked, answer.commit)
    ports.note("handed-off", f"{checked.turn.name}: {(answer.commit or 'written')[:10]} on {ports.bus.branch}")
    ports.runner.forget(checked.turn.claim)
    ports.work.forget(checked)
    failpoints.hit("turn.settled")
    claim = checked.turn.claim
    ends_iteration = checked.failure is None and claim.actor is Actor.RALPH
    return Idle(claim.token.epoch, claim.iteration + ends_iteration, ports.work.left(checked), claim.branch)


def _conflict(ports: Ports, checked: Checked, found: Conflict) -> Checked:
    """Keep the work that does not go together with what was committed meanwhile, and fail the turn on top of that."""
    ref = ports.work.abandon(checked.turn, checked.work_head, "conflict")
    some = ", ".join(found.paths[:5]) + (" ..." if found.paths[5:] else "")
    reason = f"its work conflicts with {found.tip[:10]}, which was committed meanwhile: {some} (it is kept in {ref})"
    failure = Failure(reason=reason, code=CONFLICT)
    return replace(checked, work_head=found.tip, on=found.tip, failure=failure)


def fenced(ports: Ports, turn: Turn, head: str | None, why: str) -> Halt:
    """Keep the work of a turn that is no longer ours, forget the turn, and stop."""
    ports.meter.charge(turn.claim.token.nonce, turn.attempts.used, ports.clock.now(), stalled=None)
    ref = ports.work.abandon(turn, head, "fenced")
    ports.bus.retreat()
    before = ports.bus.state_at(turn.claim.base)
    ports.journal.write(Idle(before.epoch, before.iteration, branch=turn.claim.branch))
    reason, remedy = f"{turn.name} is no longer ours: {why}", "start again to go on with the state as it is now"
    if ref:
        reason, remedy = f"{reason}; its work is kept in {ref}", f"`git log {ref}` shows it; {remedy}"
    return Halt(ExitCode.FENCED, "fenced", reason, remedy)


def post(ports: Ports, entry: Posted) -> Step:
    """Finish an operator's commit that a crash cut short."""
    return settle_post(ports.bus, ports.journal, entry)


def _report(ports: Ports, checked: Checked, commit: str | None) -> None:
    claim = checked.turn.claim
    done = ports.work.summary(claim.base, checked.work_head)
    spent = checked.turn.attempts
    stalled = not done.commits if checked.outcome.understood and not checked.failure else None
    ports.meter.charge(claim.token.nonce, spent.used, ports.clock.now(), stalled=stalled)
    prompt = checked.decision.prompt if checked.decision else None
    ended = TurnEnded(
        iteration=claim.iteration,
        actor=claim.actor,
        prompt=prompt,
        ok=checked.failure is None,
        reason=checked.failure.reason if checked.failure else checked.exit_reason,
        seconds=round(checked.outcome.seconds, 3),
        exit_code=checked.outcome.exit_code,
        commits=done.commits,
        files=done.files,
        insertions=done.insertions,
        deletions=done.deletions,
        commit=commit,
        attempts=max(1, spent.made),
        cost_usd=spent.used.cost_usd if spent.used else None,
        tokens=spent.used.tokens if spent.used else None,
    )
    ports.emit(ended)
    facts = {name: getattr(ended, name) for name in _FACTS}
    ports.reports.record(ports.reports.begin_turn(claim, prompt), {**facts, "hand_off": commit})


STEPS: dict[type[Entry], Callable[[Ports, Any], Step]] = {
    Idle: open_turn,
    Claiming: take_turn,
    Claimed: choose_prompt,
    Routed: begin_agent,
    Running: run_agent,
    Held: hold,
    Ran: check_work,
    Judged: pass_gates,
    Checked: build_hand_off,
    Stamped: settle,
    Posted: post,
}
