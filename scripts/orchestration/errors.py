"""Every refusal knows its exit code, a stable name for scripts, its cause and its remedy."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees; the README prints this table."""

    OK = 0
    USAGE = 2
    REFUSED = 3
    TURN_FAILED = 4
    UNREACHABLE = 5
    WAITED = 6
    LOCKED = 7
    FENCED = 8
    LIMIT = 9
    BUG = 70
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done, stopped on request, or nothing to do",
    ExitCode.USAGE: "wrong usage or configuration",
    ExitCode.REFUSED: "the repository or the state needs a person; nothing was changed",
    ExitCode.TURN_FAILED: "a turn failed, now or earlier; `orchestrator retry` or `skip` decides",
    ExitCode.UNREACHABLE: "the remote could not be reached in time; what was to be pushed is kept for the next start",
    ExitCode.WAITED: "waited longer than `--max-wait-sec`",
    ExitCode.LOCKED: "another daemon holds this clone",
    ExitCode.FENCED: "I had owned the turn and another hand moved it on; my work is in a rescue ref",
    ExitCode.LIMIT: "a limit that you set was reached; `orchestrator resume` goes on, or the next day does",
    ExitCode.BUG: "a bug; the traceback is in the named file",
    ExitCode.HANGUP: "stopped by SIGHUP; the next start goes on",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; the next start goes on",
    ExitCode.TERMINATED: "stopped by SIGTERM or `stop --now`; the next start goes on",
}


class OrchestrationError(Exception):
    """A refusal that a person can act on.

    Args:
        message: the cause, one or more lines, naming the file and line where there is one.
        code: a stable kebab-case name, for `--json` and for searching the documentation.
        remedy: what to type or change now.

    """

    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, code: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.remedy = remedy


class UsageError(OrchestrationError):
    """Options, configuration or prompts are wrong; nothing was started."""

    exit_code = ExitCode.USAGE


class Refused(OrchestrationError):
    """The repository or the state needs a person; nothing was changed."""


class Unreachable(OrchestrationError):
    """The remote did not answer, or not in a way that tells what happened; the same step may be tried again.

    Args:
        kind: the class of the trouble (remote_errors.Kind), which says how long to wait.

    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, message: str, *, kind: str, remedy: str) -> None:
        super().__init__(message, code=f"remote-{kind.removeprefix('remote-')}", remedy=remedy)
        self.kind = kind


class Locked(OrchestrationError):
    """Another daemon holds this work tree."""

    exit_code = ExitCode.LOCKED
