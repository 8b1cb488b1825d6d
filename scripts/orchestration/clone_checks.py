"""The doctor's checks of how this clone stands: repository, branch, state, locks, what an earlier turn left."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestration import standing
from orchestration.collect import Rules, listed
from orchestration.control import Control, Request
from orchestration.errors import ExitCode, OrchestrationError
from orchestration.findings import Finding, Level, Scene, refused
from orchestration.git import Git
from orchestration.git_work import to_tidy
from orchestration.halt import Wait
from orchestration.holder import read_holder
from orchestration.journal import Claim, Idle, Posted, claim_of
from orchestration.reaper import survivors
from orchestration.remote_bus import RemoteBus
from orchestration.sharing import obstacles
from orchestration.stale_locks import locks as locks_of_git
from orchestration.stale_locks import others
from orchestration.standstill import require_own, standstill
from orchestration.workspace import refuse_links, refuse_operation, require_branch


def repository(scene: Scene) -> Iterator[Finding]:
    """Find a work tree that git trusts, with its history."""
    place = scene.workspace
    if not place.git:
        yield Finding("repository", Level.OK, f"none is needed: the turn lives in {scene.config.state_file} alone")
        return
    inside = "" if place.root == place.top else f", the project in {place.root.relative_to(place.top)}"
    yield Finding("repository", Level.OK, f"{place.top}{inside}")
    if scene.git.ask("rev-parse", "--is-shallow-repository") == "true":
        yield Finding(
            "repository",
            Level.ADVICE,
            "the clone is shallow: an agent that reads, reverts or rebases older commits will not find them",
            "`git fetch --unshallow`",
        )


def branch(scene: Scene) -> Iterator[Finding]:
    """See that the working branch is checked out, and whether it is everybody's."""
    if not scene.workspace.git:
        yield Finding("branch", Level.OK, "none is needed")
        return
    wanted, current = scene.branch, scene.git.branch()
    try:
        refuse_operation(scene.git)
    except OrchestrationError as error:
        yield refused("branch", error)
    try:
        require_branch(scene.git, wanted, current)
    except OrchestrationError as error:
        if not scene.git.resolve(f"refs/heads/{wanted}"):
            raise
        yield refused("branch", error)
        return
    if wanted in {"main", "master", *_defaults(scene)}:
        yield Finding(
            "branch",
            Level.ADVICE,
            f"{wanted} is the branch that others build on; unattended work is easier to review on one of its own",
            f"`{_own_branch(scene)}`",
        )
    else:
        yield Finding("branch", Level.OK, wanted)


def _defaults(scene: Scene) -> list[str]:
    """Return the default branches of the remotes, as far as this clone knows them."""
    rows = scene.git.ask("for-each-ref", "--format=%(symref:lstrip=3)", "refs/remotes/*/HEAD")
    return rows.splitlines()


def _own_branch(scene: Scene) -> str:
    """Return the command for a branch of its own; a committed state belongs to its branch and is taken over."""
    try:
        known = scene.view.state.branch
    except OrchestrationError:
        known = None
    return "git switch -c agents" + (" && orchestrator init --adopt" if known else "")


def state(scene: Scene) -> Iterator[Finding]:
    """Read the committed state, and say what stands in the way of the next turn."""
    now = scene.view.state
    require_own(now, scene.branch)
    refuse_links(scene.workspace, scene.config.state_file, scene.config.logs_dir)
    halt = standstill(scene.bus, now)
    option = scene.workspace.option
    paused = Control(scene.workspace.control).stands(Request.PAUSE)
    if isinstance(halt, Wait):
        yield Finding("state", Level.OK, halt.why)
    elif halt:
        level = Level.WARNING if halt.exit_code is ExitCode.OK else Level.PROBLEM
        yield Finding("state", level, halt.reason, halt.remedy)
    if paused:
        yield Finding(
            "state", Level.WARNING, "paused: a run would wait", f"`orchestrator resume{option}` lets it go on"
        )
    if not (halt or paused):
        yield Finding("state", Level.OK, f"{now.expected_actor}, iteration {now.iteration} ({now.status})")


def sharing(scene: Scene) -> Iterator[Finding]:
    """See that the remote can be reached, read and written, where the turn is shared through it."""
    bus = scene.bus
    if not isinstance(bus, RemoteBus):
        yield Finding("sharing", Level.OK, "the turn is not shared with other clones")
        return
    yield from (refused("sharing", obstacle) for obstacle in obstacles(scene.git, bus.remote.name))
    tip = bus.remote.tip()
    trouble = bus.remote.try_push(tip)
    if trouble:
        yield Finding("sharing", Level.PROBLEM, f"nothing can be pushed: {trouble.text}", trouble.remedy)
    here = scene.git.resolve(f"refs/heads/{scene.branch}") or tip
    if not scene.git.is_ancestor(here, tip) and isinstance(scene.entry, Idle):
        push = f"`git push {bus.remote.name} {scene.branch}`"
        yield Finding("sharing", Level.PROBLEM, f"{scene.branch} has commits that {bus.remote.name} lacks", push)
    if (scene.git.top / ".gitmodules").is_file():
        found = "submodules: their commits are neither pushed nor fetched with the turn"
        yield Finding("sharing", Level.ADVICE, found, "push them first; `git push --recurse-submodules=check` tells")
    yield Finding("sharing", Level.OK, f"{bus.remote.name} has {scene.branch} at {tip[:10]}")


