"""The doctor's look at agents: what is run and what it may do; of those that are understood, also whether they fit.

A version, flags that are gone, a login that is not to be seen: all of that is advice. Only a run can tell for certain.
"""

import itertools
import os
import pwd
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.agents import Agent, bypasses, choose, jobs
from orchestration.environment import for_preset
from orchestration.errors import UsageError
from orchestration.findings import Finding, Level, Scene
from orchestration.presets import Login, Preset
from orchestration.process import Request, Why
from orchestration.settings import AgentDefinition

PATIENCE = 10.0
"""Seconds that an agent may take to tell its version, or its options."""
_FLAG = re.compile(r"--[a-z][\w-]*")


def agents(scene: Scene) -> Iterator[Finding]:
    """Find every agent that can come to run, and say what it may do."""
    refusals: dict[str, list[str]] = {}
    found: dict[tuple[str, ...], Agent] = {}
    runs: dict[tuple[str, ...], list[str]] = {}
    for actor, prompt in jobs(scene.config):
        try:
            agent = choose(scene.config, actor, prompt, scene.root, scene.environment)
            found.setdefault(tuple(agent.argv), agent)
            runs.setdefault(tuple(agent.argv), []).append(f"{actor} {prompt}")
        except UsageError as error:
            causes = refusals.setdefault(error.remedy, [])
            causes.extend({error.message}.difference(causes))
    for remedy, causes in refusals.items():
        yield Finding("agents", Level.PROBLEM, "\n".join(causes), remedy)
    for argv, names in runs.items():
        agent = found[argv]
        wrap = (scene.config.agents.get(agent.name) or AgentDefinition()).wrap
        yield Finding("agents", Level.OK, f"{', '.join(names)}: {shlex.join(argv)}")
        yield from _reach(argv, wrap)
        if agent.preset:
            yield from _fits(scene, agent, agent.preset, argv[: len(wrap)])
            if not wrap and agent.preset.login:
                yield from _logged_in(scene, agent, agent.preset.login)


def _reach(argv: Sequence[str], wrap: Sequence[str]) -> Iterator[Finding]:
    """Say what an agent that asks nobody can reach."""
    user = _user()
    reach = "root, so everything on this machine" if os.geteuid() == 0 else f"{user}, so everything that {user} may"
    for what in bypasses(argv):
        if wrap:
            yield Finding("agents", Level.OK, f"{what}, in the sandbox that `{shlex.join(wrap)}` makes")
            continue
        yield Finding(
            "agents",
            Level.ADVICE,
            f"{what}: it runs unsandboxed as {reach}",
            "to limit it, begin its command with a sandbox's, or run in a container or as a user of its own",
        )


def _user() -> str:
    """Return the name of the user who would run it; a container's may have none."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return f"user {os.geteuid()}"


def _fits(scene: Scene, agent: Agent, preset: Preset, box: Sequence[str]) -> Iterator[Finding]:
    """Ask an agent, inside its box, for its version and its options."""
    program = [*box, agent.argv[len(box)]]
    version = _said(scene, agent, [*program, "--version"])
    if version is None:
        remedy = f"try it as it stands: `{shlex.join([*program, '--version'])}`"
        yield Finding("agents", Level.ADVICE, f"{agent.name} does not tell its version", remedy)
        return
    line = version.strip().partition("\n")[0]
    known_from = "" if preset.verified in line else f"; what its output means was seen in {preset.verified}"
    yield Finding("agents", Level.OK, f"{agent.name}: {line}{known_from}")
    words = preset.command[1:]  # not what settings add to it: --max-turns works, and its help is silent about it
    ask = [*program, *itertools.takewhile(lambda word: not word.startswith("-"), words), "--help"]
    known = set(_FLAG.findall(_said(scene, agent, ask) or ""))
    missing = [word for word in words if _FLAG.fullmatch(word) and word not in known]
    if missing:
        yield Finding(
            "agents",
            Level.ADVICE,
            f"{agent.name} --help does not know {', '.join(missing)}",
            f"see `{shlex.join(ask)}`; install {preset.verified}, or correct agents.{agent.name}.command",
        )


def _said(scene: Scene, agent: Agent, argv: Sequence[str]) -> str | None:
    """Return what a command prints, None if it fails or takes too long."""
    env = for_preset(scene.environment, agent.passed, agent.env)
    try:
        done = scene.here.loop.run(Request(argv=argv, cwd=scene.root, env=env, timeout=PATIENCE))
    except OSError:
        return None
    text = done.stdout.decode(errors="replace")
    return text if done.why is Why.EXITED and done.code == 0 and text.strip() else None


def _logged_in(scene: Scene, agent: Agent, login: Login) -> Iterator[Finding]:
    """See whether there is a key or a file of a login; whether it is valid only its provider knows."""
    given = for_preset(scene.environment, agent.passed, agent.env)
    key = next((name for name in login.variables if given.get(name)), None)
    folder = Path(given[login.home]) if given.get(login.home) else Path(given.get("HOME", "/")) / login.folder
    if key:
        yield Finding("agents", Level.OK, f"{agent.name} is given {key}")
    elif (folder / login.file).is_file():
        yield Finding("agents", Level.OK, f"{agent.name} is logged in: {folder / login.file}")
    else:
        yield Finding(
            "agents",
            Level.ADVICE,
            f"no login of {agent.name} is to be seen: none of {', '.join(login.variables)}, no {folder / login.file}",
            f"log in with `{Path(agent.argv[0]).name}` itself, as the user who runs this, or give it a key",
        )
