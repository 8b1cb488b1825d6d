"""What the tests of the hand-off share beside `pair`: agents that keep a ledger, a gate, hooks of the server."""

import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conftest import Project, executable
from orchestration import failpoints, state
from orchestration.clock import SystemClock
from pair import Pair, running, until
from prove_kills import KEEP_LEDGER, STATE, Ledger

AGENT = (
    """
import os
os.environ["ORCH_TURN"] += "@" + os.environ["ORCH_TURN_STAMP"]
"""
    + KEEP_LEDGER
    + """
import subprocess

os.environ["ORCH_TURN"] = TURN.partition("@")[0]


def sh(text):
    subprocess.run(["/bin/sh", "-ec", text], check=True)


sys.stdin.read()
sh({first!r})
sh('echo "$ORCH_TURN" >>"work-$ORCH_ACTOR.txt"; git add "work-$ORCH_ACTOR.txt"; git commit -qm "work $ORCH_TURN"')
sh({last!r})
note("ended", "0")
os._exit(0)
"""
)
"""An agent that commits one line a turn and keeps a ledger by claim; `ended` is its very last act."""

LEFTOVER = 'echo "$ORCH_TURN" >>"src/left-$ORCH_ACTOR.txt"'
"""What an agent may do last: leave a file that it did not commit."""

OPERATOR = "f" * 16


@dataclass
class Scene:
    """Two clones, the agents in them, and what a test does to the server."""

    two: Pair

    @property
    def folder(self) -> Path:
        """Return the folder of everything."""
        return self.two.hub.path.parent

    @cached_property
    def ledger(self) -> Ledger:
        """Return what the agents of both clones wrote down."""
        return Ledger(self.folder / "ledger")

    def agent(self, first: str = "", last: str = "", name: str = "worker") -> str:
        """Make an agent that does this in shell before and after its work; return its path for --agent."""
        text = AGENT.format(ledger=str(self.ledger.path), first=first, last=last)
        return executable(self.folder / name, f"#!{sys.executable} -IS\n{text}")

    # --- agents that wait --------------------------------------------------------------------------------------------

    @cached_property
    def _door(self) -> int:
        os.mkfifo(self.folder / "door")
        return os.open(self.folder / "door", os.O_RDWR)

    def gate(self) -> str:
        """Return the shell text of an agent that waits until the gate is opened, once and for all."""
        assert self._door
        folder = self.folder
        return f"[ -e {folder}/open ] || {{ : >{folder}/waits; read go <{folder}/door; }}"

    def waits(self) -> bool:
        """Tell whether an agent has come to the gate."""
        return (self.folder / "waits").exists()

    def is_open(self) -> bool:
        """Tell whether the gate was opened."""
        return (self.folder / "open").exists()

    def open(self) -> None:
        """Let whoever waits at the gate, and everybody after it, pass."""
        (self.folder / "open").touch()
        os.write(self._door, b"go\n")

    def during(self, role: str, act: Callable[[], object], *args: str, last: str = "") -> tuple[int, str]:
        """Run a role's turn, and act while its agent works; return the exit code and what was said."""
        daemon = self.two.start(role, "--once", "--json", *args, agent=self.agent(self.gate(), last, "gated"))
        with running(daemon):
            until(self.waits)
            act()
            self.open()
            said, _ = daemon.communicate(timeout=60)
        return daemon.returncode, said

    # --- daemons that die --------------------------------------------------------------------------------------------

    def turn(self, role: str, failpoint: str = "", *args: str, agent: str | None = None) -> int:
        """Run one turn, with a failpoint armed; let an agent that outlives its daemon end; return the exit code."""
        env = {failpoints.VARIABLE: failpoint}
        code = self.two.turn(role, *args, agent=agent or self.agent(), env=env)
        self.ledger.wait_until_nobody_runs()
        return code

    def goes_on(self) -> None:
        """Run one more iteration, a turn of each, and look at the promises."""
        before = self.two.state()
        first = before["expected_actor"]
        for role in (first, "ralph" if first == "galph" else "galph"):
            assert self.turn(role) == 0
        after = self.two.state()
        assert (after["iteration"], after["expected_actor"]) == (before["iteration"] + 1, first)
        self.two.check()
        assert self.again() == []

    def runs(self, turn: str, event: str = "start") -> int:
        """Return how many agents were started (or `ended`) for a turn such as `1/galph`, under whatever claim."""
        return sum(line.turn.partition("@")[0] == turn for line in self.ledger.lines(event))

    def again(self) -> list[str]:
        """Return the claims whose agent was run again after it had ended."""
        ended: set[str] = set()
        wrong: list[str] = []
        for line in self.ledger.lines():
            if line.event == "start" and line.turn in ended:
                wrong.append(line.turn)
            if line.event == "ended":
                ended.add(line.turn)
        return wrong

    # --- the server --------------------------------------------------------------------------------------------------

    def hook(self, name: str, text: str) -> Path:
        """Give the server a hook in shell."""
        return Path(executable(self.two.hub.path / "hooks" / name, f"#!/bin/sh\n{text}\n"))

    def holds_push(self) -> Callable[[], object]:
        """Have the server hold the next push until what is returned is called."""
        os.mkfifo(self.folder / "held-push")
        door = os.open(self.folder / "held-push", os.O_RDWR)
        self.hook("pre-receive", f"if mkdir {self.folder}/held 2>&-; then read go <{self.folder}/held-push; fi")
        return lambda: os.write(door, b"go\n")

    def is_held(self) -> bool:
        """Tell whether a push is held."""
        return (self.folder / "held").exists()

    def away(self) -> None:
        """Take the server off."""
        self.two.hub.path.rename(self.folder / "away.git")

    def is_away(self) -> bool:
        """Tell whether the server is off."""
        return (self.folder / "away.git").exists()

    def back(self) -> None:
        """Let the server come back."""
        (self.folder / "away.git").rename(self.two.hub.path)

    def moved_by_hand(self, tip: str) -> None:
        """Put the branch at the server somewhere by force, as the promises do not ask of us."""
        self.two.hub.git("update-ref", "refs/heads/main", tip)

    def forgive(self) -> None:
        """Forget, at the server, where a test has moved the branch by force."""
        self.two.hub.git("reflog", "expire", "--expire=all", "refs/heads/main")

    # --- people ------------------------------------------------------------------------------------------------------

    def push(self, path: str = "note.txt", text: str = "by hand\n", name: str = "person") -> Project:
        """Let a person commit a file and push it."""
        person = self.two.person(name)
        person.write(path, text)
        person.commit(f"a person's {path}")
        person.git("push", "--quiet")
        return person

    def edit(self, **fields: Any) -> Project:  # noqa: ANN401 - any JSON
        """Let a person change fields of the state and push it."""
        return self.push(STATE, json.dumps(self.two.state() | fields, indent=2) + "\n")

    def take_over(self) -> None:
        """Let a person give the running turn to whoever comes first, by a commit made by hand."""
        person = self.two.person()
        before = state.parse((person.path / STATE).read_bytes())
        token = state.Token(before.epoch + 1, OPERATOR, secrets.token_hex(16))
        after = state.taken_over(before, token, SystemClock().now())
        person.write(STATE, state.encode(after))
        person.git("commit", "--quiet", "-am", state.message(before, after, operator="takeover"))
        person.git("push", "--quiet")
