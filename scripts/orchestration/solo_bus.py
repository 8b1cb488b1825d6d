"""Turns of one actor, one after the other.

The state gives the first iteration and is never written: the truth is a counter in this process, and, across a crash,
the turn in the journal.
"""

from msgspec.structs import replace

from orchestration import state
from orchestration.bus import Claimed, Fenced, Landed, Lost, Unshared, View
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.journal import Claim, HandOff
from orchestration.local_bus import LocalBus
from orchestration.state import READY, Actor, State, Status


class SoloBus(Unshared):
    """A branch on which one actor works.

    Args:
        git: the verbs.
        local: the bus of the same branch; its state is read once.
        actor: whose turns these are.
        goes_on: the iteration of a turn in progress, None where there is none.

    Raises:
        Refused: the state is damaged, and nothing says where to begin.

    """

    def __init__(self, git: Git, local: LocalBus, actor: Actor, goes_on: int | None = None) -> None:
        self.branch = local.branch
        self._git = git
        self._local = local
        self._actor = actor
        self._now = State(iteration=goes_on or self._first(), expected_actor=actor, status=READY[actor])

    def _first(self) -> int:
        try:
            return self._local.look().state.iteration
        except Refused as error:
            if error.code != "state-missing":
                raise
            return 1

    def look(self, *, epoch: int = 0, iteration: int = 1) -> View:  # noqa: ARG002 - nothing is compared here
        """Return the branch's tip and the counter.

        Raises:
            Refused: the branch has no commit.

        """
        tip = self._tip()
        if tip is None:
            raise Refused(f"the branch {self.branch} has no commit", code="branch-empty", remedy="make a first commit")
        return View(tip, self._now)

    def remedy(self, now: State) -> str:  # noqa: ARG002 - whatever it is, nothing of it is written
        """Tell what a person can type where the state stands still."""
        return "start again: the next start begins anew"

    def elsewhere(self, now: State) -> None:
        """Let it be: whose turn it is does not matter."""

    def claim(self, claim: Claim, offer: str) -> Claimed | Lost:  # noqa: ARG002
        """Take the turn if the branch still is at the claim's base."""
        return Claimed(claim.base) if self._tip() == claim.base else Lost()

    def state_at(self, value: str) -> State:  # noqa: ARG002 - whatever is committed
        """Return the counter."""
        return self._now

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:  # noqa: ARG002
        """Note how the turn ended; nothing is committed."""
        return HandOff(state.encode(after).decode(), parent)

    def settle(self, hand_off: HandOff, claim: str | None = None) -> Landed | Fenced:  # noqa: ARG002
        """Count the turn, and give the state file back its committed bytes."""
        tip = self._tip()
        if tip is None or not self._git.is_ancestor(hand_off.parent, tip):
            return Fenced(f"the branch {self.branch} was moved to {tip or 'nowhere'}, which lacks the turn's commits")
        after = state.parse(hand_off.commit.encode())
        if after.status is not Status.FAILED:
            more = self._actor is Actor.GALPH  # ralph's success has counted already
            after = replace(
                after, iteration=after.iteration + more, expected_actor=self._actor, status=READY[self._actor]
            )
        self._now = replace(after, epoch=0)
        self._local.refresh(tip)
        return Landed(None)

    def _tip(self) -> str | None:
        return self._git.resolve(f"refs/heads/{self.branch}")
