"""Gates: the project's own commands that judge a turn's work after its agent."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from orchestration.agents import Agent
from orchestration.bus import Fenced
from orchestration.halt import Halt
from orchestration.journal import Judged
from orchestration.ports import Ports
from orchestration.process import LADDER, Why
from orchestration.runner import Invocation, Result
from orchestration.state import Failure


class Gate(msgspec.Struct, frozen=True):
    """What a gate said, for the turn record."""

    command: str
    exit_code: int
    seconds: float


class Passed(NamedTuple):
    """Why the turn fails, if a gate did not let it pass."""

    failure: Failure | None


def run_gates(ports: Ports, entry: Judged) -> Passed | Halt | Fenced:
    """Run the actor's gates one after the other, until one fails; Halt if a stop cut them short, Fenced if a peer did.

    They run again from the first after a stop or a crash: they change nothing that counts.
    """
    claim = entry.turn.claim
    prompt = entry.decision.prompt if entry.decision else ""
    base = ports.reports.begin_turn(claim, prompt)
    said: list[Gate] = []
    failure = None
    with ports.watched(claim) as lost:
        for command in ports.config.actors.of(claim.actor).gates:
            result = _run(ports, entry, base, command, lost)
            cut = _cut_short(ports, result)
            if cut:
                return cut
            said.append(Gate(command, result.completed.code, round(result.completed.seconds, 3)))
            failure = _failure(ports, command, result)
            if failure:
                break
            ports.note("gate", f"{claim.name}: the gate `{command}` passed in {result.completed.seconds:.1f} s")
    ports.reports.record(base, {"gates": said})
    return Passed(failure)


def _cut_short(ports: Ports, result: Result) -> Halt | Fenced | None:
    if result.completed.why is not Why.STOPPED:
        return None
    return Fenced(ports.lost) if ports.lost else ports.stopped()


def _run(ports: Ports, entry: Judged, base: Path, command: str, lost: Callable[[], object]) -> Result:
    """Run a command of orchestration.yaml through the shell, its output in the turn's log."""
    argv, limit = ["/bin/sh", "-c", command], ports.config.limits.gate_timeout
    shell = Agent(name="gate", argv=argv, timeout=limit, idle_timeout=None, ladder=LADDER)
    log = ports.reports.open_log(base)
    log.write(f"\n--- gate: {command}\n".encode())
    path = str(base.with_name(f"{base.name}.log"))
    prompt = entry.decision.prompt if entry.decision else ""
    job = Invocation(entry.turn.claim, shell, prompt, b"", ports.reports.folder, log, path)
    return ports.runner.run(job, lambda: None, lost)


def _failure(ports: Ports, command: str, result: Result) -> Failure | None:
    failure = result.outcome.failure
    if failure is None:
        return None
    how = f"ended with exit code {result.completed.code}"
    if result.completed.why is Why.TIMEOUT:
        how = f"ran longer than {ports.config.limits.gate_timeout:g} s (limits.gate_timeout) and was ended"
    return msgspec.structs.replace(failure, reason=f"the gate `{command}` {how}", code="gate")
