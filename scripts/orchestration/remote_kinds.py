"""What a git call to a remote can come to, and how each is waited out."""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a git call to a remote has come to."""

    OK = "ok"
    ALREADY = "already"
    """The remote had it before: a hand-off has landed; a claim is lost unless its nonce is mine."""
    CAS_LOST = "cas-lost"
    """The ref has another value than was expected: somebody else's, or mine that had landed already."""
    REMOTE_BUSY = "remote-busy"
    """The ref is locked there, by a push under way or by one that died."""
    POLICY = "policy"
    """The host understood, and refuses; it will again."""
    REMOTE_FULL = "remote-full"
    REMOTE_BROKEN = "remote-broken"
    """The repository there is damaged or cannot be written."""
    UNKNOWN = "unknown"
    """Cut short while the ref may have been moved, or not understood."""
    NETWORK = "network"
    """The remote was not reached."""
    THROTTLED = "throttled"
    AUTH = "auth"
    """One of the two sides does not trust the other."""
    NOT_FOUND = "not-found"
    """There is no such repository."""
    MISSING = "missing"
    """There is no such branch; or a connection was cut so early that none was listed, so it is looked at again."""
    LOCAL_LOCK = "local-lock"
    LOCAL_CORRUPT = "local-corrupt"
    LOCAL_TREE = "local-tree"
    """The work tree cannot follow: a file stands in the way, or the branch has commits of its own."""
    LOCAL_FULL = "local-full"
    OWNERSHIP = "ownership"
    """A repository belongs to another user, and git does not read it."""


class Patience(NamedTuple):
    """How a kind is waited out: seconds before the second try, doubled at each failure up to `longest`."""

    first: float
    longest: float


PATIENCE: dict[Kind, Patience | None] = {
    Kind.CAS_LOST: Patience(0.1, 5),
    Kind.REMOTE_BUSY: Patience(2, 45),
    Kind.POLICY: None,
    Kind.REMOTE_FULL: Patience(60, 600),
    Kind.REMOTE_BROKEN: Patience(60, 600),
    Kind.UNKNOWN: Patience(1, 45),
    Kind.NETWORK: Patience(1, 45),
    Kind.THROTTLED: Patience(120, 900),
    Kind.AUTH: Patience(60, 600),
    Kind.NOT_FOUND: Patience(5, 45),  # or a folder that is not mounted just now
    Kind.MISSING: Patience(1, 45),
    Kind.LOCAL_LOCK: Patience(1, 30),
    Kind.LOCAL_CORRUPT: None,
    Kind.LOCAL_TREE: None,
    Kind.LOCAL_FULL: Patience(60, 600),
    Kind.OWNERSHIP: Patience(60, 600),
}
"""None: waiting changes nothing, somebody must act. With the jitter a lost network is tried within a minute."""

_JITTER = 0.25


def pause(kind: Kind, failures: int, luck: float) -> float | None:
    """Return the seconds to wait after so many failures in a row (1 and more), None where waiting is no help.

    OK and ALREADY are no failures.

    `luck` is a random number from 0 to 1: it only ever prolongs, so that two clones do not meet again and again.
    """
    patience = PATIENCE[kind]
    if patience is None:
        return None
    return float(min(patience.longest, patience.first * 2 ** min(failures - 1, 20)) * (1 + _JITTER * luck))
