"""The journal: where one turn stands, as a tagged union (docs/architecture.md).

It is written before the thing that it names is relied on, and read once, at the start.
"""

from pathlib import Path
from typing import Literal

import msgspec

from orchestration import failpoints, files
from orchestration.endings import Usage
from orchestration.errors import Refused
from orchestration.router import Decision, Source
from orchestration.state import Actor, Failure, Token


class Claim(msgspec.Struct, frozen=True):
    """Who owns which turn: made before anything else happens.

    `base` is the value of the bus's register that the turn begins on: a commit, or the file's text. `claimed_at` is
    ISO 8601. `settings` is the configuration that publishing depends on, None where nothing is published.
    """

    actor: Actor
    iteration: int
    token: Token
    branch: str
    base: str
    claimed_at: str
    settings: dict[str, str] | None = None

    @property
    def stamp(self) -> str:
        """What every process of this turn carries in its environment."""
        return self.token.nonce

    @property
    def name(self) -> str:
        """What a message calls this turn."""
        return f"{self.actor}'s turn of iteration {self.iteration}"


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """What the earlier attempts of a turn's agent have come to.

    Args:
        made: how many there were.
        counted: how many of them count towards limits.attempts.
        agent: who has taken the turn over; None: whom the configuration names.
        session: what the next attempt goes on with; None: it begins one.
        told: what that session had used by its own count.
        used: what all attempts have used together, None if none has said.
        fresh: whether one has begun anew because its session was of no use any more.
        cut_off: since when, in ISO 8601, no attempt has reached its provider; None: the last one has.

    """

    made: int = 0
    counted: int = 0
    agent: str | None = None
    session: str | None = None
    told: Usage | None = None
    used: Usage | None = None
    fresh: bool = False
    cut_off: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """A claimed turn.

    `before` is the tree of the work tree at the claim, `pin` the ref that keeps it where it differs from the base,
    `reruns` counts unclean deaths, `stopped` is the tree when it was interrupted, where that is known, `origin`
    the commit on which a first attempt began that failed.
    """

    claim: Claim
    before: str
    pin: str | None = None
    reruns: int = 0
    interrupted: bool = False
    stopped: str | None = None
    origin: str | None = None
    attempts: Attempts = Attempts()

    @property
    def name(self) -> str:
        """What a message calls this turn."""
        return self.claim.name


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent's run ended; `failure` is None on success.

    `understood`: the agent itself said so, so that a success which changes nothing means something.
    """

    failure: Failure | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    message: str = ""
    understood: bool = False


class HandOff(msgspec.Struct, frozen=True):
    """A new value of the bus's register that is built and not yet there: `commit` after `parent`."""

    commit: str
    parent: str


class Carry(msgspec.Struct, frozen=True):
    """What a turn left in the work tree, and is no surprise at the next start.

    `retry` of the same turn goes on from `before`; a path that is still as in the tree `kept` is nobody's mistake.
    """

    actor: Actor
    iteration: int
    before: str
    kept: str
    origin: str | None = None

    def is_for(self, actor: Actor, iteration: int) -> bool:
        """Tell whether this is the same turn, to be tried again."""
        return (self.actor, self.iteration) == (actor, iteration)


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """Between turns; the highest epoch and iteration that this clone has seen on `branch`."""

    epoch: int = 0
    iteration: int = 1
    carry: Carry | None = None
    branch: str | None = None

    def on(self, branch: str) -> "Idle":
        """Return what is known of a branch: nothing, if this is about another one."""
        return self if self.branch in {None, branch} else Idle(branch=branch)


class Claiming(msgspec.Struct, frozen=True, tag="claiming"):
    """A claim is made and perhaps not yet known to the bus; `before` is the tree of the work tree.

    Where files are `uncommitted` it is about to be pinned: a restart must find whose pin it is. `offer` is the value of
    the register that claims; the claim's base, where a claim changes nothing.
    """

    claim: Claim
    before: str
    offer: str
    carry: Carry | None = None
    uncommitted: bool = False


class Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """The turn is ours."""

    turn: Turn


class Routed(msgspec.Struct, frozen=True, tag="routed"):
    """The prompt is chosen; durable because a router override is a paid agent run."""

    turn: Turn
    decision: Decision


class Running(msgspec.Struct, frozen=True, tag="running"):
    """The agent runs, started by `process` (a random name of one daemon process) in the boot `boot_id`.

    Without a decision it is the router prompt's. What it prints stands in the raw log `log` from `offset` on; that says
    how it went, where its events are `understood`.
    """

    turn: Turn
    decision: Decision | None
    process: str
    boot_id: str
    started_at: str
    understood: bool = False
    log: str = ""
    offset: int = 0


