"""The remote as a vocabulary: look, fetch, push with a lease (handoff.md, "Protocol"). Decisions live in remote_bus.

Nothing here ever forces: a fetch that would rewind what was seen is refused, a push names the value that it replaces.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from orchestration.errors import Refused, Unreachable
from orchestration.git import Git
from orchestration.process import Completed
from orchestration.remote_errors import Trouble, classify, trouble
from orchestration.remote_kinds import Kind

TIMEOUT = 120.0
"""Seconds of one call; a transport without a stall timeout of its own (git://) is ended then."""

_GRACE = 10.0
"""Seconds that a call has left when a person wants us to stop."""
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
        self._leases: dict[str, str] = {}

    def lease(self, role: str) -> str:
        """Return the name of a role's lease ref."""
        return f"{_OWN}/{self.branch}/lease/{role}"

    # --- looking -----------------------------------------------------------------------------------------------------

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
        return self.bring(self.refs().tip)

    def bring(self, tip: str | None) -> str:
        """Fetch what a look has shown, if it is not here yet; return the tip, which may have moved on since.

        Raises:
            Unreachable: the remote did not answer.
            Refused: there is no such branch, or it was rewound.

        """
        if tip is None:
            raise self._missing()
        if self.git.resolve(self.seen) == tip:
            return tip
        done = self._call("fetch", *self.fetching())
        if done.code:
            self._refuse_rewind(done)
            raise self._unreachable(done)
        found = self.git.resolve(self.seen)
        if found is None:
            raise self._missing()
        return found

    def fetching(self) -> tuple[str, ...]:
        """Return the arguments of the fetch; without a `+` it refuses to go back."""
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        return *quiet, self.name, f"{self.ref}:{self.seen}"

    def beat(self, role: str) -> str:
        """Return the text of a role's lease as the last look has shown it, "" where there is none to be had."""
        oid = self._leases.get(role)
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

    def _refuse_rewind(self, done: Completed) -> None:
        if b"(non-fast-forward)" in done.stderr or b"would clobber" in done.stderr:
            seen = self.git.resolve(self.seen) or ""
            raise Refused(
                f"the branch {self.branch} of {self.name} was moved back or rewritten: "
                f"it no longer contains {seen[:10]}, which this clone has seen",
                code="remote-rewound",
                remedy=(
                    f"if that was a mistake, whoever did it puts it right; if it was meant: "
                    f"`git update-ref -d {self.seen}`, `git fetch {self.name}` and "
                    f"`git reset --keep {self.name}/{self.branch}`, then `orchestrator init --adopt`"
                ),
            )

    # --- writing -----------------------------------------------------------------------------------------------------

    def push(self, commit: str, expected: str) -> Trouble | None:
        """Move the branch from `expected` to `commit`; None: it is there now.

        The lease switches git's own fast-forward check off: the caller has made sure that `commit` contains
        `expected`.
        """
        done = self._call(*self.pushing(self.ref, commit, expected))
        return None if classify(done) is Kind.OK else trouble(done, self.name, self.branch)

    def pushing(self, ref: str, new: str, old: str) -> tuple[str, ...]:
        """Return the command that moves a ref of the remote from `old` ("": not there yet) to `new`."""
        return "push", "--porcelain", "--no-verify", f"--force-with-lease={ref}:{old}", self.name, f"{new}:{ref}"

    # --- the door ----------------------------------------------------------------------------------------------------

    def _checked(self, *args: str) -> Completed:
        done = self._call(*args)
        if done.code:
            raise self._unreachable(done)
        return done

    def _unreachable(self, done: Completed) -> Unreachable:
        return unreachable(trouble(done, self.name, self.branch))

    def _call(self, *args: str) -> Completed:
        started, loop = self.git.reach(*args, timeout=TIMEOUT), self.git.loop
        while not (self._hurry() or started.ended):  # in this order: to listen may be to hear of its end
            loop.step()
        if not started.ended:
            loop.after(_GRACE, started.child.stop)
        return started()


def unreachable(what: Trouble) -> Unreachable:
    """Return a trouble as what the daemon waits out."""
    return Unreachable(what.text, kind=what.kind, remedy=what.remedy)
