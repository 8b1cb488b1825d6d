"""A night with a real cron, in ten minutes: `scripts/prove cron`.

Debian's cron starts what `init --cron --every 1` printed, as it stands, under its bare environment. The agent works for
longer than a minute, everything is killed in the middle as by a power cut, a turn fails, and a ceiling is reached. The
exit code of every start is read from cron's own log, what was done and spent from the ledger of the agent.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from conftest import Project, executable, repository
from orchestration import failpoints
from prove_kills import KEEP_LEDGER, Ledger, seal

CRON = Path("/usr/sbin/cron")
LOG = Path("/dev/log")
PATIENCE = 150.0
"""Seconds after which what should have happened counts as missing."""
INTO_THE_TURN = 25.0
"""Seconds of work after which everything is killed."""
TOKENS = 1000
"""What the agent says that a turn has used; three of its turns are over LIMIT."""
LIMIT = 2500

AGENT = (
    KEEP_LEDGER
    + """
import json

# Seconds of work and exit code, from one start to the next.
DOES = [(600, 0), (75, 0), (1, 1), (1, 0)]


def say(**event):
    print(json.dumps(event), flush=True)


sys.stdin.buffer.read()
with open(LEDGER) as page:
    number = sum(line.startswith("start ") for line in page)
if number > len(DOES):
    note("uncalled-for")
    os._exit(9)
seconds, code = DOES[number - 1]
say(type="thread.started", thread_id="thread-%d" % number)
say(type="turn.started")
os.makedirs("plans", exist_ok=True)
with open("plans/diary.md", "a") as page:
    page.write("start %d: %s\\n" % (number, TURN))
time.sleep(seconds)
note("spent", time.strftime("%Y-%m-%d", time.gmtime()), "@TOKENS@")
say(type="item.completed", item=dict(id="item_0", type="agent_message", text="Wrote the diary."))
say(type="turn.completed", usage=dict(input_tokens=@TOKENS@ - 100, cached_input_tokens=0, output_tokens=100))
note("ended", str(code))
os._exit(code)
"""
).replace("@TOKENS@", str(TOKENS))
"""An agent that prints codex's events; `ended` is its very last act."""


class Expected(NamedTuple):
    """How a start must end (None: it is killed), why, and whether the next one comes before that."""

    code: int | None
    why: str
    outlasts: bool = False


EXPECTED = (
    Expected(None, "galph works; after half a minute everything is killed"),
    Expected(0, "galph's turn runs again, for longer than a minute", outlasts=True),
    Expected(7, "the turn before still runs: the lock keeps this start out"),
    Expected(4, "ralph's turn fails"),
    Expected(4, "nothing runs until a person decides"),
    Expected(9, "after `retry` ralph's turn runs, and the day's tokens are spent"),
    Expected(9, "nothing runs until a person decides, or the next day"),
)
"""Every start, one a minute."""
RETRY_AFTER = 5
HAND_OFFS = (
    "actor=galph status=ok",
    "actor=ralph status=fail",
    "operator=retry status=waiting-ralph",
    "actor=ralph status=ok",
)
"""What the branch's history tells."""


@dataclass
class Start:
    """One start by cron: its process, and its exit code once it has ended."""

    pid: int
    code: int | None = None
    ended: bool = False


class Journal:
    """The system's log while nobody else keeps one: what cron says that it started, and how that ended."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(LOG))
        self._codes: dict[int, int] = {}
        self.starts: list[Start] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Leave no log behind."""
        LOG.unlink()

    def _listen(self) -> None:
        while True:
            self._take(self._socket.recv(1 << 16).decode(errors="replace"))

    def _take(self, line: str) -> None:
        if failed := re.search(r"grandchild #(\d+) failed with exit status (\d+)", line):
            self._codes[int(failed[1])] = int(failed[2])
        elif (told := re.search(r"\) (CMD|END) \(\[(\d+)\]", line)) and self._mark in line:
            pid = int(told[2])
            if told[1] == "CMD":
                self.starts.append(Start(pid))
                return
            start = next(start for start in self.starts if start.pid == pid)
            start.code, start.ended = self._codes.pop(pid, 0), True


