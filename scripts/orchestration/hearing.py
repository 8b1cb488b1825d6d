"""What is heard of one run of an agent: kept in its log, shown, and in the end told for what it comes to."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal, cast

from orchestration.agents import Agent
from orchestration.endings import Ending, Kind
from orchestration.journal import Outcome
from orchestration.outcomes import Reader
from orchestration.process import Completed
from orchestration.state import Failure

_MEMORY = 64 << 10
"""Bytes of each stream that are kept for the tail and the final message."""
_TAIL_LINES = 20
_TAIL_BYTES = 4 << 10
_FINAL = "### Turn Summary"

_HINTS = {
    Kind.AUTH: "log it in again as this user, or renew its key",
    Kind.QUOTA: "its account has nothing left to spend",
    Kind.CONFIG: "mend its settings, or its entry below agents:",
    Kind.MAX_TURNS: "agents.NAME.max_turns is what it reached",
    Kind.BUDGET: "agents.NAME.budget_usd, or limits.turn_cost, is what it reached",
}
"""What helps against a failure that does not pass by itself."""


class _Memory:
    """The last bytes of what passed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data[-_MEMORY:]
        if len(self._data) > 2 * _MEMORY:
            del self._data[:-_MEMORY]

    def text(self) -> str:
        return self._data[-_MEMORY:].decode(errors="replace")


class Hearing:
    """Takes what an agent prints.

    Args:
        agent: whose output it is.
        keep: takes every byte of it.
        log_path: where that is kept, for a person.
        show: takes what a person should see of it: of an agent whose events are understood, not these.

    """

    def __init__(
        self, agent: Agent, keep: Callable[[bytes], None], log_path: str, show: Callable[[bytes], None]
    ) -> None:
        self._agent = agent
        self._keep = keep
        self._log_path = log_path
        self._show = show
        self._reader = Reader(agent.preset)
        self._all, self._spoken = _Memory(), _Memory()

    @property
    def done(self) -> bool:
        """Tell whether the agent has said how it went, and need only exit."""
        return self._reader.done

    def __call__(self, name: str, data: bytes) -> bool:
        """Take what came on a stream; return whether it was progress."""
        self._keep(data)
        stream = cast("Literal['stdout', 'stderr']", name)
        progress = self._reader.feed(stream, data)
        if self._agent.preset is None or name == "stderr":
            self._all.add(data)
            self._show(data)
        if name == "stdout":
            self._spoken.add(data)
        return progress or self._agent.preset is None

    def concluded(self, done: Completed, now: datetime) -> tuple[Ending, Outcome]:
        """Return how the run ended, and what that comes to; nothing is heard after this.

        Args:
            done: what became of the process.
            now: the time in the agent's own zone.

        """
        ending = self._reader.ended(done.code, done.why, now)
        said = ending.message if self._agent.preset else self._spoken.text()
        if self._agent.preset and said:
            self._show(f"{said.rstrip()}\n".encode())
        message, seconds = final_message(said), done.seconds
        if ending.kind is Kind.OK:
            understood = self._agent.preset is not None
            return ending, Outcome(exit_code=done.code, seconds=seconds, message=message, understood=understood)
        reason, code = self._cause(ending, done)
        failure = Failure(
            reason=reason, exit_code=done.code, code=code, tail=tail(self._all.text()), log=self._log_path
        )
        return ending, Outcome(failure=failure, exit_code=done.code, seconds=seconds, message=message)

    def said(self, ending: Ending) -> str:
        """Return the agent's answer."""
        return ending.message if self._agent.preset else self._spoken.text()

    def _cause(self, ending: Ending, done: Completed) -> tuple[str, str]:
        """Return why the turn fails, and the failure's code."""
        name = self._agent.name
        idle = (
            f"{'made no progress' if self._agent.preset else 'printed nothing'} for {self._agent.idle_timeout or 0:g} s"
        )
        causes = {
            Kind.FAILED: (f"the agent {name} ended with exit code {done.code}", "agent-failed"),
            Kind.TIMEOUT: (
                f"the agent {name} ran longer than {self._agent.timeout or 0:g} s and was ended",
                "agent-timeout",
            ),
            Kind.IDLE: (f"the agent {name} {idle} and was ended", "agent-idle"),
            Kind.STOPPED: (f"the agent {name} was stopped", "agent-stopped"),
        }
        if ending.kind in causes and (self._agent.preset is None or ending.kind is not Kind.FAILED):
            return causes[ending.kind]
        hint = f"; {_HINTS[ending.kind].replace('NAME', name)}" if ending.kind in _HINTS else ""
        return f"the agent {name}: {ending.reason}{hint}", f"agent-{ending.kind.replace('_', '-')}"


def tail(text: str) -> list[str]:
    """Return the last lines of a text: at most 20 and 4 KiB."""
    return text[-_TAIL_BYTES:].splitlines()[-_TAIL_LINES:]


def final_message(spoken: str) -> str:
    """Return an agent's last `### Turn Summary`, or else the end of what it said."""
    _, found, rest = spoken.rpartition(_FINAL)
    return f"{_FINAL}{rest}" if found else "\n".join(tail(spoken))
