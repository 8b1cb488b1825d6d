"""The remote bus: the register is the branch at the remote, moved by leased pushes (docs/protocol.md).

Two commits a turn: the claim C on the tip, and the hand-off H on the work. Both are pushed by object id and the local
branch follows only when they have landed, so that a lost claim needs no undo. After anything but a clean answer the
remote is read again before anything is decided: "push failed" does not mean "did not land".
"""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from orchestration import failpoints, fingerprint, state
from orchestration.branches import fast_forward, is_rescued, leave, merged_with_both_ends
from orchestration.bus import Claimed, Conflict, Fenced, Landed, Lost, Moved, Settings, View, decisions, waiting_for
from orchestration.errors import Refused, Unreachable
from orchestration.git import Git
from orchestration.halt import Wait
from orchestration.journal import Claim, HandOff
from orchestration.last_valid import last_valid, restoring
from orchestration.lease import Observer
from orchestration.local_bus import LocalBus
from orchestration.prompt_context import USER_INPUT
from orchestration.remote import Remote, raised
from orchestration.settings import Config, SkipCI, Stale
from orchestration.state import State, Status, Token
from orchestration.tree import Commit, File
from orchestration.workspace import Workspace


class RemoteBus:
    """Turn truth in a branch of a remote.

    Args:
        git: the verbs of the clone.
        place: its folders.
        remote: the branch at the remote.
        config: the state file's path, and the lease's rules.
        holder: this clone's id.

    """

    def __init__(self, git: Git, place: Workspace, remote: Remote, config: Config, holder: str) -> None:
        self.branch = remote.branch
        self.remote = remote
        self.local = LocalBus(git, place, remote.branch, config.state_file, remote.name)
        self._git = git
        self._place = place
        self._state_file = config.state_file
        self._path = place.in_git(config.state_file)
        self._ref = f"refs/heads/{remote.branch}"
        self._holder = holder
        self._sync = config.sync
        self._observer = Observer(place.journal.with_name("observed.json"), git.loop.clock)
        self._tip: str | None = None  # what the remote's branch is known to be; None: it must be read again
        self._landed: str | None = None  # the hand-off that has just landed: the next look need not ask

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, *, epoch: int = 0, iteration: int = 1) -> View:
        """Read the remote's tip and its state; fetches what is new.

        Raises:
            Unreachable: the remote did not answer.
            Refused: the state is damaged, or the branch is gone or rewound.

        """
        self._tip, landed, self._landed = None, self._landed, None
        tip = landed or self.remote.tip()
        try:
            view = self.local.read(tip, epoch=epoch, iteration=iteration)
        except Refused as error:
            raise self._with_last_valid(error, tip, epoch, iteration) from None
        self._tip = tip
        return view

    def _for_everybody(self, error: Refused) -> Refused:
        """Return a refusal of the remote's state, whose remedy a person must share."""
        if error.code == "state-backwards":  # what helps is a command that shares it
            return error
        name = f"{self.remote.name} {self.branch}"
        remedy = f"`git pull {name}`, then: {error.remedy}; and `git push {name}`"
        return Refused(error.message, code=error.code, remedy=remedy)

    def offline(self) -> LocalBus:
        """Return the bus of the branch in this clone."""
        return LocalBus(self._git, self._place, self.branch, self._state_file)

    def _with_last_valid(self, error: Refused, tip: str, epoch: int, iteration: int) -> Refused:
        """Return a refusal of a damaged state with the command that mends it here."""
        found = last_valid(self._git, tip, self._path, epoch=epoch, iteration=iteration)
        if error.code == "state-future":  # it is not damaged: it is newer than this program
            return error
        if found is None:
            return self._for_everybody(error)
        remedy = restoring(found, self._path, self.remote.name, self.branch)
        return Refused(error.message, code=error.code, remedy=remedy)

    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""
        return decisions(now)

    def elsewhere(self, now: State) -> Wait | None:
        """Tell who runs the turn; None where it may be claimed anew.

        That is a late landing of ours, whose journal is gone, or, for a standby, a turn whose holder shows no life.
        """
        if now.holder == self._holder:
            return None
        wait = waiting_for(now, "runs", f" on {now.holder} since {now.last_update}")
        quiet = self._observer.unchanged(now.nonce or "", lambda: self._sign_of_life(now))
        if quiet < self._sync.lease:
            return wait
        if self._sync.stale is Stale.STANDBY:
            return None
        take = f"if that machine is gone: `orchestrator takeover --nonce {now.nonce}`, after `orchestrator stop` here"
        return Wait(f"{wait.why} and has shown no life for {quiet:.0f} s; {take}", f"{wait.subject} is gone")

    def _sign_of_life(self, now: State) -> str:
        """Return the newest beat of the turn's holder; one of an earlier claim does not count."""
        beat = self.remote.beat(now.expected_actor)
        return beat if now.nonce and f" {now.nonce} " in beat else ""

    def taken_by(self, claim: Claim, tip: str) -> str | None:
        """Return who owns the turn by the state of `tip`, None if nobody took it from us, or it is damaged."""
        return self._fenced(tip).why if self._is_taken(claim.token, tip) else None

    def _is_taken(self, token: Token, tip: str) -> bool:
        """Tell whether a tip's state, if it can be read, carries a newer token."""
        try:
            now = self.state_at(tip)
        except Refused:
            return False
        return now.epoch >= token.epoch and now.nonce != token.nonce

    def state_at(self, value: str) -> State:
        """Read the state of a commit.

        Raises:
            Refused: it is damaged.

        """
        return self.local.state_at(value)

    # --- the claim ---------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        """Ask for the configuration that reaching the remote depends on."""
        return fingerprint.asked(self._git, self.remote.name)

    def offer(self, claim: Claim, now: State) -> Callable[[], str]:
        """Begin to build the claim's commit; nothing refers to it yet."""
        after = state.running(now, claim.token, claim.base, datetime.fromisoformat(claim.claimed_at))
        after = replace(after, branch=self.branch)
        return self._committing(claim.base, now, after, skip_ci=self._sync.skip_ci is not SkipCI.NONE)

    def claim(self, claim: Claim, offer: str) -> Claimed | Lost:
        """Publish the claim; also after a crash in the middle of it.

        Raises:
            Unreachable: whether it has landed is not known.
            Refused: the remote does not take it.

        """
        if claim.token.holder != self._holder:
            return Lost()
        trouble = None
        if self._tip == claim.base:  # not after a restart: it may have landed already
            failpoints.hit("claim.before_push")
            trouble = self.remote.push(offer, claim.base)
            failpoints.hit("claim.after_push")
            if trouble is None:
                return self._claimed(claim, offer, offer)
        tip = self.remote.tip()
        if self._owns(claim.token, tip) and self._git.is_ancestor(offer, tip):
            return self._claimed(claim, offer, tip)
        if tip != claim.base or self._git.resolve(f"{offer}^{{commit}}") is None:
            self.local.refresh(self._git.resolve(self._ref) or tip)  # a kill may have left the claim's state there
            return Lost()
        self._tip = tip
        if trouble is None:
            return self.claim(claim, offer)
        raise raised(trouble, self.remote.name)

    def _claimed(self, claim: Claim, offer: str, tip: str) -> Claimed:
        self._tip = tip  # the hand-off's push names it
        self._follow(HandOff(offer, claim.base))
        return Claimed(offer)

    def holds(self, claim: Claim) -> Fenced | None:
        """Tell whether a claim of before a restart, or of before a long run, is still ours.

        Raises:
            Unreachable: the remote did not answer.
            Refused: the configuration is not as it was, so that another remote might be asked.

        """
        if claim.token.holder != self._holder:
            return _of_another(claim.token)
        fingerprint.require_same(claim.settings, self.settings()())
        tip = self._tip_of(claim.token)
        return None if self._owns(claim.token, tip) else self._fenced(tip)

    def _tip_of(self, token: Token) -> str:
        """Read the remote's tip in a turn: also the claim as the turn's own agent has rewritten it and forced it there.

        Nothing is lost then, since a rescue ref holds what the agent made, and the hand-off contains both.

        Raises:
            Unreachable: the remote did not answer.
            Refused: the branch is gone or rewound.

        """
        try:
            return self.remote.tip()
        except Refused:
            tip = self.remote.refs().tip or ""
            if not (tip and self._git.has(tip) and self._owns(token, tip) and is_rescued(self._git, tip)):
                raise
            self.remote.saw(tip)
            return tip

    def _owns(self, token: Token, tip: str) -> bool:
        """Tell whether a tip's state carries this token."""
        try:
            now = self.state_at(tip)
        except Refused:
            return False
        return (now.epoch, now.holder, now.nonce) == (token.epoch, token.holder, token.nonce)

    def _fenced(self, tip: str) -> Fenced:
        try:
            now = self.state_at(tip)
        except Refused as error:
            return Fenced(f"{self.remote.name} holds {tip[:10]}: {error.message}")
        return Fenced(f"{self.remote.name} holds epoch {now.epoch} of {now.holder or 'another hand'} ({tip[:10]})")

    # --- the hand-off ------------------------------------------------------------------------------------------------

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:
        """Build the commit that turns `before` into `after` on `parent`; nothing refers to it yet."""
        skip_ci = self._sync.skip_ci is SkipCI.ALL
        return HandOff(self._committing(parent, before, after, operator, skip_ci=skip_ci)(), parent)

    def _committing(
        self, parent: str, before: State, after: State, operator: str | None = None, *, skip_ci: bool
    ) -> Callable[[], str]:
        text = state.message(before, after, operator=operator, skip_ci=skip_ci)
        return self._git.committing_files(parent, [File(self._path, data=state.encode(after))], text)

    def settle(self, hand_off: HandOff, claim: str | None = None) -> Landed | Moved | Conflict | Fenced:
        """Publish a hand-off, and have the local branch follow; a second call after a crash changes nothing.

        Raises:
            Unreachable: whether it has landed is not known.
            Refused: the remote does not take it.

        """
        tip, self._tip = self._tip, None
        landed = tip == hand_off.commit
        if tip is None:  # after a restart
            if not self._git.has(hand_off.commit):  # nothing referred to it, and somebody has pruned
                return Moved(self._work_of(hand_off, self.remote.tip()))
            if self._token(hand_off).holder != self._holder:
                return _of_another(self._token(hand_off))
            tip = self._tip_of(self._token(hand_off))
            landed = self._git.is_ancestor(hand_off.commit, tip)
        while not landed:
            if claim and not (self._owns(self._token(hand_off), tip) or self._git.is_ancestor(claim, tip)):
                return self._fenced(
                    tip
                )  # a person took the claim back, and what it stood on: it is not published again
            if self._is_taken(self._token(hand_off), tip):  # also where the agent has pulled it into its work
                return self._fenced(tip)
            if not self._git.is_ancestor(tip, hand_off.parent):  # somebody committed, or took the turn
                return self._merged(hand_off, tip) if self._owns(self._token(hand_off), tip) else self._fenced(tip)
            tip = self._push(hand_off, tip)
            landed = self._git.is_ancestor(hand_off.commit, tip)
        self._tip = tip
        self._landed = self._known_after(hand_off)
        self._follow(hand_off)
        return Landed(hand_off.commit)

    def _known_after(self, hand_off: HandOff) -> str | None:
        """Return the tip that the next look need not ask for: ours, but for a failure, about which somebody decides."""
        is_ours = self._tip == hand_off.commit and self.state_at(hand_off.commit).status is not Status.FAILED
        return self._tip if is_ours else None

    def _push(self, hand_off: HandOff, tip: str) -> str:
        """Push onto the tip; return the tip that is there afterwards.

        Raises:
            Unreachable: that is not known.
            Refused: the remote does not take it.

        """
        failpoints.hit("settle.before_push")
        trouble = self.remote.push(hand_off.commit, tip)
        failpoints.hit("settle.after_push")
        if trouble is None:
            return hand_off.commit
        found = self._tip_of(self._token(hand_off))
        if found == tip:
            raise raised(trouble, self.remote.name)
        return found

    def _work_of(self, hand_off: HandOff, tip: str) -> str:
        """Return what a hand-off was built on; a merge, which nothing referred to either, is to be made again."""
        if self._git.has(hand_off.parent):
            return hand_off.parent
        return self._git.resolve(self._ref) or tip

    def _token(self, hand_off: HandOff) -> Token:
        now = self.state_at(hand_off.commit)
        return Token(now.epoch, now.holder or "", now.nonce or "")

    def _merged(self, hand_off: HandOff, tip: str) -> Moved | Conflict:
        """Merge what somebody committed into the work; no file of the work tree changes yet.

        Of the state file the remote's is taken: the hand-off is made from it anew.
        """
        self._tip = tip
        work = hand_off.parent
        if self._git.is_ancestor(work, tip):
            return Moved(tip, tip)
        mine, theirs = self._git.blobs([f"{work}:{self._path}", f"{tip}:{self._path}"])
        side = work
        if mine != theirs:
            side = self._git.commit_files(work, [File(self._path, data=theirs)], "the work, with the remote's state")
        tree, paths = merged_with_both_ends(self._git, side, tip, self._place.in_git(USER_INPUT))
        if paths:
            return Conflict(tip, paths)
        text = f"Merge {tip[:10]} of {self.remote.name}/{self.branch}, committed meanwhile\n"
        return Moved(self._git.commit_tree(Commit(tree, [work, tip], text)), tip)

    # --- the local branch --------------------------------------------------------------------------------------------

    def _follow(self, hand_off: HandOff) -> None:
        """Have the local branch follow what has landed.

        Where its work tree cannot (changed files are in the way), it stays, and the next start says so. What we have
        published ourselves counts as seen, and need not be fetched.
        """
        here = self._git.resolve(self._ref) or hand_off.commit
        if here in {hand_off.parent, hand_off.commit}:
            self.local.settle(hand_off, besides=self.remote.seen if self._tip == hand_off.commit else None)
            return
        if self._tip == hand_off.commit:
            self.remote.saw(hand_off.commit)
        self.local.refresh(here)  # what an agent made of the file is in nobody's way
        if self._git.is_ancestor(here, hand_off.commit):
            fast_forward(self._git, self.branch, hand_off.commit)
        elif not self._git.is_ancestor(hand_off.commit, here):
            self._leave(here, hand_off.commit)

    def retreat(self) -> None:
        """Leave a turn that is ours no longer: its commits are in a rescue ref, the branch goes to the remote's tip.

        A remote that does not answer is not waited for: the step that found the turn lost may have run an agent, and
        must not do so again.

        Raises:
            Refused: the branch is gone or rewound: then nothing is moved.

        """
        try:
            tip = self.remote.tip()
        except Unreachable:  # the tip that took the turn from us was fetched
            tip = self.remote.known()
        here = self._git.resolve(self._ref)
        if here is None:
            return
        self.local.refresh(here)
        if self._git.is_ancestor(here, tip):
            fast_forward(self._git, self.branch, tip)
        else:
            self._leave(here, tip)

    def _leave(self, here: str, to: str) -> None:
        """Take the branch off commits that are not published, once a rescue ref holds them."""
        if is_rescued(self._git, here):
            failpoints.hit("leave.before_reset")
            leave(self._git, self.branch, to)
            failpoints.hit("leave.after_reset")


def _of_another(token: Token) -> Fenced:
    """Return why a journal that came here with a copied clone counts for nothing: the first clone may go on, too."""
    return Fenced(f"this clone is a copy, or was moved: the turn is {token.holder}'s")
