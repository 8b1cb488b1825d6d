"""Work trees as they are found: submodules, links, modes, names, sizes, sparse checkouts."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SUBJECT, Project, Ran, assert_at_rest, entries, executable, full_tree, kept, repository

pytestmark = pytest.mark.usefixtures("ralphs_turn")

Run = Callable[..., Ran]


# --- submodules ------------------------------------------------------------------------------------------------------

ADD = "git -c protocol.file.allow=always submodule --quiet add"
SUB = "git -C sub"
NEW_COMMIT = f"echo in >> sub/README.md; {SUB} commit -qam inside"


@pytest.fixture
def library(tmp_path: Path) -> Project:
    """Give a repository to be a submodule."""
    return repository(tmp_path / "library")


@pytest.fixture
def sub(project: Project, library: Project) -> Project:
    """Make the library a submodule of the project."""
    subprocess.run([*ADD.split(), str(library.path), "sub"], cwd=project.path, check=True)
    project.commit("a submodule")
    return Project(project.path / "sub")


@pytest.mark.usefixtures("sub")
def test_a_submodule_that_is_clean_is_not_in_the_way(project: Project, run: Run) -> None:
    assert run("echo new > new.txt").exit_code == 0
    assert project.subjects()[-2] == SUBJECT + "1 file: new.txt"
    assert project.dirt() == ""


def test_a_new_commit_in_a_submodule_is_a_leftover(project: Project, run: Run, sub: Project) -> None:
    ran = run(NEW_COMMIT)
    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    assert project.subjects()[-2] == SUBJECT + "1 file: sub"
    assert project.git("rev-parse", "HEAD:sub") == sub.git("rev-parse", "HEAD")
    assert project.dirt() == ""
    assert_at_rest(project)


def test_a_new_commit_in_a_submodule_counts_for_policy_and_scope(project: Project, run: Run, sub: Project) -> None:
    old = sub.git("rev-parse", "HEAD")
    assert "outside its scope: sub (" in run(NEW_COMMIT, "-c", "actors.ralph.scope=src/").reason
    assert project.call("retry", "--json") == 0
    assert "must not write: sub (" in run("true", "-c", "actors.ralph.leftovers=fail").reason
    assert project.git("rev-parse", f"{project.rescued()[-1]}:sub") == sub.git("rev-parse", "HEAD")
    sub.git("checkout", "-q", old)
    assert project.call("retry", "--json") == 0
    assert run("true", "-c", "actors.ralph.leftovers=fail").exit_code == 0
    assert project.dirt() == ""


@pytest.mark.parametrize("dirty", ["echo built > sub/built.o", "echo more >> sub/README.md"])
def test_a_submodule_that_is_dirty_inside_is_named_and_left_alone(project: Project, run: Run, dirty: str) -> None:
    library = repository(project.path.parent / "lib")
    subprocess.run([*ADD.split(), str(library.path), "sub"], cwd=project.path, check=True)
    project.commit("a submodule")

    ran = run(f"{dirty}; echo new > new.txt")

    assert (ran.exit_code, "sub/" in ran.notices["not-kept"]) == (0, True), ran.reason
    assert project.subjects()[-2] == SUBJECT + "1 file: new.txt"
    inside = Project(project.path / "sub").dirt()
    assert run("echo plan > input.md", "--once").exit_code == 0
    assert Project(project.path / "sub").dirt() == inside != ""
    assert project.git("diff", "--cached", "--name-only") == ""


def test_a_submodule_that_is_both_dirty_and_at_a_new_commit(project: Project, run: Run, sub: Project) -> None:
    ran = run(f"{NEW_COMMIT}; echo more >> sub/README.md")
    assert ran.exit_code == 0, ran.reason
    assert project.git("rev-parse", "HEAD:sub") == sub.git("rev-parse", "HEAD")
    assert sub.dirt() == " M README.md"
    assert run("true", "--once").exit_code == 0


def test_a_submodule_that_an_agent_adds_is_committed(project: Project, run: Run, library: Project) -> None:
    ran = run(f"{ADD} {library.path} lib")
    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    assert project.subjects()[-2] == SUBJECT + "2 files: .gitmodules, lib"
    assert project.git("ls-tree", "HEAD", "lib").split()[:2] == ["160000", "commit"]
    assert project.dirt() == ""


def test_a_submodule_that_an_agent_removes_is_removed(project: Project, run: Run, sub: Project) -> None:
    assert sub.path.exists()
    assert run("git rm -q sub").exit_code == 0
    assert project.subjects()[-2] == SUBJECT + "2 files: .gitmodules, sub"
    assert project.dirt() == ""


# --- links, modes, names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "changed"),
    [
        ("ln -s ../.. up; ln -s src folder; ln -s README.md file; ln -s /no/where dangling", "dangling file folder up"),
        ("rm README.md; ln -s src README.md", "README.md"),
        ("rm -r src; ln -s . src", "src src/app.py"),
        ("chmod +x src/app.py", "src/app.py"),
        ("mv README.md readme.md; mv src Src", "README.md Src/app.py readme.md src/app.py"),
        ("mv README.md r; mkdir README.md; mv r README.md/README.md", "README.md README.md/README.md"),
        ("rm -r src; echo x > src", "src src/app.py"),
        ("mkdir -p a/b/c empty; rm -r src", "src/app.py"),
        ("echo x > ignored.o; echo x > new.txt", "new.txt"),
        ("echo x > ignored.o; git add -f ignored.o", "ignored.o"),
        ("mkfifo pipe; echo x > new.txt", "new.txt"),
        ("printf '' > zero; printf '\\0\\377' > bytes; printf 'a\\r\\nb' > crlf", "bytes crlf zero"),
        ("i=0; while [ $i -lt 250 ]; do mkdir -p d$i; echo $i > d$i/f; i=$((i+1)); done; rm -r d?  d??", "many"),
    ],
)
@pytest.mark.parametrize("leftovers", ["commit", "fail"])
def test_every_kind_of_change_is_committed_or_kept_as_it_is(
    project: Project, run: Run, script: str, changed: str, leftovers: str
) -> None:
    project.write(".git/info/exclude", "*.o\n")
    base = project.git("rev-parse", "HEAD")

    ran = run(script, "-c", f"actors.ralph.leftovers={leftovers}")

    where = "HEAD" if leftovers == "commit" else project.rescued()[-1]
    assert (ran.exit_code, ran.code) == {"commit": (0, "iterations"), "fail": (4, "leftovers")}[leftovers], ran.reason
    assert entries(project, where) == entries(project, full_tree(project))
    names = project.git("diff", "--name-only", "--no-renames", base, where, "--", ".", ":!sync").splitlines()
    assert names == changed.split() if changed != "many" else len(names) == 150
    assert project.journal() == "idle"
    if leftovers == "commit":
        assert project.dirt() == ""
        return
    assert where in ran.reason
    assert project.call("skip", "--json") == 0
    assert run("true", "--once").exit_code == 0  # what the failed turn left is no surprise


def test_what_no_git_can_hold_is_not_in_the_way(project: Project, run: Run) -> None:
    ran = run("echo x > new.txt; ln -s loop loop; mkdir odd; : > odd/.git; mkfifo pipe")
    assert ran.exit_code == 0, ran.reason
    assert "new.txt" in project.git("ls-tree", "-r", "--name-only", "HEAD").splitlines()


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_vanishes_between_two_looks_is_looked_for_again_and_not_for_ever(
    project: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    real, path = shutil.which("git"), os.environ["PATH"]
    shim = tmp_path / "bin/git"
    shim.parent.mkdir()
    comes = '*" status "*) : > .#app.py;; ' if again else ""
    executable(shim, f'#!/bin/sh\ncase "$*" in {comes}*" add -A "*) rm -f .#app.py;; esac\nexec {real} "$@"\n')
    monkeypatch.setenv("PATH", f"{shim.parent}:{path}")

    ran = run("echo x > .#app.py; echo x > new.txt")

    if again:
        assert (ran.exit_code, ran.code, ".#app.py" in ran.reason) == (3, "git-failed", True)
        assert project.journal() == "idle"
        monkeypatch.setenv("PATH", path)
        (project.path / ".#app.py").unlink(missing_ok=True)
        ran = run("echo x > new.txt")
    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    assert project.subjects()[-2] == SUBJECT + "1 file: new.txt"
    assert project.dirt() == ""


# --- sizes -----------------------------------------------------------------------------------------------------------


def sized(**sizes: int) -> str:
    """Return shell text that writes files of so many bytes; `__` in a name is a slash, `_` a dot."""
    names = {name.replace("__", "/").replace("_", "."): size for name, size in sizes.items()}
    return "mkdir -p reports out; " + "; ".join(f"head -c {size} /dev/zero > {name}" for name, size in names.items())


MIB = 1 << 20


@pytest.mark.parametrize(
    ("script", "over"),
    [
        (sized(input_md=MIB, reports__a_txt=5 * MIB, out__a_bin=32 * MIB), ""),
        (sized(input_md=MIB + 1), "input.md"),
        (sized(reports__a_txt=5 * MIB + 1), "reports/a.txt"),
        (sized(out__a_bin=32 * MIB + 1), "out/a.bin"),
        (sized(**{f"reports__{name}_txt": 5 * MIB for name in "abcd"}, reports__e_txt=1), "reports/e.txt"),
        (sized(**{f"out__{name}_bin": 32 * MIB for name in "abc"}, out__d_bin=4 * MIB + 1), "out/d.bin"),
    ],
)
def test_size_caps_hold_on_real_files(project: Project, run: Run, script: str, over: str) -> None:
    for name in "abcd":
        project.write(f"out/{name}.bin", "1")
    project.commit("outputs")
    policy = ["-c", "actors.ralph.leftovers=fail", "-c", "tracked_output_globs=out/**"]

    ran = run(script, *policy)

    if not over:
        assert (ran.exit_code, project.dirt()) == (0, ""), ran.reason
        return
    assert f"must not write: {over} (" in ran.reason
    assert over in project.git("diff", "--name-only", "HEAD", project.rescued()[-1])
    assert project.call("retry", "--json") == 0
    assert run(f"rm {over}; git checkout -q -- {over} 2>/dev/null; true", *policy).exit_code == 0
    assert project.dirt() == ""


def test_a_file_over_the_snapshots_limit_is_committed_where_the_agent_commits_it(project: Project, run: Run) -> None:
    limit = ["-c", "limits.snapshot_file=0.5"]
    ran = run(f"{sized(big_bin=MIB)}; git add big.bin; git commit -qm big", *limit, "-c", "actors.ralph.scope=src/")
    assert (ran.code, "big.bin" in ran.reason) == ("scope", True)
    assert project.call("skip", "--accept-scope", "--json") == 0
    assert run("true", "--once", *limit).exit_code == 0
    assert project.dirt() == ""


# --- sparse checkouts and other indexes ------------------------------------------------------------------------------


def sparse(project: Project) -> None:
    project.git("sparse-checkout", "set", "--no-cone", "/*", "!/hidden/")
    assert not (project.path / "hidden").exists()


def sparse_index(project: Project) -> None:
    project.git("config", "index.sparse", "true")
    project.git("sparse-checkout", "set", "--cone", "src", "sync", "prompts", "logs")
    assert not (project.path / "hidden").exists()


def split_index(project: Project) -> None:
    project.git("update-index", "--split-index")


def fourth_version(project: Project) -> None:
    project.git("update-index", "--index-version", "4")


def untracked_cache(project: Project) -> None:
    project.git("update-index", "--untracked-cache")


def flags(project: Project) -> None:
    project.git("update-index", "--assume-unchanged", "hidden/one.txt")
    project.git("update-index", "--skip-worktree", "hidden/deep/two.txt")


@pytest.mark.parametrize("arrange", [sparse, sparse_index, split_index, fourth_version, untracked_cache, flags])
def test_an_index_of_another_kind_is_left_as_it_is(
    project: Project, run: Run, arrange: Callable[[Project], None]
) -> None:
    project.write("hidden/one.txt", "one\n")
    project.write("hidden/deep/two.txt", "two\n")
    project.write("notes.txt", "notes\n")
    project.commit("hidden")
    arrange(project)
    flagged = [row for row in project.git("ls-files", "-v").splitlines() if not row.startswith("H")]
    project.write("mine.txt", "a person's")

    for number in (1, 2):
        ran = run(f"echo {number} >> src/app.py; echo {number} > src/new-{number}.txt")
        assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
        assert project.subjects()[-2].endswith(f"2 files: src/app.py, src/new-{number}.txt")
        assert run("echo plan >> input.md", "--once").exit_code == 0
        assert project.dirt() == "?? mine.txt"

    assert kept(project, "HEAD", "hidden/deep/two.txt") == "two"
    now = [row for row in project.git("ls-files", "-v").splitlines() if not row.startswith("H")]
    assert now == flagged
    assert_at_rest(project)
