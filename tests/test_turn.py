"""A turn that another process began: the same table goes on with it."""

import signal
from pathlib import Path

import pytest

from conftest import Project

SLEEPER = 'echo "$ORCH_TURN/$ORCH_PROMPT" >> {ledger}; echo half > src/half.txt; : > {ledger}.up; exec sleep 100000'
STOPPER = 'echo "$ORCH_TURN/$ORCH_PROMPT" >> {ledger}; : > .git/orchestration/control/stop-now; exec sleep 100000'
WORKER = 'echo "$ORCH_TURN/$ORCH_PROMPT" >> {ledger}; cat > {ledger}.prompt; exit {code}'


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Name the file outside of the repository to which agents write which turn they were given."""
    return tmp_path / "ledger"


def killed_at(project: Project, failpoint: str, *args: str) -> None:
    """Run a command line that dies of SIGKILL at a failpoint."""
    done = project.run(*args, env={"GALPH_FAILPOINT": f"{failpoint}:KILL"})
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def killed_while_the_agent_runs(project: Project, ledger: Path) -> None:
    """Start a turn, and kill its daemon when the agent is at work."""
    killed_at(
        project, "turn.after_spawn", "run", "--agent", project.agent(SLEEPER.format(ledger=ledger), name="sleeper")
    )


def test_an_interrupted_turn_runs_again_and_its_tree_is_kept(project: Project, ledger: Path) -> None:
    killed_while_the_agent_runs(project, ledger)
    project.write("src/half.txt", "half\n")  # whether or not the killed agent had come so far

    assert project.call("run", "--once", "--agent", project.agent(WORKER.format(ledger=ledger, code=0))) == 4

    # galph's half-done file is galph's to answer for: the default policy fails the turn, and names it.
    assert "src/half.txt" in project.state()["failure"]["reason"]
    assert [project.git("show", f"{ref}:src/half.txt") for ref in project.rescued()] == ["half"]
    assert b"interrupted" in Path(f"{ledger}.prompt").read_bytes()


def test_a_turn_whose_daemon_dies_too_often_fails(project: Project, ledger: Path) -> None:
    killed_while_the_agent_runs(project, ledger)

    agent = project.agent(WORKER.format(ledger=ledger, code=0))
    assert project.call("run", "--agent", agent, "-c", "limits.interrupted_reruns=0") == 4

    assert project.state()["failure"]["code"] == "interrupted"
    assert "1/galph/supervisor.md\n" * 2 not in (ledger.read_text() if ledger.exists() else "")


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (7, 4)])
def test_an_agent_that_ended_while_its_daemon_was_killed_is_not_run_again(
    project: Project, ledger: Path, code: int, exit_code: int
) -> None:
    agent = project.agent(WORKER.format(ledger=ledger, code=code))
    killed_at(project, "turn.agent_ended", "run", "--agent", agent)

    assert project.call("run", "--once", "--agent", agent) == exit_code

    assert ledger.read_text().split() == ["1/galph/supervisor.md"]
    assert project.state()["status"] == ("waiting-ralph" if code == 0 else "failed")


def test_a_stop_interrupts_the_agent_and_does_not_count_as_a_death(project: Project, ledger: Path) -> None:
    stopper = project.agent(STOPPER.format(ledger=ledger), name="stopper")
    for _ in range(2):
        assert project.call("run", "--agent", stopper, "-c", "limits.interrupted_reruns=0") == 143
        assert project.journal() == "routed"

    worker = project.agent(WORKER.format(ledger=ledger, code=0))
    assert project.call("run", "--once", "--agent", worker, "-c", "limits.interrupted_reruns=0") == 0
    assert ledger.read_text().split() == ["1/galph/supervisor.md"] * 3
    assert project.state()["status"] == "waiting-ralph"


def test_a_stop_while_the_router_prompt_runs_asks_it_again_later(project: Project, ledger: Path) -> None:
    options = ["--router-prompt", "router.md"]
    stopper = project.agent(STOPPER.format(ledger=ledger), name="stopper")
    assert project.call("run", "--agent", stopper, *options) == 143
    assert project.journal() == "claimed"

    answer = 'echo "$ORCH_PROMPT" >> {ledger}; [ "$ORCH_PROMPT" = router.md ] && echo reviewer.md; exit 0'
    assert project.call("run", "--once", "--agent", project.agent(answer.format(ledger=ledger)), *options) == 0
    assert ledger.read_text().split() == ["1/galph/router.md", "router.md", "reviewer.md"]


def test_a_decision_that_a_crash_cut_short_is_finished_by_the_next_start(project: Project, ledger: Path) -> None:
    assert project.call("run", "--agent", project.agent(WORKER.format(ledger=ledger, code=3))) == 4
    killed_at(project, "settle.before_ref", "retry")
    assert (project.journal(), project.state()["status"]) == ("posted", "failed")

    worker = project.agent(WORKER.format(ledger=ledger, code=0), name="worker")
    assert project.call("run", "--once", "--agent", worker) == 0

    assert "operator=retry" in project.subjects()[-2]
    assert project.state()["status"] == "waiting-ralph"
    assert project.dirt() == ""


def test_the_routers_exit_code_is_not_taken_for_the_agents(project: Project, ledger: Path) -> None:
    answer = 'echo "$ORCH_PROMPT" >> {ledger}; [ "$ORCH_PROMPT" = router.md ] && echo reviewer.md; exit 0'
    options = ["--agent", project.agent(answer.format(ledger=ledger)), "--router-prompt", "router.md"]
    done = project.run("run", "--once", *options, env={"GALPH_FAILPOINT": "turn.before_spawn:KILL:2"})
    assert done.returncode == -signal.SIGKILL
    assert ledger.read_text().split() == ["router.md"]

    assert project.call("run", "--once", *options) == 0

    assert ledger.read_text().split()[-1] == "reviewer.md"
    assert project.state()["status"] == "waiting-ralph"


def test_a_term_to_agent_and_daemon_together_interrupts_and_does_not_fail(project: Project) -> None:
    both = "daemon=$(ps -o ppid= -p $PPID); kill -TERM $daemon $$; sleep 100000"

    assert project.run("run", "--agent", project.agent(both)).returncode == 143

    assert (project.journal(), project.state()["status"]) == ("routed", "idle")
    assert project.call("run", "--once", "--agent", project.agent("exit 0", name="good")) == 0


def test_an_agent_that_vanishes_before_its_turn_is_a_usage_error_and_never_a_failed_turn(project: Project) -> None:
    ralph = project.agent("exit 0", name="ralph-agent")
    roles = f"galph={project.agent(f'rm {ralph}', name='galph-agent')},ralph={ralph}"
    for _ in range(4):
        assert project.call("run", "--agent-role", roles) == 2

    assert project.state()["status"] == "waiting-ralph"
