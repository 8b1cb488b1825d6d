"""`run --dry-run`: what the next turn would do, by the same rules; no agent is run, no ref or file written."""

import shlex

import msgspec

from orchestration import agents, standing
from orchestration.agents import Agent
from orchestration.bus import Bus, View
from orchestration.buses import open_bus, require_configured
from orchestration.clock import Clock
from orchestration.collect import Collector, Trees, listed
from orchestration.config import Resolved, routes
from orchestration.control import Control, Request
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError
from orchestration.git import Git
from orchestration.git_work import GitWork
from orchestration.holder import read_holder
from orchestration.journal import (
    Checked,
    Claiming,
    Entry,
    Idle,
    Journal,
    Judged,
    Posted,
    Ran,
    Routed,
    Running,
    Stamped,
    claim_of,
    turn_of,
)
from orchestration.process import Loop, Why
from orchestration.recall import recalled
from orchestration.router import Decision, route, wants_override
from orchestration.runner import Runner
from orchestration.settings import Config, Leftovers
from orchestration.standing import Ground
from orchestration.state import Actor, State, Token, subject, succeeded
from orchestration.verdict import Judge
from orchestration.workspace import Workspace

_POLICY = {
    Leftovers.COMMIT: "committed for the actor, with their names in the subject",
    Leftovers.FAIL: "documents and reports are committed, any other file fails the turn",
    Leftovers.KEEP: "documents and reports are committed, any other file stays, and is kept in a rescue ref",
}


class Uncommitted(msgspec.Struct, frozen=True):
    """Files that are uncommitted now: the person's, and what an interrupted turn has left, allowed by a rule or not."""

    left_alone: list[str] = []
    allowed: list[str] = []
    rest: list[str] = []


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What a start would do now; `blocked` says why no turn would begin.

    `goes_on`: a turn is in progress; where its agent has ended, that one is not run again.
    `hand_off` is the subject of the commit that ends the turn in success, None without git.
    """

    branch: str
    iteration: int
    actor: Actor
    goes_on: bool
    agent_ended: bool
    prompt: str
    reason: str
    agent: str
    argv: list[str]
    folder: str
    timeout: float | None
    leftovers: Leftovers
    scope: list[str]
    gates: list[str]
    hand_off: str | None
    uncommitted: Uncommitted
    blocked: str | None
    remedy: str | None


def rehearse(place: Workspace, resolved: Resolved, clock: Clock) -> Rehearsal:
    """Return what the next start would do.

    Raises:
        OrchestrationError: no state, prompt or agent: no turn can be named.

    """
    config = resolved.config
    with Loop(clock) as loop:
        git = Git(loop, place.top, inherited())
        entry = Journal(place.journal).read()
        claim = claim_of(entry)
        if place.git and not claim:
            require_configured(git, config)
        bus = open_bus(place, config, git, claim.branch if claim else None)
        view = _view(bus, entry)
        state = view.state
        actor = state.expected_actor
        agents.all_of(config, place.root, inherited())
        prompt, reason, agent = _choice(place, config, state, _decision(entry))
        judge = Judge(git, place, bus, config, lambda *_: None)
        ground = Ground(place, config, git, bus, entry)
        refusal = _refusal(ground, GitWork(git, judge, config, bus.branch), view)
        uncommitted = _uncommitted(ground, judge.collector, state) if place.git else Uncommitted()
        after = succeeded(state, Token(state.epoch + 1, "", ""), "", clock.now())
    mine = config.actors.of(actor)
    return Rehearsal(
        branch=bus.branch,
        iteration=state.iteration,
        actor=actor,
        goes_on=claim is not None,
        agent_ended=_agent_ended(place, loop, entry, agent),
        prompt=prompt,
        reason=reason,
        agent=agent.name,
        argv=agent.argv,
        folder=str(place.root),
        timeout=agent.timeout,
        leftovers=mine.leftovers,
        scope=mine.scope,
        gates=mine.gates,
        hand_off=subject(state, after).rpartition(" ")[0] if place.git else None,
        uncommitted=uncommitted,
        blocked=refusal.message if refusal else None,
        remedy=refusal.remedy if refusal else None,
    )


def _view(bus: Bus, entry: Entry) -> View:
    """Return the state that the turn begins, or began, on, and the register's value.

    Raises:
        Refused: it is missing or damaged.

    """
    claim = claim_of(entry)
    if claim:
        return View(claim.base, bus.state_at(claim.base))
    seen = entry.on(bus.branch) if isinstance(entry, Idle) else Idle()
    return bus.look(epoch=seen.epoch, iteration=seen.iteration)


def _decision(entry: Entry) -> Decision | None:
    """Return the decision of a turn in progress that has one."""
    if isinstance(entry, Stamped):
        return entry.checked.decision
    return entry.decision if isinstance(entry, Routed | Running | Ran | Judged | Checked) else None


def _agent_ended(place: Workspace, loop: Loop, entry: Entry, agent: Agent) -> bool:
    """Tell whether the turn's agent is not run again: it has ended, if only its exit code or its log says so."""
    if isinstance(entry, Running):
        runner = Runner(loop, place, {}, lambda _: None, lambda: 0)
        return recalled(runner, entry, agent).completed.why is not Why.STOPPED
    return isinstance(entry, Ran | Judged | Checked | Stamped)


