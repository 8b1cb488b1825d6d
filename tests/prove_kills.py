"""The laws that hold after any kill, judged on the repository; and the proof by random kills, `scripts/prove`.

Every project of the proof is the demo. Its daemon is killed with SIGKILL at random moments and started again until the
plan is done. What an agent did is read from a ledger that it keeps outside of the repository, never from the journal.
"""

import argparse
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import random
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from orchestration import demo
from orchestration.clock import SystemClock

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "orchestration" / "orchestrator.py"
STATE = "sync/state.json"
PATIENCE = 60.0
"""Seconds after which a daemon that was not killed counts as hanging."""

KEEP_LEDGER = """
import fcntl, os, sys, time

LEDGER = {ledger!r}
TURN = os.environ["ORCH_TURN"]
_page = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
_alone = os.open(LEDGER + ".alone", os.O_RDWR | os.O_CREAT, 0o644)


def note(event, *words):
    os.write(_page, (" ".join([event, TURN, str(os.getpid()), str(time.monotonic_ns()), *words]) + "\\n").encode())


try:
    fcntl.flock(_alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process and its children are dead
except BlockingIOError:
    note("overlap")
os.set_inheritable(_alone, True)
note("start")
"""
"""The head of a Python agent: it writes down that it started, and whether another agent was alive beside it."""

CHECKLIST = (
    KEEP_LEDGER
    + """
code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, {door!r}, "checklist"])
note("ended", str(code))
os._exit(code if code >= 0 else 128 - code)
"""
)
"""The checklist agent with a ledger: `ended` is its very last act."""


class Line(NamedTuple):
    """One line of the ledger; `at` is on the machine's monotonic clock, in nanoseconds."""

    event: str
    turn: str
    pid: int
    at: int
    words: list[str]


class Ledger:
    """What the agents of one project wrote down, outside of its repository."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, *events: str) -> list[Line]:
        """Return the lines of these events (all, if none is named), in the order in which they were written."""
        rows = self.path.read_text().splitlines() if self.path.exists() else []
        split = (row.split() for row in rows)
        lines = [Line(event, turn, int(pid), int(at), words) for event, turn, pid, at, *words in split]
        return [line for line in lines if not events or line.event in events]

    def turns(self, *events: str) -> Counter[str]:
        """Count the lines of these events by turn."""
        return Counter(line.turn for line in self.lines(*events))

    def wait_until_nobody_runs(self) -> None:
        """Wait for the end of every agent, without touching any."""
        with self.path.with_name(f"{self.path.name}.alone").open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)

    def somebody_runs(self) -> bool:
        """Tell whether an agent, or what it started, is alive."""
        with self.path.with_name(f"{self.path.name}.alone").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


class Reruns(NamedTuple):
    """Agents that were started again for their turn, by why: cut off, or (which must not be) after they had ended."""

    interrupted: int
    photo_finish: int
    ended: list[str]


def reruns(ledger: Ledger, launches: list[int]) -> Reruns:
    """Judge every second start of a turn by the agent before it.

    Args:
        ledger: what the agents wrote down.
        launches: when each daemon was started. One that had not even been started when the agent ended must know that
            it ended; one that was just killing the agent when it ended may be too late (a photo finish).

    """
    interrupted = photo_finish = 0
    wrong: list[str] = []
    last: dict[str, Line] = {}
    for line in ledger.lines("start", "ended"):
        before = last.get(line.turn)
        last[line.turn] = line
        if before is None or line.event != "start":
            continue
        if before.event == "start" or before.words[:1] not in ([], ["0"]):
            interrupted += 1
        elif any(before.at < launch < line.at for launch in launches):
            wrong.append(f"{line.turn} was run again after its agent had ended")
        else:
            photo_finish += 1
    return Reruns(interrupted, photo_finish, wrong)


def git(folder: Path, *args: str) -> str:
    """Run git and return its output.

    Raises:
        CalledProcessError: it failed.

    """
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


def tree(folder: Path, revision: str = "HEAD") -> dict[str, str]:
    """Return path → mode and object id of a commit's files, but for the state."""
    rows = git(folder, "ls-tree", "-r", "-z", revision).rstrip("\0").split("\0")
    return {path: meta for meta, _, path in (row.partition("\t") for row in rows) if path != STATE}


class HandOff(NamedTuple):
    """A commit that changed the state: whose turn it ended, and the state after it."""

    turn: str
    actor: str
    before: dict[str, Any]
    after: dict[str, Any]


def hand_offs(folder: Path) -> list[HandOff]:
    """Return the commits of HEAD's first-parent history that changed the state, oldest first."""
    made: list[HandOff] = []
    before: dict[str, Any] | None = None
    for commit in git(folder, "log", "--first-parent", "--reverse", "--format=%H", "--", STATE).split():
        after = json.loads(git(folder, "show", f"{commit}:{STATE}"))
        if before is not None:
            actor = before["expected_actor"]
            made.append(HandOff(f"{before['iteration']}/{actor}", actor, before, after))
        before = after
    return made


