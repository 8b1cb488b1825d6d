"""Real command lines against every misfortune of their provider, and killed at work: `scripts/prove agents`.

Each is started by itself, against a model server on the loopback; what it printed, its exit code, its time and the
calls that it made are kept and shown in a table. Then the daemon that runs it is ended in the middle of a tool call, in
three ways, and nothing may be left of it.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from conftest import Project, repository
from fake_model import PLANS, Counted, FakeModel, Plan, closed_port
from orchestration.clock import SystemClock
from orchestration.outcomes import Ending, Kind, Reader, Usage
from orchestration.presets import load
from orchestration.process import Completed, Loop, Request, Why
from prove_kills import seal as seal_home
from real_agents import AGENTS, NAMES, Sealed, install, seal

PROMPT = b"# Main (ralph)\n\nDo the one item that input.md names.\n"
PATIENCE = 60.0
MINUTE = 60.0
SILENCE = 30.0
"""Seconds without progress after which a command line is ended, as the daemon would."""


class Case(NamedTuple):
    """One misfortune: the scenario, and how the turn should be told for each command line."""

    name: str
    scenario: str
    claude: str
    codex: str
    refused: bool = False

    def expected(self, name: str) -> str:
        """Return how it should be told."""
        return self.claude if name == "claude" else self.codex


CASES = [
    Case("text only", "lie", "ok", "ok"),
    Case("edit and commit", "ok", "ok", "ok"),
    Case("slow", "slow,0.2", "ok", "ok"),
    Case("429", "429", "rate_limit", "rate_limit"),
    Case("usage limit", "usage,5400", "usage_limit", "usage_limit"),
    Case("no money", "quota", "quota", "quota"),
    Case("401", "401", "auth", "auth"),
    Case("403", "403", "auth", "auth"),
    Case("404", "404", "config", "config"),
    Case("500", "500", "server", "server"),
    Case("529", "529", "server", "server"),
    Case("overflow", "overflow", "overflow", "overflow"),
    Case("cut", "cut", "network", "network"),
    Case("short", "short", "network", "network"),
    Case("hang", "hang", "network", "idle"),
    Case("stall", "stall", "idle", "idle"),
    Case("refused", "ok", "network", "network", refused=True),
]


@dataclass
class Row:
    """What one command line did in one case, and how that is told."""

    agent: str
    case: str
    end: str
    told: str
    seconds: float
    calls: int
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        facts = f"{self.agent:7} {self.case:16} {self.end:8} {self.told:12} {self.seconds:5.1f} s {self.calls:3} calls"
        return "  ".join([facts, *self.faults])


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(sealed: Sealed, folder: Path, where: Path) -> tuple[Completed, Ending]:
    """Run a command line to its end as a daemon does; keep what it printed in `folder`."""
    clock = SystemClock()
    reader = Reader(load()[sealed.name])
    progress = [clock.monotonic()]
    request = Request(argv=sealed.argv, cwd=where, env=sealed.env, stdin=PROMPT, timeout=PATIENCE, stamp="agents")

    def take(stream: str, data: bytes) -> None:
        with (folder / stream).open("ab") as kept:
            kept.write(data)
        if reader.feed("stdout" if stream == "stdout" else "stderr", data):
            progress[0] = clock.monotonic()

    def look() -> None:
        left = progress[0] + SILENCE - clock.monotonic()
        if left > 0:
            loop.after(left, look)
        else:
            child.stop(Why.IDLE)

    with Loop(clock, adopt=True) as loop:
        child = loop.spawn(request, take)
        look()
        done = loop.wait(child)
    return done, reader.ended(done.code, done.why, datetime.now(UTC))


def fortune(case: Case, name: str, folder: Path) -> Row:
    """Run a command line by itself, and judge what it did and how that is told."""
    folder.mkdir(parents=True)
    with FakeModel() as model, closed_port() as port:
        model.scenario(case.scenario)
        url = f"http://127.0.0.1:{port}" if case.refused else ""
        sealed = seal(name, folder / "home", model, url=url, subscription=case.name == "usage limit")
        sealed.env.update(ORCH_TURN="7/ralph", ORCH_ITERATION="7", API_TIMEOUT_MS="3000")
        project = repository(folder / "project")
        begun = datetime.now(UTC)
        done, ending = run(sealed, folder, project.path)
        end = f"exit {done.code}" if done.why is Why.EXITED else str(done.why)
        row = Row(name, case.name, end, str(ending.kind), done.seconds, model.counted.requests)
        works = case.name in {"edit and commit", "slow"}
        if ending.kind != case.expected(name):
            row.faults.append(f"not {case.expected(name)}: {ending.reason}")
        if (project.subjects()[1:] == ["T7: worked"]) != works:
            row.faults.append("it did not commit" if works else "it committed")
        if ending.kind is Kind.OK and not agrees(ending.usage, model.counted):
            row.faults.append(f"it reports {ending.usage}, the server counted {model.counted}")
        if case.name == "usage limit" and (fault := late(ending.reset, begun + timedelta(seconds=5400))):
            row.faults.append(fault)
        if model.strays:
            row.faults.append(f"it asked for {', '.join(sorted(set(model.strays)))}")
        if done.unkillable:
            row.faults.append(f"cannot be ended: {done.unkillable}")
    return row


def agrees(usage: Usage | None, counted: Counted) -> bool:
    """Tell whether a command line reports the tokens that the server counted."""
    if usage is None:
        return False
    return (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == counted[1:]


def late(reset: datetime | None, due: datetime) -> str:
    """Return what is wrong with when a limit is said to end: a minute is as exact as it is told."""
    if reset is None:
        return "when the limit ends was not understood"
    off = (reset - due).total_seconds()
    return "" if abs(off) <= MINUTE else f"the limit ends {off:+.0f} s off"


# --- killed at work --------------------------------------------------------------------------------------------------

ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
"""How the daemon may be ended, and its exit code then."""


def processes(file: str, holds: bytes) -> list[int]:
    """Return the processes whose `cmdline` or `environ` holds these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                if b"\0%s\0" % holds in b"\0" + (entry / file).read_bytes():
                    found.append(int(entry.name))
    return found


