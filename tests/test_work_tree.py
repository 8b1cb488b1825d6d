"""A person's work is theirs, whatever an agent does to the repository."""

import json
import os
import select
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import (
    SUBJECT,
    Meanwhile,
    Project,
    Ran,
    assert_at_rest,
    entries,
    executable,
    full_tree,
    kept,
    repository,
    untouched,
)
from orchestration.collect import MIB, Rules
from orchestration.settings import Config
from orchestration.tree import Change
from orchestration.workspace import Workspace

pytestmark = pytest.mark.usefixtures("ralphs_turn")


# --- what an agent may do with git -----------------------------------------------------------------------------------

EDIT = """
echo more >> src/app.py
sed -i 's/"iteration": 1/"iteration": 9/; s/"epoch": 1/"epoch": 0/' sync/state.json
"""


@pytest.mark.parametrize(
    ("script", "subjects"),
    [
        ("git commit -qam mine", ["mine"]),
        ("git add -A && git commit -qm mine", ["mine"]),
        ("git add -A", [SUBJECT + "1 file: src/app.py"]),
        ("git commit -qm mine src/app.py; rm sync/state.json", ["mine"]),
        ("git rm -q --cached sync/state.json; git commit -qam mine", ["mine"]),
        ("git commit -qam mine; echo '{' > sync/state.json", ["mine"]),
        ("echo '{' > sync/state.json; git commit -qam mine", ["mine"]),
        ("rm sync/state.json; ln -s /dev/null sync/state.json; git add -A", [SUBJECT + "1 file: src/app.py"]),
        ("git commit -qam mine; git stash -q", ["mine"]),
    ],
)
def test_only_work_is_taken_from_an_agent_that_also_edits_the_state(
    project: Project, run: Callable[..., Ran], script: str, subjects: list[str]
) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run(EDIT + script)

    assert (ran.exit_code, "state-edited" in ran.notices) == (0, True)
    assert project.git("log", "--format=%s", f"{base}..HEAD^").splitlines() == subjects
    assert kept(project, "HEAD", "src/app.py") == "print('hello')\nmore"
    before, after = project.state(base), project.state()
    assert (after["iteration"], after["epoch"], after["status"]) == (2, before["epoch"] + 1, "complete")
    assert {key: after[key] for key in ("exit", "exit_reason")} == {"exit": False, "exit_reason": None}
    assert_at_rest(project)
    assert project.dirt() == ""
    assert (run("exit 0", "--once").exit_code, project.state()["status"]) == (0, "waiting-ralph")


def test_stashed_work_stays_in_the_stash(project: Project, run: Callable[..., Ran]) -> None:
    project.write("notes.txt", "a person's")

    ran = run("echo more >> src/app.py; git stash -q -u")

    assert ran.exit_code == 0
    assert "notes.txt" in ran.notices["untracked-changed"]
    assert [kept(project, ref, "notes.txt") for ref in project.rescued()] == ["a person's"]
    assert kept(project, "stash@{0}", "src/app.py").endswith("more")
    assert_at_rest(project)
    project.git("stash", "pop", "-q")
    assert project.dirt() == " M src/app.py\n?? notes.txt"


def test_a_failed_turn_tells_the_command_that_undoes_its_commits(project: Project, run: Callable[..., Ran]) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run(
        "echo more >> src/app.py; git commit -qam one; echo two > two.txt; git add -A; git commit -qm two; exit 1"
    )

    undo = ran.reason.partition("to undo its commits: `")[2].partition("`")[0]
    project.git(*undo.split()[1:])
    assert project.git("diff", "--stat", base, "HEAD", "--", ".", ":!sync") == ""
    assert project.call("retry", "--json") == 0
    assert run("exit 0").exit_code == 0


def test_commits_on_a_detached_head_are_kept_though_the_tree_is_clean(
    project: Project, run: Callable[..., Ran]
) -> None:
    assert run("git switch -q --detach; echo x > x; git add x; git commit -qm mine").code == "switched-branch"
    assert "mine" in project.git("log", "--format=%s", "--glob=refs/rescue/*").splitlines()
    project.git("switch", "-q", "main")
    assert_at_rest(project)


def test_work_that_an_agent_amended_into_the_commit_it_began_on_is_put_back_on_top(
    project: Project, run: Callable[..., Ran]
) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run("echo more >> src/app.py; git commit -qa --amend -m amended; echo loose > loose.txt")

    assert (ran.exit_code, "rewritten" in ran.notices) == (0, True)
    assert project.git("log", "--format=%s", f"{base}..HEAD^").splitlines() == [
        SUBJECT + "1 file: loose.txt",
        "ralph's turn of iteration 1: rewritten by the agent",
    ]
    [rescue] = project.rescued()
    assert project.git("log", "-1", "--format=%s", f"{rescue}^") == "amended"
    assert project.git("diff", f"{rescue}^", "HEAD~2", "--stat") == ""
    assert_at_rest(project)
    assert project.dirt() == ""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("git reset -q --soft HEAD~2 && git commit -qm squashed", "rewrote-history"),
        ("git commit -qm mine src/app.py; git rebase -q --root --exec 'git commit -q --amend -m x'", "rewrote-history"),
        ("git switch -qc side && git commit -qm mine src/app.py", "switched-branch"),
        ("git switch -q --detach && git commit -qm mine src/app.py", "switched-branch"),
    ],
)
def test_a_turn_that_left_its_branch_or_its_past_fails_and_loses_nothing(
    project: Project, run: Callable[..., Ran], script: str, code: str
) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run(f"echo more >> src/app.py; {script}; echo loose > loose.txt; echo '{{' > sync/state.json")

    assert (ran.exit_code, ran.code) == (4, code)
    state = project.state("main")
    assert (state["status"], state["failure"]["code"], state["iteration"]) == ("failed", code, 1)
    assert (project.path / "loose.txt").read_text() == "loose\n"
    reachable = project.git("log", "--format=%H", "--branches", "--glob=refs/rescue/*").split()
    assert {base, project.git("rev-parse", "HEAD")} <= set(reachable)
    tips = project.rescued()
    assert any("loose.txt" in project.git("ls-tree", "--name-only", ref) for ref in tips)
    assert any(kept(project, ref, "src/app.py").endswith("more") for ref in tips)
    if code == "switched-branch":
        project.git("checkout", "-q", "-f", "main")
    assert_at_rest(project)
    assert run("exit 0").exit_code == 4


