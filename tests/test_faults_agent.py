"""What an agent does to its state, its repository and its remote, in two clones (docs/faults.md, 63-69)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pair import Pair, events, pair, running

WORK = 'echo "$ORCH_TURN" >>"work-$ORCH_ACTOR.txt"; git add "work-$ORCH_ACTOR.txt"; git commit -qm "work $ORCH_TURN"\n'
"""What an agent does beside its mischief: honest work, committed."""
AMENDS = "echo mine >mine.txt; git add mine.txt; git commit -q --amend -m mine\n"
"""Work that is put into the claim's own commit."""
TAKES = r"""sed -i 's/"epoch": .*/"epoch": 99,/; s/"nonce": .*/"nonce": "mine",/; s/running-ralph/waiting-ralph/' """
TAKES += "sync/state.json\n"
"""A valid state of a newer epoch, as a person's takeover would write it."""


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones, after galph's first turn: it is ralph's."""
    two = pair(tmp_path)
    assert two.turn("galph") == 0
    return two


def ends(two: Pair, script: str, *args: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Run ralph's turn with an agent made of shell text; return exit code, last event, warnings by code."""
    agent = two.ralph.agent(script, f"agent-{len(list(two.ralph.path.parent.glob('agent-*')))}")
    daemon = two.start("ralph", "--once", "--json", *args, agent=agent)
    with running(daemon):
        said = events(daemon)
    warnings = {event["code"]: event["text"] for event in said if event.get("level") == "warning"}
    return daemon.returncode, said[-1], warnings


def goes_on(two: Pair, forced: int = 0) -> None:
    """See one more full iteration, whoever's turn it is, and the promises kept."""
    first, before = two.state()["expected_actor"], two.state()["iteration"]
    assert [two.turn(role) for role in (first, "ralph" if first == "galph" else "galph")] == [0, 0]
    assert (two.state()["expected_actor"], two.state()["iteration"]) == (first, before + 1)
    two.check(forced)


def retries(two: Pair) -> None:
    """Let the failed turn run again, and ralph succeed."""
    assert two.ralph.run("retry").returncode == 0
    assert two.turn("ralph") == 0


# --- 63: the state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        "echo '{' >sync/state.json",
        "rm -r sync",
        "sed -i 's/running-ralph/complete/' sync/state.json; git commit -qam mine",
        f"{TAKES}git commit -qam mine",
        "git rm -q sync/state.json; git commit -qm gone",
        "ln -sf ../README.md sync/state.json; git commit -qam link",
    ],
)
def test_fault_63_an_edited_state_is_restored_and_told_and_the_turn_counts(two: Pair, edit: str) -> None:
    code, last, warnings = ends(two, WORK + edit)

    assert (code, "state-edited" in warnings) == (0, True), last
    assert (two.state()["iteration"], two.state()["epoch"], two.state()["expected_actor"]) == (2, 2, "galph")
    assert two.ralph.dirt() == ""
    assert two.hub.git("show", "main:work-ralph.txt") == "1/ralph"
    goes_on(two)


def test_fault_63_the_exit_flag_is_taken_from_the_agents_copy(two: Pair) -> None:
    flag = r"""sed -i 's/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "done"/' sync/state.json"""
    code, last, warnings = ends(two, WORK + flag)

    assert (code, warnings) == (0, {}), last
    assert (two.state()["exit"], two.state()["exit_reason"], two.state()["expected_actor"]) == (True, "done", "galph")
    assert two.galph.run("resume").returncode == 0
    goes_on(two)


@pytest.mark.parametrize(
    "by",
    [
        f"{WORK}{TAKES}git commit -qam mine; git push -q origin main",
        (
            f"{WORK}git clone -q $(git remote get-url origin) ../third\n"
            f"(cd ../third; {TAKES}git commit -qam mine; git push -q)\n"
            "git pull -q --no-rebase --no-edit origin main"
        ),
    ],
    ids=["published", "pulled"],
)
def test_fault_63_a_newer_epoch_at_the_remote_ends_the_turn_also_where_its_agent_has_it(two: Pair, by: str) -> None:
    code, last, _ = ends(two, by)

    assert (code, last["code"]) == (8, "fenced")
    assert two.state()["epoch"] == 99
    assert any(two.ralph.git("show", f"{ref}:work-ralph.txt") == "1/ralph" for ref in two.ralph.rescued())
    assert two.turn("ralph") == 0
    goes_on(two)


