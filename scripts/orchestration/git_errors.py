"""How git is called, and what it says when it fails: the command, its code, both streams, and what to type."""

from orchestration.errors import OrchestrationError
from orchestration.process import Completed, Why

FLAGS = (
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "submodule.recurse=0",
    "-c", "core.fsmonitor=false",
    "-c", "core.quotePath=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.safecrlf=false",
    "-c", "log.showSignature=false",
    "-c", "log.showRoot=true",
    "-c", "merge.autoStash=false",
    "-c", "push.followTags=false",
    "-c", "i18n.commitEncoding=UTF-8",
    "-c", "i18n.logOutputEncoding=UTF-8",
)  # fmt: skip
"""What every command of ours is given, whatever the repository is configured for."""


class GitError(OrchestrationError):
    """A git command failed: carries the command, its code and both streams."""

    def __init__(self, done: Completed, *, code: str = "git-failed", remedy: str | None = None) -> None:
        command = " ".join(["git", *done.argv[1 + len(FLAGS) :]])
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        how = f"exit {done.code}" if done.why is Why.EXITED else f"{done.why} after {done.seconds:.0f} s"
        super().__init__(f"`{command}` failed ({how}): {said}", code=code, remedy=remedy or "mend it and start again")
        self.done = done


class PathGoneError(GitError):
    """An untracked file vanished between the look and the snapshot: an editor's, say. Look again."""


def explained(done: Completed, *, locked: bool) -> GitError:
    """Return the failure of a command, or of one that found a lock."""
    if not locked:
        return GitError(done)
    path = done.stderr.decode(errors="replace").partition("Unable to create '")[2].partition("'")[0]
    return GitError(
        done, code="git-locked", remedy=f"another git works here, or one has died; if none runs, remove {path}"
    )


def not_a_work_tree(done: Completed, *, bare: bool) -> GitError:
    """Return why there is no work tree here."""
    if b"dubious ownership" in done.stderr:
        line = next((line for line in done.stderr.decode().splitlines() if "safe.directory" in line), "")
        return GitError(done, code="repository-ownership", remedy=line.strip())
    if bare:
        error = GitError(done, code="repository-bare", remedy="clone it, and start in the clone")
        error.message = "this is a bare repository, without a work tree"
        return error
    if b"must be run in a work tree" in done.stderr:
        return GitError(done, code="repository-git-dir", remedy="this is a git dir: go to the work tree that it is of")
    error = GitError(
        done, code="repository-missing", remedy="go to your project, make it a repository (`git init`), or add --no-git"
    )
    error.message = "this is not a git repository"
    return error