@pytest.mark.parametrize("where", ["git switch -qc side; git branch -qD main", "git update-ref -d refs/heads/main"])
def test_a_turn_whose_branch_was_deleted_is_fenced_with_its_work_in_a_rescue_ref(
    project: Project, run: Callable[..., Ran], where: str
) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run(f"echo more >> src/app.py; {where}")

    assert (ran.exit_code, ran.code) == (8, "fenced")
    assert "was deleted" in ran.reason
    assert base in project.git("log", "--format=%H", "--glob=refs/rescue/*")
    assert any(kept(project, ref, "src/app.py").endswith("more") for ref in project.rescued())
    assert project.journal() == "idle"
    project.git("branch", "-f", "main", base, check=False)
    project.git("symbolic-ref", "HEAD", "refs/heads/main")
    assert project.dirt() == " M src/app.py"


def test_an_unfinished_merge_of_an_agent_is_not_committed_as_its_work(
    project: Project, run: Callable[..., Ran]
) -> None:
    diverge(project)

    ran = run("git merge -q other || true")

    assert (ran.exit_code, ran.code) == (4, "operation-in-progress")
    assert "<<<<<<<" in kept(project, project.rescued()[-1], "src/app.py")
    assert project.dirt() == "UU src/app.py"
    assert project.call("retry", "--json") == 0
    assert run("exit 0").code == "operation-in-progress"
    project.git("merge", "--abort")
    assert run("exit 0").exit_code == 0


# --- git as people configure it --------------------------------------------------------------------------------------


def hooks(project: Project) -> None:
    for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction", "post-index-change"):
        executable(
            project.path / ".git/hooks" / name, f"#!/bin/sh\necho {name} >> {project.path.parent}/hooks\nexit 1\n"
        )


def signing(project: Project) -> None:
    project.git("config", "commit.gpgSign", "true")
    project.git("config", "tag.gpgSign", "true")
    project.git("config", "gpg.program", executable(project.path.parent / "gpg", "#!/bin/sh\nexit 2\n"))


def template(project: Project) -> None:
    project.git("config", "commit.template", str(project.write("../template", "# say why\n")))
    project.git("config", "commit.cleanup", "verbatim")
    project.git("config", "commit.verbose", "true")


def line_endings(project: Project) -> None:
    project.git("config", "core.autocrlf", "true")
    (project.path / "sync/state.json").unlink()
    project.git("checkout", "--", "sync/state.json")
    assert b"\r\n" in (project.path / "sync/state.json").read_bytes()


def nobody(project: Project) -> None:
    (project.path.parent / "home/.gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")


@pytest.mark.parametrize("configure", [hooks, signing, template, line_endings, nobody])
def test_the_tool_commits_whatever_hooks_and_git_configuration_say(
    project: Project, run: Callable[..., Ran], configure: Callable[[Project], None]
) -> None:
    configure(project)

    ran = run("printf 'a\\r\\n' > new.txt; echo more >> src/app.py")

    assert (ran.exit_code, ran.notices) == (0, {})
    assert project.subjects()[-2] == SUBJECT + "2 files: new.txt, src/app.py"
    assert not (project.path.parent / "hooks").exists()
    assert_at_rest(project)
    assert project.dirt() == ""
    assert run("echo next > input.md", "--once").exit_code == 0
    assert project.subjects()[-2].startswith("SUPERVISOR AUTO")
    assert project.dirt() == ""


# --- the exit flag ---------------------------------------------------------------------------------------------------

EXIT = """sed -i 's/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "all done"/' sync/state.json"""


@pytest.mark.parametrize("commit", ["true", "git commit -qam 'stop here'", "git commit -qam x; rm sync/state.json"])
def test_an_exit_flag_ends_the_loop_until_a_person_resumes_it(
    project: Project, run: Callable[..., Ran], commit: str
) -> None:
    assert run(f"{EXIT}; {commit}").exit_code == 0
    assert {key: project.state()[key] for key in ("exit", "exit_reason")} == {"exit": True, "exit_reason": "all done"}
    assert_at_rest(project)

    for _ in range(2):
        ran = run("echo must not run >&2; exit 1")
        assert (ran.exit_code, ran.code, "all done" in ran.reason) == (0, "exit-flag", True)
        assert "orchestrator resume" in ran.remedy

    assert project.call("resume", "--json") == 0
    assert_at_rest(project)
    assert (run("exit 0", "--once").exit_code, project.state()["status"]) == (0, "waiting-ralph")


def test_a_failure_wins_over_the_exit_flag_of_its_turn_and_the_flag_stays(
    project: Project, run: Callable[..., Ran]
) -> None:
    assert run(f"{EXIT}; exit 3").code == "agent-failed"
    assert (project.state()["status"], project.state()["exit"]) == ("failed", True)
    assert project.call("retry", "--json") == 0
    assert run("exit 1").code == "exit-flag"
    assert project.call("resume", "--json") == 0
    assert (run("exit 0").exit_code, project.state()["status"]) == (0, "complete")


