"""The doctor's checks of what a run needs around it: git, configuration, prompts, disk, clock, file events."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestration.agents import jobs
from orchestration.clock import iso
from orchestration.config import routes
from orchestration.environment import for_agent
from orchestration.errors import OrchestrationError
from orchestration.executables import located
from orchestration.findings import Finding, Level, Scene, refused
from orchestration.layers import FILE
from orchestration.process import Request
from orchestration.router import Routes
from orchestration.state import Actor
from orchestration.watch import watching

GIT = (2, 38)
"""The oldest git that the tool is made for."""
LITTLE, NOTHING = 1 << 30, 100 << 20
"""Free bytes below which a disk is worth a warning, and below which a run will fail."""

_ASSIGNED = re.compile(r"\w+=")
_PLAIN = re.compile(r"[\w./+-]+")
"""A first word of a gate that the shell takes as it is."""
_YEARS = range(2025, 2100)
_SKEW = timedelta(minutes=1)
"""How far two machines' clocks may be apart before it is told."""


def git(scene: Scene) -> Iterator[Finding]:
    """Look for git, its version, and whom it commits as."""
    said = scene.here.ask("--version")
    number = re.search(r"(\d+)\.(\d+)", said)
    version = (int(number[1]), int(number[2])) if number else None
    if version is None or version < GIT:
        wanted = ".".join(map(str, GIT))
        yield Finding(
            "git", Level.PROBLEM, f"{said}, and {wanted} or newer is needed", f"install git {wanted} or newer"
        )
    else:
        yield Finding("git", Level.OK, said)
    committer = scene.here.with_identity()
    if committer is not scene.here:
        name = committer.environment["GIT_COMMITTER_NAME"]
        yield Finding(
            "git",
            Level.ADVICE,
            f"git does not know who you are; the tool's own commits will be by {name}, an agent's may fail",
            "`git config --global user.name NAME` and `git config --global user.email ADDRESS`",
        )


def configuration(scene: Scene) -> Iterator[Finding]:
    """Load the configuration; name what has no effect, and variables that nobody reads."""
    yield from (refused("configuration", error) for error in scene.unknown.values())
    resolved = scene.resolved
    for warning in resolved.warnings:
        yield Finding("configuration", Level.WARNING, warning, "correct it, or delete the line")
    yield from _programs(scene)
    if scene.file is None:
        yield Finding(
            "configuration",
            Level.ADVICE,
            f"there is no {FILE}: every setting has its default",
            "`orchestrator init` writes one, with prompts and a state",
        )
    else:
        yield Finding("configuration", Level.OK, f"{scene.file} can be read")


def _programs(scene: Scene) -> Iterator[Finding]:
    """Look for what is started beside agents: the command that tells a person, and the first word of every gate."""
    config, path = scene.config, scene.environment.get("PATH")
    told = config.notify.command
    if told and located(told[0], scene.root, path) is None:
        found = f"notify.command: {told[0]!r} was not found, or is not executable: nobody would be told"
        yield Finding("configuration", Level.WARNING, found, "correct `notify.command`, or `chmod +x` it")
    for actor in Actor:
        for gate in config.actors.of(actor).gates:
            word = next((word for word in gate.split() if not _ASSIGNED.match(word)), "")
            if _PLAIN.fullmatch(word) and not _shell_knows(scene, word):
                found = f"actors.{actor}.gates: {word!r} was not found: `{gate}` would fail every turn"
                yield Finding("configuration", Level.WARNING, found, "install it, or correct the gate")


def _shell_knows(scene: Scene, word: str) -> bool:
    ask = ["/bin/sh", "-c", 'command -v "$1"', "sh", word]
    return scene.here.loop.run(Request(argv=ask, cwd=scene.root, env=for_agent(scene.environment))).code == 0


def prompts(scene: Scene) -> Iterator[Finding]:
    """Look at the file of every prompt that can come to run."""
    names, folder = routes(scene.config), scene.root / scene.config.prompts_dir
    needed = list(dict.fromkeys(prompt for _, prompt in jobs(scene.config)))
    found = [*_missing(scene, needed), *_unlisted(names, needed)]
    for name in needed:
        file = folder / name
        if file.is_file() and not file.read_bytes().strip():
            found.append(
                Finding("prompts", Level.WARNING, f"{file} is empty: an agent would be asked nothing", "write it")
            )
    yield from found or [Finding("prompts", Level.OK, f"{', '.join(needed)} in {folder}")]


