"""Turns of one actor alone: `supervisor` and `loop`, by every door."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DOOR, Project
from grounds import Ground, ground, stamped
from orchestration import failpoints
from orchestration.bus import Fenced
from orchestration.errors import Refused

STATE = "sync/state.json"
WRAPPER = DOOR.parents[2] / "orchestrator.sh"

DOORS = {
    "supervisor": [sys.executable, str(DOOR), "supervisor"],
    "loop": [sys.executable, str(DOOR), "loop"],
    "supervisor.py": [sys.executable, str(DOOR.with_name("supervisor.py"))],
    "loop.py": [sys.executable, str(DOOR.with_name("loop.py"))],
    "orchestrator.sh supervisor": [str(WRAPPER), "supervisor"],
    "orchestrator.sh loop": [str(WRAPPER), "loop"],
}
EDIT = 'sed -i \'s/"iteration": [0-9]*/"iteration": 99/\' sync/state.json'


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Name the file outside of the repository to which agents write which turn they were given."""
    return tmp_path / "ledger"


@pytest.fixture
def note(ledger: Path) -> str:
    """Give the line of shell by which an agent says which turn it was given."""
    return f'echo "$ORCH_TURN/$ORCH_PROMPT" >> {ledger}'


def truth(project: Project) -> tuple[str, str, bytes]:
    """Return everything that the turns of one actor must not write: the state's commits, the state, the file."""
    history = project.git("log", "--format=%H", "--", STATE)
    return history, project.git("show", f"HEAD:{STATE}"), (project.path / STATE).read_bytes()


def journals(project: Project) -> list[str]:
    """Return the journals of the work tree that hold a turn in progress."""
    found = (project.path / ".git/orchestration").glob("**/journal*.json")
    return [file.name for file in found if '"type":"idle"' not in file.read_text()]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_turns_of_its_actor_and_the_state_stays_as_it_is(
    project: Project, ledger: Path, note: str, door: str
) -> None:
    for actor in ("galph", "ralph"):
        assert project.call("stamp", actor, "ok") == 0
    before = truth(project)
    (project.path / "deep").mkdir()
    agent = project.agent(f"{note}; date >> docs/notes.md; {EDIT}")
    project.write("docs/notes.md", "")
    project.commit("notes")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        [*DOORS[door], "-n", "3", "--agent", agent, "-c", "actors.galph.leftovers=commit"],
        cwd=project.path / "deep",
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    actor, prompt = ("galph", "supervisor.md") if "supervisor" in door else ("ralph", "main.md")
    assert ledger.read_text().split() == [f"{number}/{actor}/{prompt}" for number in (2, 3, 4)]
    assert truth(project) == before
    assert project.dirt() == ""
    assert [subject.split(" (")[0] for subject in project.subjects()[-3:]] == [
        f"{'SUPERVISOR' if actor == 'galph' else 'RALPH'} AUTO"
    ] * 3
    assert "3 turns are done" in done.stdout


def test_an_agents_commit_of_the_state_stays_and_counts_for_nothing(project: Project, ledger: Path, note: str) -> None:
    agent = project.agent(f"{note}; {EDIT}; git diff --quiet || git commit -qam 'the state too'")

    assert project.call("loop", "-n", "3", "--agent", agent) == 0

    assert ledger.read_text().split() == [f"{number}/ralph/main.md" for number in (1, 2, 3)]
    assert project.subjects()[-1] == "the state too"
    assert project.state()["iteration"] == 99
    assert project.dirt() == ""


@pytest.mark.parametrize("meddle", ["rm sync/state.json", "rm -r sync", "printf { > sync/state.json"])
def test_a_state_file_that_an_agent_deletes_or_damages_is_put_back(project: Project, meddle: str) -> None:
    before = truth(project)
    assert project.call("supervisor", "-n", "2", "--agent", project.agent(meddle)) == 0
    assert truth(project) == before
    assert project.dirt() == ""


def test_the_cadence_is_galphs_alone(project: Project, ledger: Path, note: str) -> None:
    options = ["-n", "4", "--router-review-every-n", "2", "--agent", project.agent(note)]
    assert project.call("supervisor", *options) == 0
    assert [line.split("/")[2] for line in ledger.read_text().split()] == ["supervisor.md", "reviewer.md"] * 2
    ledger.unlink()
    assert project.call("loop", *options) == 0
    assert [line.split("/")[2] for line in ledger.read_text().split()] == ["main.md"] * 4


