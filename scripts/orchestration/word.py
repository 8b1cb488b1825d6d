"""Word that a person leaves for both actors: entries of user_input.md, committed by themselves (`orchestrator say`).

On a branch of this clone they are committed between turns, since a branch must not move under an agent: until then
they wait in our own folder. Through a remote they are pushed at once, and a turn in progress merges them.
"""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from orchestration import branches, failpoints, files
from orchestration.clock import iso
from orchestration.errors import Refused, Unreachable
from orchestration.git import Git
from orchestration.git_errors import GitError
from orchestration.prompt_context import USER_INPUT
from orchestration.remote import raised
from orchestration.remote_bus import RemoteBus
from orchestration.remote_kinds import Kind
from orchestration.tree import File
from orchestration.workspace import Workspace

_TRIES = 10
_LOOK_AGAIN = {Kind.CAS_LOST, Kind.ALREADY, Kind.UNKNOWN}
_SUBJECT = "a person has left word"


def entry(text: str, who: str, now: datetime) -> bytes:
    """Return an entry of user_input.md."""
    return f"## {iso(now)} {who}\n\n{text.strip()}\n".encode(errors="surrogateescape")


def _with(data: bytes | None, entries: list[bytes]) -> bytes:
    """Return the file with the entries that it lacks: one that is there already was left by a delivery cut short."""
    missing = [each for each in entries if each not in (data or b"")]
    return b"\n".join(part for part in [(data or b"").rstrip(b"\n") + b"\n" if data else b"", *missing] if part)


class Word:
    """The entries that wait in a clone.

    Args:
        git: the verbs.
        place: its folders.
        branch: where they are committed.

    """

    def __init__(self, git: Git, place: Workspace, branch: str) -> None:
        self._git = git
        self._place = place
        self._branch = branch

    def leave(self, data: bytes, now: datetime) -> None:
        """Have an entry wait, durably."""
        files.create(self._place.word / f"{iso(now)}-{secrets.token_hex(4)}.md", data)

    def waiting(self) -> list[Path]:
        """Return the entries that wait, oldest first."""
        return sorted(self._place.word.glob("*.md"))

    def deliver(self) -> str | None:
        """Commit what waits, between turns; return the commit, None where nothing was to be committed, or not yet.

        It waits where the branch is not checked out, or somebody is at work: in an operation, at the index, or just
        committing. A kill at any moment loses nothing and commits nothing twice.

        Raises:
            Refused: user_input.md is changed and not committed (code `word-in-the-way`): it stays as it is.

        """
        waiting = self.waiting()
        if not waiting or not self._git.has_checked_out(self._branch) or self._git.operation():
            return None
        try:
            branches.finish_move(self._git, self._branch)
            return self._commit(waiting)
        except GitError as error:
            if error.code != "git-locked":
                raise
            return None

    def _commit(self, waiting: Sequence[Path]) -> str | None:
        """Commit what the branch lacks of these entries, and forget them; None where somebody committed meanwhile."""
        path, ref = self._place.in_git(USER_INPUT), f"refs/heads/{self._branch}"
        tip = self._git.resolve(ref) or ""
        before = self._git.blobs([f"{tip}:{path}"])[0]
        wanted = _with(before, [each.read_bytes() for each in waiting])
        commit = None
        if wanted != before:
            commit = self._git.commit_files(tip, [File(path, data=wanted)], f"{_SUBJECT}\n")
            failpoints.hit("word.before_ref")
            if not branches.fast_forward(self._git, self._branch, commit):
                if self._git.resolve(ref) != tip:
                    return None
                raise Refused(
                    f"{path} is changed and not committed, and somebody has left word for it",
                    code="word-in-the-way",
                    remedy=f"`git add {path}`, `git commit -m 'user input' -- {path}`; the word is added then",
                )
            failpoints.hit("word.after_ref")
        for each in waiting:
            each.unlink(missing_ok=True)
        return commit


def share(git: Git, place: Workspace, bus: RemoteBus, data: bytes) -> str:
    """Push an entry onto the branch at the remote, whoever runs a turn; return its commit.

    Raises:
        Unreachable: the remote did not answer, or others were faster every time.
        Refused: the remote does not take it.

    """
    path = place.in_git(USER_INPUT)
    for _ in range(_TRIES):
        tip = bus.remote.tip()
        wanted = _with(git.blobs([f"{tip}:{path}"])[0], [data])
        commit = git.commit_files(tip, [File(path, data=wanted)], f"{_SUBJECT}\n")
        trouble = bus.remote.push(commit, tip)
        if trouble is None:
            return commit
        if trouble.kind not in _LOOK_AGAIN:
            raise raised(trouble, bus.remote.name)
    raise Unreachable(
        f"{bus.remote.name} did not take the commit in {_TRIES} tries",
        kind=Kind.REMOTE_BUSY,
        remedy="try again in a minute",
    )


def append(place: Workspace, data: bytes) -> None:
    """Add an entry to the file itself, where there is no git."""
    file = place.root / USER_INPUT
    files.replace(file, _with(file.read_bytes() if file.is_file() else None, [data]))


Deliver = Callable[[], object]
"""Commits the word that waits; asked between turns."""