@pytest.mark.parametrize("value", ['"true"', "1", "null", "[true]"])
def test_an_exit_flag_that_is_no_bool_is_not_one(project: Project, run: Callable[..., Ran], value: str) -> None:
    ran = run(f"""sed -i 's/"exit": false/"exit": {value}/' sync/state.json""")
    assert (ran.exit_code, project.state()["exit"], "state-edited" in ran.notices) == (0, False, True)
    assert_at_rest(project)


ASKS = """
    import json, sys
    sys.stdin.read()
    state = json.load(open("sync/state.json"))
    json.dump(state | {"exit": True, "exit_reason": REASON}, open("sync/state.json", "w"))
"""


@pytest.mark.parametrize("without_git", [False, True])
@pytest.mark.parametrize(
    ("reason", "taken"),
    [
        (r"'bye \ud83d'", "bye ?"),
        ("'x' * (9 << 20)", "x" * 4096),
        (f"'with ghp_' + '{'aB3dE6gH9' * 4}' + ' as it is'", "with *** as it is"),
    ],
    ids=["half a character", "huge", "a secret"],
)
def test_a_reason_that_no_state_may_hold_is_taken_as_far_as_one_may(
    project: Project, run: Callable[..., Ran], reason: str, taken: str, *, without_git: bool
) -> None:
    agent = project.python_agent(ASKS.replace("REASON", reason))
    option = ["--no-git"] * without_git
    assert run("", *option, agent=agent).exit_code == 0
    text = (project.path / "sync/state.json").read_text()
    assert json.loads(text)["exit_reason"] == taken
    assert run("exit 1", *option).code == "exit-flag"
    assert "ghp_" not in text + "".join(file.read_text() for file in project.path.glob("logs/**/*.jsonl"))


# --- what a person has not committed ---------------------------------------------------------------------------------


def test_changed_tracked_files_are_refused_with_the_list_and_stay_as_they_are(
    project: Project, run: Callable[..., Ran]
) -> None:
    for name in ("staged", "unstaged", "deleted", "renamed", "mode"):
        project.write(f"{name}.txt", f"{name}\n" * 9)
    for number in range(20):
        project.write(f"many/{number:02}.txt", "x")
    project.commit("more files")
    project.write("staged.txt", "changed")
    project.git("add", "staged.txt")
    project.write("unstaged.txt", "changed")
    (project.path / "deleted.txt").unlink()
    project.git("mv", "renamed.txt", "moved\x1b[31m\n.txt")
    (project.path / "mode.txt").chmod(0o755)
    before = untouched(project)

    ran = run()

    assert (ran.exit_code, ran.code) == (3, "dirty-tree")
    listed = ran.reason.splitlines()[1:]
    assert listed == [
        f"  {name}.txt" for name in (*("deleted", "mode"), r"moved\x1b[31m\n", "renamed", "staged", "unstaged")
    ]
    assert "git stash" in ran.remedy
    assert untouched(project) == before

    for path in (project.path / "many").iterdir():
        path.unlink()
    assert run().reason.splitlines()[-1] == "  and 6 more"


def test_untracked_and_ignored_files_of_a_person_are_left_alone(project: Project, run: Callable[..., Ran]) -> None:
    project.write(".git/info/exclude", "*.ignored\n")
    for name in ("notes.txt", "input.md", "reports/mine.txt", "secret.ignored"):
        project.write(name, "a person's")

    ran = run("echo more >> src/app.py; echo theirs > agent.ignored")

    assert (ran.exit_code, ran.notices) == (0, {})
    assert project.subjects()[-2] == SUBJECT + "1 file: src/app.py"
    assert project.dirt() == "?? input.md\n?? notes.txt\n?? reports/mine.txt"
    assert (project.path / "secret.ignored").read_text() == "a person's"
    assert project.rescued() == []


@pytest.mark.parametrize(
    ("script", "subject"),
    [
        ("rm notes.txt", "one"),
        ("echo new > notes.txt", SUBJECT + "1 file: notes.txt"),
        ("git add -A; git commit -qm all", "all"),
    ],
)
def test_an_untracked_file_that_an_agent_takes_is_kept_and_told(
    project: Project, run: Callable[..., Ran], script: str, subject: str
) -> None:
    project.write("one", "")
    project.commit("one")
    project.write("notes.txt", "a person's")

    ran = run(script)

    assert ran.exit_code == 0
    assert project.subjects()[-2] == subject
    taken = subject != "all"
    assert ("notes.txt" in ran.notices.get("untracked-changed", "")) is taken
    assert [kept(project, ref, "notes.txt") for ref in project.rescued()] == ["a person's"] * taken
    assert_at_rest(project)
    assert project.dirt() == ""


def test_what_a_person_adds_before_a_retry_is_kept_when_the_agent_takes_it(
    project: Project, run: Callable[..., Ran]
) -> None:
    assert run("echo half > half.txt; exit 1").exit_code == 4
    project.write("notes.txt", "a person's")
    assert project.call("retry", "--json") == 0

    ran = run("test -e half.txt && rm notes.txt")

    assert ran.exit_code == 0
    assert "notes.txt" in ran.notices["untracked-changed"]
    assert "a person's" in [project.git("show", f"{ref}:notes.txt", check=False) for ref in project.rescued()]
    assert project.subjects()[-2] == SUBJECT + "1 file: half.txt"
    assert project.dirt() == ""


# --- a person works while the agent does -----------------------------------------------------------------------------

THEIRS = "echo theirs > theirs.txt; git add theirs.txt; git commit -qm theirs"


def persons_commit(project: Project) -> None:
    project.write("theirs.txt", "theirs\n")
    project.git("add", "theirs.txt")
    project.git("commit", "-qm", "theirs", "theirs.txt")


def newer_state(project: Project) -> None:
    state = {**project.state(), "epoch": 99, "holder": "another", "nonce": "9" * 32, "expected_actor": "galph"}
    project.write("sync/state.json", json.dumps({**state, "status": "idle"}, indent=2) + "\n")
    project.git("commit", "-qm", "taken over", "sync/state.json")


