"""`init`: the files that a project needs, as one commit that touches nothing else; and taking them back."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from orchestration import config_schema, files, state
from orchestration.clock import Clock
from orchestration.environment import inherited
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.holder import CARD
from orchestration.journal import Journal
from orchestration.layers import FILE
from orchestration.lock import held, refuse_other_turns
from orchestration.process import Loop
from orchestration.settings import Config
from orchestration.tree import Change, File
from orchestration.workspace import Workspace, working_branch

TEMPLATES = Path(__file__).with_name("templates")
SUBJECT = "orchestrator init: two agents take turns here"
UNDO_SUBJECT = "orchestrator init --undo"
_REGULAR = "100644"
RULES = ("AGENTS.md", "CLAUDE.md")
"""Where projects keep what every agent must know."""

AGENTS = {
    "claude": ("[claude, -p, --dangerously-skip-permissions]", ""),
    "codex": (
        '[codex, exec, --skip-git-repo-check, --dangerously-bypass-approvals-and-sandbox, "-"]',
        "    stop: [INT 8, TERM 4, KILL]\n",
    ),
}
"""Command lines that read a prompt on standard input and may do anything that you may."""


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
    found = [name for name in AGENTS if shutil.which(name, path=path)]
    if found:
        default = f"  default: {found[0]:<36} # runs unsandboxed, as you: see agents.{found[0]}"
    else:
        default = "  # default: checklist                      # a name under agents:, `checklist`, or any executable"
    lines = ["agents:                                       # a command line that reads the prompt on standard input"]
    for name in found:
        command, more = AGENTS[name]
        lines.append(f"  {name}:\n    command: {command}\n{more}".rstrip())
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

    Args:
        place: the project; without git nothing is committed.
        config: its configuration, or the defaults.
        clock: dates the state.
        commit: False leaves the files uncommitted.
        agent: the default agent to write, instead of what is installed.

    Raises:
        Refused: HEAD is detached, or a turn is in progress.

    """
    with held(place, clock.now()), Loop(clock) as loop:
        Journal(place.journal).between_turns()
        refuse_other_turns(place, config.state_file)
        git = Git(loop, place.top, inherited())
        branch = working_branch(git) if place.git else None
        wanted = contents(config, branch, clock, inherited())
        if agent:
            wanted[FILE] = _with_agent(wanted[FILE].decode(), agent).encode()
        fresh = {path: data for path, data in wanted.items() if not (place.root / path).exists()}
        for path, data in fresh.items():
            files.create(place.root / path, data)
        made = _commit_fresh(git.with_identity(), place, branch, wanted, fresh) if commit and branch else None
        rules = [name for name in RULES if (place.root / name).is_file()]
        return Scaffold(sorted(fresh), sorted(set(wanted) - set(fresh)), made, rules)


def _commit_fresh(
    git: Git, place: Workspace, branch: str, wanted: Mapping[str, bytes], fresh: Collection[str]
) -> str | None:
    """Commit what was written now, or earlier and left uncommitted."""
    committed = set(git.tracked([place.in_git(path) for path in wanted]))
    pending = {
        place.in_git(path): (place.root / path).read_bytes()
        for path, data in sorted(wanted.items())
        if place.in_git(path) not in committed and (path in fresh or _as_written(place.root / path, data))
    }
    return _commit(git, git.resolve("HEAD^{commit}"), branch, pending) if pending else None


def undo(place: Workspace, config: Config, clock: Clock) -> Scaffold:
    """Remove what `init` wrote and nobody changed since, and the state, in one commit; drop our own folder.

    Logs and rescue refs stay: they may hold work.

    Raises:
        Refused: HEAD is detached, or a turn is in progress.

    """
    with held(place, clock.now()), Loop(clock) as loop:
        Journal(place.journal).between_turns()
        refuse_other_turns(place, config.state_file)
        git = Git(loop, place.top, inherited())
        branch = working_branch(git) if place.git else None
        wanted = {place.in_git(path): data for path, data in contents(config, branch, clock, inherited()).items()}
        state_file = place.in_git(config.state_file)  # ours whatever it holds
        there = _there(git, place, wanted)
        ours = [path for path in there if path == state_file or _untouched(git, place, path, wanted[path])]
        made = _remove(git.with_identity(), branch, ours) if branch and ours else None
        for path in ours:
            (place.top / path).unlink(missing_ok=True)
            _remove_empty((place.top / path).parent, place.root)
        for thing in place.own.iterdir():
            if thing.name not in {"lock", CARD}:
                shutil.rmtree(thing) if thing.is_dir() else thing.unlink()
        if not place.git:
            shutil.rmtree(place.own)
            _remove_empty(place.own.parent, place.root)
        return Scaffold(ours, sorted(set(there) - set(ours)), made)


def _there(git: Git, place: Workspace, paths: Collection[str]) -> list[str]:
    """Return those of our paths that are committed, or, without git, that exist."""
    if not place.git:
        return [path for path in paths if (place.top / path).is_file()]
    tracked = set(git.tracked(list(paths)))
    return [path for path in paths if path in tracked]


def _remove(git: Git, branch: str, paths: Collection[str]) -> str | None:
    head = git.resolve("HEAD^{commit}")
    return _commit(git, head, branch, dict.fromkeys(paths)) if head else None


def _as_written(file: Path, data: bytes) -> bool:
    """Tell whether an uncommitted file is what `init` writes; a state's date does not matter."""
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


def _untouched(git: Git, place: Workspace, path: str, fresh: bytes) -> bool:
    """Tell whether a file is as `init` wrote it: its commit added it, or it holds what `init` would write now."""
    file = place.top / path
    if not place.git:
        return file.read_bytes() == fresh
    first = git.added_by(path)
    if first is None or not file.is_file():
        return False
    then, now = git.blobs([f"{first}:{path}", f"HEAD:{path}"])
    ours = then == fresh or git.ask("log", "-1", "--format=%s", first) == SUBJECT
    return ours and then == now == file.read_bytes()


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _commit(git: Git, head: str | None, branch: str, wanted: Mapping[str, bytes | None]) -> str:
    """Commit exactly these paths (None: removed) and give just them new index entries."""
    text = UNDO_SUBJECT if None in wanted.values() else SUBJECT
    commit = git.commit_files(head, [File(path, data) for path, data in wanted.items()], text + "\n")
    oids = git.ids([f"{commit}:{path}" for path in wanted])
    changes = [
        Change(_REGULAR, oid, path) if oid else Change("0", "0" * len(commit), path)
        for path, oid in zip(wanted, oids, strict=True)
    ]
    git.set_index(changes)
    if not git.update_ref(f"refs/heads/{branch}", commit, head or "", f"orchestrator: {text}"):
        raise Refused("the branch moved meanwhile", code="branch-moved", remedy="try again")
    return commit
