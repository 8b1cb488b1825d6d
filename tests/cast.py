"""Agents that print what claude or codex print, run by run as a test has it, and a clock whose hours pass at once."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from selectors import BaseSelector, SelectorKey
from typing import Any

from conftest import Project, executable
from orchestration.clock import SystemClock

AGENT = """#!/bin/sh
cat >{folder}/prompt
echo "$ORCH_PROMPT $*" >>{folder}/ran
n=$(wc -l <{folder}/ran)
[ -e {folder}/run$n ] || n={last}
. {folder}/run$n
"""
WORKS = 'echo "$ORCH_TURN" >>work.txt; git add work.txt; git commit -qm "work $ORCH_TURN"'
"""What a run does that changes something."""


def says(*events: dict[str, Any]) -> str:
    """Return shell text that prints events."""
    return "\n".join(f"printf '%s\\n' {shlex.quote(json.dumps(event))}" for event in events)


def codex_ok(message: str = "Done.", read: int = 100, wrote: int = 10) -> str:
    """Return a run of codex that succeeds."""
    usage = {"input_tokens": read, "output_tokens": wrote}
    return says(
        {"type": "thread.started", "thread_id": "t-1"},
        {"type": "item.completed", "item": {"type": "agent_message", "text": message}},
        {"type": "turn.completed", "usage": usage},
    )


def codex_failed(message: str) -> str:
    """Return a run of codex that fails."""
    begun = {"type": "thread.started", "thread_id": "t-1"}
    return f"{says(begun, {'type': 'turn.failed', 'error': {'message': message}})}\nexit 1"


TOO_FAST = codex_failed("exceeded retry limit, last status: 429 Too Many Requests")


def limited(until: str) -> str:
    """Return a run of codex that has reached its usage limit; `until` as in `at 3:44 AM` or `in 5 hours`."""
    return codex_failed(f"You've hit your usage limit. Visit the settings or try again {until}.")


def claude(session: str, cost: float, read: int = 100, **result: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a run of claude; its cost is its session's up to now."""
    used = {"input_tokens": read, "output_tokens": 10}
    told = {"type": "result", "is_error": False, "result": "Done.", "total_cost_usd": cost, "usage": used}
    begun = {"type": "system", "subtype": "init", "session_id": session}
    return says(begun, told | result) + ("\nexit 1" if result.get("is_error") else "")


@dataclass(frozen=True)
class Cast:
    """The agents of a project."""

    project: Project

    def agent(self, *runs: str, preset: str = "codex", name: str = "fake", fallback: str = "") -> str:
        """Configure an agent whose runs do this, one after the other, the last again and again; return its name."""
        folder = self.folder(name)
        folder.mkdir()
        for number, text in enumerate(runs, start=1):
            (folder / f"run{number}").write_text(text + "\n")
        program = executable(folder / "agent", AGENT.format(folder=folder, last=len(runs)))
        made = {"preset": preset, "command": [program]} | ({"fallback": fallback} if fallback else {})
        self._configure(name, made)
        return name

    def _configure(self, name: str, made: dict[str, Any]) -> None:
        file = self.project.path / "orchestration.yaml"
        lines = file.read_text().splitlines()
        place = next(number for number, line in enumerate(lines) if line.startswith("agents:"))
        lines.insert(place + 1, f"  {name}: {json.dumps(made)}")
        self.project.write("orchestration.yaml", "\n".join(lines) + "\n")
        self.project.git("commit", "--quiet", "-m", f"agent {name}", "orchestration.yaml")

    def folder(self, name: str = "fake") -> Path:
        """Return the folder of an agent."""
        return self.project.path.parent / f"{self.project.path.name}-{name}"

    def ran(self, name: str = "fake") -> list[str]:
        """Return the prompt and the arguments of each run of an agent."""
        file = self.folder(name) / "ran"
        return [line.strip() for line in file.read_text().splitlines()] if file.exists() else []

    def prompt(self, name: str = "fake") -> str:
        """Return what the last run was given."""
        return (self.folder(name) / "prompt").read_text()

    def record(self, turn: str = "00001_galph") -> dict[str, Any]:
        """Return the record of a turn of the newest run."""
        (file,) = (self.project.path / "logs/main/latest").glob(f"*{turn}*.json")
        loaded: dict[str, Any] = json.loads(file.read_text())
        return loaded

    def entry(self) -> dict[str, Any]:
        """Return the journal's entry."""
        file = self.project.path / ".git/orchestration/journal.json"
        loaded: dict[str, Any] = json.loads(file.read_text())["entry"]
        return loaded

    def counters(self) -> dict[str, Any]:
        """Return what is counted."""
        file = self.project.path / ".git/orchestration/counters.json"
        loaded: dict[str, Any] = json.loads(file.read_text())
        return loaded


class Hours(SystemClock):
    """A clock on whose face a quarter of an hour passes with every wait that nothing ends; it begins `ahead` s late."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        """Return the time of day."""
        return super().now() + timedelta(seconds=self.ahead)

    def wait(self, deadline: float | None, selector: BaseSelector) -> list[tuple[SelectorKey, int]]:
        """Wait for the selector until `deadline`."""
        ready: Sequence[tuple[SelectorKey, int]] = super().wait(deadline, selector)
        self.ahead += 0 if ready else 900
        return [*ready]
