"""`init`: the files that a project needs, as one commit that touches nothing else; and taking them back."""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from orchestration import config_schema, failpoints, files, presets, state
from orchestration.clock import Clock
from orchestration.environment import inherited
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.holder import CARD
from orchestration.journal import Journal
from orchestration.layers import FILE
from orchestration.lock import held
from orchestration.process import Loop
from orchestration.settings import Config
from orchestration.standstill import refuse_other_turns
from orchestration.tree import REGULAR, Change, File
from orchestration.workspace import Workspace, other_journals, refuse_operation, working_branch

TEMPLATES = Path(__file__).with_name("templates")
SUBJECT = "orchestrator init: two agents take turns here"
UNDO_SUBJECT = "orchestrator init --undo"
RULES = ("AGENTS.md", "CLAUDE.md")
"""Where projects keep what every agent must know."""


class Scaffold(NamedTuple):
    """What `init` did: files written, files that were there already, the commit if one was made.

    `rules` are the project's own instructions for agents, which the prompts point to.
    """

    written: list[str]
    kept: list[str]
    commit: str | None
    rules: Sequence[str] = ()


def configuration(path: str | None, *, git: bool = True) -> str:
    """Return orchestration.yaml, with the agents that are installed on `path` spelled out."""
    known = presets.load()
    found = [name for name, preset in known.items() if shutil.which(preset.command[0], path=path)]
    if found:
        default = f"  default: {found[0]:<36} # asks nobody, as you; agents.{found[0]}.wrap: a sandbox"
    else:
        default = "  # default: checklist                      # a name under agents:, `checklist`, or any executable"
    lines = ["agents:                                       # a command line that reads the prompt on standard input"]
    lines += [f"  {name}:\n    command: [{', '.join(known[name].command)}]" for name in found]
    lines.append("  # mine: {command: [./my-agent.sh, --fast], timeout: 3600}")
    sync = "# sync: {git: true}                         # false: the turn lives in the state file alone"
    if not git:
        sync = "sync: {git: false}                           # the turn lives in the state file alone"
    text = (TEMPLATES / FILE).read_text(encoding="utf-8")
    return text.replace("@DEFAULT@", default).replace("@AGENTS@", "\n".join(lines)).replace("@SYNC@", sync)


