"""Signs of life during a turn, and an ear for whether it still is ours (docs/protocol.md).

Every call is a child in the one loop, never waited for: a remote that stalls must not stop the agent's output.
"""

import os
from collections.abc import Callable

from orchestration.background import Task
from orchestration.errors import OrchestrationError
from orchestration.journal import Claim
from orchestration.remote import Remote
from orchestration.remote_bus import RemoteBus

_TIMEOUT = 60.0
_LOOKS = 3
"""Looks in a row that show no branch, after which it counts as gone."""


class Heart:
    """Beats while an agent runs.

    Args:
        bus: whose turn it is, by the remote.
        seconds: between two beats.
        alarm: seconds without a beat that reached the remote, after which a person is told.
        tell: takes (code, text) of what a person should see.

    """

    def __init__(self, bus: RemoteBus, seconds: float, alarm: float, tell: Callable[[str, str], None]) -> None:
        self._bus = bus
        self._remote: Remote = bus.remote
        self._git = bus.remote.git
        self._loop = self._git.loop
        self._seconds = seconds
        self._alarm = alarm
        self._tell = tell
        self._missing = 0
        self._life = os.urandom(4).hex()  # a run after a restart is told from the one before it
        self.lost: str | None = None
        """Who took the turn that is being run."""

    def beats(self, claim: Claim) -> Task[None]:
        """Beat for a turn, until it is cut short; `lost` tells who took the turn."""
        self.lost = None
        self._missing = 0
        count, last, warned = 0, self._loop.clock.monotonic(), False
        while True:
            yield self._loop.after(self._seconds, lambda: None)
            count += 1
            try:
                reached = self._is_same_remote(claim) and (yield from self._beat(claim, count))
            except (OrchestrationError, OSError):  # a configuration half written, no descriptor left: it passes
                reached = False
            now = self._loop.clock.monotonic()
            if reached:
                last, warned = now, False
            elif now - last >= self._alarm and not warned:
                warned = True
                self._tell("lease", f"no sign of life has reached {self._remote.name} for {now - last:.0f} s; going on")

    def _is_same_remote(self, claim: Claim) -> bool:
        """Tell whether the agent has left the way to the remote alone: another one's answer says nothing."""
        return claim.settings in (None, self._bus.settings()())

    def _beat(self, claim: Claim, count: int) -> Task[bool]:
        looked = self._git.reach("ls-remote", *self._remote.looking(), timeout=_TIMEOUT)
        yield looked
        if looked().code:
            return False
        refs = self._remote.read_refs(looked())
        self._missing = self._missing + 1 if refs.tip is None else 0
        if refs.tip is None and self._missing < _LOOKS:  # a connection cut early may look like that
            return False
        if refs.tip and not self._git.has(refs.tip):
            fetched = self._git.reach("fetch", *self._remote.fetching(), timeout=_TIMEOUT)
            yield fetched
            if not self._git.has(refs.tip):  # one that is refused, of a branch that was moved back, has brought it
                return False
        if refs.tip is None or not self._git.is_ancestor(claim.base, refs.tip):
            self.lost = f"the branch {self._remote.branch} of {self._remote.name} is gone or was moved back"
            return True
        self.lost = self._bus.taken_by(claim, refs.tip)
        if self.lost:
            return True
        text = f"{claim.token.epoch} {claim.token.nonce} {count} {self._life}"
        made = self._git.start("commit-tree", self._git.empty_tree(), "-m", text)
        yield made
        beat, old = made().stdout.decode().strip(), refs.leases.get(claim.actor, "")
        pushed = self._git.reach(*self._remote.pushing(self._remote.lease(claim.actor), beat, old), timeout=_TIMEOUT)
        yield pushed
        return pushed().code == 0