def test_a_failure_stops_and_the_next_start_begins_anew(
    project: Project, ledger: Path, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = truth(project)
    agent = project.agent(f"{note}; echo half >> src/app.py; [ $ORCH_ITERATION != 2 ] || exit 7")
    for _ in range(2):
        capsys.readouterr()
        assert project.call("loop", "-n", "5", "--agent", agent) == 4
        told = capsys.readouterr().out
        assert "ended with exit code 7" in told
        assert "the next start begins anew" in told
        assert "orchestrator retry" not in told
        project.git("checkout", "-q", "src/app.py")
    assert ledger.read_text().split() == [f"{number}/ralph/main.md" for number in (1, 2, 1, 2)]
    assert truth(project) == before
    assert project.call("run", "--once", "--agent", project.agent("exit 0", name="good")) == 0


def test_the_exit_flag_stops_this_start_alone(
    project: Project, ledger: Path, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = truth(project)
    flag = 'sed -i \'s/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "all done"/\' sync/state.json'
    agent = project.agent(f"{note}; [ $ORCH_ITERATION != 2 ] || {flag}")
    for _ in range(2):
        capsys.readouterr()
        assert project.call("supervisor", "-n", "0", "--agent", agent) == 0
        told = capsys.readouterr().out
        assert "the exit flag is set: all done" in told
        assert "orchestrator resume" not in told
    assert ledger.read_text().split() == [f"{number}/galph/supervisor.md" for number in (1, 2, 1, 2)]
    assert truth(project) == before


def test_stop_ends_it_after_its_turn_and_once_means_one(project: Project, ledger: Path, note: str) -> None:
    agent = project.agent(f"{note}; {sys.executable} {DOOR} stop")
    assert project.call("loop", "-n", "0", "--agent", agent) == 0
    assert project.call("loop", "--once", "--agent", project.agent(note, name="one")) == 0
    assert ledger.read_text().split() == ["1/ralph/main.md"] * 2


# --- where it begins -------------------------------------------------------------------------------------------------


def test_without_a_state_the_count_begins_at_one(project: Project, ledger: Path, note: str) -> None:
    project.git("rm", "-q", STATE)
    project.commit("no state")
    assert project.call("loop", "-n", "2", "--agent", project.agent(note)) == 0
    assert ledger.read_text().split() == ["1/ralph/main.md", "2/ralph/main.md"]
    assert not (project.path / STATE).exists()
    assert project.dirt() == ""


def test_a_damaged_state_is_refused_and_never_read_as_the_first_iteration(
    project: Project, ledger: Path, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(STATE, "{")
    project.commit("damaged")
    assert project.call("loop", "--agent", project.agent(note)) == 3
    assert "state-truncated" in capsys.readouterr().err
    assert not ledger.exists()


def test_a_failed_or_finished_state_does_not_hold_it(project: Project, ledger: Path, note: str) -> None:
    assert project.call("stamp", "galph", "fail") == 0
    before = truth(project)
    assert project.call("supervisor", "-n", "1", "--agent", project.agent(note)) == 0
    assert truth(project) == before
    assert ledger.read_text().split() == ["1/galph/supervisor.md"]


# --- killed ----------------------------------------------------------------------------------------------------------

IN_A_TURN = [
    "turn.before_spawn",
    "turn.after_spawn",
    "turn.agent_ended",
    "turn.ran",
    "collect.before_index",
    "collect.before_ref",
    "collect.after_ref",
    "turn.checked",
    "stamp.built",
    "settle.after_index",
    "settle.after_file",
    "turn.settled",
]
SECOND = {"collect.before_index": 2}


@pytest.mark.parametrize("name", IN_A_TURN)
def test_killed_in_its_second_turn_it_goes_on_there(project: Project, ledger: Path, name: str) -> None:
    work = f"""
        exec 9>>{ledger}.alone; flock 9
        cat > /dev/null; echo "$ORCH_ITERATION" >> src/steps.txt
        {EDIT}
        echo "$ORCH_TURN" >> {ledger}
    """
    before = truth(project)
    command = ["loop", "-n", "2", "--agent", project.agent(work)]

    killed = project.run(*command, env={failpoints.VARIABLE: f"{name}:KILL:2"})
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    subprocess.run(["flock", f"{ledger}.alone", "true"], check=True)  # an agent that outlived it ends by itself
    done = project.run(*command)

    assert done.returncode == 0, done.stdout + done.stderr
    assert ledger.read_text().split() == ["1/ralph", "2/ralph", "3/ralph"]
    assert project.git("show", "HEAD:src/steps.txt").split() == ["1", "2", "3"]
    assert (truth(project), project.dirt(), journals(project)) == (before, "", [])


# --- beside others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "inner"), [("supervisor", "loop"), ("loop", "run"), ("run", "supervisor")])
def test_two_at_once_exclude_each_other(project: Project, tmp_path: Path, outer: str, inner: str) -> None:
    good = project.agent("exit 0", name="good")
    agent = project.agent(f"{sys.executable} {DOOR} {inner} --once --agent {good}; echo $? > {tmp_path}/code")
    assert project.call(outer, "--once", "--agent", agent) == 0
    assert (tmp_path / "code").read_text() == "7\n"


@pytest.mark.parametrize(("first", "others"), [("supervisor", ["run", "loop"]), ("run", ["supervisor", "loop"])])
def test_a_turn_in_progress_refuses_every_other_way(
    project: Project, ledger: Path, note: str, first: str, others: list[str]
) -> None:
    agent = ["--agent", project.agent(note)]
    killed = project.run(first, *agent, env={failpoints.VARIABLE: "turn.agent_ended:KILL"})
    assert killed.returncode == -signal.SIGKILL
    before = truth(project)

    for other in others:
        refused = project.run(other, *agent, "--json")
        assert refused.returncode == 3
        assert '"turn-elsewhere"' in refused.stdout
    assert (truth(project), len(ledger.read_text().split())) == (before, 1)

    assert project.call(first, "--once", *agent) == 0
    assert len(ledger.read_text().split()) == 1
    assert [project.call(other, "--once", *agent) for other in others] == [0, 0]


# --- the bus itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Ground]:
    """Give the bus of galph alone."""
    with ground("solo", tmp_path) as made:
        yield made


@pytest.mark.parametrize("act", [["reset", "-q", "--hard", "HEAD^"], ["update-ref", "-d", "refs/heads/main"]])
def test_a_turn_whose_commits_were_taken_away_is_fenced(solo: Ground, act: list[str]) -> None:
    bus = solo.bus()
    hand_off = stamped(bus, bus.look())
    solo.project.git(*act)
    before = solo.outside()

    answer = bus.settle(hand_off)

    assert isinstance(answer, Fenced)
    assert "lacks the turn's commits" in answer.why
    assert solo.outside() == before


def test_a_branch_without_a_commit_is_refused(solo: Ground) -> None:
    bus = solo.bus()
    solo.project.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(Refused) as caught:
        bus.look()
    assert (caught.value.code, caught.value.remedy) == ("branch-empty", "make a first commit")
