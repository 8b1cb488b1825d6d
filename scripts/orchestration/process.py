"""Processes: the only importer of subprocess.

Whatever starts a child, git or an agent, drains and ends it here, in the one select of the loop.
"""

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess  # noqa: TID251 - this is the one door
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import field
from msgspec.structs import replace

from orchestration.clock import Clock
from orchestration.event_loop import EventLoop, Timer
from orchestration.reaper import descendants, end_survivors, started

Sink = Callable[[str, bytes], object]
"""Takes the name of a stream and what came on it; False: that was no progress, and the idle clock goes on."""
Rung = tuple[signal.Signals, float]

LADDER: tuple[Rung, ...] = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 0.0))
"""How a child is ended: each signal to its group, and the seconds until the next."""

_READ = 1 << 20
_DRAIN = 1.0
"""Seconds for the last output after a child's end, when something else still holds its pipes."""


class Why(StrEnum):
    """Why a child ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    IDLE = "idle"
    STOPPED = "stopped"
    GRACE = "grace"
    """It had done its work and did not exit."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: everything that decides how a child lives, so that it can be logged and tested.

    `timeout` and `idle` are seconds (None: no limit); `stamp` marks a child whose survivors are ended with it. The
    standard input of an `interactive` child stays open for `Child.send`.
    """

    argv: Sequence[str]
    cwd: Path
    env: dict[str, str]
    stdin: bytes = b""
    timeout: float | None = None
    idle: float | None = None
    ladder: Sequence[Rung] = LADDER
    stamp: str | None = None
    interactive: bool = False


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. `code` is the exit code, or 128 + the signal's number as in a shell."""

    argv: Sequence[str]
    code: int
    why: Why
    seconds: float
    stdout: bytes = b""
    stderr: bytes = b""
    unkillable: Sequence[int] = ()


class Child(msgspec.Struct, eq=False):
    """A running process; `completed` is None until it has ended and its pipes are drained."""

    loop: "Loop"
    request: Request
    popen: subprocess.Popen[bytes]
    sink: Sink
    started: float
    why: Why = Why.EXITED
    completed: Completed | None = None
    code: int | None = None
    unkillable: Sequence[int] = ()
    _input: memoryview = field(default_factory=lambda: memoryview(b""))
    _open: set[int] = field(default_factory=set)
    _last_output: float = 0.0
    _timers: list[Timer] = field(default_factory=list)

    def begin(self) -> None:
        """Register pipes and deadlines with the loop."""
        self._last_output = self.started
        for name in ("stdout", "stderr"):
            pipe = getattr(self.popen, name)
            self._open.add(pipe.fileno())
            self.loop.watch(pipe.fileno(), selectors.EVENT_READ, partial(self._read, pipe.fileno(), name))
        if self.popen.stdin:
            os.set_blocking(self.popen.stdin.fileno(), False)
            self.send(self.request.stdin)
        if self.request.timeout is not None:
            self._after(self.request.timeout, lambda: self.stop(Why.TIMEOUT))
        if self.request.idle is not None:
            self._after(self.request.idle, self._check_idle)

    def send(self, data: bytes) -> None:
        """Write to its standard input, as far as it takes it now and later."""
        if data and self.popen.stdin and not self.popen.stdin.closed:
            self.loop.unwatch(self.popen.stdin.fileno())
            self._input = memoryview(bytes(self._input) + data)
            self.loop.watch(self.popen.stdin.fileno(), selectors.EVENT_WRITE, self._write)

    def stop(self, why: Why = Why.STOPPED) -> None:
        """Begin the ladder; a second call changes nothing, nor does one for a child that has ended by itself."""
        self.poll()
        if self.why is Why.EXITED and self.code is None:
            self.why = why
            if self.popen.stdin and not self.popen.stdin.closed:
                self.loop.unwatch(self.popen.stdin.fileno())  # it is not given more to do, nor an end of input
            self._climb(list(self.request.ladder))

    def kill(self) -> None:
        """SIGKILL the group now."""
        self.why = Why.STOPPED if self.why is Why.EXITED else self.why
        self._signal(signal.SIGKILL)

    def poll(self) -> None:
        """Look whether the process has ended, and if so begin the end."""
        if self.code is not None or self.popen.poll() is None:
            return
        self.code = self.popen.returncode if self.popen.returncode >= 0 else 128 - self.popen.returncode
        for timer in self._timers:
            timer.cancel()
        self._close_input()
        if self.request.stamp:
            self.unkillable = self.loop.end_survivors(self.request.stamp, of_ours=True)
        self._after(_DRAIN, self._finish)
        if not self._open:
            self._finish()

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append(self.loop.after(seconds, callback))

    def _check_idle(self) -> None:
        due = self._last_output + (self.request.idle or 0.0)
        now = self.loop.clock.monotonic()
        if now >= due:
            self.stop(Why.IDLE)
        else:
            self._after(due - now, self._check_idle)

    def _climb(self, rungs: list[Rung]) -> None:
        if rungs:
            number, grace = rungs[0]
            self._signal(number)
            self._after(grace, lambda: self._climb(rungs[1:]))

    def _signal(self, number: signal.Signals) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)

    def _read(self, descriptor: int, name: str) -> None:
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        if data:
            if self.sink(name, data) is not False:
                self._last_output = self.loop.clock.monotonic()
            return
        self.loop.unwatch(descriptor)
        self._open.discard(descriptor)
        if self.code is not None and not self._open:
            self._finish()

    def _write(self) -> None:
        stdin = self.popen.stdin
        if stdin is None:
            return
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input[:_READ]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # an agent that does not read its prompt is the agent's business
            self._input = self._input[:0]
        if not self._input and self.request.interactive:
            self.loop.unwatch(stdin.fileno())
        elif not self._input:
            self._close_input()

    def _close_input(self) -> None:
        if self.popen.stdin and not self.popen.stdin.closed:
            self.loop.unwatch(self.popen.stdin.fileno())
            self.popen.stdin.close()

    def _finish(self) -> None:
        if self.completed or self.code is None:
            return
        for timer in self._timers:
            timer.cancel()
        for descriptor in self._open:
            self.loop.unwatch(descriptor)
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe:
                pipe.close()
        self.completed = Completed(
            argv=self.request.argv,
            code=self.code,
            why=self.why,
            seconds=self.loop.clock.monotonic() - self.started,
            unkillable=self.unkillable,
        )
        self.loop.forget(self)


