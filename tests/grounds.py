"""What a bus stands on in a test: the project around it, and another hand that changes its register."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from conftest import Project, repository
from orchestration import state, workspace
from orchestration.bus import Bus, View
from orchestration.clock import SystemClock
from orchestration.file_bus import FileBus
from orchestration.git import Git
from orchestration.journal import HandOff
from orchestration.layers import FILE
from orchestration.local_bus import LocalBus
from orchestration.process import Loop
from orchestration.remote import Remote
from orchestration.remote_bus import RemoteBus
from orchestration.settings import Config
from orchestration.solo_bus import SoloBus
from orchestration.state import Actor, State, Token
from pair import pair

NOW = SystemClock().now()
STATE = "sync/state.json"


def token(view: View, nonce: str = "1" * 32) -> Token:
    """Return the token of the next claim."""
    return Token(view.state.epoch + 1, "me", nonce)


def stamped(bus: Bus, view: View) -> HandOff:
    """Build the hand-off of galph's success on what `view` shows."""
    return bus.stamp(view.tip, view.state, state.succeeded(view.state, token(view), view.tip, NOW))


@dataclass
class Ground:
    """A project without a repository, and the bus that is its state file."""

    project: Project
    loop: Loop
    register = STATE
    """What messages call the register."""
    fence = "changed by"
    """How it is told that another hand has moved the register on."""

    def bus(self) -> Bus:
        """Make a bus, as another process would."""
        return FileBus(self.project.path, STATE)

    def put(self, data: bytes | None) -> None:
        """Let another hand put bytes (None: nothing) into the register."""
        file = self.project.path / STATE
        file.unlink(missing_ok=True)
        if data is not None:
            self.project.write(STATE, data)

    def value(self) -> str:
        """Return what the register holds, as a bus names it."""
        return (self.project.path / STATE).read_text()

    def begin(self, now: State) -> None:
        """Put a state where no other was before."""
        self.put(state.encode(now))

    def outside(self) -> object:
        """Return all that somebody outside could see of the project."""
        return {file: file.read_bytes() for file in self.project.path.rglob("*") if file.is_file()}


class GitGround(Ground):
    """A repository that `init` has set up, and the bus that is its branch."""

    register = f"{STATE} on main"

    def local(self) -> LocalBus:
        """Make the bus of the branch."""
        git = Git(self.loop, self.project.path, os.environ)
        place = workspace.workspace(workspace.find(git, FILE), git=True, state_file=STATE)
        return LocalBus(git, place, "main", STATE)

    def bus(self) -> Bus:
        """Make a bus, as another process would."""
        return self.local()

    def put(self, data: bytes | None) -> None:
        """Let another hand commit."""
        super().put(data)
        self.project.git("add", "--all")
        self.project.git("commit", "--quiet", "--allow-empty", "-m", "another hand")

    def value(self) -> str:
        """Return the branch's tip."""
        return self.project.git("rev-parse", "HEAD")

    def begin(self, now: State) -> None:
        """Commit a state on the commit that knows nothing of this tool."""
        self.project.git("reset", "--soft", self.project.git("rev-list", "--max-parents=0", "HEAD"))
        self.put(state.encode(now))

    def outside(self) -> object:
        """Return refs, index and work tree."""
        refs, index = self.project.git("for-each-ref"), self.project.git("ls-files", "--stage")
        file = self.project.path / STATE
        return refs, index, self.project.dirt(), file.read_bytes() if file.exists() else None


class SoloGround(GitGround):
    """The same repository, and the bus of galph alone."""

    def bus(self) -> Bus:
        """Make a bus, as another process would."""
        local = self.local()
        return SoloBus(Git(self.loop, self.project.path, os.environ), local, Actor.GALPH)


class RemoteGround(GitGround):
    """A clone, the bus that is the branch of its remote, and a second clone, from which another hand pushes."""

    register = f"{STATE} on origin/main"
    fence = "origin holds"

    def remote(self, config: Config | None = None) -> RemoteBus:
        """Make the bus of the remote's branch."""
        git = Git(self.loop, self.project.path, os.environ)
        place = workspace.workspace(workspace.find(git, FILE), git=True, state_file=STATE)
        return RemoteBus(git, place, Remote(git, "origin", "main"), config or Config(), "me")

    def bus(self) -> Bus:
        """Make a bus, as another process would."""
        return self.remote()

    @property
    def other(self) -> Project:
        """The other hand's clone."""
        return Project(self.project.path.with_name("ralph"))

    @property
    def hub(self) -> Project:
        """The remote."""
        return Project(self.project.path.with_name("hub.git"))

    def put(self, data: bytes | None) -> None:
        """Let another hand push a commit."""
        self.other.git("pull", "--quiet", "--ff-only")
        GitGround(self.other, self.loop).put(data)
        self.other.git("push", "--quiet")

    def value(self) -> str:
        """Return the tip of the remote's branch, which is here then."""
        self.project.git("fetch", "--quiet")
        return self.project.git("rev-parse", "origin/main")

    def begin(self, now: State) -> None:
        """Have everybody agree on a remote that begins with this state."""
        GitGround(self.other, self.loop).begin(now)
        self.other.git("push", "--quiet", "--force")
        self.project.git("update-ref", "-d", "refs/orchestration/seen/main")
        self.project.git("reset", "--quiet", "--hard", self.value())

    def outside(self) -> object:
        """Return the remote's refs beside those here; what was seen of it is a note of ours."""
        refs, *rest = cast("tuple[str, ...]", super().outside())
        theirs = [row for row in refs.splitlines() if "refs/orchestration/seen/" not in row and "/remotes/" not in row]
        return self.hub.git("for-each-ref"), theirs, rest


GROUNDS = {"file": Ground, "local": GitGround, "solo": SoloGround, "remote": RemoteGround}


@contextmanager
def ground(kind: str, folder: Path) -> Iterator[Ground]:
    """Give a project of its own, set up by `init`, and its bus."""
    if kind == "remote":
        project = pair(folder).galph
    else:
        project = Project(folder / "plain") if kind == "file" else repository(folder / "project")
        project.path.mkdir(exist_ok=True)
        assert project.call("init", "--json", *(["--no-git"] if kind == "file" else [])) == 0
    with Loop(SystemClock()) as loop:
        yield GROUNDS[kind](project, loop)
