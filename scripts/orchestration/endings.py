"""How an agent's run ended, as values: of what kind, what it said, when its limit ends, what it used."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec.structs import replace


class Kind(StrEnum):
    """How a run ended. All but OK are failures, of which some go away by themselves (attempts)."""

    OK = "ok"
    USAGE_LIMIT = "usage_limit"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    NETWORK = "network"
    QUOTA = "quota"
    AUTH = "auth"
    CONFIG = "config"
    OVERFLOW = "overflow"
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    TIMEOUT = "timeout"
    IDLE = "idle"
    CRASHED = "crashed"
    """It ended, by a signal or an exit code, before it had said how."""
    NO_RESULT = "no_result"
    """It exited with 0 and had not said how it went."""
    STOPPED = "stopped"
    FAILED = "failed"
    """A bare executable's exit code is not 0, or an agent says that it failed in a way that nothing here knows."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used, as its agent counts: `cost_usd` in US dollars, None if it does not say; the others in tokens.

    `unpriced`: of a sum with a cost, the tokens whose cost nobody told.
    """

    cost_usd: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    unpriced: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum; a cost that only one of them knows is the sum's."""
        mine, others = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        total = replace(self, **{name: _sum(mine[name], others[name]) for name in mine})
        return total if total.cost_usd is None else replace(total, unpriced=self.without_cost + other.without_cost)

    def since(self, earlier: "Usage", cumulative: Collection[str]) -> "Usage":
        """Return what came on top of `earlier`, another run of the same session, in the fields that it counts through.

        A count that is lower than before has begun anew. The fields not in `cumulative` are this run's already.
        """
        mine, before = msgspec.structs.asdict(self), msgspec.structs.asdict(earlier)
        return replace(self, **{name: _grown(mine[name], before[name]) for name in cumulative})

    @property
    def tokens(self) -> int:
        """What it read and wrote, as its agent counts: some count what a cache gave, some do not."""
        return self.input_tokens + self.output_tokens

    @property
    def without_cost(self) -> int:
        """The tokens whose cost nobody told."""
        return self.tokens if self.cost_usd is None else self.unpriced


Count = float | int | None


def _sum(one: Count, other: Count) -> Count:
    return other if one is None else one if other is None else one + other


def _grown(now: Count, then: Count) -> Count:
    return now if now is None or then is None or now < then else now - then


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How one run of an agent ended.

    Args:
        kind: of what kind.
        reason: one line that names what the agent said.
        message: its final text; empty if there is none, and for a bare executable.
        session: what its next run takes to go on where this one ended.
        reset: when its limit ends, in UTC, if it said so.
        usage: what it used, None if it did not say.
        cumulative: the fields of `usage` that count through all runs of the session.
        unreached: whether its provider was never reached.

    """

    kind: Kind
    reason: str
    message: str = ""
    session: str | None = None
    reset: datetime | None = None
    usage: Usage | None = None
    cumulative: tuple[str, ...] = ()
    unreached: bool = False

    def used(self, earlier: Usage | None = None) -> Usage | None:
        """Return what this run alone used.

        Args:
            earlier: the `usage` of the run before it in the same session; None if it began one.

        """
        if self.usage is None or earlier is None:
            return self.usage
        return self.usage.since(earlier, self.cumulative)
