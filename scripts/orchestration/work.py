"""The person's files, as a turn sees them: a protocol, so that a turn reads the same with git and without."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from orchestration.background import Task
from orchestration.bus import Fenced
from orchestration.journal import Carry, Checked, Claim, Claiming, Judged, Ran, Turn
from orchestration.state import Failure, State


class Survey(NamedTuple):
    """The files before a turn: their tree, and whether it holds more than the commit that the turn begins on."""

    tree: str
    uncommitted: bool


class Taken(NamedTuple):
    """What an agent's work comes to: the head to hand off on, why the turn fails if it does, the exit flag.

    `left` is the tree with what was not committed, None where it may have changed since it was taken.
    """

    head: str
    failure: Failure | None
    exit_reason: str | None = None
    left: str | None = None


class Summary(NamedTuple):
    """What lies between two commits."""

    commits: list[str]
    files: int
    insertions: int
    deletions: int


class Work(Protocol):
    """What a turn does to the files around it, and what is kept of them."""

    def survey(self, base: str, state: State, carry: Carry | None) -> Callable[[], Survey]:
        """See that the files are ready for a claim on `base`; call what is returned for how they lie.

        Raises:
            Refused: a person must put them in order first.

        """

    def begin(self, entry: Claiming) -> Turn:
        """Begin the claimed turn, keeping what lies uncommitted."""

    def go_on(self, turn: Turn) -> Turn:
        """Begin an interrupted turn again: what changed since it stopped is the person's."""

    def snapshots(self, turn: Turn) -> Task[None]:
        """Keep the files as they are now and then, while an agent runs."""

    def keep(self, turn: Turn, why: str) -> str | None:
        """Keep the files as they are; return their tree, None where nothing can be kept."""

    def take(self, entry: Ran) -> Taken | Fenced | None:
        """Judge what the agent did, and commit what it left; None asks to look again: something moved meanwhile."""

    def close(self, entry: Ran, taken: Taken) -> Checked:
        """End the turn: what is uncommitted now is kept if it fails."""

    def judged(self, entry: Ran, taken: Taken) -> Judged:
        """Note the files as they are before the gates."""

    def gated(self, entry: Judged, failure: Failure | None) -> Checked:
        """End the turn after its gates: what they wrote is not the agent's."""

    def left(self, checked: Checked) -> Carry | None:
        """Return what the next start must know of the files that the turn left uncommitted."""

    def forget(self, checked: Checked) -> None:
        """Drop what only this turn needed."""

    def abandon(self, turn: Turn, head: str | None, why: str) -> str | None:
        """Keep the work of a turn that is not published; return the ref, None where there is none."""

    def summary(self, base: str, head: str) -> Summary:
        """Tell what lies between two heads."""

    def break_locks(self, claim: Claim | None) -> list[str]:
        """Remove the locks that a killed command left, of a turn or of none; return them."""

    def finish_move(self) -> None:
        """Finish what a killed command left half done to the work tree."""
