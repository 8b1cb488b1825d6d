"""Ceilings in real runs: what a turn used is counted once, also if it is killed, stopped, taken or given up."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cast import WORKS, Cast, Hours, claude, codex_ok, says
from conftest import Capture, Project
from pair import events, pair, running, until
from test_remote_bus import take_over
from test_waiting import BEATS

STOP = ": >.git/orchestration/control/stop-now; exec sleep 100000"
GOES_ON = says({"type": "system", "subtype": "init", "session_id": "s"})
"""What claude says when a task in the background has ended: what it had told was not the end."""


@pytest.fixture
def cast(project: Project) -> Cast:
    """Give the agents of a project."""
    return Cast(project)


def counted(cast: Cast) -> tuple[int, int, int]:
    """Return how many turns of today are counted, their tokens, and how many in a row changed nothing."""
    found = cast.counters()
    return found.get("today", {}).get("turns", 0), found.get("today", {}).get("tokens", 0), found.get("stalled", 0)


def last_event(cast: Cast, capsys: Capture, *args: str, code: int) -> dict[str, Any]:
    """Run a command line as a script does; return the last thing that it said."""
    capsys.readouterr()
    assert cast.project.call(*args, "--json") == code
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


DEATHS = ["stamp.built", "settle.before_ref", "settle.after_ref", "settle.after_index", "settle.after_file"]
DEATHS += ["turn.settled", "journal.before_write:3", "journal.before_write:4", "journal.after_write:4"]


@pytest.mark.parametrize("death", DEATHS)
def test_a_turn_is_counted_once_wherever_its_daemon_died(cast: Cast, death: str) -> None:
    agent = cast.agent(codex_ok())
    name, _, nth = death.partition(":")
    armed = {"GALPH_FAILPOINT": f"{name}:KILL:{nth or 1}"}
    died = cast.project.run("run", "--once", "--agent", agent, env=armed)
    assert died.returncode == -signal.SIGKILL, died.stdout

    if cast.project.journal() != "idle":
        assert cast.project.call("run", "--once", "--agent", agent) == 0
    assert cast.project.state()["status"] == "waiting-ralph"
    assert (counted(cast), len(cast.ran())) == ((1, 110, 1), 1)


def test_another_day_begins_with_nothing_spent(cast: Cast, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = cast.agent(claude("s", 2.0), preset="claude")
    command = ("run", "--once", "--agent", agent, "-c", "limits.day_cost=2")
    assert last_event(cast, capsys, *command, code=9)["turns"] == 1
    clock = Hours(24 * 3600)
    monkeypatch.setattr("orchestration.cli.run.SystemClock", lambda: clock)
    assert last_event(cast, capsys, *command, code=9)["turns"] == 1


def test_runs_of_one_turn_add_up(cast: Cast, capsys: Capture) -> None:
    agent = cast.agent(f"{WORKS}\n{codex_ok()}")
    command = ("run", "--once", "--agent", agent, "-c", "limits.day_tokens=220")
    assert last_event(cast, capsys, *command, code=0)["tokens"] == 110
    assert last_event(cast, capsys, *command, code=9)["code"] == "limit-day-tokens"
    assert last_event(cast, capsys, *command, code=9)["turns"] == 0


def test_what_an_agent_leaves_and_the_daemon_commits_is_progress(cast: Cast, capsys: Capture) -> None:
    agent = cast.agent(f'echo "$ORCH_TURN" >>input.md\n{codex_ok()}')
    options = ("-n", "2", "--agent", agent, "-c", "limits.no_progress_turns=1")
    assert last_event(cast, capsys, "run", *options, code=0)["code"] == "iterations"


def test_nothing_is_known_of_progress_without_git(cast: Cast, capsys: Capture) -> None:
    options = ("--no-git", "-n", "2", "--agent", cast.agent(codex_ok()), "-c", "limits.no_progress_turns=1")
    assert last_event(cast, capsys, "run", *options, code=0)["code"] == "iterations"


def test_a_failed_turn_says_nothing_about_progress_and_its_use_counts(cast: Cast) -> None:
    agent = cast.agent(f"{codex_ok()}\nexit 1")
    assert cast.project.call("run", "--once", "--agent", agent, "-c", "limits.no_progress_turns=1") == 4
    assert counted(cast) == (1, 110, 0)


def test_what_an_attempt_used_that_was_stopped_counts_once(cast: Cast) -> None:
    agent = cast.agent(f"{claude('s', 1.0)}\n{GOES_ON}\n{STOP}", claude("s", 3.0), preset="claude")
    assert cast.project.call("run", "--once", "--agent", agent) == 143
    assert cast.project.call("run", "--once", "--agent", agent) == 0
    assert "--resume s" in cast.ran()[1]
    assert cast.counters()["turn"]["cost_usd"] == 3.0


def test_what_a_turn_used_that_was_taken_counts(tmp_path: Path) -> None:
    two = pair(tmp_path)
    cast = Cast(two.galph)
    agent = cast.agent(f"{claude('s', 1.5)}\ntouch {tmp_path}/there; exec sleep 100000", preset="claude")
    two.galph.git("push", "--quiet")
    daemon = two.start("galph", "--once", "--json", *BEATS, agent=agent)
    with running(daemon):
        until((tmp_path / "there").exists)
        take_over(two)
        assert events(daemon)[-1]["exit_code"] == 8
    assert cast.counters()["today"]["cost_usd"] == 1.5


def test_what_a_turn_used_that_was_given_up_counts(cast: Cast) -> None:
    agent = cast.agent(f"{claude('s', 1.0)}\n{GOES_ON}\n{STOP}", preset="claude")
    assert cast.project.call("run", "--once", "--agent", agent) == 143
    assert cast.project.call("abandon") == 0
    assert cast.counters()["today"]["cost_usd"] == 1.0


@pytest.mark.parametrize("command", [["run", "--once", "--agent", "fake"], ["status"], ["resume"]])
def test_counters_that_are_damaged_refuse_and_name_the_way_out(cast: Cast, capsys: Capture, command: list[str]) -> None:
    cast.agent(codex_ok())
    file = cast.project.path / ".git/orchestration/counters.json"
    file.write_text("{")
    refusal = last_event(cast, capsys, *command, code=3)
    assert refusal.get("error", refusal.get("code")) == "counters-unreadable"
    assert cast.ran() == []
    assert str(refusal["remedy"]).endswith(f"mv {file} {file}.bad")
