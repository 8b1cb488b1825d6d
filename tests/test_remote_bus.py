"""The remote bus beyond the contract: claims that land late, hand-offs that meet others, turns that are withheld."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from conftest import Capture, Meanwhile, Project, Ran, assert_at_rest, executable, kept, person, told
from grounds import NOW, RemoteGround, ground, stamped, token
from orchestration import state
from orchestration.bus import Claimed, Landed, Lost, Moved, View
from orchestration.clock import SystemClock, iso
from orchestration.errors import Refused
from orchestration.journal import Claim
from orchestration.process import Loop
from orchestration.settings import Config, Stale, SyncSettings
from orchestration.state import Token
from pair import Pair, pair

Turn = Callable[..., Ran]
COMMITS = "cat >/dev/null; echo mine > {0}; git add {0}; git commit -qm 'my work'; "
"""An agent that commits one file."""
PERSON = "cd {person}; git pull -q; echo theirs > {path}; git add {path}; git commit -qm 'their work'; git push -q; "
"""A person who pushes one file while an agent runs."""
SCOPE = ("-c", "actors.galph.scope=[docs/**]")
KEEP = ("-c", "actors.galph.leftovers=keep")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RemoteGround]:
    """Give a clone, its remote, and another hand's clone."""
    with ground("remote", tmp_path) as made:
        assert isinstance(made, RemoteGround)
        yield made


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones."""
    return pair(tmp_path)


@pytest.fixture
def turn(two: Pair, capsys: Capture) -> Turn:
    """Run one turn with an agent made from shell text."""

    def one_turn(script: str = "true", *options: str, role: str = "galph", clone: Project = two.galph) -> Ran:
        capsys.readouterr()
        agent = executable(clone.path.parent / f"agent{len(list(clone.path.parent.iterdir()))}", f"#!/bin/sh\n{script}")
        code = clone.call("--role", role, "--once", "--json", "--agent", agent, *options)
        return told(code, capsys.readouterr().out)

    return one_turn


def pushes(two: Pair, path: str = "theirs.txt") -> str:
    """Return what a person's push during an agent's run is as shell text."""
    return f"({PERSON.format(person=two.person().path, path=path)}) >/dev/null 2>&1; "


def says_enough(two: Pair) -> str:
    """Return a person's push of the exit flag alone as shell text."""
    edit = 'sed -i \'s/"exit": false/"exit": true/\' sync/state.json'
    return f"(cd {two.person().path}; git pull -q; {edit}; git commit -qam enough; git push -q) >/dev/null 2>&1; "


def killed_at(two: Pair, failpoint: str, agent: str) -> None:
    armed = failpoint if ":" in failpoint else f"{failpoint}:KILL"
    done = two.galph.run("--role", "galph", "--once", "--agent", agent, env={"GALPH_FAILPOINT": armed})
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def kinds(two: Pair) -> list[tuple[str, int]]:
    return [(stamp.kind, stamp.epoch) for stamp in two.stamps()]


def claim_on(view: View, nonce: str = "1" * 32) -> Claim:
    return Claim(view.state.expected_actor, view.state.iteration, token(view, nonce), "main", view.tip, iso(NOW))


# --- the claim -------------------------------------------------------------------------------------------------------


def test_a_claim_that_landed_late_is_ours_by_its_nonce_also_below_a_persons_commit(here: RemoteGround) -> None:
    view = here.bus().look()
    claim = claim_on(view)
    offer = here.bus().offer(claim, view.state)()
    here.project.git("push", "-q", "origin", f"{offer}:main")  # by a git that outlived its daemon
    here.other.git("pull", "-q")
    here.other.write("theirs.txt", "theirs")
    here.other.commit("theirs")
    here.other.git("push", "-q")

    assert here.bus().claim(claim, offer) == Claimed(offer)

    assert here.project.git("rev-parse", "HEAD") == offer
    assert here.project.dirt() == ""


def test_a_claim_that_is_there_already_when_it_is_pushed_is_ours_only_by_its_nonce(here: RemoteGround) -> None:
    bus = here.remote()
    view = bus.look()
    claim = claim_on(view)
    offer = bus.offer(claim, view.state)()
    here.project.git("push", "-q", "origin", f"{offer}:main")
    assert bus.claim(claim, offer) == Claimed(offer)  # git says of that push: up to date

    assert here.remote().claim(claim_on(view, "2" * 32), offer) == Lost()


