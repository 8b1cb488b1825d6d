"""How the daemon is told to stop."""

from typing import NamedTuple

from orchestration.errors import ExitCode


class Halt(NamedTuple):
    """The daemon must stop here: exit code, stable name, why, and what to do."""

    exit_code: ExitCode
    code: str
    reason: str
    remedy: str = ""
