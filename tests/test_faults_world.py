"""Faults 13 to 23 of the hand-off: wires that break, servers that refuse. Told right, work kept, and gone on with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import executable
from orchestration.patience import Patience
from orchestration.settings import SyncSettings
from servers import git_daemon, proxy, small_disk, sshd, web
from test_process import FakeClock
from world import SOON, World, ended, tried, world

QUICK = "from orchestration import remote; remote.TIMEOUT = 1.0"
"""A remote call is ended after a second."""

HOUR = 3600.0


@pytest.fixture
def here(tmp_path: Path) -> World:
    """Give a world that stands."""
    return world(tmp_path)


def port(url: str) -> int:
    """Return the port of an address."""
    return int(url.rsplit(":", 1)[1].partition("/")[0])


def points(size: int, count: int) -> list[int]:
    """Return so many byte counts from nothing to one byte less than all, the ends among them."""
    return sorted({0, 1, size - 1, *(size * part // count for part in range(1, count))})


# --- wires ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["up", "down"])
def test_fault_13_a_push_cut_at_byte_k_counts_for_what_has_become_of_it(here: World, way: str) -> None:
    with git_daemon(here.folder) as url, proxy(port(url)) as wire:
        here.reach(f"{url}/hub.git", f"git://127.0.0.1:{wire.port}/hub.git")
        assert here.run("galph").exit_code == 0
        codes = set()
        for place in points(wire.passed[way] // 2, 4):
            wire.mend()
            setattr(wire, way, place)
            before, role = here.hand_offs(), here.two.state()["expected_actor"]
            cut = here.run(role, *SOON)
            codes.add(cut.code)
            assert here.hand_offs() == before + (cut.exit_code == 0), (place, cut)
            wire.mend()
            if cut.exit_code:
                assert here.run(role).exit_code == 0
        assert "remote-unknown" in codes
        assert codes <= {"once", "remote-unknown"}
        here.goes_on()


def test_fault_13_a_look_or_a_fetch_cut_at_byte_k_shows_nothing(here: World) -> None:
    assert here.run("galph").exit_code == 0
    with git_daemon(here.folder) as url, proxy(port(url)) as wire:
        here.reach(f"git://127.0.0.1:{wire.port}/hub.git", str(here.two.hub.path))
        head, seen = here.two.ralph.git("rev-parse", "HEAD"), set()
        for place in range(0, 9000, 280):
            wire.mend()
            wire.down = place
            cut = here.run("ralph", *SOON)
            seen.add(cut.code)
            if cut.exit_code == 0:  # the cut lies behind all that was said
                break
            assert (cut.exit_code, here.two.ralph.git("rev-parse", "HEAD")) == (5, head), (place, cut)
        assert seen == {"remote-unknown", "once"}
        assert here.calls(" fetch ") > 2, "some cuts were in the look, some in the fetch"
        wire.mend()
        here.goes_on()


def test_fault_14_an_hour_without_the_remote_is_waited_out_and_its_return_noticed_within_a_minute() -> None:
    clock = FakeClock()
    patience = Patience(clock, SyncSettings(), once=False)
    pauses = []
    while clock.seconds < HOUR:
        pause = patience.for_remote("network")
        assert pause is not None
        pauses.append(pause)
        clock.advance(pause)
    assert max(pauses) <= 60
    assert len(pauses) < HOUR / 10
    patience.over()
    again = patience.for_remote("network")
    assert again is not None
    assert again <= 1.25


def test_fault_14_a_remote_that_is_down_when_the_work_is_done_gets_it_as_soon_as_it_is_back(here: World) -> None:
    with git_daemon(here.folder) as url, proxy(port(url)) as wire:
        here.reach(f"git://127.0.0.1:{wire.port}/hub.git")
        with here.held("galph", "-n", "1", once=False) as daemon:
            wire.up = 0
        tried(lambda: here.calls(" ls-remote "), 2)
        wire.mend()
        assert ended(daemon).exit_code == 0
        assert here.pushes() <= 3, "the claim, the push that failed, the push that landed"
        here.goes_on()


def test_fault_14_a_repository_that_was_moved_away_is_named_and_the_work_waits_for_it(here: World) -> None:
    away = here.two.hub.path.with_name("away.git")
    with here.held("galph", *SOON) as daemon:
        here.two.hub.path.rename(away)
    gone = ended(daemon)
    assert (gone.exit_code, gone.code) == (5, "remote-not-found")
    assert "origin" in gone.remedy
    assert here.run("galph", *SOON).code == "remote-not-found"
    away.rename(here.two.hub.path)
    here.goes_on()


@pytest.mark.parametrize("place", ["at-the-look", "at-the-hand-off"])
def test_fault_15_a_server_that_says_nothing_is_left_after_a_while(here: World, place: str) -> None:
    with git_daemon(here.folder) as url, proxy(port(url)) as wire:
        here.reach(f"git://127.0.0.1:{wire.port}/hub.git")
        wire.hold = True
        if place == "at-the-look":
            wire.up = 0
            stalled = here.run("galph", *SOON, patch=QUICK)
        else:
            with here.held("galph", *SOON, patch=QUICK) as daemon:
                wire.up = 0
            stalled = ended(daemon)
        assert (stalled.exit_code, stalled.code) == (5, "remote-unknown")
        assert "1 s" in stalled.reason
        assert here.pushes() <= 3
        wire.mend()
        here.goes_on()


@pytest.mark.parametrize("silence", [False, True], ids=["cut", "silence"])
def test_fault_16_a_push_whose_answer_is_lost_has_landed_all_the_same(here: World, silence: bool) -> None:
    with git_daemon(here.folder) as url, proxy(port(url)) as wire:
        here.reach(f"{url}/hub.git", f"git://127.0.0.1:{wire.port}/hub.git")
        assert here.run("galph").exit_code == 0
        wire.hold = silence
        wire.down = wire.passed["down"] // 2 - 10  # all that the server says but the end of its last word
        done = here.run("ralph", patch=QUICK)
        assert done.exit_code == 0, done
        assert here.pushes() == 4
        wire.mend()
        here.goes_on()


def test_fault_17_a_name_that_nobody_knows_is_the_network_s_trouble(here: World) -> None:
    usual, lost = str(here.two.hub.path), "git://remote.invalid/hub.git"
    here.reach(lost, lost)
    unknown = here.run("galph", *SOON)
    assert (unknown.exit_code, unknown.code) == (5, "remote-network")
    assert "remote.invalid" in unknown.reason
    here.reach(usual, usual)
    here.goes_on()


# --- servers that refuse ----------------------------------------------------------------------------------------------

Act = Callable[[], object]


class Fault(NamedTuple):
    """A server that refuses: its ground gives how to break and how to mend it; what a person is told."""

    ground: Callable[[World], AbstractContextManager[tuple[Act, Act]]]
    exit_code: int
    code: str
    reason: str
    remedy: str


@contextmanager
def expiring(here: World) -> Iterator[tuple[Act, Act]]:
    """Give a web server with a login, whose password is changed."""
    here.two.hub.git("config", "http.receivepack", "true")
    with web(here.folder) as site:
        site.login = "somebody:sesame"
        here.reach(f"{site.url.replace('//', '//somebody:sesame@')}/hub.git")
        yield lambda: setattr(site, "login", "somebody:changed"), lambda: setattr(site, "login", "somebody:sesame")


@contextmanager
def throttling(here: World) -> Iterator[tuple[Act, Act]]:
    """Give a web server that has had enough."""
    here.two.hub.git("config", "http.receivepack", "true")
    with web(here.folder) as site:
        here.reach(f"{site.url}/hub.git")
        yield lambda: setattr(site, "status", 429), lambda: setattr(site, "status", None)


@contextmanager
def stranger(here: World) -> Iterator[tuple[Act, Act]]:
    """Give an ssh server whose key is not the one that was known."""
    with sshd(here.folder / "ssh") as shell:
        here.reach(f"{shell.url}{here.two.hub.path}")
        for clone in here.two.clones():
            clone.git("config", "core.sshCommand", shell.command())
        known = shell.folder / "hosts"
        right, wrong = known.read_text(), (shell.folder / "wrong-hosts").read_text()
        yield lambda: known.write_text(wrong), lambda: known.write_text(right)


@contextmanager
def hooked(here: World, name: str = "pre-receive", says: str = "no pushes on a Friday") -> Iterator[tuple[Act, Act]]:
    """Give a hook that refuses."""
    hook = here.two.hub.path / "hooks" / name
    yield lambda: executable(hook, f"#!/bin/sh\necho '{says}' >&2\nexit 1\n"), hook.unlink


def protected(here: World) -> AbstractContextManager[tuple[Act, Act]]:
    """Give a branch that its host lets nobody push, in the words of one."""
    return hooked(here, "update", "error: GH006: Protected branch update failed for refs/heads/main.")


@contextmanager
def full(here: World) -> Iterator[tuple[Act, Act]]:
    """Give a remote on a disk that fills up."""
    with small_disk(here.folder / "disk", "4m") as disk:
        place = disk / "hub.git"
        here.two.hub.git("clone", "--quiet", "--bare", str(here.two.hub.path), str(place))
        here.two.hub.path.rename(here.folder / "old.git")
        here.two.hub.path.symlink_to(place)
        here.two.hub.git("config", "core.logAllRefUpdates", "always")
        filler = disk / "filler"

        def fill() -> None:
            with suppress(OSError), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))

        yield fill, filler.unlink
        here.two.hub.path.unlink()
        (here.folder / "old.git").rename(here.two.hub.path)


FAULTS = {
    "fault-18-credentials-expire": Fault(expiring, 5, "remote-auth", "Authentication failed", "credential"),
    "fault-19-host-key-changed": Fault(stranger, 5, "remote-auth", "Host key verification failed", "ssh-keygen"),
    "fault-20-hook-rejects": Fault(hooked, 3, "remote-policy", "no pushes on a Friday", "let this account push main"),
    "fault-21-branch-protected": Fault(protected, 3, "remote-policy", "GH006", "let this account push main"),
    "fault-22-throttled": Fault(throttling, 5, "remote-throttled", "429", "tried again later"),
    "fault-23-remote-disk-full": Fault(full, 5, "remote-full", "No space left", "free space"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_server_that_refuses_is_told_right_asked_rarely_and_the_work_waits(here: World, fault: Fault) -> None:
    with fault.ground(here) as (breaks, mends):
        with here.held("galph", *SOON) as daemon:
            assert here.pushes() == 1
            breaks()
        refused = ended(daemon)
        assert (refused.exit_code, refused.code) == (fault.exit_code, fault.code)
        assert fault.reason in refused.reason
        assert fault.remedy in refused.remedy
        assert "sesame" not in str(refused)
        assert here.pushes() <= 3, "no more than a try and another after the wait"
        assert here.two.galph.subjects()[-1] == "work 1/galph"

        pushes = here.pushes()
        assert here.run("galph", *SOON).code == fault.code
        asked = here.pushes()
        assert asked <= pushes + 2
        assert here.hand_offs() == 0

        mends()
        here.goes_on()
        assert here.pushes() == asked + 1 + 2 * 2, "one for this turn's hand-off, and two for each turn that went well"


@pytest.mark.parametrize("name", ["fault-18-credentials-expire", "fault-20-hook-rejects"])
def test_a_server_that_refuses_the_claim_has_no_agent_started(here: World, name: str) -> None:
    fault = FAULTS[name]
    with fault.ground(here) as (breaks, mends):
        breaks()
        before = here.two.tip()
        for _ in range(2):
            refused = here.run("galph", *SOON)
            assert (refused.exit_code, refused.code) == (fault.exit_code, fault.code)
        assert here.pushes() <= 4
        assert (here.two.tip(), here.ran()) == (before, {})
        mends()
        here.goes_on()
