"""How a local branch, and the work tree that has it checked out, follow what is published."""

import os

from orchestration.git import Git
from orchestration.git_errors import GitError


def merged(git: Git, ours: str, theirs: str) -> tuple[str, list[str]]:
    """Merge two commits in memory; return the tree, and the paths that conflict (the tree is then of no use).

    Raises:
        GitError: git is older than 2.38, or a commit is not there.

    """
    done = git.call("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs)
    if done.code not in {0, 1}:
        raise GitError(done)
    tree, *paths = os.fsdecode(done.stdout).rstrip("\0").split("\0")
    return tree, list(dict.fromkeys(paths))


def fast_forward(git: Git, branch: str, to: str) -> bool:
    """Move a branch forward, and the work tree with it where it is checked out; False: files are in the way."""
    if git.has_checked_out(branch):
        return git.call("merge", "--ff-only", "--quiet", "--no-stat", "--no-verify-signatures", to).code == 0
    ref = f"refs/heads/{branch}"
    return git.update_ref(ref, to, git.resolve(ref) or "", "orchestrator: follow the remote")


def is_rescued(git: Git, commit: str) -> bool:
    """Tell whether a rescue ref holds a commit."""
    return bool(git.ask("for-each-ref", "--count=1", f"--contains={commit}", "refs/rescue/"))


def leave(git: Git, branch: str, to: str) -> bool:
    """Take a branch off commits that a rescue ref holds, to `to`; every changed file stays. False: git could not.

    The one move of a local branch that is not forward (handoff.md, "Withheld turn").
    """
    if git.has_checked_out(branch):
        git.call("update-index", "-q", "--refresh")  # an entry whose file was not looked at counts as changed
        return git.call("reset", "--keep", "--quiet", to).code == 0
    ref = f"refs/heads/{branch}"
    return git.update_ref(ref, to, git.resolve(ref) or "", "orchestrator: leave what is rescued")
