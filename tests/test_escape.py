"""What once stopped the loop for good, or let something pass, does not any more."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Capture, Project, Ran

Run = Callable[..., Ran]

DOCS = ("-c", "actors.ralph.scope=docs/")
QUIET = "exit 0"

pytestmark = pytest.mark.usefixtures("ralphs_turn")


@pytest.mark.parametrize(
    "undo",
    ["git rm -q src/new.py", "rm src/new.py", "git checkout -q HEAD^ -- src/app.py; rm -f src/new.py"],
)
def test_work_outside_the_scope_counts_also_where_the_tree_hides_it(project: Project, run: Run, undo: str) -> None:
    hidden = f"echo x > src/new.py; echo x >> src/app.py; git add .; git commit -qm code; {undo}"

    ran = run(hidden, *DOCS)

    assert (ran.exit_code, ran.code) == (4, "scope")
    assert "src/new.py" in ran.reason
    assert run("true", *DOCS).exit_code == 4
    assert project.call("retry") == 0
    assert run("true", *DOCS).code == "scope"  # it is still committed
    project.git("checkout", "--quiet", "HEAD~4", "--", "src")
    project.git("rm", "--quiet", "--force", "--ignore-unmatch", "src/new.py")
    project.git("commit", "--quiet", "-m", "put back")
    assert project.call("retry") == 0
    assert run("true", *DOCS).exit_code == 0


def test_what_an_agent_undoes_in_the_tree_alone_is_its_leftover(project: Project, run: Run) -> None:
    gate = ("-c", "actors.ralph.gates=grep -q hello src/app.py")
    ran = run("echo broken > src/app.py; git commit -qam broken; git checkout -q HEAD^ -- src/app.py", *gate)

    assert ran.exit_code == 0
    assert "hello" in project.git("show", "HEAD:src/app.py")
    assert project.dirt() == ""


@pytest.mark.parametrize("script", ["rm -rf logs", "echo x >> logs/.gitignore", "rm -rf tmp"])
def test_what_an_agent_does_to_logs_and_tmp_stops_nothing(project: Project, run: Run, script: str) -> None:
    project.write("tmp/.gitkeep", "")
    project.commit("a tmp folder")

    assert run(script).exit_code == 0
    assert run("true", "--once").exit_code == 0


def test_a_snapshot_that_was_pruned_costs_the_leftovers_their_commit_and_nothing_else(
    project: Project, run: Run
) -> None:
    assert run("echo work > half.txt; exit 1").exit_code == 4
    assert project.call("retry") == 0
    project.write("person.txt", "mine\n")

    ran = run("git reflog expire --expire=now --all; git gc -q --prune=now; echo more > other.txt")

    assert ran.exit_code == 0, ran.reason
    assert "snapshot-gone" in ran.notices
    assert {path.name for path in project.path.glob("*.txt")} == {"half.txt", "person.txt", "other.txt"}
    assert run("true", "--once").exit_code == 0


def test_a_branch_that_was_moved_back_is_gone_on_from_by_decision(project: Project, run: Run) -> None:
    agent = project.agent(QUIET)
    assert project.call("run", "-q", "-n", "2", "--agent", agent) == 0
    project.git("reset", "--quiet", "--hard", "HEAD~2")
    before = project.state()

    ran = run("true")
    assert (ran.code, "init --adopt" in ran.remedy) == ("state-backwards", True)
    assert project.call("init", "--adopt") == 0

    assert run("true", "--once").exit_code == 0
    assert project.state()["epoch"] > before["epoch"] + 1


def test_an_open_turn_can_be_given_up_and_its_work_is_kept(project: Project, run: Run, capsys: Capture) -> None:
    stop = ": > .git/orchestration/control/stop-now; echo half > half.txt; exec sleep 100000"
    project.git("switch", "--quiet", "--create", "feat")
    assert project.call("init", "--adopt") == 0
    assert run(stop).exit_code == 143
    project.git("stash", "--quiet", "--include-untracked")
    project.git("switch", "--quiet", "main")
    project.git("branch", "--quiet", "-D", "feat")
    assert run("true").code == "turn-on-other-branch"

    capsys.readouterr()
    assert project.call("abandon", "--json") == 0

    assert json.loads(capsys.readouterr().out)["kept"] is None, "the stop has kept all of it"
    assert project.journal() == "idle"
    assert "half" in [project.git("show", f"{ref}:half.txt", check=False) for ref in project.rescued()]
    assert run("true", "--once").exit_code == 0
    assert project.call("abandon") == 3


def test_a_gate_that_prunes_the_snapshot_of_a_retried_turn_costs_nothing(project: Project, run: Run) -> None:
    assert run("echo work > half.txt; exit 1").exit_code == 4
    assert project.call("retry") == 0
    project.write("person.txt", "mine\n")
    gate = 'actors.ralph.gates=["git reflog expire --expire=now --all; git gc -q --prune=now"]'

    assert run("exit 0", "-c", gate).exit_code == 0

    assert project.git("show", "HEAD^:half.txt") == "work"
    assert project.dirt() == "?? person.txt"
    assert run("true", "--once").exit_code == 0


def test_an_open_turn_without_git_can_be_given_up(tmp_path: Path) -> None:
    project = Project(tmp_path / "plain")
    project.path.mkdir()
    assert project.call("init", "--no-git", "--json") == 0
    stop = project.agent(": > sync/.orchestrator/control/stop-now; exec sleep 100000", name="stopper")
    assert project.call("run", "-q", "--agent", stop) == 143
    assert project.call("retry") == 3

    assert project.call("abandon") == 0

    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == 0


def test_a_gate_that_touches_the_state_without_git_changes_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "plain")
    project.path.mkdir()
    assert project.call("init", "--no-git", "--json") == 0
    gate = "actors.galph.gates=[\"printf '\\\\n' >> sync/state.json\"]"

    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET), "-c", gate) == 0

    assert json.loads((project.path / "sync/state.json").read_text())["status"] == "waiting-ralph"


def test_turns_of_one_actor_forget_an_earlier_starts_failure(project: Project) -> None:
    code = project.agent("echo x > code.py; git add .; git commit -qm code", name="coder")
    scope = ("-c", "actors.galph.scope=docs/")
    assert project.call("supervisor", "--once", "-q", "--agent", code, *scope) == 4

    assert project.call("supervisor", "--once", "-q", "--agent", project.agent(QUIET), *scope) == 0


def test_a_branch_that_shares_its_log_folder_keeps_its_runs(project: Project) -> None:
    agent = project.agent(QUIET)
    for branch in ("feat/x", "feat-x"):
        project.git("switch", "--quiet", "--create", branch)
        assert project.call("init", "--adopt") == 0
        assert project.call("run", "-q", "--once", "--agent", agent, "-c", "logs.keep=1") == 0
    assert project.call("run", "-q", "--once", "--agent", agent, "-c", "logs.keep=1") == 0

    runs = [json.loads(card.read_text())["branch"] for card in (project.path / "logs/feat-x").glob("2*/run.json")]
    assert sorted(runs) == ["feat-x", "feat/x"]


def test_a_missing_prompt_is_found_before_an_agent_is_paid(project: Project, run: Run) -> None:
    ran = run("touch paid", "--router-review-every-n", "3", "--prompt-reviewer", "absent.md", "--router-allowlist", "")

    assert (ran.exit_code, ran.code, (project.path / "paid").exists()) == (2, "prompt-missing", False)