def backwards(project: Project) -> None:
    project.git("reset", "-q", "--keep", "HEAD~3")


@pytest.mark.parametrize(
    "moment",
    [
        "turn.ran",
        "collect.before_ref",
        "collect.after_ref",
        "turn.checked",
        "stamp.built",
        "settle.before_ref",
        "settle.after_ref",
    ],
)
def test_a_commit_of_a_person_during_a_turn_is_part_of_the_history(
    project: Project, run: Callable[..., Ran], meanwhile: Meanwhile, moment: str
) -> None:
    base = project.git("rev-parse", "HEAD")
    meanwhile(moment, lambda: persons_commit(project))

    ran = run("echo more >> src/app.py")

    assert ran.exit_code == 0
    subjects = set(project.git("log", "--format=%s", f"{base}..HEAD").splitlines())
    assert {"theirs", SUBJECT + "1 file: src/app.py"} <= subjects
    assert sum("actor=ralph" in subject for subject in subjects) == 1
    assert project.git("log", "--merges") == ""
    assert (project.state()["status"], project.state()["iteration"]) == ("complete", 2)
    assert_at_rest(project)
    assert project.dirt() == ""
    assert project.rescued() == []


def test_a_commit_of_a_person_between_an_unclean_death_and_the_restart_is_part_of_the_history(project: Project) -> None:
    agent = project.agent("echo more >> src/app.py")
    died = project.run("run", "--once", "--agent", agent, env={"GALPH_FAILPOINT": "stamp.built:KILL"})
    assert died.returncode == -9
    persons_commit(project)

    assert project.call("run", "--once", "--agent", project.agent("exit 1")) == 0

    assert project.subjects()[-3:-1] == [SUBJECT + "1 file: src/app.py", "theirs"]
    assert project.subjects()[-1].startswith("[SYNC i=2]")
    assert_at_rest(project)
    assert project.dirt() == ""


def test_an_amended_begin_is_put_back_also_when_a_person_commits_meanwhile(
    project: Project, run: Callable[..., Ran], meanwhile: Meanwhile
) -> None:
    base = project.git("rev-parse", "HEAD")
    meanwhile("rescue.after_ref", lambda: persons_commit(project))

    ran = run("echo more >> src/app.py; git commit -qa --amend -m amended")

    assert ran.exit_code == 0
    assert project.git("log", "--format=%s", f"{base}..HEAD^").splitlines() == [
        "ralph's turn of iteration 1: rewritten by the agent"
    ]
    assert {"theirs", "amended"} <= set(project.git("log", "--format=%s", "--glob=refs/rescue/*").splitlines())
    assert kept(project, "HEAD", "theirs.txt") == "theirs"
    assert_at_rest(project)


@pytest.mark.parametrize("moment", ["turn.ran", "stamp.built", "settle.before_ref"])
def test_a_newer_state_on_the_branch_fences_the_turn(
    project: Project, run: Callable[..., Ran], meanwhile: Meanwhile, moment: str
) -> None:
    meanwhile(moment, lambda: newer_state(project))

    ran = run("echo mine > mine.txt; git add mine.txt; git commit -qm mine; echo loose > loose.txt")

    assert (ran.exit_code, ran.code) == (8, "fenced")
    assert (project.state()["epoch"], project.subjects()[-1]) == (99, "taken over")
    assert any("loose.txt" in project.git("ls-tree", "--name-only", ref) for ref in project.rescued())
    assert "mine" in project.git("log", "--format=%s", "--glob=refs/rescue/*").splitlines()
    assert ran.reason.split()[-1] in project.rescued()
    assert_at_rest(project)
    assert (run("exit 0", "--once").exit_code, project.state()["epoch"]) == (0, 100)


def test_a_branch_that_a_person_moved_back_is_never_moved_forward_again(
    project: Project, run: Callable[..., Ran], meanwhile: Meanwhile
) -> None:
    meanwhile("stamp.built", lambda: backwards(project))

    ran = run("echo mine > mine.txt; git add mine.txt; git commit -qm mine")

    assert (ran.exit_code, ran.code) == (8, "fenced")
    assert "lacks the turn's commits" in ran.reason
    assert project.subjects() == ["first"]
    assert "mine" in project.git("log", "--format=%s", "--glob=refs/rescue/*").splitlines()


def during_the_claim(project: Project, commands: str) -> None:
    """Let a person act while the claim's snapshot reads notes.txt, through a filter of git's."""
    project.write(".git/info/attributes", "notes.txt filter=slow\n")
    project.write("notes.txt", "a person's")
    script = f"mkdir ../once && {{ unset GIT_INDEX_FILE GIT_DIR GIT_PREFIX; {commands}; }} >&2; cat"
    project.git("config", "filter.slow.clean", project.agent(script, "slow"))


def test_a_turn_is_claimed_anew_when_a_person_commits_before_the_claim_stands(
    project: Project, run: Callable[..., Ran]
) -> None:
    during_the_claim(project, "echo theirs > theirs.txt; git add theirs.txt; git commit -qm theirs theirs.txt")

    ran = run('test "$(git log -1 --format=%s)" = theirs && echo more >> src/app.py')

    assert (ran.exit_code, ran.notices) == (0, {})
    assert project.subjects()[-3:-1] == ["theirs", SUBJECT + "1 file: src/app.py"]
    assert project.dirt() == "?? notes.txt"
    assert_at_rest(project)


def test_an_exit_flag_that_comes_before_the_claim_stands_is_seen(project: Project, run: Callable[..., Ran]) -> None:
    during_the_claim(project, f"{EXIT}; git commit -qm stop sync/state.json")
    assert run("exit 1").code == "exit-flag"
    assert (project.subjects()[-1], project.dirt(), project.rescued()) == ("stop", "?? notes.txt", [])


