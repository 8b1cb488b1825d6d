"""What a prompt is told of its turn: the same lines for every agent, on every bus, for an actor's own prompt alone."""

from pathlib import Path

import pytest

from conftest import Project
from pair import WORKS, pair

KEEPS = 'cat >"../prompt-$ORCH_ITERATION-$ORCH_ACTOR-$(basename $ORCH_PROMPT)"\n'


def given(project: Project, turn: str) -> str:
    """Return what the agent of a turn was given."""
    return (project.path.parent / f"prompt-{turn}").read_text()


def test_a_prompt_ends_with_where_it_stands(project: Project) -> None:
    agent = project.agent(KEEPS + WORKS.replace("cat >/dev/null\n", ""))
    assert project.call("run", "-n", "2", "--agent", agent) == 0
    first, later = given(project, "1-galph-supervisor.md"), given(project, "2-galph-supervisor.md")
    assert first.startswith((project.path / "prompts/supervisor.md").read_text())
    assert "You are galph, in iteration 1, on the branch main." in first
    assert "ralph has had no turn yet." in first
    assert f"This run's reports lie in {(project.path / 'logs/main/latest').resolve()}." in first
    command = later.partition("What ralph did last: `git ")[2].partition("`")[0]
    assert "work 1/ralph" in project.git(*command.split())
    assert "work 1/galph" not in project.git(*command.split())


def test_word_that_a_person_has_left_is_pointed_to(project: Project) -> None:
    agent = project.agent(KEEPS)
    project.write("user_input.md", "Mind the gap.\n")
    project.commit("word")
    assert project.call("run", "--once", "--agent", agent) == 0
    assert "read user_input.md first" in given(project, "1-galph-supervisor.md")


def test_it_can_be_left_out(project: Project) -> None:
    assert project.call("run", "--once", "--agent", project.agent(KEEPS), "-c", "prompts.context=false") == 0
    assert given(project, "1-galph-supervisor.md") == (project.path / "prompts/supervisor.md").read_text()


def test_a_router_prompt_is_told_nothing_that_could_be_an_answer(project: Project) -> None:
    agent = project.agent(KEEPS + "echo supervisor.md")
    assert project.call("run", "--once", "--agent", agent, "--router-prompt", "router.md") == 0
    assert given(project, "1-galph-router.md") == (project.path / "prompts/router.md").read_text()
    assert "## This turn" in given(project, "1-galph-supervisor.md")


@pytest.mark.parametrize("option", [["--no-git"], []], ids=["file", "solo"])
def test_other_ways_to_run_tell_it_too(bare_project: Project, option: list[str]) -> None:
    agent = bare_project.agent(KEEPS)
    assert bare_project.call("init", *option) == 0
    command = ["run", "--once", *option] if option else ["supervisor", "-n", "1"]
    assert bare_project.call(*command, "--agent", agent) == 0
    assert "You are galph, in iteration 1" in given(bare_project, "1-galph-supervisor.md")


def test_the_other_machine_s_commits_are_named(tmp_path: Path) -> None:
    two = pair(tmp_path)
    agent = two.galph.agent(KEEPS + WORKS.replace("cat >/dev/null\n", ""), "keeps")
    assert two.turn("galph", agent=agent) == 0
    assert two.turn("ralph", agent=agent) == 0
    command = given(two.ralph, "1-ralph-main.md").partition("What galph did last: `git ")[2].partition("`")[0]
    assert "work 1/galph" in two.ralph.git(*command.split())
