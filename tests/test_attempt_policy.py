"""Attempts inside a turn: which failures pass, for how long they are waited out, by whom, and what it costs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.attempts import Again, Tried, after, again
from orchestration.clock import iso
from orchestration.endings import Ending, Kind, Usage
from orchestration.journal import Attempts
from orchestration.settings import LimitSettings

NOW = datetime(2026, 1, 20, 3, 29, 29, tzinfo=UTC)
PASSES = [Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK, Kind.USAGE_LIMIT]
STANDS = sorted(set(Kind) - {*PASSES, Kind.OK, Kind.OVERFLOW})
LIMITS = LimitSettings()


def failed(kind: Kind, **facts: Any) -> Tried:  # noqa: ANN401 - any field of an ending
    """Return an attempt of the agent `one` that failed."""
    return Tried(Ending(kind=kind, reason="it says so", **facts), "one", None)


# --- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (Kind.RATE_LIMIT, [60, 120, 240, 480]),
        (Kind.SERVER, [30, 60, 120, 240]),
        (Kind.NETWORK, [15, 30, 60, 120]),
        (Kind.USAGE_LIMIT, [900, 1800, 3600, 3600]),
    ],
)
def test_what_passes_is_tried_again_ever_later_and_five_times_in_all(kind: Kind, seconds: list[float]) -> None:
    before, pauses = Attempts(), list[float]()
    while following := again(failed(kind), before, LIMITS, NOW, 0.0):
        pauses.append((following.until - NOW).total_seconds())
        before = following.attempts
    assert pauses == seconds
    assert (before.made, before.counted) == (4, 4)


@pytest.mark.parametrize("kind", STANDS)
def test_what_does_not_pass_by_itself_is_not_tried_again(kind: Kind) -> None:
    assert again(failed(kind), Attempts(), LIMITS, NOW, 0.5) is None


@given(
    kinds=st.lists(st.sampled_from(PASSES), min_size=1, max_size=40),
    attempts=st.integers(1, 9),
    longest=st.integers(1, 100_000),
    luck=st.floats(0, 1),
    resets=st.lists(st.none() | st.integers(1, 1_000_000), min_size=40, max_size=40),
)
@settings(deadline=None)
def test_attempts_are_bounded_and_no_pause_is_longer_than_a_limit_is_slept_out(
    kinds: list[Kind], attempts: int, longest: int, luck: float, resets: list[int | None]
) -> None:
    limits = LimitSettings(attempts=attempts, max_limit_sleep=longest)
    before, now, counted = Attempts(), NOW, 0
    for kind, left in zip(kinds, resets, strict=False):
        limited = kind in {Kind.USAGE_LIMIT, Kind.RATE_LIMIT}
        reset = now + timedelta(seconds=left) if limited and left is not None else None
        following = again(failed(kind, reset=reset), before, limits, now, luck)
        counted += not (kind is Kind.USAGE_LIMIT and reset)
        assert (following is None) == (counted >= attempts)
        if following is None:
            return
        pause = (following.until - now).total_seconds()
        assert 0 <= pause <= longest
        assert reset is None or following.until >= min(reset, now + timedelta(seconds=longest))
        assert reset is None or following.until <= reset + timedelta(seconds=60)
        assert following.attempts.counted == counted
        before, now = following.attempts, following.until


def test_who_is_cut_off_from_its_provider_loses_no_attempt_for_as_long_as_a_limit_is_slept_out() -> None:
    before, now, made = Attempts(), NOW, 0
    while following := again(failed(Kind.NETWORK, unreached=True), before, LIMITS, now, 1.0):
        assert following.attempts.counted == 0 or now - NOW >= timedelta(seconds=LIMITS.max_limit_sleep)
        before, now, made = following.attempts, following.until, made + 1
    assert timedelta(hours=8) <= now - NOW <= timedelta(hours=8, minutes=40)
    assert before.counted == LIMITS.attempts - 1
    assert made == before.made


def test_whoever_was_reached_once_is_cut_off_anew() -> None:
    cut = Attempts(cut_off=iso(NOW - timedelta(hours=9)))
    reached = again(failed(Kind.SERVER), cut, LIMITS, NOW, 0.0)
    assert reached
    assert reached.attempts.cut_off is None
    later = again(failed(Kind.NETWORK, unreached=True), reached.attempts, LIMITS, NOW, 0.0)
    assert later
    assert (later.attempts.cut_off, later.attempts.counted) == (iso(NOW), 1)


@pytest.mark.parametrize("kind", [Kind.USAGE_LIMIT, Kind.AUTH, Kind.QUOTA])
def test_a_turn_is_taken_over_at_once_and_once(kind: Kind) -> None:
    ending = Ending(kind=kind, reason="no more", session="s", usage=Usage(input_tokens=5))
    first = again(Tried(ending, "one", "two"), Attempts(session="s"), LIMITS, NOW, 0.5)
    taken = Attempts(made=1, agent="two", used=Usage(input_tokens=5))
    assert first == Again(taken, NOW, "one: no more; two takes over")

    second = again(Tried(ending, "two", "one"), taken, LIMITS, NOW, 0.5)
    assert (second is None) == (kind is not Kind.USAGE_LIMIT)
    assert second is None or second.attempts.agent == "two"


@pytest.mark.parametrize("kind", [Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK, Kind.CONFIG, Kind.IDLE])
def test_what_is_no_limit_and_no_login_is_not_taken_over(kind: Kind) -> None:
    following = again(Tried(Ending(kind=kind, reason="no"), "one", "two"), Attempts(), LIMITS, NOW, 0.5)
    assert following is None or following.attempts.agent is None


@pytest.mark.parametrize("kind", [Kind.OVERFLOW, Kind.CONFIG])
def test_a_session_that_is_of_no_use_is_left_for_a_new_one_once(kind: Kind) -> None:
    before = Attempts(session="old", told=Usage(cost_usd=1.0), made=1, counted=1)
    first = again(failed(kind), before, LIMITS, NOW, 0.5)
    assert first
    assert first[:2] == (Attempts(made=2, counted=1, fresh=True), NOW)
    assert again(failed(kind, session="new"), first.attempts, LIMITS, NOW, 0.5) is None


# --- what it has used ------------------------------------------------------------------------------------------------


def spent(*runs: tuple[str | None, Usage | None]) -> Usage | None:
    """Return what runs of one turn used, each of a session and with its own count, whose cost is cumulative."""
    before = Attempts()
    for session, usage in runs:
        ending = Ending(kind=Kind.SERVER, reason="", session=session, usage=usage, cumulative=("cost_usd",))
        before = after(before, ending)
    return before.used


def told(cost: float, tokens: int) -> Usage:
    """Return a session's own count: its cost up to now, the tokens of its last run."""
    return Usage(cost_usd=cost, input_tokens=tokens)


def test_what_a_session_counts_through_is_counted_once() -> None:
    assert spent(("a", told(1, 10)), ("a", told(3, 10))) == told(3, 20)
    assert spent(("a", told(1, 10)), ("b", told(3, 10))) == told(4, 20)
    assert spent(("a", told(1, 10)), ("a", None), ("a", told(3, 10))) == told(3, 20)
    assert spent(("a", told(1, 10)), (None, None), ("a", told(3, 10))) == told(3, 20)
    assert spent((None, None), ("a", None)) is None


def test_the_count_of_one_session_is_not_taken_for_anothers() -> None:
    assert spent(("a", told(2, 10)), ("b", None), ("b", told(3, 10))) == told(5, 20)


def test_a_session_that_counts_anew_is_believed() -> None:
    assert spent(("a", told(2, 10)), ("a", told(1, 10))) == told(3, 20)
