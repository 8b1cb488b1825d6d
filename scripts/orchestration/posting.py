"""Publishing an operator's commit: the one step that a daemon and a command share."""

from orchestration.bus import Bus, Fenced, Landed
from orchestration.errors import ExitCode
from orchestration.halt import Halt
from orchestration.journal import Idle, Journal, Posted


def settle_post(bus: Bus, journal: Journal, entry: Posted) -> Idle | Halt:
    """Publish the commit; if the branch moved meanwhile, go back to where the journal stood before."""
    answer = bus.settle(entry.hand_off)
    if isinstance(answer, Landed):
        return entry.then
    journal.write(entry.before)
    why = answer.why if isinstance(answer, Fenced) else f"somebody committed {answer.tip[:10]}"
    return Halt(
        ExitCode.REFUSED,
        "branch-moved",
        f"the branch moved while the command ran ({why}); nothing was changed",
        "look at `orchestrator status`, and repeat the command if it is still right",
    )
