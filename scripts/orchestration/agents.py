"""Which agent runs a turn, and its command line: a pure choice (configuration, actor, prompt → argv, never a shell)."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from orchestration.config import routes
from orchestration.errors import UsageError
from orchestration.executables import CHECKLIST, executable
from orchestration.process import LADDER, Rung
from orchestration.router import normalise
from orchestration.settings import AgentDefinition, Config
from orchestration.state import Actor

if TYPE_CHECKING:
    from orchestration.presets import Preset

AUTO = "auto"
"""The first preset that is installed."""
_STOP = ("TERM 8", "KILL")
_SESSION = "{session}"
"""Stands in `Agent.resume` for the session."""
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
    """A command line that reads the prompt on standard input.

    Args:
        name: how a person calls it.
        argv: its command line for a new session.
        timeout: seconds that it may run; None: no limit.
        idle_timeout: seconds without progress until it is ended; None: no limit.
        ladder: how it is ended.
        preset: whose events it prints; None: a bare executable, whose exit code 0 is success.
        resume: its command line for a session that is gone on with, which `resumed` names; empty if it cannot.
        env: variables that it is given.
        passed: variables that it inherits, if it has a preset; a bare executable inherits all.
        exit_grace: seconds that it may take to exit after its terminal event; None: no limit.
        fallback: the agent that takes its turn over when its limit or its login ends.

    """

    name: str
    argv: list[str]
    timeout: float | None
    idle_timeout: float | None
    ladder: Sequence[Rung]
    preset: "Preset | None" = None
    resume: list[str] = []
    env: dict[str, str] = {}
    passed: list[str] = []
    exit_grace: float | None = None
    fallback: str | None = None

    def resumed(self, session: str | None) -> list[str]:
        """Return the command line that goes on with a session; without one, or if it cannot, of a new session."""
        if session is None or not self.resume:
            return self.argv
        return [session if word == _SESSION else word for word in self.resume]


def _name(config: Config, actor: Actor, prompt: str) -> str:
    by_prompt = {normalise(name, config.prompts_dir): agent for name, agent in config.agent.prompts.items()}
    name = by_prompt.get(prompt) or config.agent.roles.get(actor) or config.agent.default
    if name is None:
        from orchestration import presets  # noqa: PLC0415 - only for the words of an error

        choices = [
            CHECKLIST,
            *config.agents,
            *presets.names(),
            AUTO,
            "any executable that reads a prompt on standard input",
        ]
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
    return named(_name(config, actor, prompt), config, actor, root, environment)


def named(name: str, config: Config, actor: Actor, root: Path, environment: Mapping[str, str]) -> Agent:
    """Return the agent of a name.

    Args:
        name: under `agents:`, of a preset, `auto`, `checklist`, or an executable.
        config: its `agents` say what it is.
        actor: whose turn it is.
        root: what a relative executable is relative to.
        environment: its PATH finds the executable.

    Raises:
        UsageError: its executable cannot be started, or `auto` finds none.

    """
    limit = config.actors.of(actor).timeout or config.limits.turn_timeout
    path = environment.get("PATH")
    if name == AUTO and name not in config.agents:
        name = _installed(config, root, path)
    if name == CHECKLIST and name not in config.agents:
        door = Path(__file__).with_name("orchestrator.py")
        argv = [sys.executable, str(door), CHECKLIST]
        return Agent(name=name, argv=argv, timeout=limit, idle_timeout=None, ladder=LADDER)
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    made = config.agents.get(name) or AgentDefinition()
    made = replace(made, budget_usd=made.budget_usd or config.limits.turn_cost)
    if preset := made.preset or (name if name in presets.names() else None):
        made = replace(made, budget_usd=made.budget_usd or config.limits.turn_cost)
        return _understood(name, made, presets.load()[preset], limit, _Place(root, path))
    command = made.command or [name]
    return Agent(
        name=name if name in config.agents else Path(name).name,
        argv=_wrapped(made, command, _Place(root, path)),
        timeout=made.timeout or limit,
        idle_timeout=made.idle_timeout,
        ladder=_ladder(made.stop or _STOP),
        env=made.env,
    )


class _Place(NamedTuple):
    """Where executables are found: the project's folder, and PATH."""

    root: Path
    path: str | None


