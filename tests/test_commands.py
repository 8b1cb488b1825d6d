"""Every command as a person and as a script uses it."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import click
import pytest

from conftest import DOOR, Capture, Project, everything, person, script, scripted
from orchestration import __version__, cli, failpoints
from orchestration.checklist import TaskError, parse
from orchestration.scaffold import SUBJECT

PATIENCE = 30.0
QUIET = "cat >/dev/null\n"
"""An agent that reads its prompt and has nothing to do."""


# --- processes that wait ---------------------------------------------------------------------------------------------


class Gate:
    """An agent that says which turn it runs and then waits until it is let go on."""

    def __init__(self, project: Project) -> None:
        self._began, self._go = (project.path.parent / name for name in ("began", "go"))
        for pipe in (self._began, self._go):
            os.mkfifo(pipe)
        self._ears = os.open(self._began, os.O_RDWR)
        self._mouth = os.open(self._go, os.O_RDWR)
        self._heard = b""
        self.agent = project.python_agent(
            f"""
            import os, signal, sys
            prompt = sys.stdin.read()
            again = "again " if "turn was interrupted" in prompt else ""
            def say(word):
                with open({str(self._began)!r}, "w") as began:
                    began.write(word + "\\n")
            if "stubborn" in sys.argv[0]:
                signal.signal(signal.SIGTERM, lambda *_: say("TERM"))
            say(again + os.environ["ORCH_TURN"] + " " + str(os.getpid()))
            with open({str(self._go)!r}) as go:
                go.readline()
            """,
            "gated",
        )

    def close(self) -> None:
        """Close both ends."""
        os.close(self._ears)
        os.close(self._mouth)

    def wait(self) -> str:
        """Return what the agent says next."""
        deadline = monotonic() + PATIENCE
        while b"\n" not in self._heard:
            assert select.select([self._ears], [], [], max(0.0, deadline - monotonic()))[0], "no agent began"
            self._heard += os.read(self._ears, 4096)
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def turn(self) -> str:
        """Return the turn that began, as in `1/galph` or `again 1/galph`."""
        return self.wait().rpartition(" ")[0]

    def let_go(self) -> None:
        """Let one agent go on."""
        os.write(self._mouth, b"\n")


@pytest.fixture
def gate(project: Project) -> Iterator[Gate]:
    """Give an agent that waits."""
    made = Gate(project)
    yield made
    made.close()


Start = Callable[..., "Daemon"]


class Daemon:
    """A daemon in a process of its own, and what it printed so far."""

    def __init__(self, project: Project, *args: str) -> None:
        self.process = project.start(*args)
        self.text = ""

    def until(self, word: str) -> str:
        """Wait until it has printed `word`; return everything that it printed."""
        assert self.process.stdout
        deadline = monotonic() + PATIENCE
        while word not in self.text:
            descriptor = self.process.stdout.fileno()
            assert select.select([descriptor], [], [], max(0.0, deadline - monotonic()))[0], self.text
            data = os.read(descriptor, 65536)
            assert data, f"it ended: {self.text}"
            self.text += data.decode()
        return self.text

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        self.text += self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """Give a way to start daemons; those that still run at the end are killed."""
    begun: list[Daemon] = []
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a HUP that is ignored here would be ignored there

    def begin(*args: str) -> Daemon:
        begun.append(Daemon(project, *args))
        return begun[-1]

    yield begin
    signal.signal(signal.SIGHUP, old)
    for daemon in begun:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


# --- looking ---------------------------------------------------------------------------------------------------------


def failing_run(project: Project) -> None:
    """Fail galph's turn."""
    agent = project.agent("cat >/dev/null; echo boom >&2; echo half >>src/app.py; exit 3\n", "failing")
    assert project.call("run", "-q", "--agent", agent) == 4


def exiting_run(project: Project) -> None:
    """Let galph set the exit flag."""
    flag = (
        """cat >/dev/null; sed -i 's/"exit": false/"exit": true/; s/"exit_reason": null/"exit_reason": "all done"/'"""
    )
    assert project.call("run", "-q", "--agent", project.agent(f"{flag} sync/state.json\n", "leaving")) == 0


