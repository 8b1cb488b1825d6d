"""What the doctor finds, and the scene that its checks look at: asked for late, and never changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import msgspec

from orchestration.bus import Bus, View
from orchestration.buses import open_bus
from orchestration.clock import Clock
from orchestration.config import Resolved, resolve
from orchestration.errors import OrchestrationError, UsageError
from orchestration.git import Git
from orchestration.journal import Entry, Idle, Journal
from orchestration.keys import PREFIX
from orchestration.layers import FILE, from_environment
from orchestration.settings import Config
from orchestration.values import Value
from orchestration.workspace import Found, Workspace, find, workspace
from orchestration.yaml_file import Key


class Level(StrEnum):
    """How much a finding matters: a run goes wrong with a problem, and goes with everything else."""

    OK = "ok"
    ADVICE = "advice"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """What the check `name` found, and what to type or change; `remedy` is "" where nothing is to be done."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def refused(name: str, error: OrchestrationError) -> Finding:
    """Return the finding that a run would be refused with this error."""
    return Finding(name, Level.PROBLEM, error.message, error.remedy)


@dataclass(frozen=True)
class Scene:
    """What a run from this folder would find; what cannot be had raises its OrchestrationError to whoever asks.

    Args:
        here: the verbs, in the current folder.
        environment: the process environment.
        flags: what stood on the command line.
        clock: the time of day.

    """

    here: Git
    environment: Mapping[str, str]
    flags: Mapping[Key, Value]
    clock: Clock

    @cached_property
    def _found(self) -> Found:
        return find(self.here, FILE)

    @cached_property
    def workspace(self) -> Workspace:
        """The folders of this clone; those of the defaults where the configuration cannot be read."""
        config = Config()
        with suppress(OrchestrationError):
            config = self.config
        return workspace(self._found, git=config.sync.git, state_file=config.state_file)

    @property
    def file(self) -> Path | None:
        """orchestration.yaml, also where there is no repository."""
        return self._found.file

    @property
    def root(self) -> Path:
        """The project's folder, else the current one."""
        return self._found.root

    @cached_property
    def git(self) -> Git:
        """The verbs, at the top of the work tree."""
        return Git(self.here.loop, self.workspace.top, self.environment)

    @cached_property
    def unknown(self) -> dict[str, UsageError]:
        """The variables that look like ours, and that no option has."""
        wrong: dict[str, UsageError] = {}
        for name in sorted(name for name in self.environment if name.startswith(PREFIX)):
            try:
                from_environment({name: self.environment[name]})
            except UsageError as error:
                wrong[name] = error
        return wrong

    @cached_property
    def resolved(self) -> Resolved:
        """The configuration, without the unknown variables: one of them does not hide the rest."""
        known = {name: value for name, value in self.environment.items() if name not in self.unknown}
        return resolve(self.file, known, self.flags, self.here.top)

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.resolved.config

    @cached_property
    def branch(self) -> str:
        """The branch that a run would work on, by the bus's name for it."""
        return self.bus.branch

    @cached_property
    def entry(self) -> Entry:
        """Where the journal stands."""
        return Journal(self.workspace.journal).read()

    @cached_property
    def view(self) -> View:
        """The branch's tip and its state, which does not lie before what this clone has seen."""
        seen = Idle()
        with suppress(OrchestrationError):
            seen = self.entry.on(self.branch) if isinstance(self.entry, Idle) else seen
        return self.bus.look(epoch=seen.epoch, iteration=seen.iteration)

    @cached_property
    def bus(self) -> Bus:
        """Where the turn lives."""
        return open_bus(self.workspace, self.config, self.git)
