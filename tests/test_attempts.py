"""Attempts: an agent whose provider is slow, at its limit or out of reach is tried again inside its turn."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Capture, Project, person, script
from pair import Pair, pair, running, until

# --- real runs -------------------------------------------------------------------------------------------------------

OK = """
echo '{"type":"thread.started","thread_id":"s-1"}'
echo '{"type":"item.completed","item":{"type":"agent_message","text":"### Turn Summary: done"}}'
echo '{"type":"turn.completed","usage":{"input_tokens":100,"output_tokens":10}}'
"""
LIMITED = """
echo '{"type":"thread.started","thread_id":"s-1"}'
echo '{"type":"turn.failed","error":{"message":"You hit your usage limit. Upgrade, or try again in %s."}}'
exit 1
"""
SLOW = """
echo '{"type":"turn.failed","error":{"message":"exceeded retry limit, last status: 429 Too Many Requests"}}'
exit 1
"""


def speaking(project: Project, script: str, name: str = "mine") -> list[str]:
    """Return the options of an agent that speaks as codex does, and notes each of its starts."""
    ledger = project.path.parent / "ledger"
    path = project.agent(f'cat >/dev/null\necho "$ORCH_TURN {name} $*" >>{ledger}\n{script}', name)
    return ["--agent", name, "-c", f"agents.{name}.command=[{path}]", "-c", f"agents.{name}.preset=codex"]


def starts(project: Project) -> list[str]:
    """Return what the agents have noted."""
    ledger = project.path.parent / "ledger"
    return ledger.read_text().splitlines() if ledger.exists() else []


def first(times: int, script: str) -> str:
    """Return an agent that does `script` so many times, and then succeeds."""
    return f'[ "$(wc -l <"$(dirname "$0")/ledger")" -gt {times} ] || {{ {script}\n}}\n{OK}'


def test_an_agent_at_its_limit_is_run_again_when_that_ends(project: Project, capsys: Capture) -> None:
    options = speaking(project, first(1, LIMITED % "1 second"))
    told = person(project, capsys, "run", "--once", *options)
    assert "usage limit" in told
    assert "the next attempt begins at" in told
    assert len(starts(project)) == 2
    assert project.state()["status"] == "waiting-ralph"
    (record,) = project.path.glob("logs/*/*Z/iter-00001_galph_supervisor.json")
    written = json.loads(record.read_text())
    assert (written["attempts"], written["outcome"], written["session"]) == (2, "ok", "s-1")
    assert written["usage"]["input_tokens"] == 100
    assert record.with_suffix(".md").read_text() == "### Turn Summary: done\n"


def test_attempts_run_out_and_the_turn_fails_with_what_the_agent_said(project: Project) -> None:
    options = speaking(project, SLOW)
    assert project.call("run", "--once", *options, "-c", "limits.attempts=1") == 4
    failure = project.state()["failure"]
    assert failure["code"] == "agent-rate-limit"
    assert "429" in failure["reason"]
    assert len(starts(project)) == 1


def test_whoever_is_named_takes_the_turn_over(project: Project) -> None:
    other = speaking(project, OK, "other")[2:]
    options = speaking(project, LIMITED % "5 hours")
    assert project.call("run", "--once", *options, *other, "-c", "agents.mine.fallback=other") == 0
    assert [line.split()[1] for line in starts(project)] == ["mine", "other"]


def held(project: Project, *args: str) -> "subprocess.Popen[str]":
    """Start a daemon, and wait until its agent's limit is slept out."""
    daemon = project.start("run", *args)
    until(lambda: project.journal() == "held")
    return daemon


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda daemon, _: daemon.send_signal(signal.SIGTERM), 143),
        (lambda daemon, _: daemon.send_signal(signal.SIGINT), 130),
        (lambda _, project: project.call("stop"), 0),
        (lambda daemon, _: daemon.kill(), -9),
    ],
    ids=["TERM", "INT", "stop", "KILL"],
)
def test_a_sleep_ends_with_its_daemon_and_goes_on_with_the_next(
    project: Project, capsys: Capture, end: Callable[["subprocess.Popen[str]", Project], object], code: int
) -> None:
    options = speaking(project, first(1, LIMITED % "3 hours 5 minutes"))
    daemon = held(project, *options)
    with running(daemon):
        seen = script(project, capsys, "status")["turn"]
        assert seen["step"] == "held"
        assert "usage limit" in seen["waits_for"]
        assert "the next attempt begins in 3 h" in person(project, capsys, "status")
        end(daemon, project)
        daemon.wait(timeout=30)
    assert daemon.returncode == code

    again = held(project, *options)
    with running(again):
        time.sleep(0.3)
        again.terminate()
        again.wait(timeout=30)
    assert len(starts(project)) == 1

    journal = project.path / ".git/orchestration/journal.json"
    past = journal.read_text().replace(seen["waits_until"], "2020-01-01T00:00:00Z")
    journal.write_text(past)
    assert project.call("run", "--once", *options) == 0
    assert [line.split()[0] for line in starts(project)] == ["1/galph"] * 2
    assert project.state()["status"] == "waiting-ralph"


