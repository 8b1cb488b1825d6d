"""A person's decisions as commits: one state commit with a new epoch, through the same steps as a turn's."""

import secrets
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from orchestration import sharing, state
from orchestration.bus import Bus, decisions
from orchestration.buses import open_bus
from orchestration.ceilings import Meter
from orchestration.clock import Clock, iso
from orchestration.environment import inherited
from orchestration.errors import Refused, Unreachable
from orchestration.git import Git
from orchestration.git_work import GitWork
from orchestration.halt import Halt
from orchestration.journal import Idle, Journal, Posted, Stamped, Turn, claim_of, turn_of
from orchestration.lock import held
from orchestration.posting import settle_post
from orchestration.process import Loop
from orchestration.remote import raised
from orchestration.remote_bus import RemoteBus
from orchestration.remote_kinds import Kind
from orchestration.runner import require_dead
from orchestration.settings import Config
from orchestration.standstill import refuse_other_turns, require_own
from orchestration.state import ACCEPTED, Actor, Failure, State, Status, Token
from orchestration.verdict import Judge
from orchestration.workspace import Workspace, instance_id


class Moment(NamedTuple):
    """What a decision is made on."""

    state: State
    branch: str
    seen: Idle
    token: Token
    tip: str
    clock: Clock


class Decided(NamedTuple):
    """A decision: its name in the commit, and the state it leads to."""

    name: str
    after: State


class Done(msgspec.Struct, frozen=True):
    """What was committed, and what happens next."""

    subject: str
    commit: str | None
    next: str


Change = Callable[[Moment], Decided | None]

_LOOK_AGAIN = {Kind.CAS_LOST, Kind.ALREADY, Kind.UNKNOWN}
_TRIES = 10
"""How often a commit that needs no lock is made anew, because somebody else's came first."""


def retry(moment: Moment) -> Decided:
    """Decide that the failed turn stands open again."""
    return Decided("retry", state.retried(moment.state, moment.token, moment.clock.now()))


def skip(accepted: Collection[str] = ()) -> Change:
    """Decide that the failed turn counts as done; one whose work is withheld, only if its code is accepted."""

    def change(moment: Moment) -> Decided:
        failure = moment.state.failure
        if failure and failure.code in ACCEPTED and failure.code not in accepted:
            raise Refused(
                f"the turn failed with the code {failure.code}: {failure.reason}",
                code=f"{failure.code}-not-accepted",
                remedy=decisions(moment.state),
            )
        return Decided("skip", state.skipped(moment.state, moment.token, moment.tip, moment.clock.now()))

    return change


def stamp(actor: Actor, *, ok: bool) -> Change:
    """Decide that the expected actor's turn counts as done, or as failed, without an agent of ours."""

    def change(moment: Moment) -> Decided:
        now = moment.state
        if now.expected_actor is not actor or now.status is Status.FAILED:
            raise Refused(
                f"it is {now.expected_actor}'s turn and the state is {now.status}",
                code="operator-not-now",
                remedy="`orchestrator status` shows what can be done now",
            )
        when = moment.clock.now()
        if ok:
            return Decided("stamp", state.succeeded(now, moment.token, moment.tip, when))
        failure = Failure(reason="stamped as failed by a person", code="stamped")
        return Decided("stamp", state.failed(now, moment.token, moment.tip, failure, when))

    return change


def takeover(nonce: str) -> Change:
    """Decide that the running turn, the one with this nonce, stands open again; its holder is fenced off."""

    def change(moment: Moment) -> Decided:
        after = state.taken_over(moment.state, moment.token, moment.clock.now())
        if moment.state.nonce != nonce:
            raise Refused(
                f"the turn in progress has the nonce {moment.state.nonce}, not {nonce}",
                code="takeover-other",
                remedy="look again: `orchestrator status`; somebody has moved on",
            )
        return Decided("takeover", after)

    return change


