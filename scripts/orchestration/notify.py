"""Telling a person who is not there: one command at a run's end (settings, `notify`). It reads events, nothing else.

It runs when no agent does: a child of the one loop with a time limit, whose processes are ended with it. Whatever it
does, the run has ended as it has.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Self

import msgspec

from orchestration import files
from orchestration.environment import for_agent
from orchestration.errors import ExitCode, OrchestrationError
from orchestration.events import AnyEvent, RunEnded, RunStarted, TurnStarted
from orchestration.process import Child, Loop, Request, Why
from orchestration.reaper import STAMP
from orchestration.settings import Config
from orchestration.workspace import Workspace, branch_folder

TIMEOUT = 10.0
"""Seconds that the command has: whoever stops us waits for it."""
_LADDER = ((SIGTERM, 2.0), (SIGKILL, 0.0))
_SAID = 2 << 10
"""Bytes of what the command printed that the warning about its failure shows."""
_LONGEST = 8 << 10
"""Characters of a fact: the system takes 128 KiB a variable."""


class What(StrEnum):
    """What a person is told of."""

    FAILED = "failed"
    STOPPED = "stopped"
    FINISHED = "finished"
    LIMIT = "limit"
    PERSON = "person"


_BY_CODE = {"iterations": What.FINISHED, "exit-flag": What.FINISHED, "stop": What.STOPPED}
"""Of the ends with exit code 0; one turn that was asked for, or none, is no news."""
_BY_EXIT: dict[int, What] = {
    ExitCode.TURN_FAILED: What.FAILED,
    ExitCode.UNREACHABLE: What.STOPPED,
    ExitCode.WAITED: What.STOPPED,
    ExitCode.LIMIT: What.LIMIT,
    ExitCode.HANGUP: What.STOPPED,
    ExitCode.INTERRUPTED: What.STOPPED,
    ExitCode.TERMINATED: What.STOPPED,
}
"""Of the others; what is not named here needs a person."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the command is given: each field as ORCH_NOTIFY_<NAME> (empty: unknown), and all of them as JSON."""

    event: What
    code: str
    reason: str
    remedy: str
    exit_code: int
    branch: str = ""
    iteration: int | None = None
    actor: str | None = None
    logs: str | None = None


class _Told(msgspec.Struct, frozen=True):
    """What a person was told last: a start that meets the same again tells nobody."""

    code: str
    epoch: int | None
    iteration: int | None


