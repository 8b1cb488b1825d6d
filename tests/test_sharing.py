"""What a person does from any clone while the turn is shared: decide, look, stop everybody."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from conftest import DOOR, Capture, Meanwhile, Project, executable, person, script, told
from pair import Pair, events, pair, running, until

SLEEPS = "cat >/dev/null\ntouch {there}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n"
"""An agent that says that it runs, and ends when it may."""


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones."""
    return pair(tmp_path)


class Sleeper:
    """An agent that runs until it is let go."""

    def __init__(self, two: Pair) -> None:
        folder = two.galph.path.parent
        self.there, self.go = folder / "there", folder / "go"
        self.path = two.galph.agent(SLEEPS.format(there=self.there, go=self.go), "sleeper")


def test_a_failed_turn_stops_both_sides_with_one_reason_and_is_retried_from_a_third_clone(
    two: Pair, capsys: Capture
) -> None:
    waiting = two.start("ralph", "--json")
    with running(waiting):
        assert two.turn("galph", agent=two.galph.agent("echo no idea >&2; exit 3", "fails")) == 4
        ended = events(waiting)[-1]
    assert (ended["exit_code"], ended["code"]) == (4, "agent-failed")
    assert "galph's turn of iteration 1 failed" in ended["reason"]
    assert "no idea" in ended["reason"]
    assert two.turn("galph") == 4  # and is not run again before a person decides

    third = two.person()
    assert "operator=retry → next=galph" in person(third, capsys, "retry")

    assert third.git("rev-parse", "HEAD") == two.tip()
    assert two.state()["status"] == "idle"
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    two.check()


@pytest.mark.parametrize(
    "words", [("retry",), ("skip",), ("stamp", "galph", "ok"), ("resume",)], ids=lambda words: words[0]
)
def test_nobody_decides_over_the_head_of_who_runs(two: Pair, capsys: Capture, words: tuple[str, ...]) -> None:
    third, sleeper = two.person(), Sleeper(two)
    galph = two.start("galph", "--once", agent=sleeper.path)
    with running(galph):
        until(sleeper.there.exists)
        third.git("pull", "--quiet")
        if words == ("resume",):
            script(third, capsys, "stop", "--everywhere")
        before = two.tip()
        refused = script(third, capsys, *words, code=3)
        assert two.tip() == before
        assert refused["error"] == "operator-not-now"
        sleeper.go.touch()
        galph.communicate()
    assert galph.returncode == 0


def test_a_turn_is_taken_from_a_machine_that_is_gone_and_its_late_work_is_kept_there(
    two: Pair, capsys: Capture
) -> None:
    third, sleeper = two.person(), Sleeper(two)
    agent = two.galph.agent(
        f"echo late > late.txt; git add late.txt; git commit -qm late\n{Path(sleeper.path).read_text()}"
    )
    galph = two.start("galph", "--once", "--json", agent=agent)
    with running(galph):
        until(sleeper.there.exists)
        wrong = script(third, capsys, "takeover", "--nonce", "0" * 32, code=3)
        assert wrong["error"] == "takeover-other"
        nonce = two.state()["nonce"]
        done = script(third, capsys, "takeover", "--nonce", nonce)
        assert "operator=takeover" in done["subject"]
        sleeper.go.touch()
        ended = events(galph)[-1]

    assert (galph.returncode, ended["code"]) == (8, "fenced")
    assert "refs/rescue/" in ended["reason"]
    assert two.galph.git("log", "-1", "--format=%s", two.galph.rescued()[0] + "^") == "late"
    assert two.galph.git("rev-parse", "HEAD") == two.tip()  # and the clone goes on from there
    assert not (two.galph.path / "late.txt").exists()
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    two.check()


