"""Leaving a turn that is no longer ours: its work is kept, and the loop stops."""

from orchestration.errors import ExitCode
from orchestration.halt import Halt
from orchestration.journal import Idle, Turn
from orchestration.ports import Ports


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
