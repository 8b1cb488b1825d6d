"""What turns have used, and the ceilings that end a run: kept beside the journal, so that they outlive every process.

A turn is counted once, by its nonce, however often its hand-off is looked at again after a crash.
"""

from datetime import datetime
from pathlib import Path

import msgspec
from filelock import FileLock
from msgspec.structs import replace

from orchestration import files
from orchestration.clock import iso
from orchestration.endings import Usage
from orchestration.errors import ExitCode, Refused
from orchestration.halt import Halt
from orchestration.settings import LimitSettings

_NOTHING = Usage()
_PATIENCE = 10.0
"""Seconds for another process that counts."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What turns have used: US dollars; tokens; and those of the tokens whose cost nobody told."""

    turns: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    unpriced: int = 0

    def plus(self, used: Usage | None) -> "Spent":
        """Return what it is with one more turn."""
        mine = used or _NOTHING
        return Spent(
            turns=self.turns + 1,
            cost_usd=self.cost_usd + (mine.cost_usd or 0.0),
            tokens=self.tokens + mine.tokens,
            unpriced=self.unpriced + mine.without_cost,
        )


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept: the last turn that was counted, its use, the day's, and the turns in a row that changed nothing.

    `forgiven` is what of the day a person has let pass (`resume`).
    """

    nonce: str = ""
    turn: Spent = Spent()
    day: str = ""
    today: Spent = Spent()
    forgiven: Spent = Spent()
    stalled: int = 0


class Meter:
    """Counts what turns use.

    Args:
        path: the file that keeps it.
        limits: the ceilings.

    """

    def __init__(self, path: Path, limits: LimitSettings) -> None:
        self._path = path
        self._limits = limits
        self.run = Spent()
        """What this process has used."""

    def read(self, now: datetime) -> Counters:
        """Return what is counted, of the day that it is; no clock that went back begins an earlier one.

        Raises:
            Refused: the file cannot be understood: what was spent is not guessed.

        """
        try:
            counted = msgspec.json.decode(self._path.read_bytes(), type=Counters)
        except FileNotFoundError:
            counted = Counters()
        except msgspec.DecodeError as error:
            raise Refused(
                f"{self._path}: what was spent today cannot be read: {error}",
                code="counters-unreadable",
                remedy=f"to begin anew: mv {self._path} {self._path}.bad",
            ) from None
        today = iso(now).partition("T")[0]
        return counted if counted.day >= today else replace(counted, day=today, today=Spent(), forgiven=Spent())

    def charge(self, nonce: str, used: Usage | None, now: datetime, *, stalled: bool | None) -> None:
        """Count a turn that has ended, if it is not counted yet.

        Args:
            nonce: the turn's.
            used: what it used, None if its agents do not say.
            now: decides the day.
            stalled: whether it succeeded and changed nothing; None: that says nothing.

        """
        with self._alone():
            counted = self.read(now)
            if counted.nonce == nonce:
                return
            self.run = self.run.plus(used)
            row = counted.stalled if stalled is None else counted.stalled + 1 if stalled else 0
            after = replace(counted, nonce=nonce, turn=Spent().plus(used), today=counted.today.plus(used), stalled=row)
            files.replace(self._path, msgspec.json.encode(after))

    def forgive(self, now: datetime) -> bool:
        """Let what was reached pass; return whether anything was."""
        if self.reached(now) is None:
            return False
        with self._alone():
            counted = self.read(now)
            after = replace(counted, turn=Spent(), forgiven=counted.today, stalled=0)
            files.replace(self._path, msgspec.json.encode(after))
        return True

    def _alone(self) -> FileLock:
        """Return the lock with which the file is read and written: `resume` and a daemon may meet."""
        return FileLock(self._path.with_suffix(".lock"), timeout=_PATIENCE)

    def reached(self, now: datetime) -> Halt | None:
        """Return that a ceiling is reached, and which."""
        counted, limits = self.read(now), self._limits
        today, forgiven = counted.today, counted.forgiven
        found = [
            _dollars("turn", counted.turn.cost_usd, limits.turn_cost),
            _dollars("run", self.run.cost_usd, limits.run_cost),
            _dollars("day", today.cost_usd - forgiven.cost_usd, limits.day_cost),
            _tokens("turn", counted.turn.tokens, limits.turn_tokens),
            _tokens("run", self.run.tokens, limits.run_tokens),
            _tokens("day", today.unpriced - forgiven.unpriced, limits.day_tokens),
            _stalls(counted.stalled, limits.no_progress_turns),
        ]
        return next(filter(None, found), None)


def _halt(code: str, text: str, *, by_day: bool = False) -> Halt:
    remedy = "`orchestrator resume` goes on" + (", and so does tomorrow (UTC)" if by_day else "")
    return Halt(ExitCode.LIMIT, code, text, remedy)


def _dollars(what: str, spent: float, limit: float | None) -> Halt | None:
    if limit is None or spent < limit:
        return None
    text = f"{spent:.2f} of {limit:.2f} US dollars of the {what} are spent (limits.{what}_cost)"
    return _halt(f"limit-{what}-cost", text, by_day=what == "day")


def _tokens(what: str, spent: int, limit: int | None) -> Halt | None:
    if limit is None or spent < limit:
        return None
    text = f"{spent:,} of {limit:,} tokens of the {what} are used (limits.{what}_tokens)"
    return _halt(f"limit-{what}-tokens", text, by_day=what == "day")


def _stalls(stalled: int, limit: int) -> Halt | None:
    if not limit or stalled < limit:
        return None
    text = f"{stalled} turns in a row have succeeded and changed nothing (limits.no_progress_turns)"
    return _halt("limit-no-progress", text)
