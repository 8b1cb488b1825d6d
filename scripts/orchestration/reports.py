"""A run's folder: raw logs, turn records, events, summary. A full disk costs logs, never the turn."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec

from orchestration import files
from orchestration.clock import folder_stamp
from orchestration.events import AnyEvent, TurnEnded
from orchestration.journal import Claim
from orchestration.state import Actor
from orchestration.workspace import branch_folder

CAP = 1 << 30
"""Bytes of a raw log; above it the head and the tail are kept."""

_RUNS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*Z*"


def turn_name(iteration: int, actor: Actor, prompt: str) -> str:
    """Return the name of a turn's files in a run's folder, without a suffix."""
    return f"iter-{iteration:05d}_{actor}_{PurePosixPath(prompt).with_suffix('').as_posix().replace('/', '-')}"


class _Card(msgspec.Struct, frozen=True):
    """What tells whose a run is."""

    branch: str | None = None


class RawLog:
    """An agent's output as it came; far above `cap` bytes the first half and at least the last quarter are kept.

    What comes after the cap goes to two segments of a quarter each, of which the older one is dropped for a newer one.
    """

    def __init__(self, path: Path, trouble: Callable[[OSError], None], cap: int = CAP) -> None:
        self._path = path
        self._trouble = trouble
        self._cap = cap
        self._begin = 0
        self._written = 0
        self._log: BinaryIO | None = None
        self._tail: list[Path] = []
        self._segment: BinaryIO | None = None
        self._segment_size = 0
        with self._forgiving():
            self._log = path.open("ab", buffering=0)
            self._begin = self._log.tell()

    def write(self, data: bytes) -> None:
        """Append; on a disk error the log ends here and the turn goes on."""
        with self._forgiving():
            room = max(0, self._cap - self._written)
            if self._log and data[:room]:
                self._log.write(data[:room])
            self._written += len(data)
            if self._log and data[room:]:
                self._write_tail(data[room:])

    def close(self) -> None:
        """Put head and tail together and say what is missing between them."""
        with self._forgiving():
            if self._segment:
                self._segment.close()
            if self._log and len(self._tail) > 1:
                self._cut(self._log)
            for segment in self._tail:
                if self._log:
                    with segment.open("rb") as stream:
                        while block := stream.read(1 << 20):
                            self._log.write(block)
        for segment in self._tail:
            segment.unlink(missing_ok=True)
        if self._log:
            self._log.close()

    def _cut(self, log: BinaryIO) -> None:
        """Leave the first half of the log, since the tail is long enough."""
        half = self._cap // 2
        missing = self._written - half - sum(segment.stat().st_size for segment in self._tail)
        log.truncate(self._begin + half)
        log.write(f"\n[... {missing:,} bytes left out here ...]\n".encode())

    def _write_tail(self, data: bytes) -> None:
        if self._segment is None or self._segment_size >= self._cap // 4:
            if self._segment:
                self._segment.close()
            if len(self._tail) > 1:
                self._tail.pop(0).unlink()
            self._tail.append(self._path.with_suffix(f".tail{self._written}"))
            self._segment = self._tail[-1].open("wb", buffering=0)
            self._segment_size = 0
        self._segment.write(data)
        self._segment_size += len(data)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._log = None
            self._trouble(error)


class Reports:
    """The folder `<logs>/<branch>/<stamp>/`, made when the first turn begins.

    Args:
        logs: the logs folder.
        branch: its `/` become `-`.
        now: the time that names the folder.
        run: what `run.json` says.
        trouble: told once when the disk refuses; logging then stops and the loop goes on.
        keep: runs of the branch to keep, this one among them; 0 keeps all.

    """

    def __init__(
        self, logs: Path, branch: str, now: datetime, run: dict[str, Any], trouble: Callable[[str], None], keep: int = 0
    ) -> None:
        self._logs = logs
        self.folder = branch_folder(logs, branch) / folder_stamp(now)
        self._run = run
        self._tell = trouble
        self._keep = keep
        self._broken = False
        self._made = False
        self._waiting: list[AnyEvent] = []
        self._ended: list[TurnEnded] = []

    def begin_turn(self, claim: Claim, prompt: str | None) -> Path:
        """Make the folder if need be, and return the path of this turn's files without a suffix."""
        if not self._made:
            self._make()
        return self.folder / turn_name(claim.iteration, claim.actor, prompt or "unrouted")

    def open_log(self, base: Path) -> RawLog:
        """Open a turn's raw log; a rerun of the turn in the same run continues it."""
        return RawLog(base.with_name(f"{base.name}.log"), self._lose)

    def event(self, event: AnyEvent) -> None:
        """Append an event; before the first turn it is kept for the folder to come."""
        if not self._made:
            self._waiting.append(event)
            return
        with self._forgiving(), (self.folder / "events.jsonl").open("ab") as stream:
            stream.write(msgspec.json.encode(event) + b"\n")
        if isinstance(event, TurnEnded):
            self._ended.append(event)
            self._write_summary()

    def record(self, base: Path, fields: dict[str, Any], message: str = "") -> None:
        """Add fields to a turn's record, and keep its final message."""
        path = base.with_name(f"{base.name}.json")
        with self._forgiving():
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.exists() else {}
            path.write_bytes(msgspec.json.format(msgspec.json.encode({**known, **fields}), indent=2) + b"\n")
            if message:
                base.with_name(f"{base.name}.md").write_text(message.rstrip() + "\n", encoding="utf-8")

    def _make(self) -> None:
        self._made = True
        with self._forgiving():
            wanted, number = self.folder, 1
            while True:
                try:
                    self.folder.mkdir(parents=True)
                    break
                except FileExistsError:
                    if not self.folder.exists():  # a folder above it is a file, or a link to nowhere
                        raise
                    number += 1
                    self.folder = wanted.with_name(f"{wanted.name}-{number}")
            self._run["folder"] = str(self.folder)
            if not (self._logs / ".gitignore").exists():  # nobody ran `init`: logs are no work of anybody
                files.create(self._logs / ".gitignore", b"*\n")
            run = msgspec.json.format(msgspec.json.encode(self._run), indent=2)
            files.create(self.folder / "run.json", run + b"\n")
            latest = self.folder.parent / "latest"
            fresh = latest.with_name(f".latest.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.folder.name)
            fresh.replace(latest)
            self._drop_old()
        for event in self._waiting:
            self.event(event)

    def _drop_old(self) -> None:
        """Delete the oldest runs beyond `keep`; whatever else lies there is not ours."""
        if not self._keep:
            return
        cards = [card for card in self.folder.parent.glob(f"{_RUNS}/run.json") if self._is_of_this_branch(card)]
        older = [card for card in cards if card.parent != self.folder]  # this one stays, whatever the clock says
        older.sort(key=lambda card: (card.stat().st_mtime_ns, len(card.parent.name), card))  # a dropped name comes back
        for card in older[: max(0, len(older) - self._keep + 1)]:
            shutil.rmtree(card.parent)

    def _is_of_this_branch(self, card: Path) -> bool:
        """Tell whether a run is this branch's: one that differs in `/` and `-` alone has the same folder."""
        if card.parent.is_symlink():
            return False
        try:
            return msgspec.json.decode(card.read_bytes(), type=_Card).branch == self._run.get("branch")
        except (OSError, msgspec.DecodeError):
            return False  # not one of ours

    def _write_summary(self) -> None:
        rows = [
            "| iteration | actor | prompt | result | time | commits | files | + | - |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for turn in self._ended:
            result = "ok" if turn.ok else f"failed: {(turn.reason or '-').splitlines()[0]}".replace("|", "\\|")
            rows.append(
                f"| {turn.iteration} | {turn.actor} | {turn.prompt or '-'} | {result} | {turn.seconds:.1f} s "
                f"| {len(turn.commits)} | {turn.files} | {turn.insertions} | {turn.deletions} |"
            )
        with self._forgiving():
            (self.folder / "summary.md").write_text("\n".join(rows) + "\n", encoding="utf-8")

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: an agent wrote into our folder, or a name is no text
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            self._tell(f"logging failed and the loop goes on: {error}")