# what was done before | rows of the screen | fields of the JSON
SIGHTS: dict[str, tuple[Callable[[Project], object], list[str], dict[str, Any]]] = {
    "fresh": (
        lambda _: None,
        [
            "turn    galph, iteration 1 (idle) on main",
            "daemon  not running",
            "next    supervisor.md: galph's own prompt",
        ],
        {"daemon": None, "turn": None, "logs": None, "unusual": []},
    ),
    "ralph is next": (
        lambda project: project.call("stamp", "galph", "ok"),
        ["turn    ralph, iteration 1 (waiting-ralph) on main", "next    main.md: ralph's own prompt"],
        {"daemon": None, "turn": None, "unusual": []},
    ),
    "failed": (
        failing_run,
        [
            "(failed) on main",
            "unusual galph's turn of iteration 1 failed: the agent failing ended with exit code 3",
            "`orchestrator retry`",
        ],
        {"turn": None, "logs": "logs/main/latest"},
    ),
    "paused": (
        lambda project: project.call("pause"),
        ["unusual paused; `orchestrator resume` lets it go on"],
        {"unusual": ["paused; `orchestrator resume` lets it go on"]},
    ),
    "exit flag": (
        exiting_run,
        ["unusual the exit flag is set: all done; `orchestrator resume` clears it"],
        {"logs": "logs/main/latest"},
    ),
    "a person's work": (
        lambda project: project.write("src/app.py", "changed\n"),
        ["unusual changed and not committed: src/app.py"],
        {"unusual": ["changed and not committed: src/app.py"]},
    ),
    "no prompt": (
        lambda project: (project.path / "prompts" / "supervisor.md").unlink(),
        ["next    nothing can run: the prompt 'supervisor.md' (galph's own prompt) does not exist"],
        {"next": None},
    ),
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_status_shows_one_screen_and_changes_nothing(project: Project, capsys: Capture, sight: str) -> None:
    prepare, rows, fields = SIGHTS[sight]
    prepare(project)
    (project.path / "README.md").touch()  # git's index does not know this time: a `git status` would refresh it
    before = everything(project.path)

    screen = person(project, capsys, "status")
    facts = script(project, capsys, "status")
    route = project.call("route")
    bare = person(project, capsys)

    assert everything(project.path) == before
    for row in rows:
        assert row in screen.replace("file ", ""), screen
    assert len(screen.splitlines()) < 24
    assert {name: facts[name] for name in fields} == fields
    assert facts["state"] == {**facts["state"], "iteration": 1, "schema": 1}
    assert route == (2 if facts["next"] is None else 0)
    assert bare.startswith(screen.splitlines()[0])
    assert "Usage: orchestrator [OPTIONS] [COMMAND]" in bare


def test_the_program_alone_prints_its_help_anywhere_and_knows_its_version(tmp_path: Path, capsys: Capture) -> None:
    nowhere = Project(tmp_path / "nowhere")
    nowhere.path.mkdir()

    told = person(nowhere, capsys)
    assert told.startswith("Usage: orchestrator")
    for command in cli.COMMANDS:
        assert f"\n  {command} " in told
    assert person(nowhere, capsys, "--version") == f"orchestrator {__version__}\n"
    assert script(nowhere, capsys, "status", code=3)["error"] == "repository-missing"


def test_route_says_which_prompt_and_why_and_takes_the_options_of_run(project: Project, capsys: Capture) -> None:
    assert person(project, capsys, "route") == "galph · iteration 1 · supervisor.md: galph's own prompt\n"
    assert script(project, capsys, "route", "--router-review-every-n", "1", "--agent", "checklist") == {
        "actor": "galph",
        "iteration": 1,
        "prompt": "reviewer.md",
        "reason": "review: iteration 1 is a multiple of 1",
        "agent": "checklist",
    }
    chosen = script(project, capsys, "route", "--router-prompt", "router")
    assert (chosen["prompt"], chosen["reason"]) == (None, "router.md will choose")
    assert script(project, capsys, "route", "--no-router", "--router-prompt", "router")["prompt"] == "supervisor.md"
    refusal = script(project, capsys, "route", "--prompt-supervisor", "team/lead", code=2)
    assert "'team/lead.md'" in refusal["message"]
    assert project.call("stamp", "galph", "ok") == 0
    assert person(project, capsys, "route") == "ralph · iteration 1 · main.md: ralph's own prompt\n"


def test_a_prompt_that_the_allowlist_keeps_out_is_refused_before_a_turn(project: Project, capsys: Capture) -> None:
    words = ("run", "--agent", project.agent("touch ran"), "--router-allowlist", "main.md,reviewer.md")
    assert script(project, capsys, *words, code=2)["error"] == "route-unlisted"
    assert "supervisor.md" in person(project, capsys, *words, code=2)
    assert not (project.path / "ran").exists()


# --- deciding --------------------------------------------------------------------------------------------------------

# commands in order | iteration, expected actor, status after them | what the last commit says
DECISIONS = [
    ("stamp galph ok", "1 ralph waiting-ralph", "operator=stamp → next=ralph status=waiting-ralph"),
    ("stamp galph fail", "1 galph failed", "operator=stamp → next=galph status=failed"),
    ("stamp galph ok; stamp ralph ok", "2 galph complete", "[SYNC i=2] operator=stamp → next=galph status=complete"),
    ("stamp galph ok; stamp ralph fail", "1 ralph failed", "operator=stamp → next=ralph status=failed"),
    ("stamp galph fail; retry", "1 galph idle", "operator=retry"),
    ("stamp galph ok; stamp ralph fail; retry", "1 ralph waiting-ralph", "operator=retry"),
    ("stamp galph fail; skip", "1 ralph waiting-ralph", "operator=skip"),
    ("stamp galph ok; stamp ralph fail; skip", "2 galph complete", "operator=skip"),
]


@pytest.mark.parametrize(("commands", "after", "subject"), DECISIONS, ids=[row[0] for row in DECISIONS])
def test_a_decision_is_one_commit_and_leads_where_the_table_says(
    project: Project, capsys: Capture, commands: str, after: str, subject: str
) -> None:
    project.write("src/app.py", "a person's work\n")
    epoch = project.state().get("epoch", 0)
    *first, last = [command.split() for command in commands.split("; ")]
    for command in first:
        assert project.call(*command) == 0
    before = project.git("rev-parse", "HEAD")

    posted = script(project, capsys, *last)

    state = project.state()
    assert f"{state['iteration']} {state['expected_actor']} {state['status']}" == after
    assert posted["commit"] == project.git("rev-parse", "HEAD")
    assert project.git("rev-parse", "HEAD^") == before
    assert posted["subject"] == project.subjects()[-1]
    assert subject in posted["subject"]
    assert posted["next"] == f"next: {state['expected_actor']}, iteration {state['iteration']}"
    assert state["epoch"] == epoch + len(commands.split("; "))
    assert ("failure" in state and state["failure"] is not None) == (state["status"] == "failed")
    assert project.dirt() == " M src/app.py"


@pytest.mark.parametrize("commands", ["retry", "skip", "stamp ralph ok", "stamp galph fail; stamp galph ok"])
def test_a_decision_that_does_not_fit_is_refused_and_changes_nothing(
    project: Project, capsys: Capture, commands: str
) -> None:
    *first, last = [command.split() for command in commands.split("; ")]
    for command in first:
        assert project.call(*command) == 0
    before = project.git("rev-parse", "HEAD"), everything(project.path / "sync"), project.journal()

    refusal = script(project, capsys, *last, code=3)

    assert refusal["remedy"]
    assert (project.git("rev-parse", "HEAD"), everything(project.path / "sync"), project.journal()) == before


def test_a_failure_exits_4_now_and_later_with_the_same_words_until_a_person_decides(
    project: Project, capsys: Capture
) -> None:
    agent = project.agent("cat >/dev/null; echo ran >>../runs; echo boom >&2; echo half >>src/app.py; exit 3\n")

    now = person(project, capsys, "run", "--agent", agent, code=4)
    later = person(project, capsys, "--mode", "combined", "--agent", agent, code=4)
    quiet = person(project, capsys, "run", "-q", "--once", "--agent", agent, code=4)

    told = now[now.index("galph's turn of iteration 1 failed") :].replace(
        "stopped after 1 turn", "stopped after 0 turns"
    )
    for words in (
        "the agent agent ended with exit code 3",
        "the work tree is kept in refs/rescue/",
        "| boom",
        "log: ",
        "`orchestrator retry` runs it again",
        "[agent-failed, exit 4]",
    ):
        assert words in told
    assert later.endswith(told)
    assert quiet.endswith(told)
    assert (project.path.parent / "runs").read_text() == "ran\n"
    assert project.git("show", f"{project.rescued()[0]}:src/app.py").endswith("half")

    events = [json.loads(line) for line in scripted(project, capsys, "run", "--agent", agent, code=4)]
    assert (events[-1]["event"], events[-1]["exit_code"], events[-1]["code"]) == ("run-ended", 4, "agent-failed")


def test_a_turn_that_fails_under_once_exits_4(project: Project) -> None:
    """From cron nobody reads the screen: the exit code of the very run that failed must say so."""
    assert project.call("run", "--once", "-q", "--agent", project.agent("exit 3\n")) == 4


def test_the_exit_flag_ends_every_start_with_0_until_resume_clears_it(project: Project, capsys: Capture) -> None:
    exiting_run(project)
    agent = project.agent("cat >/dev/null; echo ran >>../runs\n")
    tip = project.git("rev-parse", "HEAD")

    told = person(project, capsys, "run", "--agent", agent)
    assert "the exit flag is set: all done  [exit-flag, exit 0]\n  `orchestrator resume` clears it" in told
    assert project.git("rev-parse", "HEAD") == tip

    cleared = script(project, capsys, "resume")
    assert cleared["was_paused"] is False
    assert cleared["posted"]["subject"] == project.subjects()[-1]
    assert script(project, capsys, "resume") == {"was_paused": False, "limit_passed": False, "posted": None}
    assert "nothing was paused and no exit flag is set" in person(project, capsys, "resume")
    assert project.call("run", "-q", "--once", "--agent", agent) == 0
    assert (project.path.parent / "runs").read_text() == "ran\n"


def test_a_pause_is_lifted_also_amid_a_turn_and_where_the_state_cannot_be_read(
    project: Project, capsys: Capture
) -> None:
    died = project.run("run", "--agent", project.agent(QUIET), env={failpoints.VARIABLE: "turn.before_spawn:KILL"})
    assert (died.returncode, project.journal()) == (-signal.SIGKILL, "running")
    assert project.call("pause") == 0
    assert person(project, capsys, "resume") == (
        "the pause is lifted\nthe exit flag was not looked at: galph's turn of iteration 1 is in progress here\n"
    )
    assert script(project, capsys, "resume", code=3)["error"] == "turn-open"
    assert project.call("run", "--once", "-q", "--agent", project.agent(QUIET)) == 0

    project.write("sync/state.json", "{")
    project.commit("broken")
    assert project.call("pause") == 0
    assert script(project, capsys, "resume") == {"was_paused": True, "limit_passed": False, "posted": None}
    assert script(project, capsys, "resume", code=3)["error"].startswith("state-")


# --- a running daemon ------------------------------------------------------------------------------------------------


def test_while_a_daemon_runs_status_shows_it_and_nobody_else_may_decide(
    project: Project, gate: Gate, start: Start, capsys: Capture
) -> None:
    daemon = start("run", "--once", "--agent", gate.agent)
    assert gate.turn() == "1/galph"
    pid = daemon.process.pid

    seen = script(project, capsys, "status")
    assert seen["daemon"]["pid"] == pid
    assert (seen["turn"]["actor"], seen["turn"]["step"], seen["turn"]["prompt"]) == (
        "galph",
        "running",
        "supervisor.md",
    )
    assert seen["unusual"] == []
    screen = person(project, capsys, "status")
    assert re.search(rf"^daemon  process {pid} \(\d+ s ago\)$", screen, re.MULTILINE)
    assert "turn    galph, iteration 1 (running) on main" in screen
    assert "next    ralph, when this turn has ended" in screen
    assert re.search(r"^now     galph supervisor.md: running, claimed \(\d+ s ago\)$", screen, re.MULTILINE)

    tip = project.git("rev-parse", "HEAD")
    for command in (["run"], ["retry"], ["skip"], ["stamp", "galph", "ok"], ["stamp", "galph", "fail"], ["init"]):
        options = ["--agent", gate.agent] if command == ["run"] else []
        refusal = script(project, capsys, *command, *options, code=7)
        assert (refusal["error"], refusal["exit_code"]) == ("clone-locked", 7)
        assert f"process {pid}, since " in refusal["message"]
    assert f"process {pid}" in person(project, capsys, "--agent", gate.agent, code=7)
    assert person(project, capsys, "run", "-q", "--agent", gate.agent, code=7) == ""
    assert project.git("rev-parse", "HEAD") == tip

    gate.let_go()
    assert daemon.end() == 0
    assert script(project, capsys, "status")["daemon"] is None


def test_pause_holds_between_turns_and_resume_is_noticed_at_once(
    project: Project, gate: Gate, start: Start, capsys: Capture
) -> None:
    daemon = start("run", "-n", "1", "--poll-interval", "1000000", "--agent", gate.agent)
    assert gate.turn() == "1/galph"
    assert script(project, capsys, "pause") == {"paused": True}
    gate.let_go()
    daemon.until("waiting: paused")
    assert script(project, capsys, "status")["unusual"] == ["paused; `orchestrator resume` lets it go on"]

    assert script(project, capsys, "resume") == {"was_paused": True, "limit_passed": False, "posted": None}

    assert gate.turn() == "1/ralph"
    gate.let_go()
    assert daemon.end() == 0
    assert "1 iteration is done" in daemon.text
    assert project.state()["iteration"] == 2


def test_stop_lets_the_turn_end_and_the_next_start_goes_on(
    project: Project, gate: Gate, start: Start, capsys: Capture
) -> None:
    daemon = start("run", "--agent", gate.agent)
    assert gate.turn() == "1/galph"

    assert script(project, capsys, "stop") == {"asked": True, "pid": daemon.process.pid}
    assert f"asked process {daemon.process.pid} to stop after its turn" in person(project, capsys, "stop")
    gate.let_go()

    assert daemon.end() == 0
    assert "`orchestrator stop` was given  [stop, exit 0]" in daemon.text
    assert (project.state()["expected_actor"], project.journal()) == ("ralph", "idle")
    assert script(project, capsys, "stop") == {"asked": False, "pid": None}
    assert "no daemon runs in this clone" in person(project, capsys, "stop", "--now")

    again = start("run", "--once", "--agent", gate.agent)
    assert gate.turn() == "1/ralph"
    gate.let_go()
    assert again.end() == 0


def test_stop_ends_a_paused_daemon_without_another_turn(
    project: Project, start: Start, gate: Gate, capsys: Capture
) -> None:
    assert project.call("pause") == 0
    daemon = start("run", "--poll-interval", "1000000", "--agent", gate.agent)
    daemon.until("waiting: paused")

    assert project.call("stop") == 0

    assert daemon.end() == 0
    assert "`orchestrator stop` was given  [stop, exit 0]" in daemon.text
    assert project.subjects()[-1] == SUBJECT
    assert script(project, capsys, "status")["unusual"] == ["paused; `orchestrator resume` lets it go on"]


def test_a_paused_clone_waits_no_longer_than_it_may(project: Project, capsys: Capture) -> None:
    agent = project.agent(QUIET)
    assert "paused between turns" in person(project, capsys, "pause")

    told = person(project, capsys, "run", "--max-wait-sec", "0.2", "--agent", agent, code=6)
    assert "paused for more than 0.2 s  [waited, exit 6]\n  `orchestrator resume`" in told
    assert "this clone is paused" in person(project, capsys, "run", "--once", "--agent", agent)
    assert project.subjects()[-1] == SUBJECT
    assert "the pause is lifted" in person(project, capsys, "resume")
    assert project.call("run", "--once", "-q", "--agent", agent) == 0


def test_an_interrupted_turn_is_run_again_however_often_and_is_no_failure(
    project: Project, gate: Gate, start: Start, capsys: Capture
) -> None:
    """More often than `limits.interrupted_reruns` allows for unclean deaths."""
    tip = project.git("rev-parse", "HEAD")
    ways: list[tuple[signal.Signals | None, int]] = [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (None, 143),
    ]
    for number, (way, code) in enumerate(ways):
        daemon = start("run", "--agent", gate.agent)
        said = gate.wait()
        assert said.rpartition(" ")[0] == ("again 1/galph" if number else "1/galph")
        if way:
            daemon.send(way)
        else:
            assert "to stop now" in person(project, capsys, "stop", "--now")

        assert daemon.end() == code
        assert f"exit {code}]" in daemon.text
        assert "the next start goes on where this one stood" in daemon.text
        assert "  0 turns  " in person(project, capsys, "logs", "--runs").splitlines()[-1]
        with pytest.raises(ProcessLookupError):
            os.kill(int(said.rpartition(" ")[2]), 0)
        assert (project.journal(), project.git("rev-parse", "HEAD")) == ("routed", tip)

    assert script(project, capsys, "status")["unusual"] == [
        "a turn is in progress and no daemon runs; the next start goes on with it"
    ]
    assert script(project, capsys, "retry", code=3)["error"] == "turn-open"
    assert script(project, capsys, "init", "--undo", code=3)["error"] == "turn-open"

    last = start("run", "--once", "--agent", gate.agent)
    assert gate.turn() == "again 1/galph"
    gate.let_go()
    assert last.end() == 0
    assert (project.state()["status"], project.journal()) == ("waiting-ralph", "idle")


def test_a_typo_in_the_configuration_disarms_nothing_that_a_running_daemon_is_asked_with(
    project: Project, gate: Gate, start: Start, capsys: Capture
) -> None:
    daemon = start("run", "--agent", gate.agent)
    gate.turn()
    project.write("orchestration.yaml", "limit: {iterations: 1}\n")
    typo = "warning: orchestration.yaml:1: unknown key `limit`; the daemon that runs keeps what it has read"

    assert typo in person(project, capsys, "status")
    assert "galph" in person(project, capsys, "logs")
    assert "unknown key `limit`" in person(project, capsys, "retry", code=2)
    assert script(project, capsys, "stop", "--everywhere", code=2)["error"] == "config-unknown-key"
    assert script(project, capsys, "pause") == {"paused": True}
    assert (project.path / ".git/orchestration/control/pause").exists()
    assert script(project, capsys, "stop", "--now") == {"asked": True, "pid": daemon.process.pid}

    assert daemon.end() == 143
    assert person(project, capsys, "pause", code=2).startswith("error: orchestration.yaml:1: unknown key `limit`")


def test_a_typo_hides_no_daemon_that_does_without_git(project: Project, gate: Gate, start: Start) -> None:
    project.write("orchestration.yaml", "sync: {git: false}\n")
    assert project.call("init") == 0
    daemon = start("run", "--agent", gate.agent)
    gate.turn()
    project.write("orchestration.yaml", "sink: {git: false}\n")

    assert project.call("pause") == 0
    assert (project.path / "sync/.orchestrator/control/pause").exists()
    assert project.call("stop", "--now") == 0

    assert daemon.end() == 143


def test_a_second_interrupt_kills_at_once(project: Project, gate: Gate, start: Start) -> None:
    """The agent answers TERM and stays; the ladder alone would wait eight seconds."""
    stubborn = Path(gate.agent).rename(project.path.parent / "stubborn")
    daemon = start("run", "--agent", str(stubborn))
    pid = int(gate.wait().rpartition(" ")[2])
    daemon.send(signal.SIGINT)
    assert gate.wait() == "TERM"
    assert "stopping the agent; a second Ctrl-C kills it at once" in daemon.until("[stopping]")
    second = monotonic()

    daemon.send(signal.SIGINT)

    assert daemon.end() == 130
    assert monotonic() - second < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert project.journal() == "routed"


def test_iterations_and_once_bound_a_run(project: Project, capsys: Capture) -> None:
    agent = project.agent(QUIET)

    assert "after 1 turn: one turn was asked for" in person(project, capsys, "run", "--once", "--agent", agent)
    assert (project.state()["iteration"], project.state()["expected_actor"]) == (1, "ralph")
    assert "1 iteration is done" in person(project, capsys, "run", "-n", "1", "--agent", agent)
    assert (project.state()["iteration"], project.state()["expected_actor"]) == (2, "galph")
    lines = scripted(project, capsys, "--mode", "combined", "--sync-loops", "2", "--agent", agent)
    assert [json.loads(line)["event"] for line in lines].count("turn-ended") == 4
    assert (project.state()["iteration"], project.state()["expected_actor"]) == (4, "galph")


# --- what must never happen, and is told all the same ------------------------------------------------------------


def test_a_bug_exits_70_with_one_line_and_keeps_the_traceback(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    @click.command()
    @click.option("--json", is_flag=True)
    def explode(json: bool) -> None:  # noqa: ARG001
        raise ZeroDivisionError(["no", "such", "luck"])

    monkeypatch.setattr("orchestration.cli.look.explode", explode, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "explode", "orchestration.cli.look")

    told = person(project, capsys, "explode", code=70)
    assert told.startswith("error: a bug: ZeroDivisionError: ['no', 'such', 'luck']\n  the traceback is in /")
    kept = Path(told.partition("traceback is in ")[2].split()[0])
    text = kept.read_text()
    assert text.startswith(f"orchestrator {__version__}, Python 3.")
    assert "in explode" in text
    assert script(project, capsys, "explode", code=70)["error"] == "bug"


def test_a_system_that_refuses_is_told_as_such(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("GALPH_FAILPOINT", "journal.before_write:ENOSPC")
    monkeypatch.setattr("orchestration.failpoints._armed", [])

    assert script(project, capsys, "stamp", "galph", "ok", code=3)["error"] == "system"

    monkeypatch.delenv("GALPH_FAILPOINT")
    monkeypatch.setattr("orchestration.failpoints._armed", [])
    assert project.state()["expected_actor"] == "galph"
    assert project.call("stamp", "galph", "ok") == 0


def test_a_reader_that_has_gone_away_or_a_closed_screen_costs_nothing(project: Project) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for redirection, stdout in (("", writing), (">&-", None), (">/dev/full", None)):
        line = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(DOOR), "status"]
        done = subprocess.run(line, cwd=project.path, stdout=stdout, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (0, b""), redirection
    os.close(writing)


# --- the built-in agent ----------------------------------------------------------------------------------------------


PLAN = """# Plan

- [x] T0: Lay the ground
  check: test -f README.md

- [ ] T1: Write one
  depends: T0
  ```sh
  echo one >one.txt
  - [ ] T9: not an item
  ```
  check: `grep -q one one.txt`

- [ ] T2: Write two
  depends: T0, T1
  ```
  echo two >two.txt
  ```
"""


def plan_of(*items: str) -> str:
    """Return a plan of one-line items with details after `|`."""
    return "# Plan\n\n" + "\n".join("- [ ] " + item.replace("|", "\n  ") for item in items) + "\n"


@pytest.fixture
def checklist(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Iterator[Callable[..., str]]:
    """Give a way to play one turn of the built-in agent as the daemon does; return what it said."""

    def play(actor: str, prompt: str = "", *, code: int = 0) -> str:
        monkeypatch.setenv("ORCH_ACTOR", actor)
        monkeypatch.setenv("ORCH_PROMPT", prompt)
        monkeypatch.setenv("ORCH_ITERATION", "4")
        return person(project, capsys, "checklist", code=code)

    old = signal.getsignal(signal.SIGTERM)
    yield play
    signal.signal(signal.SIGTERM, old)


def test_a_plan_is_read_with_its_ticks_dependencies_blocks_and_checks() -> None:
    tasks = parse(PLAN.replace("  - [ ] T9: not an item\n", "- [ ] T9: not an item\n"))

    assert [(task.id, task.title, task.done, task.depends, task.check) for task in tasks] == [
        ("T0", "Lay the ground", True, [], "test -f README.md"),
        ("T1", "Write one", False, ["T0"], "grep -q one one.txt"),
        ("T2", "Write two", False, ["T0", "T1"], None),
    ]
    assert tasks[1].script == ["echo one >one.txt", "- [ ] T9: not an item"]
    for wrong, words in {
        plan_of("A: x", "A: y"): "docs/fix_plan.md:3: A stands twice",
        plan_of("A: x|depends: B, C"): "docs/fix_plan.md:3: A depends on B, C, which is not in the plan",
    }.items():
        with pytest.raises(TaskError, match=re.escape(words)):
            parse(wrong)


def test_the_checklist_names_does_proves_ticks_and_commits_one_task_after_the_other(
    project: Project, checklist: Callable[..., str]
) -> None:
    project.write("docs/fix_plan.md", PLAN.replace("  - [ ] T9: not an item\n", ""))
    project.commit("a plan")

    assert checklist("galph").endswith("### Turn Summary\nAssigned T1: Write one.\n")
    assert "Do Now: T1 Write one\n" in (project.path / "input.md").read_text()
    assert "`grep -q one one.txt` passes" in (project.path / "input.md").read_text()
    assert checklist("ralph").endswith("### Turn Summary\nDid T1: Write one.\n")
    assert project.subjects()[-1] == "T1: Write one (tests: grep -q one one.txt)"
    assert checklist("ralph").endswith("T1 was done already.\n")
    assert "Assigned T2" in checklist("galph")
    assert "Did T2" in checklist("ralph")

    plan = (project.path / "docs" / "fix_plan.md").read_text()
    assert re.findall(r"^- \[(.)\] (\w+)", plan, re.MULTILINE) == [("x", "T0"), ("x", "T1"), ("x", "T2")]
    assert plan.endswith("## Attempts History\n\n- i=4 T1: done, proved by `grep -q one one.txt`\n- i=4 T2: done\n")
    assert "Nothing is left: all 3 tasks of docs/fix_plan.md are done." in checklist("galph")
    asked = json.loads((project.path / "sync" / "state.json").read_text())
    assert (asked["exit"], asked["exit_reason"]) == (True, "all 3 tasks of docs/fix_plan.md are done")
    assert project.subjects()[-2:] == ["T1: Write one (tests: grep -q one one.txt)", "T2: Write two"]

    (project.path / "one.txt").write_text("1\n")
    told = checklist("galph", "reviewer.md")
    assert "Review: 2 finished tasks checked; reopened: T1. Assigned T1: Write one." in told
    assert (project.path / "user_input.md").read_text() == "Review: 2 finished tasks checked; reopened: T1.\n"
    plan = (project.path / "docs" / "fix_plan.md").read_text()
    assert "- [ ] T1: Write one" in plan
    assert "T1: reopened by review, `grep -q one one.txt` fails" in plan
    assert "Do Now: T1" in (project.path / "input.md").read_text()


@pytest.mark.parametrize(
    ("plan", "do_now", "actor", "said"),
    [
        (plan_of("A: x|depends: B", "B: y|depends: A", "C: z|depends: C"), "", "galph", "A, B, C wait for each other"),
        (plan_of("A: x|depends: Z"), "", "galph", "A depends on Z, which is not in the plan"),
        (plan_of("A: x|```sh|false|touch never|```"), "A", "ralph", "the block of A failed with exit code 1"),
        (plan_of("A: x|```sh|touch done|```|check: exit 9"), "A", "ralph", "the check of A failed with exit code 9"),
        (plan_of("A: x"), "B", "ralph", "input.md names B, which is not in docs/fix_plan.md"),
        (plan_of("A: x"), None, "ralph", "input.md has no line `Do Now: TASK`"),
        (None, "A", "ralph", "docs/fix_plan.md is missing: this agent does what is written there"),
        (b"- [ ] A: caf\xe9\n", "A", "ralph", "can't decode byte 0xe9"),
    ],
    ids=["cycle", "unknown dependency", "block", "check", "not in the plan", "no input", "no plan", "not UTF-8"],
)
def test_a_plan_that_cannot_be_worked_off_fails_the_turn_with_its_reason(
    project: Project,
    checklist: Callable[..., str],
    plan: str | bytes | None,
    do_now: str | None,
    actor: str,
    said: str,
) -> None:
    if plan is not None:
        project.write("docs/fix_plan.md", plan)
    if do_now is not None:
        project.write("input.md", f"Do Now: {do_now} something\n")

    told = checklist(actor, code=1)

    assert told.startswith("checklist: ")
    assert said in told
    assert project.subjects()[-1] == SUBJECT
    assert not (project.path / "never").exists()
    if isinstance(plan, str):
        assert (project.path / "docs" / "fix_plan.md").read_text() == plan


def test_the_plan_that_a_project_without_one_is_shown_can_be_worked_off(
    project: Project, checklist: Callable[..., str]
) -> None:
    shown = checklist("galph", code=1).partition("\n")[2]
    project.write("docs/fix_plan.md", shown)
    project.commit("the plan that was shown")

    assert "Assigned T1: Say hello." in checklist("galph")
    assert "Did T1: Say hello." in checklist("ralph")
    assert (project.path / "hello.txt").read_text() == "hello\n"


def test_a_failing_block_fails_the_turn_and_leaves_the_work_for_retry(project: Project, capsys: Capture) -> None:
    project.write("docs/fix_plan.md", plan_of("A: Try|```sh|echo tried >>tried.txt|test -f allowed|```"))
    project.commit("a plan")

    told = person(project, capsys, "run", "--agent", "checklist", code=4)
    assert "ralph's turn of iteration 1 failed: the agent checklist ended with exit code 1" in told
    assert "| checklist: the block of A failed with exit code 1" in told
    assert project.dirt() == "?? tried.txt"

    project.write(".git/info/exclude", "allowed\n")
    project.write("allowed", "")
    assert project.call("retry") == 0
    assert project.call("run", "-q", "--agent", "checklist") == 0
    assert (project.path / "tried.txt").read_text() == "tried\ntried\n"
    assert "A: Try" in project.subjects()
    assert project.state()["exit_reason"] == "all 1 tasks of docs/fix_plan.md are done"


def test_the_checklist_answers_a_router_prompt_with_one_name(project: Project, checklist: Callable[..., str]) -> None:
    project.write("docs/fix_plan.md", plan_of("A: Nothing much"))
    project.write("orchestration.yaml", "router: {prompt: router.md}\nsupervisor_prompt: supervisor.md\n")
    project.commit("a plan, and a router prompt")

    assert checklist("galph", "router.md") == "supervisor.md\n"

    assert project.call("run", "--once", "-q", "--agent", "checklist") == 0
    assert project.state()["last_prompt"] == "supervisor.md"
    assert [event["prompt"] for event in project.events() if event["event"] == "turn-started"] == [
        "router.md",
        "supervisor.md",
    ]


# --- demo ------------------------------------------------------------------------------------------------------------


def test_the_demo_works_off_its_plan_and_shows_what_a_person_enjoys(tmp_path: Path, capsys: Capture) -> None:
    here = Project(tmp_path)
    (tmp_path / "galph-demo").mkdir()

    told = person(here, capsys, "demo")

    shelf = Project(tmp_path / "galph-demo-2")
    summary = told[told.rindex("\n\n") :]
    assert "tests     before: FAILED (failures=3) · after: OK" in told
    assert re.search(rf"^\d+ turns, {len(shelf.subjects())} commits$", told, re.MULTILINE)
    for line in (f"project   {shelf.path}", f"git -C {shelf.path} log", f"{shelf.path}/logs/main/latest/summary.md"):
        assert line in told
    assert "In your own repository:" in summary
    subjects = [subject for subject in shelf.subjects() if not subject.startswith(("[SYNC", "SUPERVISOR AUTO"))]
    assert subjects[:2] == ["A bookshelf with three failing tests and a plan", SUBJECT]
    assert [subject.partition(":")[0] for subject in subjects[2:]] == ["T1", "T2", "T3", "T4"]
    assert shelf.dirt() == ""
    state = shelf.state()
    assert (state["exit"], state["exit_reason"]) == (True, "all 4 tasks of docs/fix_plan.md are done")
    assert "- [ ]" not in (shelf.path / "docs" / "fix_plan.md").read_text()
    assert shelf.rescued() == []


def test_the_demo_of_two_machines_shows_both_sides_of_one_history(tmp_path: Path, capsys: Capture) -> None:
    told = person(Project(tmp_path), capsys, "demo", "--two-machines", "shelf")

    shared = Project(tmp_path / "shelf" / "remote.git")
    log = shared.git("log", "--reverse", "--format=%s", "main").splitlines()
    for actor in ("galph", "ralph"):
        assert f"{actor} │ {actor} · iteration 1" in told
        assert f"{actor} │ stopped after" in told
        claims = [f"[SYNC i={number}] actor={actor} status=running" for number in (1, 2, 3, 4)]
        assert [line for line in log if line in claims] == claims
    assert "9 turns" in told
    assert "after: OK" in told
    assert Project(tmp_path / "shelf" / "galph").git("rev-parse", "HEAD") == shared.git("rev-parse", "main")
    assert script(Project(tmp_path), capsys, "demo", "--two-machines", "shelf", code=2)["error"] == "demo-folder"


def test_ctrl_c_stops_both_machines_of_the_demo_as_it_stops_one(tmp_path: Path) -> None:
    daemon = Daemon(Project(tmp_path), "demo", "--two-machines", "shelf")
    try:
        daemon.until("galph │ branch main")
        daemon.until("ralph │ branch main")
        daemon.send(signal.SIGINT)
        assert daemon.end() == 130
    finally:
        daemon.process.kill()
        daemon.process.wait()
    assert "SIGTERM" not in daemon.text


def test_the_demo_for_a_script_is_events_and_one_result_and_says_when_the_tests_stay_red(
    tmp_path: Path, capsys: Capture
) -> None:
    here = Project(tmp_path)

    *events, last = scripted(here, capsys, "demo", "shelf", "-c", "limits.iterations=1", code=4)

    result = json.loads(last)
    assert result["folder"] == str(tmp_path / "shelf")
    assert (result["before"]["green"], result["after"]["green"]) == (False, False)
    assert (result["ended"]["code"], result["ended"]["turns"]) == ("iterations", 2)
    assert result["ended"]["at"].endswith("Z")
    assert result["commits"] == len(Project(tmp_path / "shelf").subjects())
    assert [json.loads(line)["event"] for line in events][-1] == "run-ended"
    assert script(here, capsys, "demo", "shelf", code=2)["error"] == "demo-folder"
