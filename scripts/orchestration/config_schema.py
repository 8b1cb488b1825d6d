"""The JSON Schema of orchestration.yaml, for editors: it accepts what the loader accepts."""

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import msgspec

from orchestration import presets
from orchestration.keys import NAME, SECTIONS, SETTINGS, Leaf, below
from orchestration.router import Mode
from orchestration.settings import IGNORED
from orchestration.values import bare, choices
from orchestration.yaml_file import Key

FILE = ".orchestration.schema.json"
"""Where `init` writes it, beside orchestration.yaml, whose first line names it."""

Schema = dict[str, Any]


def text() -> str:
    """Return the schema as the file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """Return the JSON Schema (draft 7, which editors know best) of orchestration.yaml."""
    root = _section(())
    root["properties"]["router"] |= _ONLY_WITH_PROMPT
    root["properties"] |= {
        key: {"description": f"No effect: {why}.", "deprecated": True, "deprecationMessage": f"No effect: {why}."}
        for key, why in IGNORED.items()
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "orchestration.yaml", **root}


def _section(key: Key) -> Schema:
    """Return the schema of a map of settings; it may be empty, as it is when its every line is a comment."""
    if key == ("agents",):
        agent = _section((*key, NAME))
        agent["properties"]["preset"] |= {"enum": [*presets.names(), None]}
        return {
            "type": ["object", "null"],
            "description": agent["description"],
            "properties": dict.fromkeys(presets.names(), agent),
            "additionalProperties": agent | {"type": "object", "anyOf": _COMMANDED},
        }
    return {
        "type": ["object", "null"],
        "description": SECTIONS[key].replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n"),
        "properties": {
            word: _leaf(SETTINGS[*key, word]) if (*key, word) in SETTINGS else _section((*key, word))
            for word in below(key)
        },
        "additionalProperties": False,
    }


def _leaf(leaf: Leaf) -> Schema:
    made = msgspec.json.schema(leaf.type)
    kinds = made.pop("$defs", {})
    if "$ref" in made:
        made = kinds[made["$ref"].rpartition("/")[2]]
    words = choices(leaf)
    if words and bare(leaf.type) is dict:
        made |= {"propertyNames": {"enum": words}, "allOf": _not_twice(leaf.opt.aliases, words)}
    elif words:
        made = {"enum": words}
    made["default"] = msgspec.to_builtins(leaf.default)
    return {"description": leaf.opt.help} | made


def _not_twice(aliases: Mapping[str, str], words: list[str]) -> list[Schema]:
    """Refuse two words for one thing."""
    same = [pair for pair in combinations(words, 2) if len({aliases.get(word, word) for word in pair}) == 1]
    return [{"not": {"required": list(pair)}} for pair in same]


_COMMANDED = [
    {"properties": {"command": {"type": "array"}}, "required": ["command"]},
    {"properties": {"preset": {"type": "string"}}, "required": ["preset"]},
]
"""An agent of a name that is no preset has a command of its own or a preset's (config.resolve)."""
_MODES = choices(SETTINGS["router", "mode"])
_ONLY_WITH_PROMPT = {
    "if": {
        "properties": {
            "mode": {"enum": [word for word in _MODES if word.endswith(Mode.ONLY.removeprefix("router_"))]},
            "enabled": {"const": True},
        },
        "required": ["mode"],
    },
    "then": {"properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
}
"""`router_only` takes a prompt (config.resolve)."""
