"""How the daemon is told to stop, or to wait."""

from typing import NamedTuple

from orchestration.errors import ExitCode


class Wait(NamedTuple):
    """Nothing can be done here now, and why; a look later may show otherwise.

    A person is told once of what has the same `subject`. Where the wait is `calm`, what wakes us first is the peer's
    claim, after which nothing is ours to do.
    """

    why: str
    subject: str
    calm: bool = False


class Place(NamedTuple):
    """Where the loop stands: the state's epoch, its iteration, and whose turn it is."""

    epoch: int
    iteration: int
    actor: str


class Halt(NamedTuple):
    """The daemon must stop here: exit code, stable name, why, what to do, and where, if it is about the state."""

    exit_code: ExitCode
    code: str
    reason: str
    remedy: str = ""
    at: Place | None = None
