"""One agent's run: what it is given, how it ends, what is kept of it, and who notes its end when the daemon dies."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cast import claude, says
from conftest import DOOR, Project
from orchestration import presets
from orchestration.agents import Agent
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.journal import Claim
from orchestration.process import LADDER, Loop, Rung, Why
from orchestration.reaper import STAMP, survivors
from orchestration.reports import CAP, RawLog
from orchestration.runner import Invocation, Result, Runner
from orchestration.state import Actor, Token
from orchestration.subreaper import become_subreaper
from orchestration.workspace import Workspace
from test_process import FOREVER, PATIENCE, STUBBORN, FakeClock, alive, command, elsewhere, eventually, stranger, tell


def never(_: OSError) -> None:
    """Be what a raw log tells its troubles, where there must be none."""
    raise AssertionError


@dataclass(frozen=True)
class Stage:
    """A work tree, one claim in it, and the runs of its agent."""

    folder: Path
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def claim(self) -> Claim:
        """The claim that every run here is for."""
        return Claim(Actor.RALPH, 17, Token(33, "holder", self.nonce), "main", "b" * 40, "2026-01-20T03:29:29Z")

    @property
    def log(self) -> Path:
        """The raw log."""
        return self.folder / "raw.log"

    def runner(
        self, loop: Loop, show: Callable[[bytes], None] = lambda _: None, stop_wanted: Callable[[], int] = lambda: 0
    ) -> Runner:
        """Make the runner of a daemon."""
        own = self.folder / "own"
        own.mkdir(exist_ok=True)
        place = Workspace(self.folder, self.folder, own, own / "journal.json", [own])
        return Runner(loop, place, dict(os.environ), show, stop_wanted)

    def job(
        self,
        *argv: str,
        prompt: bytes = b"",
        timeout: float | None = None,
        idle: float | None = None,
        ladder: tuple[Rung, ...] = LADDER,
    ) -> Invocation:
        """Make the invocation of an agent; one word is a shell script."""
        words = ["/bin/sh", "-c", *argv] if len(argv) == 1 else [*argv]
        agent = Agent(name="agent", argv=words, timeout=timeout, idle_timeout=idle, ladder=ladder)
        log = RawLog(self.log, never)
        return Invocation(self.claim, agent, "main.md", prompt, self.folder / "reports", log, str(self.log))

    def left(self) -> list[int]:
        """Return the living processes of the turn."""
        return survivors(self.nonce)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def unasked() -> None:
    """Be the `before_stop` of a run that nobody stops."""
    raise AssertionError


# --- what it is given and what is kept -------------------------------------------------------------------------------


def test_an_agent_gets_its_prompt_its_turn_and_a_temporary_folder_and_its_words_are_no_shells(stage: Stage) -> None:
    script = """
printf '%s\\n' "$ORCH_TURN" "$ORCH_ITERATION" "$ORCH_ACTOR" "$ORCH_PROMPT" "$ORCH_BRANCH" "$ORCH_REPORT_DIR" \\
  "$ORCH_TURN_STAMP" "$(pwd)" "$TMPDIR" "$1"