class Held(msgspec.Struct, frozen=True, tag="held"):
    """An attempt of the agent has failed in a way that passes; the next one begins at `until` (ISO 8601).

    Without a decision it is the router prompt's.
    """

    turn: Turn
    decision: Decision | None
    until: str
    why: str


class Ran(msgspec.Struct, frozen=True, tag="ran"):
    """The agent has ended, no process of it is left, and it will not run again for this claim."""

    turn: Turn
    decision: Decision | None
    outcome: Outcome


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """The work is judged and committed up to `work_head`; the gates are to run.

    `left` is the tree with what was not committed: what the gates then write is not the agent's.
    """

    turn: Turn
    decision: Decision | None
    outcome: Outcome
    work_head: str
    left: str
    exit_reason: str | None = None


class Checked(msgspec.Struct, frozen=True, tag="checked"):
    """The work is judged and committed up to `work_head`; `left` is the tree with what was not committed.

    `on` is the commit whose state is handed on, where somebody committed meanwhile; else it is the claim's.
    """

    turn: Turn
    decision: Decision | None
    outcome: Outcome
    work_head: str
    left: str
    failure: Failure | None = None
    exit_reason: str | None = None
    unpin: bool = False
    on: str | None = None


class Stamped(msgspec.Struct, frozen=True, tag="stamped"):
    """The hand-off is built."""

    checked: Checked
    hand_off: HandOff


class Posted(msgspec.Struct, frozen=True, tag="posted"):
    """An operator's commit is built; `then` follows, or `before` if it cannot land."""

    hand_off: HandOff
    before: Idle
    then: Idle


Entry = Idle | Claiming | Claimed | Routed | Running | Held | Ran | Judged | Checked | Stamped | Posted


def must_be_kept(entry: Entry) -> bool:
    """Tell whether an entry is written: losing it would lose something.

    The others are passed through. After a crash the step from the entry before makes them again, which costs nothing:
    no agent has run since. (A prompt that a router prompt chose has been paid for, as has what attempts have used; and
    the tree at a stop is gone when a person has changed it.)
    """
    if isinstance(entry, Claiming):
        return entry.uncommitted or entry.offer != entry.claim.base
    if isinstance(entry, Claimed | Routed):
        chosen = isinstance(entry, Routed) and entry.decision.source is Source.OVERRIDE
        return chosen or entry.turn.attempts != Attempts() or entry.turn.stopped is not None
    return not isinstance(entry, Checked)


def turn_of(entry: Entry) -> Turn | None:
    """Return the turn in progress that has begun."""
    if isinstance(entry, Idle | Posted | Claiming):
        return None
    return entry.checked.turn if isinstance(entry, Stamped) else entry.turn


def claim_of(entry: Entry) -> Claim | None:
    """Return the claim of a turn in progress."""
    if isinstance(entry, Claiming):
        return entry.claim
    turn = turn_of(entry)
    return turn.claim if turn else None


class _File(msgspec.Struct, frozen=True):
    schema: Literal[1]
    entry: Entry


class Journal:
    """The file that holds one entry."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Entry:
        """Return the entry; a missing file is `Idle`.

        Raises:
            Refused: the file cannot be understood.

        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Idle()
        try:
            return msgspec.json.decode(data, type=_File).entry
        except msgspec.DecodeError as error:
            raise Refused(
                f"{self.path}: the journal cannot be read: {error}",
                code="journal-unreadable",
                remedy=f"look at `git log` and `git status`, then: mv {self.path} {self.path}.bad",
            ) from None

    def between_turns(self) -> Idle | Posted:
        """Return the entry where no turn is in progress.

        Raises:
            Refused: one is (code `turn-open`).

        """
        entry = self.read()
        if isinstance(entry, Idle | Posted):
            return entry
        claim = claim_of(entry)
        raise Refused(
            f"{claim.name if claim else 'a turn'} is in progress here",
            code="turn-open",
            remedy="let it end: start as it was started, with --once; or give it up: `orchestrator abandon`",
        )

    def write(self, entry: Entry) -> None:
        """Replace the entry durably.

        Raises:
            OSError: the old entry is then still there.

        """
        failpoints.hit("journal.before_write")
        files.replace(self.path, msgspec.json.encode(_File(1, entry)) + b"\n")
        failpoints.hit("journal.after_write")
