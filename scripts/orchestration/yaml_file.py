"""YAML whose every key and value knows its line, and whose every fault is a refusal that names it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestration.errors import UsageError

Key = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1, and the numbers of YAML 1.2 that have an exponent but no dot: 1e3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]|.*:)")
"""Numbers that YAML 1.1 reads in base 8 or 60, and YAML 1.2 does not."""

UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises on text that is no YAML, or on a scalar that does not fit its tag."""


def compose(path: Path) -> yaml.Node | None:
    """Return the tree of a file, None of an empty one.

    Raises:
        UsageError: it is not a file that can be read, not UTF-8, or not YAML.

    """
    data = _read(path)
    try:
        return yaml.compose(data.decode(), Loader=_Loader)
    except UNREADABLE as error:
        line, cause = _trouble(data, error)
        raise UsageError(f"{path.name}:{line}: {cause}", code="config-not-yaml", remedy=f"correct {path}") from None


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise UsageError(f"{path.name}: is not a file", code="config-unreadable", remedy=f"move {path} away")
    try:
        return path.read_bytes()
    except OSError as error:
        cause = error.strerror or str(error)
        raise UsageError(f"{path.name}: {cause}", code="config-unreadable", remedy=f"see `ls -l {path}`") from None


def _trouble(data: bytes, error: Exception) -> tuple[int, str]:
    """Return the line that cannot be read, as far as PyYAML tells, and why."""
    if isinstance(error, yaml.MarkedYAMLError):
        return error.problem_mark.line + 1 if error.problem_mark else 1, f"not YAML: {error.problem}"
    if isinstance(error, UnicodeDecodeError):
        return data[: error.start].count(b"\n") + 1, "not UTF-8"
    if isinstance(error, yaml.reader.ReaderError):
        return data.decode()[: error.position].count("\n") + 1, f"not YAML: {error.reason}"
    return 1, f"not YAML: {error}"


def pairs(node: yaml.MappingNode, above: Key, name: str) -> Iterator[tuple[Key, str, yaml.Node]]:
    """Yield key, source (file:line) and value of a map's entries.

    Raises:
        UsageError: a key is not text, or stands twice.

    """
    seen = set[Key]()
    for key_node, value_node in node.value:
        source = f"{name}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            where = f"a key below `{'.'.join(above)}`" if above else "a key"
            raise UsageError(f"{source}: {where} is not text", code="config-bad-value", remedy="write `key: value`")
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise UsageError(
                f"{source}: merge keys (`<<`) are not read", code="config-merge-key", remedy="write its keys out"
            )
        key = (*above, key_node.value)
        if key in seen:
            raise UsageError(f"{source}: `{'.'.join(key)}` stands twice", code="config-twice", remedy="remove one")
        seen.add(key)
        yield key, source, value_node


def constructed(node: yaml.Node, key: Key, name: str) -> Any:  # noqa: ANN401
    """Return the value of a node.

    Raises:
        UsageError: a scalar does not fit its tag, or a map's key is not text or stands twice.

    """
    if isinstance(node, yaml.MappingNode):
        return {pair[-1]: _plain(below, pair, name) for pair, _, below in pairs(node, key, name)}
    return _plain(node, key, name)


def scalar(text: str) -> Any:  # noqa: ANN401
    """Return the number or truth that a text is; what is neither stays text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if not isinstance(node, yaml.ScalarNode) or _ambiguous(node):
            return text
        return yaml.constructor.SafeConstructor().construct_object(node)
    except UNREADABLE:
        return text


def collection(text: str) -> Any:  # noqa: ANN401
    """Return the list or map that a text in brackets is; what is neither stays text."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if isinstance(node, yaml.ScalarNode):
            return text
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except UNREADABLE:
        return text


def _ambiguous(node: yaml.Node) -> bool:
    number = node.tag in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
    return number and bool(_AMBIGUOUS.match(node.value))


def _plain(node: yaml.Node, key: Key, name: str) -> Any:  # noqa: ANN401
    where = f"{name}:{node.start_mark.line + 1}: `{'.'.join(key)}`"
    if _ambiguous(node):
        raise UsageError(
            f"{where} is {node.value}, which YAML's versions read differently",
            code="config-bad-value",
            remedy="write a number without leading zero and colon, or put text in quotes",
        )
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except UNREADABLE as error:
        cause = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise UsageError(
            f"{where} cannot be read: {cause}",
            code="config-bad-value",
            remedy="put text that looks like something else in quotes",
        ) from None