@pytest.mark.parametrize("moment", ["collect.before_ref", "turn.checked", "turn.settled"])
def test_rescue_refs_that_nobody_needs_are_dropped_also_after_an_unclean_death(
    project: Project, run: Callable[..., Ran], moment: str
) -> None:
    project.write("notes.txt", "a person's")
    agent = project.agent("echo more >> src/app.py")
    died = project.run("run", "--once", "--agent", agent, env={"GALPH_FAILPOINT": f"{moment}:KILL"})
    assert (died.returncode, len(project.rescued()) > 0) == (-9, moment != "turn.settled")

    assert run("exit 1", "--once").exit_code == 0

    assert project.subjects().count(SUBJECT + "1 file: src/app.py") == 1
    assert project.dirt() == "?? notes.txt"
    assert project.rescued() == []


# --- leftovers -------------------------------------------------------------------------------------------------------

ODD = """
import os, shutil
from pathlib import Path
plain = [b" sp ace ", b"new\\nline", "n\\u00e4ive \\u2192".encode(), b"-dash", b"*", b":(top)x"]
for name in [*plain, b'quo"te\\\\', b"\\xff\\xfe"]:
    Path(os.fsdecode(name)).write_text("x")
Path("run.sh").write_text("#!/bin/sh\\n"); Path("run.sh").chmod(0o755)
Path("link").symlink_to("nowhere")
Path("README.md").unlink()
Path("tool.py").chmod(0o755)
Path("file").unlink(); Path("file").mkdir(); Path("file/inside").write_text("x")
shutil.rmtree("folder"); Path("folder").write_text("x")
Path("swap").unlink(); Path("swap").symlink_to("tool.py")
Path("empty").mkdir()
"""


def odd_ground(project: Project) -> str:
    """Commit what ODD changes; return its agent."""
    for path in ("tool.py", "file", "folder/a", "folder/b/c", "swap"):
        project.write(path, "x")
    project.commit("ground")
    return project.python_agent(ODD, "odd")


def test_leftovers_of_every_kind_and_name_are_committed_as_they_are(project: Project, run: Callable[..., Ran]) -> None:
    agent = odd_ground(project)

    assert run(agent=agent).exit_code == 0

    assert project.dirt() == ""
    assert entries(project, "HEAD") == entries(project, full_tree(project))
    assert project.git("log", "-1", "--format=%s", "HEAD^").startswith(SUBJECT + "18 files:  sp ace , *, -dash, …")
    assert r"new\nline" in project.git("log", "-1", "--format=%b", "HEAD^").splitlines()
    assert project.rescued() == []
    assert_at_rest(project)


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("git rm -q README.md", "README.md"),
        ("git mv README.md READ.md", "READ.md README.md"),
        ("git mv README.md readme.md; echo x >> readme.md", "README.md readme.md"),
        ("git rm -q README.md; mkdir README.md; echo x > README.md/in", "README.md README.md/in"),
        ("git rm -q src/app.py; echo x > src", "src src/app.py"),
    ],
)
def test_what_an_agent_staged_is_a_leftover_too(
    project: Project, run: Callable[..., Ran], script: str, names: str
) -> None:
    base = project.git("rev-parse", "HEAD")

    ran = run(script)

    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    changed = project.git("diff", "--name-only", "--no-renames", base, "HEAD", "--", ".", ":!sync")
    assert changed.splitlines() == names.split()
    assert entries(project, "HEAD") == entries(project, full_tree(project))
    assert project.dirt() == ""
    assert_at_rest(project)


def test_a_retry_in_which_nothing_is_left_to_do_hands_off_what_was_done(
    project: Project, run: Callable[..., Ran]
) -> None:
    project.write("notes.txt", "a person's")
    assert run("echo half > half.txt; exit 1").exit_code == 4
    assert project.call("retry", "--json") == 0

    ran = run("true")

    assert (ran.exit_code, ran.notices) == (0, {}), ran.reason
    assert project.subjects()[-2] == SUBJECT + "1 file: half.txt"
    assert project.dirt() == "?? notes.txt"
    assert_at_rest(project)


def test_a_supervisor_that_writes_code_fails_and_its_bytes_are_kept_and_a_retry_goes_on_with_them(
    project: Project, run: Callable[..., Ran]
) -> None:
    agent = odd_ground(project)
    assert run("exit 0").exit_code == 0
    head = project.git("rev-parse", "HEAD")

    ran = run(agent=agent)

    assert (ran.exit_code, ran.code) == (4, "leftovers")
    assert r"new\nline" in ran.reason
    assert "README.md" in ran.reason
    assert project.git("rev-parse", "HEAD^") == head
    [rescue] = project.rescued()
    assert rescue in ran.reason
    tree = full_tree(project)
    assert entries(project, rescue) == entries(project, tree)
    dirt = project.dirt()
    assert " D README.md" in dirt
    assert_at_rest(project)

    assert project.call("retry", "--json") == 0
    assert run("git add -A && git commit -qm done", "--once").exit_code == 0
    assert project.dirt() == ""
    assert entries(project, "HEAD") == entries(project, tree)


def test_after_skip_the_tree_is_taken_only_just_as_the_failed_turn_left_it(
    project: Project, run: Callable[..., Ran]
) -> None:
    project.write("other.txt", "as committed")
    project.commit("other")
    assert run("echo more >> src/app.py; echo new > new.txt; exit 1").exit_code == 4
    assert run("exit 0").code == "agent-failed"
    assert project.call("skip", "--json") == 0

    project.write("other.txt", "changed since")
    ran = run()
    assert (ran.code, ran.reason.splitlines()[1:]) == ("dirty-tree", ["  other.txt"])
    project.git("checkout", "other.txt")
    project.write("src/app.py", "changed since")
    assert run().reason.splitlines()[1:] == ["  src/app.py"]
    project.write("src/app.py", "print('hello')\nmore\n")

    assert run("echo plan > input.md", "--once").exit_code == 0
    assert project.dirt() == " M src/app.py\n?? new.txt"
    assert run("exit 0").exit_code == 0
    assert project.dirt() == " M src/app.py\n?? new.txt"


