"""`init` in repositories as they are found: it writes what is missing, commits exactly that, and takes it back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import DOOR, Capture, Meanwhile, Project, everything, executable, person, repository, script, scripted
from orchestration import failpoints
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
WORK = """
cat >/dev/null
if [ "$ORCH_ACTOR" = galph ]; then echo plan >input.md; else echo more >>src/app.py; echo new >new.txt; fi
"""
"""An agent that leaves its work uncommitted: a document, and code."""


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

    assert told["kept"] == ["logs/.gitignore", "prompts/main.md", "prompts/router.md"]
    assert "sync/state.json" in told["removed"]
    assert project.git("ls-files").splitlines() == [
        "README.md",
        "logs/.gitignore",
        "prompts/main.md",
        "prompts/router.md",
        "src/app.py",
    ]
    assert (project.path / "prompts" / "router.md").read_text() == "not committed\n"
    assert project.rescued() == rescued != []
    assert (project.path / "logs" / "main" / "latest" / "summary.md").exists()
    assert {path.name for path in (project.path / ".git" / "orchestration").iterdir()} <= {"lock"}
    assert script(project, capsys, "status", code=3)["error"] == "state-missing"
    assert script(project, capsys, "init", "--undo")["commit"] is None


# --- repositories as they are found ----------------------------------------------------------------------------------


def plain(project: Project) -> Project:
    """Leave it as `git init` and a first commit made it."""
    return project


def ignoring(project: Project) -> Project:
    """Ignore every file that init writes."""
    project.write(".gitignore", "logs/\nsync/\n*.json\nprompts/\n*.yaml\n/orchestration.*\n")
    project.commit("ignore nearly everything")
    return project


def hooks(project: Project) -> Project:
    """Forbid every commit, by hooks here and by hooks for all repositories."""
    for folder in (project.path / ".git" / "hooks", project.path.parent / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in ("pre-commit", "commit-msg", "reference-transaction", "pre-push"):
            executable(folder / name, f"#!/bin/sh\necho {name} >>{project.path.parent}/hooked\nexit 1\n")
    return project


def global_hooks(project: Project) -> Project:
    """Forbid every commit, by `core.hooksPath` in the person's configuration."""
    hooks(project)
    project.git("config", "--global", "core.hooksPath", str(project.path.parent / "hooks"))
    return project


def signing(project: Project) -> Project:
    """Sign every commit, without a key."""
    project.git("config", "commit.gpgSign", "true")
    project.git("config", "gpg.program", "/bin/false")
    return project


