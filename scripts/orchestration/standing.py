"""What would refuse a start here, by the rules that the start itself goes by; reads only."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from orchestration.bus import Bus
from orchestration.buses import require_checked_out
from orchestration.errors import OrchestrationError
from orchestration.git import Git
from orchestration.halt import Halt
from orchestration.journal import Entry, Idle, claim_of
from orchestration.settings import Config
from orchestration.standstill import refuse_other_turns, require_own, standstill
from orchestration.workspace import Workspace, refuse_links


class Ground(NamedTuple):
    """What a start would stand on; `entry` was read before the bus is looked at."""

    place: Workspace
    config: Config
    git: Git
    bus: Bus
    entry: Entry


def refusals(ground: Ground) -> Iterator[OrchestrationError]:
    """Yield what turns, paths and state in the way of a start say, in the order in which it would meet them."""
    return _raised(ground, (_other_turn, _own_turn, _links, _state))


def of_turns(ground: Ground) -> Iterator[OrchestrationError]:
    """Yield what turns in progress say, that a start here would not go on with."""
    return _raised(ground, (_other_turn, _own_turn))


def _raised(ground: Ground, checks: Sequence[Callable[[Ground], None]]) -> Iterator[OrchestrationError]:
    for check in checks:
        try:
            check(ground)
        except OrchestrationError as error:
            yield error


def _other_turn(ground: Ground) -> None:
    refuse_other_turns(ground.place, ground.config.state_file)


def _own_turn(ground: Ground) -> None:
    claim = claim_of(ground.entry)
    if claim and ground.place.git:
        require_checked_out(ground.git, claim)


def _links(ground: Ground) -> None:
    if isinstance(ground.entry, Idle):
        refuse_links(ground.place, ground.config.state_file, ground.config.logs_dir)


def _state(ground: Ground) -> None:
    """Look at the state, where a start would: between turns."""
    if not isinstance(ground.entry, Idle):
        return
    seen = ground.entry.on(ground.bus.branch)
    now = ground.bus.look(epoch=seen.epoch, iteration=seen.iteration).state
    require_own(now, ground.bus.branch)
    halt = standstill(ground.bus, now)
    if isinstance(halt, Halt):
        raise OrchestrationError(halt.reason, code=halt.code, remedy=halt.remedy)
