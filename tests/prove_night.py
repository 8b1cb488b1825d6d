"""A night of two daemons in two clones, disturbed: `scripts/prove night`.

Two daemons take turns through a bare repository. Meanwhile one hand kills either with SIGKILL at random moments (it is
started again), a person commits, amends what is not pushed yet and pushes, and the remote goes away for a while. In the
end both stop by themselves, and the promises are judged on the three repositories and on the ledger of the agents.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from conftest import DOOR, Project
from orchestration import failpoints
from pair import pair
from prove_kills import Ledger, Line, reruns, seal
from scene import Scene

ROLES = ("galph", "ralph")
STANDSTILL = 600.0
"""Seconds without a hand-off after which the night counts as stuck."""


class Pace(NamedTuple):
    """How often something happens: mean seconds between two of a kind."""

    kill: float = 6.0
    push: float = 4.0
    outage: float = 20.0


@dataclass
class Night:
    """Everything that goes on, and what has happened so far."""

    scene: Scene
    turns: int
    dice: random.Random
    pace: Pace
    pushes: int = 0
    outages: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    launches: dict[str, list[int]] = field(default_factory=lambda: {role: [] for role in ROLES})
    over: threading.Event = field(default_factory=threading.Event)
    server: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Let it all happen until the turns are done."""
        daemons = [threading.Thread(target=self._live, args=(role,)) for role in ROLES]
        others = [threading.Thread(target=act) for act in (self._person, self._outages)]
        for thread in (*daemons, *others):
            thread.start()
        begun, last, done = time.monotonic(), time.monotonic(), 0
        while any(thread.is_alive() for thread in daemons):
            time.sleep(0.5)
            now = self._done()
            if now != done:
                done, last = now, time.monotonic()
                self._show(done)
            if time.monotonic() - last > STANDSTILL:
                self.wrong.append(f"nothing moves after {done} turns, {time.monotonic() - begun:.0f} s")
                self.over.set()
                break
        self.over.set()
        for thread in (*daemons, *others):
            thread.join()

    def _done(self) -> int:
        """Return how many turns have ended, by the ledger."""
        return len(self.scene.ledger.turns("ended"))

    def _show(self, done: int) -> None:
        line = f"{done}/{self.turns} turns, {self.kills.total()} kills, {self.pushes} pushes, {self.outages} outages"
        often = sys.stderr.isatty() or done % 25 == 0
        sys.stderr.write((f"\r{line} " if sys.stderr.isatty() else f"{line}\n") if often else "")
        sys.stderr.flush()

    def _live(self, role: str) -> None:
        """Start a role's daemon again and again, until one ends by itself."""
        dice = random.Random(f"{self.dice.random()}{role}")  # noqa: S311 - moments, not secrets
        clone = self.scene.two.galph if role == "galph" else self.scene.two.ralph
        # What is left to do is read from the state by the agent, who asks for the end: no count survives a kill.
        command = [sys.executable, str(DOOR), "--role", role, "-n", "0", "--agent", self._agent()]
        command += ["-c", "limits.interrupted_reruns=1000", "-c", "sync.poll_interval=1"]
        while not self.over.is_set():
            with (self.scene.folder / f"output-{role}").open("ab") as stream:
                self.launches[role].append(time.monotonic_ns())
                daemon = subprocess.Popen(command, cwd=clone.path, stdout=stream, stderr=stream)
            try:
                code: int | None = daemon.wait(dice.expovariate(1 / (2 * self.pace.kill)))
            except subprocess.TimeoutExpired:
                code = None
                daemon.kill()
                daemon.wait()
                self.kills[role] += 1
            if code is not None:
                if code:
                    self.wrong.append(f"{role} ended with exit code {code}")
                    self.over.set()
                return

    def _agent(self) -> str:
        last = self.turns // 2
        asks = (
            f'[ "$ORCH_TURN" != {last}/ralph ] || '
            """sed -i 's/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "enough"/' sync/state.json"""
        )
        return self.scene.agent(last=asks, name="nightly")

    # --- the others --------------------------------------------------------------------------------------------------

    def _now_and_then(self, seconds: float, act: Callable[[random.Random], object]) -> None:
        dice = random.Random(self.dice.random())  # noqa: S311 - moments, not secrets
        while not self.over.wait(dice.expovariate(1 / seconds)):
            act(dice)

    def _person(self) -> None:
        self.scene.two.person()
        self._now_and_then(self.pace.push, self._push)

    def _push(self, dice: random.Random) -> None:
        """Commit, perhaps amend, integrate and push, as a person does, who tries again when somebody was faster."""
        person = Project(self.scene.folder / "person")
        number = self.pushes + 1
        person.write(f"notes/{number}.txt", f"note {number}\n")
        person.commit(f"note {number}")
        if dice.random() < 0.5:
            person.write(f"notes/{number}.txt", f"note {number}, in other words\n")
            person.git("commit", "--quiet", "--all", "--amend", "--no-edit")
        while not self.over.is_set():
            with self.server:  # a person sees that the server is away, and waits
                person.git("pull", "--quiet", "--no-rebase", "--no-edit")
                done = person.git("push", "--porcelain", check=False)
            if done.endswith("Done") and "\n!\t" not in done:  # git says so also of what was rejected
                self.pushes += 1
                return

    def _outages(self) -> None:
        self._now_and_then(self.pace.outage, self._outage)

    def _outage(self, dice: random.Random) -> None:
        with self.server:
            self.scene.away()
            self.over.wait(dice.uniform(0.2, 3.0))
            self.scene.back()
        self.outages += 1

    # --- the morning after -------------------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """Return what is not as it must be."""
        scene, wrong = self.scene, list(self.wrong)
        try:
            scene.two.check()
        except AssertionError as error:
            wrong.append(f"a promise is broken: {error}")
        done = [stamp for stamp in scene.two.stamps() if stamp.kind == "hand-off"]
        wrong += [f"{stamp.subject}" for stamp in done if "status=ok" not in stamp.subject]
        actors = [stamp.state["expected_actor"] for stamp in done]
        wrong += [f"turn {place} does not alternate" for place, (a, b) in enumerate(pairwise(actors)) if a == b]
        if len(done) != self.turns:
            wrong.append(f"{len(done)} hand-offs, not {self.turns}")
        published = scene.two.hub.git("log", "--format=%s", "main").splitlines()
        wrong += [f"note {number} is lost" for number in range(1, self.pushes + 1) if f"note {number}" not in published]
        for role in ROLES:
            again = reruns(_Part(scene.ledger, role), self.launches[role])
            wrong += again.ended
        wrong += [f"{line.turn} ran beside a living agent" for line in scene.ledger.lines("overlap")]
        return wrong

    def numbers(self) -> str:
        """Return what happened, in figures."""
        agents = [reruns(_Part(self.scene.ledger, role), self.launches[role]) for role in ROLES]
        starts = len(self.scene.ledger.lines("start"))
        commits = self.scene.two.hub.git("rev-list", "--count", "main")
        return (
            f"{self._done()} turns, {starts} agents started, {self.kills['galph']} + {self.kills['ralph']} kills, "
            f"{sum(each.interrupted for each in agents)} interrupted agents run again, "
            f"{sum(each.photo_finish for each in agents)} photo finishes, {self.pushes} pushes by a person, "
            f"{self.outages} outages, {commits} commits"
        )