def locks(scene: Scene) -> Iterator[Finding]:
    """See who holds this clone, and which locks of git nobody holds any more."""
    holder = read_holder(scene.workspace.own)
    if holder:
        yield Finding(
            "locks",
            Level.ADVICE,
            f"process {holder.pid} holds this clone since {holder.since}: a second start exits 7",
            "`orchestrator status` shows it; `orchestrator stop` ends it after its turn",
        )
    standing = locks_of_git(scene.git, scene.branch) if scene.workspace.git else []
    yield from (_lock(scene, path) for path in standing)
    if not (holder or standing):
        yield Finding("locks", Level.OK, "nobody holds this clone")


def _lock(scene: Scene, path: Path) -> Finding:
    git_processes = others(scene.git)
    if git_processes:
        pids = ", ".join(map(str, sorted(git_processes)))
        return Finding("locks", Level.ADVICE, f"a git works here ({pids}) and holds {path}", "let it end")
    claim = claim_of(scene.entry)
    if claim and path.stat().st_mtime >= datetime.fromisoformat(claim.claimed_at).timestamp():
        return Finding("locks", Level.ADVICE, f"{path} is left of {claim.name}", "the next start removes it")
    return Finding("locks", Level.PROBLEM, f"a git has died and left {path}", f"`rm {path}`")


def leftovers(scene: Scene) -> Iterator[Finding]:
    """Name what an earlier turn or a person left: a turn in progress, processes, changed files, rescue refs."""
    if read_holder(scene.workspace.own):
        yield Finding("leftovers", Level.OK, "a daemon runs, and what lies here may be its turn's")
        return
    claim = claim_of(scene.entry)
    in_git = [*_changed(scene), *_rescued(scene)] if scene.workspace.git else []
    found = [*_open_turn(scene, claim), *_processes(scene, claim), *in_git]
    yield from found or [Finding("leftovers", Level.OK, "nothing is left of an earlier turn")]


def _open_turn(scene: Scene, claim: Claim | None) -> Iterator[Finding]:
    ground = standing.Ground(scene.workspace, scene.config, scene.git, scene.bus, scene.entry)
    refusals = list(standing.of_turns(ground))
    yield from (refused("leftovers", error) for error in refusals)
    if claim and not refusals:
        text, again = (
            f"{claim.name} is in progress and no daemon runs",
            f"`orchestrator run{ground.place.option} --once`",
        )
        yield Finding("leftovers", Level.ADVICE, text, f"the next start goes on with it: {again}")


def _processes(scene: Scene, claim: Claim | None) -> Iterator[Finding]:
    """Look for what carries the stamp of the turn in progress, or of the last one."""
    stamps = {claim.stamp} if claim else set[str]()
    with suppress(OrchestrationError):
        stamps |= {scene.view.state.nonce or ""} - {""}
    alive = sorted({pid for stamp in stamps for pid in survivors(stamp)})
    if alive:
        pids = " ".join(map(str, alive))
        remedy = "the next start ends them" if claim else f"see `ps -fp {pids}`; `kill {pids}` ends them"
        yield Finding("leftovers", Level.WARNING, f"processes of an earlier turn still live: {pids}", remedy)


def _changed(scene: Scene) -> Iterator[Finding]:
    """Name the changed tracked files that would refuse the start (`admission`'s rule)."""
    entry = scene.entry.before if isinstance(scene.entry, Posted) else scene.entry
    if not isinstance(entry, Idle) or scene.config.allow_dirty:
        return
    rules = Rules(scene.config, scene.workspace)
    paths = [path for path in scene.git.dirt().tracked if rules.inside(path) is not None]
    if paths and entry.carry:
        now = scene.view.state
        again = entry.carry.is_for(now.expected_actor, now.iteration)
        paths = [] if again else _changed_since(scene.git, entry.carry.kept, paths)
    if paths:
        yield Finding(
            "leftovers",
            Level.PROBLEM,
            f"tracked files are changed and not committed: {listed(paths)}",
            to_tidy(paths, scene.git.top, rules.state),
        )


def _changed_since(git: Git, tree: str, paths: Sequence[str]) -> list[str]:
    """Return the paths that are not as in a tree; a copy of the index takes what git writes when it compares."""
    real = git.top / git.ask("rev-parse", "--git-path", "index")
    with TemporaryDirectory() as folder:
        index = Path(shutil.copy2(real, folder))
        told = git.ask("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", tree, "--", *paths, index=index)
    return [path for path in told.split("\0") if path]


def _rescued(scene: Scene) -> Iterator[Finding]:
    count = len(scene.git.refs("refs/rescue/"))
    if count:
        text = f"{count} rescue ref{'s' * (count != 1)} of earlier turns"
        yield Finding("leftovers", Level.ADVICE, text, "`orchestrator rescue list` names them, `rescue show` shows one")
