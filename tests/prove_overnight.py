"""A night of real command lines: `scripts/prove overnight`.

Galph is claude and ralph is codex, as they are, sealed, against a model on the loopback. They take twenty turns in one
repository, and at random turns their provider reaches a limit, hangs, fails or cuts the line, or the daemon is killed
while a tool works. In the end the loop stops by itself, and its records are held against what the server counted.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from conftest import DOOR, repository
from fake_model import PLANS, FakeModel, Plan
from prove_agents import processes, until
from prove_kills import seal as seal_home
from real_agents import AGENTS, NAMES, install, seal

PATIENCE = 900.0
SECRETS = {
    "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-tHiSiSnOtArEaLtOkEn0123456789",
    "OPENAI_API_KEY": "sk-proj-NeItHeRiStHiSoNe9876543210abcdef",
}
LEAKS = "env | grep -e TOKEN -e API_KEY"
"""What a careless tool call prints."""


IDLE = "idle"
"""The one of these that fails a turn: a person, who looks at once, has it run again."""


class Fault(NamedTuple):
    """A misfortune: the scenario, for how many calls, and the kinds of the attempts that it costs."""

    scenario: str
    calls: int
    kinds: tuple[str, ...]


FAULTS: dict[str, dict[str, Fault]] = {
    "claude": {
        "limit": Fault("usage,4", 1, ("usage_limit",)),
        "hang": Fault("hang", 4, ("network",)),
        "500": Fault("500", 4, ("server",)),
        "cut": Fault("cut", 5, ("network",)),
    },
    "codex": {
        "limit": Fault("usage,4", 1, ("usage_limit",)),
        "hang": Fault("hang", 1, (IDLE,)),  # it would wait for ever
        "500": Fault("500", 30, ("server",)),
        "cut": Fault("cut", 6, ("network",)),
    },
}
KILL = "kill"
"""The daemon is killed while a tool works; whatever was asked until then is told by nobody."""


@dataclass
class Row:
    """What became of one turn."""

    turn: str
    agent: str
    fault: str
    kinds: list[str] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    killed: float | None = None
    record: dict[str, Any] = field(default_factory=dict)

    cost: float | None = None
    tokens: int = 0

    def __str__(self) -> str:
        return (
            f"{self.turn:9} {self.agent:7} {self.fault or '-':6} {len(self.started)} started  "
            f"{', '.join(self.kinds) or '-':12} {self.tokens:6} tokens  "
            f"{'-' if self.cost is None else f'{self.cost:.5f}'} USD"
        )


class Night:
    """The project, the model, and what has happened so far.

    Args:
        place: a folder of its own.
        model: whom both ask.
        turns: how many, an even number.
        dice: draws the faults.

    """

    def __init__(self, place: Path, model: FakeModel, turns: int, dice: random.Random) -> None:
        self.model = model
        self.project = repository(place / "project")
        self.home = place / "home"
        self.rows: dict[str, Row] = {}
        self.wrong: list[str] = []
        self.kills = 0
        self._turns = turns
        self._last = Row("", "", "")
        self._env = self._environment()
        self._faults = self._drawn(dice)
        assert self.project.run("init").returncode == 0
        self._plan("")

    def _environment(self) -> dict[str, str]:
        claude, codex = (seal(name, self.home, self.model, subscription=True) for name in NAMES)
        env = {**claude.env, **codex.env, **SECRETS}
        env["PATH"] = ":".join([str(Path(claude.env["PATH"].partition(":")[0])), codex.env["PATH"]])
        return env

    def _drawn(self, dice: random.Random) -> dict[str, str]:
        """Return which turn meets which fault: each kind at each agent once, the others have none."""
        found: dict[str, str] = {}
        for actor, agent in (("galph", "claude"), ("ralph", "codex")):
            kinds = [*FAULTS[agent], KILL]
            places = dice.sample(range(1, self._turns // 2), len(kinds))  # the last turn ends the loop
            found |= {f"{place}/{actor}": kind for place, kind in zip(places, kinds, strict=True)}
        return found

    def _plan(self, first: str) -> None:
        """Have both leak and work, after the command `first`; the last turn asks for the end."""
        last = f"{self._turns // 2}/ralph"
        ends = 's/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "morning"/'
        before = (first,) if first else ()
        over = f"[ $ORCH_TURN != {last} ] || sed -i '{ends}' sync/state.json"
        work = {name: plan.commands for name, plan in PLANS.items()}
        self.model.plans = {
            name: Plan((*before, LEAKS, *work[name], *((over,) if name == "Main" else ())), PLANS[name].says)
            for name in ("Supervisor", "Reviewer", "Main")
        }

    def run(self) -> None:
        """Let the night pass."""
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE:
            code = self._life()
            if code == -signal.SIGKILL:
                continue
            if code == 4 and self._last.kinds == [IDLE]:
                self.project.run("retry")
                continue
            if code:
                self.wrong.append(f"the daemon ended with exit code {code}")
            return
        self.wrong.append("the night does not end")

    def _life(self) -> int:
        """Let one daemon live; return its exit code."""
        limits = ["-c", "limits.no_progress_turns=0", "-c", "router.review_every_n=0"]
        agents = ["--agent-role", "galph=claude,ralph=codex", "-c", "agents.codex.idle_timeout=15"]
        agents += ["-c", 'agents.claude.env={API_TIMEOUT_MS: "3000"}']
        daemon = subprocess.Popen(
            [sys.executable, str(DOOR), "--mode", "combined", "--json", "-n", "0", *agents, *limits],
            cwd=self.project.path,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert daemon.stdout
        try:
            for line in daemon.stdout:
                self._hear(json.loads(line), daemon)
        finally:
            daemon.kill()
        return daemon.wait()

    def _hear(self, event: dict[str, Any], daemon: "subprocess.Popen[str]") -> None:
        turn = f"{event.get('iteration')}/{event.get('actor')}"
        if event["event"] == "turn-started":
            fault = "" if turn in self.rows else self._faults.get(turn, "")
            row = self.rows.setdefault(turn, Row(turn, event["agent"], fault))
            row.started.append(time.monotonic())
            if fault == KILL:
                self._kill(row, daemon)
            elif fault:
                scenario, calls, _ = FAULTS[row.agent][fault]
                self.model.scenario(scenario, calls)
        elif event["event"] == "attempt-ended":
            self.rows[turn].kinds.append(event["kind"])
        elif event["event"] == "turn-ended":
            self.model.scenario("ok")
            self._end(self.rows[turn], event)

    def _kill(self, row: Row, daemon: "subprocess.Popen[str]") -> None:
        seconds = f"600.{os.getpid()}{len(self.rows)}"
        self._plan(f"nice sleep {seconds}")
        if not until(partial(processes, "cmdline", b"sleep\0" + seconds.encode()), daemon):
            self.wrong.append(f"{row.turn}: its tool never ran")
        daemon.kill()
        daemon.wait()
        row.killed = time.monotonic()
        self.kills += 1
        self._plan("")

    def _end(self, row: Row, event: dict[str, Any]) -> None:
        self._last = row
        row.cost, row.tokens = event["cost_usd"], event["tokens"] or 0
        if not event["ok"]:
            row.kinds.append(IDLE if "made no progress" in event["reason"] else event["reason"])
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()

    # --- the morning after -------------------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """Return what is not as it must be."""
        for row in self.rows.values():
            iteration, actor = row.turn.split("/")
            found = sorted(self.project.path.glob(f"logs/main/*Z*/iter-{int(iteration):05d}_{actor}_*.json"))
            row.record = json.loads(found[-1].read_text())
        wrong = [*self.wrong, *self._outcomes(), *self._totals()]
        done = self.project.git("log", "--format=%s").count("status=ok")
        if done != self._turns:
            wrong.append(f"{done} hand-offs, not {self._turns}")
        if left := processes("environ", f"HOME={self.home}".encode()):
            wrong.append(f"processes are left: {left}")
        for name, secret in SECRETS.items():
            leaks = subprocess.run(
                ["grep", "-rlaF", secret, self.project.path], capture_output=True, text=True, check=False
            )
            if leaks.stdout:
                wrong.append(f"{name} stands in {leaks.stdout.split()}")
        if self.model.strays:
            wrong.append(f"asked for beyond the loopback: {sorted(set(self.model.strays))}")
        return wrong

    def _outcomes(self) -> list[str]:
        wrong = []
        for row in self.rows.values():
            due = list(FAULTS[row.agent][row.fault].kinds) if row.fault in FAULTS[row.agent] else []
            if (row.kinds, row.record.get("outcome")) != (due, "ok"):
                wrong.append(f"{row.turn} ({row.fault}): {row.kinds} {row.record.get('outcome')}, not {due} ok")
            if len(row.started) != 1 + len(due) + (row.fault == KILL):
                wrong.append(f"{row.turn} ({row.fault}): started {len(row.started)} times")
        return wrong

    def _totals(self) -> list[str]:
        """Compare what each record holds with the server's count, but for what killed or cut agents told nobody."""
        wrong = self._costs()
        begins = [row.started[0] for row in self.rows.values()] + [float("inf")]
        for row, begin, end in zip(self.rows.values(), begins, begins[1:], strict=False):
            used = row.record.get("usage") or {}
            cached = used.get("cache_read_tokens", 0) if row.agent == "claude" else 0  # codex counts these as input
            told = (used.get("input_tokens", 0) + cached, used.get("output_tokens", 0))
            heard = [call for call in self.model.calls if max(begin, row.killed or 0) <= call.at < end]
            calls = [call.tokens for call in heard if call.scenario != "cut"]
            sent = (
                sum(call[0] + (call[1] if row.agent == "claude" else 0) for call in calls),
                sum(call[2] for call in calls),
            )
            broken = row.agent == "claude" and row.fault == "cut"  # it counts what a stream had begun to tell, or not
            if told != sent and not broken:
                wrong.append(f"{row.turn} ({row.fault}): {told} tokens in its record, the server counted {sent}")
        return wrong

    def _costs(self) -> list[str]:
        """Compare the day's cost with what claude itself says at the end of each of its sessions, in the raw logs."""
        sessions: dict[str, float] = {}
        for log in sorted(self.project.path.glob("logs/main/*Z*/iter-*_galph_*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if '"type":"result"' in line and line.startswith("{"):
                    event = json.loads(line)
                    sessions[event["session_id"]] = event["total_cost_usd"]
        counters = json.loads((self.project.path / ".git/orchestration/counters.json").read_text())
        said, kept = sum(sessions.values()), counters["today"]["cost_usd"]
        return [] if abs(said - kept) < 1e-9 else [f"the day cost {kept} USD, and claude said {said}"]


def main() -> int:
    """Let a night pass, and judge it; return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/prove overnight", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=20, help="how many, an even number of at least 12 (default 20)")
    parser.add_argument(
        "--seed", default=None, help="where the draw of the faults begins (default: a new one, printed)"
    )
    given = parser.parse_args()
    if missing := install(*NAMES, folder=AGENTS):
        sys.stdout.write(f"{missing}\n")
        return 1
    seed = given.seed or hashlib.sha256(os.urandom(16)).hexdigest()[:8]
    place = Path(tempfile.mkdtemp(prefix="galph-prove-"))
    seal_home(place / "person")
    begun = time.monotonic()
    with FakeModel() as model:
        night = Night(place, model, given.turns, random.Random(seed))  # noqa: S311 - a draw, not a secret
        night.run()
        wrong = night.judge()
        calls = len(model.calls)
    for what in wrong:
        sys.stdout.write(f"wrong: {what}\n")
    attempts = Counter(kind for row in night.rows.values() for kind in row.kinds)
    sys.stdout.write(
        f"{len(night.rows)} turns, {calls} calls of the model, {night.kills} kills, attempts tried again: "
        f"{dict(attempts)}, {len(wrong)} violations; seed {seed}, {time.monotonic() - begun:.0f} s\n"
    )
    if wrong:
        sys.stdout.write(f"the night is kept in {place}\n")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
