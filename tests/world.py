"""A world that fails around two clones of one remote, and what they must make of it: the ground of the fault tests."""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import DOOR, Project, Ran, executable, told
from pair import PATIENCE, Pair, pair, running, until

AGENT = """#!/bin/sh
cat >/dev/null
echo "$ORCH_TURN" >>{ledger}
[ ! -p {gate} ] || cat {gate} >/dev/null
echo "$ORCH_TURN" >>"work-$ORCH_ACTOR.txt"
git add "work-$ORCH_ACTOR.txt"
git commit --quiet -m "work $ORCH_TURN"
"""
"""It notes outside of the repository that it ran, waits where a test holds it, and commits a line."""

PATCHED = """
import runpy, sys
sys.path.insert(0, {scripts!r})
{patch}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The daemon with a constant or a clock of the test's."""

SOON = ("-c", "sync.max_wait=0.3")
"""How long a run of one turn waits for a remote that a test has broken."""


@dataclass(frozen=True)
class World:
    """Two clones, their remote, and the ledger of the agents' runs."""

    two: Pair
    folder: Path

    # --- running -----------------------------------------------------------------------------------------------------

    def clone(self, role: str) -> Project:
        """Return the clone of a role."""
        return self.two.galph if role == "galph" else self.two.ralph

    def start(
        self, role: str, *args: str, patch: str = "", env: dict[str, str] | None = None, under: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a daemon of a role, whose lines are JSON.

        `patch` is Python that runs before it; `under` is a command that is given its own as arguments.
        """
        door = [str(DOOR)]
        if patch:
            door = ["-c", PATCHED.format(scripts=str(DOOR.parents[1]), patch=patch), *door]
        noted = AGENT.format(ledger=shlex.quote(str(self._ledger)), gate=shlex.quote(str(self._gate)))
        agent = executable(self.folder / "agent", noted)
        return subprocess.Popen(
            [*under, sys.executable, *door, "run", "--role", role, "--agent", agent, "--json", *args],
            cwd=self.clone(role).path,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, role: str, *args: str, patch: str = "") -> Ran:
        """Run one turn of a role to its end."""
        daemon = self.start(role, "--once", *args, patch=patch)
        with running(daemon):
            return ended(daemon)

    @contextmanager
    def held(self, role: str, *args: str, patch: str = "", once: bool = True) -> Iterator[subprocess.Popen[str]]:
        """Start a daemon; inside, its agent has started, and it goes on with its work at the end."""
        os.mkfifo(self._gate)
        daemon = self.start(role, *(["--once"] if once else []), *args, patch=patch)
        try:
            gate = self._opened(daemon)
            self._gate.unlink()
            yield daemon
            os.close(gate)
        except BaseException:
            daemon.kill()
            daemon.wait()
            raise

    def _opened(self, daemon: subprocess.Popen[str]) -> int:
        """Wait until the agent reads the gate; return our end of it."""
        gates: list[int] = []

        def opens() -> bool:
            assert daemon.poll() is None, daemon.communicate()
            try:
                gates.append(os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads it yet
                return False
            return True

        until(opens)
        return gates[0]

    # --- what has happened -------------------------------------------------------------------------------------------

    @property
    def _ledger(self) -> Path:
        return self.folder / "ran"

    @property
    def _gate(self) -> Path:
        return self.folder / "gate"

    def ran(self) -> Counter[str]:
        """Count how often the agent of each turn was started."""
        return Counter(self._ledger.read_text().split() if self._ledger.exists() else [])

    def calls(self, *words: str) -> int:
        """Count the git commands that were started in both clones and hold all these words."""
        trace = (self.folder / "trace").read_text().splitlines()
        return sum(line.startswith("start ") and all(word in line for word in words) for line in trace)

    def pushes(self) -> int:
        """Count the pushes of the branch that were tried."""
        return self.calls(" push --porcelain", ":refs/heads/main")

    def hand_offs(self) -> int:
        """Count the hand-offs that have landed."""
        return sum(stamp.kind == "hand-off" for stamp in self.two.stamps())

    # --- what must be ------------------------------------------------------------------------------------------------

    def goes_on(self, turns: int = 3, patch: str = "", *, again: bool = False) -> list[Ran]:
        """Start again, with no other help: the turn ends, another full iteration is done, and the promises hold.

        `again`: the turn that was cut short may have had its agent cut short, which then runs again.
        Returns how the turns ended.
        """
        before, cut, done = self.hand_offs(), self.two.state(), list[Ran]()
        for _ in range(turns):
            done.append(self.run(self.two.state()["expected_actor"], patch=patch))
            assert done[-1].exit_code == 0, done
        assert self.hand_offs() == before + turns
        ran = self.ran()
        if again:
            ran[f"{cut['iteration']}/{cut['expected_actor']}"] = 1
        assert set(ran.values()) == {1}, ran
        self.two.check()
        return done

    def reach(self, url: str, push_url: str | None = None) -> None:
        """Have both clones reach the remote another way."""
        for clone in self.two.clones():
            clone.git("remote", "set-url", "origin", url)
            if push_url:
                clone.git("remote", "set-url", "--push", "origin", push_url)


def ended(daemon: subprocess.Popen[str]) -> Ran:
    """Wait for the end of a daemon; return how it ended."""
    out, _ = daemon.communicate(timeout=PATIENCE)
    lines = [line for line in out.splitlines(keepends=True) if line.startswith("{")]  # the rest is for people
    assert lines, out
    return told(daemon.returncode, "".join(lines))


def world(folder: Path) -> World:
    """Make a remote and two clones of it, whose git calls are counted."""
    two = pair(folder)
    two.hub.git("config", "--global", "trace2.normalTarget", str(folder / "trace"))
    two.hub.git("config", "--global", "trace2.normalBrief", "true")
    return World(two, folder)


def tried(probe: Callable[[], int], times: int) -> None:
    """Wait until something was tried so many times more."""
    before = probe()
    until(lambda: probe() >= before + times)
