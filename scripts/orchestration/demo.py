"""A real project, a real plan, the real loop: the first run, without any agent installed."""

import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import git
import msgspec

from orchestration import scaffold, service
from orchestration.clock import Clock, iso
from orchestration.config import resolve
from orchestration.console import Console
from orchestration.daemon import Options
from orchestration.environment import for_agent, inherited
from orchestration.errors import UsageError
from orchestration.events import RunEnded
from orchestration.git import Git
from orchestration.layers import FILE
from orchestration.process import Loop, Request
from orchestration.settings import Config
from orchestration.state import Actor
from orchestration.values import Value
from orchestration.workspace import Workspace, find, workspace
from orchestration.yaml_file import Key

NAME = "galph-demo"
BRANCH = "main"
_CTRL_C = ((signal.SIGINT, 60.0), (signal.SIGKILL, 0.0))
"""How a daemon of the demo is stopped; its own ladder ends within 30 seconds."""


class Tests(msgspec.Struct, frozen=True):
    """A run of the sample's tests: whether they pass, and unittest's own last word."""

    green: bool
    verdict: str


class Shown(NamedTuple):
    """What the demo did."""

    ended: RunEnded
    commits: int
    before: Tests
    after: Tests


def free_folder(parent: Path) -> Path:
    """Return a folder for the demo that does not exist yet."""
    names = [NAME, *(f"{NAME}-{number}" for number in range(2, 1000))]
    return next(parent / name for name in names if not (parent / name).exists())


def create(folder: Path, clock: Clock) -> Workspace:
    """Make the sample project, a git repository with one commit, and set it up as `orchestrator init` does.

    Raises:
        UsageError: the folder exists and is not empty.

    """
    if folder.exists() and any(folder.iterdir()):
        raise _taken(folder)
    shutil.copytree(scaffold.TEMPLATES / "demo", folder, dirs_exist_ok=True)
    (folder / "gitignore").rename(folder / ".gitignore")
    with git.Repo.init(folder, initial_branch=BRANCH) as repository:
        with repository.config_writer() as writer:
            writer.set_value("user", "name", "Demo")
            writer.set_value("user", "email", "demo@localhost")
        repository.git.add("--all")
        repository.git.commit("--quiet", "-m", "A bookshelf with three failing tests and a plan")
    with Loop(clock) as loop:
        found = find(Git(loop, folder, inherited()), FILE)
    place = workspace(found, git=True, state_file=Config().state_file)
    scaffold.init(place, Config(), clock, commit=True, agent="checklist")
    return place


def _taken(folder: Path) -> UsageError:
    return UsageError(f"{folder} is not empty", code="demo-folder", remedy="name a folder that does not exist yet")


def run(folder: Path, console: Console, clock: Clock, flags: Mapping[Key, Value]) -> Shown:
    """Create the sample, run the loop until its plan is done, and judge its tests before and after.

    Raises:
        UsageError: the folder is taken.

    """
    place = create(folder, clock)
    before = check(folder, clock)
    ended = service.run(place, resolve(folder / FILE, {}, flags, folder), Options(), console, clock)
    with git.Repo(folder) as repository:
        commits = int(repository.git.rev_list("--count", "HEAD"))
    return Shown(ended, commits, before, check(folder, clock))


def run_two(folder: Path, console: Console, clock: Clock, pairs: Sequence[str]) -> Shown:
    """Create the sample, and have two daemons in two clones work on it through a bare remote; show both.

    Raises:
        UsageError: the folder is taken.

    """
    if folder.exists() and any(folder.iterdir()):
        raise _taken(folder)
    galph, ralph, remote = folder / "galph", folder / "ralph", folder / "remote.git"
    create(galph, clock)
    before = check(galph, clock)
    with git.Repo(galph) as first:
        first.clone(str(remote), bare=True).close()
        first.create_remote("origin", str(remote))
        first.git.push("--quiet", "--set-upstream", "origin", BRANCH)
    git.Repo.clone_from(str(remote), str(ralph)).close()
    code = _both(Actor, folder, console, clock, pairs)
    with git.Repo(remote) as shared:
        commits = int(shared.git.rev_list("--count", BRANCH))
        turns = sum("status=ok" in line for line in shared.git.log("--format=%s", BRANCH).splitlines())
    with git.Repo(galph) as first:
        first.git.pull("--quiet", "--ff-only")
    ended = RunEnded(
        at=iso(clock.now()), exit_code=code, code="two-machines", reason="both have ended", remedy="", turns=turns
    )
    return Shown(ended, commits, before, check(galph, clock))


def _both(actors: Iterable[Actor], folder: Path, console: Console, clock: Clock, pairs: Sequence[str]) -> int:
    """Run a daemon of each actor in its clone, their lines side by side; return the first exit code that is not 0.

    A signal stops both as Ctrl-C does, and is the exit code.
    """
    door = [sys.executable, str(Path(__file__).with_name("orchestrator.py"))]
    options = ["--max-wait-sec", "120", *(word for pair in pairs for word in ("-c", pair))]
    with Loop(clock, catch=(signal.SIGINT, signal.SIGTERM)) as loop:
        children = [
            loop.spawn(
                Request(
                    argv=[*door, "--role", actor, *options],
                    cwd=folder / actor,
                    env=for_agent(inherited()),
                    ladder=_CTRL_C,
                ),
                _Prefixed(f"{actor} │ ", console),
            )
            for actor in actors
        ]
        asked = False
        while any(child.completed is None for child in children):
            loop.step()
            if loop.signals and not asked:
                asked = True
                for child in children:
                    child.stop()
        if loop.signals:
            return 128 + loop.signals[0]
    return next((child.completed.code for child in children if child.completed and child.completed.code), 0)


class _Prefixed:
    """Prints a child's lines as they come, each with whose it is."""

    def __init__(self, prefix: str, console: Console) -> None:
        self._prefix = prefix
        self._console = console
        self._rest = {"stdout": b"", "stderr": b""}

    def __call__(self, name: str, data: bytes) -> None:
        *lines, self._rest[name] = (self._rest[name] + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._console.say(self._prefix + line.decode(errors="replace"))


def check(folder: Path, clock: Clock) -> Tests:
    """Run the sample's tests."""
    with Loop(clock) as loop:
        argv = [sys.executable, "-m", "unittest"]
        done = loop.run(Request(argv=argv, cwd=folder, env=for_agent(inherited()), timeout=120.0))
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return Tests(done.code == 0, lines[-1] if lines else f"exit {done.code}")