def nobody(project: Project) -> Project:
    """Forget who commits."""
    (project.path.parent / "home" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    return project


def slashes(project: Project) -> Project:
    """Work on a branch in folders."""
    project.git("switch", "-qc", "team/one/it's-ours")
    return project


def line_ends(project: Project) -> Project:
    """Have git write other line ends than it stores."""
    project.git("config", "core.autocrlf", "true")
    return project


def linked(project: Project) -> Project:
    """Work in a linked work tree."""
    place = project.path.parent / "linked"
    project.git("worktree", "add", "-q", "-b", "side", str(place))
    return Project(place)


def shallow(project: Project) -> Project:
    """Work in a clone of one commit."""
    project.git("commit", "-q", "--allow-empty", "-m", "second")
    place = project.path.parent / "shallow"
    project.git("clone", "-q", "--depth", "1", project.path.as_uri(), str(place))
    return Project(place)


def sparse(project: Project) -> Project:
    """Check out one folder alone, with a sparse index."""
    project.write("other/file.txt", "not here\n")
    project.commit("another folder")
    project.git("sparse-checkout", "set", "--cone", "--sparse-index", "src")
    return project


def long_ids(project: Project) -> Project:
    """Name objects by SHA-256."""
    place = project.path.parent / "long"
    project.git("init", "-q", "--object-format=sha256", str(place))
    there = Project(place)
    there.write("src/app.py", "print('hello')\n")
    there.commit("first")
    return there


def folder(project: Project) -> Project:
    """Work in a folder of a larger repository."""
    project.write("shop/src/app.py", "print('shop')\n")
    project.write("shop/.gitignore", "/orchestration.yaml\n")
    project.commit("a shop")
    project.write("shop/orchestration.yaml", "review_every_n: 0\n".replace("review_every_n", "# x"))
    return Project(project.path / "shop")


GROUNDS = [
    plain, ignoring, hooks, global_hooks, signing, nobody, slashes, line_ends, linked, shallow, sparse, long_ids, folder
]  # fmt: skip


@pytest.mark.parametrize("ground", GROUNDS)
def test_init_sets_up_any_repository_where_a_run_works_and_undo_takes_it_back(
    bare_project: Project, capsys: Capture, ground: Callable[[Project], Project]
) -> None:
    project = ground(bare_project)
    prefix = project.git("rev-parse", "--show-prefix")
    there = {path for path in WRITTEN if (project.path / path).exists()}
    tip, tree = project.git("rev-parse", "HEAD"), project.git("rev-parse", "HEAD^{tree}")

    told = script(project, capsys, "init")

    mine = [path for path in WRITTEN if path not in there]
    assert (told["written"], told["kept"]) == (mine, sorted(there))
    assert project.git("rev-parse", "HEAD^") == tip
    assert project.git("log", "-1", "--format=%s", "--name-only").split("\n") == [
        SUBJECT, "", *(prefix + path for path in mine)
    ]  # fmt: skip
    assert project.dirt() == ""

    assert project.call("run", "-n", "1", "-q", "--agent", bare_project.agent(WORK)) == 0
    subjects = project.subjects()[-4:]
    assert [subject.split(" (")[0] for subject in subjects[::2]] == ["SUPERVISOR AUTO", "RALPH AUTO"]
    assert subjects[2].endswith(f": 2 files: {prefix}new.txt, {prefix}src/app.py")
    assert (json.loads(project.git("show", "HEAD:./sync/state.json"))["iteration"], project.dirt()) == (2, "")

    assert project.call("init", "--undo") == 0
    assert project.dirt() == ""
    changed = project.git("diff", "--name-only", tree, "HEAD").splitlines()
    assert changed == [f"{prefix}{path}" for path in ("input.md", "logs/.gitignore", "new.txt", "src/app.py")]
    assert not (project.path / "prompts").exists()
    assert not (project.path / "sync").exists()
    assert not (bare_project.path.parent / "hooked").exists()


def test_init_and_undo_in_a_repository_without_a_commit(tmp_path: Path, capsys: Capture) -> None:
    project = Project(tmp_path / "empty")
    project.path.mkdir()
    project.git("init", "-q")
    assert script(project, capsys, "init", "--undo")["removed"] == []

    assert script(project, capsys, "init", "--no-commit")["written"] == WRITTEN
    assert script(project, capsys, "init", "--undo") == {"removed": WRITTEN, "kept": [], "commit": None, "rules": []}
    assert (project.dirt(), [path.name for path in project.path.iterdir()]) == ("", [".git"])

    assert project.call("init") == 0
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent("mkdir -p src\n" + WORK)) == 0
    assert project.call("init", "--undo") == 0
    assert project.git("ls-files").splitlines() == ["input.md", "logs/.gitignore", "new.txt", "src/app.py"]
    assert project.dirt() == ""


# --- what a person has begun -----------------------------------------------------------------------------------------


def staged(project: Project) -> None:
    """Stage an addition, a deletion, a rename, a mode, and the promise of a file."""
    project.write("added.txt", "added\n")
    project.git("add", "added.txt")
    project.git("rm", "-q", "gone.txt")
    project.git("mv", "old.txt", "new name.txt")
    project.git("update-index", "--chmod=+x", "README.md")
    project.write("promised.txt", "promised\n")
    project.git("add", "-N", "promised.txt")
    project.write("prompts/mine.md", "mine\n")
    project.git("add", "-N", "prompts/mine.md")


def unstaged(project: Project) -> None:
    """Change, delete and add files."""
    project.write("src/app.py", "changed\n")
    (project.path / "gone.txt").unlink()
    project.write("prompts/mine.md", "mine\n")
    project.write("sync/notes.txt", "mine\n")


def unmerged(project: Project) -> None:
    """Leave a conflict in the index, with no operation in progress."""
    project.write("src/app.py", "mine\n")
    project.git("stash", "-q")
    project.write("src/app.py", "theirs\n")
    project.commit("theirs")
    project.git("stash", "pop", "-q", check=False)