def test_stop_everywhere_lets_the_turn_end_and_then_stops_both_until_resume(two: Pair, capsys: Capture) -> None:
    sleeper = Sleeper(two)
    galph, ralph = two.start("galph", "--json", agent=sleeper.path), two.start("ralph", "--json")
    with running(galph, ralph):
        until(sleeper.there.exists)
        told = script(two.person(), capsys, "stop", "--everywhere")
        assert "operator=stop" in told["subject"]
        assert told["next"] == "once the turn in progress has ended, `orchestrator resume` clears it"
        again = script(two.person(), capsys, "stop", "--everywhere")
        assert again["commit"] is None
        sleeper.go.touch()
        ends = [events(daemon)[-1] for daemon in (galph, ralph)]

    assert [end["exit_code"] for end in ends] == [0, 0]
    assert all("stop --everywhere" in end["reason"] for end in ends)
    assert two.state()["status"] == "waiting-ralph"  # the turn was not cut
    assert two.turn("ralph") == 0
    assert two.state()["status"] == "waiting-ralph"
    assert person(two.person(), capsys, "resume").startswith("[SYNC i=1] operator=resume")
    assert two.turn("ralph") == 0
    assert two.state()["status"] == "complete"
    two.check()


def test_stop_everywhere_is_for_a_shared_turn(project: Project, capsys: Capture) -> None:
    assert script(project, capsys, "stop", "--everywhere", "--no-sync-via-git", code=3)["error"] == "not-shared"
    assert "--now reaches this clone alone" in person(project, capsys, "stop", "--everywhere", "--now", code=2)


def test_without_a_remote_or_a_turn_that_runs_a_takeover_says_so(project: Project, two: Pair, capsys: Capture) -> None:
    for words in (("takeover", "--nonce", "0" * 32), ("stop", "--everywhere")):
        refused = script(project, capsys, *words, code=3)
        assert (refused["error"], "`git remote add origin ADDRESS`" in refused["remedy"]) == ("remote-unknown", True)

    assert script(two.person(), capsys, "takeover", "--nonce", "0" * 32, code=3)["error"] == "operator-not-now"


def test_status_tells_who_runs_the_turn_from_any_clone_and_also_without_the_remote(two: Pair, capsys: Capture) -> None:
    third, sleeper = two.person(), Sleeper(two)
    galph = two.start("galph", "--once", agent=sleeper.path)
    with running(galph):
        until(sleeper.there.exists)
        screen = person(third, capsys, "status", "--sync-via-git")
        holder = two.state()["holder"]
        assert f"now     galph runs iteration 1 on {holder} since" in screen
        own = person(two.galph, capsys, "status")
        assert "now     galph supervisor.md: running, claimed" in own
        away = two.hub.path.rename(two.hub.path.with_name("away"))
        screen = person(third, capsys, "status", "--sync-via-git")
        assert "the remote was not reached" in screen
        assert "galph, iteration 1 (idle)" in screen  # what this clone knows
        away.rename(two.hub.path)
        sleeper.go.touch()
        galph.communicate()


