"""The values of git's vocabulary: what differs, what is to be committed, how a work tree stands."""

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """One path of a difference or an index: `mode` is "0" where it is gone, `new` where it was not there before."""

    mode: str
    oid: str
    path: str
    new: bool = False


class File(NamedTuple):
    """One path of a commit to be made: its bytes, or the object that it is, or neither for its removal."""

    path: str
    data: bytes | None = None
    oid: str | None = None
    mode: str = "100644"

    @property
    def gone(self) -> bool:
        """Whether the path is to be removed."""
        return self.data is None and self.oid is None

    def command(self) -> bytes:
        """Return the line of git fast-import's language."""
        path = b'"%b"' % os.fsencode(self.path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
        if self.data is not None:
            return b"M %b inline %b\ndata %d\n%b\n" % (self.mode.encode(), path, len(self.data), self.data)
        if self.oid is not None:
            return b"M %b %b %b\n" % (self.mode.encode(), self.oid.encode(), path)
        return b"D %b\n" % path


class Commit(NamedTuple):
    """What a commit is made of; dates and identity are git's own."""

    tree: str
    parents: Sequence[str]
    message: str


class Dirt(NamedTuple):
    """`git status`: where HEAD is, and what differs from it.

    The index no longer has the tracked paths that are `removed`.
    """

    head: str | None
    branch: str | None
    tracked: list[str]
    untracked: list[str]
    unmerged: Collection[str] = ()
    removed: Collection[str] = ()
