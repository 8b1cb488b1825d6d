"""Ceilings: what turns use is counted once, outlives every process, and ends the run where a limit is reached."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from conftest import Capture, Project, person, script
from orchestration import files
from orchestration.ceilings import Meter
from orchestration.endings import Usage
from orchestration.errors import Refused
from orchestration.settings import LimitSettings

TODAY = datetime(2026, 5, 4, 12, tzinfo=UTC)
SPENDS = """
echo change >>input.md
echo '{"type":"thread.started","thread_id":"s-1"}'
echo '{"type":"turn.completed","usage":{"input_tokens":100,"output_tokens":10}}'
"""
STALLS = SPENDS.replace("echo change >>input.md\n", "")


def speaking(project: Project, script: str, name: str = "mine") -> list[str]:
    """Return the options of an agent that speaks as codex does, and notes each of its starts."""
    ledger = project.path.parent / "ledger"
    path = project.agent(f'cat >/dev/null\necho "$ORCH_TURN {name} $*" >>{ledger}\n{script}', name)
    return ["--agent", name, "-c", f"agents.{name}.command=[{path}]", "-c", f"agents.{name}.preset=codex"]


def starts(project: Project) -> list[str]:
    """Return what the agents have noted."""
    ledger = project.path.parent / "ledger"
    return ledger.read_text().splitlines() if ledger.exists() else []


def code_of(meter: Meter, now: datetime = TODAY) -> str | None:
    """Return which limit is reached."""
    halt = meter.reached(now)
    return halt.code if halt else None


# --- the count -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"turn_cost": 1.0}, "limit-turn-cost"),
        ({"run_cost": 2.0}, "limit-run-cost"),
        ({"day_cost": 2.0}, "limit-day-cost"),
        ({"turn_tokens": 10}, "limit-turn-tokens"),
        ({"run_tokens": 20}, "limit-run-tokens"),
    ],
)
def test_two_turns_reach_a_limit_of_a_turn_a_run_or_a_day(tmp_path: Path, limits: dict[str, float], code: str) -> None:
    meter = Meter(tmp_path / "counters.json", LimitSettings(**{"day_cost": None} | limits))  # type: ignore[arg-type]
    used = Usage(cost_usd=1.0, input_tokens=6, output_tokens=4)
    assert code_of(meter) is None
    meter.charge("a", used, TODAY, stalled=False)
    assert (code_of(meter) is None) is not code.startswith("limit-turn")
    meter.charge("b", used, TODAY, stalled=False)
    assert code_of(meter) == code


def test_the_tokens_of_a_day_count_where_no_cost_is_told(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters.json", LimitSettings(day_tokens=100))
    meter.charge("a", Usage(cost_usd=0.1, input_tokens=500), TODAY, stalled=None)
    assert code_of(meter) is None
    meter.charge("b", Usage(input_tokens=100), TODAY, stalled=None)
    assert code_of(meter) == "limit-day-tokens"


def test_a_day_ends_at_midnight_and_a_limit_that_may_be_passed_counts_on_from_there(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters.json", LimitSettings(day_cost=1.0))
    meter.charge("a", Usage(cost_usd=1.5), TODAY, stalled=None)
    assert code_of(meter) == "limit-day-cost"
    assert code_of(meter, TODAY + timedelta(days=1)) is None
    assert meter.forgive(TODAY)
    assert not meter.forgive(TODAY)
    meter.charge("b", Usage(cost_usd=0.9), TODAY, stalled=None)
    assert code_of(meter) is None
    meter.charge("c", Usage(cost_usd=0.2), TODAY, stalled=None)
    assert code_of(meter) == "limit-day-cost"


def test_a_clock_that_goes_back_over_midnight_forgets_nothing_that_was_spent(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters.json", LimitSettings(day_cost=1.0))
    meter.charge("a", Usage(cost_usd=0.6), TODAY, stalled=None)
    meter.charge("b", Usage(cost_usd=0.6), TODAY - timedelta(days=1), stalled=None)
    assert (code_of(meter), code_of(meter, TODAY - timedelta(days=1))) == ("limit-day-cost", "limit-day-cost")


def test_a_turn_that_is_counted_while_a_limit_is_let_pass_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, limits = tmp_path / "counters.json", LimitSettings(day_tokens=5)
    Meter(path, limits).charge("a", Usage(input_tokens=5), TODAY, stalled=None)
    write, used = files.replace, Usage(input_tokens=7)
    daemon = Thread(target=lambda: Meter(path, limits).charge("b", used, TODAY, stalled=None))

    def meanwhile(path: Path, data: bytes) -> None:
        if not daemon.ident:
            daemon.start()
            daemon.join(0.3)
        write(path, data)

    monkeypatch.setattr(files, "replace", meanwhile)
    assert Meter(path, limits).forgive(TODAY)
    daemon.join()
    counted = Meter(path, limits).read(TODAY)
    assert (counted.nonce, counted.today.tokens, counted.forgiven.tokens) == ("b", 12, 5)


def test_turns_in_a_row_that_change_nothing_are_counted_until_one_does(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters.json", LimitSettings())
    for nonce, stalled in zip("abcdef", [True, True, False, True, None, True], strict=True):
        meter.charge(nonce, None, TODAY, stalled=stalled)
        assert code_of(meter) is None
    meter.charge("g", None, TODAY, stalled=True)
    assert code_of(meter) == "limit-no-progress"
    meter.forgive(TODAY)
    assert code_of(meter) is None


def test_a_turn_is_counted_once_also_by_another_process(tmp_path: Path) -> None:
    for _ in range(3):
        Meter(tmp_path / "counters.json", LimitSettings()).charge("a", Usage(input_tokens=5), TODAY, stalled=None)
    counted = Meter(tmp_path / "counters.json", LimitSettings()).read(TODAY)
    assert (counted.today.turns, counted.today.tokens) == (1, 5)


def test_a_damaged_count_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "counters.json").write_text("{")
    with pytest.raises(Refused, match="what was spent today cannot be read"):
        Meter(tmp_path / "counters.json", LimitSettings()).reached(TODAY)


# --- real runs -------------------------------------------------------------------------------------------------------


def test_a_reached_limit_ends_every_start_with_9_until_resume(project: Project, capsys: Capture) -> None:
    options = [*speaking(project, SPENDS), "-c", "limits.day_tokens=200"]
    told = person(project, capsys, "run", *options, code=9)
    assert "220 of 200 tokens of the day are used (limits.day_tokens)" in told
    assert "stopped after 2 turns" in told
    assert project.call("run", "--once", *options) == 9
    assert len(starts(project)) == 2
    (project.path / "orchestration.yaml").write_text("limits: {day_tokens: 200}\n")
    project.commit("the limit, for the commands that look")
    assert "a limit is reached: 220 of 200 tokens" in person(project, capsys, "status")
    assert script(project, capsys, "resume")["limit_passed"] is True
    assert project.call("run", "--once", *options) == 0
    assert len(starts(project)) == 3
    assert "3 turns, 330 tokens" in person(project, capsys, "status")


def test_agents_that_change_nothing_are_not_paid_for_ever(project: Project, capsys: Capture) -> None:
    told = person(project, capsys, "run", *speaking(project, STALLS), code=9)
    assert "3 turns in a row have succeeded and changed nothing (limits.no_progress_turns)" in told
    assert len(starts(project)) == 3


def test_a_bare_executable_may_change_nothing(project: Project) -> None:
    assert project.call("run", "-n", "3", "--agent", project.agent("exit 0")) == 0
