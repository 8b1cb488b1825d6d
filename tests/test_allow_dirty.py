"""--allow-dirty: what a person has changed and not committed stays as it is, and is kept where the agent takes it."""

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from conftest import SUBJECT, Project, Ran, assert_at_rest, kept, untouched

pytestmark = pytest.mark.usefixtures("ralphs_turn")

Run = Callable[..., Ran]
ALLOW = "--allow-dirty"


def dirty(project: Project) -> None:
    """Leave tracked files in every way in which a person leaves them, committed on a common ground."""
    for name in ("modified", "deleted", "staged", "both", "moved", "mode", "unstaged", "link"):
        project.write(f"{name}.txt", f"{name}\n" * 9)
    project.commit("a person's ground")
    project.write("modified.txt", "a person's\n")
    (project.path / "deleted.txt").unlink()
    project.write("staged.txt", "a person's\n")
    project.write("both.txt", "staged\n")
    project.write("added.txt", "a person's\n")
    project.git("add", "staged.txt", "both.txt", "added.txt")
    project.write("both.txt", "and changed again\n")
    project.git("mv", "moved.txt", "näive\n name.txt")
    project.git("rm", "-q", "--cached", "unstaged.txt")
    (project.path / "mode.txt").chmod(0o755)
    (project.path / "link.txt").unlink()
    (project.path / "link.txt").symlink_to("nowhere")
    project.write("later.txt", "intended\n")
    project.git("add", "-N", "later.txt")


THEIRS = {
    " M modified.txt",
    " D deleted.txt",
    "M  staged.txt",
    "MM both.txt",
    "A  added.txt",
    'R  moved.txt -> "n\\303\\244ive\\n name.txt"',
    "D  unstaged.txt",
    "?? unstaged.txt",
    " M mode.txt",
    " T link.txt",
    " A later.txt",
}


def theirs(project: Project) -> dict[str, object]:
    """Return the person's files, in the work tree and in the index."""
    seen = {name: value for name, value in untouched(project).items() if name.endswith(".txt")}
    rows = project.git("ls-files", "-s").splitlines()
    return seen | {
        "index": [row for row in rows if not row.endswith(("sync/state.json", "app.py", "input.md", ".new"))]
    }


def test_without_the_flag_the_refusal_lists_them_and_names_it(project: Project, run: Run) -> None:
    dirty(project)
    before = untouched(project)

    ran = run("touch ran")

    assert (ran.exit_code, ran.code) == (3, "dirty-tree")
    names = {
        "modified",
        "deleted",
        "staged",
        "both",
        "added",
        "moved",
        r"näive\n name",
        "unstaged",
        "mode",
        "link",
        "later",
    }
    assert set(ran.reason.splitlines()[1:]) == {f"  {name}.txt" for name in names}
    assert ALLOW in ran.remedy
    assert untouched(project) == before


@pytest.mark.parametrize("leftovers", ["commit", "fail", "keep"])
@pytest.mark.parametrize(
    "script", ["true", "echo more >> src/app.py; git commit -qm mine src/app.py; echo plan > input.md", "exit 3"]
)
def test_what_the_agent_does_not_touch_stays_in_work_tree_and_index(
    project: Project, run: Run, leftovers: str, script: str
) -> None:
    dirty(project)
    before, base = theirs(project), project.git("rev-parse", "HEAD")
    policy = ["-c", f"actors.ralph.leftovers={leftovers}"]

    ran = run(script, ALLOW, *policy)

    assert ran.exit_code == (4 if script == "exit 3" else 0), ran.reason
    assert theirs(project) == before
    assert set(project.dirt().splitlines()) == THEIRS
    changed = project.git("diff", "--name-only", base, "HEAD").split()
    assert set(changed) <= {"src/app.py", "input.md", "sync/state.json"}
    assert (ran.exit_code == 4) == bool(project.rescued())
    assert project.journal() == "idle"

    if ran.exit_code == 4:
        assert project.call("retry", "--json") == 0
        assert run("echo more >> src/app.py", ALLOW, "-c", "actors.ralph.leftovers=commit").exit_code == 0
        assert project.subjects()[-2] == SUBJECT + "1 file: src/app.py"
    assert run("echo next > input.md", "--once", ALLOW).exit_code == 0
    assert theirs(project) == before
    assert set(project.dirt().splitlines()) == THEIRS


