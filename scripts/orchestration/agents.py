"""Which agent runs a turn, and its command line: a pure choice (configuration, actor, prompt → argv, never a shell)."""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orchestration.config import routes
from orchestration.errors import UsageError
from orchestration.process import LADDER, Rung
from orchestration.router import normalise
from orchestration.settings import AgentDefinition, Config
from orchestration.state import Actor

CHECKLIST = "checklist"
_BYPASS = {
    ("", "--dangerously-skip-permissions"): "asks nobody before it acts",
    ("", "--dangerously-bypass-approvals-and-sandbox"): "asks nobody before it acts and leaves its sandbox",
    ("", "--yes-always"): "answers yes to all its questions",
    ("", "--yolo"): "asks nobody before it acts",
    ("gemini", "-y"): "asks nobody before it acts",
    ("opencode", "--auto"): "asks nobody before it acts",
}
"""(program or any, flag) → what it means in plain words."""


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """A command line that reads the prompt on standard input; exit 0 is success."""

    name: str
    argv: list[str]
    timeout: float | None
    idle_timeout: float | None
    ladder: Sequence[Rung]


def _name(config: Config, actor: Actor, prompt: str) -> str:
    by_prompt = {normalise(name, config.prompts_dir): agent for name, agent in config.agent.prompts.items()}
    name = by_prompt.get(prompt) or config.agent.roles.get(actor) or config.agent.default
    if name is None:
        choices = [CHECKLIST, *config.agents, "any executable that reads a prompt on standard input"]
        raise UsageError(
            f"no agent is configured to run {prompt} for {actor}",
            code="agent-missing",
            remedy=f"give --agent, or set `agent.default` in orchestration.yaml, to one of: {', '.join(choices)}",
        )
    return name


def _ladder(words: Sequence[str]) -> list[Rung]:
    rungs: list[Rung] = []
    for word in words:
        number, _, grace = word.partition(" ")
        rungs.append((signal.Signals[f"SIG{number.removeprefix('SIG')}"], float(grace or 0)))
    return [*rungs, (signal.SIGKILL, 0.0)] if signal.SIGKILL not in dict(rungs) else rungs


def _executable(word: str, root: Path, path: str | None) -> str:
    import shutil  # noqa: PLC0415 - with it come bz2 and lzma, of which a look that names no agent has no need

    found = shutil.which(str(root / word) if "/" in word else word, path=path)
    if found is None:
        there = (root / word).is_file() if "/" in word else False
        raise UsageError(
            f"the agent {word!r} {'is not executable' if there else 'was not found'}",
            code="agent-not-found",
            remedy=f"chmod +x {word}"
            if there
            else f"use `{CHECKLIST}`, a name under `agents:`, or an executable's path",
        )
    return found


def choose(config: Config, actor: Actor, prompt: str, root: Path, environment: Mapping[str, str]) -> Agent:
    """Return the agent of one turn.

    Args:
        config: its `agent` maps decide: prompt, then role, then default.
        actor: whose turn it is.
        prompt: the normalised prompt name.
        root: what a relative executable is relative to.
        environment: its PATH finds the executable.

    Raises:
        UsageError: none is configured, or its executable cannot be started.

    """
    name = _name(config, actor, prompt)
    limit = config.actors.of(actor).timeout or config.limits.turn_timeout
    if name == CHECKLIST and name not in config.agents:
        door = Path(__file__).with_name("orchestrator.py")
        argv = [sys.executable, str(door), CHECKLIST]
        return Agent(name=name, argv=argv, timeout=limit, idle_timeout=None, ladder=LADDER)
    made = config.agents.get(name, AgentDefinition(command=[name]))
    return Agent(
        name=name if name in config.agents else Path(name).name,
        argv=[_executable(made.command[0], root, environment.get("PATH")), *made.command[1:]],
        timeout=made.timeout or limit,
        idle_timeout=made.idle_timeout,
        ladder=_ladder(made.stop),
    )


def bypasses(argv: Sequence[str]) -> list[str]:
    """Say which flags of a command line switch the agent's own permission checks off, one sentence each."""
    programs = {"", *(Path(word).name for word in argv)}
    return [
        f"{Path(argv[0]).name} {flag} {meaning}"
        for (program, flag), meaning in _BYPASS.items()
        if program in programs and flag in argv
    ]


def jobs(config: Config) -> list[tuple[Actor, str]]:
    """Return who runs which prompt as it is configured: each actor's own, the review, and the router prompt."""
    names = routes(config)
    found = [(Actor.GALPH, names.own(Actor.GALPH)), (Actor.RALPH, names.own(Actor.RALPH))]
    if names.enabled and names.review_every_n:
        found.append((Actor.GALPH, names.reviewer))
    if names.enabled and names.router:
        found.append((Actor.GALPH, names.router))
    return found


def all_of(
    config: Config, root: Path, environment: Mapping[str, str], only: Actor | None = None
) -> dict[str, list[str]]:
    """Return the argv of every configured prompt's agent, so that a missing one is found before the first turn.

    Raises:
        UsageError: as `choose`.

    """
    return {
        f"{actor} {prompt}": choose(config, actor, prompt, root, environment).argv
        for actor, prompt in jobs(config)
        if only in {None, actor}
    }
