"""`orchestrator say`: a person's word reaches both actors as a commit, from any clone, and moves no running turn."""

import signal
from pathlib import Path

import pytest

from conftest import Capture, Meanwhile, Project, executable, person, script, scripted, untouched
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
@pytest.mark.parametrize("also", [[], ["Twice."]])
def test_a_word_whose_delivery_is_killed_is_delivered_once(project: Project, point: str, also: list[str]) -> None:
    killed(project, f"{point}:KILL")
    for text in also:
        assert project.call("say", text) == 0
    assert project.call("run", "--once", "--agent", project.agent("exit 0")) == 0
    assert [word(project).count(text) for text in ["Once.", *also]] == [1] * (1 + len(also))
    assert project.dirt() == ""


def killed(project: Project, failpoint: str = "word.before_ref:KILL") -> None:
    """Leave a word that waits."""
    done = project.run("say", "Once.", env={"GALPH_FAILPOINT": failpoint})
    assert done.returncode == -signal.SIGKILL
    assert waits(project)


def waits(project: Project) -> list[Path]:
    """Return the words that wait."""
    return list((project.path / ".git/orchestration/word").iterdir())


def test_a_word_is_delivered_though_its_git_was_killed_half_way_and_the_daemon_with_it(project: Project) -> None:
    dies = project.path.parent / "dies"
    dies.touch()
    script = f"#!/bin/sh\n[ -e {dies} ] && {{ rm {dies}; kill -9 $(ps -o ppid= -p $PPID) $PPID; }}\nexec cat\n"
    project.git("config", "filter.dies.smudge", executable(project.path.parent / "smudge", script))
    project.write(".gitattributes", "user_input.md filter=dies\n")
    project.commit("attributes")

    assert project.run("say", "Once.").returncode == -signal.SIGKILL
    assert not dies.exists()
    assert project.call("run", "--once", "--agent", project.agent("exit 0")) == 0
    assert word(project).count("Once.") == 1
    assert (project.dirt(), waits(project)) == ("", [])


def test_a_word_waits_where_another_branch_is_checked_out(project: Project, capsys: Capture) -> None:
    killed(project)
    project.git("switch", "-q", "-c", "feature")
    before = untouched(project)
    args = ("run", "--once", "--branch", "main", "--agent", project.agent("exit 0"))
    assert project.call(*args) == 3
    assert untouched(project) == before
    assert script(project, capsys, "status")["waiting_words"] == 1
    assert "1 to be added to user_input.md" in person(project, capsys, "status")
    project.git("switch", "-q", "main")
    assert project.call(*args) == 0
    assert ("Once." in word(project), project.dirt(), waits(project)) == (True, "", [])


@pytest.mark.parametrize("operation", ["rebase", "merge"])
def test_a_word_waits_for_the_end_of_a_persons_operation(project: Project, capsys: Capture, operation: str) -> None:
    killed(project)
    project.git("switch", "-q", "-c", "other")
    project.write("README.md", "theirs")
    project.commit("theirs")
    project.git("switch", "-q", "main")
    project.write("README.md", "mine")
    project.commit("mine")
    project.git(operation, "other", check=False)
    before = untouched(project)
    args = ("run", "--once", "--branch", "main", "--agent", project.agent("exit 0"))
    assert scripted(project, capsys, *args, code=3)
    assert untouched(project) == before
    assert waits(project)
    project.git(operation, "--abort")
    assert project.call(*args) == 0
    assert ("Once." in word(project), project.dirt(), waits(project)) == (True, "", [])


@pytest.mark.parametrize("how", ["commits", "stages"])
def test_a_word_waits_for_a_person_who_is_just_at_work(
    project: Project, capsys: Capture, meanwhile: Meanwhile, how: str
) -> None:
    def act() -> None:
        project.write("mine.txt", "mine")
        project.git("add", "mine.txt")
        if how == "commits":
            project.git("commit", "-q", "-m", "mine")
        else:
            (project.path / ".git/index.lock").touch()

    meanwhile("word.before_ref", act)
    assert script(project, capsys, "say", "Once.") == {"commit": None, "waits": True}
    (project.path / ".git/index.lock").unlink(missing_ok=True)
    dirt = "" if how == "commits" else "A  mine.txt"
    assert project.dirt() == dirt
    assert script(project, capsys, "say", "Twice.")["waits"] is False
    assert [word(project).count(text) for text in ("Once.", "Twice.")] == [1, 1]
    assert project.dirt() == dirt


def test_line_endings_are_no_change(project: Project) -> None:
    assert project.call("say", "Once.") == 0
    project.git("config", "core.autocrlf", "true")
    (project.path / "user_input.md").unlink()
    project.git("checkout", "--", "user_input.md")
    assert project.call("say", "Twice.") == 0
    assert ("Twice." in word(project), project.dirt()) == (True, "")
    assert b"Twice.\r\n" in (project.path / "user_input.md").read_bytes()


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
    told = person(scene.two.ralph, capsys, "say", "And the step.", "--sync-via-git")
    assert told.endswith(" at origin/main; it is here with the next turn\n")
    assert scene.two.turn("ralph") == 0
    assert "And the step." in word(scene.two.ralph)
    scene.two.check()


@pytest.mark.parametrize(
    ("before", "edits", "code"),
    [
        ([], "echo mine >>user_input.md", 0),
        (["Long ago."], "echo mine >>user_input.md", 0),
        (["Long ago."], "echo mine >user_input.md", 4),
        (["Long ago."], "rm user_input.md", 4),
    ],
    ids=["began", "added", "rewrote", "removed"],
)
def test_a_word_that_meets_what_an_agent_has_added_stands_beside_it(
    tmp_path: Path, before: list[str], edits: str, code: int
) -> None:
    scene = Scene(pair(tmp_path))
    for text in before:
        assert scene.two.ralph.call("say", text, "--sync-via-git") == 0
    last = f"{edits}; git add -A user_input.md; git commit -qm edits"
    ended, said = scene.during("galph", lambda: scene.two.ralph.call("say", "Mind.", "--sync-via-git"), last=last)
    assert ended == code, said
    assert [text in word(scene.two.hub) for text in ("Mind.", *before)] == [True] * (1 + len(before))
    assert ("mine" in word(scene.two.hub)) is (code == 0)
    scene.two.check()


def test_the_review_of_the_built_in_agent_leaves_the_word_where_it_is(project: Project) -> None:
    project.write("docs/fix_plan.md", "- [x] T1: done\n  check: true\n- [ ] T2: open\n")
    project.commit("a plan")
    assert project.call("say", "Mind the gap.") == 0
    for _ in range(2):
        assert project.call("supervisor", "-n", "1", "--agent", "checklist", "--router-review-every-n", "1") == 0
    assert "Mind the gap." in word(project)
    assert word(project).count("Review: ") == 1
