"""The way into a turn: whose it is, what a person must decide first, and the claim (Idle → Claimed)."""

import secrets

from orchestration import failpoints, state
from orchestration.bus import Bus, Lost, View
from orchestration.clock import iso
from orchestration.errors import ExitCode, Refused
from orchestration.journal import Claim, Claimed, Claiming, Idle
from orchestration.ports import Halt, Ports, Step
from orchestration.state import Failure, State, Status, Token


def open_turn(ports: Ports, entry: Idle) -> Step:
    """Look whose turn it is, refuse what a person must decide, and make a claim."""
    entry = entry.on(ports.bus.branch)
    view = ports.bus.look(epoch=entry.epoch, iteration=entry.iteration)
    require_own(view.state, ports.bus.branch)
    return standstill(ports.bus, view.state) or _claim(ports, entry, view)


def require_own(now: State, branch: str) -> None:
    """Refuse a state that belongs to another branch.

    Raises:
        Refused: code `state-other-branch`.

    """
    if now.branch not in {None, branch}:
        raise Refused(
            f"the state belongs to the branch {now.branch}, and this is {branch}",
            code="state-other-branch",
            remedy=f"`git switch {now.branch}`, or go on from it here: `orchestrator init --adopt`",
        )


def standstill(bus: Bus, now: State) -> Halt | None:
    """Return why nobody may claim: a failed turn, the exit flag, or a turn that runs elsewhere."""
    actor = now.expected_actor
    if now.status is Status.FAILED:
        return Halt(ExitCode.TURN_FAILED, *_failed(now), bus.remedy(now))
    if now.exit:
        reason = f"the exit flag is set: {now.exit_reason or 'no reason given'}"
        return Halt(ExitCode.OK, "exit-flag", reason, bus.remedy(now))
    if now.status in state.RUNNING.values():
        raise Refused(
            f"the committed state says that {actor} runs since {now.last_update}; this clone did not start it",
            code="state-running",
            remedy=bus.remedy(now),
        )
    return None


def _failed(now: State) -> tuple[str, str]:
    actor, failure = now.expected_actor, now.failure or Failure(reason="no reason was recorded")
    lines = [f"{actor}'s turn of iteration {now.iteration} failed: {failure.reason}"]
    lines += [f"  | {line}" for line in failure.tail[-5:]]
    lines += [f"log: {failure.log}"] if failure.log else []
    return failure.code, "\n".join(lines)


def _claim(ports: Ports, entry: Idle, view: View) -> Claiming:
    now = view.state
    survey = ports.work.survey(view.tip, now, entry.carry)
    token = Token(now.epoch + 1, ports.holder, secrets.token_hex(16))
    moment = iso(ports.clock.now())
    claim = Claim(now.expected_actor, now.iteration, token, ports.bus.branch, view.tip, moment)
    return Claiming(claim, survey.tree, entry.carry, survey.uncommitted)


def take_turn(ports: Ports, entry: Claiming) -> Step:
    """Have the bus confirm the claim, and begin."""
    claim = entry.claim
    if isinstance(ports.bus.claim(claim), Lost):
        return Idle(claim.token.epoch - 1, claim.iteration, entry.carry, claim.branch)
    turn = ports.work.begin(entry)
    ports.note("claimed", f"{claim.name}: epoch {claim.token.epoch}")
    failpoints.hit("turn.claimed")
    return Claimed(turn)
