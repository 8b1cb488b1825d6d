"""`orchestrator checklist`: the built-in agent as a program."""

import click

from orchestration import checklist as agent


@click.command()
def checklist() -> int:
    """Be the built-in agent.

    No model, no network, real work on docs/fix_plan.md.

    The daemon runs this as the agent `checklist`; it takes its actor and prompt from ORCH_ACTOR and ORCH_PROMPT.
    """
    return agent.main()