@pytest.mark.parametrize("gone", [False, True])
def test_a_claim_that_did_not_land_before_a_crash_is_pushed_unless_it_was_pruned(
    here: RemoteGround, gone: bool
) -> None:
    view = here.bus().look()
    claim = claim_on(view)
    offer = "f" * 40 if gone else here.bus().offer(claim, view.state)()

    assert here.bus().claim(claim, offer) == (Lost() if gone else Claimed(offer))


@pytest.mark.parametrize("moment", ["claim.before_push", "claim.after_push"])
@pytest.mark.parametrize("journal", ["kept", "gone"])
def test_a_daemon_killed_at_its_claim_goes_on_with_it_or_claims_anew(two: Pair, moment: str, journal: str) -> None:
    killed_at(two, moment, two.worker())
    landed = moment == "claim.after_push"
    assert (two.state()["status"] == "running-galph") is landed
    if journal == "gone":
        (two.galph.path / ".git/orchestration/journal.json").unlink()

    assert two.turn("galph") == 0

    again = [("claim", 1), ("claim", 2), ("hand-off", 2)]
    assert kinds(two) == (again if landed and journal == "gone" else [("claim", 1), ("hand-off", 1)])
    two.check()


def test_a_claim_lost_to_a_person_is_made_anew_on_top(two: Pair, turn: Turn, meanwhile: Meanwhile) -> None:
    theirs = two.person()

    def act() -> None:
        theirs.write("theirs.txt", "theirs")
        theirs.commit("theirs")
        theirs.git("push", "-q")

    meanwhile("claim.before_push", act)
    assert turn(COMMITS.format("mine.txt")).exit_code == 0
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    two.check()


# --- the hand-off ----------------------------------------------------------------------------------------------------


def test_a_turn_pushes_twice_and_a_rewind_before_its_hand_off_is_seen(here: RemoteGround) -> None:
    bus = here.remote()
    view = bus.look()
    claim = claim_on(view)
    base = bus.offer(claim, view.state)()
    assert bus.claim(claim, base) == Claimed(base)
    executable(here.hub.path / "hooks/update", f"#!/bin/sh\necho push >> {here.hub.path}/pushes\n")
    hand_off = bus.stamp(base, view.state, state.succeeded(view.state, claim.token, base, NOW))
    here.hub.git("update-ref", "refs/heads/main", view.tip)

    with pytest.raises(Refused, match="moved back or rewritten"):
        bus.settle(hand_off)
    here.hub.git("update-ref", "refs/heads/main", base)
    assert bus.settle(hand_off) == Landed(hand_off.commit)
    assert (here.hub.path / "pushes").read_text() == "push\n"


@pytest.mark.parametrize(
    ("script", "merged"),
    [
        ("git push -q origin HEAD:main; ", False),
        ("{push}", True),
        ("git push -q origin HEAD:main; {push}", False),
        ("git rm -q sync/state.json; git commit -qm 'no more'; {push}", True),
        ("echo '{{' > sync/state.json; {push}", True),
    ],
    ids=["agent pushed", "person pushed", "both", "agent deleted the state", "agent damaged the state"],
)
def test_work_that_meets_pushes_is_handed_off_with_them(two: Pair, turn: Turn, script: str, merged: bool) -> None:
    ended = turn(COMMITS.format("mine.txt") + script.format(push=pushes(two)))

    assert (ended.exit_code, ended.code) == (0, "once"), ended
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    assert ("Merge " in two.hub.git("log", "--format=%s", "main")) is merged
    assert kept(two.hub, "main", "mine.txt") == "mine"
    if "{push}" in script:
        assert kept(two.galph, "HEAD", "theirs.txt") == "theirs"
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    assert_at_rest(two.galph)
    assert two.turn("ralph") == 0
    two.check()


