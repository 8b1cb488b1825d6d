"""`init`: the files that a project needs, as one commit that touches nothing else; and taking them back."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from orchestration import files, state
from orchestration.clock import Clock
from orchestration.config import FILE
from orchestration.environment import inherited
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.journal import Journal
from orchestration.lock import held
from orchestration.process import Loop
from orchestration.settings import Config
from orchestration.tree import Change, File
from orchestration.workspace import Workspace, working_branch

TEMPLATES = Path(__file__).with_name("templates")
SUBJECT = "orchestrator init: two agents take turns here"
UNDO_SUBJECT = "orchestrator init --undo"
_REGULAR = "100644"

AGENTS = {
    "claude": ("[claude, -p, --dangerously-skip-permissions]", ""),
    "codex": (
        '[codex, exec, --skip-git-repo-check, --dangerously-bypass-approvals-and-sandbox, "-"]',
        "    stop: [INT 8, TERM 4, KILL]\n",
    ),
}
"""Command lines that read a prompt on standard input and may do anything that you may."""


class Scaffold(NamedTuple):
    """What `init` did: files written, files that were there already, the commit if one was made."""

    written: list[str]
    kept: list[str]
    commit: str | None


def configuration(path: str | None) -> str:
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
    text = (TEMPLATES / FILE).read_text(encoding="utf-8")
    return text.replace("@DEFAULT@", default).replace("@AGENTS@", "\n".join(lines))


def contents(config: Config, branch: str, clock: Clock, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of a fresh set-up: project path → bytes."""
    prompts = {
        f"{config.prompts_dir}/{prompt.name}": prompt.read_bytes()
        for prompt in sorted((TEMPLATES / "prompts").iterdir())
    }
    return {
        FILE: configuration(environment.get("PATH")).encode(),
        **prompts,
        config.state_file: state.encode(state.initial(branch, clock.now())),
        f"{config.logs_dir}/.gitignore": (TEMPLATES / "logs.gitignore").read_bytes(),
    }


def init(workspace: Workspace, config: Config, clock: Clock, *, commit: bool, agent: str | None = None) -> Scaffold:
    """Write what is missing and commit exactly that, and what an earlier `init --no-commit` wrote.

    Args:
        workspace: the project.
        config: its configuration, or the defaults.
        clock: dates the state.
        commit: False leaves the files uncommitted.
        agent: the default agent to write, instead of what is installed.

    Raises:
        Refused: HEAD is detached, or a turn is in progress.

    """
    with held(workspace.own, clock.now()), Loop(clock) as loop:
        git = Git(loop, workspace.top, inherited()).with_identity()
        Journal(workspace.journal).between_turns()
        branch = working_branch(git)
        wanted = contents(config, branch, clock, inherited())
        if agent:
            wanted[FILE] = _with_agent(wanted[FILE].decode(), agent).encode()
        fresh = {path: data for path, data in wanted.items() if not (workspace.root / path).exists()}
        head = git.resolve("HEAD^{commit}")
        committed = set(git.tracked([workspace.in_git(path) for path in wanted]))
        for path, data in fresh.items():
            files.create(workspace.root / path, data)
        pending = {
            workspace.in_git(path): (workspace.root / path).read_bytes()
            for path, data in sorted(wanted.items())
            if workspace.in_git(path) not in committed
            and (path in fresh or _as_written(workspace.root / path, data, is_state=path == config.state_file))
        }
        made = _commit(git, head, branch, pending) if commit and pending else None
        return Scaffold(sorted(fresh), sorted(set(wanted) - set(fresh)), made)


def undo(workspace: Workspace, config: Config, clock: Clock) -> Scaffold:
    """Remove what `init` wrote and nobody changed since, and the state, in one commit; drop our folder in the git dir.

    Logs and rescue refs stay: they may hold work.

    Raises:
        Refused: HEAD is detached, or a turn is in progress.

    """
    with held(workspace.own, clock.now()), Loop(clock) as loop:
        git = Git(loop, workspace.top, inherited()).with_identity()
        Journal(workspace.journal).between_turns()
        branch = working_branch(git)
        head = git.resolve("HEAD^{commit}")
        fresh = contents(config, branch, clock, inherited())
        wanted = {workspace.in_git(path): data for path, data in fresh.items()}
        state_file = workspace.in_git(config.state_file)  # ours whatever it holds
        tracked = set(git.tracked(list(wanted)))
        ours = [
            path
            for path, data in wanted.items()
            if path in tracked and (path == state_file or _untouched(git, workspace, path, data))
        ]
        made = _commit(git, head, branch, dict.fromkeys(ours)) if head and ours else None
        for path in ours:
            (workspace.top / path).unlink(missing_ok=True)
            _remove_empty((workspace.top / path).parent, workspace.root)
        for thing in workspace.own.iterdir():
            if thing.name not in {"lock", "holder.json"}:
                shutil.rmtree(thing) if thing.is_dir() else thing.unlink()
        return Scaffold(ours, sorted(tracked - set(ours)), made)


def _as_written(file: Path, data: bytes, *, is_state: bool) -> bool:
    """Tell whether an uncommitted file is what `init` writes; the state's date does not matter."""
    if not is_state:
        return file.read_bytes() == data
    try:
        then, now = state.parse(data), state.parse(file.read_bytes())
    except Refused:
        return False
    return replace(now, last_update=None) == replace(then, last_update=None)


def _with_agent(text: str, agent: str) -> str:
    lines = text.splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if "default:" in line)
    return "".join([*lines[:place], f"  default: {agent}\n", *lines[place + 1 :]])


def _untouched(git: Git, workspace: Workspace, path: str, fresh: bytes) -> bool:
    """Tell whether a file is as `init` wrote it: its commit added it, or it holds what `init` would write now."""
    first = git.added_by(path)
    file = workspace.top / path
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