@pytest.mark.parametrize("begin", [staged, unstaged, unmerged])
def test_what_a_person_has_begun_is_as_it_was_after_init_a_run_and_undo(
    bare_project: Project, capsys: Capture, begin: Callable[[Project], None]
) -> None:
    project = bare_project
    project.write("gone.txt", "to be deleted\n")
    project.write("old.txt", "to be renamed\n" * 20)
    project.commit("more files")
    begin(project)
    before = project.dirt(), project.git("diff", "--cached"), project.git("diff"), project.git("ls-files", "-s")
    tree = project.git("rev-parse", "HEAD^{tree}")

    assert script(project, capsys, "init")["written"] == WRITTEN
    assert project.git("show", "--format=", "--name-only", "HEAD").splitlines() == WRITTEN
    assert (project.dirt(), project.git("diff", "--cached"), project.git("diff")) == before[:3]
    if begin is not unmerged:
        agent = project.agent(QUIET)
        assert "dirty-tree" in person(project, capsys, "run", "--once", "--agent", agent, code=3)
        assert project.call("run", "--once", "-q", "--allow-dirty", "--agent", agent) == 0
        assert (project.dirt(), project.git("diff", "--cached"), project.git("diff")) == before[:3]
        shutil.rmtree(project.path / "logs" / "main")  # where runs are, what ignores them stays
    assert project.call("init", "--undo") == 0

    after = project.dirt(), project.git("diff", "--cached"), project.git("diff"), project.git("ls-files", "-s")
    assert after == before
    assert project.git("rev-parse", "HEAD^{tree}") == tree


def test_a_file_of_head_that_a_person_has_deleted_is_not_missing(project: Project, capsys: Capture) -> None:
    """Least of all the state: a fresh one would begin the loop anew."""
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent(QUIET)) == 0
    project.git("rm", "-q", "prompts/main.md")
    (project.path / "sync" / "state.json").unlink()
    before = project.dirt()

    assert script(project, capsys, "init") == {"written": [], "kept": WRITTEN, "commit": None, "rules": []}
    assert (project.dirt(), project.state()["iteration"]) == (before, 2)

    project.git("commit", "-qm", "no prompt")
    assert script(project, capsys, "init")["written"] == ["prompts/main.md"]
    assert project.dirt() == " D sync/state.json"


def merge(project: Project) -> str:
    """Stop in a merge."""
    project.git("switch", "-q", "main")
    project.git("merge", "-q", "other", check=False)
    return "merge"


def rebase(project: Project) -> str:
    """Stop in a rebase, which detaches HEAD."""
    project.git("rebase", "-q", "main", check=False)
    return "rebase"


def cherry_pick(project: Project) -> str:
    """Stop in a cherry-pick."""
    project.git("switch", "-q", "main")
    project.git("cherry-pick", "other", check=False)
    return "cherry-pick"


@pytest.mark.parametrize("begin", [merge, rebase, cherry_pick])
def test_an_operation_in_progress_is_ended_first(
    bare_project: Project, capsys: Capture, begin: Callable[[Project], str]
) -> None:
    """`git cherry-pick --abort` goes back only to the commit that it began on."""
    project = bare_project
    project.git("switch", "-qc", "other")
    project.write("README.md", "theirs\n")
    project.commit("theirs")
    project.git("switch", "-q", "main")
    project.write("README.md", "mine\n")
    project.commit("mine")
    project.git("switch", "-q", "other")
    what = begin(project)
    before = project.dirt(), project.git("rev-parse", "HEAD")

    for options in ([], ["--no-commit"], ["--undo"]):
        refusal = script(project, capsys, "init", *options, code=3)
        assert (refusal["error"], refusal["message"]) == ("operation-in-progress", f"a {what} is in progress")
        assert f"`git {what} --abort`" in refusal["remedy"]
    assert (project.dirt(), project.git("rev-parse", "HEAD")) == before

    project.git(what, "--abort")
    assert project.call("init") == 0


SUCCEEDS = {"claude": '{"type":"result","is_error":false,"result":"done"}', "codex": '{"type":"turn.completed"}'}


