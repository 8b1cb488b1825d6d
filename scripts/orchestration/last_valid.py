"""The last valid version of a damaged state: the commit that holds it, and the command that brings it back."""

from orchestration import state
from orchestration.errors import Refused
from orchestration.git import Git

_AS_FAR_BACK = 100
"""Commits of the state file that are read."""


def last_valid(git: Git, tip: str, path: str, *, epoch: int, iteration: int) -> str | None:
    """Return the commit below `tip` of the furthest state that can be read; None: it lies before what was seen."""
    commits = git.ask("log", f"-{_AS_FAR_BACK}", "--format=%H", tip, "--", path).split()
    best, found = (epoch, iteration), None
    for commit, data in reversed(list(zip(commits, git.blobs([f"{name}:{path}" for name in commits]), strict=True))):
        try:
            now = state.parse(data)
        except Refused:
            continue
        if now.epoch >= best[0] and now.iteration >= best[1]:
            best, found = (now.epoch, now.iteration), commit
    return found


def restoring(commit: str, path: str, remote: str, branch: str) -> str:
    """Return the command that publishes the state of `commit` again."""
    return (
        f"restore the last valid version: `git pull --ff-only {remote} {branch} && git checkout {commit} -- {path} && "
        f"git commit -m 'the state, restored' -- {path} && git push {remote} {branch}`"
    )