def test_kept_leftovers_stay_in_the_tree_and_in_a_rescue_ref(
    project: Project, run: Callable[..., Ran], meanwhile: Meanwhile
) -> None:
    keep = "actors.ralph.leftovers=keep"
    meanwhile("collect.before_ref", lambda: persons_commit(project))

    ran = run("echo more >> src/app.py; echo new > new.txt; echo plan > input.md", "-c", keep)

    assert ran.exit_code == 0
    assert project.subjects()[-2] == SUBJECT + "1 file: input.md"
    assert project.dirt() == " M src/app.py\n?? new.txt"
    [rescue] = project.rescued()
    assert kept(project, rescue, "new.txt") == "new"
    assert_at_rest(project)

    assert run("exit 0", "--once", "-c", keep).exit_code == 0
    assert run("echo code > code.txt", "-c", keep).exit_code == 0
    assert project.dirt() == " M src/app.py\n?? code.txt\n?? new.txt"
    assert len(project.rescued()) == 2


def test_rules_say_what_a_supervisor_may_leave(project: Project, run: Callable[..., Ran]) -> None:
    project.write("results/table.csv", "1\n")
    project.write("results/model.bin", "1\n")
    project.commit("results")
    assert run("exit 0").exit_code == 0
    allowed = ["docs/fix_plan.md", "input.md", "plans/a/b.md", "reports/run.txt", "results/table.csv"]
    outputs = ["-c", "tracked_output_globs=results/**", "-c", "tracked_output_extensions=.csv"]

    write = "mkdir -p docs plans/a reports logs/x tmp; for f in {}; do echo 2 >> $f; done"
    ran = run(write.format(" ".join([*allowed, "logs/x/y", "tmp/z"])), "--once", *outputs)

    assert ran.exit_code == 0
    assert project.git("show", "--format=", "--name-only", "HEAD^").splitlines() == allowed
    assert project.dirt() == "?? tmp/z"
    assert run("exit 0").exit_code == 0
    assert project.dirt() == "?? tmp/z"

    denied = ["deep/input.md", "plans/a.py", "reports/run.sh", "results/model.bin", "results/new.csv"]
    ran = run("mkdir deep; " + write.format(" ".join(denied)), *outputs)
    assert ran.code == "leftovers"
    assert f"must not write: {', '.join(denied)} (" in ran.reason


@pytest.mark.parametrize("root", ["", "packages/one"])
def test_size_caps_hold_for_each_file_and_for_the_turn(tmp_path: Path, root: str) -> None:
    place = Workspace(tmp_path, tmp_path / root, tmp_path, tmp_path / "journal.json", [tmp_path])
    rules = Rules(Config(tracked_output_globs=["out/**"]), place)
    files = {
        "input.md": 1,
        "galph_memory.md": 1.1,
        "reports/5.txt": 5,
        "reports/5a.TXT": 5,
        "reports/6.txt": 6,
        "reports/5b.txt": 5,
        "reports/4.txt": 4,
        "reports/2.txt": 2,
        "reports/1.txt": 1,
        "out/32": 32,
        "out/33": 33,
        "out/32a": 32,
        "out/32b": 32,
        "out/5": 5,
        "out/4": 4,
    }
    prefix = f"{root}/" if root else ""
    changes = [Change("100644", name, f"{prefix}{name}") for name in files]
    outside = [Change("100644", "input.md", "input.md")] if root else []

    result = rules.sort([*changes, *outside], {name: int(size * MIB) for name, size in files.items()})

    over = ["galph_memory.md", "reports/6.txt", "reports/2.txt", "out/33", "out/5"]
    assert [change.path for change in result.rest] == [
        *(f"{prefix}{name}" for name in over),
        *("input.md" for _ in outside),
    ]
    assert len(result.allowed) == len(files) - len(over)
    assert rules.sort([Change("100644", "o", f"{prefix}out/new", new=True)], {}).allowed == []
    assert [rules.ours(f"{prefix}{path}") for path in ("logs/a", "sync/state.json", "logs.txt")] == [True, True, False]


def test_a_nested_repository_and_a_file_over_the_limit_stay_where_they_are_and_are_named(
    project: Project, run: Callable[..., Ran]
) -> None:
    project.write("tracked.bin", "small")
    project.commit("tracked")
    script = """
        mkdir nested && cd nested && git init -q && echo x > x && git add x && git commit -qm x && cd ..
        head -c 3000 /dev/zero > big.bin; cp big.bin tracked.bin; echo small > small.txt
    """

    ran = run(script, "-c", "limits.snapshot_file=0.002")

    assert ran.exit_code == 0
    assert project.subjects()[-2] == SUBJECT + "1 file: small.txt"
    assert all(name in ran.notices["not-kept"] for name in ("big.bin", "tracked.bin", "nested/"))
    assert project.dirt() == " M tracked.bin\n?? big.bin\n?? nested/"
    assert run(script).code == "dirty-tree"


def test_what_is_not_kept_is_named_once_a_run(project: Project, run: Callable[..., Ran]) -> None:
    project.write("big.bin", b"\0" * 3000)
    assert run("exit 0", "-n", "2", "-c", "limits.snapshot_file=0.002").exit_code == 0
    assert [event["code"] for event in project.events() if event.get("level") == "warning"] == ["not-kept"]


# --- where nothing can be begun --------------------------------------------------------------------------------------