def broken_hand_offs(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the history of the turn: one ok hand-off each, alternating, under growing epochs."""
    made = hand_offs(folder)
    for turn, count in Counter(hand_off.turn for hand_off in made).items():
        if count != 1:
            yield f"{turn} was handed off {count} times"
    for hand_off in made:
        if hand_off.after["status"] == "failed":
            yield f"{hand_off.turn} failed: {hand_off.after['failure']}"
        if hand_off.after["epoch"] <= hand_off.before["epoch"]:
            yield f"{hand_off.turn}: epoch {hand_off.after['epoch']} after {hand_off.before['epoch']}"
    for earlier, later in itertools.pairwise(made):
        if earlier.actor == later.actor:
            yield f"{earlier.turn} was followed by {later.turn}"


def broken_storage(folder: Path) -> Iterator[str]:
    """Yield what git itself finds wrong, and every commit that was once at HEAD and is not in its history now."""
    checked = subprocess.run(
        ["git", "fsck", "--strict", "--no-dangling", "--no-progress"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode or checked.stdout or checked.stderr:
        yield f"git fsck: {checked.stdout}{checked.stderr}"
    once = set(git(folder, "log", "--walk-reflogs", "--format=%H", "HEAD").split())
    for commit in once - set(git(folder, "rev-list", "HEAD").split()):
        yield f"the commit {commit} was at HEAD and is lost"


def broken_tree(folder: Path, untracked: set[str]) -> Iterator[str]:
    """Yield what `git status` shows beside the person's `untracked` files."""
    shown = git(folder, "--no-optional-locks", "status", "--porcelain", "-uall").splitlines()
    for row in set(shown) - {f"?? {path}" for path in untracked}:
        yield f"git status shows: {row}"


def living(folder: Path) -> list[int]:
    """Return the processes that carry the environment of a turn in this project."""
    mark = b"ORCH_REPORT_DIR=" + os.fsencode(folder) + b"/"
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if any(variable.startswith(mark) for variable in variables):
                found.append(int(process.name))
    return found


def broken_laws(folder: Path, ledger: Ledger, untracked: set[str] | None = None) -> list[str]:
    """Return every law that a finished project breaks, in words; none is the only good answer."""
    broken = [*broken_hand_offs(folder), *broken_storage(folder), *broken_tree(folder, untracked or set())]
    broken += [f"{line.turn} ran beside a living agent" for line in ledger.lines("overlap")]
    broken += [f"process {pid} of a turn is left" for pid in living(folder)]
    if ledger.somebody_runs():
        broken.append("an agent is left alive")
    return broken


# --- random kills ----------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened so far, in all projects."""

    wanted: int
    kills: int = 0
    projects: int = 0
    restarts: int = 0
    interrupted: int = 0
    photo_finishes: int = 0
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enough(self) -> bool:
        """Tell whether no further project need begin."""
        with self.lock:
            return self.kills >= self.wanted

    def killed(self) -> None:
        """Count a kill, and show it."""
        with self.lock:
            self.kills += 1
            line = f"\r{self.kills}/{self.wanted} kills, {self.projects} projects, {len(self.violations)} violations "
            sys.stderr.write(line if sys.stderr.isatty() else "" if self.kills % 25 else f"{line.strip()}\n")
            sys.stderr.flush()

    def add(self, restarts: int, again: Reruns, violations: list[str]) -> None:
        """Count a finished project."""
        with self.lock:
            self.projects += 1
            self.restarts += restarts
            self.interrupted += again.interrupted
            self.photo_finishes += again.photo_finish
            self.violations += violations


class Subject:
    """One demo project, copied from a fresh one, and its daemon."""

    def __init__(self, folder: Path, fresh: Path) -> None:
        self.folder = folder / "demo"
        self.ledger = Ledger(folder / "ledger")
        self.output = folder / "output"
        self.launches: list[int] = []
        shutil.copytree(fresh, self.folder, symlinks=True)
        agent = folder / "agent"
        head = f"#!{sys.executable} -IS"
        agent.write_text(head + CHECKLIST.format(ledger=str(self.ledger.path), door=str(DOOR)))
        agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
        self._command = [sys.executable, str(DOOR), "run", "--agent", str(agent), "-n", "0"]
        self._command += ["-c", "limits.interrupted_reruns=1000"]

    def live(self, seconds: float) -> int | None:
        """Start the daemon and kill it after that time; return its exit code if it ended before."""
        with self.output.open("ab") as stream:
            self.launches.append(time.monotonic_ns())
            daemon = subprocess.Popen(self._command, cwd=self.folder, stdout=stream, stderr=stream)
        end = os.pidfd_open(daemon.pid)
        try:
            ended, _, _ = select.select([end], [], [], seconds)
        finally:
            os.close(end)
        if not ended:
            daemon.kill()
        code = daemon.wait()
        return code if ended else None

    def judge(self, reference: dict[str, str]) -> list[str]:
        """Return the laws that the finished project breaks."""
        broken = broken_laws(self.folder, self.ledger)
        mine = tree(self.folder)
        broken += [
            f"{path} is not as in an undisturbed run"
            for path in sorted(mine.keys() | reference.keys())
            if mine.get(path) != reference.get(path)
        ]
        tests = subprocess.run(
            [sys.executable, "-m", "unittest"], cwd=self.folder, capture_output=True, text=True, check=False
        )
        return [*broken, f"the demo's tests: {tests.stderr}"] if tests.returncode else broken


class Reference(NamedTuple):
    """An undisturbed run: the project as it was before, its final tree, and how long it took."""

    fresh: Path
    tree: dict[str, str]
    seconds: float


def undisturbed(folder: Path) -> Reference:
    """Run the demo once without any kill.

    Raises:
        SystemExit: even that goes wrong.

    """
    fresh = folder / "fresh"
    demo.create(fresh, SystemClock())
    subject = Subject(folder, fresh)
    begun = time.monotonic()
    code = subject.live(PATIENCE)
    seconds = time.monotonic() - begun
    broken = [] if code == 0 else [f"exit {code}"]
    broken += subject.judge(tree(subject.folder))
    if broken:
        raise SystemExit(f"an undisturbed run breaks the law: {broken}; see {folder}")
    return Reference(fresh, tree(subject.folder), seconds)


def project(folder: Path, seed: str, reference: Reference, tally: Tally) -> None:
    """Kill one project's daemon again and again until its plan is done, and judge what is there.

    A moment is uniform over an undisturbed daemon's life, or over its first half, quarter or eighth.
    """
    dice = random.Random(seed)  # noqa: S311 - moments, not secrets
    folder.mkdir()
    subject = Subject(folder, reference.fresh)
    code = None
    while code is None:
        seconds = PATIENCE if tally.enough() else dice.uniform(0, reference.seconds) / dice.choice((1, 2, 4, 8))
        code = subject.live(seconds)
        if code is None and seconds == PATIENCE:
            code = -1
        elif code is None:
            tally.killed()
    again = reruns(subject.ledger, subject.launches)
    broken = [] if code == 0 else ["the daemon hung" if code == -1 else f"the last daemon ended with exit code {code}"]
    broken += [*again.ended, *subject.judge(reference.tree)]
    tally.add(len(subject.launches) - 1, again, [f"{folder.name}: {law}" for law in broken])
    if not broken:
        shutil.rmtree(folder)


def seal(home: Path) -> None:
    """Keep the machine's git configuration and our own variables out of the proof."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "ORCH", "GALPH_", "XDG_")):
            del os.environ[name]
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A Person\n\temail = person@localhost\n[init]\n\tdefaultBranch = main\n"
    )
    os.environ.update(HOME=str(home), GIT_CONFIG_NOSYSTEM="1", NO_COLOR="1", TZ="UTC", LC_ALL="C.UTF-8")


def main() -> int:
    """Kill until the wanted number is reached; return 0 if no law was broken."""
    parser = argparse.ArgumentParser(prog="scripts/prove", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300, help="how many SIGKILLs in all (default 300)")
    parser.add_argument("--seed", default=None, help="where the random moments begin (default: a new one, printed)")
    parser.add_argument("--jobs", type=int, default=2, help="projects at the same time (default 2)")
    given = parser.parse_args()
    seed = given.seed or hashlib.sha256(os.urandom(16)).hexdigest()[:8]
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal(place / "home")
    begun = time.monotonic()
    reference = undisturbed(place / "undisturbed")
    tally = Tally(given.kills)

    def work(job: int) -> None:
        number = job
        while not tally.enough():
            project(place / f"project-{number}", f"{seed}/{number}", reference, tally)
            number += given.jobs

    with ThreadPoolExecutor(given.jobs) as pool:
        for future in [pool.submit(work, job) for job in range(given.jobs)]:
            future.result()
    for violation in tally.violations:
        sys.stderr.write(f"\n{violation}")
    sys.stderr.write("\n")
    sys.stdout.write(
        f"{tally.kills} kills, {tally.projects} projects, {tally.restarts} restarts, "
        f"{tally.interrupted} interrupted agents run again, {tally.photo_finishes} photo finishes, "
        f"{len(tally.violations)} violations; seed {seed}, {time.monotonic() - begun:.0f} s\n"
    )
    if tally.violations:
        sys.stdout.write(f"what broke a law is kept in {place}\n")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
