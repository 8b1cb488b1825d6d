"""What a prompt is told of its turn: a few lines at its end, the same for every agent (settings, `prompts.context`)."""

from typing import NamedTuple

from orchestration.journal import Claim
from orchestration.state import Actor, State

USER_INPUT = "user_input.md"
"""Where a person, or the review, leaves word for both."""

_INTERRUPTED = "An earlier attempt at this turn was interrupted. The work tree is as it left it; go on from there."


class Facts(NamedTuple):
    """What is known of a turn.

    Args:
        claim: whose it is.
        state: the state that it began on.
        reports: the folder of this run's reports.
        user_input: the file in which a person has left word, None where none is left.

    """

    claim: Claim
    state: State
    reports: str
    user_input: str | None


def block(facts: Facts) -> str:
    """Return the lines, Markdown, with a blank line before them."""
    claim, other = facts.claim, facts.claim.actor.other
    lines = [
        f"You are {claim.actor}, in iteration {claim.iteration}, on the branch {claim.branch}.",
        *_work_of(other, facts.state),
        f"This run's reports lie in {facts.reports}.",
        *([f"A person has left word: read {facts.user_input} first."] if facts.user_input else []),
    ]
    return "\n\n## This turn\n\n" + "".join(f"- {line}\n" for line in lines)


def interrupted() -> str:
    """Return what an agent is told that another attempt was made before, whatever else it is told."""
    return f"\n\nNote: {_INTERRUPTED[0].lower()}{_INTERRUPTED[1:]}\n"


def _work_of(actor: Actor, now: State) -> list[str]:
    """Return where the work of the actor's last turn lies, since this one's own."""
    mine, theirs = (getattr(now, f"{whose}_commit") for whose in (actor.other, actor))
    if theirs is None:
        return [f"{actor} has had no turn yet."]
    since = f"{mine[:12]}..{theirs[:12]}" if mine and mine != theirs else f"-1 {theirs[:12]}"
    return [f"What {actor} did last: `git log --oneline {since}`."]
