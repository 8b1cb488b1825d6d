"""One repository, several projects; and repositories whose git dir, work tree or name is not where one thinks."""

import json
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Project, Ran, executable, kept, repository, untouched

Run = Callable[..., Ran]


@pytest.fixture
def whole(tmp_path: Path) -> Project:
    """Give a repository with two projects in folders of it, both at ralph's turn."""
    made = repository(tmp_path / "whole")
    for name in ("shop", "bank app"):
        made.write(f"{name}/orchestration.yaml", "")
        made.commit(f"a project in {name}")
        assert Project(made.path / name).call("init", "--json") == 0
        assert Project(made.path / name).call("stamp", "galph", "ok", "--json") == 0
    return made


@pytest.fixture
def shop(whole: Project) -> Project:
    """Give the one project."""
    return Project(whole.path / "shop")


@pytest.fixture
def bank(whole: Project) -> Project:
    """Give the other project."""
    return Project(whole.path / "bank app")


def state(project: Project) -> dict[str, Any]:
    """Read a project's committed state."""
    loaded: dict[str, Any] = json.loads(project.git("show", "HEAD:./sync/state.json"))
    return loaded


def test_projects_of_one_repository_do_not_disturb_each_other(
    whole: Project, shop: Project, bank: Project, run: Run
) -> None:
    for number in (1, 2):
        assert run("echo code >> code.txt", where=shop).exit_code == 0
        assert (state(shop)["iteration"], state(bank)["iteration"]) == (1 + number, number)
        assert run("exit 3", where=bank).code == "agent-failed"
        assert (state(shop)["status"], state(bank)["status"]) == ("complete", "failed")
        assert run("echo plan > input.md", "--once", where=shop).exit_code == 0
        assert bank.call("retry", "--json") == 0
        assert run("echo money >> money.txt", where=bank).exit_code == 0
        assert run("true", "--once", where=bank).exit_code == 0
        assert (state(shop)["status"], state(bank)["status"]) == ("waiting-ralph", "waiting-ralph")

    assert whole.dirt() == ""
    journals = whole.path.glob(".git/orchestration/projects/*/journal.json")
    assert sorted(path.parent.name for path in journals) == ["bank app", "shop"]
    assert not (whole.path / ".git/orchestration/journal.json").exists()
    assert (shop.path / "logs/main/latest").exists()
    assert kept(whole, "HEAD", "shop/code.txt") == "code\ncode"


def test_how_an_agent_ended_is_noted_where_a_write_of_the_journal_makes_its_removal_durable(
    whole: Project, shop: Project
) -> None:
    killed = shop.run("run", "-n", "1", "--agent", shop.agent("exit 0"), env={"GALPH_FAILPOINT": "turn.ran:KILL"})
    assert killed.returncode == -signal.SIGKILL
    (note,) = (whole.path / ".git/orchestration").rglob("exit-*")
    assert (note.read_text(), note.with_name("journal.json").is_file()) == ("0\n", True)
    assert shop.call("run", "--once", "--agent", shop.agent("exit 9")) == 0
    assert list((whole.path / ".git/orchestration").rglob("exit-*")) == []


def test_one_daemon_at_a_time_in_a_work_tree(shop: Project, bank: Project, run: Run, tmp_path: Path) -> None:
    for name in ("began", "go"):
        os.mkfifo(tmp_path / name)
    ear = os.open(tmp_path / "began", os.O_RDWR)
    agent = executable(tmp_path / "waits", f"#!/bin/sh\necho > {tmp_path}/began; read -r _ < {tmp_path}/go\n")
    daemon = shop.start("run", "--once", "--agent", agent)
    try:
        assert select.select([ear], [], [], 60)[0]
        ran = run("true", where=bank)
        assert (ran.exit_code, ran.code) == (7, "clone-locked")
        assert bank.call("stamp", "ralph", "ok", "--json") == 7
    finally:
        (tmp_path / "go").write_text("\n")
        daemon.communicate(timeout=60)
        os.close(ear)
    assert daemon.returncode == 0
    assert run("true", where=bank).exit_code == 0


def test_a_turn_in_progress_of_one_project_refuses_the_others(shop: Project, bank: Project, run: Run) -> None:
    died = shop.run("run", "--once", "--agent", shop.agent("exit 0"), env={"GALPH_FAILPOINT": "turn.ran:KILL"})
    assert died.returncode == -9
    head = bank.git("rev-parse", "HEAD")

    ran = run("exit 1", where=bank)

    assert (ran.exit_code, ran.code) == (3, "turn-elsewhere")
    assert "projects/shop/journal.json" in ran.reason
    assert "--once" in ran.remedy
    assert bank.git("rev-parse", "HEAD") == head
    assert run("exit 1", "--once", where=shop).exit_code == 0
    assert run("true", where=bank).exit_code == 0