class Process(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    parent: int
    name: str


def processes() -> Iterator[Process]:
    """Return every process of the machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            yield Process(int(folder.name), int(rest.split()[1]), name)


def kill_all_below(root: subprocess.Popen[bytes]) -> int:
    """Kill a process and everything below it with SIGKILL, as if the power had gone; return how many there were."""
    below = [root.pid]
    everybody = list(processes())
    for pid in below:
        below.extend(each.pid for each in everybody if each.parent == pid)
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    root.wait()
    return len(below)


@dataclass
class Night:
    """The project, its schedule, and what has happened so far."""

    project: Project
    log: Journal
    cron: subprocess.Popen[bytes]
    wrong: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        """What the agent wrote down."""
        return Ledger(self.project.path.parent / "ledger")

    def pass_by(self) -> None:
        """Let it all happen; a person acts twice: the power goes, and the failed turn may run again."""
        for number, expected in enumerate(EXPECTED, 1):
            if not until(partial(self._has_begun, number)):
                self.wrong.append(f"start {number} did not come")
                return
            say(f"start {number}: {expected.why}")
            if expected.code is None:
                self._cut_the_power()
            elif not expected.outlasts:
                self._await_the_end(number)
            if number == RETRY_AFTER:
                say(f"$ orchestrator retry\n{self.project.run('retry').stdout.rstrip()}")

    def _has_begun(self, number: int) -> bool:
        return len(self.log.starts) >= number

    def _cut_the_power(self) -> None:
        until(lambda: bool(self.ledger.lines("start")))
        time.sleep(INTO_THE_TURN)
        say(f"killed cron and {kill_all_below(self.cron) - 1} processes below it; cron is started again")
        self.cron = begin_cron()

    def _await_the_end(self, number: int) -> None:
        if until(lambda: self.log.starts[number - 1].ended):
            say(f"start {number} ended with exit code {self.log.starts[number - 1].code}")

    def judge(self) -> list[str]:
        """Return what is not as it must be."""
        wrong = list(self.wrong)
        codes = [start.code for start in self.log.starts]
        wanted = [expected.code for expected in EXPECTED]
        if codes != wanted:
            wrong.append(f"the starts ended with {codes}, not {wanted}")
        began = [line.turn for line in self.ledger.lines("start")]
        if began != ["1/galph", "1/galph", "1/ralph", "1/ralph"]:
            wrong.append(f"agents began {began}: one cut off and run again, one failed and run again, were to be")
        ended = [(line.turn, *line.words) for line in self.ledger.lines("ended")]
        if ended != [("1/galph", "0"), ("1/ralph", "1"), ("1/ralph", "0")]:
            wrong.append(f"agents ended {ended}")
        wrong += [f"{line.turn}: {line.event}" for line in self.ledger.lines("overlap", "uncalled-for")]
        wrong += self._misspent()
        told = [re.findall(r"(?:operator|actor|status)=[\w-]+", line) for line in self.project.subjects()]
        done = [" ".join(words) for words in told if words]
        if done != [*HAND_OFFS]:
            wrong.append(f"the history tells of {done}")
        return wrong

    def _misspent(self) -> Iterator[str]:
        """Compare what is counted with what the agent says that it spent on that day."""
        counted = json.loads((self.project.path / ".git/orchestration/counters.json").read_text())
        rows = [line.words for line in self.ledger.lines("spent")]
        spent = [int(tokens) for day, tokens in rows if day == counted["day"]]
        today = counted["today"]
        if (today["turns"], today["tokens"], today["unpriced"]) != (len(spent), sum(spent), sum(spent)):
            yield f"{today} are counted, and {spent} tokens were spent"

    def numbers(self) -> str:
        """Return what happened, in figures."""
        spent = sum(int(line.words[1]) for line in self.ledger.lines("spent"))
        return (
            f"{len(self.log.starts)} starts by cron, exit codes "
            f"{' '.join('killed' if start.code is None else str(start.code) for start in self.log.starts)}, "
            f"{len(self.ledger.lines('start'))} agents, {spent:,} tokens"
        )


def until(happened: Callable[[], bool]) -> bool:
    """Wait until something has happened; return whether it has."""
    end = time.monotonic() + PATIENCE
    while not (seen := happened()) and time.monotonic() < end:
        time.sleep(0.2)
    return seen


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text.replace(chr(10), chr(10) + ' ' * 10)}\n")
    sys.stdout.flush()


def begin_cron() -> subprocess.Popen[bytes]:
    """Start cron, which logs starts, ends, failures and process ids."""
    return subprocess.Popen(
        [str(CRON), "-f", "-L", "15"], stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"}, cwd="/"
    )


def obstacle() -> str:
    """Return why it cannot be proved on this machine; "" if it can."""
    if not CRON.exists():
        return "there is no cron; on Debian: apt-get install cron"
    if os.geteuid() != 0:
        return "only root can start a cron"
    if any(each.name in {"cron", "crond"} for each in processes()):
        return "a cron runs on this machine, and this one would be killed"
    if LOG.exists():
        return f"{LOG} belongs to another program, and the exit codes are read from it"
    return ""


def prepare(folder: Path) -> tuple[Project, str]:
    """Make the project, with an agent that PATH alone finds; return it with the entry for cron."""
    project = repository(folder / "100% mine")
    (folder / "bin").mkdir()
    text = AGENT.format(ledger=str(folder / "ledger"))
    executable(folder / "bin" / "night-worker", f"#!{sys.executable} -IS\n{text}")
    assert project.run("init").returncode == 0
    project.write(
        "orchestration.yaml",
        "agent: {default: worker}\nagents: {worker: {preset: codex, command: [night-worker]}}\n"
        f"limits: {{day_tokens: {LIMIT}}}\n",
    )
    project.commit("settings")
    printed = project.run("init", "--cron", "--every", "1", env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
    assert printed.returncode == 0, printed.stderr
    return project, printed.stdout


@contextlib.contextmanager
def crontab(entry: str) -> Iterator[None]:
    """Have the user's crontab be this entry for a while."""
    before = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
    subprocess.run(["crontab", "-"], input=entry.encode(), check=True)
    try:
        yield
    finally:
        if before.returncode == 0:
            subprocess.run(["crontab", "-"], input=before.stdout, check=True)
        else:
            subprocess.run(["crontab", "-r"], check=True)


def main() -> int:
    """Let the night pass, and judge it; return 0 if nothing was wrong, or if it cannot be had here."""
    argparse.ArgumentParser(prog="scripts/prove cron", description=(__doc__ or "").partition("\n")[0]).parse_args()
    why_not = obstacle()
    if why_not:
        sys.stderr.write(f"note: nothing is proved with cron: {why_not}\n")
        return 0
    os.environ.pop(failpoints.VARIABLE, None)
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal(place / "home")
    begun = time.monotonic()
    project, entry = prepare(place)
    say(f"$ orchestrator init --cron --every 1\n{entry.rstrip()}")
    with contextlib.ExitStack() as stack:
        log = Journal(place.name)
        stack.callback(log.close)
        stack.enter_context(crontab(entry))
        night = Night(project, log, begin_cron())
        stack.callback(lambda: kill_all_below(night.cron))
        stack.callback(lambda: Path("/run/crond.pid").unlink(missing_ok=True))
        night.pass_by()
    wrong = night.judge()
    say(f"logs/cron.log:\n{(project.path / 'logs' / 'cron.log').read_text().rstrip()}")
    for what in wrong:
        sys.stderr.write(f"{what}\n")
    sys.stdout.write(f"{night.numbers()}, {len(wrong)} violations; {time.monotonic() - begun:.0f} s\n")
    if wrong:
        sys.stdout.write(f"the night is kept in {place}\n")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
