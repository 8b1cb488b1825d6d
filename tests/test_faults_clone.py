"""Faults of a clone: gits killed at a system call, wrong clocks, a tree in a person's hands, left-over locks."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Project, everything
from orchestration.lease import Observer
from pair import running
from prove_syscalls import SAMPLE, Point, is_cut, served
from test_process import FakeClock
from world import World, ended, world


@pytest.fixture
def here(tmp_path: Path) -> World:
    """Give a world that stands."""
    return world(tmp_path)


# --- killed gits ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing; on Debian: apt-get install strace")
@pytest.mark.parametrize("point", SAMPLE, ids=lambda point: f"fault-8-{point}")
def test_a_git_killed_at_a_system_call_and_its_daemon_with_it_leave_nothing_for_a_person(
    tmp_path: Path, point: Point
) -> None:
    with served(tmp_path) as there:
        assert is_cut(there, point), "there was no such call"
        there.goes_on(again=True)


# --- clocks -----------------------------------------------------------------------------------------------------------

SKEWED = """
from datetime import timedelta
from orchestration.clock import SystemClock
now = SystemClock.now
SystemClock.now = lambda self: now(self) + timedelta({days})
"""
"""A machine whose clock is days wrong."""

JUMPING = """
from datetime import timedelta
from orchestration.clock import SystemClock
now, asked = SystemClock.now, []
SystemClock.now = lambda self: now(self) - timedelta(len(asked.append(0) or asked))
"""
"""A machine whose clock goes back a day each time it is read."""

ASLEEP = """
from datetime import timedelta
from orchestration.clock import SystemClock
now, boottime = SystemClock.now, SystemClock.boottime
SystemClock.now = lambda self: now(self) + timedelta(hours=8)
SystemClock.boottime = lambda self: boottime(self) + 8 * 3600
"""
"""A machine that has slept for eight hours."""


@pytest.mark.parametrize(
    ("galph", "ralph"),
    [
        pytest.param(SKEWED.format(days=365), SKEWED.format(days=-365), id="fault-37-a-year-apart"),
        pytest.param(JUMPING, JUMPING, id="fault-38-jumping-back"),
    ],
)
def test_two_clocks_that_are_wrong_change_nothing(here: World, galph: str, ralph: str) -> None:
    daemons = [here.start(role, "-n", "2", patch=clock) for role, clock in (("galph", galph), ("ralph", ralph))]
    with running(*daemons):
        assert [ended(daemon).exit_code for daemon in daemons] == [0, 0]
    assert here.hand_offs() == 4
    here.two.check()

    with here.held("galph", patch=galph) as daemon:  # the clock is put right while the daemon is dead
        daemon.kill()
    daemon.wait()
    here.goes_on(again=True)


def test_fault_38_a_stopwatch_that_goes_back_begins_the_wait_for_a_sign_of_life_anew(tmp_path: Path) -> None:
    clock = FakeClock()
    clock.advance(1000)
    observer = Observer(tmp_path / "observed.json", clock)
    assert observer.unchanged("turn", lambda: "") == 0
    clock.advance(700)
    assert observer.unchanged("turn", lambda: "") == 700
    clock.advance(-1500)
    assert observer.unchanged("turn", lambda: "") == 0


def test_fault_39_a_machine_that_has_slept_takes_nothing_and_loses_nothing(here: World) -> None:
    with here.held("galph") as daemon:
        before = here.two.state()
        assert here.run("ralph").code == "not-my-turn"
        woken = here.run("ralph", patch=ASLEEP)
        assert (woken.exit_code, woken.code) == (0, "not-my-turn")
        assert "has shown no life for 288" in woken.reason
        assert "takeover --nonce" in woken.reason
        assert here.two.state() == before
    assert ended(daemon).exit_code == 0

    with here.held("ralph") as daemon:  # the holder itself slept, and died in its sleep
        daemon.kill()
    daemon.wait()
    assert here.run("ralph", patch=ASLEEP).exit_code == 0
    here.goes_on(again=True)


# --- a tree in a person's hands ---------------------------------------------------------------------------------------


class Mess(NamedTuple):
    """What a person has begun in a clone; what the refusal says; how the person ends it."""

    make: Callable[[Project], object]
    code: str
    says: str
    mend: list[list[str]]
    options: tuple[str, ...] = ()


def dirty(clone: Project) -> None:
    clone.write("src/app.py", "print('half a thought')\n")


def side(clone: Project) -> None:
    clone.git("switch", "--quiet", "-c", "side")
    clone.write("README.md", "# Another project\n")
    clone.commit("on the side")


def merging(clone: Project) -> None:
    side(clone)
    clone.git("switch", "--quiet", "main")
    clone.git("merge", "--quiet", "--no-commit", "--no-ff", "side")


def rebasing(clone: Project) -> None:
    side(clone)
    clone.git("switch", "--quiet", "-c", "upstream", "main")
    clone.write("README.md", "# A third project\n")
    clone.commit("upstream")
    clone.git("rebase", "--quiet", "upstream", "side", check=False)
    assert "<<<<<<<" in (clone.path / "README.md").read_text()


BACK = [["switch", "--quiet", "main"]]
STASH = [["stash", "--quiet"]]
MESSES = {
    "fault-40-dirty-tree": Mess(dirty, "dirty-tree", "src/app.py", STASH),
    "fault-42-wrong-branch": Mess(side, "wrong-branch", "side", BACK, ("--branch", "main")),
    "fault-42-branch-that-nobody-shares": Mess(side, "remote-branch-missing", "side", BACK),
    "fault-43-detached-head": Mess(lambda clone: clone.git("switch", "-q", "--detach"), "detached-head", "HEAD", BACK),
    "fault-44-merge": Mess(merging, "operation-in-progress", "merge", [["merge", "--abort"]]),
    "fault-44-rebase": Mess(rebasing, "operation-in-progress", "rebase", [["rebase", "--abort"], *BACK]),
}


def hands_off(clone: Project) -> dict[str, object]:
    """Return all that a refusal must leave alone: the person's files, index, HEAD, refs, and what is in progress."""
    git_dir = clone.path / ".git"
    seen: dict[str, object] = {name: everything(git_dir / name) for name in ("refs/heads", "rebase-merge")}
    for name in ("HEAD", "index", "MERGE_HEAD", "MERGE_MSG"):
        seen[f".git/{name}"] = (git_dir / name).read_bytes() if (git_dir / name).exists() else None
    for path in clone.path.rglob("*"):
        inside = path.relative_to(clone.path)
        if inside.parts[0] not in {".git", "logs"} and path.is_file():
            seen[str(inside)] = (path.lstat().st_mode, path.read_bytes())
    return seen