def test_fault_63_a_damaged_state_that_the_agent_publishes_itself_is_restored(two: Pair) -> None:
    code, last, warnings = ends(two, f"{WORK}echo '{{' >sync/state.json; git commit -qam mine; git push -q origin main")

    assert (code, "state-edited" in warnings) == (0, True), last
    assert (two.state()["iteration"], two.state()["epoch"]) == (2, 2)
    goes_on(two)


# --- 64: secrets ------------------------------------------------------------------------------------------------------

TOKEN = "ghp_" + "aB3dE6gH9" * 4
OWN = "Hunter2-of-this-machine"
"""The value of the environment's own secret."""


@pytest.mark.parametrize(
    ("spills", "named"),
    [
        (f"echo 'key = {TOKEN}' >conf.py; git add conf.py; git commit -qm conf", "conf.py:1 holds a GitHub token"),
        (
            f"echo {TOKEN} >conf.py; git add conf.py; git commit -qm in; git rm -q conf.py; git commit -qm out",
            "conf.py:1 holds a GitHub token",
        ),
        ("printf '\\n%s\\n' $MY_API_KEY >a.txt; git add a.txt; git commit -qm a", "a.txt:2 holds a secret of the env"),
        ('git commit -q --allow-empty -m "with $MY_API_KEY"', "the message of "),
        ("echo $MY_API_KEY >left.txt", "left.txt:1 holds a secret of the environment"),
        (f"echo {TOKEN} >conf.py; git add conf.py; git commit -qm conf; exit 9", "conf.py:1 holds a GitHub token"),
    ],
    ids=["committed", "taken-out-again", "of-the-environment", "in-a-message", "left-uncommitted", "and-failed"],
)
def test_fault_64_a_secret_is_withheld_kept_and_never_told(
    two: Pair, monkeypatch: pytest.MonkeyPatch, spills: str, named: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", OWN)
    code, last, _ = ends(two, WORK + spills)

    assert (code, last["code"]) == (4, "secret"), last
    assert named in last["reason"]
    assert "skip --accept-secret" in last["remedy"]
    assert two.ralph.git("rev-parse", "main") == two.tip()
    published = two.hub.git("log", "--all", "-p", "--format=%B%n%H")
    assert not any(text in published + json.dumps(last) for text in (TOKEN, OWN, "work-ralph.txt"))
    subjects = {ref: two.ralph.git("log", "-1", "--format=%s", ref) for ref in two.ralph.rescued()}
    withheld = next(ref for ref, subject in subjects.items() if subject == "rescue: secret")
    assert two.ralph.git("show", f"{withheld}:work-ralph.txt") == "1/ralph"
    for path in ("conf.py", "left.txt"):
        (two.ralph.path / path).unlink(missing_ok=True)
    retries(two)
    goes_on(two)


# --- 65: size ---------------------------------------------------------------------------------------------------------


def test_fault_65_a_leftover_above_the_limit_is_neither_committed_nor_lost(two: Pair) -> None:
    huge = "head -c 3000000 /dev/zero >huge.bin; echo small >small.txt\n"
    code, last, warnings = ends(two, WORK + huge, "-c", "limits.snapshot_file=1")

    assert code == 0, last
    assert "huge.bin" in warnings["not-kept"]
    assert (two.ralph.path / "huge.bin").stat().st_size == 3_000_000
    assert "huge.bin" not in two.hub.git("ls-tree", "-r", "--name-only", "main")
    goes_on(two)


def test_fault_65_a_committed_file_above_the_limit_is_withheld_and_named(two: Pair) -> None:
    huge = "head -c 3000000 /dev/zero >huge.bin; git add huge.bin; git commit -qm huge; git rm -q huge.bin; "
    huge += "git commit -qm no"
    code, last, _ = ends(two, f"{WORK}{huge}", "-c", "limits.publish_file=2")

    assert (code, last["code"]) == (4, "too-large"), last
    assert "huge.bin is 2.9 MiB, more than limits.publish_file (2 MiB)" in last["reason"]
    assert two.ralph.git("rev-parse", "main") == two.tip()
    assert "huge.bin" not in two.hub.git("log", "--all", "--name-only", "--format=")
    assert any("huge.bin" in two.ralph.git("log", "--name-only", "--format=", ref) for ref in two.ralph.rescued())
    retries(two)
    goes_on(two)


# --- 66: branch and history -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leave", "where"),
    [
        ("git switch -qc other; ", "other"),
        ("git checkout -q --detach; ", "a detached HEAD"),
        ("git checkout -q --orphan bare; ", "bare"),
    ],
)
def test_fault_66_a_turn_that_left_its_branch_fails_and_keeps_its_commits(two: Pair, leave: str, where: str) -> None:
    code, last, _ = ends(two, leave + WORK)

    assert (code, last["code"]) == (4, "switched-branch")
    assert where in last["reason"]
    assert two.hub.git("ls-tree", "-r", "--name-only", "main", "work-ralph.txt") == ""
    its = two.ralph.git("rev-parse", "HEAD")
    assert two.ralph.git("for-each-ref", "--contains", its)
    two.ralph.git("switch", "--quiet", "main")
    retries(two)
    goes_on(two)


