"""`orchestrator say`: a word to both actors."""

import sys
from typing import NamedTuple

import click

from orchestration import word
from orchestration.buses import open_bus
from orchestration.cli.options import Here, anywhere, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.environment import inherited
from orchestration.errors import Locked, Refused, UsageError
from orchestration.git import Git
from orchestration.journal import Journal
from orchestration.lock import held
from orchestration.process import Loop
from orchestration.prompt_context import USER_INPUT
from orchestration.remote_bus import RemoteBus

_MOST = 64 << 10


@click.command()
@click.argument("text")
@anywhere
@json_option
def say(*, place: Here, text: str, as_json: bool) -> int:
    """Tell both agents something: TEXT, or what standard input holds if that is `-`.

    It is added to user_input.md in a commit of its own, which their next prompts point to: at once, also while a turn
    runs on another machine; in a clone whose turns are not shared, between two turns.
    """
    said = sys.stdin.read(_MOST + 1) if text == "-" else text
    if not said.strip() or len(said.encode(errors="surrogateescape")) > _MOST:
        what = "nothing is said" if not said.strip() else f"that is more than {_MOST >> 10} KiB"
        raise UsageError(what, code="say-nothing", remedy='`orchestrator say "..."`, or `-` and standard input')
    commit, waits, shared = _left(place, said)
    console = Console(as_json=as_json)
    if as_json:
        console.dump({"commit": commit, "waits": waits})
    elif waits:
        console.say(f"it waits in this clone, and is added to {USER_INPUT} between two turns")
    else:
        there = f" at {shared}; it is here with the next turn" if shared else ""
        console.say(f"added to {USER_INPUT}" + (f" in {commit[:10]}{there}" if commit else ""))
    return 0


class _Left(NamedTuple):
    """Where a word is: its commit, whether it waits for its time here, the remote's branch if it is shared."""

    commit: str | None = None
    waits: bool = False
    shared: str = ""


def _left(place: Here, said: str) -> _Left:
    """Leave the word."""
    clock, workspace, config = SystemClock(), place.workspace, place.resolved.config
    with Loop(clock) as loop:
        git = Git(loop, workspace.top, inherited())
        git = git.with_identity() if workspace.git else git
        who = git.ask("var", "GIT_AUTHOR_IDENT").rpartition(" <")[0] if workspace.git else "a person"
        data = word.entry(said, who, clock.now())
        if not workspace.git:
            word.append(workspace, data)
            return _Left()
        bus = open_bus(workspace, config, git)
        if isinstance(bus, RemoteBus):
            return _Left(word.share(git, workspace, bus, data), shared=f"{bus.remote.name}/{bus.branch}")
        left = word.Word(git, workspace, bus.branch)
        left.leave(data, clock.now())
        try:
            with held(workspace, clock.now()):
                Journal(workspace.journal).between_turns()
                return _Left(left.deliver(), waits=bool(left.waiting()))
        except Locked:
            return _Left(waits=True)
        except Refused as refusal:
            if refusal.code != "turn-open":
                raise
            return _Left(waits=True)