@pytest.mark.parametrize(
    ("script", "path", "was"),
    [
        ("echo agent > modified.txt", "modified.txt", "a person's"),
        ("git checkout -q -- modified.txt", "modified.txt", "a person's"),
        ("git reset -q later.txt; git stash -q", "modified.txt", "a person's"),
        ("git reset -q --hard", "added.txt", "a person's"),
        ("rm -f both.txt", "both.txt", "and changed again"),
        ("rm -f link.txt; mkdir link.txt; echo agent > link.txt/in", "link.txt", "nowhere"),
        ("git mv staged.txt elsewhere.txt", "staged.txt", "a person's"),
        ("echo agent > staged.txt; git commit -qam all", "staged.txt", "a person's"),
        ("git add -A; git commit -qm all; echo agent > later.txt", "later.txt", "intended"),
    ],
)
def test_what_the_agent_takes_is_kept_and_told(project: Project, run: Run, script: str, path: str, was: str) -> None:
    dirty(project)

    ran = run(script, ALLOW)

    assert ran.exit_code == 0, ran.reason
    assert path in ran.notices["untracked-changed"]
    [pin] = project.rescued()
    assert pin in ran.notices["untracked-changed"]
    assert kept(project, pin, path) == was
    assert kept(project, pin, "modified.txt") == "a person's"
    assert project.journal() == "idle"


def test_a_deleted_file_that_the_agent_writes_again_is_told_of(project: Project, run: Run) -> None:
    dirty(project)
    ran = run("git checkout -q HEAD -- deleted.txt", ALLOW)
    assert (ran.exit_code, "deleted.txt" in ran.notices["untracked-changed"]) == (0, True)


def test_conflicts_that_a_person_left_behind_stay_theirs(project: Project, run: Run) -> None:
    project.write("src/app.py", "stashed\n")
    project.git("stash", "-q")
    project.write("src/app.py", "ours\n")
    project.commit("ours")
    project.git("stash", "pop", check=False)
    assert project.dirt() == "UU src/app.py"
    before = project.git("ls-files", "-u")
    assert run("true").code == "dirty-tree"

    assert run("echo new > a.new", ALLOW).exit_code == 0

    assert project.subjects()[-2] == SUBJECT + "1 file: a.new"
    assert project.git("ls-files", "-u") == before
    assert project.dirt() == "UU src/app.py"
    ran = run("echo settled > src/app.py; git add src/app.py; git commit -qm settled", "--once", ALLOW)
    assert ran.exit_code == 0
    assert "src/app.py" in ran.notices["untracked-changed"]
    assert "stashed" in kept(project, project.rescued()[0], "src/app.py")


def test_a_persons_file_and_the_agents_share_a_commit_only_where_the_agent_changed_it(
    project: Project, run: Run
) -> None:
    dirty(project)
    ran = run("echo agent >> modified.txt; echo new > a.new", ALLOW)
    assert ran.exit_code == 0
    assert project.subjects()[-2] == SUBJECT + "2 files: a.new, modified.txt"
    assert kept(project, "HEAD", "modified.txt") == "a person's\nagent"
    assert set(project.dirt().splitlines()) == THEIRS - {" M modified.txt"}
    assert set(project.git("diff", "--cached", "--name-only", "--no-renames").splitlines()) == {
        *("staged.txt", "both.txt", "added.txt", "moved.txt", "unstaged.txt"),
        r'"n\303\244ive\n name.txt"',
    }


# --- a person works between a stop, or a failure, and the next start of the turn -------------------------------------

HALF = "echo half > half.new; echo half >> src/app.py"


def fail(project: Project, _: Run) -> None:
    assert project.call("run", "-n", "1", ALLOW, "--agent", project.agent(f"{HALF}; exit 1", "failing")) == 4
    assert project.call("retry", "--json") == 0


def stop(project: Project, _: Run) -> None:
    """Stop a turn in the middle of its agent's work."""
    fifo = project.path.parent / "said"
    os.mkfifo(fifo)
    agent = project.agent(f"{HALF}; echo > ../said; exec sleep 1000", "stopped")
    daemon = project.start("run", "-n", "1", ALLOW, "--agent", agent)
    fifo.read_text()
    daemon.send_signal(signal.SIGTERM)
    daemon.communicate(timeout=60)
    assert daemon.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("end", [fail, stop])
