"""Trees and commits that are made here are those that git would make."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Project, repository
from orchestration.clock import SystemClock
from orchestration.git import Git
from orchestration.process import Loop
from orchestration.tree import File

NAMES = st.sampled_from(["a", "a.b", "a-b", "a0", "b", "ä ö", "new\nline", 'quote"', "back\\slash", "\udcff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MODES = st.sampled_from(["100644", "100755", "120000"])
CHANGES = st.dictionaries(PATHS, st.none() | st.tuples(MODES, st.binary(max_size=40)), max_size=6)


@pytest.fixture(params=["sha1", "sha256"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Project, Git]]:
    """Give a repository of each kind of ids, and the verbs."""
    project = Project(tmp_path / "project")
    if request.param == "sha1":
        repository(project.path)
    else:
        project.path.mkdir()
        project.git("init", "--quiet", "--object-format=sha256")
        project.write("src/app.py", "print()\n")
        project.commit("first")
    with Loop(SystemClock()) as loop:
        yield project, Git(loop, project.path, os.environ)


def gits_own(project: Project, parent: str, files: list[File]) -> str:
    """Return the tree that git's index makes of the same changes."""
    env = {**os.environ, "GIT_INDEX_FILE": str(project.path / ".git" / "other-index")}

    def ask(*args: str, stdin: bytes = b"") -> str:
        done = subprocess.run(["git", *args], cwd=project.path, env=env, input=stdin, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def row(file: File) -> bytes:
        header = b"blob %d\0" % len(file.data or b"")
        made = hashlib.new("sha1" if len(parent) == 40 else "sha256", header + (file.data or b""))
        oid = "0" * len(parent) if file.gone else made.hexdigest()
        return os.fsencode(f"{'0' if file.gone else file.mode} {oid}\t{file.path}\0")

    ask("read-tree", parent)
    rows = b"".join(row(file) for file in sorted(files, key=lambda file: file.gone, reverse=True))
    ask("update-index", "--add", "--replace", "-z", "--index-info", stdin=rows)
    return ask("write-tree", "--missing-ok")


def compatible(files: list[File]) -> bool:
    """Tell whether no path that is put stands in another one's way: git's index would let the later one win."""
    put = [file.path for file in files if not file.gone]
    return not any(other.startswith(f"{path}/") for path in put for other in put)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_a_commit_has_the_tree_that_git_would_make(
    bench: tuple[Project, Git], changes: list[dict[str, tuple[str, bytes] | None]]
) -> None:
    project, git = bench
    tip = git.resolve("HEAD")
    assert tip is not None
    for group in changes:
        files = [File(path, *([None] if new is None else [new[1], None, new[0]])) for path, new in group.items()]
        if not compatible(files):
            continue
        wanted = gits_own(project, tip, files)
        tip = git.commit_files(tip, files, "a subject\n\nand a body: ü \udcff\n")
        assert git.tree(tip) == wanted

    assert "error" not in project.git("fsck", "--strict", "--no-dangling", tip)


def test_a_commit_names_parent_author_and_message_and_an_emptied_tree_is_one(bench: tuple[Project, Git]) -> None:
    project, git = bench
    tip = git.resolve("HEAD")
    assert tip is not None
    tracked = project.git("ls-files").splitlines()

    emptied = git.commit_files(tip, [File(path) for path in tracked], "nothing\n")
    alone = git.commit_files(None, [File("deep/er/file", b"x")], "alone\n")

    shown = "%P|%an <%ae>|%cn <%ce>|%B"
    me = "A Person <person@localhost>"
    assert project.git("log", "-1", f"--format={shown}", emptied).strip() == f"{tip}|{me}|{me}|nothing"
    assert project.git("ls-tree", "-r", emptied) == ""
    assert project.git("log", "-1", f"--format={shown}", alone).strip() == f"|{me}|{me}|alone"
    assert project.git("ls-tree", "-r", "--name-only", alone) == "deep/er/file"