OUTSIDE = "echo code > code.txt; echo more >> ../README.md; echo loose > '../sp ace.txt'; rm ../src/app.py"
NAMED = ["README.md", "sp ace.txt", "src/app.py"]


@pytest.mark.parametrize("policy", ["commit", "keep"])
def test_leftovers_outside_of_the_project_are_kept_and_named_and_not_committed(
    whole: Project, shop: Project, run: Run, policy: str
) -> None:
    leftovers = ["-c", f"actors.ralph.leftovers={policy}"]

    ran = run(OUTSIDE, *leftovers, where=shop)

    assert ran.exit_code == 0, ran.reason
    assert all(name in ran.notices["outside"] for name in NAMED)
    assert "shop/code.txt" not in ran.notices["outside"]
    [ref] = whole.rescued()
    assert ref in ran.notices["outside"]
    assert kept(whole, ref, "sp ace.txt") == "loose"
    left = {" M README.md", " D src/app.py", '?? "sp ace.txt"'}
    code = set() if policy == "commit" else {"?? shop/code.txt"}
    assert set(whole.dirt().splitlines()) == left | code
    assert (whole.git("log", "-1", "--format=%s", "HEAD^").startswith("RALPH AUTO")) is (policy == "commit")

    again = run("true", "--once", where=shop)  # and do not refuse the next start, nor are they galph's
    assert (again.exit_code, again.notices) == (0, {}), again.reason
    assert set(whole.dirt().splitlines()) == left | code
    assert whole.rescued() == [ref]


def test_a_retry_that_leaves_files_outside_as_they_are_keeps_the_ref_that_it_names(
    whole: Project, shop: Project, run: Run
) -> None:
    assert run(f"{OUTSIDE}; exit 1", where=shop).code == "agent-failed"
    assert shop.call("retry", "--json") == 0
    ran = run("true", where=shop)
    assert ran.exit_code == 0, ran.reason
    assert [ref for ref in whole.rescued() if ref in ran.notices["outside"]]
    assert whole.git("log", "-1", "--format=%s", "HEAD^").endswith("1 file: shop/code.txt")


def test_leftovers_outside_of_the_project_fail_an_actor_that_must_not_write_code(
    whole: Project, shop: Project, run: Run
) -> None:
    assert run("true", where=shop).exit_code == 0
    ran = run("echo plan > input.md; echo more >> ../README.md", "--once", where=shop)
    assert (ran.exit_code, ran.code) == (4, "leftovers")
    assert "must not write: README.md (" in ran.reason
    assert set(whole.dirt().splitlines()) == {" M README.md", "?? shop/input.md"}
    assert kept(whole, whole.rescued()[-1], "README.md").endswith("more")
    whole.git("checkout", "-q", "README.md")
    assert shop.call("retry", "--json") == 0
    assert run("true", "--once", where=shop).exit_code == 0
    assert whole.git("show", "--format=", "--name-only", "HEAD^") == "shop/input.md"


def test_a_scope_does_not_reach_outside_of_the_project(whole: Project, shop: Project, run: Run) -> None:
    ran = run("echo more >> ../README.md; git commit -qam out", "-c", "actors.ralph.scope=**", where=shop)
    assert (ran.code, "outside its scope: README.md (" in ran.reason) == ("scope", True)
    assert whole.subjects()[-2] == "out"


def test_a_persons_dirty_files_outside_do_not_refuse_the_start_and_inside_they_do(
    whole: Project, shop: Project, run: Run
) -> None:
    whole.write("README.md", "a person's\n")
    whole.write("bank app/prompts/main.md", "a person's\n")
    whole.git("add", "README.md")

    ran = run("echo code > code.txt", where=shop)

    assert (ran.exit_code, ran.notices) == (0, {})
    assert whole.git("show", "--format=", "--name-only", "HEAD^") == "shop/code.txt"
    assert set(whole.dirt().splitlines()) == {"M  README.md", ' M "bank app/prompts/main.md"'}
    assert whole.rescued() == []
    whole.write("shop/prompts/main.md", "a person's\n")
    ran = run("true", where=shop)
    assert (ran.code, ran.reason.splitlines()[1:]) == ("dirty-tree", ["  shop/prompts/main.md"])


# --- where the git dir is elsewhere ----------------------------------------------------------------------------------


