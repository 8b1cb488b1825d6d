"""`init --cron` and `init --systemd`: what a scheduler is given, printed or written beside; nothing is installed."""

import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

import orchestration
from orchestration import agents, files, schedule
from orchestration.buses import open_bus
from orchestration.cli.options import Here
from orchestration.clock import SystemClock
from orchestration.config import resolve
from orchestration.console import Console
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError, Refused
from orchestration.git import Git
from orchestration.layers import FILE
from orchestration.process import Loop
from orchestration.schedule import Job
from orchestration.state import Actor

_EVERY = 10
"""Minutes, where nobody says."""


class Planned(NamedTuple):
    """What stands on the command line: `systemd` is the folder for the units, "" to print them, None if not asked for.

    `every` is minutes between two starts; `role` whose turns are taken (None: both).
    """

    cron: bool
    systemd: str | None
    every: int | None
    role: str | None

    def asked(self) -> bool:
        """Tell whether a schedule is asked for.

        Raises:
            click.UsageError: it is not, and how often or for whom is said.

        """
        if self.cron or self.systemd is not None:
            return True
        if self.every is not None or self.role:
            raise click.UsageError("--every and --role go with --cron or --systemd")
        return False


def scheduled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a schedule, which arrive as `planned`."""

    @wraps(function)
    def gathered(*, cron: bool, systemd: str | None, every: int | None, role: str | None, **given: Any) -> Any:  # noqa: ANN401
        return function(**given, planned=Planned(cron, systemd, every, role))

    decorated: Callable[..., Any] = gathered
    for option in (
        click.option(
            "--role",
            type=click.Choice([str(actor) for actor in Actor]),
            help="With these: take the turns of this actor only.",
        ),
        click.option("--every", type=int, metavar="MINUTES", help="With these: how often.  [default: 10]"),
        click.option(
            "--systemd",
            is_flag=False,
            flag_value="",
            metavar="[DIR]",
            help="Print units of systemd that run a turn now and then, or write them into DIR.",
        ),
        click.option("--cron", is_flag=True, help="Print a crontab entry that runs a turn now and then."),
    ):
        decorated = option(decorated)
    return decorated


def show(place: Here, console: Console, planned: Planned, *, as_json: bool) -> None:
    """Print the entry of a crontab, or the units, or where they were written.

    Raises:
        UsageError: it cannot be written down.
        Refused: a unit's file exists.

    """
    _warn(place, console, planned.role)
    root = place.workspace.root
    logs = root / place.resolved.config.logs_dir
    role, systemd = planned.role, planned.systemd
    job = Job(_program(), _options(role), root, logs, _path(), _EVERY if planned.every is None else planned.every)
    if systemd is None:
        text = schedule.crontab(job)
        if as_json:
            console.dump({"cron": text})
        else:
            console.say(text.rstrip("\n"))
        return
    name = schedule.unit_name(root, role)
    units = schedule.units(job, name)
    if systemd:
        _write(Path(systemd), units)
    if as_json:
        console.dump({"units": units, "written": [str(Path(systemd) / unit) for unit in units] if systemd else []})
        return
    for unit, text in units.items():
        console.say(f"wrote {Path(systemd) / unit}" if systemd else f"# {unit}\n{text}")
    then = f"systemctl --user daemon-reload && systemctl --user enable --now {shlex.quote(name + '.timer')}"
    lines = [
        "they belong into ~/.config/systemd/user; then:",
        f"  {then}",
        "  loginctl enable-linger    # so that they run while you are not logged in",
    ]
    console.say("\n".join(line if systemd else f"# {line}" for line in lines))


def _warn(place: Here, console: Console, role: str | None) -> None:
    """Say what every start would be refused for: it is given no --agent, and none of this shell's variables."""
    root, config = place.workspace.root, place.resolved.config
    try:
        file = root / FILE
        found = resolve(file if file.exists() else None, {}, {}, root).config
        agents.all_of(found, root, inherited(), Actor(role) if role else None)
        with Loop(SystemClock()) as loop:
            open_bus(place.workspace, config, Git(loop, place.workspace.top, inherited())).offline().look()
    except OrchestrationError as error:
        remedy = "first have nothing wrong with `orchestrator doctor`, as it stands, without --agent"
        console.warn(f"every start would be refused: {error.message}", remedy)


def _write(folder: Path, units: dict[str, str]) -> None:
    """Write the units, all or none.

    Raises:
        Refused: one of them exists.

    """
    there = [unit for unit in units if (folder / unit).exists() or (folder / unit).is_symlink()]
    if there:
        verb = "exists" if len(there) == 1 else "exist"
        raise Refused(
            f"{', '.join(str(folder / unit) for unit in there)} {verb}: nothing is overwritten",
            code="path-taken",
            remedy="move it away, or name another folder",
        )
    for unit, text in units.items():
        files.create(folder / unit, text.encode())


def _program() -> list[str]:
    """Return what starts this program from anywhere: the script beside the interpreter, else the door."""
    beside = Path(sys.executable).with_name("orchestrator")
    if beside.is_file():
        return [str(beside)]
    return [sys.executable, str(Path(orchestration.__file__).with_name("orchestrator.py"))]


def _path() -> str:
    return ":".join(dict.fromkeys(inherited().get("PATH", "/usr/bin:/bin").split(":")))


def _options(role: str | None) -> list[str]:
    """Return the role, and where the turn lives, as they stand on the command line of `init`."""
    given = click.get_current_context().params
    flags = {"git": ("--git", "--no-git"), "shared": ("--sync-via-git", "--no-sync-via-git")}
    said = [names[not given[name]] for name, names in flags.items() if given.get(name) is not None]
    return [*(["--role", role] if role else []), *said]
