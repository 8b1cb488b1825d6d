"""What a command costs before it does anything: `--version` and `status` beside Python and its imports alone."""

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import DOOR, environment, interleaved, percentiles, repository, table, tell, tool

FLOOR = "python -c 'import click, msgspec, yaml'"
TARGET = 25.0
"""Milliseconds that a command may take beyond the floor."""

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    FLOOR: [sys.executable, "-c", "import click, msgspec, yaml"],
    "orchestrator --version": [sys.executable, str(DOOR), "--version"],
    "orchestrator status": [sys.executable, str(DOOR), "status"],
    "git status": ["git", "status"],
}


def timed(argv: list[str], cwd: Path, env: dict[str, str]) -> list[float]:
    """Return the milliseconds that a command takes."""
    begun = time.perf_counter()
    subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True)
    return [1000 * (time.perf_counter() - begun)]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, env = Path(folder) / "project", environment(Path(folder))
        repository(path, env)
        tool(path, env, "init")
        jobs = {name: partial(timed, argv, path, env) for name, argv in COMMANDS.items()}
        interleaved(2, jobs)  # fills the byte code and the page cache
        samples = interleaved(given.rounds, jobs)
    lines = table(samples)
    floor = percentiles(samples[FLOOR])
    for name in ("orchestrator --version", "orchestrator status"):
        p50, p95 = percentiles(samples[name])
        lines.append(
            f"{name}: {p50 - floor[0]:+.1f} ms at p50 (target +{TARGET:g}), {p95 - floor[1]:+.1f} ms at p95, "
            f"{p50 / floor[0]:.2f} times the imports"
        )
    tell(lines)


if __name__ == "__main__":
    main()
