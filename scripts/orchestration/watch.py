"""File events: watchdog's thread does nothing but wake the loop."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from watchdog.events import FileClosedNoWriteEvent, FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from orchestration.process import Loop

logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # an observer that ends tells of events in flight
# A folder that is made while it looks around is met twice: harmless, and nothing for a terminal.
warnings.filterwarnings("ignore", category=RuntimeWarning, module="watchdog")

_READING = (FileOpenedEvent, FileClosedNoWriteEvent)
"""What changes nothing: whoever reads in answer to an event must not wake itself."""


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if not isinstance(event, _READING):
            self._wake()


class _RefWaker(_Waker):
    """Wakes when a ref has its new value: of an update's lock and folders, nothing can be seen yet, or any more."""

    def on_any_event(self, event: FileSystemEvent) -> None:
        named = os.fsdecode(event.dest_path or event.src_path)
        if not (event.is_directory or named.endswith(".lock")):
            super().on_any_event(event)


@contextmanager
def watching(folder: Path, wake: Callable[[], None], *, refs: bool = False) -> Iterator[bool]:
    """Call `wake` from watchdog's thread whenever something changes in `folder`, or one of the `refs` below it.

    Yields False where the system gives no file events (its watches are used up): the caller then looks now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        observer = Observer()
        observer.schedule((_RefWaker if refs else _Waker)(wake), str(folder), recursive=refs)
        observer.start()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        observer.stop()
        observer.join()


def look_now_and_then(loop: Loop, seconds: float) -> None:
    """Wake the loop again and again, where no file event may come."""
    loop.after(seconds, partial(look_now_and_then, loop, seconds))
