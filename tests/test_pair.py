"""Two daemons in two clones: the hand-off from machine to machine, seen from outside."""

from pathlib import Path

import pytest

from pair import Pair, pair, running


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones."""
    return pair(tmp_path)


def test_two_daemons_take_turns_until_both_have_done_theirs(two: Pair) -> None:
    daemons = [two.start(role, "-n", "3") for role in ("galph", "ralph")]
    with running(*daemons):
        said = [daemon.communicate(timeout=60)[0] for daemon in daemons]

    assert [daemon.returncode for daemon in daemons] == [0, 0], said
    assert [stamp.kind for stamp in two.stamps()] == ["claim", "hand-off"] * 6
    assert [line for line in two.hub.git("log", "--reverse", "--format=%s", "main").splitlines() if "work" in line] == [
        f"work {iteration}/{role}" for iteration in (1, 2, 3) for role in ("galph", "ralph")
    ]
    assert (two.state()["iteration"], two.state()["expected_actor"]) == (4, "galph")
    two.check()


def test_a_turn_that_is_not_ours_is_nothing_to_do_for_a_run_of_one_turn(two: Pair) -> None:
    before = two.tip()
    assert two.turn("ralph") == 0
    assert two.tip() == before
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    two.check()