def diverge(project: Project) -> None:
    """Make a branch `other` that conflicts with this one."""
    project.git("switch", "-qc", "other")
    project.write("src/app.py", "theirs\n")
    project.commit("theirs")
    project.git("switch", "-q", "main")
    project.write("src/app.py", "ours\n")
    project.commit("ours")


def merge(project: Project) -> None:
    diverge(project)
    project.git("merge", "other", check=False)


def rebase(project: Project) -> None:
    diverge(project)
    project.git("rebase", "other", check=False)


def rebase_by_patches(project: Project) -> None:
    diverge(project)
    project.git("rebase", "--apply", "other", check=False)


def cherry_pick(project: Project) -> None:
    diverge(project)
    project.git("cherry-pick", "other", check=False)


@pytest.mark.parametrize(
    ("also", "remedy"),
    [
        ([], "`git checkout -- sync/state.json` brings the state back"),
        (["src/app.py"], "`git checkout -- sync/state.json` brings the state back; the others: commit them, put"),
    ],
)
def test_a_state_file_that_was_deleted_is_not_to_be_committed(
    project: Project, run: Callable[..., Ran], also: list[str], remedy: str
) -> None:
    for path in ["sync/state.json", *also]:
        (project.path / path).unlink()

    ran = run()

    assert (ran.exit_code, ran.code) == (3, "dirty-tree")
    assert ran.remedy.startswith(remedy)


def revert(project: Project) -> None:
    diverge(project)
    project.write("src/app.py", "again\n")
    project.commit("again")
    project.git("revert", "--no-edit", "HEAD^", check=False)


def bisect(project: Project) -> None:
    diverge(project)
    project.git("bisect", "start", "HEAD", "HEAD~3")


def bisect_on_the_branch(project: Project) -> None:
    project.git("bisect", "start")
    project.git("bisect", "bad")


def detached(project: Project) -> None:
    project.git("switch", "-q", "--detach")


def another_branch(project: Project) -> None:
    project.git("switch", "-qc", "feature")


def unborn(project: Project) -> None:
    """Make a branch that knows nothing of the tool."""
    project.git("branch", "side", "HEAD^")


def an_older_branch(project: Project) -> None:
    assert project.call("run", "-n", "1", "--agent", project.agent("exit 0"), "--json") == 0
    project.git("switch", "-q", "-c", "feature", "HEAD~2")


def without_state_file(project: Project) -> None:
    project.git("rm", "-q", "sync/state.json")
    project.commit("no state")


def untracked_state(project: Project) -> None:
    project.git("rm", "-q", "--cached", "sync/state.json")
    project.git("commit", "-qm", "no state")


def older_state(project: Project) -> None:
    data = project.git("show", "HEAD^:sync/state.json") + "\n"
    project.write("sync/state.json", data)
    project.commit("went back")


def running_state(project: Project) -> None:
    state = json.dumps({**project.state(), "status": "running-ralph"}, indent=2) + "\n"
    project.write("sync/state.json", state)
    project.commit("runs elsewhere")


@pytest.mark.parametrize(
    ("prepare", "options", "code", "remedy"),
    [
        (merge, [], "operation-in-progress", "`git merge --abort`"),
        (rebase, [], "operation-in-progress", "`git rebase --abort`"),
        (rebase, ["--branch", "main"], "operation-in-progress", "`git rebase --abort`"),
        (rebase_by_patches, [], "operation-in-progress", "`git rebase --abort`"),
        (cherry_pick, [], "operation-in-progress", "`git cherry-pick --abort`"),
        (revert, [], "operation-in-progress", "`git revert --abort`"),
        (bisect, [], "operation-in-progress", "`git bisect reset`"),
        (bisect_on_the_branch, [], "operation-in-progress", "`git bisect reset`"),
        (detached, [], "detached-head", "git switch"),
        (detached, ["--branch", "main"], "detached-head", "`git switch main`"),
        (another_branch, [], "state-other-branch", "`git switch main`"),
        (an_older_branch, [], "state-other-branch", "`git switch main`"),
        (another_branch, ["--branch", "main"], "wrong-branch", "`git switch main`"),
        (another_branch, ["--branch", "nowhere"], "wrong-branch", "`git switch -c nowhere`"),
        (unborn, ["--branch", "side"], "wrong-branch", "`git switch side`"),
        (without_state_file, [], "state-missing", "orchestrator init"),
        (untracked_state, [], "state-not-committed", "orchestrator init"),
        (older_state, [], "state-backwards", "`orchestrator init --adopt`"),
        (running_state, [], "state-running", "`orchestrator stamp ralph fail`"),
    ],
)
def test_a_start_is_refused_with_its_remedy_and_changes_nothing(
    project: Project,
    run: Callable[..., Ran],
    prepare: Callable[[Project], None],
    options: list[str],
    code: str,
    remedy: str,
) -> None:
    prepare(project)
    before = untouched(project)

    ran = run("touch ran", *options)

    assert (ran.exit_code, ran.code) == (3, code)
    assert remedy in ran.remedy
    assert untouched(project) == before
    assert project.journal() == "idle"


def test_a_state_that_a_person_mended_is_good_again(project: Project, run: Callable[..., Ran]) -> None:
    good = (project.path / "sync/state.json").read_text()
    project.write("sync/state.json", good[:40])
    project.commit("half written")
    assert run().code == "state-truncated"
    project.write("sync/state.json", good)
    project.commit("mended")
    assert run("exit 0").exit_code == 0


def test_a_turn_in_progress_waits_for_its_branch(project: Project, run: Callable[..., Ran]) -> None:
    died = project.run("run", "--once", "--agent", project.agent("exit 0"), env={"GALPH_FAILPOINT": "turn.ran:KILL"})
    assert died.returncode == -9
    project.git("switch", "-qc", "feature")
    ran = run("exit 1")
    assert (ran.exit_code, ran.code, "`git switch main`" in ran.remedy) == (3, "turn-on-other-branch", True)
    project.git("switch", "-q", "main")
    assert run("exit 1").exit_code == 0


