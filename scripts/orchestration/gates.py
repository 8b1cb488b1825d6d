"""Gates: the project's own commands that judge a turn's work after its agent (loop.md, "A turn")."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from orchestration.agents import Agent
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


def run_gates(ports: Ports, entry: Judged) -> Passed | Halt:
    """Run the actor's gates one after the other, until one fails; Halt if a stop cut them short.

    They run again from the first after a stop or a crash: they change nothing that counts.
    """
    claim = entry.turn.claim
    prompt = entry.decision.prompt if entry.decision else ""
    base = ports.reports.begin_turn(claim, prompt)
    said: list[Gate] = []
    failure = None
    for command in ports.config.actors.of(claim.actor).gates:
        result = _run(ports, entry, base, command)
        halt = ports.stopped() if result.completed.why is Why.STOPPED else None
        if halt:
            return halt
        said.append(Gate(command, result.completed.code, round(result.completed.seconds, 3)))
        failure = _failure(ports, command, result)
        if failure:
            break
        ports.note("gate", f"{claim.name}: the gate `{command}` passed in {result.completed.seconds:.1f} s")
    ports.reports.record(base, {"gates": said})
    return Passed(failure)


def _run(ports: Ports, entry: Judged, base: Path, command: str) -> Result:
    """Run a command of orchestration.yaml through the shell, its output in the turn's log."""
    argv, limit = ["/bin/sh", "-c", command], ports.config.limits.gate_timeout
    shell = Agent(name="gate", argv=argv, timeout=limit, idle_timeout=None, ladder=LADDER)
    log = ports.reports.open_log(base)
    log.write(f"\n--- gate: {command}\n".encode())
    path = str(base.with_name(f"{base.name}.log"))
    prompt = entry.decision.prompt if entry.decision else ""
    job = Invocation(entry.turn.claim, shell, prompt, b"", ports.reports.folder, log, path)
    return ports.runner.run(job, lambda: None)


def _failure(ports: Ports, command: str, result: Result) -> Failure | None:
    failure = result.outcome.failure
    if failure is None:
        return None
    how = f"ended with exit code {result.completed.code}"
    if result.completed.why is Why.TIMEOUT:
        how = f"ran longer than {ports.config.limits.gate_timeout:g} s (limits.gate_timeout) and was ended"
    return msgspec.structs.replace(failure, reason=f"the gate `{command}` {how}", code="gate")
