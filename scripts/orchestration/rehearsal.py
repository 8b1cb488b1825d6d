"""`run --dry-run`: what the next turn would do, by the same rules; no agent is run, no ref or file written."""

import shlex

import msgspec

from orchestration.admission import require_own, standstill
from orchestration.agents import Agent, choose
from orchestration.bus import Bus, View
from orchestration.buses import open_bus
from orchestration.clock import Clock
from orchestration.collect import listed
from orchestration.config import Resolved, routes
from orchestration.environment import inherited
from orchestration.errors import OrchestrationError
from orchestration.git import Git
from orchestration.git_work import GitWork
from orchestration.holder import read_holder
from orchestration.journal import Entry, Idle, Journal, Turn, claim_of, turn_of
from orchestration.process import Loop
from orchestration.router import route, wants_override
from orchestration.settings import Config, Leftovers
from orchestration.state import Actor, Token, subject, succeeded
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

    `hand_off` is the subject of the commit that ends the turn in success, None without git.
    """

    branch: str
    iteration: int
    actor: Actor
    goes_on: bool
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
        bus = open_bus(place, config, git)
        entry = Journal(place.journal).read()
        view, claim = bus.look(), claim_of(entry)
        actor = claim.actor if claim else view.state.expected_actor
        prompt, reason, agent = _choice(place, config, actor, view.state.iteration)
        judge = Judge(git, place, bus, config, lambda *_: None)
        refusal = None if claim else _refusal(place, view, bus, GitWork(git, judge, config, bus.branch), entry)
        uncommitted = _uncommitted(git, judge, turn_of(entry)) if place.git else Uncommitted()
        after = succeeded(view.state, Token(view.state.epoch + 1, "", ""), "", clock.now())
    mine = config.actors.of(actor)
    return Rehearsal(
        branch=bus.branch,
        iteration=view.state.iteration,
        actor=actor,
        goes_on=claim is not None,
        prompt=prompt,
        reason=reason,
        agent=agent.name,
        argv=agent.argv,
        folder=str(place.root),
        timeout=agent.timeout,
        leftovers=mine.leftovers,
        scope=mine.scope,
        gates=mine.gates,
        hand_off=subject(view.state, after).rpartition(" ")[0] if place.git else None,
        uncommitted=uncommitted,
        blocked=refusal.message if refusal else None,
        remedy=refusal.remedy if refusal else None,
    )


def _choice(place: Workspace, config: Config, actor: Actor, iteration: int) -> tuple[str, str, Agent]:
    """Return prompt, reason and agent: of the router prompt, where one will choose."""
    names, folder = routes(config), place.root / config.prompts_dir
    if wants_override(names, actor) and names.router:
        prompt, reason = names.router, "it will choose galph's prompt"
    else:
        decision = route(actor, iteration, names, None, lambda name: (folder / name).is_file())
        prompt, reason = decision.prompt, decision.reason
    return prompt, reason, choose(config, actor, prompt, place.root, inherited())


def _refusal(place: Workspace, view: View, bus: Bus, work: GitWork, entry: Entry) -> OrchestrationError | None:
    """Return what would keep a start from beginning a turn."""
    holder = read_holder(place.own)
    if holder:
        text, remedy = f"process {holder.pid} runs here since {holder.since}", "`orchestrator status`"
        return OrchestrationError(text, code="clone-locked", remedy=remedy)
    try:
        require_own(view.state, bus.branch)
        halt = standstill(bus, view.state)
        if halt:
            return OrchestrationError(halt.reason, code=halt.code, remedy=halt.remedy)
        if place.git:
            work.survey(view.tip, view.state, entry.on(bus.branch).carry if isinstance(entry, Idle) else None)
    except OrchestrationError as error:
        return error
    return None


def _uncommitted(git: Git, judge: Judge, turn: Turn | None) -> Uncommitted:
    dirt = git.dirt()
    every = [*dirt.tracked, *dirt.untracked]
    if turn is None:
        return Uncommitted(left_alone=every)
    inside, outside = judge.collector.leftovers(turn.before, dirt.head or "HEAD", judge.collector.snapshot(dirt))
    allowed, rest = judge.collector.sort(inside)
    left = [change.path for change in [*inside, *outside]]
    return Uncommitted(
        left_alone=[path for path in every if path not in left and not judge.collector.rules.ours(path)],
        allowed=[change.path for change in allowed],
        rest=[change.path for change in [*rest, *outside]],
    )


def text(seen: Rehearsal) -> str:
    """Return it for a person."""
    limit = f", at most {seen.timeout:g} s" if seen.timeout else ""
    rows = [
        ("turn", f"{seen.actor}, iteration {seen.iteration} on {seen.branch}" + (" (goes on)" if seen.goes_on else "")),
        ("prompt", f"{seen.prompt}: {seen.reason}"),
        ("agent", f"{seen.agent}: {shlex.join(seen.argv)}"),
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
