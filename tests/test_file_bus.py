"""Runs without git: the turn lives in the state file alone."""

import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import DOOR, Project, executable
from orchestration import failpoints
from prove_kills import KEEP_LEDGER, Ledger

STATE = "sync/state.json"
NO_GIT = "--no-git"

PASSED = [
    "journal.before_write",
    "journal.after_write",
    "turn.claimed",
    "turn.routed",
    "turn.before_spawn",
    "turn.after_spawn",
    "turn.agent_ended",
    "turn.ran",
    "stamp.built",
    "settle.before_ref",
    "settle.after_ref",
    "turn.settled",
]
"""The failpoints on the way of a turn without git; the others lie in front of a ref, an index or a tree."""

MEDDLES = """
import json
from pathlib import Path

sys.stdin.read()
state = Path("sync/state.json")
now = json.loads(state.read_text())
if TURN == "1/galph":
    state.unlink()
elif TURN == "1/ralph":
    state.write_text('{"iteration": ')
else:
    state.write_text(json.dumps(now | {"iteration": 99, "exit": True, "exit_reason": "two are enough"}))
Path(f"{TURN.replace('/', '-')}.txt").write_text("done")
note("ended", "0")
os._exit(0)
"""
"""Three turns: one deletes the state, one cuts it, one sets the exit flag and more than it may."""

TURNS = ["1/galph", "1/ralph", "2/galph"]


def now(project: Project) -> dict[str, Any]:
    """Read the state."""
    loaded: dict[str, Any] = json.loads((project.path / STATE).read_text())
    return loaded


def in_progress(project: Project) -> str:
    """Return the journal's entry by name."""
    file = project.path / "sync/.orchestrator/journal.json"
    return str(json.loads(file.read_text())["entry"]["type"]) if file.exists() else "idle"


