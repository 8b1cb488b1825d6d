"""Trees made in an index of our own: the person's is only read."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestration.background import Task, complete
from orchestration.git import Git, rows
from orchestration.git_errors import GitError, PathGoneError
from orchestration.tree import Change, split_at_links


def tree_of_files(git: Git, paths: Iterable[str], scratch: Path) -> str:
    """Return the tree of the index with `paths` as they are in the work tree; the real index is only read."""
    return complete(git.loop, taking_tree(git, paths, scratch))


def taking_tree(git: Git, paths: Iterable[str], scratch: Path) -> Task[str]:
    """Do what `tree_of_files` does, as a task.

    Paths that git cannot read are left as the index has them; a path below what is a symbolic link now is gone.
    """
    gone, there = split_at_links(git.top, paths)
    real = git.top / (yield from git.asking("rev-parse", "--git-path", "index"))
    with _temporary(scratch) as index:
        if real.exists():
            times = real.stat()  # git reads again what is no older than its index, so the copy must not be younger
            index.write_bytes(real.read_bytes())
            os.utime(index, ns=(times.st_atime_ns, times.st_mtime_ns))
        if gone:
            yield from git.asking("update-index", "--force-remove", "-z", "--stdin", stdin=rows(gone), index=index)
        if not there:
            return (yield from git.asking("write-tree", index=index))
        add = ("add", "-A", "--sparse", "--ignore-errors", "--pathspec-from-file=-", "--pathspec-file-nul")
        yield (added := git.start(*add, stdin=rows(there), index=index))
        done = added()
        if done.code not in {0, 1}:
            raise PathGoneError(done) if b"did not match any files" in done.stderr else GitError(done)
        return (yield from git.asking("write-tree", index=index))


def tree_with(git: Git, tree: str, changes: Iterable[Change], scratch: Path) -> str:
    """Return `tree` with these paths changed; the real index is not touched."""
    with _temporary(scratch) as index:
        git.ask("read-tree", tree, index=index)
        git.set_index(changes, index=index)
        return git.ask("write-tree", index=index)


@contextmanager
def _temporary(scratch: Path) -> Iterator[Path]:
    scratch.mkdir(parents=True, exist_ok=True)
    index = scratch / f"index.{os.getpid()}.{secrets.token_hex(4)}"  # a task that was cut short may leave a git behind
    try:
        yield index
    finally:
        index.unlink(missing_ok=True)
        index.with_suffix(f"{index.suffix}.lock").unlink(missing_ok=True)
