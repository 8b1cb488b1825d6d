"""No turn publishes a secret or a file that a host refuses, and what is none fails no turn."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Capture, Project, Ran, script, untouched
from pair import Pair, pair

Run = Callable[..., Ran]
ralphs = pytest.mark.usefixtures("ralphs_turn")

TOKEN = "ghp_" + "aB3dE6gH9" * 4
KEY = "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\\n-----END PRIVATE KEY-----"
COMMIT = "git add -A; git commit -qm work\n"


@ralphs
@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TOKEN, "a GitHub token"),
        ("sk-ant-api03-" + "aB3-E6_H9" * 10, "an API key (sk-)"),
        ("AKIAQWERTYUIOP123456", "an AWS access key id"),
        ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz", "an AWS secret key"),
        (KEY, "a private key"),
        (f"\\000\\001 {KEY}", "a private key"),
        ("\\000\\001 Hunter2-of-this-machine", "a secret of the environment"),
        ("SHVudGVyMi1vZi10aGlzLW1hY2hpbmU=", "a secret of the environment"),
    ],
)
def test_a_secret_in_the_work_fails_the_turn(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch, text: str, name: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", "Hunter2-of-this-machine")
    ran = run(f"printf 'one\\n{text}\\n' >new.txt; {COMMIT}")

    assert (ran.exit_code, ran.code) == (4, "secret"), ran
    assert f"new.txt:2 holds {name} (commit {project.git('rev-parse', 'HEAD^')[:10]})" in ran.reason
    assert text not in ran.reason
    assert "its commits stay on main" in ran.reason


@ralphs
@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "x" * 36,
        "AKIAIOSFODNN7EXAMPLE",
        "task-0123456789abcdef0123456789abcdef",
        "-----BEGIN PRIVATE KEY-----",
        "password = correct-horse https://me:correct-horse@localhost Authorization: Bearer abcdefghijk",
        "postgres",
        f"\\000 {TOKEN}",
    ],
    ids=["placeholder", "example", "word", "first-line", "guesses", "one-word", "binary"],
)
def test_examples_guesses_and_words_fail_no_turn(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    assert run(f"printf '{text}\\n' >new.txt; {COMMIT}").exit_code == 0
    assert "new.txt" in project.git("ls-tree", "--name-only", "HEAD").splitlines()


@ralphs
def test_a_secret_in_a_first_commit_that_is_merged_in_is_seen_whatever_log_shows(project: Project, run: Run) -> None:
    project.git("config", "log.showRoot", "false")
    apart = "git switch -q --orphan apart; git rm -rfq --ignore-unmatch .; "
    joined = "git switch -q main; git merge -q --no-commit --allow-unrelated-histories apart; git rm -qf new.txt; "
    ran = run(f"{apart}echo {TOKEN} >new.txt; {COMMIT}{joined}{COMMIT}")

    assert (ran.exit_code, ran.code) == (4, "secret"), ran


@ralphs
def test_what_was_there_before_is_nobodys_doing(project: Project, run: Run) -> None:
    project.write("fixture.txt", f"{TOKEN}\n" + "line\n" * 20)
    project.commit("a fixture")
    changes = "echo more >>fixture.txt; " + COMMIT + "git mv fixture.txt moved.txt; echo again >>moved.txt; " + COMMIT

    assert run(changes).exit_code == 0


@ralphs
def test_a_leftover_with_a_secret_is_not_committed_and_stays(project: Project, run: Run) -> None:
    ran = run(f"echo {TOKEN} >left.txt")

    assert (ran.exit_code, ran.code) == (4, "secret")
    assert "left.txt:1 holds a GitHub token" in ran.reason
    assert project.dirt() == "?? left.txt"
    assert project.git("log", "--all", "--format=%H", "--not", "--glob=refs/rescue/", "--", "left.txt") == ""
    assert project.git("show", f"{project.rescued()[-1]}:left.txt") == TOKEN


@ralphs
def test_a_leftover_over_the_limit_is_not_committed_and_named(project: Project, run: Run) -> None:
    ran = run("head -c 3000000 /dev/zero >huge.bin", "-c", "limits.publish_file=2")

    assert (ran.exit_code, ran.code) == (4, "too-large")
    assert "huge.bin is 2.9 MiB" in ran.reason
    assert project.dirt() == "?? huge.bin"


@ralphs
def test_files_that_a_person_names_may_hold_tokens_but_never_a_secret_of_the_machine(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "Hunter2-of-this-machine")
    allowed = ("-c", "limits.secrets=tests/data/")
    spill = f"mkdir -p tests/data; echo {TOKEN} >tests/data/token.txt; "

    assert run(spill + COMMIT, *allowed).exit_code == 0
    assert project.call("stamp", "galph", "ok", "--json") == 0
    ran = run(f"{spill} echo $MY_API_KEY >tests/data/own.txt; {COMMIT}", *allowed)
    assert (ran.code, "own.txt:1" in ran.reason, "token.txt" in ran.reason) == ("secret", True, False)


@ralphs
@pytest.mark.parametrize(
    ("spill", "code", "flag"),
    [
        (f"echo {TOKEN} >new.txt", "secret", "--accept-secret"),
        ("head -c 3000000 /dev/zero >new.txt", "too-large", "--accept-too-large"),
    ],
)
def test_only_a_word_more_passes_over_it_and_a_retry_does_not(
    project: Project, run: Run, capsys: Capture, spill: str, code: str, flag: str
) -> None:
    limit = ("-c", "limits.publish_file=2")
    assert run(f"{spill}; {COMMIT}", *limit).code == code
    before = untouched(project)

    refused = script(project, capsys, "skip", code=3)
    assert refused["error"] == f"{code}-not-accepted"
    assert f"orchestrator skip {flag}" in refused["remedy"]
    assert script(project, capsys, "skip", "--accept-scope", code=3)["error"] == f"{code}-not-accepted"
    assert untouched(project) == before
    assert project.call("retry", "--json") == 0
    assert run("true", *limit).code == code  # it is in the branch still

    assert project.call("skip", flag, "--json") == 0
    assert run("echo plan > input.md", "--once", *limit).exit_code == 0


# --- rescue push ------------------------------------------------------------------------------------------------------

WORK = "echo work >work.txt; git add work.txt; git commit -qm work; "


def fenced(tmp_path: Path, also: str, *options: str) -> Pair:
    """Give two clones of which ralph's holds the commits of a turn that was taken from it."""
    two = pair(tmp_path)
    assert two.turn("galph") == 0
    take = r"""sed -i 's/"epoch": .*/"epoch": 99,/; s/"nonce": .*/"nonce": "mine",/; s/running-ralph/waiting-ralph/' """
    clone = "git clone -q $(git remote get-url origin) ../third; cd ../third"
    after = "; waits" if "waits()" in also else ""
    take = f"({clone}; {take} sync/state.json; git commit -qam mine; git push -q)"
    assert two.turn("ralph", *options, agent=two.ralph.agent(f"{WORK}{also}\n{take}{after}")) == 8
    return two


