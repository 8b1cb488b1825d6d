"""What `stop`, `stop --now` and `pause` leave for the daemon: files that it notices at once."""

from enum import StrEnum
from pathlib import Path


class Request(StrEnum):
    """What `stop`, `stop --now` and `pause` ask for."""

    STOP = "stop"
    STOP_NOW = "stop-now"
    PAUSE = "pause"


class Control:
    """The requests that stand in a work tree's control folder, one empty file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, request: Request) -> None:
        """Leave a request; leaving it twice is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / request).touch()

    def withdraw(self, *requests: Request) -> None:
        """Take requests back; absent ones are fine."""
        for request in requests:
            (self.folder / request).unlink(missing_ok=True)

    def stands(self, request: Request) -> bool:
        """Tell whether a request stands."""
        return (self.folder / request).exists()
