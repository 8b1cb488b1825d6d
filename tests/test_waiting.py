"""Waiting for a peer and for a remote: signs of life, leases, outages, and how long anybody is patient."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import DOOR, Capture, Meanwhile, executable, kept, told
from orchestration import lease, remote
from orchestration.clock import SystemClock
from orchestration.lease import Observer
from orchestration.patience import Patience
from orchestration.settings import SyncSettings
from pair import PATIENCE, Pair, events, pair, running, until
from test_remote_bus import COMMITS, Later, Turn, pushes, take_over

BEATS = ("-c", "sync.heartbeat=0.05", "-c", "sync.lease=0.3", "-c", "limits.turn_timeout=60")
LEASE = "refs/orchestration/main/lease/galph"
TELLS = "logs/main/latest/events.jsonl"


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones."""
    return pair(tmp_path)


@pytest.fixture
def turn(two: Pair, capsys: Capture) -> Turn:
    """Run one turn of galph's with an agent made from shell text."""

    def one_turn(script: str = "true", *options: str) -> object:
        capsys.readouterr()
        agent = executable(two.galph.path.parent / f"agent{abs(hash(script))}", f"#!/bin/sh\n{script}")
        code = two.galph.call("--role", "galph", "--once", "--json", "--agent", agent, *options)
        return told(code, capsys.readouterr().out)

    return one_turn  # type: ignore[return-value]


def until_shell(condition: str) -> str:
    """Return shell text that waits for a condition."""
    return f"until {condition}; do sleep 0.02; done; "


def counted_beats(two: Pair) -> str:
    """Have the remote note every beat; return the note's path."""
    note = two.hub.path / "beats"
    note.touch()
    executable(two.hub.path / "hooks/post-receive", f"#!/bin/sh\ngrep /lease/ >> {note}\n")
    return str(note)


def ran(two: Pair) -> list[str]:
    """Return what agents noted of their runs."""
    return (two.galph.path.parent / "ran").read_text().split()


# --- signs of life ---------------------------------------------------------------------------------------------------


def test_beats_of_the_claim_land_on_the_lease_ref_while_the_agent_runs(two: Pair, turn: Turn) -> None:
    note = counted_beats(two)
    ended = turn(until_shell(f"[ $(wc -l < {note}) -ge 3 ]") + COMMITS.format("mine.txt"), *BEATS)

    assert (ended.exit_code, ended.notices) == (0, {})
    epoch, nonce, count, _ = two.hub.git("log", "-1", "--format=%B", LEASE).split()
    claim = two.stamps()[0]
    assert (int(epoch), nonce, int(count) >= 3) == (claim.epoch, claim.nonce, True)
    assert two.hub.git("rev-list", "--count", LEASE) == "1"
    assert two.galph.git("for-each-ref", "refs/orchestration/main/") == ""
    two.check()


def test_a_turn_that_is_taken_stops_its_agent(two: Pair) -> None:
    there = two.galph.path.parent / "there"
    agent = two.galph.agent(f"touch {there}; exec sleep 100000")
    daemon = two.start("galph", "--once", "--json", *BEATS, agent=agent)
    with running(daemon):
        until(there.exists)
        take_over(two)
        ended = events(daemon)[-1]
    assert (ended["exit_code"], ended["code"]) == (8, "fenced")
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    two.check()


def test_a_turn_that_is_taken_stops_its_gates(two: Pair) -> None:
    there = two.galph.path.parent / "there"
    gate = executable(two.galph.path.parent / "gate", f"#!/bin/sh\ntouch {there}; exec sleep 100000\n")
    agent = two.galph.agent(COMMITS.format("mine.txt"))
    daemon = two.start("galph", "--once", "--json", *BEATS, "-c", f"actors.galph.gates=[{gate}]", agent=agent)
    with running(daemon):
        until(there.exists)
        take_over(two)
        ended = events(daemon)[-1]
    assert (ended["exit_code"], ended["code"]) == (8, "fenced")
    assert [kept(two.galph, ref, "mine.txt") for ref in two.galph.rescued()] == ["mine"]
    two.check()


def takes_over(two: Pair) -> str:
    """Return a person's takeover as shell text."""
    nonce = '$(sed -n \'s/.*"nonce": "\\(.*\\)".*/\\1/p\' sync/state.json)'
    return f"(cd {two.person().path}; git pull -q; {sys.executable} {DOOR} takeover --nonce {nonce}) >/dev/null; "


def test_an_agent_whose_turn_was_taken_does_not_run_again_because_the_remote_fails_then(
    two: Pair, turn: Turn, meanwhile: Meanwhile
) -> None:
    away = two.hub.path.with_name("away")
    meanwhile("rescue.after_ref", lambda: two.hub.path.rename(away))
    note = two.galph.path.parent / "ran"
    ended = turn(f"echo ran >> {note}; {COMMITS.format('mine.txt')} {takes_over(two)} exec sleep 100000", *BEATS)
    away.rename(two.hub.path)

    assert (ended.exit_code, ended.code) == (8, "fenced")
    assert ran(two) == ["ran"]
    assert two.galph.git("rev-parse", "HEAD") == two.tip()
    two.check()


