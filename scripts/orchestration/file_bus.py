"""The file bus: the register is the state file itself, replaced whole; no repository is needed.

Its value is the file's text. The lock beside the file makes the turn exclusive; nobody else is expected to write it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from orchestration import failpoints, files, state
from orchestration.bus import Claimed, Fenced, Landed, Lost, Unshared, View, decisions
from orchestration.errors import Refused
from orchestration.journal import Claim, HandOff
from orchestration.state import State

BRANCH = "no-git"
"""What logs and agents are told where a branch would stand."""

_NOT_OF_GIT = {"state-bom", "state-future"}
"""Damage whose remedy is the same without git."""


class FileBus(Unshared):
    """Turn truth in one file.

    Args:
        root: the project.
        state_file: the state file's path in it.

    """

    branch = BRANCH

    def __init__(self, root: Path, state_file: str) -> None:
        self._file = root / state_file
        self._name = state_file

    def look(self, *, epoch: int = 0, iteration: int = 1) -> View:
        """Read the file; a state before what was seen already is refused.

        Raises:
            Refused: it is missing or damaged.

        """
        data = self._read()
        with self._naming_the_file():
            now = state.parse(data)
            state.check_forward(now, epoch=epoch, iteration=iteration)
        return View((data or b"").decode(), _anybodys(now))

    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""
        return decisions(now, " --no-git")

    def claim(self, claim: Claim, offer: str) -> Claimed | Lost:  # noqa: ARG002
        """Take the turn if the file still is as it was read."""
        return Claimed(claim.base) if self._read() == claim.base.encode() else Lost()

    def state_at(self, value: str) -> State:
        """Read the state of a text.

        Raises:
            Refused: it is damaged.

        """
        with self._naming_the_file():
            return _anybodys(state.parse(value.encode()))

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:  # noqa: ARG002
        """Build the new text; what names a branch or a commit stays as it was."""
        old = state.parse(parent.encode())
        new = replace(after, branch=old.branch, galph_commit=old.galph_commit, ralph_commit=old.ralph_commit)
        return HandOff(state.encode(new).decode(), parent)

    def settle(self, hand_off: HandOff, claim: str | None = None) -> Landed | Fenced:  # noqa: ARG002
        """Replace the text `parent` by `commit`."""
        data = self._read()
        if data == hand_off.parent.encode():
            failpoints.hit("settle.before_ref")
            files.replace(self._file, hand_off.commit.encode())
            failpoints.hit("settle.after_ref")
        elif data != hand_off.commit.encode():
            return Fenced(f"{self._name} was changed by another hand")
        return Landed(None)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            remedy = f"mend {self._name} by hand, or restore a copy of it"
            if error.code == "state-missing":
                remedy = f"`orchestrator init --no-git` makes {self._name}"
            if error.code in _NOT_OF_GIT:
                remedy = error.remedy.replace("{path}", self._name)
            raise Refused(f"{self._name}: {error.message}", code=error.code, remedy=remedy) from None

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None


def _anybodys(now: State) -> State:
    """Return a state that belongs to no branch: here that says nothing."""
    return replace(now, branch=None)
