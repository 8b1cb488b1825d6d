"""`doctor`: what a run will need, before it is needed."""

from pathlib import Path

import click

from orchestration.cli.options import configured, json_option
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.doctor import examine, exit_code
from orchestration.environment import inherited
from orchestration.findings import Finding, Level, Scene
from orchestration.git import Git
from orchestration.layers import from_flags, from_pairs
from orchestration.process import Loop

_MARKS = {
    Level.OK: click.style("✓", fg="green"),
    Level.ADVICE: click.style("!", fg="yellow"),
    Level.WARNING: click.style("!", fg="yellow"),
    Level.PROBLEM: click.style("✗", fg="red"),
}
_WIDTH = 14


@click.command()
@json_option
@configured
def doctor(*, flags: dict[str, str | bool], pairs: tuple[str, ...], as_json: bool) -> int:
    """Look at everything that a run needs, and change nothing.

    Git, repository, branch, configuration, state, prompts, agents, locks, what an earlier turn left, disk, clock: each
    with what to type. Takes run's options, so that they can be tried: `orchestrator doctor --agent ./my-agent.sh`.

    Exit code: 0 if nothing is a problem (advice and warnings are not), 2 if configuration, prompts or agents are the
    only ones that have any, else 3.
    """
    clock, environment = SystemClock(), inherited()
    spoken = {**from_pairs(list(pairs)), **from_flags(flags)}
    console = Console(as_json=as_json)
    with Loop(clock) as loop:
        findings = examine(Scene(Git(loop, Path.cwd(), environment), environment, spoken, clock))
    if as_json:
        console.dump(findings)
    else:
        console.say("\n".join(_told(finding) for finding in findings))
    return exit_code(findings)


def _told(finding: Finding) -> str:
    margin = "\n" + " " * (_WIDTH + 2)
    first = f"{_MARKS[finding.level]} {finding.name:<{_WIDTH}}{finding.found.replace(chr(10), margin)}"
    return f"{first}{margin}{finding.remedy}" if finding.remedy else first
