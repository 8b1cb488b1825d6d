"""`orchestrator run`, and the turns of one actor alone: `supervisor` and `loop`."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import click

from orchestration import rehearsal, service
from orchestration.cli.options import configured, here, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.daemon import Options
from orchestration.errors import Locked
from orchestration.state import Actor


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


def _run(given: Given, solo: Actor | None = None) -> int:
    place = here(given["flags"], given["pairs"])
    console = Console(quiet=given["quiet"], verbose=given["verbose"], as_json=given["as_json"])
    options = Options(once=given["once"], solo=solo)
    try:
        ended = service.run(place.workspace, place.resolved, options, console, SystemClock())
    except Locked as locked:
        if not given["quiet"]:
            raise
        return locked.exit_code  # cron calls more often than a turn lasts: not worth a mail
    return ended.exit_code


@click.command()
@click.option(
    "--mode", type=click.Choice(["combined"]), default="combined", help="Both actors take turns in this process."
)
@click.option("--dry-run", is_flag=True, help="Show what the next turn would do: route, agent, commits. Run nothing.")
@_running
def run(*, mode: str, dry_run: bool, **given: Unpack[Given]) -> int:  # noqa: ARG001 - the one mode there is
    """Take turns.

    Until the iterations are done, the exit flag is set, a turn fails, or you stop it. Killed anywhere, the next start
    goes on where this one stood.
    """
    return _rehearse(given) if dry_run else _run(given)


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
