"""The hand-off through a remote, struck at every failpoint: `scripts/prove hand-off`.

Every case strikes ralph's first turn once, at one failpoint in one way, while something else goes on (a scenario).
Ralph is then started again until his turn is done, the loop goes on for an iteration, and the promises are judged on
the three repositories and on the ledger of the agents.
"""

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from conftest import DOOR, Project
from orchestration import failpoints
from pair import Pair, pair
from prove_kills import seal
from scene import LEFTOVER, Scene

PATIENCE = 180.0
"""Seconds after which a daemon counts as hanging."""

POINTS = sorted(name for name in failpoints.NAMES if not name.startswith(("init.", "undo.", "word.")))

_CODES = {"KILL": -signal.SIGKILL, "TERM": 128 + signal.SIGTERM, "ENOSPC": 3, "EIO": 3}
_CONFLICT, _TAKEN, _DOWN = "conflict", "taken-over", "remote-down"


def _nothing(scene: Scene) -> None:
    """Do nothing."""
    assert scene.waits()


def _conflict(scene: Scene) -> None:
    scene.push("work-ralph.txt", "mine\n")


SCENARIOS: dict[str, Callable[[Scene], object]] = {
    "plain": _nothing,
    "agent-pushes": _nothing,
    "person-pushes": Scene.push,
    _CONFLICT: _conflict,
    _TAKEN: Scene.take_over,
    _DOWN: Scene.away,
}
"""What happens while the agent works."""


class Case(NamedTuple):
    """A strike: where, how, and during what."""

    point: str
    action: str
    scenario: str

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{self.point}-{self.action}-{self.scenario}"


class Verdict(NamedTuple):
    """What became of a case: whether it was struck at all, how often ralph was started again, what was broken."""

    case: Case
    struck: bool
    restarts: int
    broken: str = ""


def every_case() -> list[Case]:
    """Return all of them."""
    product = itertools.product(POINTS, _CODES, SCENARIOS)
    return [Case(*words) for words in product]


def fresh(folder: Path) -> Scene:
    """Make what every case begins with: a remote and two clones in which galph has had his first turn."""
    scene = Scene(pair(folder))
    assert scene.turn("galph") == 0
    return scene


def copied(template: Path, folder: Path) -> Scene:
    """Copy a remote and its clones, which then are other clones."""
    shutil.copytree(template, folder, symlinks=True)
    two = Pair(*(Project(folder / name) for name in ("hub.git", "galph", "ralph")))
    for clone in two.clones():
        clone.git("remote", "set-url", "origin", str(two.hub.path))
    return Scene(two)


class Trial:
    """One case in a place of its own."""

    def __init__(self, scene: Scene, case: Case) -> None:
        self.case = case
        self.scene = scene
        self._output = scene.folder / "output"
        last = LEFTOVER + ("; git push --quiet origin HEAD:main" if case.scenario == "agent-pushes" else "")
        self._agent = self.scene.agent(self.scene.gate(), last, "gated")

    def run(self) -> Verdict:
        """Strike, start again, go on, and judge."""
        point, action, scenario = self.case
        codes = [self._life(f"{point}:{action}")]
        struck = codes[0] == _CODES[action]
        while len(codes) < 2 or not self._is_done():
            assert len(codes) < 6, f"no end: {codes}"
            codes.append(self._life(""))
            self._decide(codes[-1])
        allowed = {0, 4} if scenario == _CONFLICT else {0, 8} if scenario == _TAKEN else {0}
        assert set(codes[1:]) <= allowed, f"exit codes {codes}"
        assert codes[0] in allowed | {_CODES[action]}, f"exit codes {codes}"
        self._judge()
        return Verdict(self.case, struck, len(codes) - 1)

    def _is_done(self) -> bool:
        if self.scene.is_away():
            return False
        now = self.scene.two.state()
        return (now["iteration"], now["expected_actor"]) == (2, "galph")

    def _decide(self, code: int) -> None:
        """Be the person that a conflict needs."""
        if code == 4 and self.case.scenario == _CONFLICT:
            done = self.scene.two.ralph.run("retry")
            assert done.returncode == 0, done.stderr

    def _life(self, failpoint: str) -> int:
        """Let a daemon of ralph's live, have happen what is to happen meanwhile, and return its exit code."""
        scene, begun = self.scene, time.monotonic()
        command = [sys.executable, str(DOOR), "--role", "ralph", "--once", "--json", "--agent", self._agent]
        said = self._output.stat().st_size if self._output.exists() else 0
        with self._output.open("ab") as stream:
            daemon = subprocess.Popen(
                command,
                cwd=scene.two.ralph.path,
                env={**os.environ, failpoints.VARIABLE: failpoint},
                stdout=stream,
                stderr=stream,
            )
        try:
            while daemon.poll() is None or scene.ledger.somebody_runs():
                assert time.monotonic() - begun < PATIENCE, "it hangs"
                if scene.waits() and not scene.is_open():
                    SCENARIOS[self.case.scenario](scene)
                    scene.open()
                if scene.is_away() and b'"waiting"' in self._output.read_bytes()[said:]:
                    scene.back()
                time.sleep(0.02)
        finally:
            daemon.kill()
            daemon.wait()
        return daemon.returncode

    def _judge(self) -> None:
        """Judge what is there; a further start changes nothing; then go on and judge again."""
        scene = self.scene
        before = self._everything()
        assert self._life("") == 0
        assert self._everything() == before, "a second restart changed something"
        assert scene.runs("1/ralph", "ended") >= 1
        work = scene.two.hub.git("show", "main:work-ralph.txt")
        assert work.splitlines()[-1] == "1/ralph", work
        assert "1/ralph" in scene.two.hub.git("show", "main:src/left-ralph.txt")
        if self.case.scenario == "person-pushes":
            assert scene.two.hub.git("show", "main:note.txt") == "by hand"
        scene.goes_on()
        assert scene.ledger.lines("overlap") == []

    def _everything(self) -> list[str]:
        """Return what a restart must leave as it is, in all three repositories."""
        two = self.scene.two
        journal = (two.ralph.path / ".git/orchestration/journal.json").read_text()
        found = [repository.git("show-ref", "--head") for repository in (two.hub, *two.clones())]
        return [journal, two.ralph.dirt(), *found]


