"""`init` in repositories as they are found: it writes what is missing, commits exactly that, and takes it back."""

import json
from pathlib import Path

import pytest

from conftest import Capture, Project, everything, person, script, scripted
from orchestration.scaffold import SUBJECT, UNDO_SUBJECT

WRITTEN = [
    ".orchestration.schema.json",
    "logs/.gitignore",
    "orchestration.yaml",
    "prompts/main.md",
    "prompts/reviewer.md",
    "prompts/router.md",
    "prompts/supervisor.md",
    "sync/state.json",
]
QUIET = "cat >/dev/null\n"
"""An agent that reads its prompt and has nothing to do."""


def test_init_is_one_commit_of_exactly_its_files_and_leaves_all_else_as_it_was(
    bare_project: Project, capsys: Capture
) -> None:
    project = bare_project
    project.write("prompts/main.md", "my own words\n")
    project.commit("a prompt of mine")
    project.write("src/app.py", "print('changed')\n")
    project.write("staged.txt", "staged\n")
    project.git("add", "staged.txt")
    project.write("staged.txt", "staged, and changed again\n")
    project.write("notes.txt", "untracked\n")
    hook = project.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    status, staged = project.dirt(), project.git("diff", "--cached")

    told = person(project, capsys, "init")

    mine = [path for path in WRITTEN if path != "prompts/main.md"]
    assert project.git("show", "--format=%s", "--name-status", "HEAD").split("\n\n") == [
        SUBJECT,
        "\n".join(f"A\t{path}" for path in mine),
    ]
    assert (project.path / "prompts" / "main.md").read_text() == "my own words\n"
    assert (project.dirt(), project.git("diff", "--cached")) == (status, staged)
    assert [line.split() for line in told.splitlines() if line.startswith("  ")][: len(WRITTEN)] == [
        *(["wrote", path] for path in mine),
        ["kept", "prompts/main.md"],
    ]
    assert f"committed as {project.git('rev-parse', 'HEAD')[:10]}" in told
    assert project.state()["expected_actor"] == "galph"

    before = everything(project.path / "prompts"), project.git("rev-parse", "HEAD"), project.git("ls-files", "-s")
    assert script(project, capsys, "init") == {"written": [], "kept": WRITTEN, "commit": None, "rules": []}
    assert "nothing was committed" in person(project, capsys, "init")
    assert (
        everything(project.path / "prompts"),
        project.git("rev-parse", "HEAD"),
        project.git("ls-files", "-s"),
    ) == before


def test_init_makes_the_first_commit_of_a_repository_and_leaves_staged_files_staged(
    tmp_path: Path, capsys: Capture
) -> None:
    project = Project(tmp_path / "empty")
    project.path.mkdir()
    project.git("init", "--quiet")
    project.write("mine.txt", "mine\n")
    project.git("add", "mine.txt")

    assert script(project, capsys, "init")["written"] == WRITTEN

    assert project.subjects() == [SUBJECT]
    assert project.git("ls-tree", "-r", "--name-only", "HEAD").splitlines() == WRITTEN
    assert project.dirt() == "A  mine.txt"


def test_init_without_a_commit_is_refused_by_run_until_init_commits_it(bare_project: Project, capsys: Capture) -> None:
    project = bare_project
    tip = project.git("rev-parse", "HEAD")

    assert "nothing was committed" in person(project, capsys, "init", "--no-commit")
    assert project.git("rev-parse", "HEAD") == tip
    assert project.dirt().splitlines() == [f"?? {path}" for path in WRITTEN]

    agent = project.agent(QUIET)
    refusal = json.loads(scripted(project, capsys, "run", "--agent", agent, code=3)[-1])
    assert refusal["reason"] == "sync/state.json is not committed on main"
    assert "`orchestrator init` commits what it wrote" in person(project, capsys, "run", "--agent", agent, code=3)
    assert project.dirt().splitlines() == [f"?? {path}" for path in WRITTEN]

    told = script(project, capsys, "init")
    assert (told["written"], told["commit"]) == ([], project.git("rev-parse", "HEAD"))
    assert project.git("show", "--format=", "--name-only", "HEAD").splitlines() == WRITTEN
    assert project.dirt() == ""
    assert project.call("run", "--once", "-q", "--agent", agent) == 0


def test_init_leaves_a_state_file_alone_that_it_did_not_write(bare_project: Project, capsys: Capture) -> None:
    for text in ("garbage", '{"iteration": 7, "expected_actor": "ralph", "status": "idle"}'):
        bare_project.write("sync/state.json", text)

        told = script(bare_project, capsys, "init")

        assert "sync/state.json" in told["kept"]
        assert bare_project.dirt() == "?? sync/state.json"
        assert (bare_project.path / "sync" / "state.json").read_text() == text


def test_init_refuses_a_detached_head_and_writes_nothing(bare_project: Project, capsys: Capture) -> None:
    bare_project.git("switch", "--quiet", "--detach")

    assert script(bare_project, capsys, "init", code=3)["error"] == "detached-head"
    assert bare_project.dirt() == ""


def test_undo_right_after_init_restores_the_tree(bare_project: Project, capsys: Capture) -> None:
    project = bare_project
    project.write("prompts/reviewer.md", "my own review\n")
    project.commit("a prompt of mine")
    before = project.git("rev-parse", "HEAD^{tree}")
    project.write("staged.txt", "staged\n")
    project.git("add", "staged.txt")
    assert project.call("init") == 0

    told = person(project, capsys, "init", "--undo")

    assert project.git("rev-parse", "HEAD^{tree}") == before
    assert project.subjects() == ["first", "a prompt of mine", SUBJECT, UNDO_SUBJECT]
    assert project.dirt() == "A  staged.txt"
    assert {path.name for path in project.path.iterdir()} == {".git", "README.md", "src", "prompts", "staged.txt"}
    assert {path.name for path in (project.path / ".git" / "orchestration").iterdir()} <= {"lock"}
    assert "  removed  prompts/main.md" in told
    assert "  kept   prompts/reviewer.md" in told


def test_undo_keeps_what_a_person_changed_and_what_may_hold_work(project: Project, capsys: Capture) -> None:
    failing = project.agent("cat >/dev/null; echo half >>src/app.py; exit 1\n")
    assert project.call("run", "-q", "--agent", failing) == 4
    rescued = project.rescued()
    project.git("checkout", "--quiet", "--", "src/app.py")
    project.write("prompts/main.md", "my own words\n")
    project.commit("my own words")
    project.write("prompts/router.md", "not committed\n")
    assert project.call("pause") == 0

    told = script(project, capsys, "init", "--undo")

    assert told["kept"] == ["prompts/main.md", "prompts/router.md"]
    assert "sync/state.json" in told["written"]
    assert project.git("ls-files").splitlines() == ["README.md", "prompts/main.md", "prompts/router.md", "src/app.py"]
    assert (project.path / "prompts" / "router.md").read_text() == "not committed\n"
    assert project.rescued() == rescued != []
    assert (project.path / "logs" / "main" / "latest" / "summary.md").exists()
    assert {path.name for path in (project.path / ".git" / "orchestration").iterdir()} <= {"lock"}
    assert script(project, capsys, "status", code=3)["error"] == "state-missing"
    assert script(project, capsys, "init", "--undo")["commit"] is None