def contents(config: Config, branch: str | None, clock: Clock, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of a fresh set-up: project path → bytes."""
    prompts = {
        f"{config.prompts_dir}/{prompt.name}": prompt.read_bytes()
        for prompt in sorted((TEMPLATES / "prompts").iterdir())
    }
    return {
        FILE: configuration(environment.get("PATH"), git=branch is not None).encode(),
        config_schema.FILE: config_schema.text().encode(),
        **prompts,
        config.state_file: state.encode(state.initial(branch, clock.now())),
        f"{config.logs_dir}/.gitignore": (TEMPLATES / "logs.gitignore").read_bytes(),
    }


def init(place: Workspace, config: Config, clock: Clock, *, commit: bool, agent: str | None = None) -> Scaffold:
    """Write what is missing and commit exactly that, and what an earlier `init --no-commit` wrote.

    What HEAD has is not missing, even where it is deleted in the work tree: that is a person's change.

    Args:
        place: the project; without git nothing is committed.
        config: its configuration, or the defaults.
        clock: dates the state.
        commit: False leaves the files uncommitted.
        agent: the default agent to write, instead of what is installed.

    Raises:
        Refused: HEAD is detached, an operation or a turn is in progress, or something stands where a file belongs.

    """
    with held(place, clock.now()), Loop(clock) as loop:
        git, branch = _ground(place, loop)
        refuse_other_turns(place, config.state_file)
        wanted = contents(config, branch, clock, inherited())
        if agent:
            wanted[FILE] = _with_agent(wanted[FILE].decode(), agent).encode()
        committed = _committed(git, place, wanted)
        missing = [path for path in wanted if path not in committed and not os.path.lexists(place.root / path)]
        for path in wanted:
            _require_room(place, path, new=path in missing)
        for path in missing:
            files.create(place.root / path, wanted[path])
            failpoints.hit("init.written")
        mine = [
            path for path, data in sorted(wanted.items()) if path not in committed and _as_left(place.root, path, data)
        ]
        made = None
        if commit and branch and mine:
            pending = {place.in_git(path): (place.root / path).read_bytes() for path in mine}
            made = _commit(git, branch, pending, SUBJECT)
        rules = [name for name in RULES if (place.root / name).is_file()]
        return Scaffold(sorted(missing), sorted(set(wanted) - set(missing)), made, rules)


def undo(place: Workspace, config: Config, clock: Clock) -> Scaffold:
    """Remove what `init` wrote and nobody changed since, and the state, in one commit; drop our own folder.

    Logs and rescue refs stay: they may hold work.

    Raises:
        Refused: HEAD is detached, or an operation or a turn is in progress.

    """
    with held(place, clock.now()), Loop(clock) as loop:
        git, branch = _ground(place, loop)
        others = other_journals(place, config.state_file)
        refuse_other_turns(place, config.state_file)
        wanted = contents(config, branch, clock, inherited())
        committed = _committed(git, place, wanted)
        there = [path for path in sorted(wanted) if path in committed or (place.root / path).is_file()]
        always = {config.state_file} & (committed if place.git else set(there))  # whatever it holds
        ours = [path for path in there if path in always or _is_ours(git, place, path, wanted[path])]
        if any(path.name != ".gitignore" for path in (place.root / config.logs_dir).glob("*")):
            ours = [path for path in ours if path != f"{config.logs_dir}/.gitignore"]  # who commits logs by mistake?
        for path in ours:  # before the commit: a crash here leaves what the next `undo` knows for its own
            (place.root / path).unlink(missing_ok=True)
            _remove_empty((place.root / path).parent, place.root)
            failpoints.hit("undo.removed")
        made = _take_back(git, place, branch, ours, committed) if branch and ours else None
        _drop_own(place, others)
        return Scaffold(ours, [path for path in there if path not in ours], made)


def _ground(place: Workspace, loop: Loop) -> tuple[Git, str | None]:
    """Return the verbs, and the branch to commit on: none without git."""
    Journal(place.journal).between_turns()
    git = Git(loop, place.top, inherited())
    if not place.git:
        return git, None
    refuse_operation(git)
    return git.with_identity(), working_branch(git)


def _committed(git: Git, place: Workspace, paths: Iterable[str]) -> set[str]:
    """Return those of our paths that HEAD has."""
    if not place.git:
        return set()
    names = {place.in_git(path): path for path in paths}
    return {names[name] for name in git.tracked(list(names))}


def _require_room(place: Workspace, path: str, *, new: bool) -> None:
    """Refuse where a file cannot be, or where git would not find it.

    Raises:
        Refused: a folder, or, for a `new` file, what is no folder of this repository in its folder's place.

    """
    file = place.root / path
    inside = [place.root / folder for folder in Path(path).parents][:-1] if new else []
    for folder in reversed(inside):
        if folder.is_symlink() and place.git:
            raise _taken(place, folder, "a symbolic link, and git holds no file behind one")
        if os.path.lexists(folder) and not folder.is_dir():
            raise _taken(place, folder, f"a file, and {path} needs a folder there")
        if (folder / ".git").exists():
            raise _taken(place, folder, "a repository of its own")
    if file.is_dir():
        raise _taken(place, file, "a folder, and a file is needed there")


def _taken(place: Workspace, path: Path, what: str) -> Refused:
    keys = "`prompts_dir`, `state_file` and `logs_dir`"
    return Refused(
        f"{path.relative_to(place.root)} is {what}",
        code="path-taken",
        remedy=f"move it, or name another place: {keys} in {FILE}",
    )


def _drop_own(place: Workspace, others: Collection[Path]) -> None:
    """Drop our own folder, but for the lock that is held; where other projects use it, only what is this one's.

    They share its requests: a pause holds them too.
    """
    folder = place.journal.parent
    if any(path.is_relative_to(place.own) and path.parent != folder for path in others):
        for pattern in ("journal*.json", "notified*.json", "counters.*"):
            for file in folder.glob(pattern):
                file.unlink()
        return
    if not place.git:
        shutil.rmtree(place.own)
        _remove_empty(place.own.parent, place.root)
        return
    for thing in place.own.iterdir():
        if thing.name not in {"lock", CARD}:
            shutil.rmtree(thing) if thing.is_dir() else thing.unlink()


def _as_left(root: Path, path: str, data: bytes) -> bool:
    """Tell whether an uncommitted file, where git would find it, is what `init` writes; a state's date is nothing."""
    file = root / path
    if not file.is_file() or file.resolve() != root.resolve() / path:  # a link in its place, or on the way to it
        return False
    there = file.read_bytes()
    try:
        then, now = state.parse(data), state.parse(there)
    except Refused:
        return there == data
    return replace(now, last_update=None) == replace(then, last_update=None)


def _with_agent(text: str, agent: str) -> str:
    lines = text.splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if "default:" in line)
    return "".join([*lines[:place], f"  default: {agent}\n", *lines[place + 1 :]])


