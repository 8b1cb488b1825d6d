"""What the agent did to the repository: judged, committed or kept (Ran → Checked)."""

from typing import NamedTuple

from msgspec.structs import replace

from orchestration import collect, failpoints, state
from orchestration.errors import ExitCode, Refused
from orchestration.journal import Checked, Claim, Idle, Ran, Turn
from orchestration.ports import Halt, Ports, Step
from orchestration.settings import Leftovers
from orchestration.state import Failure
from orchestration.tree import Commit, Dirt


class _Verdict(NamedTuple):
    """What the check made of the work: the commit to hand off on, and why the turn fails, if it does.

    No head: the branch moved meanwhile, and the check is to be made anew.
    """

    head: str | None
    failure: Failure | None


def check_work(ports: Ports, entry: Ran) -> Step:
    """Judge what the agent did to the repository, and commit or keep what it left uncommitted."""
    turn, claim = entry.turn, entry.turn.claim
    ports.break_locks(claim)
    dirt = ports.git.dirt()
    _name_what_is_not_kept(ports, dirt)
    tip = ports.git.resolve(f"refs/heads/{claim.branch}")
    if tip is None:
        return fenced(ports, turn, claim.base, f"the branch {claim.branch} was deleted")
    taken = _taken_over(ports, claim, tip)
    if taken:
        return fenced(ports, turn, tip, taken)
    flag = _exit_flag(ports, claim, tip)
    left = ports.collector.snapshot(dirt)
    lineage = _lineage(ports, claim, dirt, tip)
    head, failure = lineage.head, entry.outcome.failure or lineage.failure
    if head and failure is None:
        head, failure = _settle_leftovers(ports, entry, head, left)
    if head is None:
        return entry
    if head != lineage.head:
        left = ports.collector.snapshot(ports.git.dirt())
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
    pinned = f"{turn.pin}^{{tree}}"
    theirs = {change.path for change in ports.git.difference(f"{turn.claim.base}^{{tree}}", pinned)}
    touched = [change.path for change in ports.git.difference(pinned, left) if change.path in theirs]
    if touched:
        some = collect.listed(touched)
        ports.tell("untracked-changed", f"the agent changed files that were not committed: {some}; kept in {turn.pin}")
    return not touched


def _name_what_is_not_kept(ports: Ports, dirt: Dirt) -> None:
    """Warn, once a run, of what no snapshot holds (loop.md: it stays where it is and is named)."""
    left_out = ports.collector.left_out(dirt)
    if left_out:
        why = f"larger than limits.snapshot_file ({ports.config.limits.snapshot_file:g} MiB), or a nested repository"
        ports.tell("not-kept", f"neither committed nor in a rescue ref: {collect.listed(left_out)} ({why})")


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
    operation = ports.git.operation()
    if operation:
        return _Verdict(tip, Failure(reason=f"the agent left a {operation} in progress", code="operation-in-progress"))
    if dirt.branch != claim.branch:
        where = dirt.branch or "a detached HEAD"
        return _Verdict(
            tip, Failure(reason=f"the agent left the branch {claim.branch} for {where}", code="switched-branch")
        )
    if ports.git.is_ancestor(claim.base, tip):
        return _Verdict(tip, None)
    tree = ports.git.tree(tip)
    rewritten = ports.collector.rescue(claim, tree, tip, "the agent's rewritten commits")
    parents = ports.git.parents(claim.base)
    if not parents or ports.git.is_ancestor(parents[0], tip):
        text = f"{claim.name}: rewritten by the agent\n\nThe agent's own commits are in {rewritten}.\n"
        head = ports.git.commit_tree(Commit(tree, [claim.base], text))
        if ports.git.update_ref(f"refs/heads/{claim.branch}", head, tip, "orchestrator: rewritten by the agent"):
            ports.tell("rewritten", "the agent rewrote the commit that its turn began on; its work was put back on top")
            return _Verdict(head, None)
        return _Verdict(None, None)
    ports.collector.rescue(claim, f"{claim.base}^{{tree}}", claim.base, "the branch before the agent rewrote it")
    return _Verdict(
        tip, Failure(reason="the agent rewrote commits that were there before its turn", code="rewrote-history")
    )


def _settle_leftovers(ports: Ports, entry: Ran, head: str, left: str) -> _Verdict:
    """Commit what may be committed; return the new head, or why the policy fails the turn."""
    turn = entry.turn
    changes = ports.collector.leftovers(turn.before, head, left)
    if not changes:
        return _Verdict(head, None)
    allowed, rest = ports.collector.sort(changes)
    policy = getattr(ports.config.actors, turn.claim.actor).leftovers
    if rest and policy is Leftovers.FAIL:
        paths = collect.listed([change.path for change in rest])
        reason = (
            f"{turn.claim.actor} left files uncommitted that it must not write: {paths} "
            f"(actors.{turn.claim.actor}.leftovers is fail)"
        )
        return _Verdict(head, Failure(reason=reason, code="leftovers"))
    ref = ports.collector.rescue(turn.claim, left, head, "leftovers")
    wanted = allowed if policy is Leftovers.KEEP else changes
    after: str | None = head
    if wanted:
        text = collect.subject(turn, entry.decision.prompt if entry.decision else "-", wanted)
        after = ports.collector.commit(turn.claim.branch, head, wanted, text)
    if wanted == changes or after is None:
        ports.collector.drop(ref)  # committed, or about to be kept anew
    return _Verdict(after, None)


def _exit_flag(ports: Ports, claim: Claim, tip: str) -> str | None:
    """Take `exit` and `exit_reason` from the agent's copy of the state; say so if it holds any other edit."""
    path = ports.config.state_file
    file = ports.workspace.root / path
    in_git = ports.workspace.in_git(path)
    base, committed = ports.git.blobs([f"{claim.base}:{in_git}", f"{tip}:{in_git}"])
    copy = file.read_bytes().replace(b"\r\n", b"\n") if file.is_file() else None  # a checkout may have made them
    if copy == base == committed:
        return None
    wanted = state.requested_exit(committed if copy is None else copy)
    if wanted is None or not state.differs_in_exit_only(base, copy):
        ports.tell("state-edited", f"the agent edited {path}; only exit and exit_reason are taken from it")
    return wanted


def keep(ports: Ports, turn: Turn, why: str, left: str | None = None) -> None:
    """Put the tree as it is into a rescue ref, if it differs from HEAD, or if no branch holds HEAD."""
    dirt = ports.git.dirt()
    head = dirt.head or turn.claim.base
    tree = left or ports.collector.snapshot(dirt._replace(head=head))
    if dirt.branch is None or tree != ports.git.tree(head):
        ref = ports.collector.rescue(turn.claim, tree, head, why)
        ports.tell("rescued", f"{turn.name}: the work tree as it was is kept in {ref}")


def _kept_where(ports: Ports, claim: Claim, head: str) -> str:
    kept = [f"its commits stay on {claim.branch}"] if head != claim.base else []
    refs = ports.collector.rescued(claim)
    kept += [f"the work tree is kept in {refs[-1]}"] if refs else []
    if head != claim.base and ports.git.is_ancestor(claim.base, head):
        kept += [f"to undo its commits: `git revert --no-edit {claim.base[:10]}..{head[:10]}`"]
    return f" ({'; '.join(kept)})" if kept else ""


def fenced(ports: Ports, turn: Turn, head: str, why: str) -> Halt:
    """Keep the work of a turn that is no longer ours, forget the turn, and stop."""
    tree = ports.git.tree(head)
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
