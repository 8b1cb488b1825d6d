"""How a local branch, and the work tree that has it checked out, follow what is published."""

import os
from collections.abc import Sequence

from orchestration import files
from orchestration.git import Git
from orchestration.git_errors import GitError, explained
from orchestration.process import Why
from orchestration.scratch_index import tree_of_files
from orchestration.tree import Commit, File

_MOVING = "orchestration/moving"
"""The file of the git dir that names the branch that is being moved with its work tree, and the commit it goes to."""

_GIT_DIES = 128
"""The exit code with which git gives up; more is a signal's."""


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


def merged_with_both_ends(git: Git, ours: str, theirs: str, path: str) -> tuple[str, list[str]]:
    """Do what `merged` does; of a file that conflicts because both have added at its end, both ends are taken.

    Raises:
        GitError: as `merged` does.

    """
    tree, paths = merged(git, ours, theirs)
    if paths != [path]:
        return tree, paths
    base = git.common(ours, theirs)
    mine, other, was = git.blobs([f"{commit}:{path}" for commit in (ours, theirs, base)])
    was = was or b""
    if mine is None or other is None or not (mine.startswith(was) and other.startswith(was)):
        return tree, paths
    both = File(path, data=other + mine[len(was) :])
    return merged(git, *(git.commit_files(commit, [both], "with both ends") for commit in (ours, theirs)))


def fast_forward(git: Git, branch: str, to: str) -> bool:
    """Move a branch forward, and the work tree with it where it is checked out.

    False: `to` does not contain the branch, or files are in the way, also ignored ones: they are a person's all the
    same. A branch that is ahead stays, which is true.

    Raises:
        GitError: git was killed; `finish_move` does the rest.

    """
    if git.has_checked_out(branch):
        plain = ("-c", f"branch.{branch}.mergeOptions=")  # a person's --squash or `-s ours` would make another commit
        quiet = ("--quiet", "--no-stat", "--no-verify-signatures", "--no-overwrite-ignore")
        return _move(git, branch, to, (*plain, "merge", "--ff-only", *quiet, to))
    ref = f"refs/heads/{branch}"
    here = git.resolve(ref) or ""
    if here and not git.is_ancestor(here, to):
        return git.is_ancestor(to, here)
    return git.update_ref(ref, to, here, "orchestrator: follow the remote")


def _move(git: Git, branch: str, to: str, command: Sequence[str]) -> bool:
    """Have git change branch and work tree; a mark stands as long as a kill would leave them half changed."""
    mark = git.dir() / _MOVING
    files.replace(mark, os.fsencode(f"{branch}\n{to}\n"))
    done = git.call(*command)
    locked = b".lock': File exists" in done.stderr
    if done.why is not Why.EXITED or done.code > _GIT_DIES:
        raise GitError(done)
    mark.unlink(missing_ok=True)
    if locked:
        raise explained(done, locked=True)
    return done.code == 0


def finish_move(git: Git, branch: str) -> str | None:
    """Finish what a kill has cut short of moving branch and work tree; return the ref of bytes that were in the way.

    The files that were to change are the move's. What some of them hold beside the old and the new content, half a
    file or what a person wrote since, is kept first.
    """
    mark, ref = git.dir() / _MOVING, f"refs/heads/{branch}"
    if not mark.is_file():
        return None
    whose, to = os.fsdecode(mark.read_bytes()).split()
    if whose != branch or not git.has(to):
        return None
    here, kept = git.resolve(ref), None
    ours = here is not None and git.has_checked_out(branch) and git.operation() is None
    if ours and here and here != to and (git.is_ancestor(here, to) or is_rescued(git, here)):
        changes = git.difference(here, to)
        kept = _keep_strange(git, branch, (here, to), [change.path for change in changes])
        stay = [change.path for change in changes if change.mode != "0"]
        rows = b"".join(os.fsencode(path) + b"\0" for path in stay)
        if stay:
            told = ("--pathspec-from-file=-", "--pathspec-file-nul")
            git.ask("restore", "--staged", "--worktree", "--quiet", f"--source={to}", *told, stdin=rows)
        gone = [change.path for change in changes if change.mode == "0"]
        git.unset_index(gone)
        for path in gone:
            (git.top / path).unlink(missing_ok=True)
        git.update_ref(ref, to, here, "orchestrator: finish what was cut short")
    mark.unlink(missing_ok=True)
    return kept


def _keep_strange(git: Git, branch: str, ends: tuple[str, str], paths: Sequence[str]) -> str | None:
    """Keep the files among `paths` that are as in neither of two commits; return the rescue ref, None for none."""
    there = [path for path in paths if os.path.lexists(git.top / path)]
    tree = tree_of_files(git, there, git.top / git.paths_of(["orchestration"])[0])
    strange = set(there)
    for end in ends:
        strange &= {change.path for change in git.difference(end, tree)}
    if not strange:
        return None
    commit = git.commit_tree(Commit(tree, [ends[0]], "rescue: files of a move that was cut short\n"))
    ref = f"refs/rescue/{branch}/move/{commit}/1"
    git.update_ref(ref, commit, "", "rescue: files of a move that was cut short")
    return ref


def is_rescued(git: Git, commit: str) -> bool:
    """Tell whether a rescue ref holds a commit."""
    return _is_held(git, commit, "refs/rescue/")


def is_seen(git: Git, commit: str) -> bool:
    """Tell whether a remote is known to have a commit."""
    return _is_held(git, commit, "refs/orchestration/seen/")


def _is_held(git: Git, commit: str, refs: str) -> bool:
    return bool(git.ask("for-each-ref", "--count=1", f"--contains={commit}", refs))


def leave(git: Git, branch: str, to: str) -> bool:
    """Take a branch off commits that a rescue ref holds, to `to`; every changed file stays. False: git could not.

    The one move of a local branch that is not forward (docs/protocol.md).

    Raises:
        GitError: git was killed; `finish_move` does the rest.

    """
    if git.has_checked_out(branch):
        git.call("update-index", "-q", "--refresh")  # reset refuses where the index knows no times: of our leftovers
        return _move(git, branch, to, ("reset", "--keep", "--quiet", to))
    ref = f"refs/heads/{branch}"
    return git.update_ref(ref, to, git.resolve(ref) or "", "orchestrator: leave what is rescued")
