"""click options made from the declarations in settings; click itself holds no default and reads no environment."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from orchestration import workspace
from orchestration.clock import SystemClock
from orchestration.config import FILE, LEAVES, Leaf, Resolved, from_flags, from_pairs, resolve
from orchestration.environment import inherited
from orchestration.git import Git
from orchestration.process import Loop
from orchestration.settings import Config
from orchestration.workspace import Workspace

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SHORT = {"--sync-loops": "-n"}
_FIRST = ("limits", "agent", "sync", "router")
"""The sections whose options the help shows first."""


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option that settings declares, and `-c`; they arrive as `flags` (declaration → text) and `pairs`."""
    declared = [leaf for leaf in LEAVES.values() if leaf.opt]
    declared.sort(key=lambda leaf: _FIRST.index(leaf.key[0]) if leaf.key[0] in _FIRST else len(_FIRST))
    flags = {leaf.opt.flag.split("/")[0].lstrip("-").replace("-", "_"): leaf.opt.flag for leaf in declared if leaf.opt}

    @wraps(function)  # with the options that stand below this decorator
    def gathered(**given: Any) -> Any:  # noqa: ANN401 - whatever the command returns
        spoken = {flags[name]: given.pop(name) for name in flags}
        return function(**given, flags={flag: value for flag, value in spoken.items() if value is not None})

    decorated: Callable[..., Any] = click.option(
        "-c", "pairs", metavar="KEY.PATH=VALUE", multiple=True, help="Any setting, as in orchestration.yaml."
    )(gathered)
    for leaf in reversed(declared):
        if leaf.opt:
            names = [name for name in (_SHORT.get(leaf.opt.flag), leaf.opt.flag) if name]
            kind = _kind(leaf, leaf.opt.metavar)
            text = f"{leaf.opt.help}{_default(leaf)}"
            decorated = click.option(*names, flags_name(leaf.opt.flag), help=text, **kind)(decorated)
    return decorated


def _kind(leaf: Leaf, metavar: str) -> dict[str, Any]:
    """Return what makes click's option a switch, or one with a value."""
    default = _of_default(leaf)
    if isinstance(default, bool):
        return {"default": None, "is_flag": True}
    return {"metavar": metavar}


def _default(leaf: Leaf) -> str:
    """Return what the help says of a default; click itself is given none."""
    value = _of_default(leaf)
    if isinstance(value, float):
        return f"  [default: {value:g}]"
    return f"  [default: {value}]" if value or (value == 0 and value is not False) else ""


def _of_default(leaf: Leaf) -> Any:  # noqa: ANN401 - any setting's value
    value: Any = Config()
    for word in leaf.key:
        value = getattr(value, word)
    return value


def flags_name(flag: str) -> str:
    """Return the parameter name of a flag declaration."""
    return flag.split("/", maxsplit=1)[0].lstrip("-").replace("-", "_")


def anywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--no-git`, for a look at, or a decision on, a run that keeps its turn in the state file alone."""

    @wraps(function)
    def placed(*, git: bool | None, **given: Any) -> Any:  # noqa: ANN401 - whatever the command returns
        flags: dict[str, str | bool] = {} if git is None else {"--git/--no-git": git}
        return function(**given, place=here(flags))

    text = "Whether the turn lives in commits, or in the state file alone  [default: sync.git]"
    return click.option("--git/--no-git", "git", default=None, help=text)(placed)


json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


class Here(NamedTuple):
    """The workspace around the current folder, and its configuration."""

    workspace: Workspace
    resolved: Resolved


def here(flags: Mapping[str, str | bool] | None = None, pairs: tuple[str, ...] = ()) -> Here:
    """Find the workspace and merge its configuration.

    Raises:
        GitError: the turn lives in git, and this is no work tree.
        UsageError: the configuration is wrong.

    """
    with Loop(SystemClock()) as loop:
        found = workspace.find(Git(loop, Path.cwd(), inherited()), FILE)
    spoken = {**from_pairs(list(pairs)), **from_flags(flags or {})}
    resolved = resolve(found.file, inherited(), spoken, Path.cwd())
    config = resolved.config
    return Here(workspace.workspace(found, git=config.sync.git, state_file=config.state_file), resolved)
