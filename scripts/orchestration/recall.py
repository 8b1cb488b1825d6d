"""How an agent's run ended whose daemon died: out of its exit code, or of what it had printed by then."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from orchestration.agents import Agent
from orchestration.hearing import Hearing
from orchestration.journal import Running
from orchestration.logbook import Growing
from orchestration.process import Completed, Why
from orchestration.reports import CAP
from orchestration.runner import BY_STOP, KILLED, Result, Runner


def recalled(runner: Runner, entry: Running, agent: Agent) -> Result:
    """Return how the run ended; one of which that is not known counts as stopped.

    A bare executable's exit code tells, but for a router prompt's, whose answer may have come in part. Any other agent
    must have said how it went. Its raw log is heard again as if it were standard output, masked as it was the first
    time; what it said on standard error stands between, and is no event.

    Args:
        runner: knows the exit code, if the agent ended by itself.
        entry: the run.
        agent: who ran, as it is configured now.

    """
    code = runner.witnessed(entry.turn.claim)
    agent = agent if entry.understood else replace(agent, preset=None)
    hearing = Hearing(agent, _drop, entry.log, _drop)
    for data in _printed(entry):
        hearing("stdout", data)
    if entry.understood:
        known, code = hearing.done, None if code in BY_STOP else code  # stopped after it had said so
    else:
        known = code is not None and entry.decision is not None
    why = Why.STOPPED if not known else Why.GRACE if code is None else Why.EXITED
    done = Completed(argv=[], code=KILLED if code is None else code, why=why, seconds=0.0)
    return runner.result(agent, done, hearing, _heard_last(runner, entry))


def _printed(entry: Running) -> Iterator[bytes]:
    """Return what the log has of a run; nothing of one that is so long that its middle or its end may be missing."""
    log = Path(entry.log)
    whole = log.is_file() and log.stat().st_size - entry.offset < CAP // 2
    return Growing(log, entry.offset).blocks() if whole else iter(())


def _heard_last(runner: Runner, entry: Running) -> datetime:
    """Return when the agent printed last: `in 5 hours` is meant from there on."""
    log = Path(entry.log)
    return datetime.fromtimestamp(log.stat().st_mtime, UTC) if log.is_file() else runner.loop.clock.now()


def _drop(_: bytes) -> None:
    """Take what was kept and shown already."""