def test_two_pushes_one_after_the_other_are_both_merged(two: Pair, turn: Turn, meanwhile: Meanwhile) -> None:
    theirs = two.person()

    def act() -> None:
        theirs.git("pull", "-q")
        theirs.write("more.txt", "more")
        theirs.commit("more")
        theirs.git("push", "-q")

    meanwhile("settle.before_push", act)
    assert turn(COMMITS.format("mine.txt") + pushes(two)).exit_code == 0
    assert [kept(two.hub, "main", name) for name in ("mine.txt", "theirs.txt", "more.txt")] == [
        "mine",
        "theirs",
        "more",
    ]
    two.check()


def test_a_conflict_fails_the_turn_on_what_was_pushed_and_keeps_the_work(
    two: Pair, turn: Turn, capsys: Capture
) -> None:
    ended = turn(COMMITS.format("same.txt") + "echo left > left.txt; " + pushes(two, "same.txt"), *KEEP)

    assert (ended.exit_code, ended.code) == (4, "conflict")
    assert "same.txt" in ended.reason
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    assert kept(two.hub, "main", "same.txt") == "theirs"
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    assert "mine" in [kept(two.galph, ref, "same.txt") for ref in two.galph.rescued()]
    assert (two.galph.path / "left.txt").read_text() == "left\n"
    assert "operator=retry" in person(two.galph, capsys, "retry")
    assert turn("echo again >> same.txt; git commit -qam again", *KEEP).exit_code == 0
    two.check()


def test_a_conflict_in_a_file_whose_name_is_not_utf_8_is_named(two: Pair, turn: Turn) -> None:
    odd = """\"$(printf 'na\\357ve.txt')\""""
    ended = turn(COMMITS.format(odd) + pushes(two, odd))

    assert (ended.exit_code, ended.code) == (4, "conflict")
    assert r"na\udcefve.txt" in ended.reason
    assert r"na\udcefve.txt" in two.state()["failure"]["reason"]


def test_an_exit_flag_set_from_elsewhere_during_the_turn_is_handed_on(two: Pair, turn: Turn, capsys: Capture) -> None:
    assert turn(COMMITS.format("mine.txt") + says_enough(two)).exit_code == 0
    assert two.state()["exit"] is True
    assert turn(role="ralph", clone=two.ralph).code == "exit-flag"
    assert "operator=resume" in person(two.galph, capsys, "resume")
    two.check()


def test_a_hand_off_that_was_pruned_is_built_again_and_keeps_what_a_person_said(two: Pair) -> None:
    # The first is refused and merged; the second, and the merge below it, are loose when its push begins.
    killed_at(two, "settle.before_push:KILL:2", two.galph.agent(COMMITS.format("mine.txt") + says_enough(two)))
    assert two.galph.journal() == "stamped"
    two.galph.git("gc", "-q", "--prune=now")

    assert two.turn("galph", agent=two.galph.agent("exit 9", "never")) == 0

    assert two.state()["exit"] is True
    assert kept(two.hub, "main", "mine.txt") == "mine"
    two.check()


def test_a_pruned_hand_off_without_a_merge_is_built_again_on_the_work(two: Pair) -> None:
    killed_at(two, "settle.before_push", two.worker())
    two.galph.git("gc", "-q", "--prune=now")
    assert two.turn("galph", agent=two.galph.agent("exit 9", "never")) == 0
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    two.check()


def test_a_restart_finds_its_hand_off_landed_also_when_the_peer_is_at_work_already(two: Pair) -> None:
    killed_at(two, "settle.after_push", two.worker())
    assert two.turn("ralph") == 0

    assert two.turn("galph", agent=two.galph.agent("exit 9", "never")) == 0

    assert kinds(two) == [(kind, epoch) for epoch in (1, 2) for kind in ("claim", "hand-off")]
    assert two.galph.rescued() == []
    two.check()


# --- withheld, rewritten, fenced -------------------------------------------------------------------------------------


