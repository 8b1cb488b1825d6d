"""Telling who is not there: `notify.command` hears of a run's end, once, and cannot change how it ended."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Capture, Project, Ran, script
from orchestration.errors import ExitCode
from orchestration.events import RunEnded
from orchestration.notify import TIMEOUT, What, kind_of
from pair import until

LISTENS = """
{ env | grep '^ORCH_NOTIFY_\\(EVENT\\|CODE\\|EXIT_CODE\\|BRANCH\\|ITERATION\\|ACTOR\\)=' | sort; cat; } >>"$HOME/told"
"""


@pytest.fixture
def listens(project: Project) -> Callable[[str], str]:
    """Make the command that is told, by default one that notes what it was given; returns the option."""

    def made(text: str = LISTENS) -> str:
        return f"notify.command={json.dumps([project.agent(text, 'listener')])}"

    return made


def home() -> Path:
    return Path(os.environ["HOME"])


def told() -> list[dict[str, Any]]:
    """Return what the command was given on its standard input, each time."""
    file = home() / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_failed_turn_is_told_with_its_facts_in_the_environment_and_as_json(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    assert run("echo no; exit 3", "-c", listens()).exit_code == 4

    (facts,) = told()
    logs = project.path / "logs" / "main" / "latest"
    assert Path(facts.pop("logs")).resolve() == logs.resolve()
    assert "exit code 3" in facts.pop("reason")
    assert "orchestrator retry" in facts.pop("remedy")
    assert facts == {
        "event": "failed",
        "code": "agent-failed",
        "exit_code": 4,
        "branch": "main",
        "iteration": 1,
        "actor": "galph",
    }
    assert [line for line in (home() / "told").read_text().splitlines() if line.startswith("ORCH")] == [
        "ORCH_NOTIFY_ACTOR=galph",
        "ORCH_NOTIFY_BRANCH=main",
        "ORCH_NOTIFY_CODE=agent-failed",
        "ORCH_NOTIFY_EVENT=failed",
        "ORCH_NOTIFY_EXIT_CODE=4",
        "ORCH_NOTIFY_ITERATION=1",
    ]


def test_a_failure_that_stays_is_told_once_however_often_it_is_met(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    for _ in range(3):
        assert run("exit 3", "--once", "-c", listens()).exit_code == 4
    assert len(told()) == 1

    assert project.call("retry", "--json") == 0
    for _ in range(2):
        assert run("exit 3", "--once", "-c", listens()).exit_code == 4
    assert len(told()) == 2


def test_a_failure_that_a_start_meets_is_told_with_the_turn_and_where_its_logs_are(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    assert run("exit 3").exit_code == 4

    assert run("exit 3", "--once", "-c", listens()).exit_code == 4

    (facts,) = told()
    assert (facts["iteration"], facts["actor"]) == (1, "galph")
    assert facts["logs"] == str(project.path / "logs" / "main" / "latest")


def test_the_end_of_the_iterations_and_the_exit_flag_are_told_as_finished(
    run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    assert run("true", "-c", listens()).code == "iterations"
    ends = """sed -i 's/"exit": false/"exit": true/' sync/state.json"""
    for _ in range(3):
        assert run(ends, "-c", listens()).code == "exit-flag"

    assert [(facts["event"], facts["code"]) for facts in told()] == [
        ("finished", "iterations"),
        ("finished", "exit-flag"),
    ]


@pytest.mark.parametrize("fails", ["exit 7", "kill -9 $$"])
def test_what_a_command_has_not_told_is_told_at_the_next_start(
    project: Project, listens: Callable[..., str], fails: str
) -> None:
    option = listens(f"[ -e $HOME/up ] || {{ touch $HOME/up; {fails}; }}\n{LISTENS}")
    for _ in range(3):
        assert one_turn(project, option).returncode == 4

    assert [(facts["event"], facts["code"]) for facts in told()] == [("failed", "agent-failed")]


def test_one_turn_that_was_asked_for_is_no_news(run: Callable[..., Ran], listens: Callable[..., str]) -> None:
    assert run("true", "--once", "-c", listens()).code == "once"

    assert told() == []


def test_a_refusal_is_told_once_and_again_after_it_was_mended(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    for _ in range(2):
        project.write("README.md", "changed\n")
        for _ in range(2):
            assert run("true", "--once", "-c", listens()).code == "dirty-tree"
        project.git("checkout", "--quiet", "README.md")
        assert run("true", "--once", "-c", listens()).exit_code == 0

    assert [(facts["event"], facts["code"], facts["exit_code"]) for facts in told()] == [
        ("person", "dirty-tree", 3)
    ] * 2


def test_a_refusal_of_before_the_first_look_is_told(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    project.git("checkout", "--quiet", "--detach")

    assert run("true", "-c", listens()).code == "detached-head"

    assert [(facts["event"], facts["code"], facts["branch"]) for facts in told()] == [("person", "detached-head", "")]


def test_a_stop_by_a_signal_is_told(project: Project, listens: Callable[..., str]) -> None:
    agent = project.agent("touch $HOME/runs; sleep 60")
    with project.start("run", "--agent", agent, "-c", listens()) as daemon:
        until((home() / "runs").exists)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 143

    (facts,) = told()
    assert (facts["event"], facts["code"], facts["exit_code"]) == ("stopped", "signal", 143)


def test_every_exit_code_but_success_is_news() -> None:
    kinds = {code: kind_of(RunEnded(exit_code=code, code="any", reason="", remedy="")) for code in [*ExitCode, 9]}

    assert {code for code, kind in kinds.items() if kind is None} == {ExitCode.OK}
    assert {code for code, kind in kinds.items() if kind is What.PERSON} == {2, 3, 7, 8, 70}
    assert kinds[ExitCode.TURN_FAILED] is What.FAILED
    assert kinds[9] is What.LIMIT


# --- a command that misbehaves ----------------------------------------------------------------------------------------


def warnings(ran: subprocess.CompletedProcess[str]) -> list[str]:
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    return [event["text"] for event in events if event.get("code") == "notify"]


def one_turn(project: Project, option: str) -> subprocess.CompletedProcess[str]:
    """Run a failing turn in a process of its own; return what it printed."""
    return project.run("run", "--json", "--agent", project.agent("exit 3"), "-c", option, timeout=TIMEOUT + 30)


def test_a_command_that_fails_is_one_warning_with_what_it_said(project: Project, listens: Callable[..., str]) -> None:
    ran = one_turn(project, listens("echo no network >&2; exit 6"))

    assert ran.returncode == 4
    assert warnings(ran) == ["notify.command ended with exit code 6: no network"]
    assert [event["text"] for event in project.events() if event.get("code") == "notify"] == warnings(ran)


def test_a_command_that_is_not_there_is_told_when_the_run_begins(project: Project) -> None:
    ran = one_turn(project, 'notify.command=["./none.sh"]')

    assert ran.returncode == 4
    first, second = warnings(ran)
    assert first == "notify.command: './none.sh' was not found, or is not executable"
    assert second.startswith("notify.command could not be run: ")


def test_a_command_that_hangs_is_ended_and_so_is_what_it_started(project: Project, listens: Callable[..., str]) -> None:
    hangs = "trap '' TERM; setsid sleep 300 & echo $! >$HOME/pids; echo $$ >>$HOME/pids; sleep 300"

    ran = one_turn(project, listens(hangs))

    assert ran.returncode == 4
    assert warnings(ran) == [f"notify.command was ended after {TIMEOUT:g} s"]
    assert list(alive()) == []


def test_what_a_command_leaves_behind_is_ended_with_it(project: Project, listens: Callable[..., str]) -> None:
    ran = one_turn(project, listens("setsid sleep 300 >/dev/null 2>&1 & echo $! >$HOME/pids"))

    assert ran.returncode == 4
    assert warnings(ran) == []
    assert list(alive()) == []


def test_a_command_that_floods_is_heard_out_and_not_kept(project: Project, listens: Callable[..., str]) -> None:
    ran = one_turn(project, listens("head -c 20000000 /dev/zero | tr '\\0' 'x'; echo; echo at last; exit 1"))

    assert ran.returncode == 4
    (said,) = warnings(ran)
    assert said.endswith("x\nat last")
    assert len(said) < 4096


def test_a_second_signal_does_not_wait_for_the_command(project: Project, listens: Callable[..., str]) -> None:
    agent = project.agent("touch $HOME/runs; sleep 60")
    option = listens("trap '' TERM; echo $$ >$HOME/pids; sleep 300")
    with project.start("run", "--json", "--agent", agent, "-c", option) as daemon:
        until((home() / "runs").exists)
        daemon.send_signal(signal.SIGINT)
        until(lambda: list(alive()))
        daemon.send_signal(signal.SIGINT)
        out, _ = daemon.communicate(timeout=60)

    assert daemon.returncode == 130
    assert "notify.command ended with exit code 137" in out
    assert list(alive()) == []


def test_nobody_is_told_while_another_daemon_holds_the_clone(
    project: Project, capsys: Capture, listens: Callable[..., str]
) -> None:
    agent = project.agent("touch $HOME/runs; sleep 60")
    with project.start("run", "--agent", agent) as daemon:
        until((home() / "runs").exists)
        assert script(project, capsys, "run", "--once", "--agent", agent, "-c", listens(), code=7)["exit_code"] == 7
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=30)

    assert told() == []


def test_a_reason_that_no_environment_holds_is_told_all_the_same(
    project: Project, run: Callable[..., Ran], listens: Callable[..., str]
) -> None:
    assert run("printf 'a\\0b\\377\\n'; exit 3", "-c", listens()).exit_code == 4

    assert "| ab" in told()[0]["reason"]
    assert project.journal() == "idle"


def alive() -> Iterator[int]:
    """Yield those processes of the file `pids` that live."""
    file = home() / "pids"
    for pid in map(int, file.read_text().split() if file.exists() else []):
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
            yield pid
