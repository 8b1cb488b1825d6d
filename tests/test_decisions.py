"""What a person decides, beside the table in test_commands: adopting a state, accepting a scope, being cut short."""

import json
import subprocess

import pytest

from conftest import Capture, Meanwhile, Project, everything, person, script, scripted
from orchestration.scaffold import SUBJECT

QUIET = "cat >/dev/null\n"


@pytest.fixture
def side(project: Project) -> Project:
    """Give a project after one iteration, on a branch that was made from main."""
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent(QUIET)) == 0
    project.git("switch", "-qc", "team/side")
    return project


def test_a_branch_goes_on_from_the_state_of_the_one_it_was_made_from(side: Project, capsys: Capture) -> None:
    agent, before = side.agent(QUIET), side.state()
    project, main = side, side.git("rev-parse", "main")
    refused = json.loads(scripted(project, capsys, "run", "--agent", agent, code=3)[-1])
    assert (refused["code"], refused["reason"]) == (
        "state-other-branch",
        "the state belongs to the branch main, and this is team/side",
    )
    assert (
        refused["remedy"]
        == "`git switch main`; or, if that was renamed or this one goes on from it: `orchestrator init --adopt`"
    )
    project.write("src/app.py", "a person's work\n")
    project.write("README.md", "staged\n")
    project.git("add", "README.md")
    dirt = project.dirt()

    adopted = script(project, capsys, "init", "--adopt")

    assert adopted["subject"] == project.subjects()[-1] == "[SYNC i=2] operator=adopt → next=galph status=complete"
    assert (adopted["commit"], adopted["next"]) == (project.git("rev-parse", "HEAD"), "next: galph, iteration 2")
    assert (project.git("rev-parse", "HEAD^"), project.git("rev-parse", "main")) == (main, main)
    assert project.git("show", "--format=", "--name-only", "HEAD") == "sync/state.json"
    after = project.state()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"branch", "epoch", "holder", "nonce", "last_update"}
    assert (after["branch"], after["epoch"]) == ("team/side", before["epoch"] + 1)
    assert project.dirt() == dirt

    project.git("restore", "--staged", "--worktree", "src/app.py", "README.md")
    assert project.call("run", "-n", "1", "-q", "--agent", agent) == 0
    assert (project.state()["iteration"], project.state("main")["iteration"]) == (3, 2)
    project.git("switch", "-q", "main")
    assert project.call("run", "-n", "1", "-q", "--agent", agent) == 0
    assert project.state()["branch"] == "main"


@pytest.mark.parametrize("command", [["retry"], ["skip"], ["stamp", "galph", "ok"], ["stamp", "galph", "fail"]])
def test_nothing_else_is_decided_about_a_state_that_is_another_branchs(
    side: Project, capsys: Capture, command: list[str]
) -> None:
    before = side.git("for-each-ref"), everything(side.path / "sync")

    refusal = script(side, capsys, *command, code=3)

    assert (refusal["error"], "`orchestrator init --adopt`" in refusal["remedy"]) == ("state-other-branch", True)
    assert (side.git("for-each-ref"), everything(side.path / "sync")) == before
    assert side.journal() == "idle"


def test_a_branchs_own_state_is_not_to_be_adopted_nor_one_of_no_branch(project: Project, capsys: Capture) -> None:
    tip = project.git("rev-parse", "HEAD")
    assert script(project, capsys, "init", "--adopt", code=3)["error"] == "adopt-own"
    assert "the state belongs to this branch, main, already" in person(project, capsys, "init", "--adopt", code=3)
    assert project.git("rev-parse", "HEAD") == tip

    text = (project.path / "sync" / "state.json").read_text()
    project.write("sync/state.json", text.replace('"main"', "null"))
    project.commit("anybody's")
    assert "the state belongs to this branch, main, already" in person(project, capsys, "init", "--adopt", code=3)
    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == 0


def test_a_failed_turn_stays_failed_where_it_is_adopted(project: Project, capsys: Capture) -> None:
    agent = project.agent("echo boom >&2; exit 3\n", "failing")
    assert project.call("run", "-q", "--agent", agent) == 4
    project.git("switch", "-qc", "side")

    assert "status=failed" in script(project, capsys, "init", "--adopt")["subject"]

    assert project.state()["failure"] == project.state("main")["failure"]
    assert "| boom" in person(project, capsys, "run", "--agent", agent, code=4)
    assert project.call("retry") == 0
    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == 0
    assert (project.state()["status"], project.state("main")["status"]) == ("waiting-ralph", "failed")