@pytest.mark.parametrize(
    ("act", "code"),
    [("update-ref refs/heads/main refs/heads/main~1", "remote-rewound"), ("branch -D main", "remote-branch-gone")],
)
def test_a_branch_that_is_taken_back_stops_the_agent_and_nothing_moves(
    two: Pair, turn: Turn, act: str, code: str
) -> None:
    ended = turn(COMMITS.format("mine.txt") + f"git -C {two.hub.path} {act} >/dev/null; exec sleep 100000", *BEATS)
    assert (ended.exit_code, ended.code) == (3, code)
    assert kept(two.galph, "HEAD", "mine.txt") == "mine"

    two.hub.git("update-ref", "refs/heads/main", two.galph.git("rev-parse", "HEAD^"))
    assert turn("exit 0").exit_code == 0
    assert kept(two.hub, "main", "mine.txt") == "mine"
    assert [stamp.kind for stamp in two.stamps()] == ["claim", "hand-off"]


def test_a_damaged_state_says_nothing_of_who_owns_the_turn(two: Pair, turn: Turn) -> None:
    note = counted_beats(two)
    theirs = two.person().path
    damage = (
        f"(cd {theirs}; git pull -q; echo '{{' > sync/state.json; git commit -qam oops; git push -q) 2>&1; : > {note}; "
    )
    ended = turn(damage + until_shell(f"[ $(wc -l < {note}) -ge 2 ]"), *BEATS)
    assert (ended.exit_code, ended.code) == (8, "fenced")


def test_a_remote_that_stalls_stops_neither_the_agents_output_nor_its_end(two: Pair, turn: Turn) -> None:
    stalls, stalled = two.hub.path / "stalls", two.hub.path / "stalled"
    serve = f'#!/bin/sh\n[ ! -e {stalls} ] || {{ touch {stalled}; exec sleep 100000; }}\nexec git-upload-pack "$@"\n'
    two.galph.git("config", "remote.origin.uploadpack", executable(two.hub.path / "serve", serve))
    script = f"touch {stalls}; " + until_shell(f"[ -e {stalled} ]")
    script += "i=0; while [ $i -lt 3000 ]; do echo line $i of many more lines; i=$((i+1)); done; "
    ended = turn(script + f"rm {stalls}", *BEATS)

    assert ended.exit_code == 0
    log = next(path for path in (two.galph.path / "logs/main").rglob("*.log") if "line" in path.read_text())
    assert "line 2999 of many" in log.read_text()


def test_looks_that_show_no_branch_are_not_believed_until_there_are_three_in_a_row(two: Pair, turn: Turn) -> None:
    looks, blind = two.hub.path / "looks", two.hub.path / "blind"
    serve = (
        f"#!/bin/sh\n[ ! -e {blind} ] || echo x >>{looks}\n"
        f"case $(cat {looks} 2>/dev/null | wc -l) in 1|2|4|5)\n"
        '  exec git -c uploadpack.hideRefs=refs/heads upload-pack "$@" ;; esac\n'
        'exec git-upload-pack "$@"\n'
    )
    two.galph.git("config", "remote.origin.uploadpack", executable(two.hub.path / "serve", serve))

    ended = turn(f"touch {blind}; " + until_shell(f"[ $(cat {looks} 2>/dev/null | wc -l) -ge 7 ]"), *BEATS)

    assert ended.exit_code == 0
    two.check()


@pytest.mark.parametrize("how", ["away", "objects", "hidden", "configuration"])
def test_a_person_is_told_once_that_no_sign_of_life_gets_through(two: Pair, turn: Turn, how: str) -> None:
    told_so = until_shell(f"grep -q 'no sign of life' {TELLS}")
    hub, away = two.hub.path, two.hub.path.with_name("away")
    script = f"mv {hub} {away}; {told_so} mv {away} {hub}"
    if how == "objects":  # the look goes through, what it shows cannot be fetched
        blob = f"$(git -C {two.person().path} rev-parse HEAD:theirs.txt | sed 's,..,&/,')"
        script = f"{pushes(two)} b={hub}/objects/{blob}; mv $b {away}; {told_so} mv {away} $b"
    if how == "hidden":  # a host that takes no such refs
        two.hub.git("config", "receive.hideRefs", "refs/orchestration")
        script = told_so
    if how == "configuration":  # no git of ours can read it
        script = f"cp .git/config {away}; echo '[half' >>.git/config; {told_so} cp {away} .git/config"

    ended = turn(script, *BEATS)

    assert ended.exit_code == 0
    assert "no sign of life has reached origin for" in ended.notices["lease"]
    assert (two.galph.path / TELLS).read_text().count("no sign of life") == 1
    two.check()


