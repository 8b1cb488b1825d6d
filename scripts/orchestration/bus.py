"""The bus: where turn truth lives, as a protocol and the values that it answers with (architecture.md, "Bus").

Expected outcomes are values; only damage raises.
"""

from typing import NamedTuple, Protocol

from orchestration.journal import Claim, HandOff
from orchestration.state import SCOPE, State, Status


class View(NamedTuple):
    """What the bus shows: the register's value (a branch's tip, or a file's text) and the state that it holds."""

    tip: str
    state: State


class Claimed(NamedTuple):
    """The turn is ours."""


class Lost(NamedTuple):
    """The branch moved before our claim; look again."""


class Landed(NamedTuple):
    """The hand-off is the bus's truth; `commit` is where it stands in the history, if there is one."""

    commit: str | None


class Moved(NamedTuple):
    """Somebody committed meanwhile and left the state alone: hand off again, on `tip`."""

    tip: str


class Fenced(NamedTuple):
    """The turn is no longer ours, because of `why`; nothing of ours was published."""

    why: str


class Bus(Protocol):
    """One register that holds the state, moved by compare-and-swap."""

    branch: str
    """The branch whose turns these are, as logs and agents name it."""

    def look(self, *, epoch: int = 0, iteration: int = 1) -> View:
        """Read the state.

        Raises:
            Refused: the state is damaged, or lies before the epoch or iteration that was seen already.

        """

    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""

    def claim(self, claim: Claim) -> Claimed | Lost:
        """Take the turn if the branch still is where the claim was made."""

    def state_at(self, value: str) -> State:
        """Read the state that a value of the register holds."""

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:
        """Build the value that turns `before` into `after`; nothing refers to it yet."""

    def settle(self, hand_off: HandOff) -> Landed | Moved | Fenced:
        """Publish a hand-off; a second call after a crash changes nothing."""


def decisions(now: State, option: str = "") -> str:
    """Name the commands that end a standstill; `option` says which state is meant."""
    if now.status is Status.FAILED:
        if now.failure and now.failure.code == SCOPE:
            return (
                f"put these files back and `orchestrator retry{option}`; "
                f"or let them pass: `orchestrator skip --accept-scope{option}`"
            )
        return (
            f"`orchestrator retry{option}` runs it again on the tree as it is; "
            f"`orchestrator skip{option}` goes on with the other actor"
        )
    if now.exit:
        return f"`orchestrator resume{option}` clears it"
    stamp = f"`orchestrator stamp{option} {now.expected_actor} fail`"
    return f"end it where it runs; if nothing runs it any more: {stamp}"