def _is_ours(git: Git, place: Workspace, path: str, fresh: bytes) -> bool:
    """Tell whether a file is as `init` wrote it: not committed, or in the commit that added it; or gone since."""
    name, file = place.in_git(path), place.root / path
    now = git.blobs([f"HEAD:{name}"])[0] if place.git else None
    if now is None:
        return _as_left(place.root, path, fresh)
    first = git.added_by(name)
    if first is None:
        return False
    then = git.blobs([f"{first}:{name}"])[0]
    ours = then == fresh or git.ask("log", "-1", "--format=%s", first) == SUBJECT
    if not ours or then != now:
        return False
    if not os.path.lexists(file) or (file.is_file() and file.read_bytes() == now):
        return True
    return name not in git.dirt().tracked  # a checkout may have made other line ends


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and not (folder.is_dir() and any(folder.iterdir())):
        if folder.is_dir():
            folder.rmdir()
        folder = folder.parent


def _take_back(git: Git, place: Workspace, branch: str, ours: Collection[str], committed: set[str]) -> str | None:
    """Commit the removal of what was committed; what an interrupted `init` had only staged is staged no more."""
    names = [place.in_git(path) for path in ours]
    if committed.isdisjoint(ours):
        git.unset_index(names)
        return None
    return _commit(git, branch, dict.fromkeys(names), UNDO_SUBJECT)


def _commit(git: Git, branch: str, wanted: Mapping[str, bytes | None], text: str) -> str:
    """Commit exactly these paths (None: removed) and give just them new index entries.

    Index first: a crash between the two leaves them staged, and the next `init` commits them. The other way round the
    index would lack what HEAD has, and the person's next commit would take it away.
    """
    head = git.resolve("HEAD^{commit}")
    commit = git.commit_files(head, [File(path, data) for path, data in wanted.items()], text + "\n")
    failpoints.hit("init.before_index")
    removed = [path for path, data in wanted.items() if data is None]
    if removed:
        git.unset_index(removed)
    else:
        oids = git.ids([f"{commit}:{path}" for path in wanted])
        git.set_index([Change(REGULAR, oid or "", path) for path, oid in zip(wanted, oids, strict=True)])
    failpoints.hit("init.before_ref")
    if not git.update_ref(f"refs/heads/{branch}", commit, head or "", f"orchestrator: {text}"):
        raise Refused("the branch moved meanwhile", code="branch-moved", remedy="try again")
    failpoints.hit("init.after_ref")
    return commit