cat
touch "$TMPDIR/scratch" && echo noise >&2
echo '### Turn Summary'; echo 'did it'
"""
    with Loop(SystemClock()) as loop:
        runner = stage.runner(loop)
        word = "$(touch hacked); two words"
        result = runner.run(stage.job("/bin/sh", "-c", script, "agent", word, prompt=b"do \xff it\n"), unasked)
        noted = runner.witnessed(stage.claim)
        runner.forget(stage.claim)
        assert (noted, runner.witnessed(stage.claim)) == (0, None)

    lines = result.said.splitlines()
    here = str(stage.folder)
    assert lines[:8] == ["17/ralph", "17", "ralph", "main.md", "main", f"{here}/reports", stage.nonce, here]
    assert lines[9:11] == [word, "do \N{REPLACEMENT CHARACTER} it"]
    assert not Path(lines[8]).exists()
    assert not (stage.folder / "hacked").exists()
    assert (result.completed.code, result.outcome.failure) == (0, None)
    assert result.outcome.message == "### Turn Summary\ndid it\n"
    raw = stage.log.read_bytes()
    assert b"do \xff it\n" in raw
    assert b"noise\n" in raw


def test_a_bare_executable_may_have_any_clock(stage: Stage) -> None:
    job = stage.job('test "$TZ" = :/etc/localtime')
    with Loop(SystemClock()) as loop:
        job = job._replace(agent=replace(job.agent, env={"TZ": ":/etc/localtime"}))
        assert stage.runner(loop).run(job, unasked).outcome.failure is None


def test_a_failure_says_its_cause_and_keeps_the_last_lines_of_both_streams(stage: Stage) -> None:
    with Loop(SystemClock()) as loop:
        result = stage.runner(loop).run(stage.job("seq 100; echo last >&2; exit 3"), unasked)
    failure = result.outcome.failure
    assert failure
    assert (failure.code, failure.exit_code, failure.log) == ("agent-failed", 3, str(stage.log))
    assert failure.reason == "the agent agent ended with exit code 3"
    assert (len(failure.tail), failure.tail[-1] in {"last", "100"}) == (20, True)

    with Loop(SystemClock()) as loop:
        long = stage.runner(loop).run(stage.job("head -c 10000 /dev/zero | tr '\\0' x; exit 1"), unasked)
    assert long.outcome.failure
    assert long.outcome.failure.tail == ["x" * 4096]


@pytest.mark.parametrize(
    ("timeout", "idle", "code", "reason"),
    [
        (7200.0, None, "agent-timeout", "the agent agent ran longer than 7200 s and was ended"),
        (7200.0, 900.0, "agent-idle", "the agent agent printed nothing for 900 s and was ended"),
    ],
)
def test_an_agent_that_hangs_fails_its_turn_at_its_deadline(
    stage: Stage, timeout: float, idle: float | None, code: str, reason: str
) -> None:
    with Loop(FakeClock()) as loop:
        result = stage.runner(loop).run(stage.job(FOREVER, timeout=timeout, idle=idle), unasked)

    assert result.outcome.failure
    assert (result.outcome.failure.code, result.outcome.failure.reason) == (code, reason)
    assert stage.left() == []


# --- stopped by a person ---------------------------------------------------------------------------------------------


def test_a_second_stop_kills_at_once(stage: Stage) -> None:
    happened: list[str] = []
    asked: list[str] = []

    def show(data: bytes) -> None:
        words = [word for word in data.decode().split() if word in {"ready", "TERM"}]
        happened.extend(words)
        asked.extend(words)  # who says "ready" is stopped, who says "TERM" is stopped again

    with Loop(FakeClock(jumps=False)) as loop:  # the ladder's eight seconds never pass
        runner = stage.runner(loop, show, lambda: len(asked))
        result = runner.run(stage.job(STUBBORN), lambda: happened.append("asked to"))

    assert happened == ["ready", "asked to", "TERM"]
    assert (result.completed.why, result.completed.code) == (Why.STOPPED, 137)
    assert result.outcome.failure
    assert result.outcome.failure.code == "agent-stopped"
    assert stage.left() == []


def test_what_a_stop_must_write_first_is_written_before_any_signal(stage: Stage) -> None:
    os.mkfifo(stage.folder / "go")
    go = os.open(stage.folder / "go", os.O_RDWR)
    ready: list[bytes] = []
    answered: list[bool] = []

    def before_stop() -> None:
        os.write(go, b"\n")
        answered.append(eventually((stage.folder / "answer").exists))

    with Loop(SystemClock()) as loop:
        runner = stage.runner(loop, ready.append, lambda: bool(ready))
        script = f"echo ready; read -r x <go; touch answer; exec {FOREVER}"
        result = runner.run(stage.job(script, ladder=((signal.SIGKILL, 0.0),)), before_stop)
    os.close(go)
    assert (answered, result.completed.code) == ([True], 137)


def test_an_agent_whose_stop_was_asked_for_before_its_start_does_not_begin(stage: Stage) -> None:
    told: list[str] = []
    with Loop(FakeClock()) as loop:
        runner = stage.runner(loop, stop_wanted=lambda: 1)
        result = runner.run(stage.job("echo >begun"), lambda: told.append("stop"))

    assert (result.completed.why, told) == (Why.STOPPED, ["stop"])
    assert not (stage.folder / "begun").exists()


def test_an_agent_that_is_stopped_is_not_given_its_prompt_any_more(stage: Stage) -> None:
    answers = iter([0])
    with Loop(FakeClock()) as loop:  # a TERM between fork and exec of a shell's child is lost: the ladder may climb
        job = stage.job("read -r line; echo >begun", prompt=b"do it\n")
        result = stage.runner(loop, stop_wanted=lambda: next(answers, 1)).run(job, lambda: None)

    assert result.completed.why is Why.STOPPED
    assert not (stage.folder / "begun").exists()


@pytest.mark.parametrize(
    ("said", "why", "stopped"), [("true", Why.STOPPED, ["stop"]), (claude("s-1", 0.5), Why.GRACE, [])]
)
def test_an_agent_that_the_stop_signal_reached_before_us_was_stopped_unless_it_had_said_how_it_went(
    stage: Stage, said: str, why: Why, stopped: list[str]
) -> None:
    seen: list[bool] = []
    told: list[str] = []
    with Loop(SystemClock()) as loop:

        def stop_wanted() -> int:
            seen.append(bool(loop.children()))
            return int(any(seen) and not seen[-1])  # not before the agent has ended

        job = stage.job(f"{said}\nkill -TERM $$")
        job = job._replace(agent=replace(job.agent, preset=presets.load()["claude"]))
        result = stage.runner(loop, stop_wanted=stop_wanted).run(job, lambda: told.append("stop"))

    assert (result.completed.why, told) == (why, stopped)
    assert (result.outcome.failure is None) == (why is Why.GRACE)


def test_a_stop_that_comes_after_the_agents_end_interrupts_nothing(stage: Stage) -> None:
    os.mkfifo(stage.folder / "go")
    go = os.open(stage.folder / "go", os.O_RDWR)
    calls: list[int] = []

    def stop_wanted() -> int:
        calls.append(1)
        if len(calls) == 2:
            os.write(go, b"\n")
        return int(len(calls) > 2)

    # Nobody's survivor here (no stamp, no subreaper): it keeps the pipes open for the second after the agent's end.
    script = (
        f"mkfifo up; env -i setsid sh -c 'echo $$ >up; exec {FOREVER}' & read -r pid <up; echo $pid >pid; read x <go"
    )
    with Loop(FakeClock()) as loop:
        result = stage.runner(loop, stop_wanted=stop_wanted).run(stage.job(script), unasked)
    os.close(go)
    os.kill(int((stage.folder / "pid").read_text()), signal.SIGKILL)

    assert (result.completed.why, result.completed.seconds, result.outcome.failure) == (Why.EXITED, 1.0, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP])
def test_any_first_rung_reaches_the_agent_which_ends_in_its_own_time(stage: Stage, number: signal.Signals) -> None:
    """The agent's parent, which notes its end, must outlive a signal to their group."""
    handler = f"""
import os, signal, sys
def end(*_):
    os.write(2, b"ending")
    sys.exit(5)
signal.signal({number:d}, end)
os.write(1, b"ready ")
while True:
    signal.pause()
"""
    ready: list[bytes] = []
    with Loop(FakeClock(jumps=False)) as loop:
        runner = stage.runner(loop, ready.append, lambda: bool(ready))
        job = stage.job(sys.executable, "-c", handler, ladder=((number, 8.0), (signal.SIGKILL, 0.0)))
        result = runner.run(job, lambda: None)

    assert (result.completed.code, result.completed.why) == (5, Why.STOPPED)
    assert b"".join(ready) == b"ready ending"