def assert_left_alone(here: World, role: str, mess: Mess, says: str) -> None:
    clone, tip = here.clone(role), here.two.tip()
    before = hands_off(clone)
    for _ in range(2):
        refused = here.run(role, *mess.options)
        assert (refused.exit_code, refused.code) == (3, mess.code), refused
        assert says in refused.reason
        assert refused.remedy
        assert hands_off(clone) == before
    assert here.two.tip() == tip


@pytest.mark.parametrize("follows", [False, True], ids=["at-the-start", "where-it-has-to-follow"])
@pytest.mark.parametrize("mess", MESSES.values(), ids=MESSES)
def test_a_tree_in_a_person_s_hands_is_left_there(here: World, mess: Mess, follows: bool) -> None:
    if follows:
        assert here.run("galph").exit_code == 0
    role = "ralph" if follows else "galph"
    mess.make(here.clone(role))
    assert_left_alone(here, role, mess, mess.says)
    for command in mess.mend:
        here.clone(role).git(*command)
    here.goes_on()


def test_fault_42_a_turn_that_was_cut_short_waits_for_its_branch(here: World) -> None:
    with here.held("galph") as daemon:
        daemon.kill()
    daemon.wait()
    clone = here.two.galph
    side(clone)
    assert_left_alone(here, "galph", Mess(side, "turn-on-other-branch", "main", []), "main")
    clone.git("switch", "--quiet", "main")
    here.goes_on(again=True)


PRECIOUS = "a person's own words\n"
WAYS = {
    "fault-41-untracked": ("work-galph.txt", ""),
    "fault-41-ignored": ("work-galph.txt", "work-*"),
    "fault-41-folder-for-a-file": ("work-galph.txt/words", ""),
}