@pytest.mark.parametrize("installed", [["claude"], ["codex"], ["claude", "codex"]])
def test_the_agents_that_are_installed_are_spelled_out_and_the_first_is_the_default(
    bare_project: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    shelf = bare_project.path.parent / "bin"
    shelf.mkdir()
    for name in installed:
        executable(shelf / name, f"#!/bin/sh\ncat >/dev/null\necho '{SUCCEEDS[name]}'\n")
    monkeypatch.setenv("PATH", f"{shelf}:{os.environ['PATH']}")
    told = person(bare_project, capsys, "init")
    assert f"{installed[0]} is the default agent (agent.default), since it was found installed" in told
    assert ("orchestrator doctor " in told, "--agent" in told) == (True, False)

    shown = script(bare_project, capsys, "run", "--dry-run")
    flag = {"claude": "--dangerously-skip-permissions", "codex": "--dangerously-bypass-approvals-and-sandbox"}
    assert (shown["agent"], shown["argv"][0]) == (installed[0], str(shelf / installed[0]))
    for name in installed:
        argv = script(bare_project, capsys, "run", "--dry-run", "--agent", name)["argv"]
        assert (argv[0], flag[name] in argv) == (str(shelf / name), True)
    assert "asks nobody before it acts" in person(bare_project, capsys, "run", "-n", "1")
    assert bare_project.call("init", "--undo") == 0
    assert not (bare_project.path / "orchestration.yaml").exists()


# --- what is there already -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [["supervisor"], ["main", "router"], ["main", "reviewer", "router", "supervisor"]])
@pytest.mark.parametrize("committed", [True, False])
def test_prompts_that_are_there_are_kept_and_the_missing_ones_added(
    bare_project: Project, capsys: Capture, mine: list[str], committed: bool
) -> None:
    project = bare_project
    for name in [*mine, "team/lead"]:
        project.write(f"prompts/{name}.md", f"{name}: my own words\n")
    if committed:
        project.commit("prompts of mine")
    before = project.dirt()

    told = script(project, capsys, "init")

    assert told["kept"] == [f"prompts/{name}.md" for name in mine]
    assert sorted(told["written"] + told["kept"]) == WRITTEN
    assert project.git("show", "--format=", "--name-only", "HEAD").splitlines() == told["written"]
    assert {name: (project.path / f"prompts/{name}.md").read_text() for name in mine} == {
        name: f"{name}: my own words\n" for name in mine
    }
    assert project.dirt() == before

    assert script(project, capsys, "init", "--undo")["kept"] == told["kept"]
    assert {path.stem for path in (project.path / "prompts").iterdir()} == {*mine, "team"}
    assert project.dirt() == before


def test_places_that_an_existing_configuration_names_are_used(bare_project: Project, capsys: Capture) -> None:
    project = bare_project
    text = "prompts_dir: docs/agents\nstate_file: .loop/turn.json\nlogs_dir: .loop/logs\n"
    project.write("orchestration.yaml", text)

    told = script(project, capsys, "init")

    assert told["kept"] == ["orchestration.yaml"]
    assert told["written"] == [
        ".loop/logs/.gitignore",
        ".loop/turn.json",
        ".orchestration.schema.json",
        *(f"docs/agents/{name}.md" for name in ("main", "reviewer", "router", "supervisor")),
    ]
    assert project.dirt() == "?? orchestration.yaml"
    assert (project.path / "orchestration.yaml").read_text() == text
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent(WORK)) == 0
    assert json.loads(project.git("show", "HEAD:.loop/turn.json"))["iteration"] == 2
    assert (project.path / ".loop" / "logs" / "main" / "latest" / "run.json").exists()
    assert project.dirt() == "?? orchestration.yaml"
    assert project.call("init", "--undo") == 0
    assert not (project.path / "docs").exists()
    assert (project.path / ".loop" / "logs" / "main" / "latest" / "run.json").exists()


