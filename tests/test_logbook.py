"""What `orchestrator logs` reads, whatever else lies there, and that it can be watched."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from selectors import BaseSelector, SelectorKey
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DOOR, Project
from orchestration.clock import SystemClock
from orchestration.console import Console
from orchestration.follow import Follower, follow
from orchestration.logbook import Choice, Growing, Logbook, tail_start

Capture = pytest.CaptureFixture[str]

RAW = b"\x1b[1;31mred\x1b[0m caf\xe9\x07\r\n\xc3\xa9 and a tab\t.\n\x1b]0;title\x07no newline at the end"
SHOWN = ["  │ red caf\N{REPLACEMENT CHARACTER}", "  │ é and a tab\t.", "  │ no newline at the end"]
NEVER = {"ORCHESTRATION_SYNC_POLL_INTERVAL": "3600"}
"""No look but for a file event."""
GATED = """
import os, sys
sys.stdin.read()
print(os.environ["ORCH_ACTOR"], "begins", flush=True)
with open(os.environ["GATE"]) as gate:
    gate.read()
print("goes on", flush=True)
"""


def told(project: Project, capsys: Capture, *args: str, code: int = 0) -> list[str]:
    """Run `logs` as a person does and return the lines; times are T."""
    capsys.readouterr()
    assert project.call("logs", *args) == code
    said = capsys.readouterr()
    return [re.sub(r" +\d+\.\d s", " T", line) for line in (said.out + said.err).splitlines()]


def asked(project: Project, capsys: Capture, *args: str, code: int = 0) -> list[dict[str, Any]]:
    """Run `logs --json` and return what each line holds."""
    capsys.readouterr()
    assert project.call("logs", "--json", *args) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def runs(project: Project) -> list[Path]:
    """Return the folders of the runs, oldest first."""
    folders = (path for path in (project.path / "logs" / "main").glob("*Z*") if not path.is_symlink())
    return sorted(folders, key=lambda path: (path.name[:18], int(path.name[19:] or 1)))


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run as they are on disk."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


@pytest.fixture
def two_runs(project: Project) -> Project:
    """Give a project in which galph failed, was let go on, and both finished an iteration."""
    assert project.call("run", "-q", "--agent", project.agent("cat >/dev/null; seq 30; exit 3\n", "bad")) == 4
    assert project.call("retry") == 0
    work = f"""
    import os, subprocess, sys
    sys.stdin.read()
    sys.stdout.buffer.write({RAW!r})
    if os.environ["ORCH_ACTOR"] == "ralph":
        open("src/new.py", "w").write("new\\n")
        subprocess.run("git add . && git commit -qm 'Add one'", shell=True, check=True)
    """
    assert project.call("run", "-q", "-n", "1", "--agent", project.python_agent(work)) == 0
    return project


# --- afterwards ------------------------------------------------------------------------------------------------------


def test_the_newest_run_is_a_line_a_turn_and_its_last_log_without_control_characters(
    two_runs: Project, capsys: Capture
) -> None:
    folder = runs(two_runs)[-1]

    assert told(two_runs, capsys) == [
        f"run {folder.name} on main: 1 iteration is done  [iterations, exit 0]",
        "    1  galph  supervisor.md  ok T  0 commits",
        "    1  ralph  main.md        ok T  1 commit",
        "",
        str(folder / "iter-00001_ralph_main.log"),
        *SHOWN,
    ]
    assert told(two_runs, capsys, "-n", "2")[4:] == [
        f"{folder / 'iter-00001_ralph_main.log'} (its end; -n 0 shows all of it)",
        *SHOWN[1:],
    ]
    assert asked(two_runs, capsys) == recorded(folder)


def test_a_choice_shows_every_attempt_with_its_run(two_runs: Project, capsys: Capture) -> None:
    old, new = runs(two_runs)

    lines = told(two_runs, capsys, "--actor", "galph", "--iteration", "1")

    assert lines[0].startswith(f"run {old.name} on main: galph's turn of iteration 1 failed: ")
    assert lines[0].endswith("  [agent-failed, exit 4]")
    assert lines[1].startswith(
        "    1  galph  supervisor.md  failed T  0 commits   the agent bad ended with exit code 3"
    )
    assert lines[2:4] == [
        f"run {new.name} on main: 1 iteration is done  [iterations, exit 0]",
        "    1  galph  supervisor.md  ok T  0 commits",
    ]
    assert lines[5:] == [str(new / "iter-00001_galph_supervisor.log"), *SHOWN]
    chosen = asked(two_runs, capsys, "--actor", "galph")
    everything = [event for folder in (old, new) for event in recorded(folder) if event["event"] != "run-ended"]
    assert chosen == [event for event in everything if event.get("actor") == "galph"]
    assert len(chosen) == 4
    assert asked(two_runs, capsys, "--actor", "ralph") == [e for e in recorded(new) if e.get("actor") == "ralph"]


def test_a_run_is_chosen_by_its_stamp(two_runs: Project, capsys: Capture) -> None:
    old, new = runs(two_runs)

    lines = told(two_runs, capsys, "--run", old.name)
    assert lines[3:] == [
        f"{old / 'iter-00001_galph_supervisor.log'} (its end; -n 0 shows all of it)",
        *(f"  │ {number}" for number in range(11, 31)),
    ]
    assert told(two_runs, capsys, "--run", old.name, "-n", "0")[4:] == [f"  │ {number}" for number in range(1, 31)]
    assert asked(two_runs, capsys, "--run", old.name) == recorded(old)

    assert asked(two_runs, capsys, "--run", "20", code=2)[0]["message"].endswith(f"2 runs: {old.name}, {new.name}")
    assert asked(two_runs, capsys, "--run", "../../main", code=2)[0]["error"] == "run-unknown"
    assert asked(two_runs, capsys, "--iteration", "9", code=2)[0]["error"] == "turn-unknown"
    for nonsense in (["--runs", "-f"], ["--runs", "--actor", "ralph"], ["-f", "--run", old.name]):
        assert asked(two_runs, capsys, *nonsense, code=2)[0]["error"] == "logs-options"


def test_the_runs_are_listed_with_how_they_ended(two_runs: Project, capsys: Capture) -> None:
    old, new = runs(two_runs)

    first, second = told(two_runs, capsys, "--runs")
    failure = "galph's turn of iteration 1 failed: the agent bad ended with exit code 3"
    assert first == f"{old.name}     1 turn  {failure}  [agent-failed, exit 4]"
    assert second == f"{new.name}    2 turns  1 iteration is done  [iterations, exit 0]"
    capsys.readouterr()
    assert two_runs.call("logs", "--runs", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(item["run"], item["turns"], item["live"], item["ended"]["exit_code"]) for item in listed] == [
        (old.name, 1, False, 4),
        (new.name, 2, False, 0),
    ]


def test_without_a_run_it_is_refused_and_nothing_is_made(project: Project, capsys: Capture) -> None:
    (refusal,) = asked(project, capsys, code=3)

    assert refusal["error"] == "no-run"
    assert "there is no run on main yet" in refusal["message"]
    assert told(project, capsys, "--runs") == ["no run on main yet"]
    assert [path.name for path in (project.path / "logs").iterdir()] == [".gitignore"]


def test_what_somebody_else_put_there_is_passed_over(two_runs: Project, capsys: Capture) -> None:
    expected = told(two_runs, capsys)
    newest = runs(two_runs)[-1]
    shelf = newest.parent
    other = recorded(newest)[0] | {"branch": "ma-in"}
    with (newest / "events.jsonl").open("ab") as events:
        events.write(b'\xff\n{"event":"of a later version"}\n[]\n\n{"event":"run-ended","exit_code":0,"co')
    for name, content in {"2999-01-01T000000Z": json.dumps(other).encode() + b"\n", "2999-01-02T000000Z": b""}.items():
        (shelf / name).mkdir()
        (shelf / name / "events.jsonl").write_bytes(content)
    (shelf / "2999-01-03T000000Z").write_text("a file")
    (shelf / "2999-01-04T000000Z").mkdir()
    (shelf / "2999-01-05T000000Z").symlink_to("/")
    for name, target in {"2999-01-06T000000Z": "/dev/full", "2999-01-07T000000Z": "/nonexistent"}.items():
        (shelf / name).mkdir()
        (shelf / name / "events.jsonl").symlink_to(target)
    (shelf / "2999-01-08T000000Z").mkdir()
    os.mkfifo(shelf / "2999-01-08T000000Z" / "events.jsonl")
    (shelf / "2026 my notes").mkdir()

    assert told(two_runs, capsys) == expected
    assert [line.split()[0] for line in told(two_runs, capsys, "--runs")] == [path.name for path in runs(two_runs)[:2]]


def test_a_turn_whose_daemon_died_is_found_with_the_log_that_its_agent_wrote(project: Project, capsys: Capture) -> None:
    agent = project.agent("cat >/dev/null; echo said before\n")
    failpoint = {"GALPH_FAILPOINT": "turn.ran:KILL"}
    assert project.run("run", "-n", "1", "--agent", agent, env=failpoint).returncode == -signal.SIGKILL
    (old,) = runs(project)
    assert told(project, capsys)[:2] == [
        f"run {old.name} on main: cut short: it did not say how it ended",
        "    1  galph  supervisor.md  not handed off by this run",
    ]
    assert project.call("run", "-q", "--once", "--agent", agent) == 0
    assert len(runs(project)) == 2

    lines = told(project, capsys)

    assert lines[1].startswith("    1  galph  supervisor.md  ok T")
    assert lines[3:] == [str(old / "iter-00001_galph_supervisor.log"), "  │ said before"]


def test_a_routers_prompt_and_its_failure_are_one_turn(project: Project, capsys: Capture) -> None:
    agent = project.agent("cat >/dev/null; echo nonsense.md\n")
    assert project.call("run", "-q", "--router-prompt", "router", "--agent", agent) == 4

    lines = told(project, capsys)

    assert lines[1].startswith("    1  galph  router.md  failed")
    assert lines[-1] == "  │ nonsense.md"


def test_a_log_of_gigabytes_is_not_read_whole(two_runs: Project) -> None:
    log = runs(two_runs)[-1] / "iter-00001_ralph_main.log"
    with log.open("r+b") as stream:
        stream.truncate(2 << 30)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nthe last line\n")
    line = ["sh", "-c", 'ulimit -v 1000000; exec "$@"', "sh", sys.executable, str(DOOR), "logs", "-n", "1"]

    done = subprocess.run(line, cwd=two_runs.path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "  │ the last line"


def test_a_reader_gets_everything_however_slow_and_nobody_is_waited_for_who_has_gone(two_runs: Project) -> None:
    log = runs(two_runs)[-1] / "iter-00001_ralph_main.log"
    wide = b"x" * (1 << 20)
    log.write_bytes(wide + b"\n" + b"line\n" * 100_000)
    shown = subprocess.run(
        ["sh", "-c", '"$@" | { sleep 1.5; cat; }', "sh", sys.executable, str(DOOR), "logs", "-n", "0"],
        cwd=two_runs.path,
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert shown.count("x") >= len(wide)
    assert shown.count("│ line\n") == 100_000
    with two_runs.start("logs", "-n", "0") as process:
        assert process.stdout
        process.stdout.close()
        assert process.wait(60) == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 30, 65_535, 65_536, 65_537, 150_000]), max_size=8),
    ended=st.booleans(),
    wanted=st.integers(0, 9),
)
def test_the_tail_begins_where_its_first_line_does(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], ended: bool, wanted: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_bytes(b"\n".join(b"x" * size for size in sizes) + b"\n" * (ended and bool(sizes)))
    lines = path.read_bytes().splitlines(keepends=True)

    start = tail_start(path, wanted)

    assert b"".join(Growing(path, start).blocks()) == b"".join(lines[-wanted:])


# --- while it happens ------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a pipe at which agents wait until a test opens it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    monkeypatch.setenv("GATE", str(path))
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # nobody is left waiting


def until(stream: IO[str] | None, end: str) -> list[str]:
    """Return the lines up to one that begins so."""
    assert stream
    seen: list[str] = []
    for line in stream:
        seen.append(line.rstrip("\n"))
        if seen[-1].startswith(end):
            return seen
    pytest.fail(f"{end!r} never came: {seen}")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list; what is in it at the end is ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_run_is_followed_from_before_its_first_turn_to_its_end(
    project: Project, gate: Path, started: list[subprocess.Popen[str]]
) -> None:
    follower = project.start("logs", "-f", env=NEVER)
    started.append(follower)
    assert until(follower.stdout, "waiting: ") == ["waiting: the first run on main"]
    assert [path.name for path in (project.path / "logs").iterdir()] == [".gitignore"]
    daemon = project.start("run", "-n", "1", "--agent", project.python_agent(GATED))
    started.append(daemon)

    assert until(follower.stdout, "  │ galph begins")[-2].startswith("galph · iteration 1 · supervisor.md")
    late = project.start("logs", "--follow", "--json", env=NEVER)
    started.append(late)
    assert late.stdout
    early = [json.loads(late.stdout.readline()) for _ in range(3)]
    assert [event["event"] for event in early] == ["run-started", "notice", "turn-started"]
    gate.write_text("go")
    assert until(follower.stdout, "  ✓ ")[0] == "  │ goes on"
    until(follower.stdout, "  │ ralph begins")
    gate.write_text("go")

    rest = until(follower.stdout, "stopped after 2 turns: 1 iteration is done")
    assert rest[0] == "  │ goes on"
    assert (follower.wait(60), late.wait(60), daemon.wait(60)) == (0, 0, 0)
    assert early + [json.loads(line) for line in late.stdout] == recorded(runs(project)[-1])


def test_a_follower_shows_a_running_turn_and_goes_on_into_the_run_after_a_killed_one(
    project: Project, capsys: Capture, gate: Path, started: list[subprocess.Popen[str]]
) -> None:
    agent = project.python_agent(GATED)
    daemon = project.start("run", "-n", "1", "--agent", agent)
    started.append(daemon)
    until(daemon.stdout, "  │ galph begins")
    follower = project.start("logs", "-f", "--actor", "galph", env={"ORCHESTRATION_SYNC_POLL_INTERVAL": "0.1"})
    started.append(follower)
    assert until(follower.stdout, "  │ galph begins")[1].startswith("galph · iteration 1")
    lines = told(project, capsys)
    assert lines[0].endswith("on main: running")
    assert lines[1] == "    1  galph  supervisor.md  running"

    daemon.kill()
    daemon.wait()
    until(follower.stdout, "waiting: the next run; no daemon runs")
    again = project.start("run", "-n", "1", "--agent", agent)
    started.append(again)
    until(follower.stdout, "  │ galph begins")
    gate.write_text("go")
    until(follower.stdout, "  ✓ ")
    until(again.stdout, "  │ ralph begins")
    gate.write_text("go")

    assert follower.stdout
    assert follower.stdout.read() == ""  # ralph is not asked for
    assert (follower.wait(60), again.wait(60)) == (0, 0)
    assert len(runs(project)) == 2


def test_a_follower_waits_for_a_daemon_that_has_run_nothing_yet_and_ends_by_ctrl_c(
    two_runs: Project, started: list[subprocess.Popen[str]]
) -> None:
    events = runs(two_runs)[-1] / "events.jsonl"
    events.write_text(re.sub(r'"at":"20\d\d', '"at":"2020', events.read_text(), count=1))
    assert two_runs.call("pause") == 0
    daemon = two_runs.start("run", "--agent", "true")
    started.append(daemon)
    until(daemon.stdout, "waiting: paused")
    follower = two_runs.start("logs", "-f", env=NEVER)
    started.append(follower)

    seen = until(follower.stdout, f"waiting: the first turn of process {daemon.pid}")

    assert [line for line in seen if line.startswith("  │")] == SHOWN  # the last turn's alone
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 130
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait(60) == 130


def test_a_follower_ends_when_nobody_reads_it_any_more(
    project: Project, gate: Path, started: list[subprocess.Popen[str]]
) -> None:
    daemon = project.start("run", "-n", "1", "--agent", project.python_agent(GATED))
    started.append(daemon)
    until(daemon.stdout, "  │ galph begins")
    follower = project.start("logs", "-f", env=NEVER)
    started.append(follower)
    until(follower.stdout, "  │ galph begins")
    assert follower.stdout

    follower.stdout.close()
    gate.write_text("go")

    assert follower.wait(60) == 0
    until(daemon.stdout, "  │ ralph begins")
    gate.write_text("go")
    assert daemon.wait(60) == 0


class Scripted(SystemClock):
    """Whenever nothing has arrived for a while, makes the next thing happen; at the end it is Ctrl-C."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self.actions = list(actions)
        self.waits = 0

    def wait(
        self,
        deadline: float | None,  # noqa: ARG002 - a Clock
        selector: BaseSelector,
    ) -> list[tuple[SelectorKey, int]]:
        """Wait a little, and then for what an action brings."""
        self.waits += 1
        assert self.waits < 100, "it wakes itself"
        ready = selector.select(0.3)
        while not ready:
            if not self.actions:
                raise KeyboardInterrupt
            self.actions.pop(0)()
            ready = selector.select(0.3)
        return ready


