"""Every key path that orchestration.yaml may have, derived from the declarations in settings."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from orchestration.errors import UsageError
from orchestration.settings import AgentDefinition, Config, Opt
from orchestration.yaml_file import Key

PREFIX = "ORCHESTRATION_"
NAME = "NAME"
"""Stands for an agent's name: agents.NAME.command."""


class Leaf(NamedTuple):
    """One setting: where it stands, what it may hold, what a person is told of it, its default."""

    key: Key
    type: Any
    opt: Opt
    default: Any


def _walk(sample: msgspec.Struct, above: Key) -> Iterator[Leaf | tuple[Key, str]]:
    """Yield a struct's leaves, and its sections with their prose, in the order of their declaration."""
    yield above, inspect.getdoc(type(sample)) or ""
    for item in msgspec.structs.fields(sample):
        key, default = (*above, item.encode_name), getattr(sample, item.name)
        if isinstance(default, msgspec.Struct):
            yield from _walk(default, key)
        elif key == ("agents",):
            yield from _walk(AgentDefinition(), (*key, NAME))
        else:
            kind = type(sample).__annotations__[item.name]
            extras = getattr(kind, "__metadata__", ())
            yield Leaf(key, kind, next((extra for extra in extras if isinstance(extra, Opt)), Opt()), default)


_ALL = list(_walk(Config(), ()))
SETTINGS: dict[Key, Leaf] = {item.key: item for item in _ALL if isinstance(item, Leaf)}
"""Every setting, those of a named agent below agents.NAME."""
SECTIONS: dict[Key, str] = {item[0]: item[1] for item in _ALL if not isinstance(item, Leaf)}
"""Every map of settings, and its prose."""
LEAVES: dict[Key, Leaf] = {key: leaf for key, leaf in SETTINGS.items() if NAME not in key}
"""The settings that flags and the environment know."""
FLAGS: dict[str, Leaf] = {leaf.opt.flag: leaf for leaf in LEAVES.values() if leaf.opt.flag}
"""The settings that have a flag, by its declaration."""


def _general(key: Key) -> Key:
    return (key[0], NAME, *key[2:]) if len(key) > 1 and key[0] == "agents" else key


def find(key: Key) -> Leaf | None:
    """Return the setting of a key path."""
    known = SETTINGS.get(_general(key))
    return known._replace(key=key) if known else None


def is_branch(key: Key) -> bool:
    """Tell whether a key path names a map of settings."""
    return _general(key) in SECTIONS or key == ("agents",)


def below(above: Key) -> list[str]:
    """Return the words that may stand directly below a key, in the order of their declaration."""
    depth, above = len(above), _general(above)
    return list(dict.fromkeys(known[depth] for known in SETTINGS if known[:depth] == above and len(known) > depth))


def variable(key: Key) -> str:
    """Return the environment variable of a setting: ORCHESTRATION_ROUTER_MODE."""
    return PREFIX + "_".join(key).upper()


def nearest(word: str, words: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the word that somebody may have meant."""
    import difflib  # noqa: PLC0415 - only for the words of an error

    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)), None)


def unknown(key: Key, source: str) -> UsageError:
    """Return the refusal of a key path that is no setting, naming the nearest that is."""
    name, siblings = ".".join(key), below(key[:-1])
    if is_branch(key):
        remedy = f"set one of its keys: {', '.join(f'{name}.{word}' for word in sorted(below(key)))}"
        return UsageError(f"{source}: `{name}` is a map, not a value", code="config-bad-value", remedy=remedy)
    known = {".".join((*key[:-1], word)) for word in siblings} or {".".join(leaf) for leaf in LEAVES}
    near = nearest(name, sorted(known)) if not siblings else nearest(key[-1], siblings)
    if near and siblings:
        near = ".".join((*key[:-1], near))
    remedy = f"did you mean `{near}`?" if near else f"known here: {', '.join(sorted(siblings or below(())))}"
    return UsageError(f"{source}: unknown key `{name}`", code="config-unknown-key", remedy=remedy)
