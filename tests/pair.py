"""Two clones of one bare remote, as two machines would have them, and the promises that their history must keep."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from conftest import Project, repository

WORKS = """
cat >/dev/null
echo "$ORCH_TURN" >>"work-$ORCH_ACTOR.txt"
git add "work-$ORCH_ACTOR.txt"
git commit --quiet -m "work $ORCH_TURN"
"""
"""An agent that commits one line a turn, in a file of its actor's own."""

PATIENCE = 60.0


class Stamp(NamedTuple):
    """A state commit on the branch: its id, whose it is, and what it says."""

    commit: str
    epoch: int
    holder: str
    nonce: str
    subject: str
    state: dict[str, Any]

    @property
    def kind(self) -> str:
        """Tell what it is: claim, hand-off or operator."""
        if "operator=" in self.subject:
            return "operator"
        return "claim" if self.subject.endswith("status=running") else "hand-off"


@dataclass(frozen=True)
class Pair:
    """A bare remote and two clones of it, set up by `init`."""

    hub: Project
    galph: Project
    ralph: Project

    def clones(self) -> tuple[Project, Project]:
        """Return both clones."""
        return self.galph, self.ralph

    def start(
        self, role: str, *args: str, agent: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a role's daemon in its clone."""
        clone = self.galph if role == "galph" else self.ralph
        return clone.start("--role", role, "--agent", agent or self.worker(), *args, env=env)

    def turn(self, role: str, *args: str, agent: str | None = None, env: dict[str, str] | None = None) -> int:
        """Run one turn of a role to its end, in a process of its own; return the exit code."""
        clone = self.galph if role == "galph" else self.ralph
        done = clone.run("--role", role, "--once", "--agent", agent or self.worker(), *args, env=env)
        return done.returncode

    def worker(self) -> str:
        """Return an agent that commits."""
        return self.galph.agent(WORKS, "worker")

    def tip(self) -> str:
        """Return where the remote's branch is."""
        return self.hub.git("rev-parse", "refs/heads/main")

    def state(self) -> dict[str, Any]:
        """Return the state that the remote holds."""
        return self.hub.state("main")

    def stamps(self) -> list[Stamp]:
        """Return the state commits of the remote's branch, oldest first."""
        text = self.hub.git("log", "--reverse", "--topo-order", "--format=%H%x00%s%x00%B%x01", "main")
        found: list[Stamp] = []
        for row in text.split("\x01"):
            commit, _, rest = row.strip("\n").partition("\0")
            subject, _, body = rest.partition("\0")
            if not subject.startswith("[SYNC"):
                continue
            trailers = dict(re.findall(r"^Orchestration-(\w+): (.*)$", body, re.MULTILINE))
            epoch, holder, nonce = (trailers[name] for name in ("Epoch", "Holder", "Nonce"))
            found.append(Stamp(commit, int(epoch), holder, nonce, subject, self.hub.state(commit)))
        return found

    def person(self, name: str = "person") -> Project:
        """Return a third clone, a person's."""
        path = self.hub.path.parent / name
        if not path.exists():
            self.hub.git("clone", "--quiet", str(self.hub.path), str(path))
        person = Project(path)
        person.git("pull", "--quiet", "--ff-only")
        return person

    # --- the promises ------------------------------------------------------------------------------------------------

    def check(self, forced: int = 0) -> None:
        """Assert the invariants I1 to I5 of the hand-off on the real repositories.

        The branch was moved back `forced` times, by a plain `git push --force` or `update-ref` of the test itself.
        """
        stamps = self.stamps()
        self._check_epochs(stamps)
        self._check_hand_offs([stamp for stamp in stamps if stamp.kind == "hand-off"])
        self._check_forward(forced)
        self._check_nothing_lost()
        for clone in (self.hub, *self.clones()):
            clone.git("fsck", "--connectivity-only")

    @staticmethod
    def _check_epochs(stamps: list[Stamp]) -> None:
        """I1: epochs grow; what belongs to an epoch has its holder and nonce, claim first, and one hand-off."""
        epochs = [stamp.epoch for stamp in stamps]
        assert epochs == sorted(epochs), epochs
        for epoch in set(epochs):
            mine = [stamp for stamp in stamps if stamp.epoch == epoch]
            assert len({(stamp.holder, stamp.nonce) for stamp in mine}) == 1, mine
            kinds = [stamp.kind for stamp in mine if "operator=stop" not in stamp.subject or len(mine) == 1]
            assert kinds in (["claim"], ["claim", "hand-off"], ["operator"]), (epoch, kinds)

    @staticmethod
    def _check_hand_offs(hand_offs: list[Stamp]) -> None:
        """I2, I4: at most one accepted success a turn, they alternate, and the iteration grows with ralph's."""
        done = [stamp for stamp in hand_offs if "status=ok" in stamp.subject]
        turns = [(stamp.state["iteration"], stamp.state["expected_actor"]) for stamp in done]
        assert max(Counter(turns).values(), default=1) == 1, turns
        for (before, whose), (after, next_) in pairwise(turns):
            assert (next_, after) == (("ralph", before) if whose == "galph" else ("galph", before + 1)), turns

    def _check_forward(self, forced: int) -> None:
        """I5: the branch only ever moved forward, but for what the test itself did."""
        moves = self.hub.git("reflog", "show", "--format=%H", "refs/heads/main").split()
        back = [(older, newer) for newer, older in pairwise(moves) if self.hub.git("merge-base", older, newer) != older]
        assert len(back) == forced, back

    def _check_nothing_lost(self) -> None:
        """I3: every commit that a local HEAD ever had is reachable from the remote's branch or a ref of its clone.

        Git notes where HEAD is to go before it goes there: it was where it went on from.
        """
        published = set(self.hub.git("rev-list", "--all").split())
        for clone in self.clones():
            kept = set(clone.git("rev-list", "--all").split())
            log = clone.path / clone.git("rev-parse", "--git-path", "logs/HEAD")
            ever = {line.split()[0] for line in log.read_text().splitlines()} - {"0" * 40}
            ever.add(clone.git("rev-parse", "HEAD"))
            assert ever <= published | kept, (clone.path, ever - published - kept)


def pair(folder: Path) -> Pair:
    """Make a remote, and two clones that `init` has set up."""
    first = repository(folder / "galph")
    assert first.call("init", "--json") == 0
    hub = Project(folder / "hub.git")
    first.git("clone", "--quiet", "--bare", str(first.path), str(hub.path))
    hub.git("config", "core.logAllRefUpdates", "always")
    first.git("remote", "add", "origin", str(hub.path))
    first.git("push", "--quiet", "--set-upstream", "origin", "main")
    hub.git("clone", "--quiet", str(hub.path), str(folder / "ralph"))
    return Pair(hub, first, Project(folder / "ralph"))


def until(true: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: it does not become so.

    """
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


@contextmanager
def running(*daemons: subprocess.Popen[str]) -> Iterator[None]:
    """End daemons that a failing test leaves behind."""
    try:
        yield
    finally:
        for daemon in daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()


def events(daemon: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Wait for the end of a daemon that was started with --json; return what it printed."""
    out, _ = daemon.communicate(timeout=PATIENCE)
    return [json.loads(line) for line in out.splitlines()]