def test_what_a_person_changes_during_a_sleep_stays_theirs(project: Project) -> None:
    options = speaking(project, first(1, f"echo half >half.txt; {LIMITED % '3 hours'}"))
    daemon = held(project, *options)
    with running(daemon):
        daemon.terminate()
        daemon.wait(timeout=30)
    project.write("notes.txt", "mine\n")
    journal = project.path / ".git/orchestration/journal.json"
    until_ = json.loads(journal.read_text())["entry"]["until"]
    journal.write_text(journal.read_text().replace(until_, "2020-01-01T00:00:00Z"))
    assert project.call("run", "--once", *options, "-c", "actors.galph.leftovers=commit") == 0
    assert "notes.txt" in project.dirt()
    assert project.git("show", "HEAD:half.txt") == "half"


def test_a_turn_that_is_taken_over_during_a_sleep_is_not_run_again(tmp_path: Path) -> None:
    two: Pair = pair(tmp_path)
    options = [word for word in speaking(two.galph, LIMITED % "3 hours 5 minutes") if word]
    daemon = two.galph.start("--role", "galph", *options, "-c", "sync.heartbeat=0.2")
    with running(daemon):
        until(lambda: two.galph.journal() == "held")
        lease = "refs/orchestration/main/lease/galph"
        until(lambda: two.hub.git("for-each-ref", lease))
        beat = two.hub.git("rev-parse", lease)
        until(lambda: two.hub.git("rev-parse", lease) != beat)  # it goes on showing life
        taken = two.person().run("takeover", "--nonce", two.state()["nonce"])
        assert taken.returncode == 0, taken.stderr
        daemon.wait(timeout=30)
    assert daemon.returncode == 8
    assert len(starts(two.galph)) == 1
    two.check()


# --- how a run is ended ----------------------------------------------------------------------------------------------


def test_an_agent_that_has_said_all_and_does_not_exit_is_ended_and_has_succeeded(project: Project) -> None:
    options = speaking(project, f"{OK}\nexec sleep 30000")
    daemon = project.start("run", "--once", *options, "-c", "agents.mine.exit_grace=0.5")
    with running(daemon):
        out, _ = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, out
    assert project.state()["status"] == "waiting-ralph"


def test_noise_is_no_progress(project: Project) -> None:
    noise = """echo '{"type":"error","message":"Reconnecting... 1/5"}'; sleep 0.1;"""
    options = speaking(project, f"while :; do {noise} done")
    assert project.call("run", "--once", *options, "-c", "agents.mine.idle_timeout=1", "-c", "limits.attempts=1") == 4
    assert "made no progress for 1 s" in project.state()["failure"]["reason"]


def test_progress_keeps_an_agent_alive(project: Project) -> None:
    step = """echo '{"type":"item.completed","item":{"type":"reasoning"}}'; sleep 0.2"""
    options = speaking(project, f"for i in 1 2 3 4 5 6 7 8; do {step}; done\n{OK}")
    assert project.call("run", "--once", *options, "-c", "agents.mine.idle_timeout=1") == 0


def test_a_router_prompt_of_a_preset_chooses_by_its_final_text_and_is_tried_again(project: Project) -> None:
    says = OK.replace("### Turn Summary: done", "supervisor.md")
    options = speaking(project, first(1, LIMITED % "1 second").replace(OK, says))
    assert project.call("run", "--once", *options, "--router-prompt", "router.md") == 0
    assert len(starts(project)) == 3
    (record,) = project.path.glob("logs/*/*Z/iter-00001_galph_supervisor.json")
    assert json.loads(record.read_text())["usage"]["input_tokens"] == 200
