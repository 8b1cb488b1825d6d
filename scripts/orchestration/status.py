"""One look at a clone: whose turn, since when, what happened last, what comes next and why, what is unusual."""

from datetime import UTC, datetime

import msgspec

from orchestration import standing
from orchestration.agents import choose
from orchestration.bus import Bus, View
from orchestration.buses import open_bus
from orchestration.ceilings import Counters, Meter, Spent
from orchestration.config import routes
from orchestration.control import Control, Request
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError, Refused, Unreachable
from orchestration.git import Git, operation_in
from orchestration.holder import Holder, read_holder
from orchestration.journal import Entry, Held, Idle, Journal, Posted, Running, Stamped, claim_of
from orchestration.prompt_context import USER_INPUT
from orchestration.router import RouteError, route, wants_override
from orchestration.settings import Config
from orchestration.standing import Ground
from orchestration.state import RUNNING, Actor, State
from orchestration.tree import Dirt
from orchestration.workspace import Workspace, branch_folder


class Next(msgspec.Struct, frozen=True):
    """What the next turn will run; `prompt` is None where a router prompt will choose it."""

    actor: Actor
    iteration: int
    prompt: str | None
    reason: str
    agent: str | None


class Progress(msgspec.Struct, frozen=True):
    """A turn in progress in this clone, from its journal; until when it waits for its agent's next attempt, and why."""

    actor: Actor
    iteration: int
    step: str
    claimed_at: str
    prompt: str | None
    waits_until: str | None = None
    waits_for: str | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `status` shows."""

    branch: str
    state: State
    daemon: Holder | None
    turn: Progress | None
    elsewhere: str | None
    last: str | None
    next: Next | None
    no_next: str
    unusual: list[str]
    logs: str | None
    spent: Counters
    waiting_words: int


def look(workspace: Workspace, config: Config, git: Git) -> Seen:
    """Gather the facts; reads only.

    Raises:
        Refused: there is no valid state.

    """
    if workspace.git:
        git.prepare()
    dirt = git.dirt() if workspace.git else None
    bus = open_bus(workspace, config, git, config.sync.branch or (dirt.branch if dirt else None))
    glance = git.glance(bus.branch, "refs/rescue/") if workspace.git else None
    entry = Journal(workspace.journal).read()
    bus, view, missed = _view(bus)
    meter, now = Meter(workspace.counters, config.limits), git.loop.clock.now()
    limit = meter.reached(now)
    missed += [f"a limit is reached: {limit.reason}; {limit.remedy}"] if limit else []
    coming, why_not = _next(workspace, config, view.state)
    latest = branch_folder(workspace.root / config.logs_dir, bus.branch) / "latest"
    unusual = _unusual(Ground(workspace, config, git, bus, entry))
    last, rescued = glance() if glance else (None, 0)
    return Seen(
        branch=bus.branch,
        state=view.state,
        daemon=read_holder(workspace.own),
        turn=_progress(entry),
        elsewhere=_elsewhere(bus, view.state),
        last=last,
        next=coming,
        no_next=why_not,
        unusual=missed + unusual + (_in_git(workspace, entry, dirt, rescued) if dirt else []),
        logs=str(latest.relative_to(workspace.root)) if latest.exists() else None,
        spent=meter.read(now),
        waiting_words=len(list(workspace.word.glob("*.md"))),
    )


def _view(bus: Bus) -> tuple[Bus, View, list[str]]:
    """Return what the bus shows; where a remote does not answer, what this clone knows, and why."""
    try:
        return bus, bus.look(), []
    except Unreachable as trouble:
        known = bus.offline()
        return known, known.look(), [f"the remote was not reached: {trouble.message}; {trouble.remedy}"]


def _elsewhere(bus: Bus, now: State) -> str | None:
    """Return who runs the turn in another clone, and for how long."""
    try:
        wait = bus.elsewhere(now) if now.status in RUNNING.values() else None
    except Refused:
        return None  # what would refuse a start is told already
    return wait.why if wait else None


def _progress(entry: Entry) -> Progress | None:
    claim = claim_of(entry)
    if claim is None:
        return None
    prompt = entry.decision.prompt if isinstance(entry, Running) and entry.decision else None
    waits = (entry.until, entry.why) if isinstance(entry, Held) else (None, None)
    return Progress(claim.actor, claim.iteration, type(entry).__name__.lower(), claim.claimed_at, prompt, *waits)


def _next(workspace: Workspace, config: Config, state: State) -> tuple[Next | None, str]:
    actor, iteration, names = state.expected_actor, state.iteration, routes(config)
    folder = workspace.root / config.prompts_dir
    if wants_override(names, actor) and names.router:
        return Next(actor, iteration, None, f"{names.router} will choose", None), ""
    try:
        decision = route(actor, iteration, names, None, lambda name: (folder / name).is_file())
    except RouteError as error:
        return None, error.message
    try:
        agent = choose(config, actor, decision.prompt, workspace.root, inherited()).name
    except OrchestrationError:
        agent = None
    return Next(actor, iteration, decision.prompt, decision.reason, agent), ""


def _unusual(ground: Ground) -> list[str]:
    place, running = ground.place, any(read_holder(folder) for folder in ground.place.locks)
    refusals = [] if running else list(standing.refusals(ground))
    found = [f"{error.message.partition(chr(10))[0]}; {error.remedy}" for error in refusals]
    if Control(place.control).stands(Request.PAUSE):
        found.append(f"paused; `orchestrator resume{place.option}` lets it go on")
    if isinstance(ground.entry, Posted) and not running:
        found.append("a decision was cut short; the next start finishes it first")
    elif isinstance(ground.entry, Stamped) and not running and not refusals:
        found.append("a hand-off is made and not yet published; the next start publishes it")
    elif not isinstance(ground.entry, Idle) and not running and not refusals:
        found.append("a turn is in progress and no daemon runs; the next start goes on with it")
    return found


def _in_git(workspace: Workspace, entry: Entry, dirt: Dirt, rescued: int) -> list[str]:
    found: list[str] = []
    operation = operation_in(workspace.own.parent)
    if operation:
        found.append(f"a {operation} is in progress")
    if dirt.tracked and isinstance(entry, Idle) and not read_holder(workspace.own):
        found.append(f"changed and not committed: {', '.join(dirt.tracked[:5])}{' ...' if dirt.tracked[5:] else ''}")
    if rescued:
        found.append(f"{rescued} rescue ref{'s' * (rescued != 1)}: `orchestrator rescue list`")
    return found


def text(seen: Seen, now: datetime) -> str:
    """Return the one screen."""
    state = seen.state
    status = "running" if seen.turn and seen.daemon else state.status  # a turn here is claimed in the journal alone
    rows = [("turn", f"{state.expected_actor}, iteration {state.iteration} ({status}) on {seen.branch}")]
    if state.last_update:
        rows.append(("since", f"{state.last_update}{_ago(state.last_update, now)}"))
    rows += _turn(seen, now)
    daemon = f"process {seen.daemon.pid}{_ago(seen.daemon.since, now)}" if seen.daemon else "not running"
    rows.append(("daemon", daemon))
    if seen.last:
        rows.append(("last", seen.last))
    if seen.turn and seen.daemon:
        rows.append(("next", f"{seen.turn.actor.other}, when this turn has ended"))
    elif seen.next:
        agent = f", agent {seen.next.agent}" if seen.next.agent else ""
        rows.append(("next", f"{seen.next.prompt or 'to be chosen'}: {seen.next.reason}{agent}"))
    else:
        rows.append(("next", f"nothing can run: {seen.no_next}"))
    if seen.spent.today.turns:
        rows.append(("today", _spent(seen.spent.today)))
    if seen.waiting_words:
        rows.append(("word", f"{seen.waiting_words} to be added to {USER_INPUT} between two turns"))
    rows.append(("logs", seen.logs or "none yet"))
    rows += [("unusual" if number == 0 else "", row) for number, row in enumerate(seen.unusual)]
    return "\n".join(f"{name:<8}{value}" for name, value in rows)


def _turn(seen: Seen, now: datetime) -> list[tuple[str, str]]:
    """Return what is told of a turn in progress."""
    rows: list[tuple[str, str]] = []
    if seen.turn:
        prompt = f" {seen.turn.prompt}" if seen.turn.prompt else ""
        rows.append(("now", f"{seen.turn.actor}{prompt}: {seen.turn.step}, claimed{_ago(seen.turn.claimed_at, now)}"))
        if seen.turn.waits_until:
            rows.append(("", f"{seen.turn.waits_for}; the next attempt begins{_in(seen.turn.waits_until, now)}"))
    elif seen.elsewhere:
        rows.append(("now", seen.elsewhere))
        if "takeover" not in seen.elsewhere:
            rows.append(("", f"if that machine is gone: `orchestrator takeover --nonce {seen.state.nonce}`"))
    return rows


def _spent(spent: Spent) -> str:
    cost = f", {spent.cost_usd:.2f} USD" if spent.cost_usd else ""
    return f"{spent.turns} turn{'s' * (spent.turns != 1)}{cost}" + (
        f", {spent.tokens:,} tokens" if spent.tokens else ""
    )


def _ago(moment: str, now: datetime) -> str:
    try:
        seconds = int((now - datetime.fromisoformat(moment).astimezone(UTC)).total_seconds())
    except ValueError:
        return ""
    return f" ({_length(seconds)} ago)"


def _in(moment: str, now: datetime) -> str:
    seconds = int((datetime.fromisoformat(moment) - now).total_seconds())
    return f" in {_length(seconds)} ({moment})" if seconds > 0 else " now"


def _length(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
