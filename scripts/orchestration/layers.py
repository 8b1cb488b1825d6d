"""The layers above the defaults: orchestration.yaml, environment and command line, each value with its source."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestration.errors import UsageError
from orchestration.keys import FLAGS, LEAVES, PREFIX, find, is_branch, nearest, unknown, variable
from orchestration.settings import IGNORED
from orchestration.values import Value, from_text
from orchestration.yaml_file import Key, compose, constructed, pairs

FILE = "orchestration.yaml"


def from_file(path: Path) -> tuple[dict[Key, Value], list[str]]:
    """Read orchestration.yaml: every value with its file and line, and the warnings.

    Raises:
        UsageError: not a readable file, not YAML, an unknown key (with the nearest known one), a key given twice.

    """
    node = compose(path)
    values: dict[Key, Value] = {}
    warnings: list[str] = []
    if node is not None:
        _walk(node, (), path.name, values, warnings)
    return values, warnings


def _walk(node: yaml.Node, above: Key, name: str, values: dict[Key, Value], warnings: list[str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        if node.tag == "tag:yaml.org,2002:null" and not _needs_a_command(above):
            return  # a section whose every line is a comment
        raise UsageError(
            f"{name}:{node.start_mark.line + 1}: `{'.'.join(above) or name}` must be a map of keys",
            code="config-bad-value",
            remedy="indent its keys below it",
        )
    if _needs_a_command(above) and not node.value:
        raise without_command(above[-1], f"{name}:{node.start_mark.line + 1}")
    for key, source, value_node in pairs(node, above, name):
        if not above and key[0] in IGNORED:
            warnings.append(f"{source}: `{key[0]}` has no effect: {IGNORED[key[0]]}")
        elif is_branch(key):
            _walk(value_node, key, name, values, warnings)
        elif leaf := find(key):
            values[key] = Value(leaf, constructed(value_node, key, name), source)
        else:
            raise unknown(key, source)


def _needs_a_command(key: Key) -> bool:
    """Tell whether a key path is an agent that nothing but its definition gives a command."""
    if key[:-1] != ("agents",):
        return False
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    return key[-1] not in presets.names()


def without_command(agent: str, source: str) -> UsageError:
    """Return the refusal of an agent that no layer gives a command."""
    from orchestration import presets  # noqa: PLC0415 - most looks at a configuration name no preset

    return UsageError(
        f"{source}: the agent `{agent}` has no command",
        code="config-bad-value",
        remedy=f"add `command: [program, argument]` below agents.{agent}, or `preset:` with one of "
        f"{', '.join(presets.names())}",
    )


def from_environment(environment: Mapping[str, str]) -> dict[Key, Value]:
    """Read the ORCHESTRATION_* variables.

    Raises:
        UsageError: a variable that no setting has.

    """
    by_name = {variable(key): leaf for key, leaf in LEAVES.items()}
    values: dict[Key, Value] = {}
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        if name not in by_name:
            near = nearest(name, by_name, cutoff=0.6)
            raise UsageError(
                f"environment: unknown variable {name}",
                code="config-unknown-variable",
                remedy=f"did you mean {near}?" if near else "unset it",
            )
        leaf = by_name[name]
        values[leaf.key] = Value(leaf, from_text(environment[name], leaf.type), name)
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
        leaf = find(key)
        if leaf is None:
            raise unknown(key, f"-c {pair}")
        values[key] = Value(leaf, from_text(text, leaf.type), f"-c {name}")
    return values


def from_flags(given: Mapping[str, str | bool]) -> dict[Key, Value]:
    """Read the generated flags: flag declaration → what stood on the command line."""
    values: dict[Key, Value] = {}
    for flag, said in given.items():
        leaf = FLAGS[flag]
        use, _, leave = flag.partition("/")
        value = from_text(said, leaf.type) if isinstance(said, str) else said
        values[leaf.key] = Value(leaf, value, leave if leave and value is False else use)
    return values
