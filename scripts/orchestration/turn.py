"""One turn as a table of steps: claim → route → run → check → hand off.

`STEPS[type(entry)](ports, entry)` does one step and returns the next entry, which the daemon writes to the journal. A
restart reads the journal and enters the same table: there is no other recovery code, so every step is idempotent.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from orchestration import failpoints, state
from orchestration.admission import open_turn, take_turn
from orchestration.agent_steps import begin_agent, choose_prompt, hold, run_agent
from orchestration.bus import Conflict, Fenced, Moved
from orchestration.collect import listed
from orchestration.events import TurnEnded
from orchestration.fence import fenced
from orchestration.fingerprint import require_same
from orchestration.gates import run_gates
from orchestration.halt import Halt
from orchestration.journal import (
    Checked,
    Claimed,
    Claiming,
    Entry,
    Held,
    Idle,
    Judged,
    Posted,
    Ran,
    Routed,
    Running,
    Stamped,
)
from orchestration.masking import known, masked
from orchestration.ports import Ports, Step
from orchestration.posting import settle_post
from orchestration.state import CONFLICT, Actor, Failure

_LONGEST = 4 << 10
"""Characters of a text of a turn that the state is given."""
_FACTS = ("ok", "reason", "commits", "files", "insertions", "deletions", "cost_usd", "tokens")


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
    entry = _publishable(ports, entry)
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


def _publishable(ports: Ports, entry: Checked) -> Checked:
    """Return an entry whose texts anybody may read for ever: without secrets, whatever `logs.mask` says, and short."""
    secrets = known(ports.environment, *ports.config.environments)

    def shown(text: str) -> str:
        return masked(text, secrets)[:_LONGEST]

    failure, said = entry.failure, entry.exit_reason
    if failure:
        tail = masked("\n".join(failure.tail), secrets).splitlines()
        failure = replace(failure, reason=shown(failure.reason), tail=tail)
    return replace(entry, failure=failure, exit_reason=None if said is None else shown(said))


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
    what = f"{found.tip[:10]}, which was committed meanwhile: {listed(found.paths)}"
    reason = f"its work conflicts with {what} (it is kept in {ref})"
    failure = Failure(reason=reason, code=CONFLICT)
    return replace(checked, work_head=found.tip, on=found.tip, failure=failure)


def post(ports: Ports, entry: Posted) -> Step:
    """Finish an operator's commit that a crash cut short."""
    return settle_post(ports.bus, ports.journal, entry)


def _report(ports: Ports, checked: Checked, commit: str | None) -> None:
    claim = checked.turn.claim
    done = ports.work.summary(claim.base, checked.work_head)
    spent = checked.turn.attempts
    tells = checked.outcome.understood and checked.failure is None and ports.workspace.git
    stalled = not done.commits if tells else None
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
