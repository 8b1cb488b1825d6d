"""`orchestrator logs`: what the runs of this branch did and said, afterwards or while it happens."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click

from orchestration.buses import open_bus
from orchestration.cli.options import Here, at_any_time, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console, plain
from orchestration.environment import inherited
from orchestration.errors import Refused, UsageError
from orchestration.events import AnyEvent, RunEnded
from orchestration.follow import Follower, follow
from orchestration.git import Git
from orchestration.holder import read_holder
from orchestration.logbook import (
    Choice,
    Growing,
    Logbook,
    Run,
    Turn,
    decoded,
    ending,
    is_live,
    raw_log,
    summary,
    tail_start,
    turns,
)
from orchestration.process import Loop
from orchestration.state import Actor


class _Shelf(NamedTuple):
    """Where to look: the runs, the daemon's folder, and seconds between looks where no file event comes."""

    book: Logbook
    own: Path
    interval: float


class _Page(NamedTuple):
    """A run and its events."""

    run: Run
    events: list[AnyEvent]


@click.command()
@click.option(
    "-n", "--lines", type=click.IntRange(0), metavar="N", default=20, show_default=True, help="Of the raw log; 0: all."
)
@click.option("--actor", type=click.Choice([str(actor) for actor in Actor]), help="Turns of this actor, in all runs.")
@click.option("--iteration", type=click.IntRange(1), metavar="N", help="Turns of this iteration, in all runs.")
@click.option("--run", "stamp", metavar="STAMP", help="This run, or the only one whose name begins so.")
@click.option("--runs", "all_runs", is_flag=True, help="List the runs instead.")
@click.option(
    "-f", "--follow", "live", is_flag=True, help="Go on with what the newest run does, until it ends or Ctrl-C."
)
@at_any_time
@json_option
def logs(  # noqa: PLR0913 - click's parameters
    *,
    place: Here,
    lines: int,
    actor: str | None,
    iteration: int | None,
    stamp: str | None,
    all_runs: bool,
    live: bool,
    as_json: bool,
) -> int:
    """Show what the newest run of this branch did and said.

    A line for each turn, and the last lines of the newest raw log, without what a terminal would obey. A turn that
    was run more than once is shown as often, oldest first. --json prints the events instead.
    """
    choice = Choice(Actor(actor) if actor else None, iteration)
    _refuse_nonsense(choice, stamp, all_runs=all_runs, live=live)
    shelf = _shelf(place)
    console = Console(as_json=as_json)
    if all_runs:
        _list(shelf, console, as_json=as_json)
    elif live:
        clock = SystemClock()
        follow(Follower(shelf.book, shelf.own, choice, console, clock, lines), clock, shelf.interval)
    elif as_json:
        for page in _chosen(shelf.book, choice, stamp):
            for event in filter(choice.takes, page.events):
                console.event(event)
    else:
        _show(shelf, console, choice, _chosen(shelf.book, choice, stamp), lines)
    console.flush()
    console.drain()
    return 0


def _refuse_nonsense(choice: Choice, stamp: str | None, *, all_runs: bool, live: bool) -> None:
    wrong = ""
    if all_runs and (any(choice) or stamp or live):
        wrong = "--runs lists all runs and takes none of --actor, --iteration, --run and --follow"
    elif live and stamp:
        wrong = "--follow follows the newest run and takes no --run"
    if wrong:
        raise UsageError(wrong, code="logs-options", remedy="leave one of them out")


def _shelf(place: Here) -> _Shelf:
    """Find the runs; the one place that knows by which name they lie."""
    workspace, config = place.workspace, place.resolved.config
    with Loop(SystemClock()) as loop:
        branch = open_bus(workspace, config, Git(loop, workspace.top, inherited())).branch
    return _Shelf(Logbook(workspace.root / config.logs_dir, branch), workspace.own, config.sync.poll_interval)


# --- afterwards ------------------------------------------------------------------------------------------------------


