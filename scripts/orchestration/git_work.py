"""The person's files in a git work tree: looked at before a turn, pinned, kept, and told about (work.Work)."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from orchestration import branches, failpoints
from orchestration.background import Task
from orchestration.branches import fast_forward, is_rescued
from orchestration.bus import Fenced
from orchestration.collect import listed, moving_ref
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.journal import Carry, Checked, Claim, Claiming, Judged, Ran, Turn
from orchestration.settings import Config
from orchestration.snapshots import snapshots
from orchestration.stale_locks import break_of_turn, break_unmoved
from orchestration.state import CONFLICT, SECRET, TOO_LARGE, WITHHELD, Failure, State
from orchestration.tree import Change, Dirt
from orchestration.verdict import Judge
from orchestration.work import Summary, Survey, Taken
from orchestration.workspace import refuse_operation, require_branch

_BETWEEN = "\n  "


def to_tidy(dirty: Sequence[str], top: Path, state: str) -> str:
    """Return what to do about changed tracked files; a state file that was deleted is no change to commit."""
    text = "commit them, put them aside with `git stash`, or leave them as they are with --allow-dirty"
    if state not in dirty or os.path.lexists(top / state):
        return text
    back = f"`git checkout -- {state}` brings the state back"
    return back if list(dirty) == [state] else f"{back}; the others: {text}"


class GitWork:
    """What a turn does to a work tree, as differences of trees.

    Args:
        git: the verbs, at the top of the work tree.
        judge: decides what an agent's work comes to.
        config: whether changed tracked files are allowed.
        branch: the working branch.
        withholds: whether the work of a turn that must not be published is taken off the branch.

    """

    def __init__(self, git: Git, judge: Judge, config: Config, branch: str, *, withholds: bool = False) -> None:
        self._withholds = withholds
        self._git = git
        self._collector = judge.collector
        self._judge = judge
        self._config = config
        self._branch = branch
        self._tell = judge.tell

    # --- before the agent --------------------------------------------------------------------------------------------

    def survey(self, base: str, state: State, carry: Carry | None) -> Callable[[], Survey]:
        """Look at branch, operation and uncommitted files, and go forward to `base`.

        Raises:
            Refused: a person must put them in order first.

        """
        dirt = self._git.dirt()
        refuse_operation(self._git)
        require_branch(self._git, self._branch, dirt.branch)
        goes_on = carry is not None and carry.is_for(state.expected_actor, state.iteration)
        if not (goes_on or self._config.allow_dirty):
            self._require_clean(dirt, carry)
        if dirt.head == base:
            return lambda: self._surveyed(dirt, base)
        self._catch_up(dirt, base)
        after = self._git.asking_dirt()
        return lambda: self._surveyed(after(), base)

    def _surveyed(self, dirt: Dirt, base: str) -> Survey:
        tree = self._collector.snapshot(dirt)
        return Survey(tree, tree != self._git.tree(base))

    def _catch_up(self, dirt: Dirt, base: str) -> None:
        """Bring the work tree forward to the remote's tip.

        Raises:
            Refused: the branch has commits of its own, or uncommitted files are in the way.

        """
        moved = fast_forward(self._git, self._branch, base)
        if self._git.resolve(f"refs/heads/{self._branch}") == base:
            return
        here = dirt.head or ""
        if moved or not self._git.is_ancestor(here, base):  # a branch that is ahead has nowhere to move
            ahead = self._git.is_ancestor(base, here)
            remote = self._config.sync.remote
            push, merge = f"`git push {remote} {self._branch}`", f"`git pull --no-rebase {remote} {self._branch}`"
            leave = f"leave them, since a rescue ref holds them: `git reset --keep {base}`; or publish them: "
            raise Refused(
                f"the branch {self._branch} has commits that {remote} lacks: {here[:10]} is not in {base[:10]}",
                code="local-ahead" if ahead else "local-diverged",
                remedy=(leave if is_rescued(self._git, here) else "") + (push if ahead else f"{merge}, and {push}"),
            )
        blocked = self._in_the_way(dirt, self._git.difference(here, base))
        raise Refused(
            f"uncommitted files are in the way of what {self._config.sync.remote} has:"
            f"{_BETWEEN}{listed(blocked, _BETWEEN)}",
            code="would-overwrite",
            remedy="commit them, or put them aside: `git stash --include-untracked`",
        )

    def _in_the_way(self, dirt: Dirt, changes: Sequence[Change]) -> list[str]:
        """Return what lies uncommitted where a commit would put something else; ignored files count."""
        lying = {*dirt.tracked, *dirt.untracked}
        lying |= {change.path for change in changes if change.new and os.path.lexists(self._git.top / change.path)}
        paths = [change.path for change in changes]
        return sorted(
            path
            for path in lying
            if any(path == to or path.startswith(f"{to}/") or to.startswith(f"{path}/") for to in paths)
        )

    def _require_clean(self, dirt: Dirt, carry: Carry | None) -> None:
        """Refuse changed tracked files of the project, unless a turn was allowed to leave them just so."""
        dirty = [path for path in dirt.tracked if self._collector.rules.must_be_clean(path)]
        if dirty and carry and self._git.resolve(carry.kept):
            changed = {change.path for change in self._git.difference(carry.kept, self._collector.snapshot(dirt))}
            dirty = [path for path in dirty if path in changed]
        if dirty:
            raise Refused(
                f"tracked files are changed and not committed:{_BETWEEN}{listed(dirty, _BETWEEN)}",
                code="dirty-tree",
                remedy=to_tidy(dirty, self._git.top, self._collector.rules.state),
            )

    def begin(self, entry: Claiming) -> Turn:
        """Pin what lies uncommitted in the tree.

        A retry goes on from the snapshot of the first attempt, but for what a person changed after it.
        """
        claim, carry, before, origin = entry.claim, entry.carry, entry.before, None
        if carry and carry.is_for(claim.actor, claim.iteration) and self._have(carry.before, carry.kept):
            before, origin = self._collector.overlay(carry.before, carry.kept, before), carry.origin
        pin = None
        if entry.uncommitted:
            pin = self._collector.rescue(claim, entry.before, claim.base, "the work tree at the claim")
        return Turn(claim, before, pin, origin=origin)

    def go_on(self, turn: Turn) -> Turn:
        """Begin an interrupted turn again: what changed since it stopped is the person's, and pinned anew."""
        if turn.stopped is None or not self._have(turn.before, turn.stopped):
            return replace(turn, stopped=None)
        now = self._collector.snapshot(self._git.dirt())
        if now == turn.stopped:
            return replace(turn, stopped=None)
        pin = self._collector.rescue(turn.claim, now, turn.claim.base, "the work tree at the restart")
        if turn.pin and turn.pin != pin and self._person_untouched(turn, turn.stopped):
            self._collector.drop(turn.pin)
        before = self._collector.overlay(turn.before, turn.stopped, now)
        return replace(turn, before=before, pin=pin, stopped=None)

    def _have(self, *trees: str) -> bool:
        """Tell whether these trees are still there: no ref may hold them, and somebody may have pruned."""
        return None not in self._git.ids(trees)

    # --- after the agent ---------------------------------------------------------------------------------------------

    def snapshots(self, turn: Turn) -> Task[None]:
        """Keep the tree as it is now and then, in one rescue ref that moves."""
        return snapshots(self._collector, turn.claim, self._config.limits.snapshot_interval, self._tell)

    def keep(self, turn: Turn, why: str) -> str:
        """Put the tree as it is into a rescue ref, if it differs from HEAD, or if no branch holds HEAD."""
        return self._keep(turn, why, self._git.dirt())[0]

    def _keep(self, turn: Turn, why: str, dirt: Dirt, left: str | None = None) -> tuple[str, str | None]:
        """Do what `keep` does; return also the ref, if there is one."""
        head = dirt.head or turn.claim.base
        tree = left or self._collector.snapshot(dirt._replace(head=head))
        if dirt.branch is not None and tree == self._git.tree(head):
            return tree, None
        ref = self._collector.rescue(turn.claim, tree, head, why)
        self._tell("rescued", f"{turn.name}: the work tree as it was is kept in {ref}")
        return tree, ref

    def take(self, entry: Ran) -> Taken | Fenced | None:
        """Judge what the agent did to the repository, and commit or keep what it left uncommitted."""
        return self._judge.take(entry)

    def close(self, entry: Ran, taken: Taken) -> Checked:
        """Keep the tree of a failed turn; see whether the person's files are as they were."""
        return self._close(self.judged(entry, taken), taken.failure)

    def judged(self, entry: Ran, taken: Taken) -> Judged:
        """Note the tree as it is before the gates."""
        left = taken.left or self._collector.snapshot(self._git.dirt())
        return Judged(entry.turn, entry.decision, entry.outcome, taken.head, left, taken.exit_reason)

    def gated(self, entry: Judged, failure: Failure | None) -> Checked:
        """End the turn after its gates: what they wrote counts as if it had been there at the claim."""
        left = self._collector.snapshot(self._git.dirt())
        checked = self._close(replace(entry, left=left), failure)
        if not self._have(entry.turn.before, entry.left):
            return checked
        before = self._collector.overlay(entry.turn.before, entry.left, left)
        return replace(checked, turn=replace(entry.turn, before=before))

    def _close(self, entry: Judged, failure: Failure | None) -> Checked:
        turn, left, head = entry.turn, entry.left, entry.work_head
        if failure and self._is_withheld(failure):
            ref = self._collector.rescue(turn.claim, self._git.tree(head), head, failure.code)
            self._keep(turn, failure.code, self._git.dirt(), left)
            reason = f"{failure.reason} (withheld: its work is kept in {ref}, and not published)"
            failure, head = replace(failure, reason=reason), turn.claim.base
        elif failure:
            self._keep(turn, failure.code, self._git.dirt(), left)
            failure = replace(failure, reason=failure.reason + self._kept_where(turn.claim, head, failure.code))
        unpin = failure is None and self._person_untouched(turn, left)
        failpoints.hit("turn.checked")
        return Checked(turn, entry.decision, entry.outcome, head, left, failure, entry.exit_reason, unpin)

    def _is_withheld(self, failure: Failure) -> bool:
        return self._withholds and failure.code in WITHHELD

    def _person_untouched(self, turn: Turn, left: str) -> bool:
        """Tell whether every file of the person's that is pinned still has its bytes in the tree; warn if not.

        What differs from `before` in the pin is an earlier attempt's work at this turn.
        """
        if turn.pin is None or self._git.resolve(turn.pin) is None:  # dropped already, before a crash
            return True
        pinned = f"{turn.pin}^{{tree}}"
        theirs = {change.path for change in self._git.difference(f"{turn.claim.base}^{{tree}}", pinned)}
        if self._have(turn.before):
            theirs -= {change.path for change in self._git.difference(turn.before, pinned)}
        touched = [change.path for change in self._git.difference(pinned, left) if change.path in theirs]
        if touched:
            some = listed(touched)
            text = f"the agent changed files that were not committed: {some}; kept in {turn.pin}"
            self._tell("untracked-changed", text)
        return not touched

    def _kept_where(self, claim: Claim, head: str, code: str) -> str:
        kept = [f"its commits stay on {claim.branch}"] if head != claim.base else []
        refs = self._collector.rescued(claim)
        kept += [f"the work tree is kept in {refs[-1]}"] if refs else []
        reverted = code not in {SECRET, TOO_LARGE}  # a commit on top hides neither
        if reverted and head != claim.base and self._git.is_ancestor(claim.base, head):
            kept += [f"to undo its commits: `git revert --no-edit {claim.base[:10]}..{head[:10]}`"]
        return f" ({'; '.join(kept)})" if kept else ""

    def left(self, checked: Checked) -> Carry | None:
        """Return the trees of a turn that failed or left files uncommitted."""
        claim, failure = checked.turn.claim, checked.failure
        if failure and (failure.code == CONFLICT or self._is_withheld(failure)):  # the branch has left its commits
            now = self._collector.snapshot(self._git.dirt())
            return Carry(claim.actor, claim.iteration, checked.turn.before, now)
        if checked.failure is None and checked.left == self._git.tree(checked.work_head):
            return None
        origin = checked.turn.origin or claim.base
        return Carry(claim.actor, claim.iteration, checked.turn.before, checked.left, origin)

    def forget(self, checked: Checked) -> None:
        """Drop the pin if the person's files are as they were, and the snapshots of a turn that went well."""
        if checked.failure is None:
            self._collector.drop(moving_ref(checked.turn.claim))
        if checked.turn.pin and checked.unpin:
            self._collector.drop(checked.turn.pin)

    def abandon(self, turn: Turn, head: str | None, why: str) -> str | None:
        """Keep commits and tree of a turn that is not published; return the ref of the commits, else of the tree."""
        head = head or self._git.resolve(f"refs/heads/{turn.claim.branch}") or turn.claim.base
        ours = head != turn.claim.base or (self._withholds and not branches.is_seen(self._git, head))
        commits = self._collector.rescue(turn.claim, self._git.tree(head), head, why) if ours else None
        _, tree = self._keep(turn, why, self._git.dirt())
        return commits or tree

    def summary(self, base: str, head: str) -> Summary:
        """Tell what lies between two commits."""
        if base == head:
            return Summary([], 0, 0, 0)
        commits = [f"{short} {subject}" for short, subject in self._git.subjects(base, head)]
        return Summary(commits, *self._git.shortstat(base, head))

    def break_locks(self, claim: Claim | None) -> list[str]:
        """Remove the locks that a killed git of the turn left; without one, those of which nothing moves."""
        if claim is None:
            return break_unmoved(self._git, self._branch)
        return break_of_turn(self._git, claim.branch, datetime.fromisoformat(claim.claimed_at))

    def finish_move(self) -> None:
        """Bring the work tree to the commit to which a killed git of ours was bringing it."""
        kept = branches.finish_move(self._git, self._branch)
        if kept:
            text = f"a git of ours was killed while it changed files; what it left half-written is kept in {kept}"
            self._tell("move-finished", text)
