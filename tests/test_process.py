"""Processes, shown with real executables; what a process can only do to itself is done in a process of its own."""

import contextlib
import hashlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from selectors import BaseSelector, SelectorKey

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestration.clock import SystemClock
from orchestration.process import Loop, Request, Why
from orchestration.reaper import STAMP, descendants
from orchestration.reports import RawLog
from orchestration.subreaper import become_subreaper

PATIENCE = 30.0
"""Real seconds after which a test that waits for something says that it never came."""
TWO_HOURS = 7200.0
FOREVER = "sleep 100000"
NOISE = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256)) * 1280
"""Ten megabytes that are no text in any encoding."""


class FakeClock:
    """A clock that jumps to the nearest deadline when nothing is ready; or, told so, moves only by `advance`."""

    def __init__(self, *, jumps: bool = True) -> None:
        self.seconds = 0.0
        self._jumps = jumps
        self._asked: list[float] = []

    def now(self) -> datetime:
        """Return a day that moves with the seconds."""
        return datetime(2026, 1, 20, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return the seconds; who asks for ever without letting time pass is stuck."""
        self._asked = [*self._asked, self.seconds] if self.seconds in self._asked else [self.seconds]
        assert len(self._asked) < 1000, f"asked again and again at {self.seconds}"
        return self.seconds

    def boottime(self) -> float:
        """Return the seconds: the machine started with the clock."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds

    def wait(self, deadline: float | None, selector: BaseSelector) -> list[tuple[SelectorKey, int]]:
        """Wait for the selector, and for nothing else."""
        due = deadline is not None and deadline <= self.seconds
        may_jump = deadline is not None and (self._jumps or not selector.get_map())  # a plain pause passes
        ready = selector.select(0 if due or may_jump else PATIENCE)
        if not ready and may_jump and not due:
            self.seconds = deadline or 0.0
        assert ready or due or may_jump, f"nothing happened for {PATIENCE} s"
        return ready


class Heard:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __call__(self, name: str, data: bytes) -> None:
        """Keep what was said."""
        (self.stdout if name == "stdout" else self.stderr).extend(data)

    def says(self, text: bytes) -> Callable[[], bool]:
        """Give the question whether this was just said."""
        return lambda: self.stdout.endswith(text)


def sh(script: str, folder: Path) -> Request:
    """Ask for a shell script with this process's environment."""
    return Request(argv=["/bin/sh", "-c", script], cwd=folder, env=dict(os.environ))


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def eventually(holds: Callable[[], object]) -> bool:
    """Look until it holds: for what only a stranger's process can make true."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True


@contextlib.contextmanager
def stranger(argv: Sequence[str], environment: dict[str, str]) -> Iterator[int]:
    """Run a process that no daemon may touch; give its pid and end it afterwards."""
    process = subprocess.Popen(argv, env=environment, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def command(function: Callable[..., None], *args: object) -> list[str]:
    """Give the command line that calls a test module's function in a process of its own."""
    code = f"import sys, {function.__module__} as m; m.{function.__name__}(*sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, args)]


def elsewhere(function: Callable[..., None], *args: object, wrap: Sequence[str] = ()) -> dict[str, object]:
    """Call a function in a process of its own and return what it told."""
    argv = [*wrap, *command(function, *args)]
    done = subprocess.run(
        argv, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def descriptors() -> set[str]:
    """Return this process's open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def tell(**facts: object) -> None:
    """Say what was seen to the test that called `elsewhere`."""
    sys.stdout.write(json.dumps(facts))


def no_trouble(error: OSError) -> None:
    """Be what a raw log tells its troubles, where there must be none."""
    raise AssertionError from error


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(SystemClock()) as running:
        yield running


# --- ends and streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("ulimit -c 0; kill -SEGV $$", 139)],
)
def test_a_child_ends_with_its_exit_code_or_128_plus_its_signal(
    loop: Loop, tmp_path: Path, end: str, code: int
) -> None:
    done = loop.run(sh(f"printf out; printf err >&2; {end}", tmp_path))

    assert (done.code, done.why, done.stdout, done.stderr) == (code, Why.EXITED, b"out", b"err")


def test_the_raw_log_keeps_every_byte_of_ten_megabytes_in_one_line_that_is_no_text(loop: Loop, tmp_path: Path) -> None:
    line = NOISE.replace(b"\n", b"\xff") + b"\xfe\r\n\0\xc3"
    (tmp_path / "said").write_bytes(line)
    log = RawLog(tmp_path / "raw.log", no_trouble)

    done = loop.wait(loop.spawn(sh("cat said", tmp_path), lambda _, data: log.write(data)))
    log.close()

    assert done.code == 0
    assert len(line) > 10_000_000
    assert (tmp_path / "raw.log").read_bytes() == line


@pytest.mark.parametrize(
    "script",
    [
        "sha256sum",
        "head -c 3000000 /dev/zero >&2; sha256sum",  # says more than a pipe holds before it reads
        "head -c 1 >/dev/null; echo enough",
        "echo unread",
        "exec <&-; head -c 3000000 /dev/zero >&2; echo closed",
    ],
)
def test_a_megabyte_of_prompt_is_the_childs_to_read_or_not(loop: Loop, tmp_path: Path, script: str) -> None:
    prompt = NOISE[: 1 << 20]
    last_word = script.rsplit(maxsplit=1)[-1]

    done = loop.run(replace(sh(script, tmp_path), stdin=prompt, timeout=PATIENCE))

    assert (done.code, done.why) == (0, Why.EXITED)
    assert done.stdout.decode().split()[0] == {"sha256sum": hashlib.sha256(prompt).hexdigest()}.get(
        last_word, last_word
    )


def test_standard_input_ends_where_the_prompt_does(loop: Loop, tmp_path: Path) -> None:
    assert loop.run(replace(sh("cat; echo .", tmp_path), stdin=b"prompt", timeout=PATIENCE)).stdout == b"prompt.\n"
    assert loop.run(replace(sh("cat; echo .", tmp_path), stdin=b"", timeout=PATIENCE)).stdout == b".\n"


def test_a_grandchild_that_holds_the_pipes_open_delays_the_end_by_a_second_and_no_more(tmp_path: Path) -> None:
    with Loop(FakeClock()) as loop:
        done = loop.run(sh(f"echo last; {FOREVER} & echo $!", tmp_path))
    last, pid = done.stdout.split()
    try:
        assert (done.code, done.seconds, last) == (0, 1.0, b"last")
        assert alive(int(pid)), "it carries no stamp: nobody's survivor"
    finally:
        os.kill(int(pid), signal.SIGKILL)


# --- time and the ladder ---------------------------------------------------------------------------------------------


def test_a_child_that_hangs_is_ended_at_its_wall_timeout_of_two_hours(tmp_path: Path) -> None:
    begun = time.monotonic()
    with Loop(FakeClock()) as loop:
        for script in (f"exec {FOREVER}", f"{FOREVER} & {FOREVER}"):
            at = loop.clock.monotonic()
            done = loop.run(replace(sh(script, tmp_path), timeout=TWO_HOURS))
            assert (done.why, done.code >= 128) == (Why.TIMEOUT, True)
            assert at + TWO_HOURS <= loop.clock.monotonic() <= at + TWO_HOURS + 10
    assert time.monotonic() - begun < PATIENCE


def test_output_puts_the_idle_timeout_off_and_silence_ends_the_child(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    go = os.open(tmp_path / "go", os.O_RDWR)
    heard, clock = Heard(), FakeClock()
    with Loop(clock) as loop:
        # Odd numbers: deadline minus output is rarely what was added, and must not be looked for for ever.
        clock.advance(6.7)
        request = sh(f"exec <go; while read word && [ $word != end ]; do echo $word; done; exec {FOREVER}", tmp_path)
        child = loop.spawn(replace(request, idle=100.3, ladder=((signal.SIGKILL, 0.0),)), heard)

        def speak() -> None:
            os.write(go, b"word\n")
            assert child.popen.stdout
            assert select.select([child.popen.stdout], [], [], PATIENCE)[0]

        for at in (90.1, 180.3, 270.7):
            loop.after(at, speak)
        done = loop.wait(child)
    os.close(go)

    assert (done.why, done.code, bytes(heard.stdout)) == (Why.IDLE, 137, b"word\n" * 3)
    assert done.seconds == pytest.approx(270.7 + 100.3)


def test_the_idle_deadline_is_reached_whatever_the_numbers(tmp_path: Path) -> None:
    """A clock that stands still between deadlines finds a sum that rounding puts just before what it should be."""
    for number in range(20):
        clock = FakeClock()
        clock.advance(number * 123.456789)
        heard = Heard()
        with Loop(clock) as loop:
            ladder = ((signal.SIGKILL, 0.0),)
            child = loop.spawn(replace(sh(f"echo; exec {FOREVER}", tmp_path), idle=0.3, ladder=ladder), heard)
            assert child.popen.stdout
            select.select([child.popen.stdout], [], [], PATIENCE)
            clock.advance(number * 0.0123)
            assert loop.wait(child).why is Why.IDLE


STUBBORN = f"""
trap 'echo INT' INT
trap 'echo TERM' TERM
echo ready
while :; do {FOREVER} & wait $!; done
"""


def test_the_ladder_climbs_rung_by_rung_and_a_second_stop_changes_nothing(tmp_path: Path) -> None:
    clock, heard = FakeClock(jumps=False), Heard()
    rungs = ((signal.SIGINT, 8.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 0.0))
    with Loop(clock) as loop:
        child = loop.spawn(replace(sh(STUBBORN, tmp_path), ladder=rungs), heard)
        loop.run_until(heard.says(b"ready\n"))
        child.stop(Why.TIMEOUT)
        loop.run_until(heard.says(b"INT\n"))
        child.stop()
        clock.advance(8)
        loop.run_until(heard.says(b"TERM\n"))
        clock.advance(4)
        done = loop.wait(child)

    assert (done.code, done.why, done.seconds) == (137, Why.TIMEOUT, 12.0)
    assert bytes(heard.stdout) == b"ready\nINT\nTERM\n"


def test_a_child_that_obeys_the_first_rung_ends_with_its_own_code_at_once(tmp_path: Path) -> None:
    heard = Heard()
    with Loop(FakeClock(jumps=False)) as loop:
        child = loop.spawn(sh(f"trap 'exit 5' TERM; sh -c 'echo ready; exec {FOREVER}' & wait", tmp_path), heard)
        loop.run_until(heard.says(b"ready\n"))
        child.stop()
        done = loop.wait(child)
        child.stop(Why.TIMEOUT)
        child.kill()

    assert (done.code, done.why, done.seconds) == (5, Why.STOPPED, 0.0)


def test_a_child_that_ignores_the_ladders_first_rung_is_killed_by_its_second_on_a_real_clock(tmp_path: Path) -> None:
    rungs = ((signal.SIGTERM, 0.1), (signal.SIGKILL, 0.0))
    heard = Heard()
    with Loop(SystemClock()) as loop:
        child = loop.spawn(replace(sh(f"trap '' TERM; echo ready; {FOREVER}", tmp_path), ladder=rungs), heard)
        loop.run_until(heard.says(b"ready\n"))
        child.stop()
        assert loop.wait(child).code == 137


def test_leaving_the_loop_ends_its_children(tmp_path: Path) -> None:
    heard = Heard()
    with Loop(SystemClock()) as loop:
        child = loop.spawn(sh(f"echo ready; {FOREVER}", tmp_path), heard)
        loop.run_until(heard.says(b"ready\n"))
    assert child.completed is not None
    assert child.completed.why is Why.STOPPED
    assert not Path(f"/proc/{child.popen.pid}").exists()


# --- survivors -------------------------------------------------------------------------------------------------------

LEAVES = f"""
mkfifo up && exec 3<>up
left() {{ read -r pid <&3; echo $pid; }}
{FOREVER} & echo $!
(setsid sh -c 'echo $$ >up; exec {FOREVER}' &) ; left
(env -i setsid sh -c 'echo $$ >up; exec {FOREVER}' &) ; left
(env -i setsid sh -c 'trap "" TERM HUP INT; ({FOREVER} & echo $! >up) & wait' &) ; left
"""


def leave_and_look(end: str, helper: str) -> None:
    """Be a daemon of one turn whose agent leaves four processes behind and then `end`s.

    Beside it live another child, what a helper left that was there before (`helper & exec orchestrator`), and what an
    earlier child of ours left.
    """
    heard = Heard()
    eventually(lambda: len(descendants()) == 2)
    helped = descendants() - {int(helper)}
    with Loop(SystemClock(), adopt=become_subreaper()) as loop:
        beside = loop.spawn(sh(f"echo ready; exec {FOREVER}", Path.cwd()), heard)
        loop.run_until(heard.says(b"ready\n"))
        os.kill(int(helper), signal.SIGKILL)
        helped |= {int(loop.run(sh(f"setsid {FOREVER} >/dev/null 2>&1 & echo $!", Path.cwd())).stdout)}
        before = descriptors()
        request = sh(LEAVES + end, Path(os.environ["TMPDIR"]))
        stamp = secrets.token_hex(8)  # whatever carries it dies, in this test or another
        request = replace(request, env={**os.environ, STAMP: stamp}, stamp=stamp, timeout=PATIENCE)
        done = loop.run(request)
        left = [pid for pid in map(int, done.stdout.split()) if Path(f"/proc/{pid}").exists()]
        below = sorted(descendants() - {beside.popen.pid} - helped)
        kept = [alive(pid) for pid in (beside.popen.pid, *helped)]
        leaked = sorted(descriptors() - before)
        beside.kill()
    for pid in helped:
        os.kill(pid, signal.SIGKILL)
    tell(code=done.code, count=len(done.stdout.split()), left=left, below=below, kept=kept, leaked=leaked)


@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_nothing_of_a_turn_survives_its_agent_and_nothing_else_is_touched(end: str, code: int) -> None:
    helper = f"sh -c '{FOREVER} & wait' >/dev/null 2>&1 & helper=$!"
    wrap = ["/bin/sh", "-c", f'{helper}; exec "$@" $helper', "wrap"]
    with stranger(["sleep", "100000"], {**os.environ, STAMP: secrets.token_hex(8)}) as pid:
        told = elsewhere(leave_and_look, end, wrap=wrap)
        assert alive(pid)

    assert told == {"code": code, "count": 4, "left": [], "below": [], "kept": [True] * 3, "leaked": []}


# --- the loop --------------------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_moments_and_a_cancelled_one_never(tmp_path: Path) -> None:
    clock = FakeClock()
    fired: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: fired.append((name, clock.seconds))

    with Loop(clock) as loop:

        def make_another() -> None:
            loop.after(0.5, note("made by a timer"))

        loop.after(3, note("last"))
        loop.after(2, make_another)
        loop.after(1, note("first"))
        loop.after(1, note("second, of the same moment"))
        dead = loop.after(0.5, note("cancelled"))
        loop.after(0.2, dead.cancel)
        loop.run_until(lambda: len(fired) == 4)
        assert fired == [
            ("first", 1),
            ("second, of the same moment", 1),
            ("made by a timer", 2.5),
            ("last", 3),
        ]

        loop.after(10, note("cancelled")).cancel()
        loop.after(20, note("alive"))
        loop.step()  # one select, and it sleeps past the dead deadline
        assert fired[4:] == [("alive", 23)]

        done = loop.run(replace(sh("exit 0", tmp_path), timeout=TWO_HOURS, idle=TWO_HOURS))
        loop.pause(2)
        assert (done.why, clock.seconds < TWO_HOURS) == (Why.TIMEOUT if done.code else Why.EXITED, done.code == 0)


def test_another_thread_wakes_a_wait_that_has_no_end(loop: Loop) -> None:
    late: list[str] = []
    loop.after(PATIENCE, lambda: late.append("the wake was not heard"))
    waker = threading.Timer(0, loop.wake)
    waker.start()
    loop.step()
    waker.join()
    loop.wake()
    loop.step()  # a wake before the wait counts too
    assert late == []


def test_a_descriptor_that_an_earlier_callback_closed_is_not_served(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    served: list[int] = []

    def serve(number: int) -> Callable[[], None]:
        def close_the_other() -> None:
            served.append(number)
            loop.unwatch(pipes[1 - number][0])
            loop.unwatch(pipes[1 - number][0])  # not being watched is fine

        return close_the_other

    for number, (ear, mouth) in enumerate(pipes):
        os.write(mouth, b"x")
        loop.watch(ear, select.EPOLLIN, serve(number))
    loop.step()
    for end in (end for pipe in pipes for end in pipe):
        loop.unwatch(end)
        os.close(end)
    assert len(served) == 1


def receive_signals(mode: str) -> None:
    """Be a daemon that gets INT, HUP and TERM; in mode "flooded" after more wakes than its wake pipe holds."""
    clock = SystemClock()
    seen: list[str] = []
    with Loop(clock, catch=(signal.SIGINT, signal.SIGHUP, signal.SIGTERM)) as loop:
        for _ in range(2000 if mode == "flooded" else 0):
            loop.wake()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        late = loop.after(PATIENCE / 2, lambda: seen.append("late"))
        loop.run_until(lambda: signal.SIGTERM in loop.signals or bool(seen))
        late.cancel()
        child = loop.run(replace(sh("kill -HUP $$; echo alive", Path.cwd()), timeout=PATIENCE))
        seen += [number.name for number in loop.signals]
    back = signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.set_wakeup_fd(-1) == -1
    tell(seen=seen, child=child.stdout.decode(), back=back)


@pytest.mark.parametrize("mode", ["plain", "flooded"])
def test_signals_arrive_as_values_even_when_the_wake_pipe_is_full(mode: str) -> None:
    assert elsewhere(receive_signals, mode) == {"seen": ["SIGINT", "SIGHUP", "SIGTERM"], "child": "", "back": True}


def test_a_hang_up_that_was_ignored_at_the_start_stays_ignored_here_and_in_children() -> None:
    told = elsewhere(receive_signals, "plain", wrap=["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "nohup"])
    assert told == {"seen": ["SIGINT", "SIGTERM"], "child": "alive\n", "back": True}


def start_blocked() -> None:
    """Become a daemon whose parent had blocked the signals that it lives by."""
    numbers = (signal.SIGCHLD, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    os.execv(sys.executable, command(receive_signals, "plain"))  # noqa: S606 - a mask passes through exec


def test_signals_that_the_daemons_parent_had_blocked_are_heard() -> None:
    told = elsewhere(start_blocked)
    assert told == {"seen": ["SIGINT", "SIGHUP", "SIGTERM"], "child": "", "back": True}


def run_three_hundred(mode: str) -> None:
    """Run 300 children, every kind of them, and count what they leave in this process."""
    clock = SystemClock()
    kinds = ["exit 0", "exit 3", "echo x; (true &)", "cat >/dev/null", "exec <&-", "kill -TERM $$"]
    with Loop(clock, adopt=become_subreaper() and mode == "adopt") as loop:
        folder = Path(os.environ["TMPDIR"])
        loop.run(sh("exit 0", folder))
        before = len(descriptors())
        for number in range(300):
            request = replace(sh(kinds[number % len(kinds)], folder), stdin=b"x" * 100_000 * (number % 2), timeout=60)
            loop.run(request)
            with contextlib.suppress(FileNotFoundError):
                loop.run(replace(request, argv=["/no/such/program"]))
        loop.run(sh("exit 0", folder))
        after = len(descriptors())
        loop.run_until(lambda: not descendants())
    children = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            children += 1
    tell(descriptors=after - before, children=children)


def test_three_hundred_children_leave_no_descriptor_and_no_zombie() -> None:
    assert elsewhere(run_three_hundred, "adopt") == {"descriptors": 0, "children": 0}


# --- floods and the raw log ------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 40), max_size=60),
    cap=st.sampled_from([40, 100, 400]),
)
def test_a_capped_log_keeps_its_head_and_its_tail_and_says_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cap: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    path = folder / "iter-00001_galph_main.log"
    data = NOISE[: sum(sizes)].replace(b"\n", b" ")
    log = RawLog(path, no_trouble, cap)
    at = 0
    for size in sizes:
        log.write(data[at : at + size])
        at += size
    log.close()
    kept = path.read_bytes()

    assert list(folder.iterdir()) == [path]
    if b"\n[... " not in kept:
        assert kept == data
        return
    head, _, rest = kept.partition(b"\n[... ")
    missing, _, tail = rest.partition(b" bytes left out here ...]\n")
    assert len(data) > cap
    assert head == data[: cap // 2]
    assert len(tail) >= cap // 4
    assert data.endswith(tail)
    assert int(missing.replace(b",", b"")) == len(data) - len(head) - len(tail)


def test_cancelled_deadlines_do_not_pile_up() -> None:
    fired: list[str] = []
    with Loop(FakeClock()) as loop:
        loop.after(5000.0, lambda: fired.append("kept"))
        for _ in range(900):
            loop.after(7200.0, lambda: fired.append("cancelled")).cancel()
        assert len(loop._timers) < 200  # noqa: SLF001 - nothing but memory shows it
        loop.run_until(lambda: bool(fired))

    assert fired == ["kept"]