def test_work_out_of_scope_is_kept_here_and_only_the_failure_is_published(
    two: Pair, turn: Turn, capsys: Capture
) -> None:
    ended = turn(COMMITS.format("mine.txt") + "echo {} > sync/state.json; echo left > left.txt", *SCOPE, *KEEP)

    assert (ended.exit_code, ended.code) == (4, "scope")
    assert "withheld" in ended.reason
    failure, claim = two.stamps()[-1], two.stamps()[0]
    assert two.hub.git("rev-parse", f"{failure.commit}^") == claim.commit
    assert two.galph.git("rev-parse", "HEAD") == two.tip() == failure.commit
    assert "mine" in [kept(two.galph, f"{ref}^", "mine.txt") for ref in two.galph.rescued() if "mine" in ended.reason]
    assert two.galph.dirt() == "?? left.txt"
    assert not (two.galph.path / "mine.txt").exists()
    two.check()

    (two.galph.path / "left.txt").unlink()
    # The retry begins anew: neither what was withheld nor what a person pushed meanwhile is its own.
    theirs = two.person()
    theirs.write("theirs.txt", "theirs")
    theirs.commit("theirs")
    theirs.git("push", "-q")
    assert "operator=retry" in person(two.galph, capsys, "retry")
    again = turn("mkdir docs; " + COMMITS.format("docs/plan.md"), *SCOPE, *KEEP)
    assert (again.exit_code, kept(two.hub, "main", "docs/plan.md")) == (0, "mine"), again
    two.check()


def test_a_branch_that_cannot_leave_what_is_withheld_is_put_right_by_the_command_that_is_named(
    two: Pair, turn: Turn, capsys: Capture
) -> None:
    ended = turn(COMMITS.format("README.md") + "echo and more >> README.md", *SCOPE, *KEEP)
    assert (ended.exit_code, ended.code) == (4, "scope")
    assert two.galph.git("rev-parse", "HEAD^{tree}") != two.hub.git("rev-parse", "main^{tree}")
    assert (two.galph.path / "README.md").read_text() == "mine\nand more\n"
    assert "operator=retry" in person(two.person(), capsys, "retry")

    refused = turn("exit 9", *SCOPE)
    assert (refused.exit_code, refused.code) == (3, "local-diverged")
    two.galph.git("checkout", "-q", "README.md")
    two.galph.git(*refused.remedy.partition("`git ")[2].partition("`")[0].split())

    assert turn("exit 0", *SCOPE).exit_code == 0
    two.check()


def test_commits_that_were_there_before_are_not_rewritten_at_the_remote(two: Pair, turn: Turn) -> None:
    ended = turn("git reset -q --soft HEAD~2; echo x > x; git add x; git commit -qm squashed")

    assert (ended.exit_code, ended.code) == (4, "rewrote-history")
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    two.check()


def test_a_rewritten_claim_is_put_back_below_the_work(two: Pair, turn: Turn) -> None:
    ended = turn("echo x > x; git add x; git commit -q --amend -m amended")

    assert (ended.exit_code, "rewritten" in ended.notices) == (0, True)
    assert kept(two.hub, "main", "x") == "x"
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    two.check()


def take_over(two: Pair, nonce: str = "e" * 32) -> None:
    """Let a person take the running turn over, by a commit of their own."""
    theirs = two.person()
    now = state.taken_over(state.parse((theirs.path / "sync/state.json").read_bytes()), Token(9, "they", nonce), NOW)
    theirs.write("sync/state.json", state.encode(now))
    message = state.message(now, now, operator="takeover")
    theirs.commit(message)
    theirs.git("push", "-q")


@pytest.mark.parametrize("dirty", [False, True])
def test_a_turn_that_was_taken_is_kept_and_left_and_not_run_again(
    two: Pair, turn: Turn, meanwhile: Meanwhile, dirty: bool
) -> None:
    meanwhile("turn.ran", lambda: take_over(two))
    ended = turn(COMMITS.format("mine.txt") + ("echo {} > sync/state.json" if dirty else ""))

    assert (ended.exit_code, ended.code) == (8, "fenced")
    assert "epoch 9 of they" in ended.reason
    assert [kept(two.galph, ref, "mine.txt") for ref in two.galph.rescued()] == ["mine"]
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    assert_at_rest(two.galph)
    assert turn("exit 0").exit_code == 0
    two.check()


def test_a_turn_that_was_taken_while_its_daemon_was_dead_is_not_run_again(two: Pair, turn: Turn) -> None:
    killed_at(two, "turn.ran", two.galph.agent(COMMITS.format("mine.txt")))
    take_over(two)
    ended = turn("exit 9")
    assert (ended.exit_code, ended.code) == (8, "fenced")
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    two.check()


def test_a_turn_without_commits_that_was_taken_goes_forward(two: Pair, turn: Turn, meanwhile: Meanwhile) -> None:
    meanwhile("turn.ran", lambda: take_over(two))
    assert turn("exit 0").code == "fenced"
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    two.check()


