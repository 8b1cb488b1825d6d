"""What an agent's output means: its events are read as they come, and at the end they tell how it went.

Success is decided first. Only what was none is held against the rules for errors, and only events and standard error
are: an agent may be writing about rate limits.
"""

import math
import re
from datetime import datetime
from typing import Any, Literal, NamedTuple

from orchestration.endings import Ending, Kind, Usage
from orchestration.event_stream import EventStream
from orchestration.presets import ErrorRule, Match, Preset, UsageRule, at
from orchestration.process import Why
from orchestration.reset_times import read as reset_time

__all__ = ["Ending", "Kind", "Reader", "Usage"]

_STDERR = 64 << 10
"""Bytes of standard error that are kept: the last."""
_MESSAGE = 1 << 20
"""Characters of a final text that are kept."""
_REASON = 300
_LIMITS = {Kind.USAGE_LIMIT, Kind.RATE_LIMIT}
_SIGNALLED = 128
_BY_US = {Why.STOPPED: Kind.STOPPED, Why.TIMEOUT: Kind.TIMEOUT, Why.IDLE: Kind.IDLE}
_ENDED = {
    Kind.STOPPED: "it was stopped",
    Kind.TIMEOUT: "it ran too long and was ended",
    Kind.IDLE: "it made no progress for too long and was ended",
}


class _Failed(NamedTuple):
    """A failure: its kind, what the agent said, where that may name a limit's end, whether its provider was reached."""

    kind: Kind
    reason: str
    told: str = ""
    unreached: bool = False


