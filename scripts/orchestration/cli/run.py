"""`orchestrator run`."""

import click

from orchestration import service
from orchestration.cli.options import configured, here, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.daemon import Options
from orchestration.errors import Locked


@click.command()
@click.option(
    "--mode", type=click.Choice(["combined"]), default="combined", help="Both actors take turns in this process."
)
@click.option("--once", is_flag=True, help="At most one turn, then stop; made for cron.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Also tell what went as expected.")
@click.option("-q", "--quiet", is_flag=True, help="Print failures only.")
@configured
def run(  # noqa: PLR0913 - click's parameters
    *,
    flags: dict[str, str | bool],
    pairs: tuple[str, ...],
    mode: str,  # noqa: ARG001 - the one mode there is
    once: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Take turns.

    Until the iterations are done, the exit flag is set, a turn fails, or you stop it. Killed anywhere, the next start
    goes on where this one stood.
    """
    place = here(flags, pairs)
    console = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    try:
        ended = service.run(place.workspace, place.resolved, Options(once=once), console, SystemClock())
    except Locked as locked:
        if not quiet:
            raise
        return locked.exit_code  # cron calls more often than a turn lasts: not worth a mail
    return ended.exit_code