def _missing(scene: Scene, needed: Sequence[str]) -> Iterator[Finding]:
    names, folder = routes(scene.config), scene.root / scene.config.prompts_dir
    choices = [name for name in names.allowed if name not in needed] if names.enabled and names.router else []
    missing, unsafe = ([name for name in some if not (folder / name).is_file()] for some in (needed, choices))
    if missing:
        remedy = "`orchestrator init` writes the usual ones; or correct the settings that name them"
        yield Finding("prompts", Level.PROBLEM, f"not in {folder}: {', '.join(missing)}", remedy)
    if unsafe:
        found = f"{names.router} may choose what is not in {folder}: {', '.join(unsafe)}"
        yield Finding("prompts", Level.WARNING, found, "write it, or take it from `router.allowlist`")


def _unlisted(names: Routes, needed: Sequence[str]) -> Iterator[Finding]:
    if unlisted := names.unlisted(needed):
        found = f"not on the allowlist ({', '.join(names.allowed)}): {', '.join(unlisted)}"
        yield Finding("prompts", Level.PROBLEM, found, "add it to `router.allowlist`, or name a listed one")


def disk(scene: Scene) -> Iterator[Finding]:
    """Measure the disks that a run writes to, and see that it may."""
    by_disk: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for what, folder in _written(scene).items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            level = Level.WARNING if what in {"logs", "temporary files"} else Level.PROBLEM
            instead = {"logs": ": no log will be kept", "temporary files": ": another folder will be used"}
            remedy = f"see `ls -ld {there}`: it must be a folder that you may write to"
            yield Finding("disk", level, f"{what} cannot be written below {there}{instead.get(what, '')}", remedy)
            continue
        device = there.stat().st_dev
        by_disk.setdefault(device, []).append(what)
        free[device] = shutil.disk_usage(there).free
    for device, names in by_disk.items():
        level = Level.PROBLEM if free[device] < NOTHING else Level.WARNING if free[device] < LITTLE else Level.OK
        remedy = "" if level is Level.OK else "make room: `df -h` shows the disks, `du -sh *` what is large"
        yield Finding("disk", level, f"{_size(free[device])} free for {', '.join(names)}", remedy)


def _written(scene: Scene) -> dict[str, Path]:
    folders = {"the project": scene.root}
    with suppress(OrchestrationError):
        folders["git's own files"] = scene.workspace.own
    with suppress(OrchestrationError):
        folders["logs"] = scene.root / scene.config.logs_dir
    return folders | {"temporary files": Path(scene.environment.get("TMPDIR") or "/tmp").absolute()}  # noqa: S108


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= LITTLE else f"{count >> 20} MiB"


def clock(scene: Scene) -> Iterator[Finding]:
    """Compare the machine's clock with the calendar, the last commit and the state."""
    now = scene.clock.now()
    remedy = "set the clock (`timedatectl` shows it), or wait"
    wrong = [] if now.year in _YEARS else [f"the machine's clock says {iso(now)}"]
    for what, moment in _moments(scene).items():
        if moment > now + _SKEW:
            wrong.append(f"{what} is dated {iso(moment)}, and here it is {iso(now)}: two clocks disagree")
    yield from (Finding("clock", Level.WARNING, text, remedy) for text in wrong)
    if not wrong:
        yield Finding("clock", Level.OK, iso(now))


def _moments(scene: Scene) -> dict[str, datetime]:
    moments: dict[str, datetime] = {}
    with suppress(OrchestrationError, ValueError):
        moments["the last commit"] = datetime.fromisoformat(scene.git.ask("log", "-1", "--format=%cI")).astimezone(UTC)
    with suppress(OrchestrationError, ValueError):
        moments["the state"] = datetime.fromisoformat(scene.view.state.last_update or "").astimezone(UTC)
    return moments


def file_events(scene: Scene) -> Iterator[Finding]:
    """See whether the system wakes a daemon when a file changes."""
    with watching(scene.workspace.own.parent, lambda: None) as given:
        if given:
            yield Finding("file events", Level.OK, "`stop` and `pause` are noticed at once")
            return
    yield Finding(
        "file events",
        Level.ADVICE,
        "the system has no file watch left: `stop` and `pause` are noticed after `sync.poll_interval` seconds",
        "`sudo sysctl fs.inotify.max_user_instances=512` gives more",
    )
