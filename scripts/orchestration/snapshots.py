"""The work tree while an agent runs, kept now and then: who wrecks what it has not committed loses no more than that.

One rescue ref of the claim moves from snapshot to snapshot. Each has the one before it as its second parent, so that
what was kept once stays reachable, and HEAD as its first, against which `orchestrator rescue` shows it.
"""

from collections.abc import Callable

from orchestration.background import Task
from orchestration.collect import Collector, moving_ref
from orchestration.errors import OrchestrationError
from orchestration.journal import Claim


def snapshots(collector: Collector, claim: Claim, seconds: float, tell: Callable[[str, str], None]) -> Task[None]:
    """Keep the tree every so many seconds (0: never) until cut short; a failure is told once and ends nothing."""
    git, told = collector.git, False
    while seconds:
        yield git.loop.after(seconds, lambda: None)
        try:
            yield from _snapshot(collector, claim)
        except (OrchestrationError, OSError) as error:
            if not told and git.operation() is None:  # one that began meanwhile leaves an index without a tree
                told = True
                tell("snapshot", f"{claim.name}: the work tree could not be kept; trying again: {error}")


def _snapshot(collector: Collector, claim: Claim) -> Task[None]:
    """Move the ref on, unless the tree is HEAD's or is kept in it already."""
    git, ref = collector.git, moving_ref(claim)
    if git.operation():
        return
    dirt = yield from git.seeing_dirt()
    head = dirt.head or claim.base
    tree = yield from collector.snapping(dirt._replace(head=head))
    old = git.resolve(ref)
    before = git.ids([f"{old}^{{tree}}", f"{old}^"]) if old else None
    if tree == git.tree(head) or before == [tree, head]:
        return
    parents = ("-p", head, *(("-p", old) if old else ()))
    commit = yield from git.asking("commit-tree", tree, *parents, "-m", "rescue: while the agent ran")
    yield from git.asking("update-ref", "-m", "rescue: while the agent ran", ref, commit, old or "")
