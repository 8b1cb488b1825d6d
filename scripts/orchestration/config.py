"""One merge of flags, environment and orchestration.yaml into a typed Config whose every value knows its source."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec.structs import replace

from orchestration.errors import UsageError
from orchestration.router import Mode, RouteError, Routes, normalise
from orchestration.settings import IGNORED, AgentDefinition, AgentSettings, Config, Opt
from orchestration.state import Actor
from orchestration.yaml_file import UNREADABLE, Key, compose, constructed, pairs

FILE = "orchestration.yaml"
PREFIX = "ORCHESTRATION_"

_ROLES = {"supervisor": Actor.GALPH, "loop": Actor.RALPH, "main": Actor.RALPH}
_MODES = {"default": Mode.DEFAULT, "first": Mode.FIRST, "only": Mode.ONLY}
_PROMPTS = {
    "supervisor_prompt",
    "main_prompt",
    "reviewer_prompt",
    "router.prompt",
    "router.allowlist",
    "agent.prompts",
}
"""Settings whose text, items or keys are prompt names."""


class Leaf(NamedTuple):
    """One option: where it stands, what it may hold, its flag."""

    key: Key
    type: Any
    opt: Opt | None


class Value(NamedTuple):
    """A value as it was given, and where."""

    value: Any
    source: str


class Resolved(NamedTuple):
    """The configuration, the source of every value that was set, and what a person should be told."""

    config: Config
    sources: dict[str, str]
    warnings: list[str]


def _leaves(struct: type[msgspec.Struct], above: Key = ()) -> Iterator[Leaf]:
    hints = get_type_hints(struct, include_extras=True)
    for item in msgspec.structs.fields(struct):
        kind, opt = hints[item.name], None
        if get_origin(kind) is Annotated:
            opt = next((extra for extra in get_args(kind)[1:] if isinstance(extra, Opt)), None)
        key = (*above, item.encode_name)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _leaves(kind, key)
        elif key != ("agents",):
            yield Leaf(key, kind, opt)


LEAVES: dict[Key, Leaf] = {leaf.key: leaf for leaf in _leaves(Config)}
_AGENT_LEAVES = {leaf.key: leaf for leaf in _leaves(AgentDefinition)}


def _leaf(key: Key) -> Leaf | None:
    if len(key) == 3 and key[0] == "agents":  # noqa: PLR2004 - agents.NAME.field
        leaf = _AGENT_LEAVES.get(key[2:])
        return Leaf(key, leaf.type, None) if leaf else None
    return LEAVES.get(key)


def _branches() -> set[Key]:
    return {("agents",)} | {key[:depth] for key in LEAVES for depth in range(1, len(key))}


def _is_branch(key: Key) -> bool:
    return key in _branches() or (len(key) == 2 and key[0] == "agents")  # noqa: PLR2004 - agents.NAME


def _unknown(key: Key, source: str) -> UsageError:
    name, siblings = ".".join(key), _below(key[:-1])
    if _is_branch(key):
        remedy = f"set one of its keys: {', '.join(f'{name}.{word}' for word in sorted(_below(key)))}"
        return UsageError(f"{source}: `{name}` is a map, not a value", code="config-bad-value", remedy=remedy)
    if siblings:
        near = [".".join((*key[:-1], word)) for word in difflib.get_close_matches(key[-1], siblings, n=1, cutoff=0.5)]
    else:
        near = difflib.get_close_matches(name, [".".join(known) for known in LEAVES], n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(siblings or _below(())))}"
    return UsageError(f"{source}: unknown key `{name}`", code="config-unknown-key", remedy=hint)


def _below(above: Key) -> set[str]:
    """Return the words that may stand directly below a key."""
    if len(above) == 2 and above[0] == "agents":  # noqa: PLR2004 - agents.NAME
        return {key[0] for key in _AGENT_LEAVES}
    depth = len(above)
    return (
        {"NAME"}
        if above == ("agents",)
        else {known[depth] for known in [*LEAVES, *_branches()] if known[:depth] == above and len(known) > depth}
    )


def _bare(kind: Any) -> Any:  # noqa: ANN401 - a type annotation, whatever it is
    """Return the type that decides how text is read: no Annotated, no `| None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return _bare(next(part for part in get_args(kind) if part is not type(None)))
    return get_origin(kind) or kind


def _expected(kind: Any) -> str:  # noqa: ANN401
    bare = _bare(kind)
    example = next((extra.examples[0] for extra in get_args(kind)[1:] if getattr(extra, "examples", None)), "")
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list (as text: a,b)",
        dict: "a map (as text: a=b,c=d)",
    }
    expected = names.get(bare) or f"one of {', '.join(str(member) for member in bare)}"
    return f"{expected}, such as {example}" if example else expected


def _from_text(text: str, kind: Any) -> Any:  # noqa: ANN401
    """Read one option's value from a flag or the environment: lists are a,b and maps are a=b,c=d.

    Empty text unsets an option that may be unset; what cannot be read stays text, for `_checked` to refuse.
    """
    bare = _bare(kind)
    if not text.strip() and type(None) in get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind):
        return None
    if bare is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if bare is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        whole = all(name.strip() and value.strip() for name, _, value in pairs)
        return {name.strip(): value.strip() for name, _, value in pairs} if whole else text
    if bare in {bool, int, float}:
        try:
            return yaml.safe_load(text)
        except UNREADABLE:
            return text
    return text


def _checked(leaf: Leaf, given: Value) -> Any:  # noqa: ANN401
    value = given.value
    name = ".".join(leaf.key)
    if name == "router.mode" and isinstance(value, str):
        value = _MODES.get(value, value.replace("-", "_"))
    if name == "agent.roles" and isinstance(value, dict):
        value = {_ROLES.get(role, role): agent for role, agent in value.items()}
    try:
        checked = msgspec.convert(value, leaf.type)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{given.source}: `{name}` is {value!r}: {error}",
            code="config-bad-value",
            remedy=f"`{name}` takes {_expected(leaf.type)}",
        ) from None
    if name in _PROMPTS:
        _check_prompts(name, checked, given.source)
    return checked


def _check_prompts(name: str, value: str | list[str] | dict[str, str] | None, source: str) -> None:
    for prompt in [value] if isinstance(value, str) else value or ():
        try:
            normalise(prompt)
        except RouteError as error:
            raise UsageError(f"{source}: `{name}`: {error.message}", code=error.code, remedy=error.remedy) from None


# --- the layers ------------------------------------------------------------------------------------------------------


def from_file(path: Path) -> tuple[dict[Key, Value], list[str]]:
    """Read orchestration.yaml: every value with its file and line, and the warnings.

    Raises:
        UsageError: not YAML, an unknown key (with the nearest known one), a key given twice.

    """
    node = compose(path)
    values: dict[Key, Value] = {}
    warnings: list[str] = []
    if node is not None:
        _walk(node, (), path.name, values, warnings)
    return values, warnings


def _walk(node: yaml.Node, above: Key, name: str, values: dict[Key, Value], warnings: list[str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        if node.tag == "tag:yaml.org,2002:null" and above[:-1] != ("agents",):
            return  # a section whose every line is a comment
        raise UsageError(
            f"{name}:{node.start_mark.line + 1}: `{'.'.join(above) or name}` must be a map of keys",
            code="config-bad-value",
            remedy="indent its keys below it",
        )
    for key, source, value_node in pairs(node, above, name):
        if not above and key[0] in IGNORED:
            warnings.append(f"{source}: `{key[0]}` has no effect: {IGNORED[key[0]]}")
        elif _is_branch(key):
            _walk(value_node, key, name, values, warnings)
        elif _leaf(key) is None:
            raise _unknown(key, source)
        else:
            values[key] = Value(constructed(value_node, key, name), source)


def environment_name(key: Key) -> str:
    """Return the environment variable of an option: ORCHESTRATION_ROUTER_MODE."""
    return PREFIX + "_".join(key).upper()


def from_environment(environment: Mapping[str, str]) -> dict[Key, Value]:
    """Read the ORCHESTRATION_* variables.

    Raises:
        UsageError: a variable that no option has.

    """
    by_name = {environment_name(key): leaf for key, leaf in LEAVES.items()}
    values: dict[Key, Value] = {}
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            raise UsageError(
                f"environment: unknown variable {name}",
                code="config-unknown-variable",
                remedy=f"did you mean {near[0]}?" if near else "unset it",
            )
        leaf = by_name[name]
        values[leaf.key] = Value(_from_text(environment[name], leaf.type), name)
    return values


def from_pairs(pairs: list[str]) -> dict[Key, Value]:
    """Read `-c key.path=value` options.

    Raises:
        UsageError: no `=`, or an unknown key.

    """
    values: dict[Key, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        key = tuple(name.strip().split("."))
        if not equals:
            raise UsageError(f"-c {pair}: no value", code="config-bad-value", remedy="write -c key.path=value")
        leaf = _leaf(key)
        if leaf is None:
            raise _unknown(key, f"-c {pair}")
        values[key] = Value(_from_text(text, leaf.type), f"-c {name}")
    return values


def from_flags(given: Mapping[str, str | bool]) -> dict[Key, Value]:
    """Read the generated flags: flag declaration → what stood on the command line."""
    by_flag = {leaf.opt.flag: leaf for leaf in LEAVES.values() if leaf.opt}
    return {
        by_flag[flag].key: Value(
            _from_text(value, by_flag[flag].type) if isinstance(value, str) else value, flag.split("/")[0]
        )
        for flag, value in given.items()
    }


# --- the merge -------------------------------------------------------------------------------------------------------


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
        leaf = _leaf(key)
        if leaf is None:  # pragma: no cover - every layer has refused unknown keys
            raise AssertionError(key)
        place = tree
        for word in key[:-1]:
            place = place.setdefault(word, {})
        place[key[-1]] = _checked(leaf, given)
    sources = {".".join(key): given.source for key, given in merged.items()}
    _complete(tree, sources)
    config = msgspec.convert(tree, Config)
    config = replace(config, agent=_stacked(config, layers))
    _check(config, sources)
    return Resolved(config, sources, warnings)


def _anchored(key: Key, given: Value, cwd: Path) -> Value:
    """Make a relative agent path from flag or environment absolute; one from the file stays relative to the file."""

    def anchor(name: object) -> object:
        return str(cwd / name) if isinstance(name, str) and "/" in name else name

    if key[0] != "agent":
        return given
    value = given.value
    return given._replace(value={k: anchor(v) for k, v in value.items()} if isinstance(value, dict) else anchor(value))


def _stacked(config: Config, layers: Sequence[Mapping[Key, Value]]) -> AgentSettings:
    """Stack the agent maps: a layer's prompts, then its roles, then the layer below (loop.md, "Precedence").

    So a role that is given on the command line goes before a prompt's agent in the file.
    """
    own = routes(config).own(Actor.RALPH)
    prompts: dict[str, str] = {}
    roles: dict[str, str] = {}
    for layer in layers:
        given = {key[1]: _checked(LEAVES[key], value) for key, value in layer.items() if key[0] == "agent"}
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
        if not agent.get("command"):
            source = next(where for path, where in sources.items() if path.startswith(f"agents.{name}."))
            raise UsageError(
                f"{source}: the agent `{name}` has no command",
                code="config-bad-value",
                remedy=f"add `command: [program, argument]` below agents.{name}",
            )


def _check(config: Config, sources: Mapping[str, str]) -> None:
    router = config.router
    if router.enabled and router.mode is Mode.ONLY and not router.prompt:
        raise UsageError(
            f"{sources.get('router.mode', FILE)}: `router.mode` is router_only, but no `router.prompt` is set",
            code="config-bad-value",
            remedy="set `router.prompt`, or another `router.mode`",
        )
    for role in config.agent.roles:
        if role not in set(Actor):
            raise UsageError(
                f"{sources.get('agent.roles', FILE)}: `agent.roles` names {role!r}",
                code="config-bad-value",
                remedy="the roles are galph and ralph (supervisor and loop)",
            )
    for name in ("state_file", "logs_dir", "prompts_dir", "tmp_dir", "input_file"):
        path = Path(getattr(config, name))
        if path.is_absolute() or ".." in path.parts or path == Path() or "\0" in str(path):
            raise UsageError(
                f"{sources.get(name, FILE)}: `{name}` is {str(path)!r}, which does not lie below the project's folder",
                code="config-bad-value",
                remedy="give a relative path",
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