def whole_turns(project: Project, run: Run) -> None:
    """Have both actors work here, killed once, and see that all is committed."""
    died = project.run(
        "run", "--once", "--agent", project.agent("echo x > x.txt"), env={"GALPH_FAILPOINT": "collect.before_ref:KILL"}
    )
    assert died.returncode == -9, died.stdout + died.stderr
    assert run("exit 1", "--once", "-c", "actors.galph.leftovers=commit", where=project).exit_code == 0
    assert run("echo y > y.txt", "--once", where=project).exit_code == 0
    assert {"x.txt", "y.txt"} <= set(project.git("ls-tree", "-r", "--name-only", "HEAD").splitlines())
    assert (project.dirt(), project.rescued()) == ("", [])


COMMIT = "actors: {galph: {leftovers: commit}}\n"


def test_a_git_dir_of_its_own_place(tmp_path: Path, run: Run) -> None:
    (tmp_path / "git dirs").mkdir()
    project = Project(tmp_path / "näive place\u2192")
    project.path.mkdir()
    project.git("init", "-q", "--separate-git-dir", str(tmp_path / "git dirs" / "one.git"))
    project.write("orchestration.yaml", COMMIT)
    project.commit("first")
    assert project.call("init", "--json") == 0
    whole_turns(project, run)
    assert (project.path / ".git").is_file()
    assert (tmp_path / "git dirs/one.git/orchestration/journal.json").exists()


def test_a_linked_work_tree_is_a_project_also_after_it_was_moved(project: Project, tmp_path: Path, run: Run) -> None:
    project.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    linked = Project(tmp_path / "linked")
    linked.write("orchestration.yaml", COMMIT)
    linked.commit("settings")
    assert linked.call("init", "--adopt", "--json") == 0
    project.git("worktree", "move", str(linked.path), str(tmp_path / "moved tree"))
    moved = Project(tmp_path / "moved tree")
    whole_turns(moved, run)
    assert (project.path / ".git/worktrees/linked/orchestration/journal.json").exists()
    assert project.state()["iteration"] == 1


def test_a_project_in_a_folder_of_a_linked_work_tree(whole: Project, tmp_path: Path, run: Run) -> None:
    whole.git("worktree", "add", "-q", "--force", str(tmp_path / "linked"), "-b", "side")
    shop = Project(tmp_path / "linked/shop")
    assert shop.call("init", "--adopt", "--json") == 0
    assert run("echo x > x.txt", where=shop).exit_code == 0
    assert Project(tmp_path / "linked").git("log", "-1", "--format=%s", "HEAD^").endswith("1 file: shop/x.txt")
    assert (whole.path / ".git/worktrees/linked/orchestration/projects/shop/journal.json").exists()
    assert Project(whole.path / "shop").git("rev-parse", "main") != shop.git("rev-parse", "HEAD")


@pytest.mark.parametrize("folder", [".", "hooks", "refs/heads"])
def test_a_bare_clone_is_refused_with_its_remedy(project: Project, tmp_path: Path, run: Run, folder: str) -> None:
    project.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    bare = Project(tmp_path / "bare.git")
    before = untouched(bare)

    ran = run(where=Project(bare.path / folder))

    assert (ran.exit_code, ran.code, "clone" in ran.remedy) == (3, "repository-bare", True)
    assert Project(bare.path / folder).call("retry", "--json") == 3
    assert untouched(bare) == before


def test_the_git_dir_is_no_place_to_start(project: Project, run: Run) -> None:
    ran = run(where=Project(project.path / ".git"))
    assert (ran.exit_code, ran.code) == (3, "repository-git-dir")
    assert "go to the work tree" in ran.remedy


def test_a_start_from_a_hook_of_another_repository_works_here_only(
    project: Project, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other")
    before = untouched(other)
    project.write("orchestration.yaml", COMMIT)
    project.commit("settings")
    for name, value in {
        "GIT_DIR": str(other.path / ".git"),
        "GIT_INDEX_FILE": str(other.path / ".git/index"),
        "GIT_WORK_TREE": str(other.path),
        "GIT_OBJECT_DIRECTORY": str(other.path / ".git/objects"),
        "GIT_PREFIX": "src/",
        "GIT_QUARANTINE_PATH": str(tmp_path),
        "GIT_LITERAL_PATHSPECS": "0",
    }.items():
        monkeypatch.setenv(name, value)

    ran = run("echo x > x.txt; git add x.txt; git commit -qm mine; env | grep ^GIT_ > ../env; true", "--once")

    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"):
        monkeypatch.delenv(name)
    assert ran.exit_code == 0, ran.reason
    assert untouched(other) == before
    assert project.subjects()[-2] == "mine"
    assert "GIT_DIR" not in (tmp_path / "env").read_text()
