"""What rescue refs hold, and how it comes back; nothing that differs from HEAD is ever overwritten."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from orchestration import files
from orchestration.errors import Refused, UsageError
from orchestration.git import Git
from orchestration.tree import Change

PREFIX = "refs/rescue/"


class Kept(msgspec.Struct, frozen=True):
    """One rescue ref: what it holds beside the commit that it lay on."""

    name: str
    commit: str
    when: str
    why: str
    paths: list[str]


def find(git: Git) -> list[Kept]:
    """Return what is kept, oldest first."""
    rows = git.ask(
        "for-each-ref",
        "--sort=creatordate",
        "--format=%(refname)%00%(objectname)%00%(creatordate:iso)%00%(subject)",
        PREFIX,
    )
    found: list[Kept] = []
    for row in rows.splitlines():
        name, commit, when, subject = row.split("\0")
        paths = [change.path for change in git.difference(f"{commit}^", commit)]
        found.append(Kept(name.removeprefix(PREFIX), commit, when, subject.removeprefix("rescue: "), paths))
    return found


def one(git: Git, name: str) -> Kept:
    """Return the kept tree that a name means: a ref, or the end of one.

    Raises:
        UsageError: none or several.

    """
    wanted = name.removeprefix(PREFIX)
    everything = find(git)
    fits = [item for item in everything if item.name == wanted] or [
        item for item in everything if f"/{item.name}".endswith(f"/{wanted}")
    ]
    if len(fits) == 1:
        return fits[0]
    what = (
        "fits nothing that is kept" if not fits else f"fits {len(fits)} refs: {', '.join(item.name for item in fits)}"
    )
    raise UsageError(f"{name!r} {what}", code="rescue-unknown", remedy="`orchestrator rescue list` names them")


def drop(git: Git, names: Sequence[str]) -> list[Kept]:
    """Delete the refs that the names mean, all or none; return what they held, which git keeps for a while.

    Raises:
        UsageError: a name means none or several.

    """
    found = {item.name: item for item in [one(git, name) for name in names]}
    for item in found.values():
        git.delete_ref(PREFIX + item.name, item.commit)
    return list(found.values())


def patch(git: Git, item: Kept) -> str:
    """Return what a kept tree holds, as `git show` prints it."""
    return git.ask(
        "show", "--diff-merges=first-parent", "--no-ext-diff", "--no-renames", "--stat", "--patch", item.commit
    )


def restore(git: Git, top: Path, item: Kept, only: Sequence[str] = ()) -> list[str]:
    """Write kept files to the work tree and return their paths.

    Args:
        git: the verbs.
        top: the top of the work tree.
        item: what to bring back.
        only: paths, all if empty.

    Raises:
        UsageError: a path is not in it.
        Refused: a file holds something else than HEAD; nothing was written.

    """
    unknown = set(only) - set(item.paths)
    if unknown:
        raise UsageError(
            f"{item.name} does not hold {', '.join(sorted(unknown))}",
            code="rescue-unknown",
            remedy=f"`orchestrator rescue show {item.name}` lists what it holds",
        )
    changes = [change for change in git.difference(f"{item.commit}^", item.commit) if not only or change.path in only]
    now = git.dirt()
    wanted = [change for change in changes if not _is_there(git, top, change)]
    free = set(git.tracked([change.path for change in wanted])).difference(now.tracked)
    in_the_way = [change.path for change in wanted if not _is_free(top, change.path, as_in_head=change.path in free)]
    if in_the_way:
        raise Refused(
            f"these files hold something else now: {', '.join(in_the_way)}",
            code="rescue-in-the-way",
            remedy=f"commit or move them first; one kept file alone: `git show {item.commit[:10]}:PATH`",
        )
    for change in wanted:
        _write(git, top, change)
    return [change.path for change in wanted]


def _is_free(top: Path, name: str, *, as_in_head: bool) -> bool:
    """Tell whether nothing would be lost: a file as in HEAD, or nothing there, below true folders."""
    path = top / name
    above = [folder for folder in path.parents if folder != top and folder.is_relative_to(top)]
    if any(folder.is_symlink() or (folder.exists() and not folder.is_dir()) for folder in above):
        return False
    if path.is_dir() and not path.is_symlink():
        return False
    return as_in_head or not os.path.lexists(path)


def _is_there(git: Git, top: Path, change: Change) -> bool:
    path = top / change.path
    if change.mode == "0":
        return not os.path.lexists(path)
    data = git.blobs([change.oid])[0]
    if change.mode == "120000":
        return path.is_symlink() and os.fsencode(path.readlink()) == data
    return path.is_file() and not path.is_symlink() and path.read_bytes() == data


def _write(git: Git, top: Path, change: Change) -> None:
    path = top / change.path
    if change.mode == "0":
        path.unlink(missing_ok=True)
        return
    data = git.blobs([change.oid])[0]
    if data is None:  # a submodule's commit: git's own business
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if change.mode == "120000":
        path.unlink(missing_ok=True)
        path.symlink_to(os.fsdecode(data))
        return
    files.replace(path, data)
    path.chmod(0o755 if change.mode == "100755" else 0o644)
