"""What the agent did to the repository: judged, committed or kept (Ran → Checked)."""

from typing import NamedTuple

from msgspec.structs import replace

from orchestration import collect, failpoints, state
from orchestration.errors import ExitCode, Refused
from orchestration.git import Commit, Dirt
from orchestration.journal import Checked, Claim, Idle, Ran, Turn
from orchestration.ports import Halt, Ports, Step
from orchestration.settings import Leftovers
from orchestration.state import Failure


class _Verdict(NamedTuple):
    """What the check made of the work: the commit to hand off on, and why the turn fails, if it does."""

    head: str
    failure: Failure | None


def check_work(ports: Ports, entry: Ran) -> Step:
    """Judge what the agent did to the repository, and commit or keep what it left uncommitted."""
    turn, claim = entry.turn, entry.turn.claim
    dirt = ports.git.dirt()
    tip = ports.git.resolve(f"refs/heads/{claim.branch}")
    if tip is None:
        return fenced(ports, turn, claim.base, f"the branch {claim.branch} was deleted")
    taken = _taken_over(ports, claim, tip)
    if taken:
        return fenced(ports, turn, tip, taken)
    flag = _exit_flag(ports, claim, tip)
    verdict = _lineage(ports, claim, dirt, tip)
    failure = entry.outcome.failure or verdict.failure
    left = ports.collector.snapshot(dirt)
    head = verdict.head
    if failure is None:
        head, failure = _settle_leftovers(ports, entry, head, left)
        left = ports.collector.snapshot(ports.git.dirt()) if head != verdict.head else left
    if failure:
        keep(ports, turn, failure.code, left)
        failure = replace(failure, reason=failure.reason + _kept_where(ports, claim, head))
    unpin = failure is None and _person_untouched(ports, turn, left)
    failpoints.hit("turn.checked")
    return Checked(turn, entry.decision, entry.outcome, head, left, failure, flag, unpin)


def _person_untouched(ports: Ports, turn: Turn, left: str) -> bool:
    """Tell whether every file that was uncommitted at the claim still has its bytes in the tree; warn if not."""
    if turn.pin is None:
        return True
    theirs = {change.path for change in ports.git.difference(f"{turn.claim.base}^{{tree}}", turn.before)}
    touched = [change.path for change in ports.git.difference(turn.before, left) if change.path in theirs]
    if touched:
        some = ", ".join(touched[:20]).encode(errors="replace").decode()
        ports.tell("untracked-changed", f"the agent changed files that were not committed: {some}; kept in {turn.pin}")
    return not touched


def _taken_over(ports: Ports, claim: Claim, tip: str) -> str | None:
    """Return who took the turn while the agent ran: a valid state with a newer epoch on the branch."""
    try:
        now = ports.bus.state_at(tip)
    except Refused:
        return None  # the agent damaged the file; the hand-off restores it
    if now.epoch >= claim.token.epoch and now.nonce != claim.token.nonce:
        return f"the branch {claim.branch} holds epoch {now.epoch} of {now.holder or 'another hand'}"
    return None


def _lineage(ports: Ports, claim: Claim, dirt: Dirt, tip: str) -> _Verdict:
    """Find the work on the claim's branch, on top of the claim's base."""
    if dirt.branch != claim.branch:
        where = dirt.branch or "a detached HEAD"
        return _Verdict(
            tip, Failure(reason=f"the agent left the branch {claim.branch} for {where}", code="switched-branch")
        )
    if ports.git.is_ancestor(claim.base, tip):
        return _Verdict(tip, None)
    tree = ports.git.ask("rev-parse", f"{tip}^{{tree}}")
    rewritten = ports.collector.rescue(claim, tree, tip, "the agent's rewritten commits")
    parents = ports.git.parents(claim.base)
    if not parents or ports.git.is_ancestor(parents[0], tip):
        text = f"{claim.name}: rewritten by the agent\n\nThe agent's own commits are in {rewritten}.\n"
        head = ports.git.commit_tree(Commit(tree, [claim.base], text))
        if ports.git.update_ref(f"refs/heads/{claim.branch}", head, tip, "orchestrator: rewritten by the agent"):
            ports.tell("rewritten", "the agent rewrote the commit that its turn began on; its work was put back on top")
            return _Verdict(head, None)
    ports.collector.rescue(claim, f"{claim.base}^{{tree}}", claim.base, "the branch before the agent rewrote it")
    return _Verdict(
        tip, Failure(reason="the agent rewrote commits that were there before its turn", code="rewrote-history")
    )