def test_a_state_damaged_at_the_remote_during_a_turn_fences_it(two: Pair, turn: Turn) -> None:
    theirs = two.person()
    damage = f"(cd {theirs.path}; git pull -q; echo '{{' > sync/state.json; git commit -qam oops; git push -q) 2>&1"
    ended = turn(COMMITS.format("mine.txt") + damage)
    assert (ended.exit_code, ended.code) == (8, "fenced")
    assert "ends before its object is closed" in ended.reason
    refused = turn("exit 9")
    assert (refused.exit_code, refused.code) == (3, "state-truncated")


# --- the branch at the remote ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("update-ref refs/heads/main refs/heads/main~1", "remote-rewound"),
        ("update-ref -d refs/heads/main", "remote-branch-gone"),
        ("branch -m main other", "remote-branch-gone"),
    ],
    ids=["rewound", "deleted", "renamed"],
)
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_branch_that_was_taken_back_halts_and_is_not_published_again(
    two: Pair, turn: Turn, act: str, code: str, when: str
) -> None:
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    there = two.tip()
    if when == "before":
        assert turn("exit 0", role="ralph", clone=two.galph).exit_code == 0  # it has seen the tip
        two.hub.git(*act.split())
    ended = turn(COMMITS.format("mine.txt") + (f"git -C {two.hub.path} {act}" if when == "during" else ""))

    assert (ended.exit_code, ended.code) == (3, code)
    after = two.hub.git("for-each-ref", "refs/heads/")
    assert turn("exit 9").code == code  # nor by the next start
    assert two.hub.git("for-each-ref", "refs/heads/") == after

    if when == "during":
        two.hub.git("update-ref", "refs/heads/main", two.galph.git("rev-parse", "refs/orchestration/seen/main"))
        assert turn("exit 9").exit_code == 0  # put right, the work is handed off
        assert kept(two.hub, "main", "mine.txt") == "mine"
    else:
        two.hub.git("update-ref", "refs/heads/main", there)
        assert turn("exit 0").exit_code == 0


def test_a_rewritten_branch_is_told_from_one_that_went_on(two: Pair, turn: Turn) -> None:
    assert turn("exit 0").exit_code == 0
    theirs = two.person()
    theirs.git("commit", "-q", "--amend", "-m", "rewritten")
    theirs.git("push", "-q", "--force")
    refused = turn("exit 9")
    assert (refused.exit_code, refused.code) == (3, "remote-rewound")
    assert "update-ref -d refs/orchestration/seen/main" in refused.remedy


def test_a_branch_that_the_remote_never_had_is_to_be_published(two: Pair, turn: Turn) -> None:
    two.galph.git("switch", "-qc", "feature")
    refused = turn("exit 9")
    assert (refused.exit_code, refused.code) == (3, "remote-branch-missing")
    assert "`git push -u origin feature`" in refused.remedy


# --- the branch here -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diverged", [False, True])
def test_commits_that_the_remote_lacks_are_a_persons_to_publish(two: Pair, turn: Turn, diverged: bool) -> None:
    two.galph.write("mine.txt", "mine")
    two.galph.commit("mine")
    if diverged:
        theirs = two.person()
        theirs.write("theirs.txt", "theirs")
        theirs.commit("theirs")
        theirs.git("push", "-q")

    refused = turn("exit 9")

    assert (refused.exit_code, refused.code) == (3, "local-diverged" if diverged else "local-ahead")
    for command in refused.remedy.split("`")[1::2]:
        two.galph.git(*command.split()[1:])
    assert turn("exit 0").exit_code == 0
    two.check()


