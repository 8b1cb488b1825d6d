"""Where everything lies: the repository, the project inside it, and our own folder in the git dir."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from orchestration import files
from orchestration.errors import OrchestrationError, Refused
from orchestration.git import Git

_JOURNAL = "journal.json"
_BESIDE = ".orchestrator"
"""Our folder beside the state file, where there is no git dir for it."""


class Workspace(NamedTuple):
    """The folders of one clone, or of a project without a repository.

    Args:
        top: the top of the work tree; the project where there is no repository.
        root: the project: the folder of orchestration.yaml, `top` or below it.
        own: our own folder for locks, control files and exit notes, in the git dir or beside the state file.
        journal: the file of the turn in progress.
        locks: the folders whose lock a daemon here holds; the first is `own`.
        git: whether the turn lives in commits.

    """

    top: Path
    root: Path
    own: Path
    journal: Path
    locks: Sequence[Path]
    git: bool = True

    def in_git(self, path: str) -> str:
        """Return a project path as git names it, from the top."""
        return str((self.root / path).relative_to(self.top))

    @property
    def option(self) -> str:
        """What a command about this way to run is given beside its name."""
        return "" if self.git else " --no-git"

    @property
    def counters(self) -> Path:
        """The file of what the turns here have used."""
        return self.journal.with_name("counters.json")

    @property
    def word(self) -> Path:
        """The folder of the word that a person has left for both actors, and that is not committed yet."""
        return self.journal.with_name("word")

    @property
    def control(self) -> Path:
        """The folder of the requests that `stop` and `pause` leave for the daemon."""
        return self.own / "control"


class Found(NamedTuple):
    """What lies around a folder: its project, and its repository as (top, own folder) or why there is none."""

    root: Path
    file: Path | None
    repository: tuple[Path, Path] | None
    missing: OrchestrationError | None = None


class _Instance(msgspec.Struct, frozen=True):
    id: str
    machine: str
    path: str


def find(git: Git, config_name: str) -> Found:
    """Look for the project and the repository around `git.top`.

    The configuration file is searched upward, and never past the top of the work tree.
    """
    here = git.top.resolve()
    try:
        repository, missing = git.locate(), None
    except OrchestrationError as error:
        repository, missing = None, error
    top = repository[0] if repository else None
    for folder in (here, *here.parents):
        if os.path.lexists(folder / config_name):  # what cannot be read is refused by who reads it
            return Found(folder, folder / config_name, repository, missing)
        if folder == top:
            break
    return Found(top or here, None, repository, missing)


def workspace(found: Found, *, git: bool, state_file: str) -> Workspace:
    """Return the folders to work with.

    Raises:
        OrchestrationError: the turn is to live in git, and there is no repository; or without, behind a link.

    """
    beside = (found.root / state_file).parent / _BESIDE
    if not git:
        locks = [beside, found.repository[1]] if found.repository else [beside]
        place = Workspace(found.root, found.root, beside, beside / _JOURNAL, locks, git=False)
        refuse_links(place, state_file, itself=False)  # our own folder lies there, too
        return place
    if found.repository is None:
        raise found.missing or AssertionError
    top, own = found.repository
    project = own if found.root == top else own / "projects" / _as_name(found.root.relative_to(top))
    return Workspace(top, found.root, own, project / _JOURNAL, [own])


def _as_name(path: Path) -> str:
    """Return a path as one name."""
    return str(path).replace("%", "%25").replace("/", "%2F")


def other_journals(place: Workspace, state_file: str) -> list[Path]:
    """Return the journals of other projects and other ways to run in this work tree."""
    folders = {*place.locks, (place.root / state_file).parent / _BESIDE}
    found = [path for folder in folders for path in folder.glob("**/journal*.json")]
    return sorted(path for path in found if path != place.journal)


def branch_folder(logs: Path, branch: str) -> Path:
    """Return the folder of a branch's runs; branches that differ in `/` and `-` alone share it."""
    return logs / branch.replace("/", "-")


def working_branch(git: Git, configured: str | None = None) -> str:
    """Return the branch to work on: the configured one, else the one checked out.

    Raises:
        Refused: HEAD is detached, perhaps by an operation in progress.

    """
    branch = configured or git.branch()
    if branch is None:
        refuse_operation(git)
        raise Refused("HEAD is detached", code="detached-head", remedy="`git switch BRANCH`")
    return branch


def require_branch(git: Git, wanted: str, current: str | None) -> None:
    """Refuse to work on a branch that is not checked out.

    Raises:
        Refused: another is, HEAD is detached, or there is no such branch.

    """
    if current == wanted:
        return
    there = git.resolve(f"refs/heads/{wanted}")
    if there and current is None:
        raise Refused("HEAD is detached", code="detached-head", remedy=f"`git switch {wanted}`")
    found = f"the branch checked out is {current}, not {wanted}" if there else f"there is no branch {wanted}"
    remedy = f"`git switch {wanted}`" if there else f"name one that there is; or make it: `git switch -c {wanted}`"
    raise Refused(found, code="wrong-branch", remedy=remedy)


def refuse_operation(git: Git) -> None:
    """Refuse a merge, rebase, cherry-pick, revert or bisect in progress.

    Raises:
        Refused: one is.

    """
    operation = git.operation()
    if operation:
        give_up = "reset" if operation == "bisect" else "--abort"
        raise Refused(
            f"a {operation} is in progress",
            code="operation-in-progress",
            remedy=f"finish it (`git status` shows how), or give it up: `git {operation} {give_up}`",
        )


def instance_id(workspace: Workspace) -> str:
    """Return this clone's random id; a copied clone or another machine gets a new one."""
    path = workspace.own / "instance.json"
    machine = _machine()
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Instance)
        if (known.machine, known.path) == (machine, str(workspace.top)):
            return known.id
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    made = _Instance(os.urandom(8).hex(), machine, str(workspace.top))
    files.replace(path, msgspec.json.encode(made))
    return made.id


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def refuse_links(place: Workspace, *paths: str, itself: bool = True) -> None:
    """Refuse to write to a path of the project through a symbolic link: it may lead anywhere.

    Args:
        place: the project's folders.
        paths: relative to the project.
        itself: also where the last part of the path is the link, and not only a folder on the way.

    Raises:
        Refused: code `path-linked`.

    """
    for path in map(Path, paths):
        for part in [*reversed(path.parents), path][1 : None if itself else -1]:
            if (place.root / part).is_symlink():
                to = (place.root / part).readlink()
                raise Refused(
                    f"{part} is a symbolic link to {to}, and {path} must not lie behind one",
                    code="path-linked",
                    remedy="put the folder or file itself there; or name another place: `state_file`, `logs_dir`",
                )


def require_own_folder(place: Workspace, address: str | None) -> None:
    """Refuse to go on in a clone whose git dir was taken away; a write would make a hollow one in its place.

    Raises:
        Refused: code `repository-gone`; `address` is where another clone can be had.

    """
    if place.own.is_dir() or not place.git:
        return
    fresh = f"`git clone --no-checkout {address or 'ADDRESS'} fresh && mv fresh/.git . && git reset`"
    raise Refused(
        f"the git dir of {place.top} is gone; every file of the work tree is as the agent left it",
        code="repository-gone",
        remedy=f"if it was moved away, move it back and start again; if it is lost: {fresh}",
    )


def boot_id() -> str:
    """Return what changes with every start of the machine; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
