"""Named places where a test can kill the daemon or fail its disk (docs/architecture.md).

`GALPH_FAILPOINT=name:ACTION[:nth]` arms one: at the nth hit (default 1) KILL and TERM send the signal to this process,
ENOSPC and EIO raise that OSError. Unarmed, a hit costs one comparison.
"""

import errno
import os
import signal

from orchestration.environment import inherited
from orchestration.errors import UsageError

VARIABLE = "GALPH_FAILPOINT"

NAMES = frozenset(
    {
        "journal.before_write",
        "journal.after_write",
        "turn.claimed",
        "turn.routed",
        "turn.before_spawn",
        "turn.after_spawn",
        "turn.agent_ended",
        "turn.ran",
        "collect.before_index",
        "collect.before_ref",
        "collect.after_ref",
        "rescue.before_ref",
        "rescue.after_ref",
        "turn.checked",
        "stamp.built",
        "claim.before_push",
        "claim.after_push",
        "settle.before_push",
        "settle.after_push",
        "leave.before_reset",
        "leave.after_reset",
        "settle.before_ref",
        "settle.after_ref",
        "settle.after_index",
        "settle.after_file",
        "turn.settled",
        "word.before_ref",
        "word.after_ref",
        "init.written",
        "init.before_index",
        "init.before_ref",
        "init.after_ref",
        "undo.removed",
    }
)

ACTIONS = ("KILL", "TERM", "ENOSPC", "EIO")


class _Armed:
    """The one failpoint that this process will act on, if any."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.partition(":")
        action, _, nth = rest.partition(":")
        if text and (name not in NAMES or action not in ACTIONS):
            raise UsageError(
                f"{VARIABLE}={text}: no such failpoint or action",
                code="failpoint-unknown",
                remedy=f"NAME is one of {', '.join(sorted(NAMES))}; ACTION one of {', '.join(ACTIONS)}",
            )
        self.name = name
        self.action = action
        self.left = int(nth or "1")


_armed: list[_Armed] = []


def hit(name: str) -> None:
    """Act if `name` is the armed failpoint.

    Raises:
        OSError: when the armed action is ENOSPC or EIO.

    """
    if not _armed:
        _armed.append(_Armed(inherited().get(VARIABLE, "")))
    armed = _armed[0]
    if armed.name != name:
        return
    armed.left -= 1
    if armed.left != 0:
        return
    if armed.action in {"KILL", "TERM"}:
        os.kill(os.getpid(), getattr(signal, f"SIG{armed.action}"))
    else:
        raise OSError(getattr(errno, armed.action), os.strerror(getattr(errno, armed.action)), name)
