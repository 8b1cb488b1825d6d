"""One merge of flags, environment and orchestration.yaml into a typed Config whose every value knows its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from orchestration.errors import UsageError
from orchestration.keys import nearest
from orchestration.layers import FILE, from_environment, from_file, without_command
from orchestration.router import Mode, Routes, normalise
from orchestration.settings import AgentSettings, Config
from orchestration.state import Actor
from orchestration.values import Value, checked
from orchestration.yaml_file import Key


class Resolved(NamedTuple):
    """The configuration, the source of every value that was set, and what a person should be told."""

    config: Config
    sources: dict[str, str]
    warnings: list[str]


def resolve(file: Path | None, environment: Mapping[str, str], flags: Mapping[Key, Value], cwd: Path) -> Resolved:
    """Merge the layers: flag > environment > orchestration.yaml > default.

    Args:
        file: orchestration.yaml, None where there is none.
        environment: the process environment.
        flags: what `from_flags` and `from_pairs` made of the command line.
        cwd: what a relative agent path from flag or environment is relative to.

    Raises:
        UsageError: naming file and line, flag or variable, what was expected and the nearest key.

    """
    in_file, warnings = from_file(file) if file else ({}, [])
    spoken = [
        {key: _anchored(key, value, cwd) for key, value in layer.items()}
        for layer in (from_environment(environment), flags)
    ]
    layers = [in_file, *spoken]
    merged = {key: given for layer in layers for key, given in layer.items()}
    tree: dict[str, Any] = {}
    for key, given in merged.items():
        place = tree
        for word in key[:-1]:
            place = place.setdefault(word, {})
        place[key[-1]] = checked(given)
    sources = {".".join(key): _source(key, layers) for key in merged}
    _complete(tree, sources)
    config = msgspec.convert(tree, Config)
    config = replace(config, agent=_stacked(config, layers))
    _check(config, sources)
    return Resolved(config, sources, [*warnings, *_never_run(config, sources)])


def _never_run(config: Config, sources: Mapping[str, str]) -> list[str]:
    """Name the prompts of `agent.prompts` that no turn can run: typing errors, most likely."""
    names = routes(config)
    known = [*dict.fromkeys([names.supervisor, names.main, names.reviewer, *names.allowed, names.router or ""])]
    found = [(name, nearest(name, known)) for name in config.agent.prompts if name not in known]
    where = sources.get("agent.prompts", FILE)
    return [
        f"{where}: `agent.prompts` names {name}, which no turn runs" + (f"; did you mean {near}?" if near else "")
        for name, near in found
    ]


def _source(key: Key, layers: Sequence[Mapping[Key, Value]]) -> str:
    """Return where a value is from; the agent maps are made of all that give one, weakest first."""
    given = [layer[key].source for layer in layers if key in layer]
    return ", ".join(given) if key in {("agent", "roles"), ("agent", "prompts")} else given[-1]


def _anchored(key: Key, given: Value, cwd: Path) -> Value:
    """Make a relative agent path from flag or environment absolute; one from the file stays relative to the file."""

    def anchor(name: object) -> object:
        return str(cwd / name) if isinstance(name, str) and "/" in name else name

    if key[0] != "agent":
        return given
    value = given.value
    return given._replace(value={k: anchor(v) for k, v in value.items()} if isinstance(value, dict) else anchor(value))


def _stacked(config: Config, layers: Sequence[Mapping[Key, Value]]) -> AgentSettings:
    """Stack the agent maps: a layer's prompts, then its roles, then the layer below.

    So a role that is given on the command line goes before a prompt's agent in the file, and so does `--agent`.
    """
    own = routes(config).own(Actor.RALPH)
    prompts: dict[str, str] = {}
    roles: dict[Actor, str] = {}
    for layer in layers:
        given = {key[1]: checked(value) for key, value in layer.items() if key[0] == "agent"}
        if given.get("default"):
            prompts, roles = {}, {}  # an agent for all, said later, is for all
        here = given.get("roles", {})
        mine = {normalise(name, config.prompts_dir): agent for name, agent in given.get("prompts", {}).items()}
        left = {
            name: agent for name, agent in prompts.items() if (Actor.RALPH if name == own else Actor.GALPH) not in here
        }
        prompts, roles = left | mine, roles | here
    return replace(config.agent, prompts=prompts, roles=roles)


def _complete(tree: dict[str, Any], sources: Mapping[str, str]) -> None:
    """Keep galph's own default where orchestration.yaml sets another of its keys; name agents without a command."""
    if "galph" in tree.get("actors", {}):
        tree["actors"]["galph"].setdefault("leftovers", "fail")
    for name, agent in tree.get("agents", {}).items():
        if agent.get("preset") is not None or not agent.get("command"):
            source = next(where for path, where in sources.items() if path.startswith(f"agents.{name}."))
            _refuse_without(name, agent, source)


def _refuse_without(name: str, agent: Mapping[str, Any], source: str) -> None:
    """Refuse an agent of an unknown preset, and one that has neither command nor preset."""
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    known, preset = presets.names(), agent.get("preset")
    if preset is not None and preset not in known:
        near = nearest(preset, known)
        raise UsageError(
            f"{source}: `agents.{name}.preset` is {preset!r}, which is no preset",
            code="config-bad-value",
            remedy=f"presets are {', '.join(known)}" + (f"; did you mean {near}?" if near else ""),
        )
    if not (agent.get("command") or preset or name in known):
        raise without_command(name, source)


def _check(config: Config, sources: Mapping[str, str]) -> None:
    router = config.router
    if router.enabled and router.mode is Mode.ONLY and not router.prompt:
        raise UsageError(
            f"{sources.get('router.mode', FILE)}: `router.mode` is router_only, but no `router.prompt` is set",
            code="config-bad-value",
            remedy="set `router.prompt`, or another `router.mode`",
        )


def routes(config: Config) -> Routes:
    """Return the router's part of the configuration with every name normalised."""

    def norm(name: str) -> str:
        return normalise(name, config.prompts_dir)

    return Routes(
        supervisor=norm(config.supervisor_prompt),
        main=norm(config.main_prompt),
        reviewer=norm(config.reviewer_prompt),
        router=norm(config.router.prompt) if config.router.prompt else None,
        prompts_dir=config.prompts_dir,
        enabled=config.router.enabled,
        mode=config.router.mode,
        review_every_n=config.router.review_every_n,
        allowlist=[norm(name) for name in config.router.allowlist],
    )
