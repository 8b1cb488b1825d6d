"""Killed anywhere, the loop goes on where it stood: judged on the repository and on a ledger that the agents keep.

The ledger lies outside of the repository. The journal is never asked.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from conftest import DOOR, Project
from orchestration import failpoints
from prove_kills import KEEP_LEDGER, Ledger, broken_laws, living, tree

AGENT = """
import json, subprocess
from pathlib import Path

sys.stdin.read()
iteration, actor = TURN.split("/")
attempt = Path(f"plans/attempts/{iteration}-{actor}-{os.getpid()}.md")
attempt.parent.mkdir(parents=True, exist_ok=True)
attempt.write_bytes(os.urandom(32).hex().encode())
note("wrote", str(attempt), attempt.read_text())
if actor == "galph":
    Path("input.md").write_text(f"Do Now: step {iteration}\\n")
    state = Path("sync/state.json")
    if iteration == "2":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"exit": True, "exit_reason": "two are enough"}))
else:
    Path(f"src/step-{iteration}.txt").write_text(f"step {iteration}\\n")
    subprocess.run(["git", "add", "--", f"src/step-{iteration}.txt"], check=True)
    if subprocess.run(["git", "diff", "--cached", "--quiet"]).returncode:
        subprocess.run(["git", "commit", "-qm", f"step {iteration}"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    note("committed", commit.strip())
    Path(f"src/left-{iteration}.txt").write_text(f"left at step {iteration}\\n")
    Path("README.md").write_text(f"# A project at step {iteration}\\n")
note("ended", "0")
os._exit(0)
"""
"""Galph plans twice and then asks to end; ralph commits a file, leaves one untracked and one changed."""

FINAL = {
    "README.md": "# A project at step 1\n",
    "input.md": "Do Now: step 2\n",
    "src/app.py": "print('hello')\n",
    "src/left-1.txt": "left at step 1\n",
    "src/step-1.txt": "step 1\n",
}
"""What two iterations leave beside the files of `init`, whatever happened on the way."""

TURNS = ["1/galph", "1/ralph", "2/galph"]
HELD = ["-c", "limits.interrupted_reruns=1000", "-n", "0"]
SHOPPING = "milk\nbread\n"
NAMES = sorted(
    name
    for name in failpoints.NAMES
    if not (name.startswith(("init.", "undo.", "claim.", "leave.", "word.")) or name.endswith("_push"))
)
"""Those of a turn that is not shared; prove_hand_off strikes the others."""
DISK = [(name, ("ENOSPC", "EIO")[place % 2]) for place, name in enumerate(NAMES)]

HANGS = """
import signal
from pathlib import Path

still = "import os, signal, sys\\nopen(sys.argv[1], 'a').write(f'{os.getpid()} ')\\nwhile True: signal.pause()"
hang = [sys.executable, "-ISc", still, LEDGER + ".hung"]
if not os.path.exists(LEDGER + ".hung"):
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    Path("plans").mkdir(exist_ok=True)
    for path in ("plans/half.md", "input.md"):
        Path(path).write_text("half a thought\\n")
    HOW
"""
"""Before the agent's own work, and in its first run only: hang, deaf to every signal that can be ignored."""

DISGUISES = {
    "as it was started": "os.execv(hang[0], hang)",
    "in a session of its own": "if os.fork() == 0: os.setsid()\n    os.execv(hang[0], hang)",
    "without its environment": "os.execve(hang[0], hang, {})",
    "behind a parent that waits, in a session of its own and without its environment": (
        "if os.fork(): os.wait()\n    os.setsid(), os.execve(hang[0], hang, {})"
    ),
}

HOOKED = """
import subprocess
from pathlib import Path

hook = Path(".git/hooks/pre-commit")
if TURN == "1/ralph" and not Path(LEDGER + ".hung").exists():
    hook.parent.mkdir(exist_ok=True)
    os.mkfifo(LEDGER + ".never")
    hook.write_text(f"#!/bin/sh\\necho $$ >{LEDGER}.hung\\nread never <{LEDGER}.never\\n")
    hook.chmod(0o755)
    Path("README.md").write_text("half a thought\\n")
    subprocess.run(["git", "commit", "-qam", "never made"])
hook.unlink(missing_ok=True)
"""
"""Before the agent's own work, and in ralph's first run only: a git that never lets go of the index's lock."""

DIES_WRITING_THE_STATE = """
import os, runpy, signal, sys

fsync = os.fsync


def dying(descriptor):
    fsync(descriptor)
    if "/sync/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        os.kill(os.getpid(), signal.SIGKILL)


os.fsync = dying
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Name the ledger that the agents keep outside of the repository."""
    return Ledger(tmp_path / "ledger")


def prepared(project: Project, ledger: Ledger, first: str = "") -> list[str]:
    """Give the command line of the loop with the agent above, which begins with `first`."""
    text = KEEP_LEDGER.format(ledger=str(ledger.path)) + first + AGENT
    return ["run", "--agent", project.python_agent(text), *HELD]


@pytest.fixture
def work(project: Project, ledger: Ledger) -> list[str]:
    """Put an untracked file of the person's into the project, and give the command line that works on it."""
    project.write("shopping.txt", SHOPPING)
    return prepared(project, ledger)


def one_life(project: Project, ledger: Ledger, work: list[str], failpoint: str = "") -> int:
    """Run the daemon until it ends or dies, let an agent that outlives it end by itself, and return the exit code."""
    done = project.run(*work, env={failpoints.VARIABLE: failpoint})
    ledger.wait_until_nobody_runs()
    print(f"--- {failpoint or 'undisturbed'}: exit {done.returncode}\n{done.stdout}{done.stderr}")  # noqa: T201
    return done.returncode


@contextmanager
def killed_while_its_agent_hangs(project: Project, ledger: Ledger, work: list[str]) -> Iterator[None]:
    """Run the daemon until its agent says that it hangs, and kill the daemon alone; leave no agent behind."""
    daemon = project.start(*work)
    sign = ledger.path.with_name(f"{ledger.path.name}.hung")
    deadline = time.monotonic() + 60
    while not (sign.exists() and sign.read_text()) and daemon.poll() is None and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    daemon.kill()
    assert daemon.wait() == -signal.SIGKILL
    assert daemon.stdout
    daemon.stdout.close()
    try:
        yield
    finally:
        for pid in sign.read_text().split() if ledger.somebody_runs() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def assert_as_if_nothing_had_happened(project: Project, ledger: Ledger) -> None:
    """Judge the finished project: its history, its files, the person's file, and every byte that an agent wrote."""
    assert broken_laws(project.path, ledger, {"shopping.txt"}) == []
    assert (project.path / "shopping.txt").read_text() == SHOPPING
    assert {path: project.git("show", f"HEAD:{path}") + "\n" for path in FINAL} == FINAL
    set_up = tree(project.path, project.git("rev-list", "--reverse", "HEAD").split()[1])
    others = {path: meta for path, meta in tree(project.path).items() if not path.startswith("plans/")}
    assert others.keys() == set_up.keys() | FINAL.keys()
    assert all(others[path] == meta for path, meta in set_up.items() if path not in FINAL)
    state = project.state()
    assert (state["iteration"], state["expected_actor"], state["exit"]) == (2, "ralph", True)
    assert (state["exit_reason"], state["epoch"]) == ("two are enough", len(TURNS))
    for line in ledger.lines("wrote"):
        path, text = line.words
        assert project.git("show", f"HEAD:{path}") == text, f"{path} of {line.turn} is lost"
    reachable = project.git("rev-list", "HEAD").split()
    assert all(line.words[0] in reachable for line in ledger.lines("committed"))
    assert ledger.turns("ended") == Counter(TURNS), "an agent that had ended was run again, or one never ended"


def test_an_undisturbed_run_is_what_the_killed_ones_are_compared_with(
    project: Project, ledger: Ledger, work: list[str]
) -> None:
    assert one_life(project, ledger, work) == 0
    assert_as_if_nothing_had_happened(project, ledger)
    assert ledger.turns("start") == Counter(TURNS)


@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_killed_at_every_pass_of_a_failpoint_runs_no_agent_twice(
    project: Project, ledger: Ledger, work: list[str], name: str
) -> None:
    """The first start dies at the first pass; each later one repeats that pass and dies at the next."""
    codes = [one_life(project, ledger, work, f"{name}:KILL:1")]
    assert codes == [-signal.SIGKILL], f"{name} was never reached"
    while codes[-1] == -signal.SIGKILL:
        assert len(codes) < 100, f"{name}: no start comes further than the one before"
        codes.append(one_life(project, ledger, work, f"{name}:KILL:2"))
    assert codes[-1] == 0
    assert one_life(project, ledger, work) == 0
    assert_as_if_nothing_had_happened(project, ledger)
    assert ledger.turns("start") == Counter(TURNS)


@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_terminated_at_a_failpoint_stops_in_order_and_goes_on_later(
    project: Project, ledger: Ledger, work: list[str], name: str
) -> None:
    assert one_life(project, ledger, work, f"{name}:TERM:2") == 128 + signal.SIGTERM
    assert living(project.path) == []
    assert one_life(project, ledger, work) == 0
    assert_as_if_nothing_had_happened(project, ledger)


@pytest.mark.parametrize(("name", "action"), DISK, ids=[f"{name}-{action}" for name, action in DISK])
def test_a_disk_that_fails_at_a_failpoint_stops_the_daemon_and_costs_nothing(
    project: Project, ledger: Ledger, work: list[str], name: str, action: str
) -> None:
    assert one_life(project, ledger, work, f"{name}:{action}:2") == 3
    assert living(project.path) == []
    assert one_life(project, ledger, work) == 0
    assert_as_if_nothing_had_happened(project, ledger)


@pytest.mark.parametrize("how", DISGUISES)
def test_a_start_ends_the_killed_daemons_living_agent_before_it_starts_another(
    project: Project, ledger: Ledger, how: str
) -> None:
    project.write("shopping.txt", SHOPPING)
    work = prepared(project, ledger, HANGS.replace("HOW", DISGUISES[how]))
    with killed_while_its_agent_hangs(project, ledger, work):
        assert ledger.somebody_runs()
        assert project.run(*work).returncode == 0
        assert not ledger.somebody_runs()
    assert_as_if_nothing_had_happened(project, ledger)
    assert ledger.turns("start") == Counter([*TURNS, "1/galph"])
    assert project.git("show", "HEAD:plans/half.md") == "half a thought"
    overwritten = [project.git("show", f"{ref}:input.md", check=False) for ref in project.rescued()]
    assert "half a thought" in overwritten


def test_a_lock_that_a_killed_git_of_the_agent_leaves_does_not_stop_the_next_start(
    project: Project, ledger: Ledger
) -> None:
    project.write("shopping.txt", SHOPPING)
    work = prepared(project, ledger, HOOKED)
    with killed_while_its_agent_hangs(project, ledger, work):
        assert (project.path / ".git" / "index.lock").exists()
        assert project.run(*work).returncode == 0
    assert_as_if_nothing_had_happened(project, ledger)


def test_a_kill_between_the_two_halves_of_writing_the_state_file_leaves_no_litter(
    project: Project, ledger: Ledger, work: list[str]
) -> None:
    dying = [sys.executable, "-c", DIES_WRITING_THE_STATE, str(DOOR), *work]
    died = subprocess.run(dying, cwd=project.path, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert one_life(project, ledger, work) == 0
    assert_as_if_nothing_had_happened(project, ledger)
