"""What was kept can be seen and comes back, and nothing that is there is overwritten."""

import json
import subprocess

import pytest

from conftest import Project

LEAVER = r"""
printf 'half done\n' > 'src/half done.py'
printf '#!/bin/sh\n' > src/tool.sh; chmod +x src/tool.sh
ln -s app.py src/link
printf 'changed\n' >> src/app.py
rm README.md
exit 3
"""


@pytest.fixture
def failed(project: Project) -> Project:
    """Give a project whose first turn failed and left a tree that was kept; the tree itself is clean again."""
    assert project.call("run", "--agent", project.agent(LEAVER)) == 4
    project.git("checkout", "--quiet", "--", ".")
    project.git("clean", "--quiet", "-fd")
    return project


def kept(project: Project, capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    capfd.readouterr()
    assert project.call("rescue", "list", "--json") == 0
    (only,) = json.loads(capfd.readouterr().out)
    assert isinstance(only, dict)
    return only


def test_a_kept_tree_is_listed_shown_and_restored(failed: Project, capfd: pytest.CaptureFixture[str]) -> None:
    item = kept(failed, capfd)
    assert item["paths"] == ["README.md", "src/app.py", "src/half done.py", "src/link", "src/tool.sh"]
    assert item["why"] == "agent-failed"

    assert failed.call("rescue", "show", "1") == 0
    assert "+half done" in capfd.readouterr().out

    assert failed.call("rescue", "restore", str(item["name"])) == 0
    assert not (failed.path / "README.md").exists()
    assert (failed.path / "src/app.py").read_text() == "print('hello')\nchanged\n"
    assert (failed.path / "src/half done.py").read_text() == "half done\n"
    assert (failed.path / "src/tool.sh").stat().st_mode & 0o111
    assert (failed.path / "src/link").readlink().name == "app.py"

    assert failed.call("rescue", "restore", "1") == 0  # again: nothing is left to do
    assert "everything is as it was kept" in capfd.readouterr().out


def test_one_path_comes_back_alone(failed: Project) -> None:
    assert failed.call("rescue", "restore", "1", "src/app.py") == 0

    assert failed.dirt() == " M src/app.py"


def test_what_a_person_has_written_meanwhile_is_not_overwritten(
    failed: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    failed.write("src/app.py", "mine\n")
    before = failed.dirt()

    assert failed.call("rescue", "restore", "1") == 3

    assert "src/app.py" in capfd.readouterr().err
    assert failed.dirt() == before
    assert (failed.path / "src/app.py").read_text() == "mine\n"


@pytest.mark.parametrize("args", [["show", "nothing"], ["restore", "1", "no/such/path"]])
def test_an_unknown_name_is_a_usage_error(failed: Project, args: list[str]) -> None:
    assert failed.call("rescue", *args) == 2


def test_nothing_kept_is_said(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    assert project.call("rescue", "list") == 0
    assert "nothing is kept" in capfd.readouterr().out


@pytest.mark.parametrize(("ignored", "path"), [("src/half done.py", "src/half done.py"), ("src/link/", "src/link/in")])
def test_an_ignored_file_or_a_folder_in_the_way_is_not_overwritten(failed: Project, ignored: str, path: str) -> None:
    failed.write(".git/info/exclude", f"{ignored}\n")
    failed.write(path, "only here\n")

    assert failed.call("rescue", "restore", "1") == 3

    assert (failed.path / path).read_text() == "only here\n"
    assert failed.dirt() == ""


# --- dropped ---------------------------------------------------------------------------------------------------------


def test_what_is_dropped_is_told_and_can_be_had_back(failed: Project, capfd: pytest.CaptureFixture[str]) -> None:
    item = kept(failed, capfd)
    ref = f"refs/rescue/{item['name']}"

    assert failed.call("rescue", "drop", str(item["name"]), "1") == 0

    told = capfd.readouterr().out
    assert told.startswith(f"dropped {item['name']}  agent-failed: 5 paths\n")
    assert failed.rescued() == []
    subprocess.run(["sh", "-c", told.split("`")[1]], cwd=failed.path, check=True)
    assert failed.git("rev-parse", ref) == item["commit"]
    assert failed.call("rescue", "drop", "1", "--json") == 0
    assert json.loads(capfd.readouterr().out) == [item]


@pytest.mark.parametrize("names", [["1", "nothing"], ["refs/heads/main"], ["main"]])
def test_a_name_that_means_no_rescue_ref_drops_nothing(failed: Project, names: list[str]) -> None:
    before = failed.git("for-each-ref")

    assert failed.call("rescue", "drop", *names) == 2

    assert failed.git("for-each-ref") == before


def test_nothing_is_dropped_amid_a_turn(failed: Project, capfd: pytest.CaptureFixture[str]) -> None:
    assert failed.call("retry") == 0
    failed.run("run", "--agent", failed.agent("exit 0", "fine"), env={"GALPH_FAILPOINT": "turn.ran:KILL"})
    before = failed.rescued()

    assert failed.call("rescue", "drop", "1") == 3

    assert "turn-open" in capfd.readouterr().err
    assert failed.rescued() == before


def test_a_turn_that_changed_nothing_is_given_up_without_a_ref(project: Project) -> None:
    project.run("run", "--agent", project.agent("exit 0"), env={"GALPH_FAILPOINT": "turn.ran:KILL"})

    done = project.run("abandon")

    assert (done.returncode, done.stdout) == (0, "given up\n")
    assert project.rescued() == []


@pytest.mark.parametrize(
    ("work", "subject"),
    [("echo 1 >new.txt", "new.txt"), ("echo 1 >new.txt; git add new.txt; git commit -qm mine", "")],
    ids=["uncommitted", "committed"],
)
def test_what_is_given_up_is_in_the_ref_that_is_named(project: Project, work: str, subject: str) -> None:
    project.run("run", "--agent", project.agent(work), env={"GALPH_FAILPOINT": "turn.ran:KILL"})

    told = project.run("abandon").stdout

    ref = told.removeprefix("given up; its work is kept in ").strip()
    assert project.git("show", f"{ref}:new.txt") == "1"
    assert project.git("diff", "--name-only", f"{ref}^", ref) == subject


# --- the shell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("--ro", "--role"),
        ("run --ro", "--role"),
        ("rescue show ma", "main/galph/"),
        ("rescue drop ma", "main/galph/"),
        ("--agent mi", "mine"),
        ("run --agent cl", "claude"),
        ("run --agent ./", "file,./"),
    ],
)
def test_a_shell_is_offered_options_agents_and_rescue_refs(failed: Project, words: str, offered: str) -> None:
    failed.write("orchestration.yaml", "agents: {mine: {command: [cat]}}\n")
    line = f"orchestrator {words}"
    asked = {"_ORCHESTRATOR_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}

    said = failed.run(env=asked).stdout

    assert offered in said, said