@pytest.mark.parametrize("options", [BEATS, ("-c", "limits.snapshot_interval=0.1")], ids=["beats", "snapshots"])
def test_a_moment_without_descriptors_costs_no_turn(two: Pair, options: tuple[str, ...]) -> None:
    ready, go = two.hub.path / "ready", two.hub.path / "go"
    agent = executable(two.hub.path / "agent", f"#!/bin/sh\ntouch {ready}; {until_shell(f'[ -e {go} ]')}")
    daemon = two.galph.start("--role", "galph", "--once", "--agent", agent, *options)
    with running(daemon):
        until(ready.exists)
        time.sleep(0.5)
        used = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, 4096))
        time.sleep(1)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 4096))
        go.touch()
        said, _ = daemon.communicate(timeout=PATIENCE)
    assert daemon.returncode == 0, said
    two.check()


def test_a_sign_of_life_counts_from_when_it_was_first_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = Later(), tmp_path / "observed.json"
    start = SystemClock().boottime()
    monkeypatch.setattr(Later, "boottime", lambda self: start + self.ahead)

    def seen(beat: str, ahead: float, turn: str = "turn") -> float:
        clock.ahead = ahead
        return round(Observer(path, clock).unchanged(turn, lambda: beat), 3)  # as a process of its own

    assert seen("a", 0) == 0  # whatever beats there: that it began is sign enough
    assert [seen("a", 1), seen("a", 6), seen("a", 701), seen("b", 702), seen("b", 703)] == [0, 5, 700, 0, 1]
    assert [seen("b", 704, "another"), seen("", 706, "another")] == [0, 2]
    assert [seen("b", 707, "another"), seen("b", 709, "another")] == [0, 2]
    assert [seen("b", 600, "another"), seen("b", 602, "another")] == [
        0,
        2,
    ]  # a stopwatch that went back measures nothing
    monkeypatch.setattr(lease, "boot_id", lambda: "another start of the machine")
    assert [seen("b", 603, "another"), seen("b", 605, "another")] == [0, 2]
    path.write_text("{")
    assert [seen("", 606), seen("", 607)] == [0, 1]


# --- patience --------------------------------------------------------------------------------------------------------


class Still(SystemClock):
    """A stopwatch that only a test moves."""

    at = 0.0

    def monotonic(self) -> float:
        """Return its seconds."""
        return self.at


def test_a_peer_is_looked_for_often_at_first_and_never_less_than_the_interval_also_after_weeks() -> None:
    patience = Patience(Still(), SyncSettings(poll_interval=5), once=False)
    pauses = [patience.for_peer() for _ in range(100_000)]
    assert pauses[:6] == [1.0, 1.5, 2.25, 3.375, 5.0, 5.0]
    assert set(pauses[5:]) == {5.0}
    patience.over()
    assert patience.for_peer() == 1.0


def test_a_wait_for_the_peer_says_nothing_of_the_remote_nor_that_of_the_peer() -> None:
    patience = Patience(Still(), SyncSettings(poll_interval=5), once=False)
    for _ in range(50):
        patience.for_peer()
    assert (patience.for_remote("network") or 0) <= 1.25
    for _ in range(50):
        patience.for_remote("network")
    patience.for_peer()
    assert (patience.for_remote("network") or 0) <= 1.25


def test_a_remote_is_tried_less_and_less_often_and_not_by_everybody_at_once() -> None:
    patience = Patience(Still(), SyncSettings(), once=False)
    pauses = [patience.for_remote("network") or 0 for _ in range(5000)]
    least = [1, 2, 4, 8, 16, 32, *[45] * 4994]
    assert all(few <= pause <= few * 1.25 for pause, few in zip(pauses, least, strict=True))
    assert len(set(pauses[10:])) > 4000
    patience.over()
    assert (patience.for_remote("auth") or 0) >= 60  # only a person can help


@pytest.mark.parametrize(
    ("once", "max_wait", "remote_gets", "peer_gets"),
    [(False, None, None, None), (True, None, 60, None), (True, 20.0, 20, 20), (False, 90.0, 90, 90)],
)
def test_patience_ends_with_the_longest_wait(
    once: bool, max_wait: float | None, remote_gets: float | None, peer_gets: float | None
) -> None:
    for kind, gets in (("auth", remote_gets), ("", peer_gets)):
        clock = Still()
        patience = Patience(clock, SyncSettings(max_wait=max_wait, poll_interval=60), once=once)

        def wait(kind: str = kind, patience: Patience = patience) -> float | None:
            return patience.for_remote(kind) if kind else patience.for_peer()

        for _ in range(1000):
            pause = wait()
            if pause is None:
                break
            clock.at += pause
        assert (clock.at if pause is None else None) == gets