@pytest.mark.parametrize("names", [[], ["AGENTS.md"], ["CLAUDE.md"], ["AGENTS.md", "CLAUDE.md"]])
def test_the_projects_own_rules_for_agents_are_pointed_to_and_left_alone(
    bare_project: Project, capsys: Capture, names: list[str]
) -> None:
    for name in names:
        bare_project.write(name, "Be kind.\n")
    before = bare_project.dirt()

    told = person(bare_project, capsys, "init")

    for name in ("AGENTS.md", "CLAUDE.md"):
        assert (f"{name} stays as it is: the prompts tell both agents to read it first" in told) == (name in names)
    assert bare_project.dirt() == before
    assert script(bare_project, capsys, "init")["rules"] == names
    assert all((bare_project.path / name).read_text() == "Be kind.\n" for name in names)


def a_file(project: Project) -> str:
    """Put a file where a folder belongs."""
    project.write("prompts", "a file\n")
    return "prompts is a file, and prompts/"


def a_folder(project: Project) -> str:
    """Put a folder where a file belongs."""
    project.write("sync/state.json/file", "mine\n")
    return "sync/state.json is a folder"


def a_link(project: Project) -> str:
    """Have the state lie outside of the repository."""
    (project.path.parent / "outside").mkdir()
    (project.path / "sync").symlink_to("../outside")
    return "sync is a symbolic link"


def a_link_to_nowhere(project: Project) -> str:
    """Have the logs lie nowhere."""
    (project.path / "logs").symlink_to("../nowhere")
    return "logs is a symbolic link"


def a_repository(project: Project) -> str:
    """Have the prompts in a repository of their own."""
    project.git("init", "-q", "prompts")
    return "prompts is a repository of its own"


@pytest.mark.parametrize("stand", [a_file, a_folder, a_link, a_link_to_nowhere, a_repository])
def test_what_stands_in_the_way_is_named_before_anything_is_written(
    bare_project: Project, capsys: Capture, stand: Callable[[Project], str]
) -> None:
    said = stand(bare_project)
    before = everything(bare_project.path / "src"), bare_project.dirt(), bare_project.git("rev-parse", "HEAD")

    refusal = script(bare_project, capsys, "init", code=3)

    assert (refusal["error"], said in refusal["message"]) == ("path-taken", True)
    assert "`prompts_dir`, `state_file` and `logs_dir` in orchestration.yaml" in refusal["remedy"]
    assert (
        everything(bare_project.path / "src"), bare_project.dirt(), bare_project.git("rev-parse", "HEAD")
    ) == before  # fmt: skip
    assert list(bare_project.path.parent.glob("outside/*")) == []


def test_prompts_behind_a_link_are_used_and_neither_committed_nor_removed(
    bare_project: Project, capsys: Capture
) -> None:
    project = bare_project
    other = repository(project.path.parent / "other")
    assert other.call("init", "--no-commit") == 0
    (project.path / "prompts").symlink_to(other.path / "prompts")
    project.commit("prompts that two projects share")
    shared = everything(other.path / "prompts")

    assert [path for path in WRITTEN if path.startswith("prompts/")] == script(project, capsys, "init")["kept"]
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent(WORK)) == 0
    assert project.call("init", "--undo") == 0

    assert project.dirt() == ""
    assert everything(other.path / "prompts") == shared
    assert (project.path / "prompts").is_symlink()


# --- twice, at once, and cut short -----------------------------------------------------------------------------------


def test_two_at_once_make_one_commit(bare_project: Project) -> None:
    both = [bare_project.start("init") for _ in range(2)]
    codes = sorted(process.wait(timeout=60) for process in both)
    for process in both:
        assert process.stdout
        process.stdout.close()

    assert codes in ([0, 0], [0, 7])
    assert bare_project.subjects() == ["first", SUBJECT]
    assert bare_project.git("show", "--format=", "--name-only", "HEAD").splitlines() == WRITTEN
    assert bare_project.dirt() == ""


SET_UP = sorted(name for name in failpoints.NAMES if name.startswith("init."))


