"""What the benchmarks share: ground to run on, rounds that alternate, and a table.

Whatever else the machine does falls on all that is compared, because every round runs each of them once.
"""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "orchestration" / "orchestrator.py"
sys.path.append(str(DOOR.parents[2] / "tests"))  # its git servers serve here too
_DROPPED = ("GIT_", "ORCH", "GALPH_", "PYTHON")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which neither the machine's git nor its Python settings count.

    Byte code is kept in `folder`, as an installation keeps it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "GIT_CONFIG_GLOBAL": os.devnull} | more


def repository(path: Path, env: Mapping[str, str]) -> None:
    """Make a repository with one commit of whatever lies in `path`."""
    path.mkdir(exist_ok=True)
    (path / "work").write_text("0\n")
    for words in (
        ("init", "--quiet", "--initial-branch=main", "."),
        ("config", "user.name", "bench"),
        ("config", "user.email", "bench@localhost"),
        ("add", "--all"),
        ("commit", "--quiet", "-m", "first"),
    ):
        subprocess.run(["git", *words], cwd=path, env=env, check=True, capture_output=True)


def tool(path: Path, env: Mapping[str, str], *args: str) -> None:
    """Run the tool in a repository."""
    subprocess.run([sys.executable, DOOR, *args], cwd=path, env=env, check=True, capture_output=True)


def interleaved(rounds: int, jobs: Mapping[str, Callable[[], list[float]]]) -> dict[str, list[float]]:
    """Return the samples of every job, which take turns round by round."""
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            samples[name] += job()
        sys.stderr.write(".")
        sys.stderr.flush()
    sys.stderr.write("\n")
    return samples


def percentiles(samples: list[float]) -> tuple[float, float]:
    """Return median and 95th percentile."""
    return statistics.median(samples), statistics.quantiles(samples, n=20)[-1]


def table(samples: Mapping[str, list[float]], unit: str = "ms") -> list[str]:
    """Return the machine, and least, median and 95th percentile of every job."""
    python, cores = platform.python_version(), os.cpu_count()
    lines = [f"{platform.system()} {platform.machine()}, {cores} cores, Python {python}"]
    width = max(map(len, samples))
    for name, values in samples.items():
        p50, p95 = percentiles(values)
        lines.append(
            f"{name:<{width}}  min {min(values):8.1f}  p50 {p50:8.1f}  p95 {p95:8.1f} {unit}  ({len(values)} samples)"
        )
    return lines


def tell(lines: list[str]) -> None:
    """Print the result."""
    sys.stdout.write("\n".join(lines) + "\n")
