"""What an agent's work in a git work tree comes to: judged, committed or kept."""

from collections.abc import Callable
from typing import NamedTuple

from orchestration import state
from orchestration.bus import Bus, Fenced
from orchestration.collect import Collector, Trees, listed, subject
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.journal import Claim, Ran, Turn
from orchestration.scan import Scanner
from orchestration.settings import ActorSettings, Config, Leftovers
from orchestration.state import LEFTOVERS, SCOPE, Failure
from orchestration.tree import Change, Commit, Dirt
from orchestration.work import Taken
from orchestration.workspace import Workspace


class _Verdict(NamedTuple):
    """The commit to hand off on, and why the turn fails, if it does.

    No head: the branch moved meanwhile, and the check is to be made anew.
    """

    head: str | None
    failure: Failure | None


class Judge:
    """Judges the work tree after an agent.

    Args:
        git: the verbs.
        workspace: where the state file lies.
        bus: tells what state a commit holds.
        config: policies, scope, size limit.
        tell: takes (code, text) of what a person should see.

    """

    def __init__(
        self, git: Git, workspace: Workspace, bus: Bus, config: Config, tell: Callable[[str, str], None]
    ) -> None:
        self.collector = Collector(git, workspace, config)
        self.tell = tell
        self._git = git
        self._scanner = Scanner(git, self.collector.rules, config)
        self._workspace = workspace
        self._bus = bus
        self._config = config

    def take(self, entry: Ran) -> Taken | Fenced | None:
        """Judge what the agent did to the repository, and commit what it left; None: the branch moved meanwhile."""
        claim = entry.turn.claim
        dirt = self._git.dirt()
        self._name_what_is_not_kept(dirt)
        tip = self._git.resolve(f"refs/heads/{claim.branch}")
        if tip is None:
            return Fenced(f"the branch {claim.branch} was deleted")
        taken_over = self._taken_over(claim, tip)
        if taken_over:
            return Fenced(taken_over)
        flag = self._exit_flag(claim, tip)
        head, failure = self._lineage(claim, dirt, tip)
        if head is None:
            return None
        left = self.collector.snapshot(dirt)
        trees = self._trees(entry.turn, head, left)
        withheld = self._scanner.commits(self._origin(entry.turn), head)
        failure = withheld or entry.outcome.failure or failure or self._out_of_scope(entry.turn, trees)
        if failure:
            return Taken(head, failure, flag, left)
        after, failure = self._settle_leftovers(entry, head, trees)
        return Taken(after, failure, flag, left if after == head else None) if after else None

    def _trees(self, turn: Turn, head: str, left: str) -> Trees:
        """Return the trees of the turn; where the claim's was pruned, nothing uncommitted is the agent's for sure."""
        before = turn.before
        if self._git.resolve(before) is None:
            why = "the snapshot of the claim is gone (`git gc --prune`?); uncommitted files are left as they are"
            self.tell("snapshot-gone", f"{turn.name}: {why}")
            before = left
        origin = self._git.tree(turn.origin or turn.claim.base)
        return Trees(origin, before, self._git.tree(head), left)

    def _origin(self, turn: Turn) -> str:
        """Return the commit on which the turn began, also at its first attempt, if it is still there."""
        origin = turn.origin
        return origin if origin and self._git.has(origin) else turn.claim.base

    def _actor(self, turn: Turn) -> ActorSettings:
        return self._config.actors.of(turn.claim.actor)

    def _name_what_is_not_kept(self, dirt: Dirt) -> None:
        """Warn, once a run, of what no snapshot holds: it stays where it is."""
        left_out = self.collector.left_out(dirt)
        if left_out:
            limit = f"{self._config.limits.snapshot_file:g} MiB"
            why = f"larger than limits.snapshot_file ({limit}), or a nested repository"
            self.tell("not-kept", f"neither committed nor in a rescue ref: {listed(left_out)} ({why})")

    def _taken_over(self, claim: Claim, tip: str) -> str | None:
        """Return who took the turn while the agent ran: a valid state with a newer epoch on the branch.

        Where the turn is shared, this branch is only a copy that the agent may write to: the hand-off asks the remote.
        """
        if claim.settings is not None:
            return None
        try:
            now = self._bus.state_at(tip)
        except Refused:
            return None  # the agent damaged the file; the hand-off restores it
        if now.epoch >= claim.token.epoch and now.nonce != claim.token.nonce:
            return f"the branch {claim.branch} holds epoch {now.epoch} of {now.holder or 'another hand'}"
        return None

    def _lineage(self, claim: Claim, dirt: Dirt, tip: str) -> _Verdict:
        """Find the work on the claim's branch, on top of the claim's base."""
        operation = self._git.operation()
        if operation:
            reason = f"the agent left a {operation} in progress"
            return _Verdict(tip, Failure(reason=reason, code="operation-in-progress"))
        if dirt.branch != claim.branch:
            where = dirt.branch or "a detached HEAD"
            reason = f"the agent left the branch {claim.branch} for {where}"
            return _Verdict(tip, Failure(reason=reason, code="switched-branch"))
        if self._git.is_ancestor(claim.base, tip):
            return _Verdict(tip, None)
        return self._rewritten(claim, tip)

    def _rewritten(self, claim: Claim, tip: str) -> _Verdict:
        """Put the work of an agent that amended the commit it began on back on top of it."""
        tree = self._git.tree(tip)
        rewritten = self.collector.rescue(claim, tree, tip, "the agent's rewritten commits")
        parents = self._git.parents(claim.base)
        if parents and not self._git.is_ancestor(parents[0], tip):
            old = f"{claim.base}^{{tree}}"
            self.collector.rescue(claim, old, claim.base, "the branch before the agent rewrote it")
            reason = "the agent rewrote commits that were there before its turn"
            return _Verdict(tip, Failure(reason=reason, code="rewrote-history"))
        text = f"{claim.name}: rewritten by the agent\n\nThe agent's own commits are in {rewritten}.\n"
        head = self._git.commit_tree(Commit(tree, [claim.base], text))
        if not self._git.update_ref(f"refs/heads/{claim.branch}", head, tip, "orchestrator: rewritten by the agent"):
            return _Verdict(None, None)
        self.tell("rewritten", "the agent rewrote the commit that its turn began on; its work was put back on top")
        return _Verdict(head, None)

    def _out_of_scope(self, turn: Turn, trees: Trees) -> Failure | None:
        """Return why the turn fails if it changed a path outside its actor's scope, committed or not."""
        if not self._actor(turn).scope:
            return None
        actor = turn.claim.actor
        outside = self.collector.rules.outside_scope(actor, self.collector.changes(trees))
        if not outside:
            return None
        reason = f"{actor} changed files outside its scope: {listed(outside)} (actors.{actor}.scope)"
        return Failure(reason=reason, code=SCOPE)

    def _settle_leftovers(self, entry: Ran, head: str, trees: Trees) -> _Verdict:
        """Commit what may be committed; return the new head, or why the policy fails the turn."""
        turn = entry.turn
        changes, outside = self.collector.leftovers(trees)
        if not changes and not outside:
            return _Verdict(head, None)
        allowed, rest = self.collector.sort(changes)
        policy = self._actor(turn).leftovers
        if (rest or outside) and policy is Leftovers.FAIL:
            actor = turn.claim.actor
            paths = listed([change.path for change in [*rest, *outside]])
            reason = (
                f"{actor} left files uncommitted that it must not write: {paths} (actors.{actor}.leftovers is fail)"
            )
            return _Verdict(head, Failure(reason=reason, code=LEFTOVERS))
        ref = self.collector.rescue(turn.claim, trees.now, head, "leftovers", besides=turn.pin)
        wanted = allowed if policy is Leftovers.KEEP else changes
        withheld = self._scanner.leftovers(head, wanted)
        if withheld:
            return _Verdict(head, withheld)
        after = self._commit(entry, head, wanted)
        if (wanted == changes and not outside) or after is None:
            self.collector.drop(ref)  # committed, or about to be kept anew
        elif outside:
            some = listed([change.path for change in outside])
            self.tell("outside", f"left outside of the project and not committed: {some}; kept in {ref}")
        return _Verdict(after, None)

    def _commit(self, entry: Ran, head: str, wanted: list[Change]) -> str | None:
        if not wanted:
            return head
        text = subject(entry.turn, entry.decision.prompt if entry.decision else "-", wanted)
        return self.collector.commit(entry.turn.claim.branch, head, wanted, text)

    def _exit_flag(self, claim: Claim, tip: str) -> str | None:
        """Take `exit` and `exit_reason` from the agent's copy of the state; say so if it holds any other edit."""
        path = self._config.state_file
        file = self._workspace.root / path
        in_git = self._workspace.in_git(path)
        base, committed = self._git.blobs([f"{claim.base}:{in_git}", f"{tip}:{in_git}"])
        copy = file.read_bytes().replace(b"\r\n", b"\n") if file.is_file() else None  # a checkout may have made them
        if copy == base == committed:
            return None
        wanted = state.requested_exit(committed if copy is None else copy)
        if wanted is None or not state.differs_in_exit_only(base, copy):
            self.tell("state-edited", f"the agent edited {path}; only exit and exit_reason are taken from it")
        return wanted
