"""What follows a failed attempt of a turn's agent: another one, later or by another agent, or none."""

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from orchestration.clock import iso
from orchestration.endings import Ending, Kind
from orchestration.journal import Attempts
from orchestration.settings import LimitSettings

_PAUSES = {
    Kind.RATE_LIMIT: (60.0, 900.0),
    Kind.SERVER: (30.0, 600.0),
    Kind.NETWORK: (15.0, 300.0),
    Kind.USAGE_LIMIT: (900.0, 3600.0),
}
"""Seconds before the second attempt and at most, doubled from one to the next, where the agent does not say when."""

_TAKEN_OVER = {Kind.USAGE_LIMIT, Kind.AUTH, Kind.QUOTA}
OVERDUE = timedelta(minutes=1)
"""How long after a limit's end within which the next attempt begins: not all of the world's agents at once."""
_JITTER = 0.25
_FREE = timedelta(minutes=5)
"""A usage limit that is said to end sooner counts as an attempt: it might be said again and again."""
_WORDS = {
    Kind.USAGE_LIMIT: "its usage limit is reached",
    Kind.RATE_LIMIT: "it is asked to be slower",
    Kind.SERVER: "its provider is in trouble",
    Kind.NETWORK: "its provider cannot be reached",
}


class Tried(NamedTuple):
    """One attempt: how it ended, who made it, and who would take the turn over from them."""

    ending: Ending
    agent: str
    fallback: str | None


class Again(NamedTuple):
    """The next attempt: what it begins with, when, and why for a person."""

    attempts: Attempts
    until: datetime
    why: str


def after(before: Attempts, ending: Ending) -> Attempts:
    """Return what the attempts of a turn have come to with one more."""
    earlier = before.told if ending.session in {None, before.session} else None
    mine = ending.used(earlier)
    return replace(
        before,
        made=before.made + 1,
        session=ending.session or before.session,
        told=ending.usage or earlier,
        used=mine.plus(before.used) if mine and before.used else mine or before.used,
    )


def again(tried: Tried, before: Attempts, limits: LimitSettings, now: datetime, luck: float) -> Again | None:
    """Return the next attempt of a turn; None where another one would end alike.

    Args:
        tried: the attempt that failed.
        before: what the attempts before it had come to.
        limits: how many attempts a turn has, and how long a limit is slept out.
        now: the time of day.
        luck: a random number from 0 to 1: it only ever prolongs.

    """
    ending = tried.ending
    done = replace(after(before, ending), cut_off=(before.cut_off or iso(now)) if ending.unreached else None)
    anew = replace(done, session=None, told=None)
    if ending.kind in _TAKEN_OVER and tried.fallback and before.agent is None:
        return Again(
            replace(anew, agent=tried.fallback), now, f"{tried.agent}: {ending.reason}; {tried.fallback} takes over"
        )
    lost = ending.kind is Kind.OVERFLOW or (ending.kind is Kind.CONFIG and before.session is not None)
    if lost and not before.fresh:
        return Again(replace(anew, fresh=True), now, f"{tried.agent}: {ending.reason}; it begins anew")
    return _later(tried, done, limits, now, luck) if ending.kind in _PAUSES else None


def _later(tried: Tried, done: Attempts, limits: LimitSettings, now: datetime, luck: float) -> Again | None:
    """Return the attempt after a pause: up to the limit's end, if it is known, else ever longer."""
    kind, reset = tried.ending.kind, tried.ending.reset
    longest = timedelta(seconds=limits.max_limit_sleep)
    if reset is not None:
        pause = min(max(reset - now, timedelta()) + OVERDUE * luck, longest)
    else:
        first, most = _PAUSES[kind]
        seconds = min(most, first * 2 ** min(done.made - 1, 20)) * (1 + _JITTER * luck)
        pause = min(timedelta(seconds=seconds), longest)
    slept_out = kind is Kind.USAGE_LIMIT and reset is not None and pause > _FREE
    free = slept_out or _is_offline(done, longest, now)
    done = done if free else replace(done, counted=done.counted + 1)
    if done.counted >= limits.attempts:
        return None
    return Again(done, now + pause, f"{tried.agent}: {_WORDS[kind]} ({tried.ending.reason})")


def _is_offline(done: Attempts, longest: timedelta, now: datetime) -> bool:
    """Tell whether no attempt reaches its provider, for no longer than may be waited: such attempts cost nothing."""
    return done.cut_off is not None and now - datetime.fromisoformat(done.cut_off) < longest