# --- an agent that tells how it went ---------------------------------------------------------------------------------


def heeding(stage: Stage, preset: str, text: str, *, grace: float = 30.0, idle: float | None = None) -> Invocation:
    """Make the invocation of a shell script that prints a preset's events."""
    job = stage.job(text, idle=idle, ladder=((signal.SIGKILL, 0.0),))
    return job._replace(agent=replace(job.agent, preset=presets.load()[preset], exit_grace=grace))


def followed(stage: Stage, job: Invocation, clock: FakeClock, *moves: tuple[bytes, float]) -> Result:
    """Run an agent; whenever its log ends with the next of these, let seconds pass and have it go on."""
    os.mkfifo(stage.folder / "go")
    go = os.open(stage.folder / "go", os.O_RDWR)
    left = list(moves)

    def look() -> bool:
        if left and stage.log.exists() and stage.log.read_bytes().rstrip().endswith(left[0][0]):
            clock.advance(left.pop(0)[1])
            os.write(go, b"go\n")
        return False

    with Loop(clock) as loop:
        result = stage.runner(loop).run(job, unasked, look)
    os.close(go)
    assert left == []
    return result


CODEX_OK = says({"type": "turn.completed", "usage": {"input_tokens": 7, "output_tokens": 1}})
CODEX_FAILED = says({"type": "turn.failed", "error": {"message": "it went wrong"}})
GOES_ON = "read -r go <go\n"


