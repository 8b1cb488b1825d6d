"""The only durable writer: a file is replaced whole or not at all (borg's SaveFile is the model)."""

import errno
import os
import stat
from pathlib import Path


def replace(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to a sibling, fsync it, rename it over `path`, fsync the folder.

    An existing file keeps its permission bits.

    Raises:
        OSError: the old file is then untouched.

    """
    sibling = path.with_name(f".{path.name}.tmp")  # not the pid's: what a killed writer left is written over
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(sibling, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        sibling.replace(path)
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not exist yet, whole or not at all.

    Raises:
        FileExistsError: nothing is overwritten.

    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    replace(path, data, mode=mode)