def test_fault_66_a_claim_that_the_agent_amended_is_put_back_below_its_work(two: Pair) -> None:
    code, last, warnings = ends(two, AMENDS)

    assert (code, "rewritten" in warnings) == (0, True), last
    assert two.hub.git("show", "main:mine.txt") == "mine"
    (its,) = two.ralph.rescued()
    assert two.ralph.git("log", "-1", "--format=%s", f"{its}^") == "mine"
    goes_on(two)


@pytest.mark.parametrize(
    "rewrite",
    [
        "git reset -q --hard HEAD~3; echo x >x.txt; git add x.txt; git commit -qm x",
        "git rebase -q --onto HEAD~3 HEAD~1",
        "git checkout -q --orphan new; git commit -qm new; git branch -qf main new; git switch -q main",
    ],
)
def test_fault_66_rewritten_history_is_withheld_and_kept(two: Pair, rewrite: str) -> None:
    claimed = two.tip()
    code, last, _ = ends(two, f"{WORK}git branch its-own; {rewrite}; git rev-parse HEAD >../rewritten")

    assert (code, last["code"]) == (4, "rewrote-history")
    its = (two.ralph.path.parent / "rewritten").read_text().strip()
    assert two.ralph.git("for-each-ref", "--contains", its, "refs/rescue/")
    assert two.ralph.git("rev-parse", "main") == two.tip()
    assert two.hub.git("merge-base", claimed, "main") == claimed
    retries(two)
    goes_on(two)


# --- 67: pushes -------------------------------------------------------------------------------------------------------


def test_fault_67_work_that_the_agent_pushed_itself_is_accepted_on_its_claim(two: Pair) -> None:
    code, last, warnings = ends(two, f"{WORK}git push -q --set-upstream origin main\n{WORK}")

    assert (code, warnings) == (0, {}), last
    assert two.hub.git("log", "--format=%s", "-2", "--skip=1", "main").splitlines() == ["work 1/ralph"] * 2
    goes_on(two)


def test_fault_67_a_forced_push_of_the_amended_claim_is_contained_in_the_hand_off(two: Pair) -> None:
    code, last, warnings = ends(two, f"{AMENDS}git push -q --force origin main")

    assert (code, "rewritten" in warnings) == (0, True), last
    (its,) = two.ralph.rescued()
    forced = two.ralph.git("rev-parse", f"{its}^")
    assert two.hub.git("show", "main:mine.txt") == "mine"
    assert two.hub.git("merge-base", forced, "main") == forced
    goes_on(two, forced=1)


def test_fault_67_an_old_commit_forced_over_the_branch_is_never_published_over(two: Pair) -> None:
    claimed, journal = two.tip(), two.ralph.path / ".git/orchestration/journal.json"
    code, last, _ = ends(two, f"{WORK}git push -q --force origin HEAD~3:main")
    rewound = two.tip()

    assert (code, last["code"]) == (3, "remote-rewound"), last
    assert two.hub.git("merge-base", rewound, claimed) == rewound != claimed
    assert two.ralph.journal() == "stamped"
    before = journal.read_bytes()
    assert (two.turn("ralph"), two.turn("galph")) == (3, 3)
    assert (two.tip(), journal.read_bytes()) == (rewound, before)

    two.ralph.git("push", "--quiet", "origin", "refs/orchestration/seen/main:refs/heads/main")
    assert two.turn("ralph", agent=two.ralph.agent("touch ../twice", "never")) == 0

    assert not (two.ralph.path.parent / "twice").exists()
    goes_on(two, forced=1)