@pytest.mark.parametrize("events", [CODEX_OK, CODEX_FAILED])
def test_an_agent_that_said_how_it_went_and_does_not_exit_is_ended_and_what_it_said_counts(
    stage: Stage, events: str
) -> None:
    with Loop(FakeClock()) as loop:
        result = stage.runner(loop).run(heeding(stage, "codex", f"{events}\nexec {FOREVER}"), unasked)

    assert (result.completed.why, 30 <= result.completed.seconds < 60) == (Why.GRACE, True)
    failure = result.outcome.failure
    assert (failure and failure.reason) == (None if events == CODEX_OK else "the agent agent: it went wrong")
    assert stage.left() == []


def test_an_agent_that_goes_on_after_its_result_is_not_cut(stage: Stage) -> None:
    clock = FakeClock(jumps=False)
    begun = says({"type": "system", "subtype": "init", "session_id": "s"})
    ended = says({"type": "result", "is_error": False, "result": "one"})
    text = f"{begun}\n{ended}\n{GOES_ON}{begun}\n{GOES_ON}{says({'type': 'x', 'y': 'z'})}\n{GOES_ON}"
    text += ended.replace("one", "two")
    result = followed(
        stage, heeding(stage, "claude", text), clock, (b'"one"}', 29.0), (b'"s"}', 1000.0), (b'"z"}', 1000.0)
    )
    assert (result.completed.why, result.outcome.failure, result.said) == (Why.EXITED, None, "two")


NOISE = {"type": "error", "message": "Reconnecting... 1/5"}
PROGRESS = {"type": "item.completed", "item": {"text": "Reconnecting... 1/5"}}


@pytest.mark.parametrize(("event", "why"), [(NOISE, Why.IDLE), (PROGRESS, Why.EXITED)])
def test_only_progress_keeps_an_agent_from_being_idle(stage: Stage, event: dict[str, Any], why: Why) -> None:
    first = says(event)
    last = f"exec {FOREVER}" if why is Why.IDLE else f"{GOES_ON}{CODEX_OK}"
    text = f"{first}\n{GOES_ON}{first.replace('1/5', '2/5')}\n{last}"
    one, two = (f'{number}/5"{"}" * (2 if "item" in event else 1)}'.encode() for number in (1, 2))
    job = heeding(stage, "codex", text, idle=900.0)
    result = followed(stage, job, FakeClock(jumps=False), (one, 500.0), (two, 500.0))
    assert result.completed.why is why
    reason = "the agent agent made no progress for 900 s and was ended" if why is Why.IDLE else None
    assert (result.outcome.failure and result.outcome.failure.reason) == reason


def test_a_rest_of_hours_ends_at_its_time_of_day_and_before_that_when_something_says_so(stage: Stage) -> None:
    clock = FakeClock()
    with Loop(clock) as loop:
        runner, begun = stage.runner(loop), clock.now()
        assert runner.rest(begun + timedelta(hours=8), lambda: None) is None
        assert clock.now() - begun == timedelta(hours=8)

        soon = clock.now() + timedelta(hours=1)
        assert runner.rest(soon + timedelta(hours=7), lambda: "stop" if clock.now() >= soon else None) == "stop"
        assert clock.now() == soon
        assert runner.rest(begun, lambda: "stop") == "stop"


# --- the daemon dies -------------------------------------------------------------------------------------------------


def be_a_daemon(folder: str, nonce: str, script: str) -> None:
    """Run one agent as a daemon does."""
    with Loop(SystemClock(), adopt=become_subreaper()) as loop:
        stage = Stage(Path(folder), nonce)
        stage.runner(loop).run(stage.job(script), unasked)


