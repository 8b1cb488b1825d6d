"""What a scheduler is given to run a project's turns, one a start, as text: an entry of a crontab, units of systemd."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestration.errors import UsageError

LOG = "cron.log"
"""Where, below the logs folder, an entry keeps what was printed."""
STOP = 60
"""Seconds that systemd waits for a daemon: its ladder ends within 30, `notify.command` within 12 more."""
_HOUR = 60


class Job(NamedTuple):
    """What is run and how often.

    Args:
        program: the orchestrator's program and its arguments, none of them relative.
        options: what `run` is given besides `--once -q`.
        root: the project's folder.
        logs: the folder of its logs.
        path: the PATH by which agents are found.
        every: minutes between two starts, a divisor of 60.

    """

    program: Sequence[str]
    options: Sequence[str]
    root: Path
    logs: Path
    path: str
    every: int

    @property
    def command(self) -> list[str]:
        """The command line."""
        return [*self.program, "run", "--once", "-q", *self.options]

    def check(self) -> None:
        """See that it can be written down.

        Raises:
            UsageError: the minutes do not divide an hour, or a path holds a line end.

        """
        if self.every < 1 or _HOUR % self.every:
            fits = ", ".join(str(number) for number in range(1, _HOUR + 1) if _HOUR % number == 0)
            raise UsageError(
                f"--every {self.every}: the minutes between two starts must divide an hour",
                code="usage",
                remedy=f"one of {fits}",
            )
        if re.search(r"[\r\n]", "".join([*self.program, str(self.root), self.path])):
            raise UsageError(
                "a path with a line end in it cannot be written into a schedule", code="usage", remedy="rename it"
            )


def crontab(job: Job) -> str:
    """Return the entry, with comments; cron itself gives a command no more than HOME, LOGNAME, SHELL and a short PATH.

    Raises:
        UsageError: the job cannot be written down.

    """
    job.check()
    minutes = {1: "*", _HOUR: "0"}.get(job.every, f"*/{job.every}")
    log = shlex.quote(str(job.logs / LOG))
    command = f"cd {shlex.quote(str(job.root))} && {shlex.join(job.command)} >>{log} 2>&1"
    command = command.replace("%", "\\%")  # which cron takes for the end of a line
    return f"""\
# At most one turn every {_minutes(job.every)} in {job.root}. Add these lines with `crontab -e`.
# A start while another turn runs ends at once (exit 7); a failed turn (4) or a reached limit (9) runs nothing until a
# person decides. What is printed is appended to a file: failures, a line or two a start. To have it mailed instead,
# set MAILTO=you above, and take `>>...` from the end. PATH holds for the lines below it, too.
PATH={_variable(job.path)}
{minutes} * * * * {command}
"""


def units(job: Job, name: str) -> dict[str, str]:
    """Return a person's units of systemd: file name → text.

    Args:
        job: what is run.
        name: what they are called, without the ending.

    Raises:
        UsageError: the job cannot be written down.

    """
    job.check()
    service = f"""\
[Unit]
Description=One turn of galph or ralph in {_literal(str(job.root))}

[Service]
Type=exec
WorkingDirectory={_literal(str(job.root))}
Environment={_word("PATH=" + job.path)}
ExecStart={" ".join(_word(word).replace("$", "$$") for word in job.command)}
# A turn has time limits of its own (limits.turn_timeout and idle_timeout): nothing else may cut it short.
RuntimeMaxSec=infinity
# A stop tells the daemon alone, which ends its agent in the agent's own way and keeps its work: a signal to all of them
# would end the agent's tools first. What is left when the daemon has gone is killed.
KillMode=mixed
# Its ladder ends within 30 s, and notify.command within 12 s more: only a daemon that hangs is killed.
TimeoutStopSec={STOP}
# 7: another daemon holds this clone. 143: it was stopped. Neither is a failure; 4 (a turn failed) and 9 (a limit is
# reached) are, so that `systemctl --user --failed` shows them.
SuccessExitStatus=7 143
"""
    calendar = "*:0" if job.every == _HOUR else f"*:0/{job.every}"
    timer = f"""\
[Unit]
Description=A turn every {_minutes(job.every)} in {_literal(str(job.root))}

[Timer]
# While a turn runs, nothing is started.
OnCalendar={calendar}
AccuracySec=1s
# After a boot at once: the turn that it cut off goes on.
Persistent=true

[Install]
WantedBy=timers.target
"""
    return {f"{name}.service": service, f"{name}.timer": timer}


def unit_name(root: Path, role: str | None) -> str:
    """Return what the units of a project, or of one role in it, are called."""
    words = ["orchestrator", re.sub(r"[^A-Za-z0-9_.]+", "-", root.name).strip("-"), role]
    return "-".join(word for word in words if word)


def _minutes(every: int) -> str:
    return {1: "minute", _HOUR: "hour"}.get(every, f"{every} minutes")


def _variable(value: str) -> str:
    """Return the value of a crontab's variable: in quotes only where its ends would be lost."""
    return f'"{value}"' if value != value.strip() and '"' not in value else value


def _literal(text: str) -> str:
    """Return a text of a unit in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """Return one word of a unit's line."""
    plain = _literal(text)
    if re.fullmatch(r"[\w@%+=:,./$-]+", plain, re.ASCII):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
