"""`orchestrator rescue`: look at what was kept, and bring it back."""

from contextlib import suppress

import click

from orchestration import rescue as kept
from orchestration.cli.options import here, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError, Refused
from orchestration.git import Git
from orchestration.journal import Journal
from orchestration.lock import held
from orchestration.process import Loop
from orchestration.remote import Remote
from orchestration.rescue_push import publish
from orchestration.workspace import Workspace, working_branch


@click.group()
def rescue() -> None:
    """See and bring back what was kept.

    A rescue ref holds the work tree as it was when a turn failed, was interrupted or was fenced, or what lay
    uncommitted when it began.
    """


def _place() -> Workspace:
    """Return the clone.

    Raises:
        Refused: the project does without git.

    """
    place = here().workspace
    if not place.git:
        raise Refused("without git nothing is kept", code="rescue-no-git", remedy="files are where the agent left them")
    return place


def _names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a rescue ref."""
    with Loop(SystemClock()) as loop, suppress(OrchestrationError):
        found = Git(loop, _place().top, inherited()).refs(kept.PREFIX)
        return [name for ref in found if (name := ref.removeprefix(kept.PREFIX)).startswith(incomplete)]
    return []


@rescue.command("list")
@json_option
def list_(*, as_json: bool) -> int:
    """List what is kept, oldest first."""
    console = Console(as_json=as_json)
    with Loop(SystemClock()) as loop:
        found = kept.find(Git(loop, _place().top, inherited()))
    if as_json:
        console.dump(found)
        return 0
    for item in found:
        console.say(f"{item.name}  {item.when}  {item.why}: {len(item.paths)} path{'s' * (len(item.paths) != 1)}")
    if not found:
        console.say("nothing is kept")
    return 0


@rescue.command()
@click.argument("name", shell_complete=_names)
@json_option
def show(*, name: str, as_json: bool) -> int:
    """Show what NAME holds beside the commit that it lay on.

    NAME is a ref from `rescue list`, or the end of one.
    """
    console = Console(as_json=as_json)
    with Loop(SystemClock()) as loop:
        git = Git(loop, _place().top, inherited())
        item = kept.one(git, name)
        if as_json:
            console.dump(item)
        else:
            console.say(kept.patch(git, item))
    return 0


@rescue.command()
@click.argument("name", shell_complete=_names)
@click.argument("paths", nargs=-1)
@json_option
def restore(*, name: str, paths: tuple[str, ...], as_json: bool) -> int:
    """Write the kept files of NAME (only PATHS, if given) back to the work tree.

    A file that differs from both HEAD and the kept one is not overwritten: then nothing is written.
    """
    console = Console(as_json=as_json)
    place, clock = _place(), SystemClock()
    with held(place, clock.now()), Loop(clock) as loop:
        git = Git(loop, place.top, inherited())
        written = kept.restore(git, place.top, kept.one(git, name), paths)
    if as_json:
        console.dump({"restored": written})
        return 0
    for path in written:
        console.say(f"  restored  {path}")
    if not written:
        console.say("everything is as it was kept")
    return 0


@rescue.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_names)
@json_option
def drop(*, names: tuple[str, ...], as_json: bool) -> int:
    """Delete the refs of NAME..., and nothing else; print how each is had back.

    All or none: a NAME that means no ref, or several, drops nothing. git keeps the bytes for some weeks
    (`gc.pruneExpire`). Not while a daemon runs or a turn is in progress here.
    """
    console = Console(as_json=as_json)
    place, clock = _place(), SystemClock()
    with held(place, clock.now()), Loop(clock) as loop:
        Journal(place.journal).between_turns()
        dropped = kept.drop(Git(loop, place.top, inherited()), names)
    if as_json:
        console.dump(dropped)
        return 0
    for item in dropped:
        console.say(f"dropped {item.name}  {item.why}: {len(item.paths)} path{'s' * (len(item.paths) != 1)}")
        console.say(f"  back with `git update-ref {kept.PREFIX}{item.name} {item.commit}`")
    return 0


@rescue.command()
@click.argument("name", shell_complete=_names)
@json_option
def push(*, name: str, as_json: bool) -> int:
    """Publish the commits of NAME at the remote, as a ref of the same name.

    Nothing else does so, but for a turn that was taken away where sync.push_rescue is set, since what was kept may be a
    person's or a secret: a ref that holds what was not committed is refused, and so are commits that a turn may not
    publish.
    """
    console, ground = Console(as_json=as_json), here()
    place, config = _place(), ground.resolved.config
    with Loop(SystemClock()) as loop:
        git = Git(loop, place.top, inherited())
        remote = Remote(git, config.sync.remote, working_branch(git, config.sync.branch))
        ref = kept.PREFIX + kept.one(git, name).name
        publish(remote, config, place, ref)
    if as_json:
        console.dump({"published": ref, "remote": config.sync.remote})
    else:
        console.say(f"published at {config.sync.remote}: {ref}")
    return 0