@pytest.mark.parametrize(("path", "ignored"), WAYS.values(), ids=WAYS)
def test_a_file_of_a_person_s_where_the_peer_has_put_one_stays_and_is_named(
    here: World, path: str, ignored: str
) -> None:
    assert here.run("galph").exit_code == 0
    clone = here.two.ralph
    (clone.path / ".git" / "info" / "exclude").write_text(f"{ignored}\n")
    file = clone.write(path, PRECIOUS)
    assert_left_alone(here, "ralph", Mess(dirty, "would-overwrite", "", []), path)
    file.rename(here.folder / "words")
    shutil.rmtree(clone.path / "work-galph.txt", ignore_errors=True)
    (clone.path / ".git" / "info" / "exclude").write_text("")
    here.goes_on()


def test_fault_40_a_changed_file_that_may_stay_is_refused_only_where_the_peer_changed_it_too(here: World) -> None:
    clone = here.two.ralph
    clone.write("src/app.py", PRECIOUS)
    here.two.galph.write("src/app.py", "print('from the peer')\n")
    here.two.galph.commit("the same file")
    here.two.galph.git("push", "--quiet")
    assert here.run("galph").exit_code == 0
    assert_left_alone(here, "ralph", Mess(dirty, "would-overwrite", "", [], ("--allow-dirty",)), "src/app.py")
    clone.git("stash", "--quiet")
    clone.write("README.md", PRECIOUS)
    assert here.run("ralph", "--allow-dirty").exit_code == 0
    assert (clone.path / "README.md").read_text() == PRECIOUS
    clone.git("checkout", "--quiet", "README.md")
    here.goes_on()


# --- left-over locks --------------------------------------------------------------------------------------------------

LOCKS = [
    "index.lock",
    "HEAD.lock",
    "refs/heads/main.lock",
    "packed-refs.lock",
    "config.lock",
    "shallow.lock",
    "refs/orchestration/seen/main.lock",
]


def lock(clone: Project, name: str) -> Path:
    """Leave a lock, as a killed git does."""
    return clone.write(f".git/{name}", "")


@pytest.mark.parametrize("name", LOCKS, ids=[f"fault-45-{name}" for name in LOCKS])
def test_a_lock_that_a_killed_git_has_left_is_removed_and_told(here: World, name: str) -> None:
    assert here.run("galph").exit_code == 0
    left = lock(here.two.ralph, name)
    done = here.run("ralph")
    assert done.exit_code == 0, done
    assert str(left) in done.notices["lock-removed"]
    assert not left.exists()
    here.goes_on()


def test_fault_45_a_lock_that_the_git_of_a_turn_left_is_removed_at_once(here: World) -> None:
    with here.held("galph") as daemon:
        daemon.kill()
        left = lock(here.two.galph, "index.lock")
    daemon.wait()
    first, *_ = here.goes_on(again=True)
    assert f"a git of galph's turn of iteration 1 was killed and left {left}" in first.notices["lock-removed"]


def test_fault_46_a_lock_beside_somebody_s_living_git_stays(here: World) -> None:
    assert here.run("galph").exit_code == 0
    clone = here.two.ralph
    left = lock(clone, "index.lock")
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=clone.path, stdin=subprocess.PIPE) as living:
        refused = here.run("ralph")
        assert (refused.exit_code, refused.code) == (3, "git-locked")
        assert str(left) in refused.remedy
        assert left.exists()
        assert living.poll() is None
    here.goes_on()


def test_fault_46_a_lock_that_somebody_writes_to_is_nobody_s_leaving(here: World) -> None:
    assert here.run("galph").exit_code == 0
    left = lock(here.two.ralph, "index.lock")
    writes = f"import os\nwhile os.path.exists({str(left)!r}): open({str(left)!r}, 'ab').write(b'.')"
    with subprocess.Popen([sys.executable, "-c", writes]) as living:
        refused = here.run("ralph")
        grown = left.stat().st_size
        living.kill()
    assert (refused.exit_code, refused.code) == (3, "git-locked")
    assert grown > 0
    here.goes_on()