def until(come: Callable[[], object], daemon: "subprocess.Popen[str]") -> bool:
    """Wait while the daemon lives; tell whether it has come."""
    given_up = time.monotonic() + PATIENCE
    while not come():
        if daemon.poll() is not None or time.monotonic() > given_up:
            return False
        time.sleep(0.02)
    return True


def killed(number: signal.Signals, name: str, folder: Path) -> Row:
    """End the daemon alone while its agent's tool sleeps; after KILL, start it again, as a person or cron would."""
    folder.mkdir(parents=True)
    seconds = f"600.{os.getpid()}{int(number)}{NAMES.index(name)}"  # as nobody else would
    sleeping = partial(processes, "cmdline", b"sleep\0" + seconds.encode())
    living = partial(processes, "environ", f"HOME={folder}/home".encode())
    with FakeModel(plans={**PLANS, "Supervisor": Plan((f"nice sleep {seconds}",))}) as model:
        sealed = seal(name, folder / "home", model)
        project = repository(folder / "project")
        assert project.run("init").returncode == 0
        begun = time.monotonic()
        daemon = sealed.daemon(project.path, "--once")
        faults = [] if until(sleeping, daemon) else ["its tool never ran"]
        daemon.send_signal(number)
        said, _ = daemon.communicate(timeout=PATIENCE)
        row = Row(name, f"daemon {number.name}", f"exit {daemon.returncode}", "", 0.0, model.counted.requests, faults)
        if daemon.returncode != ENDS[number]:
            faults.append(f"not {ENDS[number]}: {said[-300:]}")
        if number is signal.SIGKILL:
            outlived = len(living())
            model.plans["Supervisor"] = PLANS["Supervisor"]
            faults += again(sealed, project)
            row.told = f"{outlived} outlived"
        row.seconds = time.monotonic() - begun
        if left := living():
            faults.append(f"left alive: {left}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    return row


def again(sealed: Sealed, project: Project) -> list[str]:
    """Start the daemon again, and return what is wrong with it."""
    daemon = sealed.daemon(project.path, "--once")
    said, _ = daemon.communicate(timeout=PATIENCE)
    if daemon.returncode != 0:
        return [f"the next start: exit {daemon.returncode}: {said[-300:]}"]
    return []


def main() -> int:
    """Run every case; return 0 if nothing was unexpected."""
    parser = argparse.ArgumentParser(prog="scripts/prove agents", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=NAMES, action="append", help="this command line alone")
    parser.add_argument("--case", action="append", help="this case alone (text only, 429, kill, ...)")
    parser.add_argument("--keep", action="store_true", help="keep what they printed, and say where")
    given = parser.parse_args()
    names = given.only or list(NAMES)
    if missing := install(*names, folder=AGENTS):
        say(missing)
        return 1
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal_home(place / "home")
    rows = []
    for name in names:
        jobs: dict[str, Callable[[Path], Row]] = {case.name: partial(fortune, case, name) for case in CASES}
        jobs |= {f"kill {number.name}": partial(killed, number, name) for number in ENDS}
        for label, job in jobs.items():
            if not given.case or label in given.case or label.partition(" ")[0] in given.case:
                rows.append(job(place / name / label.replace(" ", "-")))
                say(str(rows[-1]))
    wrong = [row for row in rows if row.faults]
    say(f"{len(rows)} cases, {len(wrong)} unexpected")
    if wrong or given.keep:
        say(f"what they printed is in {place}")
    else:
        shutil.rmtree(place)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