# --- 68: the remote and its hooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "repair", "told"),
    [
        ("git remote set-url origin ../other.git", "git remote set-url origin HUB", "remote.origin.url was HUB"),
        ("git remote remove origin", "git remote add origin HUB", "and is not set"),
        ("git config remote.origin.pushurl ../o", "git config --unset remote.origin.pushurl", "origin.pushurl"),
        (
            "git config url.../other.git.insteadOf HUB",
            "git config --remove-section url.../other.git",
            "url.../other.git.insteadof was added",
        ),
        ("git config http.extraHeader secret", "git config --unset http.extraHeader", "http.extraheader was added"),
    ],
)
def test_fault_68_a_turn_is_not_published_where_its_agent_pointed_the_remote(
    two: Pair, change: str, repair: str, told: str
) -> None:
    hub = str(two.hub.path)
    two.hub.git("clone", "--quiet", "--bare", ".", str(two.hub.path.parent / "other.git"))
    handed_off = two.tip()
    code, last, _ = ends(two, WORK + change.replace("HUB", hub))
    claimed = two.tip()

    assert (code, last["code"]) == (3, "push-settings-changed"), last
    assert told.replace("HUB", hub) in last["reason"]
    assert "secret" not in last["reason"] + last["remedy"]
    assert two.ralph.journal() == "ran"
    assert two.turn("ralph") == 3
    assert (two.tip(), two.ralph.git("-C", "../other.git", "rev-parse", "main")) == (claimed, handed_off)

    two.ralph.git(*repair.replace("HUB", hub).split()[1:])
    assert two.turn("ralph", agent=two.ralph.agent("touch ../twice", "never")) == 0

    assert not (two.ralph.path.parent / "twice").exists()
    goes_on(two)


@pytest.mark.parametrize("place", [".git/hooks", "../its-hooks"])
def test_fault_68_hooks_that_the_agent_adds_are_not_run_by_the_loop(two: Pair, place: str) -> None:
    hooks = "pre-push pre-commit commit-msg post-commit post-merge post-checkout reference-transaction post-rewrite"
    adds = f"mkdir -p {place}; for hook in {hooks}; do printf '#!/bin/sh\\n"
    adds += 'echo "$0" >>%s/ran; exit 1\\n' + f'\' "$PWD/.." >{place}/$hook; chmod +x {place}/$hook; done\n'
    code, last, _ = ends(two, f"{WORK}{adds}git config core.hooksPath {place}")

    assert code == 0, last
    assert not (two.ralph.path.parent / "ran").exists()
    two.ralph.git("config", "--unset", "core.hooksPath")
    goes_on(two) if place != ".git/hooks" else two.check()


# --- 69: the repository -----------------------------------------------------------------------------------------------


def test_fault_69_a_repository_that_was_moved_away_is_asked_for_and_gone_on_with(two: Pair) -> None:
    code, last, _ = ends(two, f"{WORK}mv .git ../gone.git")

    assert (code, last["code"]) == (3, "repository-gone"), last
    assert str(two.hub.path) in last["remedy"]
    assert not (two.ralph.path / ".git").exists()
    assert (two.ralph.path / "work-ralph.txt").read_text() == "1/ralph\n"

    (two.ralph.path.parent / "gone.git").rename(two.ralph.path / ".git")
    assert two.turn("ralph") == 0
    goes_on(two)


def test_fault_69_a_deleted_repository_leaves_every_file_and_a_remedy_that_works(two: Pair) -> None:
    code, last, _ = ends(two, f"{WORK}echo half >half.txt; rm -rf .git")

    assert (code, last["code"]) == (3, "repository-gone"), last
    assert two.turn("ralph") == 3
    assert (two.ralph.path / "half.txt").read_text() == "half\n"
    fresh = f"git clone --no-checkout {two.hub.path} fresh && mv fresh/.git . && git reset"
    assert fresh in last["remedy"]

    subprocess.run(["/bin/sh", "-ec", f"{fresh}; rmdir fresh"], cwd=two.ralph.path, check=True, capture_output=True)
    assert set(two.ralph.dirt().splitlines()) == {"?? half.txt", "?? work-ralph.txt"}
    two.check()
