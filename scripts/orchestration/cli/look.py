"""`status` and `route`: look, and change nothing."""

import click

from orchestration import status as glance
from orchestration.cli.options import Here, at_any_time, configured, here, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError
from orchestration.git import Git
from orchestration.process import Loop
from orchestration.router import RouteError


def _look(place: Here) -> glance.Seen:
    with Loop(SystemClock()) as loop:
        return glance.look(place.workspace, place.resolved.config, Git(loop, place.workspace.top, inherited()))


def show_if_there(console: Console) -> None:
    """Print the status where there is one to print."""
    try:
        seen = _look(here())
    except OrchestrationError:
        return
    console.say(glance.text(seen, SystemClock().now()) + "\n")


@click.command()
@at_any_time
@json_option
def status(*, place: Here, as_json: bool) -> int:
    """Show whose turn it is, and what is unusual.

    And what happened last, what comes next and why: one screen.
    """
    console = Console(as_json=as_json)
    seen = _look(place)
    if as_json:
        console.dump(seen)
    else:
        console.say(glance.text(seen, SystemClock().now()))
    return 0


@click.command()
@configured
@json_option
def route(*, flags: dict[str, str | bool], pairs: tuple[str, ...], as_json: bool) -> int:
    """Print which prompt runs next, and why.

    Runs no agent.
    """
    console = Console(as_json=as_json)
    seen = _look(here(flags, pairs))
    if seen.next is None:
        raise RouteError(seen.no_next, code="route-none", remedy="see `orchestrator status`")
    if as_json:
        console.dump(seen.next)
    else:
        console.say(f"{seen.next.actor} · iteration {seen.next.iteration} · {seen.next.prompt}: {seen.next.reason}")
    return 0