@pytest.fixture
def plain(tmp_path: Path) -> Project:
    """Give a project without a repository, in a path with blanks."""
    plain = Project(tmp_path / "a plain project")
    plain.path.mkdir()
    assert plain.call("init", NO_GIT, "--json") == 0
    return plain


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Name the ledger that the agents keep outside of the project."""
    return Ledger(tmp_path / "ledger")


def meddling(project: Project, ledger: Ledger) -> list[str]:
    text = KEEP_LEDGER.format(ledger=str(ledger.path)) + MEDDLES
    return ["run", NO_GIT, "-n", "0", "--agent", project.python_agent(text, name="meddling")]


def one_life(project: Project, ledger: Ledger, failpoint: str = "") -> int:
    """Run the daemon until it ends or dies, let an agent that outlives it end, and return the exit code."""
    done = project.run(*meddling(project, ledger), env={failpoints.VARIABLE: failpoint})
    ledger.wait_until_nobody_runs()
    print(f"--- {failpoint or 'undisturbed'}: exit {done.returncode}\n{done.stdout}{done.stderr}")  # noqa: T201
    return done.returncode


def assert_three_turns(project: Project, ledger: Ledger, started: list[str]) -> None:
    state = now(project)
    assert (state["iteration"], state["expected_actor"], state["status"]) == (2, "ralph", "waiting-ralph")
    assert (state["exit"], state["exit_reason"], state["epoch"]) == (True, "two are enough", len(TURNS))
    assert (state["branch"], state["galph_commit"], state["ralph_commit"]) == (None, None, None)
    assert ledger.turns("ended") == Counter(TURNS)
    assert ledger.turns("start") == Counter(started)
    assert ledger.turns("overlap") == Counter()
    own = {file.name for file in (project.path / "sync/.orchestrator").iterdir()}
    assert own == {"lock", "journal.json", "instance.json", "counters.json", "counters.lock", ".gitignore", "control"}
    assert {file.name for file in (project.path / "sync").iterdir()} == {"state.json", ".orchestrator"}


# --- where it runs ---------------------------------------------------------------------------------------------------


def test_without_repository_and_without_git_on_the_path(plain: Project, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    below = Project(plain.path / "deep" / "er")
    below.path.mkdir(parents=True)

    for who in (plain, below):
        done = who.run(*meddling(plain, ledger), env={"PATH": str(tmp_path / "bin")})
        assert done.returncode == 0, done.stdout + done.stderr

    assert_three_turns(plain, ledger, TURNS)
    assert (plain.path / "logs/no-git/latest/summary.md").is_file()
    shown = plain.run("status", NO_GIT, "--json", env={"PATH": str(tmp_path / "bin")})
    assert json.loads(shown.stdout)["state"]["iteration"] == 2


@pytest.mark.parametrize("way", ["flag", "file"])
def test_inside_a_repository_git_is_asked_where_it_is_and_nothing_else(
    project: Project, ledger: Ledger, tmp_path: Path, way: str
) -> None:
    real = shutil.which("git")
    folder = tmp_path / "bin"
    folder.mkdir()
    executable(folder / "git", f'#!/bin/sh\necho "$*" >> "{tmp_path}/asked"\nexec "{real}" "$@"\n')
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    option = [NO_GIT]
    if way == "file":
        project.write("orchestration.yaml", (project.path / "orchestration.yaml").read_text() + "sync: {git: false}\n")
        project.commit("no git from now on")
        option = []
    before, committed = project.git("for-each-ref"), project.state()

    run = [word for word in meddling(project, ledger) if word != NO_GIT]
    commands = [run, ["resume"], ["stamp", "ralph", "fail"], ["retry"], ["stamp", "ralph", "fail"], ["skip"]]
    commands += [["status"], ["route"], ["pause"], ["resume"], ["stop"]]
    for name, *rest in commands:
        done = project.run(name, *option, *rest, env=env)
        assert done.returncode == 0, (name, done.stdout, done.stderr)

    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.partition("rev-parse ")[2] for line in asked] == ["--show-toplevel --git-path orchestration"] * 11
    assert (project.git("for-each-ref"), project.state()) == (before, committed)
    assert (now(project)["iteration"], now(project)["expected_actor"], now(project)["epoch"]) == (3, "galph", 8)
    assert now(project)["branch"] == "main"
    assert ".orchestrator" not in project.dirt()
    assert not [line for line in project.dirt().splitlines() if "logs/" in line]


def test_what_names_a_branch_or_a_commit_stays_as_git_left_it(project: Project) -> None:
    good = project.agent("exit 0")
    assert project.call("run", "-n", "1", "--agent", good) == 0
    before = now(project)
    assert None not in (before["galph_commit"], before["ralph_commit"])

    assert project.call("run", NO_GIT, "-n", "1", "--agent", good) == 0

    after = now(project)
    same = ("branch", "galph_commit", "ralph_commit")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (after["iteration"], after["epoch"]) == (3, 4)


# --- what an agent does to the state ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meddle",
    [
        "rm sync/state.json",
        "rm -r sync",
        "printf '{' > sync/state.json",
        "echo '{\"iteration\": 99}' > sync/state.json",
        "sed -i 's/idle/complete/' sync/state.json",
        "mv sync/state.json other.json; ln -s ../other.json sync/state.json; echo >> other.json",
    ],
)
def test_the_states_exact_bytes_are_written_back_after_the_agent(plain: Project, meddle: str) -> None:
    before = plain.write(
        STATE, (plain.path / STATE).read_text().replace("{", '{\n  "workflow": "mine",', 1)
    ).read_bytes()
    agent = plain.agent(meddle)
    killed = plain.run("run", NO_GIT, "--once", "--agent", agent, env={failpoints.VARIABLE: "stamp.built:KILL"})
    assert killed.returncode == -signal.SIGKILL
    assert (plain.path / STATE).read_bytes() == before
    assert not (plain.path / STATE).is_symlink()

    assert plain.call("run", NO_GIT, "--once", "--agent", plain.agent("exit 1", name="never")) == 0

    assert (now(plain)["expected_actor"], now(plain)["epoch"], now(plain)["workflow"]) == ("ralph", 1, "mine")


def test_a_word_is_said_of_an_edited_state_and_none_of_the_exit_flag(
    plain: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = """
        import json, pathlib
        state = pathlib.Path("sync/state.json")
        now = json.loads(state.read_text()) | {"exit": True, "exit_reason": "all done"}
        state.write_text(json.dumps(now) + "\\n")
    """
    assert plain.call("run", NO_GIT, "--agent", plain.agent("echo >> sync/state.json")) == 0
    assert "only exit and exit_reason are taken" in capsys.readouterr().out
    plain.write("plans/x", "")
    assert plain.call("run", NO_GIT, "--agent", plain.python_agent(flag, name="flag")) == 0
    told = capsys.readouterr().out
    assert "only exit and exit_reason are taken" not in told
    assert "all done" in told
    assert "`orchestrator resume --no-git` clears it" in told
    assert plain.call("run", NO_GIT, "--agent", plain.agent("exit 1", name="never")) == 0
    assert plain.call("resume", NO_GIT) == 0
    assert (now(plain)["exit"], now(plain)["exit_reason"]) == (False, None)


# --- killed anywhere -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSED)
def test_killed_at_every_pass_of_a_failpoint_no_agent_that_ended_runs_twice(
    plain: Project, ledger: Ledger, name: str
) -> None:
    codes = [one_life(plain, ledger, f"{name}:KILL:1")]
    assert codes == [-signal.SIGKILL], f"{name} was never reached"
    while codes[-1] == -signal.SIGKILL:
        assert len(codes) < 60, f"{name}: no start comes further than the one before"
        codes.append(one_life(plain, ledger, f"{name}:KILL:2"))
    assert codes[-1] == 0
    assert one_life(plain, ledger) == 0
    assert_three_turns(plain, ledger, TURNS)


def test_a_run_without_git_passes_no_other_failpoint(plain: Project, ledger: Ledger) -> None:
    others = {name for name in failpoints.NAMES if not name.startswith(("init.", "undo.", "word."))} - set(PASSED)
    assert others == {
        name
        for name in others
        if name.startswith(("collect.", "rescue.", "settle.after_", "turn.checked", "claim.", "leave."))
        or name.endswith("_push")
    }
    for name in sorted(others):
        assert one_life(plain, ledger, f"{name}:KILL") == 0
    assert_three_turns(plain, ledger, TURNS)


def test_a_state_that_a_person_changed_between_crash_and_restart_fences_the_turn(plain: Project) -> None:
    good = plain.agent("exit 0")
    killed = plain.run("run", NO_GIT, "--agent", good, env={failpoints.VARIABLE: "settle.before_ref:KILL"})
    assert killed.returncode == -signal.SIGKILL
    theirs = plain.write(STATE, json.dumps({**now(plain), "iteration": 5}) + "\n").read_bytes()

    assert plain.call("run", NO_GIT, "--agent", good) == 8

    assert (plain.path / STATE).read_bytes() == theirs
    assert in_progress(plain) == "idle"
    assert plain.call("run", NO_GIT, "--once", "--agent", good) == 0
    assert (now(plain)["iteration"], now(plain)["expected_actor"]) == (5, "ralph")


# --- beside runs with git --------------------------------------------------------------------------------------------

WAYS = [([], [NO_GIT]), ([NO_GIT], [])]
nested = pytest.mark.parametrize(("first", "second"), WAYS, ids=["git first", "no-git first"])


@nested
def test_a_run_with_git_and_one_without_exclude_each_other(
    project: Project, tmp_path: Path, first: list[str], second: list[str]
) -> None:
    inner = f"{sys.executable} {DOOR} run {' '.join(second)} --once --agent {project.agent('exit 0', name='inner')}"
    outer = project.agent(f"{inner} > {tmp_path}/said 2>&1; echo $? > {tmp_path}/code")

    assert project.call("run", *first, "--once", "--agent", outer) == 0

    assert (tmp_path / "code").read_text() == "7\n"
    assert "clone-locked" in (tmp_path / "said").read_text()


@nested
def test_a_turn_in_progress_in_one_way_refuses_the_other(
    project: Project, first: list[str], second: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    good = ["--agent", project.agent("exit 0")]
    killed = project.run("run", *first, *good, env={failpoints.VARIABLE: "turn.agent_ended:KILL"})
    assert killed.returncode == -signal.SIGKILL
    before = (project.git("for-each-ref"), project.dirt(), now(project))

    for command in (["run"], ["stamp", "galph", "ok"], ["init"], ["init", "--undo"]):
        assert project.call(*command, *second, *(good if command == ["run"] else [])) == 3, command
        assert "turn-elsewhere" in capsys.readouterr().err, command
    assert (project.git("for-each-ref"), project.dirt(), now(project)) == before

    assert project.call("run", *first, "--once", *good) == 0
    assert now(project)["expected_actor"] == "ralph"
    assert project.call("stamp", *second, *(["ralph", "ok"] if second else ["galph", "ok"])) == 0


# --- decisions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["retry", "skip"])
def test_a_failed_turn_stands_still_until_a_person_decides(
    plain: Project, ledger: Ledger, capsys: pytest.CaptureFixture[str], decision: str
) -> None:
    count = f'echo "$ORCH_TURN" >> {ledger.path}'
    fails = plain.agent(f"echo something; rm sync/state.json; {count}; exit 7", name="fails")
    for _ in range(2):
        assert plain.call("run", NO_GIT, "--agent", fails) == 4
        told = capsys.readouterr().out
        assert "ended with exit code 7" in told
        assert f"`orchestrator {decision} --no-git`" in told
    assert ledger.path.read_text() == "1/galph\n"
    assert plain.call("status", NO_GIT) == 0
    assert f"`orchestrator {decision} --no-git`" in capsys.readouterr().out

    assert plain.call(decision, NO_GIT, "--json") == 0

    posted = json.loads(capsys.readouterr().out)
    assert posted["commit"] is None
    assert f"operator={decision}" in posted["subject"]
    assert plain.call("run", NO_GIT, "--once", "--agent", plain.agent(count, name="good")) == 0
    assert ledger.path.read_text().split()[1:] == (["1/galph"] if decision == "retry" else ["1/ralph"])


def test_a_turn_in_progress_is_not_decided_over(plain: Project, capsys: pytest.CaptureFixture[str]) -> None:
    good = plain.agent("exit 0")
    plain.run("run", NO_GIT, "--agent", good, env={failpoints.VARIABLE: "turn.agent_ended:KILL"})
    before = (plain.path / STATE).read_bytes()
    for command in (["stamp", "galph", "ok"], ["retry"], ["init"], ["init", "--undo"]):
        assert plain.call(*command, NO_GIT) == 3
        assert "turn-open" in capsys.readouterr().err
    assert (plain.path / STATE).read_bytes() == before


@pytest.mark.parametrize(
    "name", ["journal.before_write", "journal.after_write", "settle.before_ref", "settle.after_ref"]
)
def test_a_decision_that_a_crash_cut_short_is_made_once(plain: Project, name: str) -> None:
    killed = plain.run("stamp", NO_GIT, "galph", "ok", env={failpoints.VARIABLE: f"{name}:KILL"})
    assert killed.returncode == -signal.SIGKILL
    landed = name != "journal.before_write"

    assert plain.call("run", NO_GIT, "--once", "--agent", plain.agent("exit 0")) == 0

    wanted = (2, "galph") if landed else (1, "ralph")
    assert (now(plain)["iteration"], now(plain)["expected_actor"]) == wanted


# --- stop and pause --------------------------------------------------------------------------------------------------

HANGS = 'echo "$ORCH_TURN" >> {ledger}; [ -e {ledger}.again ] && exit 0; : > {ledger}.again; {stop}; exec sleep 100000'


@pytest.fixture(params=["flag", "file"])
def way(request: pytest.FixtureRequest, project: Project) -> list[str]:
    """Say that the run is without git: on the command line, or in the configuration of the project."""
    if request.param == "flag":
        return [NO_GIT]
    project.write("orchestration.yaml", (project.path / "orchestration.yaml").read_text() + "sync: {git: false}\n")
    return []


def test_stop_now_interrupts_and_the_next_start_goes_on(project: Project, way: list[str], tmp_path: Path) -> None:
    ledger = tmp_path / "turns"
    stop = f"{sys.executable} {DOOR} stop {' '.join(way)} --now"
    agent = project.agent(HANGS.format(ledger=ledger, stop=stop))

    assert project.call("run", *way, "--once", "--agent", agent) == 143
    assert (now(project)["status"], in_progress(project)) == ("idle", "routed")

    assert project.call("run", *way, "--once", "--agent", agent) == 0
    assert ledger.read_text().split() == ["1/galph", "1/galph"]


def test_stop_lets_the_turn_end(project: Project, way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    stop = f"{sys.executable} {DOOR} stop {' '.join(way)}"

    assert project.call("run", *way, "-n", "3", "--agent", project.agent(stop)) == 0

    assert "[stop, exit 0]" in capsys.readouterr().out
    assert now(project)["status"] == "waiting-ralph"
    assert project.call("stop", *way) == 0
    assert "no daemon runs" in capsys.readouterr().out


def test_a_pause_holds_until_resume(project: Project, way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--agent", project.agent("exit 0")]
    assert project.call("pause", *way) == 0
    for option, code in (["--once"], 0), (["--max-wait-sec", "0.1"], 6):
        capsys.readouterr()
        assert project.call("run", *way, *option, *good) == code
        assert "`orchestrator resume --no-git`" in capsys.readouterr().out
    assert now(project)["epoch"] == 0
    assert project.call("resume", *way) == 0
    assert project.call("run", *way, "--once", *good) == 0
    assert now(project)["epoch"] == 1


def test_a_card_of_the_other_way_stops_the_daemon_that_runs(project: Project, tmp_path: Path) -> None:
    stop = f"{sys.executable} {DOOR} stop --git --now"
    agent = project.agent(HANGS.format(ledger=tmp_path / "turns", stop=stop))
    assert project.call("run", NO_GIT, "--once", "--agent", agent) == 143


# --- init ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["a repository", "a folder"])
def test_init_writes_and_undo_leaves_nothing(bare_project: Project, tmp_path: Path, where: str) -> None:
    place = bare_project if where == "a repository" else Project(tmp_path / "folder")
    place.path.mkdir(exist_ok=True)
    before = sorted(place.path.rglob("*")) if where == "a folder" else place.dirt()
    head = where == "a repository" and place.git("rev-parse", "HEAD")

    assert place.call("init", NO_GIT) == 0

    assert "git: false" in (place.path / "orchestration.yaml").read_text()
    assert now(place)["branch"] is None
    assert place.call("run", "--once", "--agent", bare_project.agent("exit 0")) == 0
    assert now(place)["status"] == "waiting-ralph"
    if head:
        assert ".orchestrator" not in place.dirt()
        assert place.git("rev-parse", "HEAD") == head

    assert place.call("init", NO_GIT, "--undo") == 0

    shutil.rmtree(place.path / "logs")  # logs stay
    assert (sorted(place.path.rglob("*")) if where == "a folder" else place.dirt()) == before


def test_undo_keeps_what_a_person_changed(plain: Project) -> None:
    plain.write("prompts/main.md", "mine")
    assert plain.call("init", NO_GIT, "--undo") == 0
    assert (plain.path / "prompts/main.md").read_text() == "mine"
    assert not (plain.path / "sync").exists()


def test_the_turns_of_one_actor_need_git(plain: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain.call("supervisor", NO_GIT, "--agent", plain.agent("exit 0")) == 2
    assert "`orchestrator run --no-git`" in capsys.readouterr().err


def test_a_rehearsal_without_git_runs_nothing_and_says_what_would_run(
    plain: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (plain.path / STATE).read_bytes()
    assert plain.call("run", NO_GIT, "--dry-run", "--json", "--agent", plain.agent("exit 1")) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["actor"], seen["hand_off"], seen["blocked"], seen["branch"]) == ("galph", None, None, "no-git")
    assert (plain.path / STATE).read_bytes() == before
