"""Git's objects as bytes: folders changed in memory, and a pack of what is new for one `git unpack-objects`.

The formats are git's own (gitformat-pack, "Object storage format"; the tree is what `git cat-file tree` prints).
"""

import os
import zlib
from collections.abc import Callable, Iterable
from struct import pack

from orchestration.tree import File

Read = Callable[[str], bytes]
"""Returns the bytes of a tree object."""

_KINDS = {"commit": 1, "tree": 2, "blob": 3}
_FOLDER = b"40000"


class Pack:
    """New objects, each with its id.

    Args:
        length: of the repository's ids, in hexadecimal digits: 40 (SHA-1) or 64 (SHA-256).

    """

    def __init__(self, length: int) -> None:
        import hashlib  # noqa: PLC0415 - OpenSSL, of which a look at a clone has no need

        self.length = length
        self._hash = {40: hashlib.sha1, 64: hashlib.sha256}[length]
        self._objects: list[tuple[str, bytes]] = []

    def add(self, kind: str, data: bytes) -> str:
        """Add a commit, tree or blob; return its id."""
        self._objects.append((kind, data))
        return self._hash(b"%b %d\0" % (kind.encode(), len(data)) + data).hexdigest()

    def encode(self) -> bytes:
        """Return the pack."""
        out = bytearray(b"PACK" + pack(">II", 2, len(self._objects)))
        for kind, data in self._objects:
            out += _head(_KINDS[kind], len(data)) + zlib.compress(data, 1)
        return bytes(out + self._hash(out).digest())


def _head(kind: int, size: int) -> bytes:
    """Return kind and size as a pack has them: four bits of the size, then seven at a time."""
    rest, byte = size >> 4, kind << 4 | size & 15
    out = bytearray()
    while rest:
        out.append(byte | 0x80)
        rest, byte = rest >> 7, rest & 0x7F
    return bytes([*out, byte])


class Folder:
    """A tree object that is read when it is looked into, and written when it was changed.

    Args:
        read: reads tree objects.
        oid: the tree, None for an empty one.

    """

    def __init__(self, read: Read, oid: str | None) -> None:
        self._read = read
        self._oid = oid
        self._entries: dict[bytes, tuple[bytes, str] | Folder] | None = None

    def change(self, file: File, pack: Pack) -> None:
        """Put a file into the folders that its path names, or remove it from them."""
        *above, name = os.fsencode(file.path).split(b"/")
        folder: Folder | None = self
        for part in above:
            folder = folder.below(part, make=not file.gone) if folder else None
        if folder is None:
            return
        if not file.gone:
            oid = file.oid if file.data is None else pack.add("blob", file.data)
            folder.entries()[name] = (file.mode.encode(), oid or "")
        elif folder.below(name, make=False) is None:  # a folder of that name is not the file that is to go
            folder.entries().pop(name, None)

    def save(self, pack: Pack) -> str | None:
        """Add the folders that were looked into to the pack; return this one's id, None if it is empty."""
        if self._entries is None:
            return self._oid
        rows: list[tuple[bytes, bytes]] = []
        for name, entry in self._entries.items():
            mode, oid = (_FOLDER, entry.save(pack)) if isinstance(entry, Folder) else entry
            if oid:
                order = name + b"/" if mode == _FOLDER else name  # git sorts a folder as if its name ended so
                rows.append((order, b"%b %b\0" % (mode, name) + bytes.fromhex(oid)))
        return pack.add("tree", b"".join(row for _, row in sorted(rows))) if rows else None

    def below(self, name: bytes, *, make: bool) -> "Folder | None":
        """Return a folder in this one; with `make` it takes the place of whatever else is there."""
        entry = self.entries().get(name)
        if isinstance(entry, Folder):
            return entry
        there = entry[1] if entry and entry[0] == _FOLDER else None
        if there is None and not make:
            return None
        folder = self.entries()[name] = Folder(self._read, there)
        return folder

    def entries(self) -> "dict[bytes, tuple[bytes, str] | Folder]":
        """Return what it holds: name → mode and id, or a folder that was looked into."""
        if self._entries is None:
            self._entries = dict(_parsed(self._read(self._oid), len(self._oid) // 2)) if self._oid else {}
        return self._entries


def _parsed(data: bytes, size: int) -> Iterable[tuple[bytes, tuple[bytes, str]]]:
    """Yield name, mode and id of what a tree object holds; `size` is that of an id in bytes."""
    at = 0
    while at < len(data):
        end = data.index(b"\0", at)
        mode, _, name = data[at:end].partition(b" ")
        at = end + 1 + size
        yield name, (mode, data[end + 1 : at].hex())