class Notifier:
    """Runs the command.

    Args:
        loop: starts and ends it.
        place: the project, in which it runs; what was told is noted beside its journal.
        config: its command, if there is one, and where the runs are recorded.
        environment: what it inherits.
        warn: told of trouble with the command; may be replaced.

    """

    def __init__(
        self, loop: Loop, place: Workspace, config: Config, environment: Mapping[str, str], warn: Callable[[str], None]
    ) -> None:
        self.warn = warn
        self._loop = loop
        self._place = place
        self._command: Sequence[str] = config.notify.command
        self._logs = place.root / config.logs_dir
        self._environment = environment
        self._note = place.journal.with_name(place.journal.name.replace("journal", "notified", 1))
        self._branch = ""
        self._turn: TurnStarted | None = None
        self._child: Child | None = None
        self._telling: _Told | None = None
        self._said = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell of a refusal, too; then wait for the command, but not for long."""
        if isinstance(error, OrchestrationError):
            self.event(RunEnded(exit_code=error.exit_code, code=error.code, reason=error.message, remedy=error.remedy))
        elif isinstance(error, Exception):
            self.event(RunEnded(exit_code=ExitCode.BUG, code="bug", reason=f"a bug: {error!r}", remedy=""))
        if self._child and self._telling:
            self._wait(self._child, self._telling)

    def event(self, event: AnyEvent) -> None:
        """Take note of an event; a run's end is told, unless a start that ran nothing meets what was told already."""
        if not self._command:
            return
        if isinstance(event, RunStarted):
            self._branch = event.branch
            if self._program() is None:
                self.warn(f"notify.command: {self._command[0]!r} was not found, or is not executable")
        elif isinstance(event, TurnStarted):
            self._turn = event
        elif isinstance(event, RunEnded):
            what = kind_of(event)
            try:
                if self._is_news(event, what) and what:
                    self._start(self._facts(event, what))
            except OSError as error:
                self.warn(f"notify.command could not be run: {error}")

    def _is_news(self, ended: RunEnded, what: What | None) -> bool:
        """Tell whether nobody was told of this yet; `_wait` notes that somebody is."""
        self._telling = _Told(ended.code, ended.epoch, ended.iteration)
        if what and self._turn is None and self._told_before() == self._telling:
            return False
        self._note.unlink(missing_ok=True)  # whatever it was is over
        return what is not None

    def _told_before(self) -> _Told | None:
        try:
            return msgspec.json.decode(self._note.read_bytes(), type=_Told)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _facts(self, ended: RunEnded, what: What) -> Facts:
        turn = self._turn
        latest = branch_folder(self._logs, self._branch) / "latest"
        logs = Path(turn.log).parent if turn else latest if self._branch and latest.exists() else None
        return Facts(
            event=what,
            code=ended.code,
            reason=_plain(ended.reason),
            remedy=_plain(ended.remedy),
            exit_code=ended.exit_code,
            branch=_plain(self._branch),
            iteration=ended.iteration or (turn.iteration if turn else None),
            actor=ended.actor or (turn.actor if turn else None),
            logs=_plain(str(logs)) if logs else None,
        )

    def _program(self) -> str | None:
        word = self._command[0]
        return shutil.which(str(self._place.root / word) if "/" in word else word, path=self._environment.get("PATH"))

    def _start(self, facts: Facts) -> None:
        given = {
            f"ORCH_NOTIFY_{name.upper()}": "" if (value := getattr(facts, name)) is None else str(value)
            for name in facts.__struct_fields__
        }
        stamp = secrets.token_hex(16)
        request = Request(
            argv=[self._program() or self._command[0], *self._command[1:]],
            cwd=self._place.root,
            env=for_agent(self._environment) | given | {STAMP: stamp},
            stdin=msgspec.json.encode(facts) + b"\n",
            timeout=TIMEOUT,
            ladder=_LADDER,
            stamp=stamp,
        )
        self._child = self._loop.spawn(request, self._hear)

    def _hear(self, _: str, data: bytes) -> None:
        self._said += data[-_SAID:]
        del self._said[:-_SAID]

    def _wait(self, child: Child, told: _Told) -> None:
        """Serve the command until it has ended; a signal that comes meanwhile ends it.

        What it has told is noted once it has ended well: the next start tries again what was not.
        """
        asked = len(self._loop.signals)
        while child.completed is None:
            self._loop.step()
            if len(self._loop.signals) > asked:
                child.kill()
        done, said = child.completed, self._said.decode(errors="replace").strip()
        if done.why is Why.TIMEOUT:
            self.warn(f"notify.command was ended after {TIMEOUT:g} s")
        elif done.code:
            self.warn(f"notify.command ended with exit code {done.code}" + (f": {said}" if said else ""))
        else:
            try:
                files.replace(self._note, msgspec.json.encode(told))
            except OSError as error:
                self.warn(f"what notify.command has told could not be noted, and will be told again: {error}")


def kind_of(ended: RunEnded) -> What | None:
    """Return what a person is told of a run's end, None: it is no news."""
    if ended.exit_code == ExitCode.OK:
        return _BY_CODE.get(ended.code)
    return _BY_EXIT.get(ended.exit_code, What.PERSON)


def _plain(text: str) -> str:
    """Return a text that the environment and JSON can hold."""
    return text[:_LONGEST].replace("\0", "").encode(errors="replace").decode()