def follower(project: Project, clock: Scripted) -> None:
    """Follow in this process; no timer ever fires."""
    shelf, own = Logbook(project.path / "logs", "main"), project.path / ".git" / "orchestration"
    follow(Follower(shelf, own, Choice(), Console(), clock, 20), clock, 3600)


def test_a_follower_is_not_woken_by_its_own_reading(two_runs: Project, capsys: Capture) -> None:
    events = runs(two_runs)[-1] / "events.jsonl"
    *lines, end = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines))  # as if its daemon was killed
    clock = Scripted()

    with pytest.raises(KeyboardInterrupt):
        follower(two_runs, clock)

    assert clock.waits < 20
    assert capsys.readouterr().out.splitlines()[-1].startswith("waiting: the next run")
    follower(two_runs, Scripted(lambda: events.open("a").write(end[:20]), lambda: events.open("a").write(end[20:])))
    assert "stopped after 2 turns" in capsys.readouterr().out


def test_a_follower_sees_the_first_event_of_a_folder_that_was_empty(two_runs: Project, capsys: Capture) -> None:
    newest = runs(two_runs)[-1]
    events = (newest / "events.jsonl").read_bytes()
    empty = newest.with_name("2999-01-01T000000Z-2")
    capsys.readouterr()
    shutil.rmtree(newest.parent)

    follower(
        two_runs,
        Scripted(lambda: empty.mkdir(parents=True), lambda: (empty / "events.jsonl").write_bytes(events)),
    )

    assert capsys.readouterr().out.splitlines()[0] == "waiting: the first run on main"
