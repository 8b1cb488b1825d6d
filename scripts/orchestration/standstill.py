"""What stands in the way of a turn until a person decides: a failure, the exit flag, another branch, another turn."""

from orchestration import state
from orchestration.bus import Bus
from orchestration.errors import ExitCode, Refused
from orchestration.halt import Halt, Place, Wait
from orchestration.journal import Journal, claim_of
from orchestration.state import Failure, State, Status
from orchestration.workspace import Workspace, other_journals


def require_own(now: State, branch: str) -> None:
    """Refuse a state that belongs to another branch.

    Raises:
        Refused: code `state-other-branch`.

    """
    if now.branch not in {None, branch}:
        raise Refused(
            f"the state belongs to the branch {now.branch}, and this is {branch}",
            code="state-other-branch",
            remedy=f"`git switch {now.branch}`; or, if that was renamed or this one goes on from it: "
            "`orchestrator init --adopt`",
        )


def standstill(bus: Bus, now: State) -> Halt | Wait | None:
    """Return why nobody may claim: a failed turn, the exit flag, or a turn that runs elsewhere.

    Raises:
        Refused: a turn is said to run that nobody can be waited for.

    """
    at = Place(now.epoch, now.iteration, now.expected_actor)
    if now.status is Status.FAILED:
        return Halt(ExitCode.TURN_FAILED, *_failed(now), bus.remedy(now), at)
    if now.exit:
        reason = f"the exit flag is set: {now.exit_reason or 'no reason given'}"
        return Halt(ExitCode.OK, "exit-flag", reason, bus.remedy(now), at)
    return bus.elsewhere(now) if now.status in state.RUNNING.values() else None


def _failed(now: State) -> tuple[str, str]:
    actor, failure = now.expected_actor, now.failure or Failure(reason="no reason was recorded")
    lines = [f"{actor}'s turn of iteration {now.iteration} failed: {failure.reason}"]
    lines += [f"  | {line}" for line in failure.tail[-5:]]
    lines += [f"log: {failure.log}"] if failure.log else []
    return failure.code, "\n".join(lines)


def refuse_other_turns(place: Workspace, state_file: str) -> None:
    """Refuse to go on beside a turn in progress that another journal of this work tree holds.

    Raises:
        Refused: another project's turn, or one of another way to run, is to be ended first.

    """
    for path in other_journals(place, state_file):
        claim = claim_of(Journal(path).read())
        if claim:
            raise Refused(
                f"{claim.name} is in progress in this work tree, in another project or another way ({path})",
                code="turn-elsewhere",
                remedy=f"start it as it was started then, with --once; if that is gone: `mv {path} {path}.gone`",
            )