def _settle_leftovers(ports: Ports, entry: Ran, head: str, left: str) -> tuple[str, Failure | None]:
    """Commit what may be committed; return the new head, or why the policy fails the turn."""
    turn = entry.turn
    changes = ports.collector.leftovers(turn.before, head, left)
    if not changes:
        return head, None
    allowed, rest = ports.collector.sort(changes)
    policy = getattr(ports.config.actors, turn.claim.actor).leftovers
    if rest and policy is Leftovers.FAIL:
        paths = ", ".join(change.path.encode(errors="replace").decode() for change in rest[:20])
        return head, Failure(
            reason=f"{turn.claim.actor} left files uncommitted that it must not write: {paths} "
            f"(actors.{turn.claim.actor}.leftovers is fail)",
            code="leftovers",
        )
    ref = ports.collector.rescue(turn.claim, left, head, "leftovers")
    wanted = allowed if rest and policy is Leftovers.KEEP else changes
    if wanted:
        text = collect.subject(turn, entry.decision.prompt if entry.decision else "-", wanted)
        head = ports.collector.commit(turn.claim.branch, head, wanted, text)
    if wanted == changes:
        ports.collector.drop(ref)
    return head, None


def _exit_flag(ports: Ports, claim: Claim, tip: str) -> str | None:
    """Take `exit` and `exit_reason` from the agent's copy of the state; say so if it holds any other edit."""
    path = ports.config.state_file
    file = ports.workspace.root / path
    in_git = ports.workspace.in_git(path)
    base, committed = ports.git.blobs([f"{claim.base}:{in_git}", f"{tip}:{in_git}"])
    copy = file.read_bytes() if file.is_file() else committed
    if copy == base == committed:
        return None
    ports.tell("state-edited", f"the agent edited {path}; only exit and exit_reason are taken from it")
    return state.requested_exit(copy)


def keep(ports: Ports, turn: Turn, why: str, left: str | None = None) -> None:
    """Put the tree as it is into a rescue ref, if it differs from HEAD."""
    dirt = ports.git.dirt()
    if dirt.head is None:
        return
    tree = left or ports.collector.snapshot(dirt)
    if tree != ports.git.ask("rev-parse", f"{dirt.head}^{{tree}}"):
        ref = ports.collector.rescue(turn.claim, tree, dirt.head, why)
        ports.tell("rescued", f"{turn.name}: the work tree as it was is kept in {ref}")


def _kept_where(ports: Ports, claim: Claim, head: str) -> str:
    kept = [f"its commits stay on {claim.branch}"] if head != claim.base else []
    refs = ports.collector.rescued(claim)
    kept += [f"the work tree is kept in {refs[-1]}"] if refs else []
    drop = f"; to drop the work: `git reset --keep {claim.base[:10]}`" if head != claim.base else ""
    return f" ({'; '.join(kept)}{drop})" if kept else ""


def fenced(ports: Ports, turn: Turn, head: str, why: str) -> Halt:
    """Keep the work of a turn that is no longer ours, forget the turn, and stop."""
    tree = ports.git.ask("rev-parse", f"{head}^{{tree}}")
    ref = ports.collector.rescue(turn.claim, tree, head, "fenced")
    keep(ports, turn, "fenced")
    before = ports.bus.state_at(turn.claim.base)
    ports.journal.write(Idle(before.epoch, before.iteration))
    return Halt(
        ExitCode.FENCED,
        "fenced",
        f"{turn.name} is no longer ours: {why}; its work is kept in {ref}",
        f"`git log {ref}` shows it; start again to go on with the state as it is now",
    )
