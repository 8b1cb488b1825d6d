"""How fast an agent that floods both of its streams is drained, in how much memory, and what masking costs of it.

Beside it the same producer is drained without masking, and piped into `tee FILE >/dev/null`, in turn. A sample is the
time of the whole command less that of the same command with a silent producer, so that neither the start of the daemon
nor its git counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import DOOR, environment, interleaved, repository, table, tell, tool

TARGET = 0.7
"""Of tee's speed."""
MASKING = 0.1
"""Of the speed without it, at most."""
PRODUCER = """#!{python}
import os
line = b"0123456789abcdef" * 6 + b"the\\n"
block = memoryview(line * ((1 << 20) // len(line) + 1))[: 1 << 20]
for _ in range({megabytes} // 2):
    for stream in (1, 2):
        left = block
        while left:
            left = left[os.write(stream, left) :]
"""
MEBIBYTE = 1 << 20
CAPPED = 768
"""MiB that a raw log holds at least of what is larger than its cap."""


class Bench:
    """A repository for the daemon, a file for tee, and two producers: one floods, one is silent."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.project = folder / "project"
        self.copy = folder / "copy"
        self.megabytes = megabytes
        self.env = environment(folder)
        repository(self.project, self.env)
        tool(self.project, self.env, "init")
        self.peaks: dict[int, list[float]] = {0: [], megabytes: []}
        for size in self.peaks:
            self.producer(size).write_text(PRODUCER.format(python=sys.executable, megabytes=size))
            self.producer(size).chmod(0o755)

    def producer(self, megabytes: int) -> Path:
        """Name the producer of that many MiB."""
        return self.copy.with_name(f"producer-{megabytes}")

    def daemon(self, megabytes: int, *, mask: bool = True) -> list[float]:
        """Return the milliseconds of one turn; note the peak of the daemon's memory, and drop the log."""
        argv = [sys.executable, str(DOOR), "run", "--once", "-q", "--agent", str(self.producer(megabytes))]
        argv += ["-c", f"logs.mask={str(mask).lower()}"]
        begun = time.perf_counter()
        process = subprocess.Popen(argv, cwd=self.project, env=self.env)
        _, status, usage = os.wait4(process.pid, 0)
        milliseconds = 1000 * (time.perf_counter() - begun)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.peaks[megabytes].append(usage.ru_maxrss / 1024)
        (log,) = self.project.glob("logs/main/latest/*.log")
        self.require(process.returncode, log, megabytes)
        return [milliseconds]

    def tee(self, megabytes: int) -> list[float]:
        """Return the milliseconds of the same into tee."""
        command = f'"{self.producer(megabytes)}" 2>&1 | tee "{self.copy}" >/dev/null'
        begun = time.perf_counter()
        code = subprocess.run(["/bin/sh", "-c", command], env=self.env, check=False).returncode
        milliseconds = 1000 * (time.perf_counter() - begun)
        self.require(code, self.copy, megabytes)
        return [milliseconds]

    @staticmethod
    def require(code: int, log: Path, megabytes: int) -> None:
        """Count nothing that failed or lost a byte (but a raw log has a cap); leave no file for the next round."""
        size = log.stat().st_size
        log.unlink()
        if code or size < min(megabytes, CAPPED) * MEBIBYTE:
            raise SystemExit(f"exit {code}, and {size} bytes of {megabytes} MiB in {log}")


def speed(samples: dict[str, list[float]], name: str, megabytes: int, pick: Callable[[list[float]], float]) -> float:
    """Return the MiB/s of what `pick` makes of the samples."""
    silent, flooded = (pick(samples[f"{name} {size} MiB"]) for size in (0, megabytes))
    return 1000 * megabytes / (flooded - silent)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="MiB of both streams together")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.megabytes)
        jobs = {
            f"{name} {size} MiB": partial(run, size)
            for name, run in (
                ("daemon", bench.daemon),
                ("unmasked", partial(bench.daemon, mask=False)),
                ("tee", bench.tee),
            )
            for size in (0, given.megabytes)
        }
        samples = interleaved(given.rounds, jobs)
    lines = table(samples)
    for what, pick in (("median", statistics.median), ("least", min)):
        daemon, bare, tee = (speed(samples, name, given.megabytes, pick) for name in ("daemon", "unmasked", "tee"))
        lines += [
            f"{what:<6}  daemon {daemon:.0f} MiB/s, tee {tee:.0f} MiB/s, ratio {daemon / tee:.2f} (target {TARGET:g})",
            f"{what:<6}  unmasked {bare:.0f} MiB/s, so masking costs {1 - daemon / bare:.1%} (target {MASKING:.0%})",
        ]
    silent, flooded = (max(bench.peaks[size]) for size in (0, given.megabytes))
    lines.append(f"peak memory of the daemon: {flooded:.0f} MiB, {flooded - silent:+.1f} beyond a silent agent's")
    tell(lines)


if __name__ == "__main__":
    main()
