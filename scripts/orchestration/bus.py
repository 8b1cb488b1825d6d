"""The bus: where turn truth lives, as a protocol and the values that it answers with (docs/architecture.md).

Expected outcomes are values; only damage raises.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

from orchestration.errors import Refused
from orchestration.halt import Wait
from orchestration.journal import Claim, HandOff
from orchestration.state import ACCEPTED, LEFTOVERS, SCOPE, State, Status

Settings = Callable[[], dict[str, str] | None]
"""A question that was asked: call it for the answer, and do what else there is to do meanwhile."""


class View(NamedTuple):
    """What the bus shows: the register's value (a branch's tip, or a file's text) and the state that it holds."""

    tip: str
    state: State


class Claimed(NamedTuple):
    """The turn is ours; its work begins on `base`."""

    base: str


class Lost(NamedTuple):
    """The branch moved before our claim; look again."""


class Landed(NamedTuple):
    """The hand-off is the bus's truth; `commit` is where it stands in the history, if there is one."""

    commit: str | None


class Moved(NamedTuple):
    """Somebody committed meanwhile and left the turn to us: hand off again, on `tip`.

    `on` is the commit whose state is handed on then; None: still the claim's.
    """

    tip: str
    on: str | None = None


class Conflict(NamedTuple):
    """Somebody committed meanwhile what does not go together with the work: `paths`."""

    tip: str
    paths: list[str]


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

    def offline(self) -> "Bus":
        """Return the bus of what this clone knows without asking another machine."""

    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""

    def elsewhere(self, now: State) -> Wait | None:
        """Tell who runs the turn that the state says is running; None: it may be claimed all the same.

        Raises:
            Refused: nobody can be waited for.

        """

    def settings(self) -> Settings:
        """Ask for the configuration that publishing depends on; None: nothing is published."""

    def offer(self, claim: Claim, now: State) -> Callable[[], str]:
        """Begin to build the value that claims the turn, or name the one that the claim leaves as it is."""

    def claim(self, claim: Claim, offer: str) -> Claimed | Lost:
        """Take the turn if the register still is where the claim was made; also again, after a crash."""

    def holds(self, claim: Claim) -> Fenced | None:
        """Tell whether a turn that was claimed a while ago is ours no longer."""

    def retreat(self) -> None:
        """Leave a turn that is ours no longer, after its work was kept: follow the register."""

    def state_at(self, value: str) -> State:
        """Read the state that a value of the register holds."""

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:
        """Build the value that turns `before` into `after`; nothing refers to it yet."""

    def settle(self, hand_off: HandOff, claim: str | None = None) -> Landed | Moved | Conflict | Fenced:
        """Publish a hand-off; a second call after a crash changes nothing.

        Where the turn is shared, `claim` is the commit that claimed it, which must still stand.
        """


def decisions(now: State, option: str = "") -> str:
    """Name the commands that end a standstill; `option` says which state is meant."""
    if now.status is Status.FAILED:
        if now.failure and now.failure.code in ACCEPTED:
            code = now.failure.code
            return (
                f"{ACCEPTED[code]} and `orchestrator retry{option}`; "
                f"or let {'them' if code == SCOPE else 'it'} pass: `orchestrator skip --accept-{code}{option}`"
            )
        first = "runs it again on the tree as it is"
        if now.failure and now.failure.code == LEFTOVERS:
            first = "runs it again, once these files are removed, committed, or allowed by `doc_whitelist`"
        return f"`orchestrator retry{option}` {first}; `orchestrator skip{option}` goes on with the other actor"
    if now.exit:
        return f"`orchestrator resume{option}` clears it"
    stamp = f"`orchestrator stamp{option} {now.expected_actor} fail`"
    return f"end it where it runs; if nothing runs it any more: {stamp}"


class Unshared(ABC):
    """What every bus answers whose turns no other clone can hold: the lock and the journal say whose they are."""

    def offline(self) -> Self:
        """Return this: nobody else is asked."""
        return self

    @abstractmethod
    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""

    def elsewhere(self, now: State) -> Wait | None:
        """Refuse: whoever runs the turn cannot be waited for.

        Raises:
            Refused: always (code `state-running`).

        """
        actor, since = now.expected_actor, now.last_update
        raise Refused(
            f"the committed state says that {actor} runs since {since}; this clone did not start it",
            code="state-running",
            remedy=self.remedy(now),
        )

    def settings(self) -> Settings:
        """Depend on nothing."""
        return lambda: None

    def offer(self, claim: Claim, now: State) -> Callable[[], str]:  # noqa: ARG002 - a claim writes nothing
        """Name the value that stays."""
        return lambda: claim.base

    def holds(self, claim: Claim) -> Fenced | None:  # noqa: ARG002 - the hand-off finds out
        """Trust the lock and the journal."""
        return None

    def retreat(self) -> None:  # noqa: B027
        """Stay: there is nothing to follow."""


def waiting_for(now: State, does: str, where: str = "") -> Wait:
    """Return the wait for whose turn it is."""
    subject = f"{now.expected_actor} {now.iteration}"
    return Wait(f"{now.expected_actor} {does} iteration {now.iteration}{where}", subject)
