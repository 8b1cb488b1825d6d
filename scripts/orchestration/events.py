"""What happens, as one typed union: the log, the terminal and `--json` all read these, and nothing else is written."""

import msgspec

from orchestration.state import Actor


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened at `at` (ISO 8601 UTC)."""

    at: str = ""


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """A daemon begins; it does at most so many iterations (0: no limit), or turns of the `solo` actor.

    A turn ends in so many `commits` of ours, beside those of the agent's work.
    """

    version: str
    branch: str
    agents: dict[str, list[str]]
    iterations: int
    solo: Actor | None = None
    commits: int = 1


class TurnStarted(Event, frozen=True, kw_only=True, tag="turn-started"):
    """An agent is about to run."""

    iteration: int
    actor: Actor
    prompt: str
    reason: str
    agent: str
    log: str


class AttemptEnded(Event, frozen=True, kw_only=True, tag="attempt-ended"):
    """An attempt of a turn's agent failed, and another one follows at `until` (ISO 8601 UTC)."""

    iteration: int
    actor: Actor
    agent: str
    kind: str
    why: str
    until: str
    attempt: int


class TurnEnded(Event, frozen=True, kw_only=True, tag="turn-ended"):
    """A turn is handed off, or stamped as failed; `seconds` is the agent's time."""

    iteration: int
    actor: Actor
    prompt: str | None
    ok: bool
    reason: str | None
    seconds: float
    exit_code: int | None
    commits: list[str]
    files: int
    insertions: int
    deletions: int
    commit: str | None
    attempts: int = 1
    cost_usd: float | None = None
    tokens: int | None = None


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something a person should know: `level` is info or warning, `code` a stable name."""

    level: str = "info"
    code: str
    text: str


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """Nothing can be done now, and why; `until` (ISO 8601 UTC) if that is known."""

    why: str
    until: str | None = None


class RunEnded(Event, frozen=True, kw_only=True, tag="run-ended"):
    """A daemon stops: its exit code, why, how many turns it ran, and what these used, if their agents told.

    Where the state is the reason: its epoch, its iteration, and whose turn it is.
    """

    exit_code: int
    code: str
    reason: str
    remedy: str
    turns: int = 0
    epoch: int | None = None
    iteration: int | None = None
    actor: Actor | None = None
    cost_usd: float | None = None
    tokens: int = 0


AnyEvent = RunStarted | TurnStarted | AttemptEnded | TurnEnded | Notice | Waiting | RunEnded
