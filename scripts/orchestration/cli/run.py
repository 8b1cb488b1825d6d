"""`orchestrator run`, and the turns of one actor alone: `supervisor` and `loop`."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import click

from orchestration import rehearsal, service
from orchestration.cli.options import configured, here, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.daemon import Options
from orchestration.errors import Locked, UsageError
from orchestration.state import Actor

_SHARED = "--sync-via-git/--no-sync-via-git"


class Given(TypedDict):
    """What the command line of every run holds."""

    flags: dict[str, str | bool]
    pairs: tuple[str, ...]
    once: bool
    as_json: bool
    verbose: bool
    quiet: bool


def _running(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every run takes."""
    once = click.option("--once", is_flag=True, help="At most one turn, then stop; made for cron.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Also tell what went as expected.")
    quiet = click.option("-q", "--quiet", is_flag=True, help="Print failures only.")
    return once(json_option(verbose(quiet(configured(function)))))


def _run(given: Given, solo: Actor | None = None, role: Actor | None = None) -> int:
    if solo and given["flags"].get(_SHARED):  # the ancestor's way to say --role
        solo, role = None, solo
    place = here(given["flags"], given["pairs"])
    console = Console(quiet=given["quiet"], verbose=given["verbose"], as_json=given["as_json"])
    options = Options(once=given["once"], solo=solo, role=role)
    try:
        ended = service.run(place.workspace, place.resolved, options, console, SystemClock())
    except Locked as locked:
        if not given["quiet"]:
            raise
        return locked.exit_code  # cron calls more often than a turn lasts: not worth a mail
    return ended.exit_code


@click.command()
@click.option(
    "--mode",
    type=click.Choice(["combined", "role"]),
    help="Both actors take turns in this process, or one does and the other elsewhere  [default: role with --role]",
)
@click.option(
    "--role",
    type=click.Choice([str(actor) for actor in Actor]),
    help="Take the turns of this actor only, and wait for the other's; implies --sync-via-git.",
)
@click.option("--dry-run", is_flag=True, help="Show what the next turn would do: route, agent, commits. Run nothing.")
@_running
def run(*, mode: str | None, role: str | None, dry_run: bool, **given: Unpack[Given]) -> int:
    """Take turns.

    Until the iterations are done, the exit flag is set, a turn fails, or you stop it. Killed anywhere, the next start
    goes on where this one stood.
    """
    if mode and (mode == "role") is not bool(role):
        raise UsageError(
            f"--mode {mode} {'needs' if mode == 'role' else 'has no'} --role",
            code="usage",
            remedy="`--role galph` on one machine and `--role ralph` on the other; or `--mode combined`",
        )
    if role:
        _share(given)
    return _rehearse(given) if dry_run else _run(given, role=Actor(role) if role else None)


def _share(given: Given) -> None:
    """Have the turn shared, as a role needs it.

    Raises:
        UsageError: the command line says otherwise.

    """
    if given["flags"].setdefault(_SHARED, True) is False or given["flags"].get("--git/--no-git") is False:
        raise UsageError(
            "one role alone needs the other through git",
            code="usage",
            remedy="leave out --no-sync-via-git and --no-git",
        )


def _rehearse(given: Given) -> int:
    place = here(given["flags"], given["pairs"])
    console = Console(as_json=given["as_json"])
    seen = rehearsal.rehearse(place.workspace, place.resolved, SystemClock())
    if given["as_json"]:
        console.dump(seen)
    else:
        console.say(rehearsal.text(seen))
    return 0


@click.command()
@_running
def supervisor(**given: Unpack[Given]) -> int:
    """Take turns of galph alone.

    As many as -n says. Whose turn it is does not matter and is not written; the state gives the first iteration. A
    failure stops with exit 4 and is forgotten by the next start.
    """
    return _run(given, Actor.GALPH)


@click.command()
@_running
def loop(**given: Unpack[Given]) -> int:
    """Take turns of ralph alone.

    As many as -n says. Whose turn it is does not matter and is not written; the state gives the first iteration. A
    failure stops with exit 4 and is forgotten by the next start.
    """
    return _run(given, Actor.RALPH)