def test_a_folder_without_a_usable_repository_is_refused(tmp_path: Path, run: Callable[..., Ran]) -> None:
    def place(name: str, *init: str) -> Project:
        (tmp_path / name).mkdir()
        made = Project(tmp_path / name)
        if init:
            made.git(*init)
        return made

    fresh = place("fresh", "init", "-q")
    results = [
        run(where=place("nothing")),
        run(where=place("bare", "init", "-q", "--bare")),
        run(where=fresh),
    ]
    assert [(ran.exit_code, ran.code) for ran in results] == [
        (3, "repository-missing"),
        (3, "repository-bare"),
        (3, "state-missing"),
    ]
    assert ["git init" in results[0].remedy, "clone" in results[1].remedy, "init" in results[2].remedy] == [True] * 3
    assert fresh.git("for-each-ref") == ""


# --- sub-folders, copies, linked work trees --------------------------------------------------------------------------


def test_a_folder_of_a_larger_repository_is_a_project(tmp_path: Path, run: Callable[..., Ran]) -> None:
    whole = repository(tmp_path / "whole")
    whole.write("shop/orchestration.yaml", "")
    whole.commit("a project in a folder")
    shop = Project(whole.path / "shop")
    assert shop.call("init", "--json") == 0
    assert shop.git("ls-files", "sync") == "sync/state.json"

    script = "test -e orchestration.yaml && mkdir -p docs logs/x && echo plan > input.md && echo x > logs/x/y"
    assert run(script, "--once", where=shop).exit_code == 0
    assert run("exit 1", where=Project(shop.path / "docs")).code == "agent-failed"

    assert whole.git("show", "--format=", "--name-only", "HEAD~2") == "shop/input.md"
    state = (shop.path / "sync/state.json").read_text()
    assert state == whole.git("show", "HEAD:shop/sync/state.json") + "\n"
    assert whole.dirt() == ""


def test_a_copied_clone_has_a_name_of_its_own(project: Project, run: Callable[..., Ran], tmp_path: Path) -> None:
    assert run("exit 0").exit_code == 0
    copy = Project(tmp_path / "copy")
    shutil.copytree(project.path, copy.path, symlinks=True)

    for where in (project, project, copy):
        assert run("exit 0", where=where).exit_code == 0

    holders = [project.state(revision)["holder"] for revision in ("HEAD", "HEAD~2", "HEAD~4")]
    assert (len(set(holders)), copy.state()["holder"] in holders) == (1, False)


def fifo(path: Path) -> int:
    """Make a FIFO and return a descriptor of it that never blocks."""
    os.mkfifo(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def test_a_path_may_hold_a_line_break(tmp_path: Path, run: Callable[..., Ran]) -> None:
    project = repository(tmp_path / "a\nb")
    assert project.call("init", "--json") == 0
    project.git("worktree", "add", "-q", "-b", "side", "../c\nd")
    linked = Project(tmp_path / "c\nd")
    assert linked.call("init", "--adopt", "--json") == 0
    for where in (project, linked):
        ran = run("echo plan >input.md", "--once", where=where)
        assert (ran.exit_code, ran.notices, where.dirt()) == (0, {}, "")


def test_linked_work_trees_run_beside_each_other(project: Project, tmp_path: Path) -> None:
    project.git("worktree", "add", "-q", "-b", "feature", str(tmp_path / "linked"))
    linked = Project(tmp_path / "linked")
    state = json.dumps({**linked.state(), "branch": "feature"}, indent=2) + "\n"
    linked.write("sync/state.json", state)
    linked.commit("a state of its own")
    gate, seen = fifo(tmp_path / "gate"), fifo(tmp_path / "seen")
    agent = project.agent(f"echo > {tmp_path}/seen; read -r _ < {tmp_path}/gate; echo a > a.txt", "one")
    first = project.start("run", "--once", "--agent", agent)
    assert select.select([seen], [], [], 60)[0]

    assert project.run("run", "--agent", agent).returncode == 7
    assert linked.run("run", "--once", "--agent", linked.agent("echo b > b.txt", "two")).returncode == 0

    os.write(gate, b"go\n")
    assert (first.wait(timeout=60), linked.state()["status"], project.state()["status"]) == (0, "complete", "complete")
    assert (linked.dirt(), project.dirt()) == ("", "")
    assert (linked.path / "b.txt").exists()
    assert not (project.path / "b.txt").exists()
    own = Path(linked.git("rev-parse", "--git-path", "orchestration"))
    assert (own / "journal.json").exists()
    assert stat.S_ISREG((project.path / ".git/orchestration/journal.json").stat().st_mode)


def test_a_lock_that_a_successful_agent_leaves_does_not_stop_the_loop(project: Project) -> None:
    agent = project.agent('[ "$ORCH_ACTOR" = galph ] || echo more >> README.md; : > .git/index.lock', name="locker")

    assert project.call("run", "-n", "1", "--agent", agent) == 0

    assert project.state()["iteration"] == 2
    assert project.dirt() == ""


def test_a_merge_that_conflicts_in_the_state_fails_the_turn_and_is_kept(project: Project) -> None:
    agent = project.agent(
        """
        git checkout -q -b other && sed -i '/status/s/:.*/: "complete",/' sync/state.json && git commit -qam other
        git checkout -q main && sed -i '/status/s/:.*/: "failed",/' sync/state.json && git commit -qam mine
        echo bytes > src/new.txt
        git merge other; exit 0
        """
    )

    assert project.call("run", "--agent", agent) == 4

    assert project.state()["failure"]["code"] == "operation-in-progress"
    assert project.git("show", f"{project.rescued()[-1]}:src/new.txt") == "bytes"
