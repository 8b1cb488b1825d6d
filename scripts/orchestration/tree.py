"""The values of git's vocabulary: what differs, what is to be committed, how a work tree stands."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

REGULAR = "100644"
"""The mode of a file that is not executable."""


class Change(NamedTuple):
    """One path of a difference or an index: `mode` is "0" where it is gone, `new` where it was not there before."""

    mode: str
    oid: str
    path: str
    new: bool = False


class Past(NamedTuple):
    """A commit that was made: its id, its message, its changes, and by new path the object that each came from."""

    commit: str
    message: bytes
    changes: list[Change]
    origins: dict[str, str]


class File(NamedTuple):
    """One path of a commit to be made: its bytes, or the object that it is, or neither for its removal."""

    path: str
    data: bytes | None = None
    oid: str | None = None
    mode: str = REGULAR

    @property
    def gone(self) -> bool:
        """Whether the path is to be removed."""
        return self.data is None and self.oid is None


class Commit(NamedTuple):
    """What a commit is made of; dates and identity are git's own."""

    tree: str
    parents: Sequence[str]
    message: str


class Dirt(NamedTuple):
    """`git status`: where HEAD is, and what differs from it.

    The index no longer has the tracked paths that are `removed`.
    """

    head: str | None
    branch: str | None
    tracked: list[str]
    untracked: list[str]
    unmerged: Collection[str] = ()
    removed: Collection[str] = ()


def read_status(text: str) -> Dirt:
    """Read what `git status --porcelain=v2 --branch -z --no-renames` says.

    A submodule that is only dirty inside is named as a nested repository is: untracked, with a `/`.
    """
    head = branch = None
    tracked: list[str] = []
    untracked: list[str] = []
    unmerged: list[str] = []
    removed: list[str] = []
    columns = {"1": 8, "u": 10}
    for row in text.split("\0"):
        kind = row[:1]
        if row.startswith("# branch.oid "):
            head = row.removeprefix("# branch.oid ")
        elif row.startswith("# branch.head "):
            branch = row.removeprefix("# branch.head ")
        elif kind == "?":
            untracked.append(row[2:])
        elif row.startswith("1 .M S."):
            untracked.append(row.split(" ", 8)[8] + "/")
        elif kind in columns:
            tracked.append(row.split(" ", columns[kind])[columns[kind]])
            unmerged += tracked[-1:] if kind == "u" else []
            removed += tracked[-1:] if row.startswith("1 D") else []
    head, branch = (None if name in {"(initial)", "(detached)"} else name for name in (head, branch))
    return Dirt(head, branch, tracked, untracked, unmerged, removed)


def read_history(said: bytes) -> list[Past]:
    """Read what `git log -z --raw --no-abbrev --format=%x01%H%x00%B` says; a rename changes its new path."""
    words = iter(said.split(b"\0"))
    found: list[Past] = []
    for word in words:
        if word.startswith(b"\1"):
            found.append(Past(word[1:].decode(), next(words), [], {}))
        elif word.lstrip(b"\n").startswith(b":"):
            _, mode, origin, oid, kind = word.lstrip(b"\n:").decode().split(" ")
            first = next(words)
            path = os.fsdecode(next(words) if kind[0] in "RC" else first)
            found[-1].changes.append(Change("0" if kind == "D" else mode, oid, path, new=kind == "A"))
            found[-1].origins[path] = origin
    return found


def split_at_links(top: Path, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths that lie below a symbolic link of the work tree `top`, and the others."""
    links = {top: False}

    def is_below(folder: Path) -> bool:
        if folder not in links:
            links[folder] = folder.is_symlink() or is_below(folder.parent)
        return links[folder]

    split: tuple[list[str], list[str]] = ([], [])
    for path in paths:
        split[not is_below((top / path).parent)].append(path)
    return split