@contextmanager
def daemon(stage: Stage, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give a daemon whose agent says that it is up and then does as the script says; nothing of it stays."""
    agent = f"echo $$ >up.new && mv up.new up\n{script}"
    argv = command(be_a_daemon, stage.folder, stage.nonce, agent)
    process = subprocess.Popen(argv, cwd=Path(__file__).parent)
    try:
        assert eventually(lambda: (stage.folder / "up").exists() or process.poll() is not None)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        for pid in stage.left():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("grave", ["reaped", "zombie"])
@pytest.mark.parametrize(
    ("end", "noted"),
    [("exit 0", 0), ("exit 3", None), ("while :; do echo x; done", None), ("trap '' PIPE; echo x || exit 1", None)],
)
def test_an_agent_that_outlives_its_daemon_is_believed_when_it_succeeds_only(
    stage: Stage, end: str, noted: int | None, grave: str
) -> None:
    os.mkfifo(stage.folder / "go")
    go = os.open(stage.folder / "go", os.O_RDWR)
    with daemon(stage, f"read -r x <go; {end}") as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if grave == "reaped":
            process.wait()
        os.write(go, b"\n")
        assert eventually(lambda: not stage.left())
    os.close(go)

    with Loop(SystemClock()) as loop:
        assert stage.runner(loop).witnessed(stage.claim) == noted
    assert [file.suffix for file in (stage.folder / "own").iterdir()] == ([""] if noted == 0 else [])


@pytest.mark.parametrize(("end", "noted"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_an_agent_that_ends_while_its_daemon_lives_is_noted_before_the_daemon_looks(
    stage: Stage, end: str, noted: int
) -> None:
    with Loop(SystemClock()) as loop:
        runner = stage.runner(loop)
        runner.run(stage.job(end), unasked)
        assert runner.witnessed(stage.claim) == noted

        killed = stage.job(FOREVER, ladder=((signal.SIGKILL, 0.0),))
        answers = iter([0])
        stage.runner(loop, stop_wanted=lambda: next(answers, 1)).run(killed, lambda: None)
        assert runner.witnessed(stage.claim) is None, "an old note does not stay"


def test_a_new_daemon_ends_what_a_killed_one_left_and_nothing_of_another_turn(stage: Stage) -> None:
    script = f"trap '' TERM; setsid {FOREVER} & (setsid {FOREVER} &); echo $TMPDIR >tmp; {FOREVER}"
    with stranger(["sleep", "100000"], {**os.environ, STAMP: secrets.token_hex(8)}) as other:
        with daemon(stage, script) as process:
            process.kill()
            process.wait()
            assert eventually(lambda: len(stage.left()) == 5)  # witness, agent, and three that sleep
            with Loop(SystemClock()) as loop:
                stage.runner(loop).reap(stage.claim)
            assert stage.left() == []
        assert alive(other)
    assert not Path((stage.folder / "tmp").read_text().strip()).exists()


# --- floods and readers that do not read -----------------------------------------------------------------------------


def memory() -> int:
    """Return the most bytes of memory that this process has ever held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def be_flooded(folder: str, size: str) -> None:
    """Run an agent that prints `size` bytes on each stream as fast as it can."""
    stage = Stage(Path(folder))
    with Loop(SystemClock()) as loop:
        console = Console()
        console.attach(loop)
        runner = stage.runner(loop, console.output)
        before, begun = memory(), time.monotonic()
        result = runner.run(stage.job(f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait"), unasked)
        seconds = time.monotonic() - begun
        grown = memory() - before
    with stage.log.open("rb") as stream:
        stream.seek(CAP // 2 - 10)
        seam = stream.read(60)
    kept = stage.log.stat().st_size
    stage.log.unlink()
    left = [entry.name for entry in stage.folder.iterdir() if entry.name.startswith("raw")]
    tell(code=result.completed.code, grown=grown, seconds=seconds, seam=seam.decode(), kept=kept, left=left)


def test_a_gigabyte_on_both_streams_is_drained_in_bounded_memory_and_a_capped_log(tmp_path: Path) -> None:
    size = 1_000_000_000
    told = elsewhere(be_flooded, tmp_path, size)

    assert (told["code"], told["left"]) == (0, [])
    assert isinstance(told["grown"], int)
    assert told["grown"] < 32 << 20
    seam = str(told["seam"])
    assert seam.startswith("\0" * 10 + "\n[... ")
    missing = int(seam.partition("[... ")[2].partition(" bytes left out here ...]\n")[0].replace(",", ""))
    assert isinstance(told["kept"], int)
    assert 3 * CAP // 4 < told["kept"] <= CAP + (2 << 20)
    words = len(f"\n[... {missing:,} bytes left out here ...]\n")
    assert told["kept"] - words + missing == 2 * size


@pytest.mark.parametrize("reader", ["never reads", "has gone"])
def test_a_reader_of_the_output_that_does_not_read_stops_nothing(project: Project, reader: str) -> None:
    flood = "head -c 20000000 /dev/zero | tr '\\0' x | fold -w 100; echo; echo end of $ORCH_ACTOR"
    agent = project.agent(flood)
    ear, mouth = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(DOOR), "run", "-n", "1", "--agent", agent], cwd=project.path, stdout=mouth
    )
    os.close(mouth)
    if reader == "has gone":
        os.close(ear)
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        if reader == "never reads":
            os.close(ear)

    logs = sorted((project.path / "logs" / "main" / "latest").glob("*.log"))
    assert [log.read_bytes().splitlines()[-1] for log in logs] == [b"end of galph", b"end of ralph"]
    assert all(log.stat().st_size > 20_000_000 for log in logs)