@pytest.mark.parametrize("place", [*(f"init.written:KILL:{nth}" for nth in (1, 4, 8)), *(f"{n}:KILL" for n in SET_UP)])
@pytest.mark.parametrize("then", [["init"], ["init", "--undo"]], ids=["again", "undo"])
def test_killed_anywhere_init_is_finished_by_another_or_taken_back(
    bare_project: Project, capsys: Capture, place: str, then: list[str]
) -> None:
    project = bare_project
    project.write("staged.txt", "staged\n")
    project.git("add", "staged.txt")
    tree = project.git("rev-parse", "HEAD^{tree}")
    assert project.run("init", env={failpoints.VARIABLE: place}).returncode == -signal.SIGKILL

    assert project.call(*then) == 0

    assert project.dirt() == "A  staged.txt"
    assert {path.name for path in project.path.iterdir()} >= {".git", "README.md", "src", "staged.txt"}
    if then == ["init"]:
        assert project.subjects() == ["first", SUBJECT]
        assert project.git("show", "--format=", "--name-only", "HEAD").splitlines() == WRITTEN
        assert script(project, capsys, "status")["unusual"] == ["changed and not committed: staged.txt"]
    else:
        assert project.git("rev-parse", "HEAD^{tree}") == tree
        assert len(list(project.path.iterdir())) == 4


@pytest.mark.parametrize("place", ["undo.removed:KILL", "undo.removed:KILL:8", *(f"{n}:KILL" for n in SET_UP[:-1])])
def test_killed_anywhere_undo_is_finished_by_another(project: Project, place: str) -> None:
    if place.startswith("init.written"):
        place = "init.after_ref:KILL"
    project.write("staged.txt", "staged\n")
    project.git("add", "staged.txt")
    assert project.run("init", "--undo", env={failpoints.VARIABLE: place}).returncode == -signal.SIGKILL

    assert project.call("init", "--undo") == 0

    assert project.subjects() == ["first", SUBJECT, UNDO_SUBJECT]
    assert project.git("rev-parse", "HEAD^{tree}") == project.git("rev-parse", "HEAD~2^{tree}")
    assert project.dirt() == "A  staged.txt"
    assert len(list(project.path.iterdir())) == 4
    assert {path.name for path in (project.path / ".git" / "orchestration").iterdir()} <= {"lock"}


def test_a_file_is_written_whole_or_not_at_all(bare_project: Project) -> None:
    """A killed `init` that left half a prompt would make the next one take it for the person's."""
    dying = bare_project.path.parent / "dying.py"
    dying.write_text(
        "import os, runpy, signal, sys\n"
        "fsync = os.fsync\n"
        "def die(descriptor):\n"
        "    if '/prompts/' in os.readlink(f'/proc/self/fd/{descriptor}'):\n"
        "        os.ftruncate(descriptor, 10)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    fsync(descriptor)\n"
        "os.fsync = die\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    line = [sys.executable, str(dying), str(DOOR), "init"]
    assert subprocess.run(line, cwd=bare_project.path, check=False).returncode == -signal.SIGKILL

    assert bare_project.call("init") == 0

    assert bare_project.git("show", "--format=", "--name-only", "HEAD").splitlines() == WRITTEN
    assert bare_project.dirt() == ""
    assert not list(bare_project.path.rglob("*.tmp"))


def test_a_branch_that_moves_meanwhile_is_not_moved_back(
    bare_project: Project, capsys: Capture, meanwhile: Meanwhile
) -> None:
    """A person commits just when init has built its commit."""
    project = bare_project

    def act() -> None:
        commit = project.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "a person's")
        project.git("update-ref", "HEAD", commit)

    meanwhile("init.before_ref", act)
    assert script(project, capsys, "init", code=3)["error"] == "branch-moved"
    assert project.subjects() == ["first", "a person's"]

    assert project.call("init") == 0
    assert project.subjects() == ["first", "a person's", SUBJECT]
    assert project.dirt() == ""


# --- taking back -----------------------------------------------------------------------------------------------------


def test_undo_takes_back_what_was_never_committed_but_for_what_a_person_changed(
    bare_project: Project, capsys: Capture
) -> None:
    project = bare_project
    assert project.call("init", "--no-commit") == 0
    project.write("prompts/main.md", "my own words\n")
    project.write("sync/state.json", '{"iteration": 7}')

    told = script(project, capsys, "init", "--undo")

    assert (told["kept"], told["commit"]) == (["prompts/main.md", "sync/state.json"], None)
    assert project.dirt().splitlines() == ["?? prompts/main.md", "?? sync/state.json"]