def test_the_next_turn_is_shared_as_the_last_one_was(two: Pair) -> None:
    assert two.turn("galph") == 0

    assert two.galph.call("run", "--once", "--agent", two.worker()) == 0
    assert two.state()["status"] == "complete"
    assert two.galph.call("run", "--no-sync-via-git", "--once", "--agent", two.worker()) == 0
    assert two.state()["status"] == "complete"
    assert two.galph.state()["status"] == "waiting-ralph"
    assert two.galph.call("run", "--once", "--agent", two.worker()) == 0  # and so it stays
    assert two.galph.state()["status"] == "complete"
    assert two.galph.call("--role", "galph", "--once", "--agent", two.worker()) == 3  # the remote lacks these


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode", "role"), "--mode role needs --role"),
        (("--mode", "combined", "--role", "galph"), "--mode combined has no --role"),
        (("--role", "galph", "--no-sync-via-git"), "one role alone needs the other through git"),
        (("--role", "galph", "--no-git"), "one role alone needs the other through git"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_role_needs_the_remote(two: Pair, capsys: Capture, words: tuple[str, ...], said: str) -> None:
    assert said in person(two.galph, capsys, *words, code=2)


def test_both_roles_on_one_clone_through_the_remote(two: Pair) -> None:
    assert two.galph.call("--mode", "combined", "--sync-via-git", "-n", "2", "--agent", two.worker()) == 0
    assert [stamp.kind for stamp in two.stamps()] == ["claim", "hand-off"] * 4
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    assert two.galph.dirt() == ""
    two.check()


def test_the_ancestors_way_to_say_a_role(two: Pair) -> None:
    assert two.galph.call("supervisor", "--sync-via-git", "--once", "--agent", two.worker()) == 0
    assert two.ralph.call("loop", "--sync-via-git", "--once", "--agent", two.worker()) == 0
    assert two.state()["status"] == "complete"
    two.check()


def test_what_sharing_needs_is_refused_before_the_first_claim(
    two: Pair, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = two.galph.path.parent / "absent"
    absent.mkdir()
    executable(absent / "git-lfs", "#!/bin/sh\nexit 127\n")
    monkeypatch.setenv("PATH", f"{absent}:{os.environ['PATH']}")
    clone, before = two.galph, two.tip()
    capsys.readouterr()
    for spoil, code, mend in (
        ("git remote rename origin other", "remote-unknown", "git remote rename other origin"),
        ("echo '*.bin filter=lfs' > .gitattributes", "lfs-missing", "rm .gitattributes"),
        ("git rev-parse HEAD > .git/shallow", "clone-shallow", "rm .git/shallow"),
        ("git branch -m main spare", "remote-branch-missing", "git branch -m spare main"),
    ):
        clone.git("-c", f"alias.x=!{spoil}", "x")
        refused = told(
            clone.call("--role", "galph", "--once", "--json", "--agent", two.worker()), capsys.readouterr().out
        )
        assert (refused.exit_code, refused.code) == (3, code)
        rows = script(clone, capsys, "doctor", "--sync-via-git", "--agent", two.worker(), code=3)
        assert any(row["name"] == "sharing" and row["level"] == "problem" and row["remedy"] for row in rows), rows
        clone.git("-c", f"alias.x=!{mend}", "x")
    assert two.tip() == before
    assert two.turn("galph") == 0


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_fault_54_what_git_lfs_keeps_is_uploaded_with_the_work(two: Pair) -> None:
    for clone in two.clones():
        clone.git("lfs", "install", "--local")
    two.galph.git("lfs", "track", "*.bin")
    two.galph.commit("large files")
    two.galph.git("push", "--quiet", "--no-verify")
    agent = two.galph.agent("echo large > large.bin; git add large.bin; git commit --quiet -m large")

    assert (two.turn("galph", agent=agent), two.turn("ralph")) == (0, 0)

    assert two.hub.git("show", "main:large.bin").startswith("version https://git-lfs")
    assert (two.ralph.path / "large.bin").read_text() == "large\n"
    two.check()


def test_stop_everywhere_tells_what_refuses_it_and_tries_again_where_somebody_was_faster(
    two: Pair, capsys: Capture
) -> None:
    third, count = two.person(), two.hub.path / "count"
    hook = Path(executable(two.hub.path / "hooks" / "pre-receive", "#!/bin/sh\necho no robots; exit 1\n"))
    refused = script(third, capsys, "stop", "--everywhere", code=3)
    assert (refused["error"], "no robots" in refused["message"]) == ("remote-policy", True)
    hook.unlink()

    faster = "git -C {0} pull -q && git -C {0} commit -q --allow-empty -m faster && git -C {0} push -q"
    theirs = two.person("theirs").path
    wrapper = executable(
        two.hub.path / "serve",
        f"#!/bin/sh\necho x >>{count}; [ $(wc -l <{count}) -gt $(cat {count}.most) ] || "
        f'({faster.format(theirs)}) >&2\nexec git-receive-pack "$@"\n',
    )
    third.git("config", "remote.origin.receivepack", wrapper)
    Path(f"{count}.most").write_text("100")
    assert script(third, capsys, "stop", "--everywhere", code=5)["error"] == "remote-busy"
    assert two.state()["exit"] is False

    Path(f"{count}.most").write_text("12")
    stopped = script(third, capsys, "stop", "--everywhere")
    assert ("operator=stop" in stopped["subject"], stopped["next"]) == (True, "`orchestrator resume` clears it")
    assert (two.state()["exit"], two.state()["epoch"]) == (True, 1)
    assert "the exit flag is set already" in person(third, capsys, "stop", "--everywhere")
    assert person(third, capsys, "resume", "--sync-via-git").startswith("[SYNC i=1] operator=resume")


def test_a_standby_is_refused_where_the_host_takes_no_signs_of_life(two: Pair, capsys: Capture) -> None:
    two.hub.git("config", "receive.hideRefs", "refs/orchestration")
    capsys.readouterr()
    words = ("--role", "ralph", "--once", "--json", "-c", "sync.stale=standby", "--agent", two.worker())
    refused = told(two.ralph.call(*words), read(capsys))
    assert (refused.exit_code, refused.code) == (3, "standby-blind")
    short = ("--role", "ralph", "--once", "--json", "-c", "sync.lease=3", "--agent", two.worker())
    assert told(two.ralph.call(*short), read(capsys)).code == "config-bad-value"


@pytest.mark.parametrize("taken", [False, True], ids=["the claim stands", "the claim was taken back"])
def test_a_hand_off_that_cannot_land_is_given_up_and_one_that_can_is_not(
    two: Pair, capsys: Capture, taken: bool
) -> None:
    base = two.tip()
    killed = two.start("galph", "--once", env={"GALPH_FAILPOINT": "settle.before_push:KILL"})
    killed.communicate()
    if taken:  # a person takes back what the claim stands on, and the clones are told that it was meant
        two.hub.git("update-ref", "refs/heads/main", base)
        two.galph.git("update-ref", "-d", "refs/orchestration/seen/main")
        capsys.readouterr()
        ended = told(two.galph.call("--role", "galph", "--once", "--json", "--agent", two.worker()), read(capsys))
        assert (ended.exit_code, ended.code) == (8, "fenced")
        assert two.tip() == base
        assert two.galph.git("log", "-1", "--format=%s", two.galph.rescued()[0] + "^") == "work 1/galph"
        return
    assert person(two.galph, capsys, "abandon").startswith("given up; its work is kept in refs/rescue/")
    assert two.galph.journal() == "idle"
    two.galph.git("reset", "--quiet", "--keep", two.tip())
    assert two.turn("galph") == 0
    assert [stamp.kind for stamp in two.stamps()] == ["claim", "claim", "hand-off"]
    killed = two.start("ralph", "--once", env={"GALPH_FAILPOINT": "settle.after_push:KILL"})
    killed.communicate()
    assert script(two.ralph, capsys, "abandon", code=3)["error"] == "turn-none"
    assert two.turn("ralph") == 0
    two.check()


def test_a_claim_that_a_person_takes_back_is_left_also_where_nothing_was_done(two: Pair) -> None:
    base, idle = two.tip(), two.galph.agent("cat >/dev/null")
    two.start("galph", "--once", agent=idle, env={"GALPH_FAILPOINT": "settle.before_push:KILL"}).communicate()
    two.hub.git("update-ref", "refs/heads/main", base)
    two.galph.git("update-ref", "-d", "refs/orchestration/seen/main")

    assert two.galph.call("--role", "galph", "--once", "-q", "--agent", idle) == 8

    assert two.galph.git("rev-parse", "HEAD") == base


def test_a_claim_whose_turn_has_not_begun_is_given_up(two: Pair, capsys: Capture) -> None:
    two.start("galph", "--once", env={"GALPH_FAILPOINT": "claim.before_push:KILL"}).communicate()
    assert two.galph.journal() == "claiming"

    assert script(two.galph, capsys, "abandon")["kept"] is None

    assert two.galph.journal() == "idle"
    assert two.turn("galph") == 0
    assert [stamp.kind for stamp in two.stamps()] == ["claim", "hand-off"]
    two.check()


def test_a_gate_is_ended_when_its_turn_is_taken(two: Pair, capsys: Capture) -> None:
    third = two.person()
    taking = (
        f'cd {third.path} && git pull -q && nonce=$(sed -n \'s/.*"nonce": "\\(.*\\)",*/\\1/p\' sync/state.json) && '
        f"{sys.executable} {DOOR} takeover --nonce $nonce; exec sleep 1000"
    )
    two.galph.write("gate.sh", taking)
    two.galph.commit("a gate that takes long")
    two.galph.git("push", "--quiet")
    gate = ("-c", "actors.galph.gates=[sh gate.sh]", "-c", "sync.heartbeat=0.1")

    out = told(two.galph.call("--role", "galph", "--once", "--json", "--agent", two.worker(), *gate), read(capsys))

    assert (out.exit_code, out.code) == (8, "fenced")
    assert two.galph.git("log", "-1", "--format=%s", two.galph.rescued()[0] + "^") == "work 1/galph"
    assert two.state()["status"] == "idle"
    two.check()


def test_a_lock_of_ours_that_stands_in_the_way_of_the_hand_off_is_removed(
    two: Pair, capsys: Capture, meanwhile: Meanwhile
) -> None:
    third = two.person()

    def interfere() -> None:
        third.git("pull", "--quiet")
        third.write("note.txt", "mine\n")
        third.commit("note")
        third.git("push", "--quiet")
        two.galph.write(".git/refs/orchestration/seen/main.lock", "")

    meanwhile("stamp.built", interfere)
    out = told(two.galph.call("--role", "galph", "--once", "--json", "--agent", two.worker()), read(capsys))

    assert out.exit_code == 0
    assert "seen/main.lock" in out.notices["lock-removed"]
    assert two.hub.git("show", "main:note.txt") == "mine"
    two.check()


def test_a_move_that_was_cut_short_is_finished_and_what_lies_in_its_way_is_kept(two: Pair, capsys: Capture) -> None:
    adds = "echo new > new.txt; echo changed > src/app.py; git rm -q README.md; git add -A; git commit -qm work"
    assert two.turn("galph", agent=two.galph.agent(adds, "adds")) == 0
    clone, tip = two.ralph, two.tip()
    clone.git("fetch", "--quiet")
    clone.write("src/app.py", "half wri")  # what a killed git, or a person since, has left
    clone.write(".git/orchestration/moving", f"main\n{tip}\n")

    out = told(clone.call("--role", "ralph", "--once", "--json", "--agent", two.worker()), read(capsys))

    assert out.exit_code == 0
    kept = next(ref for ref in clone.rescued() if "/move/" in ref)
    assert kept in out.notices["move-finished"]
    assert clone.git("show", f"{kept}:src/app.py") == "half wri"
    assert (clone.path / "src/app.py").read_text() == "changed\n"
    assert clone.dirt() == ""
    assert not (clone.path / ".git/orchestration/moving").exists()
    for text in ("other\n" + tip + "\n", "main\n" + "0" * 40 + "\n", f"main\n{tip}\n"):
        clone.write(".git/orchestration/moving", text)  # of another branch, of a commit that is not here, done already
        assert clone.call("--role", "ralph", "--once", "--agent", two.worker()) == 0
    two.check()


def test_credentials_that_a_person_renews_are_no_change_of_the_agents(two: Pair) -> None:
    def renewed(where: str) -> int:
        killed = two.start("galph", "--once", env={"GALPH_FAILPOINT": "stamp.built:KILL"})
        killed.communicate()
        two.galph.git("config", where, "credential.helper", "store")
        code = two.turn("galph")
        two.galph.git("config", where, "--unset", "credential.helper")
        return code

    assert renewed("--global") == 0
    assert two.turn("ralph") == 0
    assert renewed("--local") == 3
    assert two.turn("galph") == 0
    two.check()


def read(capsys: Capture) -> str:
    """Return what was printed."""
    return capsys.readouterr().out
