"""The way into a turn: whose it is, what a person must decide first, and the claim (Idle → Claimed)."""

import secrets

from msgspec.structs import replace

from orchestration import failpoints
from orchestration.bus import Lost, View, waiting_for
from orchestration.clock import iso
from orchestration.halt import Wait
from orchestration.journal import Claim, Claimed, Claiming, Idle
from orchestration.ports import Ports, Step
from orchestration.standstill import require_own, standstill
from orchestration.state import State, Token
from orchestration.workspace import refuse_links


def open_turn(ports: Ports, entry: Idle) -> Step:
    """Look whose turn it is, refuse what a person must decide, and make a claim."""
    entry = entry.on(ports.bus.branch)
    view = ports.bus.look(epoch=entry.epoch, iteration=entry.iteration)
    require_own(view.state, ports.bus.branch)
    return standstill(ports.bus, view.state) or _others_turn(ports, view.state) or _claim(ports, entry, view)


def _others_turn(ports: Ports, now: State) -> Wait | None:
    if ports.role in {None, now.expected_actor}:
        return None
    return waiting_for(now, "is to run")._replace(calm=True)


def _claim(ports: Ports, entry: Idle, view: View) -> Claiming:
    now = view.state
    refuse_links(ports.workspace, ports.config.state_file)  # the survey would call it a changed file
    token = Token(now.epoch + 1, ports.holder, secrets.token_hex(16))
    moment = iso(ports.clock.now())
    claim = Claim(now.expected_actor, now.iteration, token, ports.bus.branch, view.tip, moment)
    offer, settings = ports.bus.offer(claim, now), ports.bus.settings()  # both are under way beside the survey
    survey = ports.work.survey(view.tip, now, entry.carry)
    refuse_links(ports.workspace, ports.config.logs_dir)  # the survey may have brought one, or its end
    tree, uncommitted = survey()
    return Claiming(replace(claim, settings=settings()), tree, offer(), entry.carry, uncommitted)


def take_turn(ports: Ports, entry: Claiming) -> Step:
    """Have the bus confirm the claim, and begin."""
    claim = entry.claim
    answer = ports.bus.claim(claim, entry.offer)
    if isinstance(answer, Lost):
        return Idle(claim.token.epoch - 1, claim.iteration, entry.carry, claim.branch)
    turn = ports.work.begin(replace(entry, claim=replace(claim, base=answer.base)))
    ports.note("claimed", f"{claim.name}: epoch {claim.token.epoch}")
    failpoints.hit("turn.claimed")
    return Claimed(turn)