def test_undo_knows_its_files_behind_other_line_ends_and_in_other_hands(project: Project, capsys: Capture) -> None:
    clone = Project(project.path.parent / "clone")
    project.git("clone", "-q", "-c", "core.autocrlf=true", str(project.path), str(clone.path))
    assert b"\r\n" in (clone.path / "prompts" / "main.md").read_bytes()

    assert script(clone, capsys, "init", "--undo")["kept"] == []
    assert clone.dirt() == ""


def test_undo_leaves_alone_what_was_committed_by_a_person_under_a_name_of_ours(
    bare_project: Project, capsys: Capture
) -> None:
    bare_project.git("switch", "-qc", "side")
    bare_project.write("prompts/router.md", "of a branch\n")
    bare_project.commit("theirs")
    bare_project.git("switch", "-q", "main")
    bare_project.write("prompts/main.md", "my own words\n")
    bare_project.commit("mine")
    bare_project.git("merge", "-q", "--no-commit", "side")
    bare_project.write("prompts/reviewer.md", "of the merge itself\n")
    bare_project.commit("merged")
    assert bare_project.call("init") == 0

    told = script(bare_project, capsys, "init", "--undo")

    assert told["kept"] == ["prompts/main.md", "prompts/reviewer.md", "prompts/router.md"]
    assert "prompts/supervisor.md" in told["removed"]


def test_undo_leaves_the_other_projects_of_a_repository_alone(bare_project: Project, capsys: Capture) -> None:
    shops = [Project(bare_project.path / name) for name in ("one", "two")]
    for shop in shops:
        shop.write("orchestration.yaml", "")
        bare_project.commit("a project in a folder")
        assert shop.call("init") == 0
    one, two = shops
    assert two.call("run", "--once", "-q", "--agent", bare_project.agent(QUIET)) == 0
    assert one.call("run", "--once", "-q", "--agent", bare_project.agent(QUIET)) == 0
    journals = bare_project.path / ".git" / "orchestration" / "projects"
    before = everything(journals / "two")

    died = two.run("run", "--once", "--agent", bare_project.agent(QUIET), env={failpoints.VARIABLE: "turn.ran:KILL"})
    assert died.returncode == -signal.SIGKILL
    assert script(one, capsys, "init", "--undo", code=3)["error"] == "turn-elsewhere"
    assert two.call("run", "--once", "-q", "--agent", bare_project.agent(QUIET)) == 0

    assert one.call("init", "--undo") == 0
    assert everything(journals / "two") != before != {}
    assert not list((journals / "one").iterdir())
    assert bare_project.dirt() == ""
    assert two.call("run", "--once", "-q", "--agent", bare_project.agent(QUIET)) == 0


@pytest.mark.parametrize(
    ("mine", "pauses"),
    [([], (".git/orchestration", "sync/.orchestrator")), (["--no-git"], ("sync/.orchestrator", ".git/orchestration"))],
)
def test_undo_takes_a_pause_along_beside_another_way_to_run(
    project: Project, capsys: Capture, mine: list[str], pauses: tuple[str, str]
) -> None:
    agent = project.agent(QUIET)
    for way in ([], ["--no-git"]):
        assert project.call("run", *way, "--once", "-q", "--agent", agent) == 0
        assert project.call("pause", *way) == 0

    assert project.call("init", "--undo", *mine) == 0

    assert [(project.path / folder / "control/pause").exists() for folder in pauses] == [False, True]
    assert project.call("init", *mine) == 0
    assert script(project, capsys, "run", "--dry-run", "--agent", agent, *mine)["blocked"] is None


def test_without_git_files_are_written_where_they_belong_and_taken_back(tmp_path: Path, capsys: Capture) -> None:
    project = Project(tmp_path / "plain")
    project.path.mkdir()
    assert script(project, capsys, "init", "--no-git")["written"] == WRITTEN
    assert project.call("run", "-n", "1", "-q", "--agent", project.agent(QUIET)) == 0
    project.write("prompts/main.md", "my own words\n")

    told = script(project, capsys, "init", "--undo")

    assert (told["kept"], told["commit"]) == (["logs/.gitignore", "prompts/main.md"], None)
    left = {str(path.relative_to(project.path)) for path in project.path.rglob("*") if path.is_file()}
    assert {path for path in left if not path.startswith("logs/")} == {"prompts/main.md"}
