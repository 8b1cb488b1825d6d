"""Gates: commands that judge a turn after its agent, and what they leave is nobody's work."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import DOOR, SUBJECT, Project, Ran, assert_at_rest, executable, kept

pytestmark = pytest.mark.usefixtures("ralphs_turn")

Run = Callable[..., Ran]
WORK = "echo ran >> ../agent-runs; echo more >> src/app.py; echo new > new.txt"


@pytest.fixture
def gates(project: Project) -> Callable[..., None]:
    """Write ralph's gates, each a script outside of the repository, into orchestration.yaml and commit it."""

    def write(*scripts: str, more: str = "") -> None:
        paths = [
            executable(project.path.parent / f"gate-{number}", f"#!/bin/sh\n{script}\n")
            for number, script in enumerate(scripts, 1)
        ]
        project.write("orchestration.yaml", f"actors: {{ralph: {{gates: {json.dumps(paths)}}}}}\n{more}")
        project.commit("gates")

    return write


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give what waits for a line that a gate writes to the FIFO `said`."""
    os.mkfifo(tmp_path / "said")
    ear = os.open(tmp_path / "said", os.O_RDWR)

    def hear() -> str:
        assert select.select([ear], [], [], 60)[0], "nothing was said"
        return os.read(ear, 4096).decode().strip()

    yield hear
    os.close(ear)


def record(project: Project, actor: str = "ralph") -> dict[str, Any]:
    """Read the newest turn record."""
    text = (project.path / f"logs/main/latest/iter-00001_{actor}_main.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def agent_runs(project: Project) -> int:
    return (project.path.parent / "agent-runs").read_text().count("ran")


def test_gates_that_pass_are_in_the_record_and_judge_what_is_committed(
    project: Project, run: Run, gates: Callable[..., None]
) -> None:
    gates("git status --porcelain > ../seen; git log -1 --format=%s >> ../seen; echo fine", "pwd > ../where")

    ran = run(WORK)

    assert (ran.exit_code, ran.notices, project.state()["status"]) == (0, {}, "complete")
    assert (project.path.parent / "seen").read_text() == SUBJECT + "2 files: new.txt, src/app.py\n"
    assert (project.path.parent / "where").read_text() == f"{project.path}\n"
    said = record(project)["gates"]
    assert [(Path(gate["command"]).name, gate["exit_code"]) for gate in said] == [("gate-1", 0), ("gate-2", 0)]
    assert all(0 <= gate["seconds"] < 60 for gate in said)
    assert record(project)["exit_code"] == 0
    log = (project.path / "logs/main/latest/iter-00001_ralph_main.log").read_text()
    assert f"--- gate: {project.path.parent}/gate-1\nfine\n" in log
    assert [event["text"] for event in project.events() if event.get("code") == "gate"][1].endswith("s")
    assert_at_rest(project)
    assert project.dirt() == ""


def test_a_gate_that_fails_fails_the_turn_and_no_other_is_asked(
    project: Project, run: Run, gates: Callable[..., None]
) -> None:
    gates("true", "echo to stdout; echo to stderr >&2; exit 7", "touch ../third")
    head = project.git("rev-parse", "HEAD")

    ran = run(WORK)

    assert (ran.exit_code, ran.code) == (4, "gate")
    assert "gate-2` ended with exit code 7 (its commits stay on main" in ran.reason
    assert ran.reason.splitlines()[1:3] == ["  | to stdout", "  | to stderr"]
    failure = project.state()["failure"]
    assert (failure["code"], failure["exit_code"], failure["tail"]) == ("gate", 7, ["to stdout", "to stderr"])
    assert "to stderr" in Path(failure["log"]).read_text()
    assert [gate["exit_code"] for gate in record(project)["gates"]] == [0, 7]
    assert not (project.path.parent / "third").exists()
    assert project.git("log", "--format=%s", f"{head}..HEAD^") == SUBJECT + "2 files: new.txt, src/app.py"
    assert project.dirt() == ""
    assert_at_rest(project)

    assert run("exit 1").code == "gate"  # nothing runs until a person decides
    assert agent_runs(project) == 1
    assert project.call("retry", "--json") == 0
    executable(project.path.parent / "gate-2", "#!/bin/sh\nexit 0\n")
    assert run("true").exit_code == 0
    assert (project.path.parent / "third").exists()


def test_skip_lets_a_failed_gate_pass(project: Project, run: Run, gates: Callable[..., None]) -> None:
    gates("exit 1")
    ran = run(WORK)
    assert (ran.code, "`orchestrator skip` goes on" in ran.remedy) == ("gate", True)
    assert project.call("skip", "--json") == 0
    assert run("true", "--once").exit_code == 0  # galph has none


def test_a_gate_that_cannot_be_started_fails_the_turn(run: Run) -> None:
    ran = run("true", "-c", "actors.ralph.gates=./no-such-gate")
    assert (ran.code, "the gate `./no-such-gate` ended with exit code 127" in ran.reason) == ("gate", True)


def test_a_gate_is_ended_at_its_limit_and_so_is_what_it_leaves_behind(
    project: Project, run: Run, gates: Callable[..., None], ear: Callable[[], str]
) -> None:
    stays = "sh -c 'echo $$ > ../said; exec sleep 1000' >/dev/null 2>&1 &"
    gates(f"setsid {stays} sleep 0.1", "exec sleep 1000", more="limits: {gate_timeout: 2}\n")

    ran = run(WORK)

    assert (ran.exit_code, ran.code) == (4, "gate")
    assert "gate-2` ran longer than 2 s (limits.gate_timeout) and was ended" in ran.reason
    assert [gate["exit_code"] for gate in record(project)["gates"]] == [0, 128 + signal.SIGTERM]
    with pytest.raises(ProcessLookupError):
        os.kill(int(ear()), 0)
    assert_at_rest(project)


@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ("exit 3", [], "agent-failed"),
        ("echo code > code.txt", ["-c", "actors.ralph.leftovers=fail"], "leftovers"),
        ("echo code > code.txt", ["-c", "actors.ralph.scope=docs/"], "scope"),
        ("git switch -q --detach", [], "switched-branch"),
    ],
)
def test_gates_are_not_asked_about_a_turn_that_failed_before(
    project: Project, run: Run, script: str, options: list[str], code: str
) -> None:
    ran = run(script, *options, "-c", "actors.ralph.gates=touch ../gated")
    assert (ran.exit_code, ran.code) == (4, code)
    assert not (project.path.parent / "gated").exists()


def test_a_gate_is_given_what_an_agent_is_given(project: Project, run: Run, gates: Callable[..., None]) -> None:
    show = "env | grep -E '^(ORCH_|TMPDIR=|GIT_)' | sort"
    gates(f"{show} > ../gate-env; cat > ../gate-stdin; test -d $TMPDIR")
    assert run(f"{show} > ../agent-env").exit_code == 0
    given = (project.path.parent / "gate-env").read_text()
    assert given == (project.path.parent / "agent-env").read_text()
    assert "ORCH_TURN=1/ralph\n" in given
    assert "ORCH_PROMPT=main.md\n" in given
    assert (project.path.parent / "gate-stdin").read_text() == ""


# --- what a gate writes ----------------------------------------------------------------------------------------------

WRITES = "echo covered >> coverage.xml; echo x > built.o; echo formatted >> README.md"


@pytest.mark.parametrize("leftovers", ["commit", "fail", "keep"])
def test_what_a_gate_writes_is_never_taken_for_the_agents(project: Project, run: Run, leftovers: str) -> None:
    project.write(".git/info/exclude", "*.o\n")
    gate = executable(project.path.parent / "gate", f"#!/bin/sh\n{WRITES}\ntest -e ../good\n")
    options = ["-c", f"actors.ralph.gates={gate}", "-c", f"actors.ralph.leftovers={leftovers}"]
    options += ["-c", "actors.ralph.scope=src/"]
    commit = "echo more >> src/app.py; git commit -qm mine src/app.py"

    ran = run(commit, *options)

    assert (ran.code, project.git("show", "--format=%s", "--name-only", "HEAD^")) == ("gate", "mine\n\nsrc/app.py")
    assert set(project.dirt().splitlines()) == {" M README.md", "?? coverage.xml"}
    assert kept(project, project.rescued()[-1], "coverage.xml") == "covered"
    assert project.rescued()[-1] in ran.reason

    project.write("../good", "")
    assert project.call("retry", "--json") == 0
    ran = run(commit, *options)
    assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
    assert project.git("show", "--format=%s", "--name-only", "HEAD^") == "mine\n\nsrc/app.py"
    assert kept(project, "HEAD", "README.md") == "# A project"

    assert run("echo plan > input.md", "--once", *options).exit_code == 0
    assert project.git("show", "--format=", "--name-only", "HEAD^") == "input.md"
    assert set(project.dirt().splitlines()) == {" M README.md", "?? coverage.xml"}
    assert (project.path / "coverage.xml").read_text() == "covered\ncovered\n"
    assert run(commit, *options).exit_code == 0


def test_a_gate_that_commits_is_part_of_the_history(project: Project, run: Run, gates: Callable[..., None]) -> None:
    gates("echo formatted >> src/app.py; git commit -qam formatted")
    assert run(WORK).exit_code == 0
    assert project.subjects()[-2] == "formatted"
    assert (project.state()["status"], project.dirt()) == ("complete", "")
    assert_at_rest(project)


def test_a_gate_that_takes_a_persons_file_is_told_of(project: Project, run: Run, gates: Callable[..., None]) -> None:
    gates("rm -f notes.txt")
    project.write("notes.txt", "a person's")
    ran = run(WORK)
    assert (ran.exit_code, "notes.txt" in ran.notices["untracked-changed"]) == (0, True)
    assert [kept(project, ref, "notes.txt") for ref in project.rescued()] == ["a person's"]


def test_the_lock_of_a_gates_killed_git_does_not_stop_the_loop(
    project: Project, run: Run, gates: Callable[..., None]
) -> None:
    gates(": > .git/index.lock")
    ran = run(WORK)
    assert (ran.exit_code, project.state()["status"]) == (0, "complete")
    assert not (project.path / ".git/index.lock").exists()


# --- stopped and killed while a gate runs ----------------------------------------------------------------------------

HANGS = f"{WRITES}; test -e ../second && exit 0; : > ../second; echo $$ > ../said; exec sleep 1000"


def stop_now(project: Project, _: "subprocess.Popen[str]") -> None:
    assert project.call("stop", "--now") == 0


def term(_: Project, daemon: "subprocess.Popen[str]") -> None:
    daemon.send_signal(signal.SIGTERM)


def kill(_: Project, daemon: "subprocess.Popen[str]") -> None:
    daemon.kill()


@pytest.mark.parametrize(("stop", "code"), [(stop_now, 143), (term, 143), (kill, -9)])
def test_a_gate_that_is_cut_short_runs_again_and_the_agent_does_not(
    project: Project,
    run: Run,
    gates: Callable[..., None],
    ear: Callable[[], str],
    stop: Callable[[Project, "subprocess.Popen[str]"], None],
    code: int,
) -> None:
    gates("echo first >> ../firsts", HANGS)
    agent = project.agent(WORK)
    daemon = project.start("run", "-n", "1", "--agent", agent)
    pid = int(ear())
    stop(project, daemon)
    assert daemon.wait(timeout=60) == code
    daemon.communicate()
    if code > 0:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert (project.journal(), project.state()["status"]) == ("judged", "waiting-ralph")
    project.write("theirs.txt", "a person's")
    project.write("src/app.py", "print('hello')\nmore\na person's\n")

    ran = run(agent=agent)

    assert (ran.exit_code, agent_runs(project)) == (0, 1), ran.reason
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (project.path.parent / "firsts").read_text() == "first\nfirst\n"
    assert [gate["exit_code"] for gate in record(project)["gates"]] == [0, 0]
    assert project.git("show", "--format=%s", "--name-only", "HEAD^").splitlines() == [
        SUBJECT + "2 files: new.txt, src/app.py",
        "",
        "new.txt",
        "src/app.py",
    ]
    assert kept(project, "HEAD", "src/app.py") == "print('hello')\nmore"
    assert set(project.dirt().splitlines()) >= {" M README.md", " M src/app.py", "?? coverage.xml", "?? theirs.txt"}
    assert project.state()["status"] == "complete"
    assert_at_rest(project)


def test_a_stop_that_a_gate_asks_for_ends_it_and_the_next_start_goes_on(
    project: Project, run: Run, gates: Callable[..., None]
) -> None:
    gates(f"test -e ../second && exit 0; : > ../second; {sys.executable} {DOOR} stop --now && exec sleep 1000")

    ran = run(WORK)

    assert (ran.exit_code, ran.code, project.journal()) == (143, "stop-now", "judged")
    assert (run("exit 1", "--once").exit_code, project.state()["status"]) == (0, "complete")


def test_a_branch_that_moved_while_a_gate_was_cut_short_keeps_both(
    project: Project, run: Run, gates: Callable[..., None], ear: Callable[[], str]
) -> None:
    gates(HANGS)
    agent = project.agent(WORK)
    daemon = project.start("run", "-n", "1", "--agent", agent)
    ear()
    daemon.terminate()
    daemon.communicate(timeout=60)
    project.write("theirs.txt", "a person's")
    project.git("add", "theirs.txt")
    project.git("commit", "-qm", "theirs")

    assert run(agent=agent).exit_code == 0
    assert project.subjects()[-3:-1] == [SUBJECT + "2 files: new.txt, src/app.py", "theirs"]
    assert_at_rest(project)


# --- without git -----------------------------------------------------------------------------------------------------


def test_gates_judge_without_git_too(project: Project, run: Run, gates: Callable[..., None]) -> None:
    gates("test -e ../good", more="sync: {git: false}\n")
    ran = run(WORK)
    state = json.loads((project.path / "sync/state.json").read_text())
    assert (ran.exit_code, ran.code, state["status"], state["failure"]["code"]) == (4, "gate", "failed", "gate")
    project.write("../good", "")
    assert project.call("retry", "--json") == 0
    assert run(WORK).exit_code == 0
    assert json.loads((project.path / "sync/state.json").read_text())["status"] == "complete"


def test_a_gate_that_is_cut_short_runs_again_without_git_too(
    project: Project, run: Run, gates: Callable[..., None], ear: Callable[[], str]
) -> None:
    gates(HANGS, more="sync: {git: false}\n")
    agent = project.agent(WORK)
    daemon = project.start("run", "-n", "1", "--agent", agent)
    ear()
    daemon.kill()
    daemon.communicate(timeout=60)
    assert run(agent=agent).exit_code == 0
    assert agent_runs(project) == 1
    assert json.loads((project.path / "sync/state.json").read_text())["status"] == "complete"