# --- the daemon waits ------------------------------------------------------------------------------------------------


def test_who_waits_too_long_for_the_peer_ends_with_6(two: Pair, capsys: Capture) -> None:
    capsys.readouterr()
    code = two.ralph.call("--role", "ralph", "--json", "--agent", two.worker(), "-c", "sync.max_wait=0.05")
    ended = told(code, capsys.readouterr().out)
    assert (ended.exit_code, ended.code) == (6, "waited")
    assert "galph is to run iteration 1" in ended.reason


def test_who_waits_too_long_for_the_remote_ends_with_5_and_hands_off_at_the_next_start(two: Pair, turn: Turn) -> None:
    away = two.hub.path.with_name("away")
    ended = turn(COMMITS.format("mine.txt") + f"mv {two.hub.path} {away}", "-c", "sync.max_wait=0.05")
    assert ended.exit_code == 5
    assert ended.code.startswith("remote-")
    assert two.galph.journal() == "stamped"

    away.rename(two.hub.path)
    assert turn("exit 9").exit_code == 0
    two.check()


def waiting(daemon: subprocess.Popen[str]) -> str:
    """Read what a daemon prints until it waits; return why."""
    assert daemon.stdout
    for line in daemon.stdout:
        event = json.loads(line)
        if event["event"] == "waiting":
            return str(event["why"])
    raise AssertionError("it ended")


def outage(two: Pair) -> tuple[subprocess.Popen[str], Path]:
    """Start a turn whose agent takes the remote away; return its daemon, and where the remote is then."""
    away = two.hub.path.with_name("away")
    note = two.galph.path.parent / "ran"
    agent = two.galph.agent(f"echo ran >> {note}; {COMMITS.format('mine.txt')} mv {two.hub.path} {away}")
    return two.start("galph", "--once", "--json", agent=agent), away


def test_an_outage_is_waited_out_and_the_agent_is_not_run_again(two: Pair) -> None:
    daemon, away = outage(two)
    with running(daemon):
        assert "trying again" in waiting(daemon)
        away.rename(two.hub.path)
        ended = events(daemon)
    assert (daemon.returncode, ran(two)) == (0, ["ran"])
    assert [event for event in ended if event["event"] == "waiting"] == []  # told once
    two.check()


@pytest.mark.parametrize(("word", "code"), [(["stop"], 0), (["stop", "--now"], 143)])
def test_a_stop_ends_an_outage_and_the_next_start_hands_off(two: Pair, turn: Turn, word: list[str], code: int) -> None:
    daemon, away = outage(two)
    with running(daemon):
        waiting(daemon)
        assert two.galph.run(*word).returncode == 0
        ended = events(daemon)[-1]
    assert (daemon.returncode, ended["code"]) == (code, "-".join(word).replace("--", ""))
    assert two.galph.journal() == "stamped"

    away.rename(two.hub.path)
    assert turn("exit 9").exit_code == 0
    assert ran(two) == ["ran"]
    two.check()


def test_a_stop_does_not_wait_for_a_remote_that_stalls(two: Pair, turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_GRACE", 0.05)
    stall = executable(two.hub.path / "stall", f"#!/bin/sh\nkill -TERM {os.getpid()}; exec sleep 100000\n")
    two.galph.git("config", "remote.origin.uploadpack", stall)
    assert turn("exit 9").code == "signal"
    two.galph.git("config", "--unset", "remote.origin.uploadpack")
    assert turn("exit 0").exit_code == 0


def test_a_failure_that_somebody_has_decided_on_elsewhere_is_no_reason_not_to_stop(
    two: Pair, capsys: Capture, meanwhile: Meanwhile
) -> None:
    def decide() -> None:
        theirs = two.person()
        assert theirs.run("skip").returncode == 0
        control = two.galph.path / ".git/orchestration/control"
        (control / "stop").touch()

    meanwhile("turn.settled", decide)
    capsys.readouterr()
    agent = two.galph.agent("exit 3")
    code = two.galph.call("--role", "galph", "--json", "--agent", agent, "-c", "sync.max_wait=10")
    assert told(code, capsys.readouterr().out).code == "stop"
    assert code == 0


def test_whoever_is_not_asked_waits_until_the_peer_hands_off(two: Pair) -> None:
    """A remote on this machine wakes the waiter: the poll interval is far longer than the test is patient."""
    ralph = two.start("ralph", "--json", "-n", "1", "-c", "sync.poll_interval=100000")
    with running(ralph):
        assert "galph is to run" in waiting(ralph)
        assert two.turn("galph") == 0
        ralph.communicate(timeout=PATIENCE)
    assert ralph.returncode == 0
    two.check()
