"""Leaving a turn that is no longer ours: its work is kept, and the loop stops."""

from orchestration.errors import ExitCode, OrchestrationError
from orchestration.fingerprint import require_same
from orchestration.halt import Halt
from orchestration.journal import Idle, Turn
from orchestration.ports import Ports


def fenced(ports: Ports, turn: Turn, head: str | None, why: str) -> Halt:
    """Keep the work of a turn that is no longer ours, forget the turn, and stop."""
    ports.meter.charge(turn.claim.token.nonce, turn.attempts.used, ports.clock.now(), stalled=None)
    ref = ports.work.abandon(turn, head, "fenced")
    if ref and head != turn.claim.base:  # what is withheld is in a ref of its own
        _publish(ports, turn, ref)
    ports.bus.retreat()
    before = ports.bus.state_at(turn.claim.base)
    ports.journal.write(Idle(before.epoch, before.iteration, branch=turn.claim.branch))
    reason, remedy = f"{turn.name} is no longer ours: {why}", "start again to go on with the state as it is now"
    if ref:
        reason, remedy = f"{reason}; its work is kept in {ref}", f"`git log {ref}` shows it; {remedy}"
    return Halt(ExitCode.FENCED, "fenced", reason, remedy)


def _publish(ports: Ports, turn: Turn, ref: str) -> None:
    """Share the commits of the turn, where that is wanted; what stands in the way of that is told, and no more."""
    if ports.publish is None:
        return
    try:
        require_same(turn.claim.settings, ports.bus.settings()())
        ports.publish(ref)
    except OrchestrationError as error:
        ports.tell("rescue-not-pushed", f"{ref} stays here: {error.message}; {error.remedy}")
    else:
        ports.note("rescue-pushed", f"{ref} is at the remote, too")
