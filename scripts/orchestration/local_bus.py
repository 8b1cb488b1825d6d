"""The local bus: the register is the branch in this clone, moved by `update-ref` old→new.

A claim writes nothing here: the lock of the work tree and the journal hold it. A hand-off moves the branch first; then
that one index entry and the file follow, so that the person's index and work tree are otherwise left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from msgspec.structs import replace

from orchestration import failpoints, files, state
from orchestration.bus import Claimed, Fenced, Landed, Lost, Moved, Unshared, View, decisions
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.journal import Claim, HandOff
from orchestration.state import State
from orchestration.tree import REGULAR, Change, File
from orchestration.workspace import Workspace, refuse_links

_BACK = "if the branch was moved back on purpose, go on from there: `orchestrator init --adopt`"


class LocalBus(Unshared):
    """Turn truth in `refs/heads/<branch>` of this clone.

    Args:
        git: the verbs, at the top of the work tree.
        workspace: where the state file and our scratch folder are.
        branch: the working branch.
        state_file: the state file's path in the project.
        remote: the name of the remote whose branch it follows, if it follows one.

    """

    def __init__(self, git: Git, workspace: Workspace, branch: str, state_file: str, remote: str | None = None) -> None:
        self.branch = branch
        self._shown = f"{remote}/{branch}" if remote else branch
        self._git = git
        self._place = workspace
        self._state_file = state_file
        self._file = workspace.root / state_file
        self._path = workspace.in_git(state_file)
        self._ref = f"refs/heads/{branch}"

    def look(self, *, epoch: int = 0, iteration: int = 1) -> View:
        """Read tip and state; one before its own parent's, or before what was seen already, is refused.

        Raises:
            Refused: no commit yet, or the state is damaged.

        """
        tip = self._git.resolve(self._ref)
        if tip is None:
            raise Refused(
                f"the branch {self.branch} has no commit", code="state-missing", remedy="`orchestrator init` makes one"
            )
        try:
            return self.read(tip, epoch=epoch, iteration=iteration)
        except Refused as error:
            if error.code != "state-missing" or not self._file.exists():
                raise
        raise Refused(
            f"{self._path} is not committed on {self.branch}",
            code="state-not-committed",
            remedy="`orchestrator init` commits what it wrote; or `git add` it with its prompts, and commit",
        )

    def read(self, tip: str, *, epoch: int = 0, iteration: int = 1) -> View:
        """Read the state of a tip, as `look` does.

        Raises:
            Refused: it is damaged, or went backwards.

        """
        data, parent = self._git.blobs([f"{tip}:{self._path}", f"{tip}^:{self._path}"])
        now = self._parse(data)
        if now.branch not in {None, self.branch}:
            return View(tip, now)  # what this branch has seen says nothing of another's state
        with self._naming_the_file():
            state.check_forward(now, epoch=epoch, iteration=iteration, remedy=_BACK)
        if parent is not None and parent != data:
            try:
                older = state.parse(parent)
            except Refused:
                return View(tip, now)  # a person has just mended it
            with self._naming_the_file():
                self._check_forward(tip, now, older)
        return View(tip, now)

    def was_shared(self) -> bool:
        """Tell whether the newest turn that this clone knows of, if only by a fetch, was shared through a remote."""
        newest = None
        refs = (self._ref, f"refs/remotes/origin/{self.branch}", f"refs/orchestration/seen/{self.branch}")
        for data in self._git.blobs([f"{ref}:{self._path}" for ref in refs]):
            with suppress(Refused):
                known = state.parse(data)
                newest = known if newest is None or known.epoch > newest.epoch else newest
        return newest is not None and newest.claim_base is not None

    def _check_forward(self, tip: str, now: State, older: State) -> None:
        try:
            state.check_forward(now, epoch=older.epoch, iteration=older.iteration)
        except Refused:
            # A hand-off of ours may go back: it mends what an agent made of the state.
            if f"Orchestration-Nonce: {now.nonce}" not in self._git.ask("log", "-1", "--format=%B", tip).splitlines():
                raise

    def remedy(self, now: State) -> str:
        """Tell what a person can type where the state stands still."""
        return decisions(now)

    def claim(self, claim: Claim, offer: str) -> Claimed | Lost:  # noqa: ARG002
        """Take the turn if the branch still is at the claim's base."""
        return Claimed(claim.base) if self._git.resolve(self._ref) == claim.base else Lost()

    def state_at(self, value: str) -> State:
        """Read the state of a commit.

        Raises:
            Refused: it is damaged.

        """
        return self._parse(self._git.blobs([f"{value}:{self._path}"])[0])

    def stamp(self, parent: str, before: State, after: State, operator: str | None = None) -> HandOff:
        """Build the state commit on `parent`."""
        file = File(self._path, data=state.encode(replace(after, claim_base=None)))  # what is not shared has none
        commit = self._git.commit_files(parent, [file], state.message(before, after, operator=operator))
        return HandOff(commit, parent)

    def settle(
        self,
        hand_off: HandOff,
        claim: str | None = None,  # noqa: ARG002 - it is in no commit
        besides: str | None = None,
    ) -> Landed | Moved | Fenced:
        """Move the branch from `parent` to `commit`, and refresh the state's index entry and file beside it.

        With the branch goes the ref `besides`. Whatever becomes of the branch, entry and file are as it has them then.
        """
        tip = self._git.resolve(self._ref) or ""
        if tip == hand_off.parent:
            failpoints.hit("settle.before_ref")
            why = f"orchestrator: {hand_off.commit}"
            moved = self._git.updating_ref(self._ref, hand_off.commit, hand_off.parent, why, besides)
            refreshed = self._refreshing(hand_off.commit)
            has_moved = moved()
            refreshed()
            if has_moved:
                failpoints.hit("settle.after_ref")
                return Landed(hand_off.commit)
            tip = self._git.resolve(self._ref) or ""
        if tip:
            self.refresh(tip)
        if tip == hand_off.commit or (tip and self._git.is_ancestor(hand_off.commit, tip)):
            return Landed(hand_off.commit)
        return self._moved(hand_off, tip)

    def _moved(self, hand_off: HandOff, tip: str) -> Moved | Fenced:
        if not tip:
            return Fenced(f"the branch {self.branch} was deleted")
        if not self._git.is_ancestor(hand_off.parent, tip):
            return Fenced(f"the branch {self.branch} was moved to {tip[:10]}, which lacks the turn's commits")
        mine, theirs = self._git.blobs([f"{hand_off.parent}:{self._path}", f"{tip}:{self._path}"])
        if mine != theirs:
            return Fenced(f"the state was changed by {tip[:10]}")
        return Moved(tip)

    def refresh(self, tip: str) -> None:
        """Give index and work tree the state of `tip`, where this work tree has the branch checked out.

        Raises:
            Refused: the file's folder has become a link, and what it leads to is nobody's to write to.

        """
        self._refreshing(tip)()

    def _refreshing(self, tip: str) -> Callable[[], None]:
        """Begin what `refresh` does; call what is returned to end it."""
        data = self._git.blobs([f"{tip}:{self._path}"])[0]
        blob = self._git.resolve(f"{tip}:{self._path}")
        if data is None or blob is None or not self._git.has_checked_out(self.branch):
            return lambda: None
        refuse_links(self._place, self._state_file, itself=False)
        index_is_set = self._git.setting_index([Change(REGULAR, blob, self._path)])
        if not self._file.is_file() or self._file.is_symlink() or self._file.read_bytes() != data:
            files.replace(self._file, data)
        failpoints.hit("settle.after_file")

        def end() -> None:
            index_is_set()
            failpoints.hit("settle.after_index")

        return end

    def _parse(self, data: bytes | None) -> State:
        with self._naming_the_file():
            return state.parse(data)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            raise Refused(
                f"{self._path} on {self._shown}: {error.message}",
                code=error.code,
                remedy=error.remedy.replace("{path}", self._path),
            ) from None
