"""A turn's git is killed at every system call that changes something, and its daemon with it (fault 8).

`scripts/prove --syscalls --all` takes every call of every command; the suite takes a sample. Each time the next start
must go on without a person, and the history of remote and clones must keep its promises.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

from conftest import executable
from pair import running
from prove_kills import seal
from servers import git_daemon
from world import World, world

CHANGING = (
    "openat,write,pwrite64,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,rmdir,symlink,ftruncate,fsync,"
    "fdatasync,sendto,close"
)
"""The calls before which a kill leaves another world than before the one before; close lets a file or a pipe go."""

VERBS = ("fetch", "merge", "push", "unpack-objects", "update-ref", "update-index", "add", "commit")
"""Every command of a turn that writes: the daemon's own, and the agent's `add` and `commit`."""

WRAPPED = """#!/bin/sh
case " $* " in
*" {verb} "*)
  if mkdir {once} 2>/dev/null; then
    strace -f -o {folder}/strace -e trace={call} -e inject={call}:signal=KILL:when={nth} {git} "$@"
    code=$?
    [ $code -ne 0 ] || exit 0
    : >{folder}/killed
    kill -9 "$(cat {folder}/daemon)"
    [ -z "$ORCH_TURN" ] || exec sleep 300
    exit 137
  fi
esac
exec {git} "$@"
"""
"""Git as a turn finds it: the first command with the verb dies at one system call, and its daemon in the same moment.

An agent's shell that waits for it is left hanging, for the next start to end.
"""


class Point(NamedTuple):
    """A moment in a turn: the verb of a git command, and which of which system calls it does not live to make."""

    verb: str
    call: str
    nth: int

    def __str__(self) -> str:
        """Return it in the form of a test's id."""
        return f"{self.verb}-{self.call}-{self.nth}"


SAMPLE = [
    Point("fetch", "rename", 1),
    Point("fetch", "write", 6),
    Point("merge", "unlink", 2),
    Point("merge", "write", 3),
    Point("merge", "rename", 2),
    Point("merge", "rename", 3),
    Point("push", "write", 3),
    Point("unpack-objects", "link", 2),
    Point("update-ref", "rename", 1),
    Point("add", "rename", 1),
    Point("commit", "rename", 2),
]


def is_cut(here: World, point: Point) -> bool:
    """Run ralph's turn, whose git is killed at a point; return whether there was such a call."""
    folder = here.folder / "wrapped"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    git = shutil.which("git")
    executable(folder / "git", WRAPPED.format(folder=folder, once=folder / "once", git=git, **point._asdict()))
    path = f"{folder}:{os.environ['PATH']}"
    door = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(folder / "daemon")]
    daemon = here.start("ralph", "--once", env={"PATH": path}, under=door)
    with running(daemon):
        out, _ = daemon.communicate(timeout=60)
    killed = (folder / "killed").exists()
    assert killed or daemon.returncode == 0, out
    return killed


@contextmanager
def served(folder: Path) -> Iterator[World]:
    """Give a world whose remote lives in processes of its own, and in which it is ralph's turn to follow galph."""
    with redirect_stdout(io.StringIO()):  # what init says
        here = world(folder)
    with git_daemon(folder) as url:
        here.reach(f"{url}/hub.git")
        here.two.galph.write("src/app.py", "print('hello, and more')\n")
        here.two.galph.write("src/more.py", "print('more')\n")
        here.two.galph.commit("what the peer's clone follows")
        here.two.galph.git("push", "--quiet")
        done = here.run("galph")
        assert done.exit_code == 0, done
        yield here


def main() -> int:
    """Kill at every point; return 0 if every restart went on."""
    parser = argparse.ArgumentParser(prog="scripts/prove --syscalls", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--syscalls", action="store_true", help="this proof, not the one of random moments")
    parser.add_argument("--all", action="store_true", help="every call of every command, not the suite's sample")
    parser.add_argument("--verb", choices=VERBS, action="append", help="of this command only")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="galph-syscalls-"))
    seal(place / "home")
    who = "[user]\n\tname = A Person\n\temail = person@localhost\n[init]\n\tdefaultBranch = main\n"
    (place / "home" / ".gitconfig").write_text(who)
    wanted = given.verb or VERBS
    points = every(place, wanted) if given.all else iter([point for point in SAMPLE if point.verb in wanted])
    kills, broken = 0, 0
    for point in points:
        folder = place / str(point)
        try:
            with served(folder) as here:
                if not is_cut(here, point):
                    continue
                kills += 1
                here.goes_on(again=True)
        except AssertionError as error:
            broken += 1
            sys.stderr.write(f"{point}: {error}; see {folder}\n")
            continue
        shutil.rmtree(folder)
        sys.stderr.write(f"{point}: went on\n")
    sys.stdout.write(f"{kills} kills at system calls, {broken} that did not go on\n")
    if not broken:
        shutil.rmtree(place)
    return int(broken > 0)


def every(place: Path, verbs: tuple[str, ...] | list[str]) -> Iterator[Point]:
    """Yield every point of a turn: how often each command makes each call is counted in an undisturbed turn."""
    for verb in verbs:
        with served(place / f"count-{verb}") as here:
            assert not is_cut(here, Point(verb, CHANGING, 65_535))
            log = here.folder / "wrapped" / "strace"
            trace = log.read_text() if log.exists() else ""
        most: dict[str, int] = {}
        per_process: dict[tuple[str, str], int] = {}
        for row in trace.splitlines():
            pid, _, rest = row.partition(" ")
            call = rest.strip().partition("(")[0]
            if call in CHANGING.split(","):
                per_process[pid, call] = per_process.get((pid, call), 0) + 1
                most[call] = max(most.get(call, 0), per_process[pid, call])
        yield from (Point(verb, call, nth) for call, times in sorted(most.items()) for nth in range(1, times + 1))
        with suppress(OSError):
            shutil.rmtree(place / f"count-{verb}")


if __name__ == "__main__":
    sys.exit(main())
