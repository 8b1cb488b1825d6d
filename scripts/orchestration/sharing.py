"""What a clone must have before its turn can be shared through a remote: looked at before the first claim."""

import re
from collections.abc import Iterator

from orchestration.errors import Refused, UsageError
from orchestration.git import Git
from orchestration.remote import uses_lfs
from orchestration.settings import SyncSettings

_MERGES = (2, 38)
"""The first git that merges in memory (`git merge-tree --write-tree`)."""


def obstacles(git: Git, remote: str) -> Iterator[Refused]:
    """Yield what stands in the way, each with what to type; nothing of it asks the remote."""
    yield from _version(git)
    yield from _address(git, remote)
    if git.ask("rev-parse", "--is-shallow-repository") == "true":
        yield Refused(
            "the clone is shallow: whether one commit contains another cannot be told",
            code="clone-shallow",
            remedy=f"`git fetch --unshallow {remote}`",
        )
    if uses_lfs(git) and git.call("lfs", "version").code:
        yield Refused(
            "the project keeps files with Git LFS, and git-lfs is not installed: their contents would not be pushed",
            code="lfs-missing",
            remedy="install git-lfs, then `git lfs install` and `git lfs pull`",
        )


def require(git: Git, sync: SyncSettings) -> None:
    """Refuse to share where something stands in the way.

    Raises:
        Refused: the first obstacle.
        UsageError: no sign of life could come in time.

    """
    if 2 * sync.heartbeat > sync.lease:
        raise UsageError(
            f"sync.lease ({sync.lease:g} s) is shorter than two of sync.heartbeat ({sync.heartbeat:g} s)",
            code="config-bad-value",
            remedy="make it several times as long: a sign of life may be lost on its way",
        )
    for obstacle in obstacles(git, sync.remote):
        raise obstacle


def require_remote(git: Git, remote: str) -> None:
    """Refuse to ask a remote that this clone does not know.

    Raises:
        Refused: code `remote-unknown`.

    """
    for obstacle in _address(git, remote):
        raise obstacle


def _version(git: Git) -> Iterator[Refused]:
    found = re.search(r"(\d+)\.(\d+)", git.ask("version"))
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < _MERGES:
        have, need = ".".join(map(str, version)), ".".join(map(str, _MERGES))
        yield Refused(f"git {have} cannot merge in memory", code="git-too-old", remedy=f"install git {need} or newer")


def _address(git: Git, remote: str) -> Iterator[Refused]:
    known = git.ask("remote").splitlines()
    if remote in known or "/" in remote or ":" in remote:
        return
    names = f"; known here: {', '.join(known)} (`-c sync.remote=NAME`)" if known else ""
    yield Refused(
        f"there is no remote called {remote} (sync.remote)",
        code="remote-unknown",
        remedy=f"`git remote add {remote} ADDRESS`, then `git push -u {remote} BRANCH`{names}",
    )
