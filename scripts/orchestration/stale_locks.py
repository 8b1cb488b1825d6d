"""Locks that a killed git left, and who else may be holding them (docs/faults.md, 45 and 46)."""

from datetime import datetime
from pathlib import Path

from orchestration.git import Git
from orchestration.reaper import working_in

_WATCHED = 2.0
"""Seconds for which a lock that nobody vouches for must stand unchanged, on this machine's own stopwatch."""

_NAMES = ("index", "HEAD", "ORIG_HEAD", "packed-refs", "config", "shallow")
_OWN = ("refs/orchestration", "refs/rescue")
"""Where nobody but this tool writes."""


def locks(git: Git, branch: str) -> list[Path]:
    """Return the locks that stand in the way of git here."""
    names = [f"{name}.lock" for name in (*_NAMES, f"refs/heads/{branch}")]
    places = [git.top / path for path in git.paths_of([*names, *_OWN])]
    files, folders = places[: len(names)], places[len(names) :]
    return [
        *(path for path in files if path.exists()),
        *(path for folder in folders for path in sorted(folder.rglob("*.lock"))),
    ]


def others(git: Git) -> set[int]:
    """Return the git processes that work in this tree and are not ours."""
    return set(working_in(git.top, "git")) - git.loop.children()


def break_of_turn(git: Git, branch: str, since: datetime) -> list[str]:
    """Remove the locks that a git left which was killed after `since`; return them.

    The caller holds the work tree's lock and has ended the turn's processes; while any other git works here, all
    stay.
    """
    young = [path for path in locks(git, branch) if (_mark(path) or (0, 0))[1] >= since.timestamp() * 1e9]
    return _remove(git, young)


def break_unmoved(git: Git, branch: str) -> list[str]:
    """Remove the locks of which nothing moves for some seconds, on the stopwatch; return them.

    The caller holds the work tree's lock. One below our own refs can only be ours, and is not watched; while any other
    git works here, all stay.
    """
    found = locks(git, branch)
    theirs = [path for path in found if not any(f"/{own}/" in path.as_posix() for own in _OWN)]
    seen = {path: _mark(path) for path in found}
    deadline = git.loop.clock.monotonic() + _WATCHED
    while theirs and not others(git) and git.loop.clock.monotonic() < deadline:
        git.loop.pause(0.1)
        theirs = [path for path in theirs if _mark(path) == seen[path]]
    return _remove(git, [path for path in found if _mark(path) == seen[path] is not None])


def _remove(git: Git, stale: list[Path]) -> list[str]:
    if not stale or others(git):
        return []
    for path in stale:
        path.unlink(missing_ok=True)
    return [str(path) for path in stale]


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when somebody writes to a lock or takes it anew, None where it is gone."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
