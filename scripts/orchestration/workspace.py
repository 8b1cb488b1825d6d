"""Where everything lies: the repository, the project inside it, and our own folder in the git dir."""

import secrets
from pathlib import Path
from typing import NamedTuple

import msgspec

from orchestration import files
from orchestration.errors import Refused
from orchestration.git import Git


class Workspace(NamedTuple):
    """The folders of one clone.

    Args:
        top: the top of the work tree.
        root: the project: the folder of orchestration.yaml, `top` or below it.
        own: this work tree's folder in the git dir: journal, lock, control files.

    """

    top: Path
    root: Path
    own: Path

    def in_git(self, path: str) -> str:
        """Return a project path as git names it, from the top."""
        return str((self.root / path).relative_to(self.top))

    @property
    def journal(self) -> Path:
        """The journal of the turn in progress."""
        return self.own / "journal.json"

    @property
    def control(self) -> Path:
        """The folder of the requests that `stop` and `pause` leave for the daemon."""
        return self.own / "control"


class _Instance(msgspec.Struct, frozen=True):
    id: str
    machine: str
    path: str


def find(git: Git, config_name: str) -> tuple[Workspace, Path | None]:
    """Find the workspace around `git.top`, and its configuration file if there is one.

    The file is searched upward and never past the top of the work tree.

    Raises:
        GitError: not inside a work tree.

    """
    top, own = git.locate()
    here = git.top.resolve()
    for folder in (here, *here.parents):
        if (folder / config_name).is_file():
            return Workspace(top, folder, own), folder / config_name
        if folder == top:
            break
    return Workspace(top, top, own), None


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
    """Return this clone's random id; a copied clone or another machine gets a new one (handoff.md, "holder")."""
    path = workspace.own / "instance.json"
    machine = _machine()
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Instance)
        if (known.machine, known.path) == (machine, str(workspace.top)):
            return known.id
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    made = _Instance(secrets.token_hex(8), machine, str(workspace.top))
    files.replace(path, msgspec.json.encode(made))
    return made.id


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def boot_id() -> str:
    """Return what changes with every start of the machine; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
