"""A sample of what `scripts/prove` proves of the hand-off through a remote: the same trials, few of them."""

from pathlib import Path

import pytest

from prove_hand_off import POINTS, SCENARIOS, Case, Trial, fresh
from prove_night import Pace, night

ACTIONS = ("EIO", "TERM", "ENOSPC", "KILL")
ELSEWHERE = ("journal.", "settle.after_ref", "settle.after_file", "settle.after_index", "turn.checked")
"""Failpoints at which other tests of the hand-off kill."""


def sample() -> list[Case]:
    """Draw one case for each failpoint; a branch is left only where a turn is taken over."""
    points = [point for point in POINTS if not point.startswith(ELSEWHERE)]
    return [
        Case(point, ACTIONS[place % 4], "taken-over" if point.startswith("leave.") else list(SCENARIOS)[place % 6])
        for place, point in enumerate(points)
    ]


@pytest.mark.parametrize("case", sample(), ids=lambda case: case.name)
def test_a_strike_at_a_failpoint_costs_nothing_and_needs_nobody(tmp_path: Path, case: Case) -> None:
    verdict = Trial(fresh(tmp_path / "ground"), case).run()
    assert verdict.struck or case.action == "TERM"  # who is about to end has another exit code


def test_a_disturbed_night_ends_by_itself_with_every_commit_and_every_turn_once(tmp_path: Path) -> None:
    passed = night(tmp_path / "night", 20, "a seed", Pace(kill=3.0, push=2.0, outage=15.0))
    assert passed.judge() == []
    assert (passed.kills.total(), passed.pushes) != (0, 0)
