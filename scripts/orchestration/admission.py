"""The way into a turn: whose it is, what a person must decide first, the claim, the snapshot (Idle → Claimed)."""

import secrets

from orchestration import failpoints, state
from orchestration.bus import Lost, View
from orchestration.clock import iso
from orchestration.collect import printable
from orchestration.errors import ExitCode, Refused
from orchestration.journal import Carry, Claim, Claimed, Claiming, Idle, Turn
from orchestration.ports import Halt, Ports, Step
from orchestration.state import Failure, State, Status, Token
from orchestration.tree import Dirt
from orchestration.workspace import refuse_operation

_LISTED = 20
"""Paths that a message lists before it only counts."""


def open_turn(ports: Ports, entry: Idle) -> Step:
    """Look whose turn it is, refuse what a person must decide, and make a claim."""
    view = ports.bus.look(epoch=entry.epoch, iteration=entry.iteration)
    _require_own_state(ports, view.state)
    return _standstill(view.state) or _claim(ports, entry, view)


def _standstill(now: State) -> Halt | None:
    """Return why nobody may claim: a failed turn, the exit flag, or a turn that runs elsewhere."""
    actor = now.expected_actor
    if now.status is Status.FAILED:
        return Halt(ExitCode.TURN_FAILED, *_failed(now))
    if now.exit:
        reason = f"the exit flag is set: {now.exit_reason or 'no reason given'}"
        return Halt(ExitCode.OK, "exit-flag", reason, "`orchestrator resume` clears it")
    if now.status in state.RUNNING.values():
        raise Refused(
            f"the committed state says that {actor} runs since {now.last_update}; this clone did not start it",
            code="state-running",
            remedy=f"end it where it runs; if nothing runs it any more: `orchestrator stamp {actor} fail`",
        )
    return None


def _failed(now: State) -> tuple[str, str, str]:
    actor, failure = now.expected_actor, now.failure or Failure(reason="no reason was recorded")
    lines = [f"{actor}'s turn of iteration {now.iteration} failed: {failure.reason}"]
    lines += [f"  | {line}" for line in failure.tail[-5:]]
    lines += [f"log: {failure.log}"] if failure.log else []
    remedy = "`orchestrator retry` runs it again on the tree as it is; `orchestrator skip` goes on with the other actor"
    return failure.code, "\n".join(lines), remedy


def _claim(ports: Ports, entry: Idle, view: View) -> Claiming:
    now = view.state
    dirt = ports.git.dirt()
    refuse_operation(ports.git)
    _require_branch(ports, dirt)
    if not (entry.carry and entry.carry.is_for(now.expected_actor, now.iteration)):
        _require_clean(ports, dirt, entry.carry)
    token = Token(now.epoch + 1, ports.holder, secrets.token_hex(16))
    moment = iso(ports.clock.now())
    claim = Claim(now.expected_actor, now.iteration, token, ports.bus.branch, view.tip, moment)
    claiming = Claiming(claim, ports.collector.snapshot(dirt), entry.carry)
    if claiming.before != ports.git.tree(claim.base):
        ports.journal.write(claiming)  # a pin is about to be made: a restart must find whose it is
    return claiming


def _require_own_state(ports: Ports, now: State) -> None:
    wanted = ports.bus.branch
    if now.branch not in {None, wanted}:
        raise Refused(
            f"the state belongs to the branch {now.branch}, and this is {wanted}",
            code="state-other-branch",
            remedy=f"`git switch {now.branch}`, or commit the file's removal here and run `orchestrator init`",
        )


def _require_branch(ports: Ports, dirt: Dirt) -> None:
    wanted = ports.bus.branch
    if dirt.branch is None:
        raise Refused("HEAD is detached", code="detached-head", remedy=f"`git switch {wanted}`")
    if dirt.branch != wanted:
        raise Refused(
            f"the branch checked out is {dirt.branch}, not {wanted}",
            code="wrong-branch",
            remedy=f"`git switch {wanted}`",
        )


def _require_clean(ports: Ports, dirt: Dirt, carry: Carry | None) -> None:
    """Refuse changed tracked files, unless a turn was allowed to leave them just so."""
    dirty = dirt.tracked
    if dirty and carry:
        changed = {change.path for change in ports.git.difference(carry.kept, ports.collector.snapshot(dirt))}
        dirty = [path for path in dirty if path in changed]
    if dirty:
        listed = "".join(f"\n  {printable(path)}" for path in dirty[:_LISTED])
        more = f"\n  ... and {len(dirty) - _LISTED} more" if len(dirty) > _LISTED else ""
        raise Refused(
            f"tracked files are changed and not committed:{listed}{more}",
            code="dirty-tree",
            remedy="commit them, or put them aside with `git stash`, and start again",
        )


def take_turn(ports: Ports, entry: Claiming) -> Step:
    """Have the bus confirm the claim, and pin what lies uncommitted in the tree.

    A retry goes on from the snapshot of the first attempt; what lies in the tree now is pinned all the same.
    """
    claim, carry = entry.claim, entry.carry
    if isinstance(ports.bus.claim(claim), Lost):
        return Idle(claim.token.epoch - 1, claim.iteration, carry)
    before = carry.before if carry and carry.is_for(claim.actor, claim.iteration) else entry.before
    pin = None
    if entry.before != ports.git.tree(claim.base):
        pin = ports.collector.rescue(claim, entry.before, claim.base, "the work tree at the claim")
    ports.note("claimed", f"{claim.name}: epoch {claim.token.epoch} on {claim.base[:10]}")
    failpoints.hit("turn.claimed")
    return Claimed(Turn(claim, before, pin))
