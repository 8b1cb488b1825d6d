"""What runs have left to read; nothing is written, and nothing that somebody else put there is in the way."""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

import msgspec

from orchestration.errors import UsageError
from orchestration.events import AnyEvent, AttemptEnded, RunEnded, RunStarted, TurnEnded, TurnStarted
from orchestration.holder import Holder
from orchestration.reports import turn_name
from orchestration.state import Actor
from orchestration.workspace import branch_folder

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d{6}Z)(?:-(\d+))?")
"""A run's folder; a number tells those of one second apart."""
_BLOCK = 1 << 16
"""Bytes that are read at once."""


class Growing:
    """A file that somebody appends to, read from `offset` on; what is no regular file, or not there, is empty."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    def blocks(self) -> Iterator[bytes]:
        """Return what was appended since the last look, up to now."""
        if not self._path.is_file():  # a pipe would block, a device would never end
            return
        with self._path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(self._offset)
            while self._offset < end and (block := stream.read(min(_BLOCK, end - self._offset))):
                self._offset += len(block)
                yield block

    def lines(self) -> list[bytes]:
        """Return the lines that are whole by now; the rest of a torn one is waited for."""
        *whole, torn = b"".join(self.blocks()).split(b"\n")
        self._offset -= len(torn)
        return whole


def tail_start(path: Path, lines: int) -> int:
    """Return the offset at which the last `lines` lines of a file begin (0: all of them), reading it from the end."""
    if not lines or not path.is_file():
        return 0
    with path.open("rb") as stream:
        end = max(0, stream.seek(0, os.SEEK_END) - 1)  # a last line break begins no line
        while end:
            at = stream.seek(max(0, end - _BLOCK))
            block = stream.read(end - at)
            breaks = block.count(b"\n")
            if breaks >= lines:
                cut = len(block)
                for _ in range(lines):
                    cut = block.rindex(b"\n", 0, cut)
                return at + cut + 1
            lines -= breaks
            end = at
    return 0


class Run(NamedTuple):
    """A run: its folder, and its first event."""

    folder: Path
    started: RunStarted

    @property
    def stamp(self) -> str:
        """The name by which a person calls it."""
        return self.folder.name

    @property
    def events(self) -> Growing:
        """Its events, for `decoded`."""
        return Growing(self.folder / "events.jsonl")

    def log(self, iteration: int, actor: Actor, prompt: str) -> Path:
        """Return where the raw log of a prompt lies, if there is one."""
        return self.folder / f"{turn_name(iteration, actor, prompt)}.log"


class Turn(NamedTuple):
    """A turn as one run saw it: `ended` is None if that run did not hand it off; a router's prompt is not told."""

    run: Run
    iteration: int
    actor: Actor
    prompt: str | None
    ended: TurnEnded | None


class Choice(NamedTuple):
    """Which turns are wanted; None: all."""

    actor: Actor | None = None
    iteration: int | None = None

    def takes(self, item: Turn | AnyEvent) -> bool:
        """Tell whether a turn or its event is wanted; what belongs to no turn is, where all of them are."""
        if not any(self):
            return True
        return (
            isinstance(item, Turn | TurnStarted | AttemptEnded | TurnEnded)
            and self.actor in {None, item.actor}
            and self.iteration in {None, item.iteration}
        )


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a line; `ended` is None while it is `live`, and for ever if its daemon was killed."""

    run: str
    folder: str
    branch: str
    turns: int
    live: bool
    ended: RunEnded | None


class Logbook:
    """The runs of a branch in a logs folder."""

    def __init__(self, logs: Path, branch: str) -> None:
        self.folder = branch_folder(logs, branch)
        self.branch = branch

    def folders(self) -> list[Path]:
        """Return the folders that may be runs, by their names, newest first."""
        try:
            found = {path: _STAMP.fullmatch(path.name) for path in self.folder.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return []
        stamps = {path: (match[1], int(match[2] or 1)) for path, match in found.items() if match}
        return [path for path in sorted(stamps, key=stamps.__getitem__, reverse=True) if not path.is_symlink()]

    def newest_first(self) -> Iterator[Run]:
        """Return the runs; a folder whose first event cannot be read is none, or not yet."""
        for path in self.folders():
            first = next(decoded(_first_line(path / "events.jsonl")), None)
            if isinstance(first, RunStarted) and first.branch == self.branch:
                yield Run(path, first)

    def runs(self) -> list[Run]:
        """Return the runs, oldest first."""
        return list(self.newest_first())[::-1]

    def find(self, stamp: str) -> Run:
        """Return the run that is called so, or the only one whose name begins so.

        Raises:
            UsageError: none or several.

        """
        runs = self.runs()
        fits = [run for run in runs if run.stamp == stamp] or [run for run in runs if run.stamp.startswith(stamp)]
        if len(fits) == 1:
            return fits[0]
        names = ", ".join(run.stamp for run in fits[-5:])
        what = f"fits {len(fits)} runs: {names}" if fits else f"fits no run on {self.branch}"
        raise UsageError(f"{stamp!r} {what}", code="run-unknown", remedy="`orchestrator logs --runs` lists them")


def decoded(lines: Iterable[bytes]) -> Iterator[AnyEvent]:
    """Return the events; a line that holds none, cut by a full disk or written by somebody else, is passed over."""
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=AnyEvent)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def turns(run: Run, events: Iterable[AnyEvent]) -> list[Turn]:
    """Return the turns that a run's events tell of, one for all prompts that were run in it."""
    found: list[Turn] = []
    for event in events:
        if not isinstance(event, TurnStarted | TurnEnded):
            continue
        ended = event if isinstance(event, TurnEnded) else None
        turn = Turn(run, event.iteration, event.actor, event.prompt, ended)
        if found and found[-1][:3] == turn[:3] and found[-1].ended is None:
            before = found.pop()
            turn = turn._replace(prompt=turn.prompt or before.prompt)
        found.append(turn)
    return found


def raw_log(turn: Turn, runs: Iterable[Run]) -> Path | None:
    """Return a turn's raw log; one that was handed off by a later run than its agent's has it in the earlier one.

    Args:
        turn: the turn.
        runs: where to look, newest first.

    """
    if turn.prompt is None:
        return None
    since = dropwhile(lambda run: run != turn.run, runs)
    places = (run.log(turn.iteration, turn.actor, turn.prompt) for run in since)
    return next((path for path in places if path.is_file()), None)


def ending(events: Iterable[AnyEvent]) -> RunEnded | None:
    """Return how a run ended."""
    return next((event for event in events if isinstance(event, RunEnded)), None)


def is_live(run: Run, ended: RunEnded | None, daemon: Holder | None) -> bool:
    """Tell whether the daemon that holds the clone is this run's."""
    return ended is None and daemon is not None and daemon.since <= run.started.at


def summary(run: Run, daemon: Holder | None) -> Summary:
    """Return a run in a line."""
    events = list(decoded(run.events.lines()))
    ended = ending(events)
    return Summary(
        run=run.stamp,
        folder=str(run.folder),
        branch=run.started.branch,
        turns=ended.turns if ended else len(turns(run, events)),
        live=is_live(run, ended, daemon),
        ended=ended,
    )


def _first_line(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        return [stream.readline(1 << 20)]