def test_an_uncommitted_file_in_the_way_of_what_came_is_named(two: Pair, turn: Turn) -> None:
    theirs = two.person()
    theirs.write("theirs.txt", "theirs")
    theirs.commit("theirs")
    theirs.git("push", "-q")
    two.galph.write("theirs.txt", "mine")
    two.galph.write("other.txt", "mine")

    refused = turn("exit 9")

    assert (refused.exit_code, refused.code) == (3, "would-overwrite")
    assert "theirs.txt" in refused.reason
    assert "other.txt" not in refused.reason
    (two.galph.path / "theirs.txt").unlink()
    assert turn("exit 0", "--allow-dirty").exit_code == 0
    two.check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merge.autoStash", "true"),
        ("branch.main.mergeOptions", "--autostash"),
        ("branch.main.mergeOptions", "--squash"),
        ("branch.main.mergeOptions", "-s ours"),
    ],
)
def test_how_a_person_likes_to_merge_changes_nothing(two: Pair, turn: Turn, key: str, value: str) -> None:
    two.galph.git("config", key, value)
    theirs = two.person()
    theirs.write("README.md", "theirs\n")
    theirs.commit("theirs")
    theirs.git("push", "-q")
    two.galph.write("README.md", "mine\n")

    refused = turn("exit 9", "--allow-dirty")

    assert (refused.exit_code, refused.code) == (3, "would-overwrite")
    assert (two.galph.path / "README.md").read_text() == "mine\n"
    assert (two.galph.dirt(), two.galph.git("stash", "list")) == (" M README.md", "")
    two.galph.git("checkout", "-q", "README.md")
    assert turn("exit 0").exit_code == 0
    assert (two.galph.git("rev-parse", "HEAD"), two.galph.dirt()) == (two.tip(), "")
    two.check()


def test_a_persons_tags_are_not_pushed_with_the_work(two: Pair, turn: Turn) -> None:
    two.galph.git("config", "push.followTags", "true")
    assert turn(COMMITS.format("mine.txt") + "git tag -a -m mine mine").exit_code == 0
    assert (two.hub.git("tag", "--list"), two.galph.git("tag", "--list")) == ("", "mine")


def test_a_branch_that_is_not_checked_out_follows_by_its_ref_alone(here: RemoteGround) -> None:
    bus = here.remote()
    view = bus.look()
    here.project.git("switch", "-qc", "aside")
    claim = claim_on(view)
    claimed = bus.claim(claim, bus.offer(claim, view.state)())
    assert isinstance(claimed, Claimed)
    work = here.project.git("commit-tree", "-p", claimed.base, "-m", "work", f"{claimed.base}^{{tree}}")
    here.put(state.encode(replace(bus.state_at(claimed.base), exit=True)))

    moved = bus.settle(bus.stamp(work, view.state, state.succeeded(view.state, claim.token, work, NOW)))
    assert isinstance(moved, Moved)
    after = bus.stamp(moved.tip, view.state, state.succeeded(view.state, claim.token, work, NOW))
    assert bus.settle(after) == Landed(after.commit)

    assert here.project.git("rev-parse", "main") == after.commit
    assert here.project.dirt() == ""
    here.put(b"{")
    here.project.git(
        "update-ref",
        "refs/heads/main",
        here.project.git("commit-tree", "-p", after.commit, "-m", "x", f"{work}^{{tree}}"),
    )
    here.project.git("update-ref", "refs/rescue/main/x", "main")
    bus.retreat()
    assert here.project.git("rev-parse", "main") == here.hub.git("rev-parse", "main")
    here.project.git("update-ref", "-d", "refs/heads/main")
    bus.retreat()
    assert here.project.git("branch", "--list", "main") == ""


def test_commits_of_a_persons_on_top_of_a_hand_off_stay_where_they_are(here: RemoteGround) -> None:
    bus = here.remote()
    hand_off = stamped(bus, bus.look())
    here.project.git("merge", "-q", "--ff-only", hand_off.commit)
    here.project.write("mine.txt", "mine")
    mine = here.project.commit("mine")
    assert bus.settle(hand_off) == Landed(hand_off.commit)
    assert here.project.git("rev-parse", "HEAD") == mine


def test_commits_that_no_rescue_ref_holds_are_never_left(here: RemoteGround) -> None:
    bus = here.remote()
    view = bus.look()
    here.project.write("mine.txt", "mine")
    mine = here.project.commit("mine")
    claim = claim_on(view)
    assert isinstance(bus.claim(claim, bus.offer(claim, view.state)()), Claimed)
    assert here.project.git("rev-parse", "HEAD") == mine
    here.put(b"{")
    bus.retreat()
    assert here.project.git("rev-parse", "HEAD") == mine


