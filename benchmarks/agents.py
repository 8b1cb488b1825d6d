"""What it costs to understand an agent: reading its events, hiding its secrets, a long log, and the end of its run.

Speeds are those of one process on output as agents print it, in reads of a megabyte as from a pipe. The floor of
reading is what a shell loop would do with each line (`json.loads`). The end is the time from an agent's last act to
its turn record, hand-off included; beside it the same of `sh -c` with a file, written after a child has exited.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import DOOR, environment, percentiles, repository, tell, tool

sys.path.insert(0, str(DOOR.parents[1]))
from orchestration.masking import Mask
from orchestration.outcomes import Reader
from orchestration.presets import load

MEBIBYTE = 1 << 20
SECRETS = [b"sk-not-a-secret-of-anybody-0123456789"]
AGENT = """#!/bin/sh
cat >/dev/null
{work}
echo '{{"type":"turn.completed","usage":{{"input_tokens":1,"output_tokens":1}}}}'
date +%s.%N >"{ended}"
"""


def lines() -> bytes:
    """Return a megabyte of what codex prints: its words, and what its tools have printed."""
    source = (DOOR.parent / "turn.py").read_text() + (DOOR.parent / "process.py").read_text()
    spoken = {"type": "item.completed", "item": {"id": "item_1", "type": "agent_message", "text": source[:900]}}
    ran = {"type": "item.completed", "item": {"type": "command_execution", "aggregated_output": source, "exit_code": 0}}
    block = b"".join(json.dumps(event).encode() + b"\n" for event in (spoken, spoken, ran))
    return block * (MEBIBYTE // len(block))


def chunks(megabytes: int) -> Iterator[bytes]:
    """Yield that many reads of a pipe."""
    data = lines()
    for _ in range(megabytes):
        yield data


def read(megabytes: int) -> None:
    """Understand it."""
    reader = Reader(load()["codex"])
    for data in chunks(megabytes):
        reader.feed("stdout", data)


def parse(megabytes: int) -> None:
    """Parse each line, as a shell loop's helper would."""
    for data in chunks(megabytes):
        for line in data.splitlines():
            json.loads(line)


def hide(megabytes: int) -> None:
    """Hide secrets in it."""
    mask = Mask(SECRETS)
    for data in chunks(megabytes):
        mask.feed(data)


def speed(work: Callable[[int], None], megabytes: int, rounds: int) -> list[float]:
    """Return MiB/s, one a round."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work(megabytes)
        found.append(megabytes / (time.perf_counter() - begun))
    return found


class Bench:
    """A repository for the daemon, with an agent whose output is understood.

    Args:
        folder: of its own.

    """

    def __init__(self, folder: Path) -> None:
        self.env = environment(folder)
        self.project = folder / "project"
        self.ended = folder / "ended"
        self.agent = folder / "agent"
        repository(self.project, self.env)
        tool(self.project, self.env, "init")

    def run(self, work: str) -> float:
        """Run one turn whose agent does this first; return the peak of the daemon's memory in MiB."""
        self.agent.write_text(AGENT.format(work=work, ended=self.ended))
        self.agent.chmod(0o755)
        options = ["-c", f"agents.mine.command=[{self.agent}]", "-c", "agents.mine.preset=codex"]
        argv = [sys.executable, str(DOOR), "run", "--once", "-q", "--agent", "mine", *options]
        process = subprocess.Popen([*argv, "-c", "limits.no_progress_turns=0"], cwd=self.project, env=self.env)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the daemon ended with {process.returncode}")
        return usage.ru_maxrss / 1024

    def end(self) -> float:
        """Return the milliseconds from an agent's last act to its turn record."""
        self.run(":")
        written = max(file.stat().st_mtime for file in self.project.glob("logs/main/latest/iter-*.json"))
        return 1000 * (written - float(self.ended.read_text()))

    def floor(self) -> float:
        """Return the milliseconds from a child's last act to a file written when it has exited."""
        record = self.ended.with_name("record")
        child = f'date +%s.%N >"{self.ended}"'
        subprocess.run(["/bin/sh", "-c", f"sh -c '{child}'; : >\"{record}\""], env=self.env, check=True)
        return 1000 * (record.stat().st_mtime - float(self.ended.read_text()))

    def memory(self, megabytes: int) -> tuple[float, float]:
        """Return the peak of the daemon's memory with a log of so many MiB, and with next to none."""
        block = self.agent.with_name("block")
        block.write_bytes(lines())
        small = self.run(":")
        return self.run(f'for i in $(seq {megabytes}); do cat "{block}"; done'), small


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="of what is read and masked")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=30, help="whose ends are measured")
    parser.add_argument("--log", type=int, default=2048, metavar="MIB", help="of the long log; 0: none")
    given = parser.parse_args()
    told = []
    for name, work in (("read as events", read), ("json.loads a line", parse), ("masked", hide)):
        found = speed(work, given.megabytes, given.rounds)
        told.append(f"{name:<18} median {statistics.median(found):6.0f} MiB/s, best {max(found):6.0f} MiB/s")
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        ends, floors = zip(*((bench.end(), bench.floor()) for _ in range(given.turns)), strict=True)
        for name, values in (("agent to record", ends), ("floor", floors)):
            p50, p95 = percentiles(list(values))
            told.append(f"{name:<18} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms ({len(values)} samples)")
        if given.log:
            large, small = bench.memory(given.log)
            told.append(
                f"{given.log} MiB of log: peak {large:.1f} MiB, {large - small:+.1f} beyond an agent that says little"
            )
    tell(told)


if __name__ == "__main__":
    main()