def test_without_a_state_or_amid_a_turn_there_is_nothing_to_adopt(bare_project: Project, capsys: Capture) -> None:
    project = bare_project
    assert script(project, capsys, "init", "--adopt", code=3)["error"] == "state-missing"
    assert project.call("init") == 0
    died = project.run("run", "--agent", project.agent(QUIET), env={"GALPH_FAILPOINT": "turn.ran:KILL"})
    assert died.returncode < 0
    project.git("switch", "-qc", "side")

    assert script(project, capsys, "init", "--adopt", code=3)["error"] == "turn-open"
    assert project.subjects()[-1] == SUBJECT


@pytest.mark.parametrize("options", [["--undo"], ["--no-commit"]])
def test_adopt_is_not_to_be_mixed_with_what_init_does_else(side: Project, capsys: Capture, options: list[str]) -> None:
    tip = side.git("rev-parse", "HEAD")
    assert script(side, capsys, "init", "--adopt", *options, code=2)["error"] == "usage"
    assert script(side, capsys, "init", "--undo", "--no-commit", code=2)["error"] == "usage"
    assert side.git("rev-parse", "HEAD") == tip


# --- leftovers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mend", "code"),
    [
        ("", 4),
        ("rm src/new.py", 0),
        ("git add src/new.py; git commit -qm mine", 0),
        ("echo 'doc_whitelist: [src/new.py]' >orchestration.yaml; git commit -qam allowed", 0),
    ],
    ids=["left", "removed", "committed", "allowed"],
)
def test_a_turn_that_left_what_it_must_not_write_passes_after_what_its_remedy_says(
    project: Project, capsys: Capture, mend: str, code: int
) -> None:
    told = person(project, capsys, "run", "--agent", project.agent("echo 1 >src/new.py\n", "eager"), code=4)
    assert "once these files are removed, committed, or allowed by `doc_whitelist`" in told
    subprocess.run(["sh", "-e", "-c", mend], cwd=project.path, check=True)
    assert project.call("retry") == 0

    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == code


# --- scope -----------------------------------------------------------------------------------------------------------


def test_a_turn_that_left_its_scope_is_skipped_only_if_that_is_accepted(project: Project, capsys: Capture) -> None:
    project.write("orchestration.yaml", "actors: {galph: {scope: [plans/], leftovers: commit}}\n")
    project.commit("a scope")
    agent = project.agent("cat >/dev/null; echo more >>src/app.py; git commit -qam 'out of bounds'\n")
    assert "`orchestrator skip --accept-scope`" in person(project, capsys, "run", "--agent", agent, code=4)
    tip = project.git("rev-parse", "HEAD")

    refusal = script(project, capsys, "skip", code=3)

    assert (refusal["error"], "src/app.py" in refusal["message"]) == ("scope-not-accepted", True)
    assert project.git("rev-parse", "HEAD") == tip
    assert script(project, capsys, "skip", "--accept-scope")["next"] == "next: ralph, iteration 1"
    assert "out of bounds" in project.subjects()


# --- cut short -------------------------------------------------------------------------------------------------------


def test_a_decision_that_cannot_land_is_told_and_leaves_nothing_open(
    project: Project, capsys: Capture, meanwhile: Meanwhile
) -> None:
    meanwhile("settle.before_ref", lambda: project.git("commit", "-q", "--allow-empty", "-m", "a person's"))

    refusal = script(project, capsys, "stamp", "galph", "ok", code=3)

    assert refusal["remedy"]
    assert project.subjects()[-1] == "a person's"
    assert script(project, capsys, "stamp", "galph", "ok")["next"] == "next: ralph, iteration 1"
    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == 0


@pytest.mark.parametrize("moved", [False, True])
def test_a_decision_that_was_cut_short_lands_or_is_forgotten_before_the_next_one(
    project: Project, capsys: Capture, moved: bool
) -> None:
    died = project.run("stamp", "galph", "ok", env={"GALPH_FAILPOINT": "settle.before_ref:KILL"})
    assert (died.returncode < 0, project.journal()) == (True, "posted")
    if moved:
        project.git("commit", "-q", "--allow-empty", "-m", "a person's")

    decided = script(project, capsys, "stamp", "galph" if moved else "ralph", "ok")

    assert decided["next"] == ("next: ralph, iteration 1" if moved else "next: galph, iteration 2")
    assert [subject for subject in project.subjects() if "operator=stamp" in subject][-1] == decided["subject"]
    assert project.journal() == "idle"