def adopt(moment: Moment) -> Decided:
    """Decide that this branch goes on from its state as it is: another branch's, or one that went back."""
    went_back = moment.state.epoch < moment.seen.epoch or moment.state.iteration < moment.seen.iteration
    if moment.state.branch in {None, moment.branch} and not went_back:
        raise Refused(
            f"the state belongs to this branch, {moment.branch}, already",
            code="adopt-own",
            remedy="`orchestrator status` shows it",
        )
    return Decided("adopt", state.adopted(moment.state, moment.token, moment.clock.now()))


def _clear(moment: Moment) -> Decided | None:
    if not moment.state.exit:
        return None
    return Decided("resume", state.resumed(moment.state, moment.token, moment.clock.now()))


def post(workspace: Workspace, config: Config, change: Change, clock: Clock) -> Done:
    """Make a decision and commit it, under the clone's lock.

    Raises:
        Refused: a turn is in progress here, or the decision does not fit the state.
        Locked: a daemon runs here.

    """
    done = _post(workspace, config, change, clock)
    if done is None:  # pragma: no cover - only clear_exit's change may decide nothing
        raise AssertionError
    return done


def clear_exit(workspace: Workspace, config: Config, clock: Clock) -> Done | None:
    """Clear the exit flag; None if it was not set.

    Raises:
        Refused: a turn is in progress here.
        Locked: a daemon runs here.

    """
    return _post(workspace, config, _clear, clock)


def _post(workspace: Workspace, config: Config, change: Change, clock: Clock) -> Done | None:
    with held(workspace, clock.now()), Loop(clock) as loop:
        refuse_other_turns(workspace, config.state_file)
        git = Git(loop, workspace.top, inherited())
        bus = open_bus(workspace, config, git.with_identity() if workspace.git else git)
        if isinstance(bus, RemoteBus):
            sharing.require_remote(git, config.sync.remote)
        journal = Journal(workspace.journal)
        idle = _between_turns(journal, bus).on(bus.branch)
        view = bus.look()
        if change is not adopt:
            require_own(view.state, bus.branch)
        token = Token(max(view.state.epoch, idle.epoch) + 1, instance_id(workspace), secrets.token_hex(16))
        decided = change(Moment(view.state, bus.branch, idle, token, view.tip, clock))
        if decided is None:
            return None
        if isinstance(bus, RemoteBus) and decided.name != "takeover":
            _refuse_running(view.state)
        after = replace(decided.after, branch=bus.branch)
        hand_off = bus.stamp(view.tip, view.state, after, operator=decided.name)
        then = Idle(token.epoch, after.iteration, idle.carry, bus.branch)
        entry = Posted(hand_off, before=idle, then=then)
        journal.write(entry)
        answer = settle_post(bus, journal, entry)
        if isinstance(answer, Halt):
            raise Refused(answer.reason, code=answer.code, remedy=answer.remedy)
        journal.write(answer)
        subject = state.subject(view.state, after, operator=decided.name)
        commit = hand_off.commit if workspace.git else None
        return Done(subject, commit, f"next: {after.expected_actor}, iteration {after.iteration}")


def _refuse_running(now: State) -> None:
    """Refuse to decide over the head of who runs the turn.

    Raises:
        Refused: somebody does (code `operator-not-now`).

    """
    if now.status in state.RUNNING.values():
        raise Refused(
            f"{now.expected_actor}'s turn of iteration {now.iteration} runs on {now.holder} since {now.last_update}",
            code="operator-not-now",
            remedy=f"let it end; if that machine is gone: `orchestrator takeover --nonce {now.nonce}`",
        )