def _understood(name: str, made: AgentDefinition, preset: "Preset", limit: float, place: _Place) -> Agent:
    """Return an agent whose output is understood."""
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    if made.command and made.command != preset.command:
        resume = presets.Resume(args=[] if preset.resume.command else preset.resume.args)
        preset = replace(preset, command=made.command, resume=resume)

    def argv(session: str | None) -> list[str]:
        said = presets.argv(
            preset, model=made.model, session=session, max_turns=made.max_turns, budget_usd=made.budget_usd
        )
        return _wrapped(made, said, place)

    if (name_of_zone := made.env.get("TZ")) is not None:
        _require_zone(name, name_of_zone)
    goes_on = preset.resume.args or preset.resume.command
    return Agent(
        name=name,
        argv=argv(None),
        timeout=made.timeout or limit,
        idle_timeout=made.idle_timeout or preset.idle_timeout,
        ladder=_ladder(made.stop or preset.stop),
        preset=preset,
        resume=argv(_SESSION) if goes_on else [],
        env=preset.env | (preset.root_env if os.geteuid() == 0 else {}) | made.env,
        passed=[*preset.env_pass, *preset.env_optional, *made.env_optional],
        exit_grace=made.exit_grace or preset.exit_grace,
        fallback=made.fallback,
    )


def _require_zone(name: str, of: str) -> None:
    """Refuse a time zone in which the end of a limit that the agent tells could not be read.

    Raises:
        UsageError: there is none of this name here (code `config-bad-value`).

    """
    from orchestration.reset_times import zone  # noqa: PLC0415 - only for an agent whose clock is set

    try:
        zone(of)
    except (ValueError, LookupError, OSError):
        raise UsageError(
            f"`agents.{name}.env.TZ` is {of!r}, which is no time zone here",
            code="config-bad-value",
            remedy="give a name such as Europe/Berlin, or leave it out: the agent's clock is then UTC",
        ) from None


def _wrapped(made: AgentDefinition, command: Sequence[str], place: _Place) -> list[str]:
    """Return the whole command line; what runs inside a sandbox is found there."""
    first, *rest = [*made.wrap, *command]
    return [executable(first, *place), *rest]


def _installed(config: Config, root: Path, path: str | None) -> str:
    """Return the first preset that is installed.

    Raises:
        UsageError: none is (code `agent-not-found`).

    """
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    for name, preset in presets.load().items():
        made = config.agents.get(name) or AgentDefinition()
        with suppress(UsageError):
            _wrapped(made, made.command or preset.command, _Place(root, path))
            return name
    choices = [CHECKLIST, *config.agents, "any executable that reads a prompt on standard input"]
    raise UsageError(
        f"`{AUTO}` finds none of {', '.join(presets.names())}",
        code="agent-not-found",
        remedy=f"install one, or set `agent.default` to one of: {', '.join(choices)}",
    )


def bypasses(argv: Sequence[str]) -> list[str]:
    """Say which flags of a command line switch the agent's own permission checks off, one sentence each."""
    programs = {"", *(Path(word).name for word in argv)}
    return [
        f"{Path(argv[0]).name} {flag} {meaning}"
        for (program, flag), meaning in _BYPASS.items()
        if program in programs and flag in argv
    ]


def wrap_of(config: Config, argv: Sequence[str]) -> list[str]:
    """Return the sandbox's part of a command line; empty where none stands before the agent's own."""
    for made in config.agents.values():
        first, *rest = made.wrap or [""]
        if first and Path(argv[0]).name == Path(first).name and list(argv[1 : len(made.wrap)]) == rest:
            return list(made.wrap)
    return []


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

    So is one that would take a turn over.

    Raises:
        UsageError: as `choose`.

    """
    found: dict[str, list[str]] = {}
    for actor, prompt in jobs(config):
        if only in {None, actor}:
            agent = choose(config, actor, prompt, root, environment)
            found[f"{actor} {prompt}"] = agent.argv
            if agent.fallback:
                named(agent.fallback, config, actor, root, environment)
    return found
