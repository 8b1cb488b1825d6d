"""What a person decides: retry, skip, stamp, resume, and stop and pause for a running daemon."""

from enum import StrEnum
from pathlib import Path

import click
from msgspec.structs import replace

from orchestration import decisions
from orchestration.ceilings import Meter
from orchestration.cli.options import Here, anywhere, at_any_time, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.control import Control, Request
from orchestration.errors import Refused
from orchestration.holder import read_holder
from orchestration.state import Actor


def post(place: Here, change: decisions.Change, *, as_json: bool) -> int:
    """Make a decision and print the commit that it became."""
    console = Console(as_json=as_json)
    posted = decisions.post(place.workspace, place.resolved.config, change, SystemClock())
    if as_json:
        console.dump(posted)
    else:
        console.say(f"{posted.subject}\n  {posted.next}")
    return 0


@click.command()
@anywhere
@json_option
def retry(*, place: Here, as_json: bool) -> int:
    """Let the failed turn run again.

    It goes on with the work tree as it is.
    """
    return post(place, decisions.retry, as_json=as_json)


def _codes(accept: dict[str, bool]) -> set[str]:
    """Return the codes of failures that flags such as `--accept-too-large` name."""
    return {name.removeprefix("accept_").replace("_", "-") for name, given in accept.items() if given}


@click.command()
@click.option("--accept-scope", is_flag=True, help="Also where the turn failed for files outside its actor's scope.")
@click.option("--accept-secret", is_flag=True, help="Also where it failed for a secret that it would publish.")
@click.option("--accept-too-large", is_flag=True, help="Also where it failed for a file over limits.publish_file.")
@anywhere
@json_option
def skip(*, place: Here, as_json: bool, **accept: bool) -> int:
    """Go on without the failed turn.

    It is the other actor's turn then, as if this one had succeeded; its commits stay.
    """
    return post(place, decisions.skip(_codes(accept)), as_json=as_json)


@click.command()
@anywhere
@json_option
def abandon(*, place: Here, as_json: bool) -> int:
    """Give up the turn in progress, when no start will finish it.

    What is left of its agent is ended, its work is kept in a rescue ref, and nothing is moved: the turn stands open
    again, as before it was claimed.
    """
    console = Console(as_json=as_json)
    ref = decisions.abandon(place.workspace, place.resolved.config, SystemClock())
    if as_json:
        console.dump({"kept": ref})
    else:
        console.say(f"given up; its work is kept in {ref}" if ref else "given up")
    return 0


@click.command()
@click.option("--nonce", required=True, metavar="NONCE", help="The nonce of the turn that is meant: see `status`.")
@anywhere
@json_option
def takeover(*, place: Here, nonce: str, as_json: bool) -> int:
    """Take a turn from a machine that is gone.

    It stands open again, for whoever has its role. Should the machine come back, its work is kept in a rescue ref there
    and never published.
    """
    return post(_shared(place), decisions.takeover(nonce), as_json=as_json)


def _shared(place: Here) -> Here:
    """Have the turn looked for at the remote, unless it was said to be elsewhere: a clone may not have fetched yet."""
    config = place.resolved.config
    if config.sync.via_git is not None:
        return place
    config = replace(config, sync=replace(config.sync, via_git=True))
    return place._replace(resolved=place.resolved._replace(config=config))


@click.command()
@click.argument("actor", type=click.Choice([str(actor) for actor in Actor]))
@click.argument("result", type=click.Choice(["ok", "fail"]))
@anywhere
@json_option
def stamp(*, place: Here, actor: str, result: str, as_json: bool) -> int:
    """Record a turn that was done by hand.

    It must be that actor's turn, and no turn may be in progress here (`orchestrator abandon` gives one up).
    """
    return post(place, decisions.stamp(Actor(actor), ok=result == "ok"), as_json=as_json)


@click.command()
@anywhere
@json_option
def resume(*, place: Here, as_json: bool) -> int:
    """Lift a pause, let a reached limit pass, and clear the exit flag."""
    console = Console(as_json=as_json)
    lifted = _lift(place)
    posted, unread = None, ""
    try:
        posted = _clear_exit(place)
    except Refused as refusal:
        if not lifted:
            raise
        unread = refusal.message
    if as_json:
        console.dump({"was_paused": Lifted.PAUSE in lifted, "limit_passed": Lifted.LIMIT in lifted, "posted": posted})
        return 0
    for line in [*lifted, *([f"the exit flag was not looked at: {unread}"] if unread else [])]:
        console.say(line)
    if posted:
        console.say(posted.subject)
    elif not lifted:
        runs = read_holder(place.workspace.own) is not None
        console.say("nothing was paused" + ("; a daemon runs here" if runs else " and no exit flag is set"))
    return 0


class Lifted(StrEnum):
    """What `resume` has lifted in this clone, as it is told."""

    PAUSE = "the pause is lifted"
    LIMIT = "the limit that was reached may be passed once more"


def _lift(place: Here) -> list[Lifted]:
    requests = Control(place.workspace.control)
    paused = requests.stands(Request.PAUSE)
    requests.withdraw(Request.PAUSE)
    meter = Meter(place.workspace.counters, place.resolved.config.limits)
    passed = meter.forgive(SystemClock().now())
    return [*([Lifted.PAUSE] if paused else []), *([Lifted.LIMIT] if passed else [])]


def _clear_exit(place: Here) -> decisions.Done | None:
    if read_holder(place.workspace.own):  # then no exit flag is set: it would have stopped
        return None
    return decisions.clear_exit(place.workspace, place.resolved.config, SystemClock())


@click.command()
@click.option(
    "--now", is_flag=True, help="End the running agent at once, as SIGTERM does; the turn is run again later."
)
@click.option("--everywhere", is_flag=True, help="Stop the daemons of all clones, by the exit flag at the remote.")
@at_any_time
@json_option
def stop(*, place: Here, now: bool, everywhere: bool, as_json: bool) -> int:
    """Stop the daemon of this clone, after its turn."""
    console = Console(as_json=as_json)
    if everywhere:
        if now:
            raise click.UsageError("--now reaches this clone alone, and not --everywhere")
        if place.wrong:
            raise place.wrong
        done = decisions.stop_everywhere(place.workspace, _shared(place).resolved.config, SystemClock())
        if as_json:
            console.dump(done)
        else:
            console.say(f"{done.subject}\n  {done.next}")
        return 0
    holder = read_holder(place.workspace.own)
    if holder:
        Control(Path(holder.control)).ask(Request.STOP_NOW if now else Request.STOP)
    if as_json:
        console.dump({"asked": holder is not None, "pid": holder.pid if holder else None})
    elif holder:
        console.say(f"asked process {holder.pid} to stop {'now' if now else 'after its turn'}")
    else:
        console.say("no daemon runs in this clone")
    return 0


@click.command()
@at_any_time
@json_option
def pause(*, place: Here, as_json: bool) -> int:
    """Hold the loop between turns, until `resume`.

    A later start waits too.
    """
    holder = read_holder(place.workspace.own)
    Control(Path(holder.control) if holder else place.workspace.control).ask(Request.PAUSE)
    console = Console(as_json=as_json)
    if as_json:
        console.dump({"paused": True})
    else:
        console.say(f"paused between turns; `orchestrator resume{place.workspace.option}` lets it go on")
    return 0
