"""What a hand-off between two clones costs beside the least that two shell loops would do, and how long it waits.

Two daemons, one role each, in two clones of a bare remote. The agent does nothing but note its start and its end; a
sample is the time from one side's start to the other's: pushed here, noticed there, claimed, begun. The floor does
what any hand-off must: agent, `git add`, `git commit`, `git push` here, `git fetch` and `git merge --ff-only` there,
one after the other in one process, with the same `core.fsync=all`. So that no turn runs twice, a turn is claimed at the
remote before its agent begins, which is a commit and a push more: the floor with a claim. All run in turn, in blocks.

Over http nobody is woken by file events; a hook of the remote wakes both sides there, so that no poll counts.
`--latency` leaves the waking out: from one agent's end to the other's start, where a look now and then has to find it.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from common import DOOR, environment, interleaved, percentiles, repository, table, tell, tool
from servers import web

FSYNC = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsync", "GIT_CONFIG_VALUE_0": "all"}
AGENT = """#!/bin/sh
date +%s.%N >>"{starts}"
test ! -s "{pauses}" || {{
    pause=$(head -n 1 "{pauses}") && sed -i 1d "{pauses}" && sleep "$pause"
    date +%s.%N >>"{ends}"
}}
"""
HOOK = '#!/bin/sh\n: >"{galph}/.git/orchestration/control/wake"\n: >"{ralph}/.git/orchestration/control/wake"\n'
ROLES = ("galph", "ralph")
BLOCK = 20
"""Hand-offs of one round."""
FIRST = 2
"""Samples of a block that do not count: the second daemon may still be starting."""
ALLOWED, RATIO = 30.0, 1.5
"""Milliseconds beyond the floor at the median, and times the floor at the 95th percentile."""
MIB = 1 << 20


class Usage(NamedTuple):
    """What a process holds: open descriptors, children, resident memory in MiB."""

    descriptors: int
    children: int
    memory: float


class Bench:
    """A bare remote and two clones of it.

    Args:
        folder: of its own.
        env: git's and the tool's.
        address: makes the URL by which the clones know the remote, from its path.

    """

    def __init__(self, folder: Path, env: Mapping[str, str], address: Callable[[Path], str]) -> None:
        self.env = env
        self.folder = folder
        self.hub = folder / "hub.git"
        self.starts, self.ends, self.pauses = (folder / name for name in ("starts", "ends", "pauses"))
        self.agent = folder / "agent"
        folder.mkdir()
        self.agent.write_text(AGENT.format(starts=self.starts, ends=self.ends, pauses=self.pauses))
        self.agent.chmod(0o755)
        first = self.clone("galph")
        repository(first, env)
        tool(first, env, "init")
        self.git(folder, "clone", "--quiet", "--bare", str(first), str(self.hub))
        self.git(self.hub, "config", "http.receivepack", "true")
        self.git(first, "remote", "add", "origin", address(self.hub))
        self.git(first, "push", "--quiet", "--set-upstream", "origin", "main")
        self.git(folder, "clone", "--quiet", address(self.hub), "ralph")
        for name, value in (("user.name", "bench"), ("user.email", "bench@localhost")):
            self.git(self.clone("ralph"), "config", name, value)

    def clone(self, role: str) -> Path:
        """Name a role's clone."""
        return self.folder / role

    def git(self, place: Path, *words: str) -> None:
        """Run git."""
        subprocess.run(["git", *words], cwd=place, env=self.env, check=True, capture_output=True)

    def wake_by_hook(self) -> None:
        """Have every push wake both sides."""
        hook = self.hub / "hooks" / "post-receive"
        hook.write_text(HOOK.format(**{role: self.clone(role) for role in ROLES}))
        hook.chmod(0o755)
        for role in ROLES:
            (self.clone(role) / ".git" / "orchestration" / "control").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def daemons(self, turns: int, *args: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Start both sides for that many turns together; wait for their end.

        Raises:
            SystemExit: one failed.

        """
        argv = [sys.executable, str(DOOR), "run", "-q", "-n", str(turns // 2), "--agent", str(self.agent)]
        argv += ["--sync-via-git", "--router-review-every-n", "0", *args]
        running = [subprocess.Popen([*argv, "--role", role], cwd=self.clone(role), env=self.env) for role in ROLES]
        try:
            yield running
            codes = [process.wait() for process in running]
        finally:
            for process in running:
                process.terminate()
                process.wait()
        if any(codes):
            raise SystemExit(f"the daemons ended with {codes}")

    def noted(self, file: Path) -> list[float]:
        """Return the noted moments, and forget them."""
        moments = [float(line) for line in file.read_text().split()]
        file.unlink()
        return moments

    def taken(self) -> list[float]:
        """Return the times between the noted starts, in milliseconds, and forget them."""
        return [1000 * (after - before) for before, after in pairwise(self.noted(self.starts))][FIRST:]

    def tool_block(self) -> list[float]:
        """Return the samples of a block of the tool."""
        with self.daemons(BLOCK):
            pass
        return self.taken()

    def floor_block(self, *, claim: bool = False) -> list[float]:
        """Return the samples of a block of the two shell loops, that claim their turns or not."""
        for _ in range(BLOCK // 2):
            for here, there in (ROLES, reversed(ROLES)):
                subprocess.run([self.agent], check=True, capture_output=True)
                (self.clone(here) / "work").write_text(f"{time.monotonic_ns()}\n")
                for words in (("add", "work"), ("commit", "--quiet", "-m", "turn"), ("push", "--quiet")):
                    self.git(self.clone(here), *words)
                for words in (("fetch", "--quiet"), ("merge", "--quiet", "--ff-only", "origin/main")):
                    self.git(self.clone(there), *words)
                if claim:
                    self.git(self.clone(there), "commit", "--quiet", "--allow-empty", "-m", "claim")
                    self.git(self.clone(there), "push", "--quiet")
        return self.taken()

    # --- waiting -----------------------------------------------------------------------------------------------------

    def waits(self, turns: int, poll: float, longest: float) -> list[float]:
        """Return the times from one agent's end to the next one's start, in ms; agents take up to `longest` seconds.

        An agent's time is drawn anew for each: where in the other side's rhythm it ends must not repeat itself.
        """
        draw = random.Random(turns)  # noqa: S311
        self.pauses.write_text("".join(f"{draw.uniform(0.05, longest):.3f}\n" for _ in range(turns)))
        with self.daemons(turns, "-c", f"sync.poll_interval={poll:g}"):
            pass
        starts, ends = self.noted(self.starts), self.noted(self.ends)
        return [1000 * (start - end) for end, start in zip(ends[:-1], starts[1:], strict=True)][FIRST:]

    # --- a long run --------------------------------------------------------------------------------------------------

    def soak(self, turns: int, early: int = 100) -> list[str]:
        """Return what both daemons hold at the turn `early` and before the end of a long run."""
        lines = []
        with self.daemons(turns) as running:
            for number in (early, turns - 20):
                while len(self.starts.read_text().split() if self.starts.exists() else ()) < number:
                    if any(process.poll() is not None for process in running):
                        raise SystemExit(f"a daemon ended before turn {number}")
                    time.sleep(0.05)
                for role, process in zip(ROLES, running, strict=True):
                    lines.append(f"{role} at turn {number:>5}: {least(process.pid)}")
        took = self.noted(self.starts)
        lines.append(f"{turns} turns in {took[-1] - took[0]:.0f} s")
        return lines


BLOCKS: dict[str, Callable[[Bench], list[float]]] = {
    "tool": Bench.tool_block,
    "floor": Bench.floor_block,
    "floor with a claim": partial(Bench.floor_block, claim=True),
}


def usage(pid: int) -> Usage:
    """Return what a process holds now."""
    place = Path("/proc") / str(pid)
    children = sum(len(task.read_text().split()) for task in place.glob("task/*/children"))
    pages = int((place / "statm").read_text().split()[1])
    return Usage(len(list((place / "fd").iterdir())), children, pages * os.sysconf("SC_PAGE_SIZE") / MIB)


def least(pid: int) -> str:
    """Tell what a process holds when no git of the moment runs: the least of two seconds; of memory the median."""
    seen = []
    for _ in range(100):
        seen.append(usage(pid))
        time.sleep(0.02)
    descriptors, children = min(one.descriptors for one in seen), min(one.children for one in seen)
    memory = statistics.median(one.memory for one in seen)
    return f"{descriptors} descriptors, {children} children, {memory:.1f} MiB"


def local(hub: Path) -> str:
    """Return an address that shows that the remote is on this machine."""
    return hub.as_uri()


def hidden(hub: Path) -> str:
    """Return an address that git resolves on this machine, and that only a look at the remote can follow."""
    return hub.as_uri().replace("hub", "%68ub")


def against_the_floor(folder: Path, turns: int) -> list[str]:
    """Return the table of both transports beside their floors."""
    env = environment(folder, **FSYNC)
    with web(folder) as site:
        addresses = {"file": local, "http": lambda hub: f"{site.url}/{hub.relative_to(folder)}"}
        jobs: dict[str, Callable[[], list[float]]] = {}
        for kind, address in addresses.items():
            for number, (what, block) in enumerate(BLOCKS.items()):
                bench = Bench(folder / f"{kind}-{number}", env, address)
                if kind == "http":
                    bench.wake_by_hook()
                jobs[f"{what}, {kind}"] = partial(block, bench)
        samples = interleaved(max(1, turns // BLOCK), jobs)
    return [*table(samples), *(beyond(samples, kind) for kind in addresses)]


def beyond(samples: Mapping[str, list[float]], kind: str) -> str:
    """Return how far a hand-off lies beyond its floors."""
    here, there, claimed = (percentiles(samples[f"{what}, {kind}"]) for what in BLOCKS)
    return (
        f"{kind}: {here[0] - there[0]:+.1f} ms at p50 (target +{ALLOWED:g}), "
        f"{here[1] / there[1]:.2f} times at p95 (target {RATIO:g}); beside the floor with a claim "
        f"{here[0] - claimed[0]:+.1f} ms, {here[1] / claimed[1]:.2f} times"
    )


def latencies(folder: Path, turns: int) -> list[str]:
    """Return how long an agent's end stays unnoticed: woken by file events, and by looks now and then."""
    env = environment(folder, **FSYNC)
    jobs: dict[str, Callable[[], list[float]]] = {}
    for poll in (1.0, 5.0):
        bench = Bench(folder / f"woken-{poll:g}", env, local)
        jobs[f"file events, poll_interval {poll:g} s"] = partial(bench.waits, turns, poll, 0.3)
        bench = Bench(folder / f"polled-{poll:g}", env, hidden)
        jobs[f"no file events, poll_interval {poll:g} s"] = partial(bench.waits, turns, poll, 4 * poll)
    lines = []
    for name, values in interleaved(1, jobs).items():
        p99 = statistics.quantiles(values, n=100, method="inclusive")[-1]
        lines.append(f"{name}: p50 {statistics.median(values):.0f} ms, p99 {p99:.0f} ms ({len(values)} samples)")
    return lines


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="hand-offs of each, in blocks of 20; 0: none")
    parser.add_argument(
        "--latency", type=int, default=0, metavar="TURNS", help="hand-offs with agents that take a while"
    )
    parser.add_argument("--soak", type=int, default=0, metavar="TURNS", help="hand-offs of one long run")
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.turns:
            lines += against_the_floor(folder, given.turns)
        if given.latency:
            lines += latencies(folder, given.latency)
        if given.soak:
            lines += Bench(folder / "soak", environment(folder, **FSYNC), local).soak(given.soak)
    tell(lines)


if __name__ == "__main__":
    main()
