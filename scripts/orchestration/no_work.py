"""The files of a project without git: nothing is collected, judged or kept but the state file."""

from collections.abc import Callable
from pathlib import Path

from orchestration import files, state
from orchestration.background import Task
from orchestration.journal import Carry, Checked, Claim, Claiming, Judged, Ran, Turn
from orchestration.state import Failure, State
from orchestration.work import Summary, Survey, Taken


class NoWork:
    """What is left of `work.Work` without trees.

    Args:
        root: the project.
        state_file: the state file's path in it; the agent's copy is the register itself.
        tell: takes (code, text) of what a person should see.

    """

    def __init__(self, root: Path, state_file: str, tell: Callable[[str, str], None]) -> None:
        self._file = root / state_file
        self._name = state_file
        self._tell = tell

    def survey(self, base: str, state: State, carry: Carry | None) -> Callable[[], Survey]:  # noqa: ARG002
        """See nothing."""
        return lambda: Survey("", uncommitted=False)

    def begin(self, entry: Claiming) -> Turn:
        """Begin the turn."""
        return Turn(entry.claim, entry.before)

    def go_on(self, turn: Turn) -> Turn:
        """Begin again."""
        return turn

    def snapshots(self, turn: Turn) -> Task[None]:  # noqa: ARG002
        """Keep nothing."""
        yield from ()

    def keep(self, turn: Turn, why: str) -> None:  # noqa: ARG002
        """Keep nothing: the files are where the agent left them."""
        return

    def take(self, entry: Ran) -> Taken:
        """Write back the state as it was at the claim, with the agent's exit flag.

        The flag stays in the file until the hand-off: after a crash it is found there again.
        """
        base = entry.turn.claim.base.encode()
        copy = self._file.read_bytes() if self._file.is_file() else None
        wanted = state.requested_exit(copy)
        restored = base if wanted is None else state.with_exit(base, wanted)
        if copy != restored:
            if wanted is None or not state.differs_in_exit_only(base, copy):
                text = f"the agent edited {self._name}; only exit and exit_reason are taken from it"
                self._tell("state-edited", text)
            files.replace(self._file, restored)
        return Taken(restored.decode(), entry.outcome.failure, wanted)

    def close(self, entry: Ran, taken: Taken) -> Checked:
        """End the turn."""
        return Checked(
            entry.turn, entry.decision, entry.outcome, taken.head, "", taken.failure, taken.exit_reason, unpin=False
        )

    def judged(self, entry: Ran, taken: Taken) -> Judged:
        """Note the state that the gates begin with."""
        return Judged(entry.turn, entry.decision, entry.outcome, taken.head, "", taken.exit_reason)

    def gated(self, entry: Judged, failure: Failure | None) -> Checked:
        """End the turn."""
        turn, decision, outcome, head = entry.turn, entry.decision, entry.outcome, entry.work_head
        if not self._file.is_file() or self._file.read_bytes() != head.encode():
            files.replace(self._file, head.encode())  # a gate has touched it
        return Checked(turn, decision, outcome, head, "", failure, entry.exit_reason, unpin=False)

    def left(self, checked: Checked) -> None:  # noqa: ARG002
        """Know of nothing."""
        return

    def forget(self, checked: Checked) -> None:
        """Drop nothing."""

    def abandon(self, turn: Turn, head: str | None, why: str) -> None:  # noqa: ARG002
        """Leave everything where it is."""
        return

    def summary(self, base: str, head: str) -> Summary:  # noqa: ARG002
        """Tell of nothing."""
        return Summary([], 0, 0, 0)

    def break_locks(self, claim: Claim | None) -> list[str]:  # noqa: ARG002
        """Find none."""
        return []

    def finish_move(self) -> None:
        """Find nothing half done."""