@pytest.mark.parametrize("flag", [[], [ALLOW]])
def test_what_a_person_changes_before_the_next_start_is_theirs(
    project: Project, run: Run, end: Callable[[Project, Run], None], flag: list[str]
) -> None:
    dirty(project)
    end(project, run)
    for name in ("modified.txt", "notes.txt", "README.md"):
        project.write(name, "changed since\n")
    (project.path / "mode.txt").unlink()
    project.write("mode.txt/inside.txt", "a folder since\n")

    ran = run("echo done >> half.new", *flag)

    assert (ran.exit_code, ran.notices) == (0, {}), ran
    assert project.subjects()[-2] == SUBJECT + "2 files: half.new, src/app.py"
    assert kept(project, "HEAD", "half.new") == "half\ndone"
    assert kept(project, "HEAD", "README.md") == "# A project"
    for name in ("modified.txt", "notes.txt", "README.md"):
        assert (project.path / name).read_text() == "changed since\n"
    assert (project.path / "mode.txt/inside.txt").exists()
    late = {" M README.md", "?? notes.txt", " D mode.txt", "?? mode.txt/inside.txt"}
    why = set(project.git("for-each-ref", "--format=%(subject)", "refs/rescue/").splitlines())
    failed = {"rescue: agent-failed", "rescue: the work tree at the claim"}
    assert why == ({"rescue: interrupted"} if end is stop else failed)
    assert set(project.dirt().splitlines()) == THEIRS - {" M mode.txt"} | late


@pytest.mark.parametrize("end", [fail, stop])
def test_what_a_person_changes_before_the_next_start_is_kept_when_the_agent_takes_it(
    project: Project, run: Run, end: Callable[[Project, Run], None]
) -> None:
    project.write("old.txt", "a person's\n")
    end(project, run)
    project.write("notes.txt", "a person's new\n")
    project.write("src/app.py", "a person's\n")

    ran = run("echo agent > notes.txt; echo agent > src/app.py; echo agent > old.txt")

    assert ran.exit_code == 0, ran.reason
    said = ran.notices["untracked-changed"]
    assert "old.txt" in said
    for name, was in {"notes.txt": "a person's new", "src/app.py": "a person's", "old.txt": "a person's"}.items():
        refs = [ref for ref in project.rescued() if project.git("show", f"{ref}:{name}", check=False) == was]
        assert refs, name
        assert name in said
    assert project.dirt() == ""


@pytest.mark.parametrize("end", [fail, stop])
def test_a_person_who_commits_or_undoes_the_agents_half_before_the_next_start_is_obeyed(
    project: Project, run: Run, end: Callable[[Project, Run], None]
) -> None:
    end(project, run)
    project.git("checkout", "-q", "src/app.py")
    project.git("add", "half.new")
    project.git("commit", "-qm", "a person commits the half")

    ran = run("test ! -s ../x; echo done > done.new")

    assert ran.exit_code == 0, ran.reason
    assert project.subjects()[-3:-1] == ["a person commits the half", SUBJECT + "1 file: done.new"]
    assert kept(project, "HEAD", "src/app.py") == "print('hello')"
    assert_at_rest(project)


def test_a_restart_before_which_nothing_was_changed_keeps_no_more(project: Project, run: Run) -> None:
    project.write("notes.txt", "a person's\n")
    stop(project, run)

    ran = run("test -s half.new")

    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    assert project.subjects()[-2] == SUBJECT + "2 files: half.new, src/app.py"
    assert project.dirt() == "?? notes.txt"
    assert project.rescued() == []


def test_a_garbage_collection_does_not_lose_what_was_before_the_turn(project: Project, run: Run) -> None:
    project.write("old.txt", "a person's\n")
    fail(project, run)
    project.write("notes.txt", "a person's new\n")
    gc = ["git", "-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now"]
    subprocess.run(gc, cwd=project.path, check=True)

    ran = run("echo done >> half.new")

    assert ran.exit_code == 0, ran.reason
    assert project.subjects()[-2] == SUBJECT + "2 files: half.new, src/app.py"
    assert project.dirt() == "?? notes.txt\n?? old.txt"
