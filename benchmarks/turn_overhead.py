"""What a turn costs beside the least that a shell loop would do: spawn the agent, `git add`, `git commit`.

And what one costs without git, beside spawning the agent alone. All run in turn on one machine, in blocks, with the
same agent and the same `core.fsync=all`. The agent notes when it starts; a sample is the time from one start to the
next, so that the start of the daemon does not count.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from common import environment, interleaved, percentiles, repository, table, tell, tool

AGENT = '#!/bin/sh\ndate +%s.%N >> "{starts}"\n'
FSYNC = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsync", "GIT_CONFIG_VALUE_0": "all"}
BLOCK = 10
"""Turns of one round."""


class Bench:
    """Two repositories and a plain folder side by side, and one agent."""

    def __init__(self, folder: Path, files: int) -> None:
        self.starts = folder / "starts"
        self.agent = folder / "agent"
        self.agent.write_text(AGENT.format(starts=self.starts))
        self.agent.chmod(0o755)
        self.env = environment(folder, **FSYNC)
        self.floor, self.tool = folder / "floor", folder / "tool"
        for top in (self.floor, self.tool):
            for number in range(files):
                path = top / "src" / f"{number % 100}" / f"{number}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{number}\n")
            repository(top, self.env)
        tool(self.tool, self.env, "init")
        self.plain = folder / "plain"
        self.plain.mkdir()
        tool(self.plain, self.env, "init", "--no-git")

    def taken(self) -> list[float]:
        """Return the times between the noted starts, in milliseconds, and forget them."""
        starts = [float(line) for line in self.starts.read_text().split()]
        self.starts.unlink()
        return [1000 * (after - before) for before, after in pairwise(starts)]

    def tool_block(self, place: Path) -> list[float]:
        """Return the samples of a run of the tool: two turns an iteration."""
        once = ("run", "-q", "-n", str(BLOCK // 2), "--agent", str(self.agent), "--router-review-every-n", "0")
        tool(place, self.env, *once)
        return self.taken()

    def spawn_block(self) -> list[float]:
        """Return the samples of as many agents alone."""
        for _ in range(BLOCK):
            subprocess.run([self.agent], check=True, capture_output=True)
        return self.taken()

    def floor_block(self) -> list[float]:
        """Return the samples of as many turns of the shell loop."""
        for _ in range(BLOCK):
            subprocess.run([self.agent], check=True, capture_output=True)
            (self.floor / "work").write_text(f"{time.monotonic_ns()}\n")
            for words in (("add", "work"), ("commit", "--quiet", "-m", "turn")):
                subprocess.run(["git", *words], cwd=self.floor, env=self.env, check=True, capture_output=True)
        return self.taken()


def main() -> None:
    """Run the blocks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="turns of each, in blocks of 10")
    parser.add_argument("--files", type=int, default=0, help="further tracked files in the repositories")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.files)
        jobs: dict[str, Callable[[], list[float]]] = {
            "tool": partial(bench.tool_block, bench.tool),
            "floor": bench.floor_block,
            "tool, no git": partial(bench.tool_block, bench.plain),
            "agent alone": bench.spawn_block,
        }
        samples = interleaved(max(1, given.turns // BLOCK), jobs)
    tell([*table(samples), beyond(samples, "tool", "floor"), beyond(samples, "tool, no git", "agent alone")])


def beyond(samples: dict[str, list[float]], job: str, floor: str) -> str:
    """Return how far a job's median lies above its floor's."""
    here, there = (percentiles(samples[name])[0] for name in (job, floor))
    return f"{job}: {here - there:.1f} ms a turn above {floor}, {here / there:.2f} times"


if __name__ == "__main__":
    main()
