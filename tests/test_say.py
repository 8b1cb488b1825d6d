"""`orchestrator say`: a person's word reaches both actors as a commit, from any clone, and moves no running turn."""

import signal
from pathlib import Path

import pytest

from conftest import Capture, Project, person, script
from pair import WORKS, pair, running, until
from scene import Scene


def word(project: Project, revision: str = "main") -> str:
    """Return what both would read."""
    return project.git("show", f"{revision}:user_input.md")


def test_a_word_is_a_commit_of_its_own_and_leaves_the_tree_clean(project: Project, capsys: Capture) -> None:
    project.write("mine.txt", "staged\n")
    project.git("add", "mine.txt")
    assert "added to user_input.md in" in person(project, capsys, "say", "Mind the gap.\nAnd the step.")
    assert "Mind the gap.\nAnd the step." in word(project)
    assert project.dirt() == "A  mine.txt"
    assert script(project, capsys, "say", "Second.")["waits"] is False
    assert word(project).index("Mind") < word(project).index("Second.")
    assert project.subjects()[-1] == "a person has left word"


def test_nothing_and_too_much_are_refused(project: Project) -> None:
    assert project.call("say", "  ") == 2
    assert project.call("say", "x" * 70_000) == 2


def test_a_word_waits_for_the_turn_in_progress(project: Project, capsys: Capture) -> None:
    gate = project.path.parent / "gate"
    work = WORKS.replace("cat >/dev/null\n", "")
    waits = f'cat >"../prompt-$ORCH_ITERATION-$ORCH_ACTOR"\nuntil [ -e {gate} ]; do sleep 0.05; done\n{work}'
    daemon = project.start("run", "-n", "1", "--agent", project.agent(waits))
    with running(daemon):
        until((project.path.parent / "prompt-1-galph").exists)
        head = project.git("rev-parse", "main")
        assert script(project, capsys, "say", "Hurry.") == {"commit": None, "waits": True}
        assert project.git("rev-parse", "main") == head
        gate.touch()
        daemon.wait(timeout=60)
    assert daemon.returncode == 0
    assert "Hurry." in word(project)
    assert "read user_input.md first" in (project.path.parent / "prompt-1-ralph").read_text()
    assert project.dirt() == ""


@pytest.mark.parametrize("point", ["word.before_ref", "word.after_ref"])
def test_a_word_whose_delivery_is_killed_is_delivered_once(project: Project, point: str) -> None:
    killed = project.run("say", "Once.", env={"GALPH_FAILPOINT": f"{point}:KILL"})
    assert killed.returncode == -signal.SIGKILL
    assert project.call("run", "--once", "--agent", project.agent("exit 0")) == 0
    assert word(project).count("Once.") == 1
    assert project.dirt() == ""


def test_what_a_person_has_not_committed_is_not_overwritten(project: Project, capsys: Capture) -> None:
    project.write("user_input.md", "half a thought")
    refused = script(project, capsys, "say", "Another.", code=3)
    assert refused["error"] == "word-in-the-way"
    assert (project.path / "user_input.md").read_text() == "half a thought"
    project.git("add", "user_input.md")
    project.git("commit", "--quiet", "-m", "user input")
    assert project.call("run", "--once", "--agent", project.agent("exit 0")) == 0
    assert "half a thought" in word(project)
    assert "Another." in word(project)


def test_without_git_it_is_added_to_the_file(bare_project: Project) -> None:
    assert bare_project.call("init", "--no-git") == 0
    assert bare_project.call("say", "--no-git", "Hello.") == 0
    assert "Hello." in (bare_project.path / "user_input.md").read_text()


def test_a_word_is_merged_into_the_turn_that_runs_on_another_machine(tmp_path: Path, capsys: Capture) -> None:
    scene = Scene(pair(tmp_path))
    galph = scene.two.start("galph", "--once", agent=scene.agent(scene.gate(), name="gated"))
    with running(galph):
        until(scene.waits)
        assert script(scene.two.ralph, capsys, "say", "Mind the gap.", "--sync-via-git")["waits"] is False
        scene.open()
        galph.wait(timeout=60)
    assert galph.returncode == 0
    assert "Mind the gap." in word(scene.two.hub)
    assert scene.two.turn("ralph") == 0
    scene.two.check()


def test_the_review_of_the_built_in_agent_leaves_the_word_where_it_is(project: Project) -> None:
    project.write("docs/fix_plan.md", "- [x] T1: done\n  check: true\n- [ ] T2: open\n")
    project.commit("a plan")
    assert project.call("say", "Mind the gap.") == 0
    for _ in range(2):
        assert project.call("supervisor", "-n", "1", "--agent", "checklist", "--router-review-every-n", "1") == 0
    assert "Mind the gap." in word(project)
    assert word(project).count("Review: ") == 1