def _choice(place: Workspace, config: Config, state: State, made: Decision | None) -> tuple[str, str, Agent]:
    """Return prompt, reason and agent: of the router prompt, where one will choose."""
    names, folder, actor = routes(config), place.root / config.prompts_dir, state.expected_actor
    if made is None and wants_override(names, actor) and names.router:
        prompt, reason = names.router, "it will choose galph's prompt"
    else:
        made = made or route(actor, state.iteration, names, None, lambda name: (folder / name).is_file())
        prompt, reason = made.prompt, made.reason
    return prompt, reason, agents.choose(config, actor, prompt, place.root, inherited())


def _refusal(ground: Ground, work: GitWork, view: View) -> OrchestrationError | None:
    """Return what would keep a start from beginning a turn, or from going on with one."""
    holder = read_holder(ground.place.own)
    if holder:
        text = f"process {holder.pid} runs here since {holder.since}"
        return OrchestrationError(text, code="clone-locked", remedy="`orchestrator status`")
    refusal = next(standing.refusals(ground), None)
    if refusal or claim_of(ground.entry):
        return refusal
    try:
        _require_begin(ground, work, view)
    except OrchestrationError as error:
        return error
    return None


def _require_begin(ground: Ground, work: GitWork, view: View) -> None:
    """Refuse what else a start would not begin a turn on.

    Raises:
        OrchestrationError: a person must do something first.

    """
    place, entry = ground.place, ground.entry
    if not isinstance(entry, Idle):
        text, remedy = "a decision was cut short", "any start finishes it first, or the same command again"
        raise OrchestrationError(text, code="decision-open", remedy=remedy)
    if Control(place.control).stands(Request.PAUSE):
        text, remedy = "this clone is paused", f"`orchestrator resume{place.option}` lets it go on"
        raise OrchestrationError(text, code="paused", remedy=remedy)
    if place.git:
        work.survey(view.tip, view.state, entry.on(ground.bus.branch).carry)


def _uncommitted(ground: Ground, collector: Collector, state: State) -> Uncommitted:
    dirt = ground.git.dirt()
    now = collector.snapshot(dirt)
    head = ground.git.tree(dirt.head or "HEAD")
    origin, before = _began_on(ground, collector, state, now)
    every = [path for path in [*dirt.tracked, *dirt.untracked] if not collector.rules.ours(path)]
    inside, outside = collector.leftovers(Trees(ground.git.tree(origin) if origin else head, before, head, now))
    allowed, rest = collector.sort(inside)
    left = {change.path for change in [*inside, *outside]}
    return Uncommitted(
        left_alone=[path for path in every if path not in left],
        allowed=[change.path for change in allowed],
        rest=[change.path for change in [*rest, *outside]],
    )


def _began_on(ground: Ground, collector: Collector, state: State, now: str) -> tuple[str | None, str]:
    """Return the commit on which a first attempt began, and the tree that is the person's then (`GitWork.begin`)."""
    entry, turn = ground.entry, turn_of(ground.entry)
    if turn:
        before = collector.overlay(turn.before, turn.stopped, now) if turn.stopped else turn.before
        return turn.origin or turn.claim.base, before
    claimed = entry.before if isinstance(entry, Claiming) else now
    idle = entry.then if isinstance(entry, Posted) else entry
    idle = idle.on(ground.bus.branch) if isinstance(idle, Idle) else idle
    carry = idle.carry if isinstance(idle, Idle | Claiming) else None
    again = carry and carry.is_for(state.expected_actor, state.iteration)
    return (carry.origin, collector.overlay(carry.before, carry.kept, claimed)) if carry and again else (None, claimed)


def text(seen: Rehearsal) -> str:
    """Return it for a person."""
    limit = f", at most {seen.timeout:g} s" if seen.timeout else ""
    rows = [
        ("turn", f"{seen.actor}, iteration {seen.iteration} on {seen.branch}" + (" (goes on)" if seen.goes_on else "")),
        ("prompt", f"{seen.prompt}: {seen.reason}"),
        (
            "agent",
            f"{seen.agent}: {shlex.join(seen.argv)}" + (" (has ended, is not run again)" if seen.agent_ended else ""),
        ),
        ("where", f"{seen.folder}{limit}"),
    ]
    if seen.hand_off:
        rows += [("commits", seen.hand_off), ("", f"files left uncommitted: {_POLICY[seen.leftovers]}")]
    rows += [("scope", ", ".join(seen.scope))] if seen.scope else []
    rows += [("gate", command) for command in seen.gates]
    files = seen.uncommitted
    rows += [("yours", f"{listed(files.left_alone)}: left alone")] if files.left_alone else []
    rows += [("left", f"{listed(files.allowed)}: would be committed")] if files.allowed else []
    rows += [("left", f"{listed(files.rest)}: no rule allows them")] if files.rest else []
    rows += [("blocked", f"{seen.blocked}\n        {seen.remedy}")] if seen.blocked else []
    return "\n".join(f"{name:<8}{value}" for name, value in [*rows, ("", "a dry run: nothing was run or written")])
