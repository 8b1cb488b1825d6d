"""click options made from the declarations in settings; click itself holds no default and reads no environment."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from orchestration import executables, workspace
from orchestration.clock import SystemClock
from orchestration.config import Resolved, resolve
from orchestration.console import Console
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError, UsageError
from orchestration.git import Git
from orchestration.holder import read_holder
from orchestration.keys import FLAGS, Leaf
from orchestration.layers import FILE, from_flags, from_pairs
from orchestration.process import Loop
from orchestration.values import bare
from orchestration.workspace import Workspace

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SHORT = {"--sync-loops": "-n"}
_FIRST = ("limits", "agent", "sync", "router")
"""The sections whose options the help shows first."""


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option that settings declares, and `-c`; they arrive as `flags` (declaration → text) and `pairs`."""
    declared = sorted(FLAGS.values(), key=lambda leaf: (*_FIRST, leaf.key[0]).index(leaf.key[0]))
    by_name = {_parameter(flag): flag for flag in FLAGS}

    @wraps(function)  # with the options that stand below this decorator
    def gathered(**given: Any) -> Any:  # noqa: ANN401 - whatever the command returns
        spoken = {flag: given.pop(name) for name, flag in by_name.items()}
        return function(**given, flags={flag: value for flag, value in spoken.items() if value is not None})

    decorated: Callable[..., Any] = click.option(
        "-c", "pairs", metavar="KEY.PATH=VALUE", multiple=True, help="Any setting, as in orchestration.yaml."
    )(gathered)
    for leaf in reversed(declared):
        decorated = flag_option(leaf)(decorated)
    return decorated


def flag_option(leaf: Leaf) -> Decorator:
    """Return the click option of a setting that has a flag: None where it was not given."""
    flag = leaf.opt.flag or ""
    names = [name for name in (_SHORT.get(flag), flag, _parameter(flag)) if name]
    kind: dict[str, Any] = {"metavar": leaf.opt.metavar}
    if bare(leaf.type) is bool:
        kind = {"is_flag": True, "default": None}
    if flag == "--agent":
        kind["shell_complete"] = _agents
    return click.option(*names, help=f"{leaf.opt.help}{_default(leaf)}", **kind)


def _agents(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an agent, else a file's."""
    from orchestration import presets  # noqa: PLC0415 - only for a shell that asks

    names = [executables.CHECKLIST, *presets.names()]
    with suppress(OrchestrationError):
        names += here().resolved.config.agents
    found = [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _default(leaf: Leaf) -> str:
    """Return what the help says of a default; click itself is given none."""
    value: object = leaf.default
    if value is True:
        value = (leaf.opt.flag or "").partition("/")[0]
    if isinstance(value, float):
        return f"  [default: {value:g}]"
    return f"  [default: {value}]" if value or (value == 0 and value is not False) else ""


def _parameter(flag: str) -> str:
    """Return the parameter name of a flag declaration."""
    return flag.split("/", maxsplit=1)[0].lstrip("-").replace("-", "_")


def anywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--no-git` and `--sync-via-git`: where the turn lives that is looked at, or decided on."""
    return _placing(function, here)


def at_any_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the same to what a daemon that runs is asked or looked at with: a wrong configuration is no obstacle then."""
    return _placing(function, here_at_any_time)


def _placing(function: Callable[..., Any], find: Callable[[Mapping[str, str | bool]], "Here"]) -> Callable[..., Any]:
    @wraps(function)
    def placed(*, git: bool | None, shared: bool | None, **given: Any) -> Any:  # noqa: ANN401 - whatever it returns
        said = {"--git/--no-git": git, "--sync-via-git/--no-sync-via-git": shared}
        return function(**given, place=find({flag: value for flag, value in said.items() if value is not None}))

    text = "Whether the turn lives in commits, or in the state file alone  [default: sync.git]"
    more = "Whether the turn is shared through the remote  [default: sync.via_git, else as the last turn was]"
    both = click.option("--sync-via-git/--no-sync-via-git", "shared", default=None, help=more)(placed)
    return click.option("--git/--no-git", "git", default=None, help=text)(both)


json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


class Here(NamedTuple):
    """The workspace around the current folder, and its configuration; `wrong` is why that is the defaults alone."""

    workspace: Workspace
    resolved: Resolved
    wrong: UsageError | None = None


def here_at_any_time(flags: Mapping[str, str | bool]) -> Here:
    """Do as `here`; where that is wrong and a daemon runs, warn, and do with the defaults and these flags.

    Raises:
        GitError: as `here`.
        UsageError: the configuration is wrong, and no daemon runs here.

    """
    try:
        return here(flags)
    except UsageError as error:
        with Loop(SystemClock()) as loop:
            found = workspace.find(Git(loop, Path.cwd(), inherited()), FILE)
        resolved = resolve(None, {}, from_flags(flags), Path.cwd())
        config = resolved.config
        place = workspace.workspace(found, git=config.sync.git, state_file=config.state_file)
        if read_holder(place.own) is None:
            raise
        Console().warn(f"{error.message}; the daemon that runs keeps what it has read", error.remedy)
        return Here(place, resolved, error)


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
