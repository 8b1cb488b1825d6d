"""One value: read from a flag's text, checked against its setting's type, and what a wrong one is told."""

import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from datetime import date
from enum import EnumType
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec

from orchestration.errors import UsageError
from orchestration.keys import Leaf, nearest
from orchestration.plainly import plainly
from orchestration.yaml_file import collection, scalar

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list (as text: a,b)",
    dict: "a map (as text: a=b,c=d)",
}
_PATTERN = re.compile(r"`str` matching regex '.*'(?= - at|$)", re.DOTALL)
_UNQUOTED = re.compile(r"Expected `str( \| null)?`, got `(bool|int|float|date|datetime)`")
_CHOICE = re.compile(r"Invalid enum value '(.*?)'(?= - at|$)", re.DOTALL)


class Value(NamedTuple):
    """A value as it was given for a setting, and where."""

    leaf: Leaf
    value: Any
    source: str


def bare(kind: Any) -> Any:  # noqa: ANN401 - a type annotation, whatever it is
    """Return the type that decides how text is read: no Annotated, no `| None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return bare(next(part for part in get_args(kind) if part is not type(None)))
    return get_origin(kind) or kind


def choices(leaf: Leaf) -> list[str]:
    """Return the words that a setting, or the keys of its map, may be; none where any may."""
    found: Iterable[object] = next((part for part in _parts(leaf.type) if isinstance(part, EnumType)), ())
    return [*(str(member) for member in found), *sorted(leaf.opt.aliases)]


def _parts(kind: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield a type annotation, what it is made of, and what is noted in it."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _noted(kind: Any, name: str) -> Any:  # noqa: ANN401
    return next((getattr(part, name) for part in _parts(kind) if getattr(part, name, None)), None)


def expected(leaf: Leaf) -> str:
    """Return what a setting takes, for people."""
    kind, words = bare(leaf.type), choices(leaf)
    if kind is str:
        text = (_noted(leaf.type, "extra") or {}).get("expected", _NAMES[str])
    elif kind is dict and words:
        text = f"{_NAMES[dict]} of {', '.join(words)}"
    else:
        text = _NAMES.get(kind) or f"one of {', '.join(word for word in words if word not in leaf.opt.aliases)}"
    examples = _noted(leaf.type, "examples")
    return f"{text}, such as {json.dumps(examples[0])}" if examples else text


def from_text(text: str, kind: Any) -> Any:  # noqa: ANN401
    """Read one setting's value from a flag or the environment: lists are a,b and maps are a=b,c=d.

    Either may also be written as in YAML, `[a, b]` or `{a: b}`: for items that hold a comma. Empty text unsets a
    setting that may be unset; what cannot be read stays text, for `checked` to refuse.
    """
    wanted = bare(kind)
    if (wanted, text.strip()[:1]) in {(list, "["), (dict, "{")}:
        return collection(text)
    if not text.strip() and type(None) in get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind):
        return None
    if wanted is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if wanted is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        whole = all(name.strip() and value.strip() for name, _, value in pairs)
        return {name.strip(): value.strip() for name, _, value in pairs} if whole else text
    return scalar(text) if wanted in {bool, int, float} else text


def checked(given: Value) -> Any:  # noqa: ANN401
    """Return a value as its setting's type has it.

    Raises:
        UsageError: it does not fit, naming its source, what was expected and the nearest word.

    """
    try:
        return msgspec.convert(_plain(given), given.leaf.type)
    except msgspec.ValidationError as error:
        raise _refusal(given, str(error)) from None


def _plain(given: Value) -> Any:  # noqa: ANN401
    """Return a value with its aliases resolved; a number without fraction is whole."""
    leaf, value, _ = given
    aliases = leaf.opt.aliases
    if isinstance(value, str):
        return aliases.get(value, value)
    if isinstance(value, float) and value.is_integer() and bare(leaf.type) is int:
        return int(value)
    if not isinstance(value, dict) or not aliases:
        return value
    plain: dict[str, Any] = {}
    for word, item in value.items():
        meant = aliases.get(word, word)
        if meant in plain:
            cause = f"{given.source}: `{'.'.join(leaf.key)}` names {meant} twice, once as {word}"
            raise UsageError(cause, code="config-twice", remedy="remove one")
        plain[meant] = item
    return plain


def _refusal(given: Value, cause: str) -> UsageError:
    leaf = given.leaf
    name, takes = ".".join(leaf.key), expected(leaf)
    said = _CHOICE.search(cause)
    near = nearest(said[1], choices(leaf)) if said else None
    cause = _PATTERN.sub((_noted(leaf.type, "extra") or {}).get("expected", takes).replace("\\", r"\\"), cause)
    remedy = f"`{name}` takes {takes}"
    if _UNQUOTED.search(cause):
        remedy += "; put text that looks like something else in quotes"
    if near:
        remedy += f"; did you mean {near}?"
    return UsageError(
        f"{given.source}: `{name}` is {_shown(given.value)}: {plainly(cause)}", code="config-bad-value", remedy=remedy
    )


def _shown(value: object) -> str:
    """Return a value for a message: short, however deep, long or entangled it is."""
    if isinstance(value, date):
        return str(value)
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
