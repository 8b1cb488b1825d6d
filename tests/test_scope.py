"""A turn's scope: the whole diff of the turn is measured, committed or not, and nothing that is not the turn's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Meanwhile, Project, Ran, assert_at_rest, entries, full_tree, kept, untouched
from orchestration.collect import Rules
from orchestration.settings import ActorSettings, ActorsSettings, Config
from orchestration.state import Actor
from orchestration.tree import Change
from orchestration.workspace import Workspace

pytestmark = pytest.mark.usefixtures("ralphs_turn")

Run = Callable[..., Ran]
DOCS = ["-c", "actors.ralph.scope=docs/,*.md,!docs/secret.md"]


@pytest.fixture(autouse=True)
def ground(project: Project) -> None:
    for name in ("docs/plan.md", "docs/secret.md", "docs/old.md", "src/old.py"):
        project.write(name, f"{name}\n" * 9)
    project.write("notes.txt", "notes\n")
    project.commit("ground")


def outside(ran: Ran) -> list[str]:
    """Return the paths that a failure names."""
    assert (ran.exit_code, ran.code) == (4, "scope"), ran
    return ran.reason.partition("outside its scope: ")[2].partition(" (actors.ralph.scope)")[0].split(", ")


@pytest.mark.parametrize(
    ("script", "paths"),
    [
        ("echo more >> docs/plan.md; echo new > docs/new.md; git rm -q docs/old.md; echo top > top.md", []),
        ("git mv docs/old.md docs/moved.md; git commit -qm moved; echo x > 'docs/sp ace.txt'", []),
        ("echo more >> src/app.py", ["src/app.py"]),
        ("echo more >> src/app.py; git commit -qam mine", ["src/app.py"]),
        ("echo more >> src/app.py; git add -A", ["src/app.py"]),
        ("echo new > src/new.py", ["src/new.py"]),
        ("rm src/app.py", ["src/app.py"]),
        ("git rm -q src/app.py; git commit -qm gone", ["src/app.py"]),
        ("chmod +x src/app.py", ["src/app.py"]),
        ("git mv src/old.py docs/old.py; git commit -qm in", ["src/old.py"]),
        ("git mv docs/old.md src/old.md; git commit -qm out", ["src/old.md"]),
        ("mv src/old.py src/new.py", ["src/new.py", "src/old.py"]),
        ("echo x > src/one.py; git add -A; git commit -qm one; echo x > src/two.py", ["src/one.py", "src/two.py"]),
        ("echo more >> docs/secret.md", ["docs/secret.md"]),
        ("mkdir deep; echo x > deep/top.md", ["deep/top.md"]),
        ("echo x > src/x.py; git add -A; git commit -qm x; git revert --no-edit HEAD >/dev/null", []),
        (
            "git commit -q --amend --allow-empty -m amended; echo x > src/x.py; git add -A; git commit -qm y",
            ["src/x.py"],
        ),
        (r"touch 'src/sp ace' src/näive \"src/new$(printf '\nline')\"", [r"src/new\nline", "src/näive", "src/sp ace"]),
        (r"touch src/$(printf '\377'); ln -s nowhere src/link", ["src/link", r"src/\udcff"]),
        ("rm -r docs; touch docs", ["docs", "docs/secret.md"]),
    ],
)
def test_a_turn_that_leaves_its_scope_fails_and_names_the_paths(
    project: Project, run: Run, script: str, paths: list[str]
) -> None:
    head = project.git("rev-parse", "HEAD")

    ran = run(script.replace(r"\"", '"'), *DOCS)

    if not paths:
        assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
        return
    assert outside(ran) == paths
    assert project.state()["failure"]["code"] == "scope"
    assert "orchestrator skip --accept-scope" in ran.remedy
    assert project.git("merge-base", head, "HEAD") == head
    if project.dirt():
        ref = project.rescued()[-1]
        assert ref in ran.reason
        assert entries(project, ref) == entries(project, full_tree(project))
    assert project.journal() == "idle"


def test_what_is_not_the_turns_is_not_measured(project: Project, run: Run) -> None:
    project.write("notes.txt", "a person's\n")
    project.write("src/untracked.py", "a person's\n")
    project.write("src/app.py", "staged by a person\n")
    project.git("add", "src/app.py")
    (project.path / "src/old.py").unlink()
    project.write(".git/info/exclude", "*.o\n")

    ran = run(
        "mkdir -p logs/x tmp; touch logs/x/y tmp/z src/ignored.o; git add -f logs/x/y; git commit -qm log logs/x/y;"
        " sed -i 's/null/1/' sync/state.json; echo more >> docs/plan.md",
        *DOCS,
        "--allow-dirty",
    )

    assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
    assert project.git("show", "--format=", "--name-only", "HEAD^") == "docs/plan.md"
    assert set(project.dirt().splitlines()) == {
        "M  src/app.py",
        " D src/old.py",
        " M notes.txt",
        "?? src/untracked.py",
        "?? tmp/z",
    }


def test_what_is_the_tools_is_not_committed_though_the_agent_staged_it(project: Project, run: Run) -> None:
    stage = "mkdir -p logs/x tmp; touch logs/x/y tmp/z; git add -f logs/x/y tmp/z; echo more >> docs/plan.md"

    assert run(stage, *DOCS).exit_code == 0

    assert project.git("show", "--format=", "--name-only", "HEAD^") == "docs/plan.md"
    assert project.dirt() == "A  logs/x/y\nA  tmp/z"
    assert run("true", "--once").exit_code == 0


def test_a_persons_file_that_the_agent_changes_outside_its_scope_counts(project: Project, run: Run) -> None:
    project.write("notes.txt", "a person's\n")
    assert outside(run("echo more >> notes.txt", *DOCS, "--allow-dirty")) == ["notes.txt"]
    assert "a person's" in [kept(project, ref, "notes.txt") for ref in project.rescued()]


BAD = "echo bad >> src/app.py"


def by_checkout(project: Project) -> None:
    project.git("checkout", "-q", "src/app.py")


def by_stash(project: Project) -> None:
    project.git("stash", "-q", "--", "src/app.py")


def by_a_revert(project: Project) -> None:
    bad = project.git("log", "--format=%H", "--grep=^bad$")
    project.git("revert", "--no-edit", bad)


def by_an_edit_that_is_committed(project: Project) -> None:
    project.write("src/app.py", "print('hello')\n")
    project.git("commit", "-qm", "put back", "src/app.py", check=False)


@pytest.mark.parametrize(
    ("script", "put_back"),
    [
        (BAD, by_checkout),
        (BAD, by_stash),
        (f"{BAD}; git commit -qam bad", by_a_revert),
        (f"{BAD}; git commit -qam bad", by_an_edit_that_is_committed),
    ],
)
def test_a_retry_fails_until_the_files_are_put_back(
    project: Project, run: Run, script: str, put_back: Callable[[Project], None]
) -> None:
    assert outside(run(script, *DOCS)) == ["src/app.py"]
    for _ in range(2):
        assert project.call("retry", "--json") == 0
        project.write("notes.txt", project.git("rev-parse", "HEAD"))
        project.git("commit", "-qm", "a person's other work", "notes.txt")
        assert outside(run("echo more >> docs/plan.md", *DOCS)) == ["src/app.py"]
    put_back(project)
    assert project.call("retry", "--json") == 0

    ran = run("true", *DOCS)

    assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
    assert kept(project, "HEAD", "src/app.py") == "print('hello')"
    assert kept(project, "HEAD", "docs/plan.md").endswith("more")
    assert_at_rest(project)


@pytest.mark.parametrize("script", [BAD, f"{BAD}; git commit -qam bad", f"{BAD}; echo x > src/new.py"])
def test_the_agent_itself_can_put_the_files_back_in_a_retry(project: Project, run: Run, script: str) -> None:
    assert "src/app.py" in outside(run(script, *DOCS))
    assert project.call("retry", "--json") == 0
    back = "git checkout -q $(git log -1 --format=%H --grep=^ground$) -- src; rm -f src/new.py"
    ran = run(f"{back}; git commit -qm back; true", *DOCS)
    assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
    assert kept(project, "HEAD", "src/app.py") == "print('hello')"


def test_a_person_who_commits_meanwhile_outside_of_the_scope_is_not_in_the_way_of_the_retry(
    project: Project, run: Run, meanwhile: Meanwhile
) -> None:
    def persons() -> None:
        project.write("theirs.txt", "theirs\n")
        project.git("add", "theirs.txt")
        project.git("commit", "-qm", "theirs", "theirs.txt")

    assert run("echo half > docs/half.md; exit 1", *DOCS).code == "agent-failed"
    persons()
    project.write("open.txt", "a person's")
    assert project.call("retry", "--json") == 0
    meanwhile("settle.before_ref", lambda: project.git("commit", "-q", "--allow-empty", "-m", "and now"))

    ran = run("echo more >> docs/plan.md", *DOCS)

    assert (ran.exit_code, project.state()["status"]) == (0, "complete"), ran.reason
    assert project.dirt() == "?? open.txt"
    assert "docs/half.md" in project.git("ls-tree", "-r", "--name-only", "HEAD").splitlines()


def test_skip_needs_a_word_more_after_a_scope(project: Project, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert outside(run(f"{BAD}; git commit -qam bad; echo x > src/loose.py", *DOCS)) == ["src/app.py", "src/loose.py"]
    before = untouched(project)
    capsys.readouterr()

    assert project.call("skip", "--json") == 3

    refused = json.loads(capsys.readouterr().out)
    assert (refused["error"], "src/app.py" in refused["message"]) == ("scope-not-accepted", True)
    assert "skip --accept-scope" in refused["remedy"]
    assert untouched(project) == before
    again = run("exit 1", *DOCS)
    assert (again.code, "skip --accept-scope" in again.remedy) == ("scope", True)

    assert project.call("skip", "--accept-scope", "--json") == 0
    assert project.state()["status"] == "complete"
    assert run("echo plan > input.md", "--once", *DOCS).exit_code == 0
    assert run("echo more >> docs/plan.md", *DOCS).exit_code == 0
    assert project.dirt() == "?? src/loose.py"
    assert_at_rest(project)


def test_accept_scope_is_also_good_for_any_other_failure(project: Project, run: Run) -> None:
    assert run("exit 1", *DOCS).code == "agent-failed"
    assert project.call("skip", "--accept-scope", "--json") == 0


def test_every_actor_has_a_scope_of_its_own(project: Project, run: Run) -> None:
    assert run("echo more >> src/app.py", "-c", "actors.galph.scope=docs/").exit_code == 0
    ran = run("echo more >> input.md", "--once", "-c", "actors.galph.scope=docs/")
    assert (ran.exit_code, ran.code, "actors.galph.scope" in ran.reason) == (4, "scope", True)
    assert project.call("skip", "--accept-scope", "--json") == 0


def test_a_scope_comes_before_the_leftovers_and_after_the_agents_own_failure(project: Project, run: Run) -> None:
    fail = ["-c", "actors.ralph.leftovers=fail"]
    assert run(f"{BAD}; exit 5", *DOCS, *fail).code == "agent-failed"
    assert project.call("retry", "--json") == 0
    assert run("true", *DOCS, *fail).code == "scope"
    assert project.call("retry", "--json") == 0
    assert run("true", *fail).code == "leftovers"


@pytest.mark.parametrize("root", ["", "packages/one"])
@pytest.mark.parametrize(
    ("globs", "within", "beyond"),
    [
        (["docs/"], ["docs/a", "docs/b/c"], ["a", "docs", "x/docs/a", "Docs/a"]),
        (["docs"], ["docs", "docs/a"], ["x/docs"]),
        (["/docs/*.md"], ["docs/a.md"], ["docs/b/a.md", "docs/a.txt"]),
        (["docs/**/*.md"], ["docs/a.md", "docs/b/c/a.md"], ["docs/a.txt", "a.md"]),
        (["**/test_*.py"], ["test_a.py", "a/b/test_c.py"], ["a/b/c.py"]),
        (["**"], ["a", "b/c", "new\nline", " sp ace ", "n\u00e4ive", "\udcff"], []),
        (["src/", "!src/keys.py"], ["src/a.py", "src/deep/keys.py"], ["src/keys.py"]),
        (["src/**", "!src/gen/**", "src/gen/hand.py"], ["src/a", "src/gen/hand.py"], ["src/gen/a"]),
        (["**", "!**/*.lock"], ["a", "b/c"], ["x.lock", "b/y.lock"]),
        (["*.md", "n\u00e4ive/", "sp ace/*"], ["a.md", "n\u00e4ive/x", "sp ace/x", "sp ace/x/y"], ["b/a.md"]),
    ],
)
def test_globs_are_gitignores_and_anchored_at_the_project(
    tmp_path: Path, root: str, globs: list[str], within: list[str], beyond: list[str]
) -> None:
    place = Workspace(tmp_path, tmp_path / root, tmp_path, tmp_path / "journal.json", [tmp_path])
    prefix = f"{root}/" if root else ""
    own = [f"{prefix}{path}" for path in ("sync/state.json", "logs/main/x", "tmp/x")]
    elsewhere = ["docs/a.md", "packages/one", "packages/one-more/docs/a.md", "packages/two/a"] if root else []
    changes = [
        Change("100644", "o", path) for path in [*(f"{prefix}{path}" for path in [*within, *beyond]), *own, *elsewhere]
    ]

    config = Config(actors=ActorsSettings(ralph=ActorSettings(scope=globs)))
    named = Rules(config, place).outside_scope(Actor.RALPH, changes)

    assert named == [*(f"{prefix}{path}" for path in beyond), *elsewhere]


@pytest.mark.parametrize("key", ["actors.ralph.scope", "actors.galph.scope", "doc_whitelist", "tracked_output_globs"])
@pytest.mark.parametrize("glob", ["src/[z-a]", "src\\"])
def test_a_glob_that_cannot_be_read_is_refused_before_any_agent_runs(
    project: Project, run: Run, key: str, glob: str
) -> None:
    ran = run("touch ran", "-c", f"{key}={glob}")
    assert (ran.exit_code, ran.code, "scope" in ran.remedy) == (2, "config-bad-value", True)
    assert not (project.path / "ran").exists()
    assert project.journal() == "idle"