def stop_everywhere(workspace: Workspace, config: Config, clock: Clock) -> Done:
    """Set the exit flag at the remote, so that every daemon stops after the turn in progress, whoever runs it.

    The running turn stays its holder's: the commit carries its token. Needs no lock: a daemon here sees it like others.

    Raises:
        Refused: the turn is not shared, or the remote does not take the commit.
        Unreachable: the remote did not answer.

    """
    with Loop(clock) as loop:
        git = Git(loop, workspace.top, inherited()).with_identity()
        bus = open_bus(workspace, config, git)
        if not isinstance(bus, RemoteBus):
            raise Refused(
                "the turn is not shared with other clones",
                code="not-shared",
                remedy="`orchestrator stop` stops the daemon here; or add --sync-via-git",
            )
        sharing.require_remote(git, config.sync.remote)
        for _ in range(_TRIES):
            view = bus.look()
            now = view.state
            require_own(now, bus.branch)
            if now.exit:
                return Done("the exit flag is set already", None, now.exit_reason or "")
            after = replace(now, exit=True, exit_reason=f"`orchestrator stop --everywhere` at {iso(clock.now())}")
            then = "once the turn in progress has ended, `orchestrator resume` clears it"
            if now.status not in state.RUNNING.values():
                then = "`orchestrator resume` clears it"
                token = Token(now.epoch + 1, instance_id(workspace), secrets.token_hex(16))
                after = replace(after, epoch=token.epoch, holder=token.holder, nonce=token.nonce)
            commit = bus.stamp(view.tip, now, after, operator="stop").commit
            trouble = bus.remote.push(commit, view.tip)
            if trouble is None:
                return Done(state.subject(now, after, operator="stop"), commit, then)
            if trouble.kind not in _LOOK_AGAIN:
                raise raised(trouble, bus.remote.name)
        raise Unreachable(
            f"{bus.remote.name} did not take the commit in {_TRIES} tries",
            kind=Kind.REMOTE_BUSY,
            remedy="try again in a minute",
        )


def abandon(workspace: Workspace, config: Config, clock: Clock) -> str | None:
    """Give up the turn in progress: its agent is ended, its work kept; the turn stands open as before it was claimed.

    Returns:
        The rescue ref of its work, None where there is none.

    Raises:
        Refused: no turn is in progress, it only waits for its hand-off, or its agent cannot be ended.
        Locked: a daemon runs here.

    """
    with held(workspace, clock.now()), Loop(clock) as loop:
        journal = Journal(workspace.journal)
        entry = journal.read()
        claim, turn = claim_of(entry), turn_of(entry)
        if claim is None:
            remedy = "`orchestrator status` shows where the loop stands"
            raise Refused("no turn is in progress", code="turn-none", remedy=remedy)
        git = Git(loop, workspace.top, inherited())
        if isinstance(entry, Stamped):
            _refuse_landing(workspace, config, git, entry)
        require_dead(loop.end_survivors(claim.stamp))
        ref = _keep_work(workspace, config, git, turn) if turn else None
        if turn:
            meter = Meter(workspace.counters, config.limits)
            meter.charge(claim.token.nonce, turn.attempts.used, clock.now(), stalled=None)
        journal.write(Idle(claim.token.epoch - 1, claim.iteration, branch=claim.branch))
        return ref


def _refuse_landing(workspace: Workspace, config: Config, git: Git, entry: Stamped) -> None:
    """Refuse to give up a turn that has ended, but where its hand-off cannot land at the remote.

    Raises:
        Refused: the next start hands it off, or it has landed already.
        Unreachable: the remote does not say.

    """
    claim = entry.checked.turn.claim
    bus = open_bus(workspace, config, git, claim.branch) if workspace.git else None
    if isinstance(bus, RemoteBus) and not git.is_ancestor(entry.hand_off.commit, bus.remote.tip()):
        return
    raise Refused(
        f"{claim.name} has ended and waits for its hand-off",
        code="turn-none",
        remedy="start as it was started, with --once: no agent is run",
    )


def _keep_work(workspace: Workspace, config: Config, git: Git, turn: Turn) -> str | None:
    if not workspace.git:
        return None
    git = git.with_identity()
    bus = open_bus(workspace, config, git, turn.claim.branch)
    work = GitWork(git, Judge(git, workspace, bus, config, lambda *_: None), config, bus.branch)
    work.break_locks(turn.claim)
    return work.abandon(turn, git.resolve(f"refs/heads/{turn.claim.branch}"), "given up")


def _between_turns(journal: Journal, bus: Bus) -> Idle:
    """Return the journal's entry between turns, after finishing a decision that a crash cut short.

    Raises:
        Refused: a turn is in progress here (code `turn-open`).

    """
    entry = journal.between_turns()
    if isinstance(entry, Idle):
        return entry
    answer = settle_post(bus, journal, entry)
    if isinstance(answer, Halt):
        return entry.before
    journal.write(answer)
    return answer