def _list(shelf: _Shelf, console: Console, *, as_json: bool) -> None:
    daemon = read_holder(shelf.own)
    found = [summary(run, daemon) for run in shelf.book.runs()]
    if as_json:
        console.dump(found)
        return
    for item in found:
        count = f"{item.turns} turn{'s' * (item.turns != 1)}"
        console.say(f"{item.run}  {count:>9}  {_how(item.ended, live=item.live)}")
    if not found:
        console.say(f"no run on {shelf.book.branch} yet")


def _chosen(book: Logbook, choice: Choice, stamp: str | None) -> list[_Page]:
    """Return the runs to show, oldest first: the named one, or those that hold what is chosen, else the newest.

    Raises:
        UsageError: no run is called so, or no turn is chosen.
        Refused: there is no run.

    """
    runs = [book.find(stamp)] if stamp else book.runs() if any(choice) else list(islice(book.newest_first(), 1))
    if not runs:
        remedy = "`orchestrator run` makes one with its first turn; `logs --follow` waits for it"
        raise Refused(f"there is no run on {book.branch} yet in {book.folder}", code="no-run", remedy=remedy)
    pages = [_Page(run, list(decoded(run.events.lines()))) for run in runs]
    if not any(choice):
        return pages
    pages = [page for page in pages if any(choice.takes(event) for event in page.events)]
    if not pages:
        what = ", ".join(f"{name} {value}" for name, value in choice._asdict().items() if value)
        raise UsageError(f"no turn of {what}", code="turn-unknown", remedy="`orchestrator logs --runs` lists the runs")
    return pages


def _show(shelf: _Shelf, console: Console, choice: Choice, pages: list[_Page], lines: int) -> None:
    daemon = read_holder(shelf.own)
    found: list[Turn] = []
    for run, events in pages:
        wanted = [turn for turn in turns(run, events) if choice.takes(turn)]
        ended = ending(events)
        live = is_live(run, ended, daemon)
        console.say(f"run {run.stamp} on {run.started.branch}: {_how(ended, live=live)}")
        _table(console, wanted, live=live)
        found += wanted
    runs = list(shelf.book.newest_first())
    log = next(filter(None, (raw_log(turn, runs) for turn in reversed(found))), None)
    if log:
        _tail(console, log, lines)


def _how(ended: RunEnded | None, *, live: bool) -> str:
    if ended:
        return f"{_first_line(ended.reason)}  [{ended.code}, exit {ended.exit_code}]"
    return click.style("running", fg="cyan") if live else "cut short: it did not say how it ended"


def _table(console: Console, found: list[Turn], *, live: bool) -> None:
    width = max((len(turn.prompt or "-") for turn in found), default=0)
    for number, turn in enumerate(found, start=1):
        row = f"  {turn.iteration:>3}  {turn.actor}  {turn.prompt or '-':<{width}}  "
        console.say((row + _result(turn, running=live and number == len(found))).rstrip())


def _result(turn: Turn, *, running: bool) -> str:
    ended = turn.ended
    if ended is None:
        return click.style("running", fg="cyan") if running else "not handed off by this run"
    word = click.style("ok    ", fg="green") if ended.ok else click.style("failed", fg="red")
    work = f"{len(ended.commits)} commit{'s' * (len(ended.commits) != 1)}"
    return f"{word}  {ended.seconds:>8.1f} s  {work:<10}  {_first_line(ended.reason)}"


def _first_line(text: str | None) -> str:
    return plain((text or "").partition("\n")[0])


def _tail(console: Console, log: Path, lines: int) -> None:
    """Print the end of a raw log, a block at a time and as slowly as it is read."""
    start = tail_start(log, lines)
    console.say(f"\n{log}" + (" (its end; -n 0 shows all of it)" if start else ""))
    for block in Growing(log, start).blocks():
        console.output(block)
        if not console.drain():
            return