class Loop(EventLoop):
    """The event loop with its children.

    Args:
        clock: the only thing that waits.
        catch: signals that become entries of `signals` instead of ending the process.
        adopt: this process is a subreaper: orphans are reaped, and survivors are looked for below it, but for what
            was there before (`helper & exec orchestrator`, the connection that a git's ssh leaves for the next one).

    """

    def __init__(self, clock: Clock, *, catch: Sequence[signal.Signals] = (), adopt: bool = False) -> None:
        super().__init__(clock, catch=catch)
        self._adopt = adopt
        self._started = started(os.getpid())
        self._before = frozenset[int]()  # what ran below us when a child began whose survivors are ended with it
        self._children: dict[int, Child] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in list(self._children.values()):
            child.stop()
        self.run_until(lambda: not self._children)
        super().__exit__(kind, error, trace)

    def spawn(self, request: Request, sink: Sink) -> Child:
        """Start a child in a session of its own.

        Raises:
            OSError: the executable cannot be started.

        """
        if request.stamp and self._adopt:
            self._before = descendants()
        popen = subprocess.Popen(  # noqa: S603 - an argv list, never a shell string
            list(request.argv),
            cwd=request.cwd,
            env=request.env,
            stdin=subprocess.PIPE if request.stdin or request.interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        for pipe in (popen.stdout, popen.stderr):
            if pipe:
                os.set_blocking(pipe.fileno(), False)
                _widen(pipe.fileno())
        child = Child(self, request, popen, sink, self.clock.monotonic())
        self._children[popen.pid] = child
        child.begin()
        return child

    def run(self, request: Request) -> Completed:
        """Run a child to its end and return its output.

        Raises:
            OSError: the executable cannot be started.

        """
        return self.start(request)()

    def start(self, request: Request) -> "Started":
        """Start a child whose output is gathered while others are served.

        Raises:
            OSError: the executable cannot be started.

        """
        return Started(self, request)

    def wait(self, child: Child) -> Completed:
        """Serve everything until the child has ended."""
        while child.completed is None:
            self.step()
        return child.completed

    def end_survivors(self, stamp: str, *, of_ours: bool = False) -> list[int]:
        """End what a turn left behind, of this process or of an earlier one; return what could not be ended."""
        kept = self._before.union(pid for pid, child in self._children.items() if child.code is None)
        spare, since = (kept if self._adopt else None, self._started) if of_ours else (None, 0)
        return end_survivors(stamp, self._pause_and_reap, spare=spare, since=since)[1]

    def children(self) -> set[int]:
        """Return the processes that run for us."""
        return set(self._children)

    def forget(self, child: Child) -> None:
        """Drop a child that has ended."""
        self._children.pop(child.popen.pid, None)

    def children_ended(self) -> None:
        """Look which of them it was; reap what was adopted."""
        for child in list(self._children.values()):
            child.poll()
        if self._adopt:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in self._children:
                    return
                os.waitpid(ended.si_pid, 0)

    def _pause_and_reap(self, seconds: float) -> None:
        self.pause(seconds)
        if self._adopt:
            self._reap_orphans()


class Started:
    """A child whose output is gathered; call it for what happened."""

    def __init__(self, loop: Loop, request: Request) -> None:
        self._output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._loop = loop
        self.child = loop.spawn(request, lambda name, data: self._output[name].append(data))

    @property
    def ended(self) -> bool:
        """Tell whether it has ended."""
        return self.child.completed is not None

    def __call__(self) -> Completed:
        """Serve everything until it has ended, and return its output."""
        done, output = self._loop.wait(self.child), self._output
        return replace(done, stdout=b"".join(output["stdout"]), stderr=b"".join(output["stderr"]))


def _widen(descriptor: int) -> None:
    """Give a pipe a megabyte, where the system allows it: fewer reads for an agent that floods."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _READ)