def named(two: Pair, why: str) -> str:
    """Return the rescue ref that was kept for a reason."""
    subjects = {ref: two.ralph.git("log", "-1", "--format=%s", ref) for ref in two.ralph.rescued()}
    ref = next(ref for ref, subject in subjects.items() if subject == f"rescue: {why}")
    return ref.removeprefix("refs/rescue/")


def test_the_commits_of_a_fenced_turn_are_published_when_a_person_says_so(tmp_path: Path, capsys: Capture) -> None:
    two = fenced(tmp_path, "")
    name = named(two, "fenced")
    assert two.hub.git("for-each-ref", "refs/rescue/") == ""

    for _ in range(2):  # again: it is there already
        told = script(two.ralph, capsys, "rescue", "push", name)
        assert told == {"published": f"refs/rescue/{name}", "remote": "origin"}
    assert two.hub.git("show", f"refs/rescue/{name}:work.txt") == "work"


PUSHES = ("-c", "sync.push_rescue=true")
BEATS = ("-c", "sync.heartbeat=0.05")
WAITS = "waits() { sleep 600 & wait; }; "


def test_the_commits_of_a_fenced_turn_and_no_more_are_published_by_themselves_where_that_is_set(tmp_path: Path) -> None:
    two = fenced(tmp_path, "echo left >left.txt; ", *PUSHES, "-c", "actors.ralph.leftovers=keep")
    name = named(two, "fenced")
    assert two.hub.git("for-each-ref", "--format=%(refname)", "refs/rescue/") == f"refs/rescue/{name}"
    assert two.hub.git("show", f"refs/rescue/{name}:work.txt") == "work"
    assert "left.txt" not in two.hub.git("ls-tree", "-r", "--name-only", f"refs/rescue/{name}")
    assert any("left.txt" in two.ralph.git("ls-tree", "-r", "--name-only", ref) for ref in two.ralph.rescued())
    two.check()


@pytest.mark.parametrize(
    ("also", "why"),
    [
        (f"echo {TOKEN} >t; git add t; git commit -qm t; {WAITS}", "it must not be published"),
        (f"trap 'git config remote.origin.pushurl /nowhere; exit' TERM; {WAITS}", "remote.origin.pushurl"),
    ],
    ids=["a secret", "another remote"],
)
def test_a_fenced_turn_that_may_not_be_published_stays_here_and_says_so(tmp_path: Path, also: str, why: str) -> None:
    two = fenced(tmp_path, also, *PUSHES, *BEATS)
    assert two.hub.git("for-each-ref", "refs/rescue/") == ""
    told = [str(event["text"]) for event in two.ralph.events() if event.get("code") == "rescue-not-pushed"]
    assert len(told) == 1
    assert why in told[0]
    assert TOKEN not in told[0]


@pytest.mark.parametrize(
    ("also", "code"),
    [
        (f"echo {TOKEN} >t; git add t; git commit -qm t; git rm -q t; git commit -qm no; ", "secret"),
        ("head -c 3000000 /dev/zero >h; git add h; git commit -qm h; ", "too-large"),
    ],
)
def test_what_a_turn_may_not_publish_no_rescue_ref_publishes(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, also: str, code: str
) -> None:
    monkeypatch.setenv("ORCHESTRATION_LIMITS_PUBLISH_FILE", "2")
    two = fenced(tmp_path, also)

    refused = script(two.ralph, capsys, "rescue", "push", named(two, code), code=3)
    assert refused["error"] == f"rescue-{code}"
    assert TOKEN not in str(refused)
    assert two.hub.git("for-each-ref", "refs/rescue/") == ""


def test_what_nobody_committed_is_never_published(tmp_path: Path, capsys: Capture) -> None:
    two = fenced(tmp_path, "")
    two.ralph.write("mine.txt", "a person's\n")
    two.ralph.git("add", "mine.txt")
    tree = two.ralph.git("write-tree")
    commit = two.ralph.git("commit-tree", tree, "-p", "HEAD", "-m", "rescue: leftovers")
    two.ralph.git("update-ref", "refs/rescue/main/ralph/9-x/1", commit)

    refused = script(two.ralph, capsys, "rescue", "push", "main/ralph/9-x/1", code=3)
    assert (refused["error"], "mine.txt" in refused["message"]) == ("rescue-uncommitted", True)
    assert two.hub.git("for-each-ref", "refs/rescue/") == ""
