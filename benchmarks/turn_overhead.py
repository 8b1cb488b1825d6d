"""What a turn costs beside the least that a shell loop would do: spawn the agent, `git add`, `git commit`.

Both run in turn on one machine, in blocks, with the same agent and the same `core.fsync=all`. The agent notes when it
starts; a sample is the time from one start to the next, so that the start of the daemon does not count.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "orchestration" / "orchestrator.py"
AGENT = '#!/bin/sh\ndate +%s.%N >> "{starts}"\n'
FSYNC = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsync", "GIT_CONFIG_VALUE_0": "all"}


class Bench:
    """Two repositories side by side, and one agent."""

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        self.starts = folder / "starts"
        self.agent = folder / "agent"
        self.agent.write_text(AGENT.format(starts=self.starts))
        self.agent.chmod(0o755)
        self.env = {**os.environ, **FSYNC}
        for name in ("tool", "floor"):
            self.git(name, "init", "--quiet", "--initial-branch=main", ".")
            self.git(name, "config", "user.name", "bench")
            self.git(name, "config", "user.email", "bench@localhost")
            for number in range(files):
                path = folder / name / "src" / f"{number % 100}" / f"{number}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{number}\n")
            (folder / name / "work").write_text("0\n")
            self.git(name, "add", "--all")
            self.git(name, "commit", "--quiet", "-m", "first")
        self.tool("init")

    def git(self, name: str, *args: str) -> None:
        """Run git in one of the repositories."""
        (self.folder / name).mkdir(exist_ok=True)
        subprocess.run(["git", *args], cwd=self.folder / name, env=self.env, check=True, capture_output=True)

    def tool(self, *args: str) -> None:
        """Run the tool in its repository."""
        subprocess.run([sys.executable, DOOR, *args], cwd=self.folder / "tool", check=True, capture_output=True)

    def taken(self) -> list[float]:
        """Return the times between the noted starts, in milliseconds, and forget them."""
        starts = [float(line) for line in self.starts.read_text().split()]
        self.starts.unlink()
        return [1000 * (after - before) for before, after in pairwise(starts)]

    def tool_block(self, iterations: int) -> list[float]:
        """Return the samples of a run of the tool."""
        self.tool("run", "-q", "-n", str(iterations), "--agent", str(self.agent), "--router-review-every-n", "0")
        return self.taken()

    def floor_block(self, turns: int) -> list[float]:
        """Return the samples of as many turns of the shell loop."""
        for _ in range(turns):
            subprocess.run([self.agent], check=True, capture_output=True)
            (self.folder / "floor" / "work").write_text(f"{time.monotonic_ns()}\n")
            self.git("floor", "add", "work")
            self.git("floor", "commit", "--quiet", "-m", "turn")
        return self.taken()


def percentiles(samples: list[float]) -> tuple[float, float]:
    """Return median and 95th percentile."""
    return statistics.median(samples), statistics.quantiles(samples, n=20)[-1]


def report(tool: list[float], floor: list[float]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {len(tool)} turns"
    for name, samples in (("tool", tool), ("floor", floor)):
        p50, p95 = percentiles(samples)
        yield f"{name:<6} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms"
    p50, p95 = (a / b for a, b in zip(percentiles(tool), percentiles(floor), strict=True))
    yield f"ratio  p50 {p50:7.2f}      p95 {p95:7.2f}"
    yield f"above the floor: {percentiles(tool)[0] - percentiles(floor)[0]:.1f} ms a turn"


def main() -> None:
    """Run the blocks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="turns of each, in blocks of 10")
    parser.add_argument("--files", type=int, default=0, help="further tracked files in the repositories")
    given = parser.parse_args()
    tool: list[float] = []
    floor: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.files)
        for _ in range(max(1, given.turns // 10)):
            tool += bench.tool_block(5)
            floor += bench.floor_block(10)
            sys.stderr.write(".")
            sys.stderr.flush()
    sys.stderr.write("\n")
    sys.stdout.write("\n".join(report(tool, floor)) + "\n")


if __name__ == "__main__":
    main()