class Reader:
    """Reads one run of an agent, in bounded memory.

    Args:
        preset: whose events it prints; None for a bare executable, of which the exit code alone is known.

    """

    def __init__(self, preset: Preset | None) -> None:
        self._preset = preset
        self._stream = EventStream()
        self._stderr = b""
        self._session: str | None = None
        self._message = ""
        self._reason = ""
        self._reset = ""
        self._done = self._good = False
        self._hits: dict[int, str] = {}
        self._rules = [] if preset is None else [(rule, rule.where()) for rule in preset.errors]
        usage = [] if preset is None else preset.usage
        self._used = [(rule, Match(event=rule.event), dict[str, float]()) for rule in usage]
        self._ok = Match(event=preset.ok.event if preset else {})

    @property
    def done(self) -> bool:
        """Tell whether the agent has said how it went, and not begun anew since."""
        return self._done

    def feed(self, stream: Literal["stdout", "stderr"], data: bytes) -> bool:
        """Take what the agent printed; return whether it was progress.

        Progress is an event that is no noise, or any output of a bare executable.
        """
        if self._preset is None:
            return bool(data)
        if stream == "stderr":
            self._stderr = (self._stderr + data)[-_STDERR:]
            return False
        progress = [self._take(self._preset, event) for event in self._stream.feed(data)]
        return any(progress)

    def ended(self, completed_code: int, why: Why, now: datetime) -> Ending:
        """Return how it went; nothing is fed after this.

        Args:
            completed_code: its exit code, or 128 + the signal's number.
            why: why it ended; GRACE: it was ended because it did not exit after its terminal event.
            now: the time, in the zone (TZ) that the agent had.

        """
        if self._preset is None:
            return self._bare(completed_code, why)
        for event in self._stream.close():
            self._take(self._preset, event)
        exited = why is Why.GRACE or (why is Why.EXITED and completed_code in self._preset.ok.exit)
        if self._done and self._good and exited:
            return self._ending(Kind.OK, "it reported success")
        failed = self._failure(completed_code, why)
        reset = None
        if failed.kind in _LIMITS:
            reset = reset_time(self._reset, now) or reset_time(failed.told, now)
        return self._ending(failed.kind, failed.reason, reset, unreached=failed.unreached)

    def _bare(self, code: int, why: Why) -> Ending:
        if why in _BY_US:
            return Ending(kind=_BY_US[why], reason=_ENDED[_BY_US[why]])
        reason = f"it ended with exit code {code}"
        return Ending(kind=Kind.FAILED if code else Kind.OK, reason=reason)

    def _failure(self, code: int, why: Why) -> _Failed:
        if why is Why.STOPPED or why is Why.TIMEOUT:
            return _Failed(_BY_US[why], _ENDED[_BY_US[why]])
        if found := self._known():
            return found
        if why is Why.IDLE:
            return _Failed(Kind.IDLE, _ENDED[Kind.IDLE])
        if self._done and not self._good:
            return _Failed(Kind.FAILED, self._reason or "it reported a failure")
        last = self._stderr.decode(errors="replace").strip().rpartition("\n")[2]
        if code:
            how = f"signal {code - _SIGNALLED}" if code > _SIGNALLED else f"exit code {code}"
            after = "after it had reported success" if self._done else "before it had reported how it went"
            return _Failed(Kind.CRASHED, f"it ended with {how} {after}" + (f": {last}" if last else ""))
        return _Failed(
            Kind.NO_RESULT, "it exited with 0 and had not reported how it went" + (f": {last}" if last else "")
        )

    def _known(self) -> _Failed | None:
        """Return what the first rule that fits makes of it; a success that was reported is held against none."""
        if self._done and self._good:
            return None
        stderr = self._stderr.decode(errors="replace")
        for number, (rule, _) in enumerate(self._rules):
            text = self._hits.get(number)
            if text is None and rule.stderr is not None:
                found = re.search(rule.stderr, stderr)
                text = None if found is None else _line(stderr, found.start())
            if text is not None:
                reason = self._reason or text or f"its {rule.outcome.replace('_', ' ')}"
                return _Failed(rule.outcome, reason, _told(rule, text), rule.unreached)
        return None

    def _take(self, preset: Preset, event: dict[str, Any]) -> bool:
        """Note what an event says; return whether it is progress."""
        noise = any(match.fits(event) for match in preset.noise)
        if not noise:
            self._hits.clear()  # it has got over what it complained of
        if (session := preset.session.within(event)) is not None:
            self._session, self._done, self._reason = session, False, ""
        if (message := preset.final_text.within(event)) is not None:
            self._message = message[:_MESSAGE]
        if preset.done.fits(event):
            self._done, self._good = True, self._ok.fits(event)
            self._reason = next((text for match in preset.reasons if (text := match.within(event))), "")
        self._note_errors(preset, event)
        self._count(event)
        return not noise

    def _note_errors(self, preset: Preset, event: dict[str, Any]) -> None:
        for match in preset.resets:
            self._reset = match.within(event) or self._reset
        for number, (_, where) in enumerate(self._rules):
            if where is not None and (text := where.within(event)) is not None:
                self._hits[number] = text[:_MESSAGE]

    def _count(self, event: dict[str, Any]) -> None:
        for rule, where, used in self._used:
            if where.fits(event):
                before = used if rule.take == "sum" else {}
                used.update({name: before.get(name, 0) + value for name, value in _numbers(rule, event).items()})

    def _ending(self, kind: Kind, reason: str, reset: datetime | None = None, *, unreached: bool = False) -> Ending:
        numbers = {name: value for _, _, used in self._used for name, value in used.items()}
        return Ending(
            kind=kind,
            reason=" ".join(reason.split())[:_REASON],
            message=self._message,
            session=self._session,
            reset=reset,
            usage=_usage(numbers) if numbers else None,
            unreached=unreached,
            cumulative=tuple(name for rule, _, _ in self._used if rule.cumulative for name in rule.paths()),
        )


def _line(text: str, place: int) -> str:
    return text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0]


def _told(rule: ErrorRule, text: str) -> str:
    """Return where a text names the end of a limit."""
    found = re.search(rule.match, text) if rule.match is not None else None
    return (found["reset"] or "") if found and "reset" in found.re.groupindex else ""


def _numbers(rule: UsageRule, event: dict[str, Any]) -> dict[str, float]:
    """Return the counts of an event that are counts."""
    found = {name: at(event, path) for name, path in rule.paths().items()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    }


def _usage(numbers: dict[str, float]) -> Usage:
    cost = numbers.pop("cost_usd", None)
    tokens = {name: int(value) for name, value in numbers.items()}
    return Usage(cost_usd=None if cost is None else float(cost), **tokens)