def tried(template: Path, folder: Path, case: Case) -> Verdict:
    """Try a case; what breaks a promise is kept where it lies."""
    try:
        verdict = Trial(copied(template, folder), case).run()
    except (AssertionError, subprocess.SubprocessError, OSError) as error:
        return Verdict(case, struck=True, restarts=0, broken=f"{type(error).__name__}: {error}")
    shutil.rmtree(folder)
    return verdict


def _all(cases: Iterable[Case], jobs: int, place: Path, template: Path) -> list[Verdict]:
    """Try the cases, some at a time, and show how far that is."""
    wanted, lock = list(cases), threading.Lock()
    verdicts: list[Verdict] = []

    def one(case: Case) -> None:
        verdict = tried(template, place / case.name, case)
        with lock:
            verdicts.append(verdict)
            broken = sum(bool(each.broken) for each in verdicts)
            line = f"\r{len(verdicts)}/{len(wanted)} cases, {broken} broken "
            often = sys.stderr.isatty() or len(verdicts) % 25 == 0
            sys.stderr.write((line if sys.stderr.isatty() else f"{line.strip()}\n") if often else "")
            sys.stderr.flush()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, wanted))
    return verdicts


def main() -> int:
    """Try every case, or a sample of them; return 0 if no promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/prove hand-off", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=0, help="how many cases, drawn by the seed (default: all)")
    parser.add_argument("--seed", default=None, help="where the draw begins (default: a new one, printed)")
    parser.add_argument("--only", default="", help="only cases whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time (default 2)")
    given = parser.parse_args()
    seed = given.seed or hashlib.sha256(os.urandom(16)).hexdigest()[:8]
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal(place / "home")
    begun = time.monotonic()
    cases = [case for case in every_case() if given.only in case.name]
    dice = random.Random(seed)  # noqa: S311 - a draw, not a secret
    dice.shuffle(cases)
    template = fresh(place / "fresh").folder
    verdicts = _all(cases[: given.sample or None], given.jobs, place, template)
    broken = [verdict for verdict in verdicts if verdict.broken]
    for verdict in broken:
        sys.stderr.write(f"\n{verdict.case.name}: {verdict.broken}")
    struck = Counter(verdict.case.point for verdict in verdicts if verdict.struck)
    missed = sorted({case.point for case in cases[: given.sample or None]} - struck.keys())
    sys.stderr.write(f"\nnever struck: {', '.join(missed)}\n" if missed else "\n")
    sys.stdout.write(
        f"{len(verdicts)} cases at {len(struck)} failpoints, {struck.total()} struck, "
        f"{sum(verdict.restarts for verdict in verdicts)} restarts, {len(broken)} broken; "
        f"seed {seed}, {time.monotonic() - begun:.0f} s\n"
    )
    if broken:
        sys.stdout.write(f"what broke a promise is kept in {place}\n")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
