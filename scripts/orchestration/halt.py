"""How the daemon is told to stop, or to wait."""

from typing import NamedTuple

from orchestration.errors import ExitCode


class Wait(NamedTuple):
    """Nothing can be done here now, and why; a look later may show otherwise.

    A person is told once of what has the same `subject`.
    """

    why: str
    subject: str


class Halt(NamedTuple):
    """The daemon must stop here: exit code, stable name, why, and what to do."""

    exit_code: ExitCode
    code: str
    reason: str
    remedy: str = ""
