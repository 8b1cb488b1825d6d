"""docs/configuration.md, made from the declarations in settings."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from orchestration.keys import LEAVES, SECTIONS, SETTINGS, Leaf, variable
from orchestration.settings import IGNORED
from orchestration.values import expected
from orchestration.yaml_file import Key

_HEAD = """\
# Configuration

Every setting of `orchestration.yaml`, which is searched from the current folder upward to the top of the repository;
its folder is the project's. Every key is optional. For one run: the flag, or `-c key.path=value` for any setting. A
flag goes before an environment variable, that before the file, and that before the default; `orchestrator config show`
prints every value with its source. Lists are `a,b` and maps are `a=b,c=d` in flags and variables; there, empty text
unsets.

Editors check the file by `.orchestration.schema.json`, which `init` writes beside it and its first line names; after an
upgrade, `orchestrator config schema > .orchestration.schema.json` renews it.

Numbers and truths are read as YAML 1.1 has them (`yes`, `on`, `1_000`), but for what 1.2 reads otherwise: `010` and
`1:30` are refused. Text that looks like a number, a date or a truth wants quotes. Anchors are read, merge keys (`<<`)
are not.
"""


class Row(NamedTuple):
    """One setting, as a person reads of it; what it does not have is empty."""

    key: str
    takes: str
    default: str
    flag: str
    variable: str
    help: str


def rows(section: Key) -> list[Row]:
    """Return the settings that stand directly in a section, in the order of their declaration."""
    return [_row(leaf) for key, leaf in SETTINGS.items() if key[:-1] == section]


def _row(leaf: Leaf) -> Row:
    default = msgspec.to_builtins(leaf.default)
    return Row(
        key=".".join(leaf.key),
        takes=expected(leaf),
        default="" if default in (None, [], {}) else json.dumps(default, ensure_ascii=False),
        flag=(leaf.opt.flag or "").replace("/", ", "),
        variable=variable(leaf.key) if leaf.key in LEAVES else "",
        help=leaf.opt.help,
    )


def page() -> str:
    """Return docs/configuration.md."""
    ignored = "\n".join(f"- `{key}`: {why}" for key, why in IGNORED.items())
    return f"{_HEAD}\n{''.join(_sections())}## Accepted without effect\n\n{ignored}\n"


def _sections() -> Iterator[str]:
    for key, prose in SECTIONS.items():
        title = f"`{'.'.join(key)}`" if key else "The project"
        settings = "".join(f"{line}\n" for row in rows(key) for line in _told(row))
        yield f"## {title}\n\n{prose}\n\n{settings}" + ("\n" if settings else "")


def _told(row: Row) -> Iterator[str]:
    yield f"- **`{row.key}`**: {row.help}  "
    default = f"; default `{row.default}`" if row.default else ""
    names = [f"`{name}`" for name in (*row.flag.split(", "), row.variable) if name]
    yield f"  Takes {row.takes}{default}." + (f" {', '.join(names)}." if names else "")
