"""One thread, one select: descriptors, timers, signals and a wake byte (docs/architecture.md)."""

import contextlib
import heapq
import os
import selectors
import signal
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from types import FrameType, TracebackType
from typing import Self

from orchestration.clock import Clock

_CROWD = 64
"""Timers beyond which cancelled ones are dropped."""


class Timer:
    """A callback at a moment; `cancel` makes it nothing."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def idle(self) -> bool:
        """Whether it has fired or was cancelled."""
        return self._callback is None

    def cancel(self) -> None:
        """Forget the callback."""
        self._callback = None

    def fire(self) -> None:
        """Call it, once."""
        callback, self._callback = self._callback, None
        if callback:
            callback()


class EventLoop:
    """Serves what arrives; a signal handler notes the number and nothing else.

    Args:
        clock: the only thing that waits.
        catch: signals that become entries of `signals` instead of ending the process.

    """

    def __init__(self, clock: Clock, *, catch: Sequence[signal.Signals] = ()) -> None:
        self.clock = clock
        self.signals: list[signal.Signals] = []
        self.woken = False  # by another thread; whoever waits for that sets it back
        self._catch = (*catch, signal.SIGCHLD)
        self._arrived: list[int] = []
        self._heard = False  # something, perhaps between two steps: then the next one must not wait for more
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._crowded = _CROWD
        self._number = count()
        ear, mouth = os.pipe()
        self._ear, self._mouth = os.fdopen(ear, "rb", buffering=0), os.fdopen(mouth, "wb", buffering=0)
        self._restore: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        for end in (self._ear, self._mouth):
            os.set_blocking(end.fileno(), False)
        self.watch(self._ear.fileno(), selectors.EVENT_READ, self.listen)
        old = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._restore.append(lambda: signal.set_wakeup_fd(old))
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._catch)  # whoever started us may have blocked them
        self._restore.append(partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask))
        for number in self._catch:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started under nohup: a HUP stays ignored
            before = signal.signal(number, self._note)
            self._restore.append(partial(signal.signal, number, before))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for restore in reversed(self._restore):
            restore()
        self._selector.close()
        self._ear.close()
        self._mouth.close()

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the descriptor is ready.

        Raises:
            PermissionError: for a regular file, which is always ready.

        """
        self._selector.register(descriptor, events, callback)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; not being watched is fine."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, that many seconds from now."""
        if len(self._timers) >= self._crowded:  # cancelled deadlines of hours to come would pile up
            self._timers = [entry for entry in self._timers if not entry[2].idle]
            heapq.heapify(self._timers)
            self._crowded = max(_CROWD, 2 * len(self._timers))
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.clock.monotonic() + seconds, next(self._number), timer))
        return timer

    def wake(self) -> None:
        """Make the current or next wait return; the one method that another thread may call."""
        with contextlib.suppress(OSError, ValueError):  # closed: nothing waits any more
            self._mouth.write(b"\0")

    def run_until(self, done: Callable[[], bool]) -> None:
        """Serve everything until `done()`."""
        while not done():
            self.step()

    def pause(self, seconds: float) -> None:
        """Wait without serving anything, for the moments in which nothing else may happen."""
        with selectors.SelectSelector() as nothing:
            self.clock.wait(self.clock.monotonic() + seconds, nothing)

    def step(self) -> None:
        """Serve one select."""
        while self._timers and self._timers[0][2].idle:
            heapq.heappop(self._timers)
        deadline = self._timers[0][0] if self._timers else None
        if self._heard:
            self._heard, deadline = False, self.clock.monotonic()
        for key, _ in self.clock.wait(deadline, self._selector):
            if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier callback of this round
                key.data()
        while self._timers and self._timers[0][0] <= self.clock.monotonic():
            heapq.heappop(self._timers)[2].fire()

    def listen(self) -> None:
        """Take what has arrived, without waiting: a signal counts from its arrival, not from the next `step`."""
        while heard := self._ear.read(4096):
            self.woken |= b"\0" in heard
        self._heard |= bool(self._arrived)
        arrived, self._arrived = self._arrived, []  # the byte that woke us may be lost in a full pipe, these are not
        self.signals += [signal.Signals(number) for number in arrived if number != signal.SIGCHLD]
        if signal.SIGCHLD in arrived:
            self.children_ended()

    def children_ended(self) -> None:
        """Take note that some child has ended."""

    def _note(self, number: int, _: FrameType | None) -> None:
        self._arrived.append(number)