# --- what the host says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "entry"), [("running", "claiming"), ("status=ok", "stamped")])
def test_a_push_that_a_hook_refuses_waits_for_a_person_with_the_work_kept(
    two: Pair, turn: Turn, at: str, entry: str
) -> None:
    hook = Path(
        executable(
            two.hub.path / "hooks/update",
            f'#!/bin/sh\ngit log -1 --format=%s "$3" | grep -q {at} && echo "not on a Friday" >&2 && exit 1\nexit 0\n',
        )
    )
    ended = turn(COMMITS.format("mine.txt"))
    assert (ended.exit_code, ended.code, two.galph.journal()) == (3, "remote-policy", entry)
    assert turn("exit 9").code == "remote-policy"

    hook.unlink()
    assert turn("exit 0").exit_code == 0
    assert kinds(two) == [("claim", 1), ("hand-off", 1)]
    two.check()


@pytest.mark.parametrize(("skips", "marked"), [("claims", ["claim"]), ("all", ["claim", "hand-off"]), ("none", [])])
def test_state_commits_ask_the_ci_to_let_them_pass_as_configured(
    two: Pair, turn: Turn, skips: str, marked: list[str]
) -> None:
    assert turn("exit 0", "-c", f"sync.skip_ci={skips}").exit_code == 0
    said = [
        stamp.kind for stamp in two.stamps() if "[skip ci]" in two.hub.git("log", "-1", "--format=%b", stamp.commit)
    ]
    assert said == marked


# --- a peer that is gone ---------------------------------------------------------------------------------------------


class Later(SystemClock):
    """A clock whose stopwatch a test moves on."""

    ahead = 0.0

    def boottime(self) -> float:
        """Return seconds of the machine's clock, and those that have been skipped."""
        return super().boottime() + self.ahead


def beats(here: RemoteGround, text: str) -> None:
    """Let the peer show life."""
    tree = here.other.git("hash-object", "-t", "tree", "-w", "/dev/null")
    beat = here.other.git("commit-tree", tree, "-m", text)
    here.other.git("push", "-q", "--force", "origin", f"{beat}:refs/orchestration/main/lease/galph")


def test_a_peer_is_given_a_whole_lease_and_only_its_own_beats_count(tmp_path: Path) -> None:
    clock = Later()
    with ground("remote", tmp_path) as made, Loop(clock) as loop:
        here = RemoteGround(made.project, loop)
        now = here.remote().look().state
        nonce = "5" * 32
        here.put(state.encode(state.running(now, Token(1, "peer", nonce), "", NOW)))

        def sees(stale: Stale = Stale.WAIT) -> str | None:
            bus = here.remote(Config(sync=SyncSettings(stale=stale)))
            wait = bus.elsewhere(bus.look().state)
            return wait.why if wait else None

        assert "galph runs iteration 1 on peer since" in (sees() or "")
        clock.ahead = 599
        assert "galph runs iteration 1 on peer since" in (sees() or "")
        beats(here, f"1 {nonce} 1")
        assert "galph runs iteration 1 on peer since" in (sees() or "")  # new: counted from now
        clock.ahead = 1100
        beats(here, f"0 {'4' * 32} 7")  # a zombie's
        assert "galph runs iteration 1 on peer since" in (sees() or "")  # the peer's is not to be seen: again from now
        clock.ahead = 1701
        beats(here, f"0 {'4' * 32} 8")
        assert f"has shown no life for 601 s; if that machine is gone: `orchestrator takeover --nonce {nonce}`" in (
            sees() or ""
        )
        assert sees(Stale.STANDBY) is None


def test_a_standby_takes_over_after_a_lease_and_the_peer_is_fenced(
    two: Pair, turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(two, "turn.ran", two.galph.agent(COMMITS.format("mine.txt")))
    monkeypatch.setattr("orchestration.cli.run.SystemClock", Later)
    standby = ("-c", "sync.stale=standby")
    assert turn("exit 9", *standby, clone=two.ralph).code == "not-my-turn"
    monkeypatch.setattr(Later, "ahead", 601.0)

    assert turn("exit 0", *standby, clone=two.ralph).exit_code == 0

    assert kinds(two) == [("claim", 1), ("claim", 2), ("hand-off", 2)]
    assert turn("exit 9").code == "fenced"
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    two.check()
