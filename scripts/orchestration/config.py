"""One merge of flags, environment and orchestration.yaml into a typed Config whose every value knows its source."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from orchestration.errors import UsageError
from orchestration.router import Mode, Routes, normalise
from orchestration.settings import IGNORED, AgentDefinition, Config, Opt
from orchestration.state import Actor

FILE = "orchestration.yaml"
PREFIX = "ORCHESTRATION_"

Key = tuple[str, ...]
_ROLES = {"supervisor": Actor.GALPH, "loop": Actor.RALPH, "main": Actor.RALPH}
_MODES = {"default": Mode.DEFAULT, "first": Mode.FIRST, "only": Mode.ONLY}


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
    siblings = {
        known[len(key) - 1]
        for known in [*LEAVES, *_branches()]
        if known[: len(key) - 1] == key[:-1] and len(known) >= len(key)
    }
    if len(key) == 3 and key[0] == "agents":  # noqa: PLR2004
        siblings = {known[0] for known in _AGENT_LEAVES}
    near = difflib.get_close_matches(key[-1], siblings, n=1, cutoff=0.5)
    hint = f"did you mean `{'.'.join((*key[:-1], near[0]))}`?" if near else f"known here: {', '.join(sorted(siblings))}"
    return UsageError(f"{source}: unknown key `{'.'.join(key)}`", code="config-unknown-key", remedy=hint)


def _bare(kind: Any) -> Any:  # noqa: ANN401 - a type annotation, whatever it is
    """Return the type that decides how text is read: no Annotated, no `| None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return _bare(next(part for part in get_args(kind) if part is not type(None)))
    return get_origin(kind) or kind


def _expected(kind: Any) -> str:  # noqa: ANN401
    bare = _bare(kind)
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a map",
    }
    return names.get(bare) or f"one of {', '.join(str(member) for member in bare)}"


def _from_text(text: str, kind: Any) -> Any:  # noqa: ANN401
    """Read one option's value from a flag or the environment: lists are a,b and maps are a=b,c=d."""
    bare = _bare(kind)
    if bare is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if bare is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return {name.strip(): value.strip() for name, _, value in pairs}
    if bare in {bool, int, float}:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
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
        return msgspec.convert(value, leaf.type)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{given.source}: `{name}` is {value!r}: {error}",
            code="config-bad-value",
            remedy=f"`{name}` takes {_expected(leaf.type)}",
        ) from None


# --- the layers ------------------------------------------------------------------------------------------------------


def from_file(path: Path) -> tuple[dict[Key, Value], list[str]]:
    """Read orchestration.yaml: every value with its file and line, and the warnings.

    Raises:
        UsageError: not YAML, an unknown key (with the nearest known one), a key given twice.

    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(
            f"{path.name}:{line}: not YAML: {error.problem}", code="config-not-yaml", remedy=f"correct {path}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: not YAML: {error}", code="config-not-yaml", remedy=f"correct {path}") from None
    values: dict[Key, Value] = {}
    warnings: list[str] = []
    if node is not None:
        _walk(node, (), path.name, values, warnings)
    return values, warnings


def _walk(node: yaml.Node, above: Key, name: str, values: dict[Key, Value], warnings: list[str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        if node.tag == "tag:yaml.org,2002:null":
            return  # a section whose every line is a comment
        raise UsageError(
            f"{name}:{node.start_mark.line + 1}: `{'.'.join(above) or name}` must be a map of keys",
            code="config-bad-value",
            remedy="indent its keys below it",
        )
    constructor = yaml.constructor.SafeConstructor()
    seen = set[str]()
    for key_node, value_node in node.value:
        word = str(constructor.construct_object(key_node))
        key, source = (*above, word), f"{name}:{key_node.start_mark.line + 1}"
        if word in seen:
            raise UsageError(f"{source}: `{'.'.join(key)}` stands twice", code="config-twice", remedy="remove one")
        seen.add(word)
        if not above and word in IGNORED:
            warnings.append(f"{source}: `{word}` has no effect: {IGNORED[word]}")
        elif _is_branch(key):
            _walk(value_node, key, name, values, warnings)
        elif _leaf(key) is None:
            raise _unknown(key, source)
        else:
            values[key] = Value(constructor.construct_object(value_node, deep=True), source)


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
    spoken = {**from_environment(environment), **flags}
    merged = {**in_file, **{key: _anchored(key, value, cwd) for key, value in spoken.items()}}
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
    _check(config, sources)
    return Resolved(config, sources, warnings)


def _anchored(key: Key, given: Value, cwd: Path) -> Value:
    """Make a relative agent path from flag or environment absolute; one from the file stays relative to the file."""

    def anchor(name: object) -> object:
        return str((cwd / name).resolve()) if isinstance(name, str) and name.startswith(("./", "../")) else name

    if key[0] != "agent":
        return given
    value = given.value
    return given._replace(value={k: anchor(v) for k, v in value.items()} if isinstance(value, dict) else anchor(value))


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
    if router.enabled and router.mode is Mode.ONLY and router.prompt is None:
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
    for name in ("state_file", "logs_dir", "prompts_dir", "tmp_dir"):
        path = Path(getattr(config, name))
        if path.is_absolute() or ".." in path.parts or path == Path():
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
