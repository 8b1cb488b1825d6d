"""The remote as a vocabulary: look, fetch, push with a lease (docs/protocol.md). Decisions live in remote_bus.

Nothing here ever forces: a fetch that would rewind what was seen is refused, a push names the value that it replaces.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from orchestration.errors import OrchestrationError, Refused, Unreachable
from orchestration.git import Git
from orchestration.process import Completed
from orchestration.remote_errors import Trouble, classify, trouble
from orchestration.remote_kinds import PATIENCE, Kind

TIMEOUT = 120.0
"""Seconds of one call; a transport without a stall timeout of its own (git://) is ended then."""

_GRACE = 10.0
"""Seconds that a call has left when a person wants us to stop."""
_LOOKS = 3
_BETWEEN = 0.3
_OWN = "refs/orchestration"


class Refs(NamedTuple):
    """What the remote shows: the branch's tip, None where it has no such branch, and the lease of each role."""

    tip: str | None
    leases: dict[str, str]


class Remote:
    """One branch of one remote.

    Args:
        git: the verbs of the clone.
        name: the remote's name or address.
        branch: the working branch.
        hurry: tells whether a person waits for us to stop: a call that stalls is then ended.

    """

    def __init__(self, git: Git, name: str, branch: str, hurry: Callable[[], bool] = lambda: False) -> None:
        self.git = git
        self.name = name
        self.branch = branch
        self.ref = f"refs/heads/{branch}"
        self.seen = f"{_OWN}/seen/{branch}"
        self._hurry = hurry
        self._leases: dict[str, str] | None = None  # of the last look, if it asked for them
        self._stirred = False

    def lease(self, role: str) -> str:
        """Return the name of a role's lease ref."""
        return f"{_OWN}/{self.branch}/lease/{role}"

    # --- looking -----------------------------------------------------------------------------------------------------

    def stir(self) -> None:
        """Note that something has moved there: the next look fetches without asking first. Any thread may call it."""
        self._stirred = True

    def refs(self) -> Refs:
        """Ask the remote, in one call, where the branch and the leases are.

        Raises:
            Unreachable: it did not answer.

        """
        found = self.read_refs(self._checked("ls-remote", *self.looking()))
        self._leases = found.leases
        return found

    def looking(self) -> tuple[str, ...]:
        """Return the arguments of the look."""
        return self.name, self.ref, f"{_OWN}/{self.branch}/lease/*"

    def read_refs(self, done: Completed) -> Refs:
        """Read what a look printed."""
        rows = (row.split("\t", 1) for row in os.fsdecode(done.stdout).splitlines())
        found = {name: oid for oid, name in rows}
        prefix = self.lease("")
        leases = {name.removeprefix(prefix): oid for name, oid in found.items() if name.startswith(prefix)}
        return Refs(found.get(self.ref), leases)

    def tip(self) -> str:
        """Return the branch's tip at the remote; its objects are here then.

        Raises:
            Unreachable: the remote did not answer.
            Refused: it has no such branch (code `remote-branch-missing`), or was rewound (`remote-rewound`).

        """
        stirred, self._stirred = self._stirred, False
        if stirred and self._call("fetch", *self.fetching()).code == 0:
            self._leases = None
            return self.git.resolve(self.seen) or self.tip()
        for _ in range(_LOOKS):  # also to find out why it cannot be fetched
            tip = self.refs().tip
            if tip is not None:
                return self._bring(tip)
            self.git.loop.pause(_BETWEEN)  # a connection cut early may look like a remote without branches
        raise self._missing()

    def known(self) -> str:
        """Return the branch's tip as it was last seen here.

        Raises:
            Refused: it never was.

        """
        seen = self.git.resolve(self.seen)
        if seen is None:
            raise self._missing()
        return seen

    def _bring(self, tip: str) -> str:
        """Fetch what a look has shown, if it is not here yet; return the tip, which may have moved on since.

        Raises:
            Unreachable: the remote did not answer.
            Refused: it was rewound.

        """
        if self.git.resolve(self.seen) == tip:
            return tip
        done = self._call("fetch", *self.fetching())
        if done.code:
            self._refuse_rewind(tip)
            raise self._unreachable(done)
        return self.git.resolve(self.seen) or tip

    def fetching(self) -> tuple[str, ...]:
        """Return the arguments of the fetch; without a `+` it refuses to go back.

        The person's remote-tracking branch stays as they fetched it: their own `--force-with-lease` may rely on it.
        """
        only = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=")  # --quiet hides refusals
        return *only, self.name, f"{self.ref}:{self.seen}"

    def beat(self, role: str) -> str:
        """Return the text of a role's lease as the last look has shown it, "" where there is none to be had."""
        leases = self.refs().leases if self._leases is None else self._leases
        oid = leases.get(role)
        if oid is None:
            return ""
        if not self.git.has(oid):
            self._call("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.name, self.lease(role))
        data = self.git.blobs([oid])[0] or b""
        return data.decode(errors="replace").partition("\n\n")[2].strip()

    def folder(self) -> Path | None:
        """Return the git dir of a remote on this machine, None of another."""
        address = self.git.ask("ls-remote", "--get-url", self.name).removeprefix("file://")
        place = (self.git.top / address).resolve()
        for folder in (place, place / ".git", place.with_name(f"{place.name}.git")):
            if (folder / "objects").is_dir() and (folder / "refs").is_dir():
                return folder
        return None

    def _missing(self) -> Refused:
        seen = self.git.resolve(self.seen)
        if seen is None:
            return Refused(
                f"{self.name} has no branch {self.branch}",
                code="remote-branch-missing",
                remedy=f"publish it: `git push -u {self.name} {self.branch}`",
            )
        return Refused(
            f"the branch {self.branch} of {self.name} was deleted or renamed; it was at {seen[:10]}",
            code="remote-branch-gone",
            remedy=f"if by mistake: `git push {self.name} {seen}:{self.ref}`; else `git update-ref -d {self.seen}`",
        )

    def _refuse_rewind(self, tip: str) -> None:
        """Refuse a tip that lacks what was seen; a quiet fetch brings its objects, and does not say why it stops."""
        seen = self.git.resolve(self.seen)
        if seen and self.git.has(tip) and not self.git.is_ancestor(seen, tip):
            raise Refused(
                f"the branch {self.branch} of {self.name} was moved back or rewritten: "
                f"it no longer contains {seen[:10]}, which this clone has seen",
                code="remote-rewound",
                remedy=(
                    f"if that was a mistake, whoever did it puts it right; if it was meant: "
                    f"`git update-ref -d {self.seen}`, `git fetch {self.name}`, and start once, which gives up a turn "
                    f"that stood on it; then `git branch before-rewind`, `git reset --keep {self.name}/{self.branch}` "
                    f"and `orchestrator init --adopt`"
                ),
            )

    # --- writing -----------------------------------------------------------------------------------------------------

    def push(self, commit: str, expected: str) -> Trouble | None:
        """Move the branch from `expected` to `commit`; None: it is there now.

        The lease switches git's own fast-forward check off: the caller has made sure that `commit` contains
        `expected`. What is there now counts as seen: whoever takes it back has rewound the branch.
        """
        if uses_lfs(self.git):  # its own upload is a hook, and no hook of a clone runs here
            done = self._call("lfs", "push", self.name, commit)
            if done.code:
                return trouble(done, self.name, self.branch)
        done = self._call(*self.pushing(self.ref, commit, expected))
        if classify(done) is not Kind.OK:
            return trouble(done, self.name, self.branch)
        return None

    def saw(self, commit: str) -> None:
        """Note where the remote's branch is: who takes it away again is noticed, and it need not be fetched."""
        self.git.call("update-ref", self.seen, commit)

    def publish(self, ref: str, commit: str) -> None:
        """Make a ref that the remote does not have yet, or has as it is.

        Raises:
            Unreachable: it did not answer.
            Refused: it does not take it, or has another there.

        """
        done = self._call(*self.pushing(ref, commit, ""))
        if classify(done, ref) not in {Kind.OK, Kind.ALREADY}:
            raise self._unreachable(done)

    def try_push(self, commit: str) -> Trouble | None:
        """See whether the remote would take a push at all, as far as it tells before one; nothing is moved."""
        done = self._call(*self.pushing(self.ref, commit, commit), "--dry-run")
        return None if classify(done) in {Kind.OK, Kind.ALREADY} else trouble(done, self.name, self.branch)

    def require_leases(self) -> None:
        """Refuse to judge by signs of life where the host takes none: their absence would say nothing.

        Raises:
            Unreachable: it did not answer.
            Refused: it does not take them (code `standby-blind`).

        """
        ref, made = self.lease("standby"), self.git.ask("commit-tree", self.git.empty_tree(), "-m", "standby")
        done = self._call(*self.pushing(ref, made, self.refs().leases.get("standby", "")))
        if classify(done, ref) not in {Kind.OK, Kind.ALREADY}:
            what = trouble(done, self.name, self.branch)
            raise Refused(
                f"{self.name} takes no signs of life, without which a standby cannot tell a dead peer: {what.text}",
                code="standby-blind",
                remedy=f"have it take refs below {_OWN}/{self.branch}/lease/, or set sync.stale: wait",
            )

    def pushing(self, ref: str, new: str, old: str) -> tuple[str, ...]:
        """Return the command that moves a ref of the remote from `old` ("": not there yet) to `new`."""
        return "push", "--porcelain", "--no-verify", f"--force-with-lease={ref}:{old}", self.name, f"{new}:{ref}"

    # --- the door ----------------------------------------------------------------------------------------------------

    def _checked(self, *args: str) -> Completed:
        done = self._call(*args)
        if done.code:
            raise self._unreachable(done)
        return done

    def _unreachable(self, done: Completed) -> OrchestrationError:
        return raised(trouble(done, self.name, self.branch), self.name)

    def _call(self, *args: str) -> Completed:
        started, loop = self.git.reach(*args, timeout=TIMEOUT), self.git.loop
        while not (self._hurry() or started.ended):  # in this order: to listen may be to hear of its end
            loop.step()
        if not started.ended:
            loop.after(_GRACE, started.child.stop)
        return started()


def raised(what: Trouble, remote: str) -> OrchestrationError:
    """Return what a trouble comes to: to be tried again, or a person's to mend."""
    text = f"{remote}: {what.text.removeprefix('fatal: ')}"
    if PATIENCE[what.kind] is None:
        return Refused(text, code=f"remote-{what.kind.removeprefix('remote-')}", remedy=what.remedy)
    return Unreachable(text, kind=what.kind, remedy=what.remedy)


def uses_lfs(git: Git) -> bool:
    """Tell whether the project keeps files with Git LFS."""
    attributes = git.top / ".gitattributes"
    return attributes.is_file() and b"filter=lfs" in attributes.read_bytes()
