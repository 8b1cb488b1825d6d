"""`doctor`: everything that a run will need, looked at once, and nothing changed.

A check that cannot use what it looks at raises; that is its problem, and only the checks that need it are left out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from orchestration import agent_checks, clone_checks, setup_checks
from orchestration.errors import ExitCode, OrchestrationError
from orchestration.findings import Finding, Level, Scene, refused


class Check(NamedTuple):
    """A name, what looks, and the checks that must have found what they looked for."""

    name: str
    look: Callable[[Scene], Iterable[Finding]]
    needs: Sequence[str] = ()


CHECKS = (
    Check("git", setup_checks.git),
    Check("repository", clone_checks.repository, ["git"]),
    Check("configuration", setup_checks.configuration),
    Check("branch", clone_checks.branch, ["repository", "configuration"]),
    Check("sharing", clone_checks.sharing, ["branch"]),
    Check("state", clone_checks.state, ["sharing"]),
    Check("prompts", setup_checks.prompts, ["configuration"]),
    Check("agents", agent_checks.agents, ["configuration"]),
    Check("locks", clone_checks.locks, ["branch"]),
    Check("leftovers", clone_checks.leftovers, ["branch"]),
    Check("disk", setup_checks.disk),
    Check("clock", setup_checks.clock),
    Check("file events", setup_checks.file_events, ["repository"]),
)
_CONFIGURED = {"configuration", "prompts", "agents"}
"""Checks whose problems are mended in orchestration.yaml, the environment or the command line."""


def examine(scene: Scene) -> list[Finding]:
    """Return what every check found, in the order of the table."""
    findings: list[Finding] = []
    broken: list[str] = []
    left_out: list[str] = []
    for check in CHECKS:
        if set(check.needs).intersection([*broken, *left_out]):
            left_out.append(check.name)
            continue
        try:
            for finding in check.look(scene):
                findings.append(finding)  # noqa: PERF402 - what was found before it raises counts
        except OrchestrationError as error:
            broken.append(check.name)
            findings.append(refused(check.name, error))
        except OSError as error:
            broken.append(check.name)
            found = f"the system refused: {error}"
            findings.append(Finding(check.name, Level.PROBLEM, found, "mend it, and look again"))
    if left_out:
        found = f"not looked at: {', '.join(left_out)}"
        findings.append(Finding("left out", Level.ADVICE, found, "mend the problems above, and look again"))
    return findings


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """Return OK without a problem, USAGE if all of them are the configuration's, else REFUSED."""
    wrong = {finding.name for finding in findings if finding.level is Level.PROBLEM}
    if not wrong:
        return ExitCode.OK
    return ExitCode.USAGE if wrong <= _CONFIGURED else ExitCode.REFUSED