class _Part(Ledger):
    """The part of a ledger that is of one role."""

    def __init__(self, ledger: Ledger, role: str) -> None:
        super().__init__(ledger.path)
        self._role = role

    def lines(self, *events: str) -> list[Line]:
        """Return the lines of these events that are this role's."""
        return [line for line in super().lines(*events) if f"/{self._role}@" in line.turn]


def night(folder: Path, turns: int, seed: str, pace: Pace | None = None) -> Night:
    """Let a night pass in a folder.

    Args:
        folder: where the repositories are made; it must not exist yet.
        turns: how many, an even number.
        seed: where the random moments begin.
        pace: how often the night is disturbed.

    """
    dice = random.Random(seed)  # noqa: S311 - moments, not secrets
    made = Night(Scene(pair(folder)), turns, dice, pace or Pace())
    made.run()
    return made


def main() -> int:
    """Let a night pass, and judge it; return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/prove night", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=500, help="how many turns, an even number (default 500)")
    parser.add_argument("--seed", default=None, help="where the random moments begin (default: a new one, printed)")
    parser.add_argument("--harsher", type=float, default=1.0, help="so many times the usual disturbances")
    given = parser.parse_args()
    seed = given.seed or hashlib.sha256(os.urandom(16)).hexdigest()[:8]
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal(place / "home")
    os.environ.pop(failpoints.VARIABLE, None)
    begun = time.monotonic()
    passed = night(place / "night", given.turns, seed, Pace(*(seconds / given.harsher for seconds in Pace())))
    wrong = passed.judge()
    for what in wrong:
        sys.stderr.write(f"\n{what}")
    sys.stderr.write("\n")
    sys.stdout.write(f"{passed.numbers()}, {len(wrong)} violations; seed {seed}, {time.monotonic() - begun:.0f} s\n")
    if wrong:
        sys.stdout.write(f"the night is kept in {place}\n")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
