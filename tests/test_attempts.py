"""Attempts: an agent whose provider is slow, at its limit or out of reach is tried again inside its turn."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Capture, Project, person, script
from orchestration.attempts import Again, Tried, again, used
from orchestration.endings import Ending, Kind, Usage
from orchestration.journal import Attempts
from orchestration.settings import LimitSettings
from pair import Pair, pair, running, until

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
LIMITS = LimitSettings()
PASSING = [Kind.USAGE_LIMIT, Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK]
FINAL = sorted(set(Kind) - {*PASSING, Kind.OVERFLOW})


def after(
    kind: Kind,
    before: Attempts | None = None,
    *,
    fallback: str | None = None,
    luck: float = 0.0,
    **ending: Any,  # noqa: ANN401
) -> Again | None:
    tried = Tried(Ending(kind=kind, reason="because", **ending), "claude", fallback)
    return again(tried, before or Attempts(), LIMITS, NOW, luck)


# --- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FINAL)
def test_what_does_not_pass_by_itself_is_not_tried_again(kind: Kind) -> None:
    assert after(kind) is None


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_five_times_in_all_ever_later(kind: Kind) -> None:
    attempts, waits = Attempts(), list[float]()
    while following := after(kind, attempts):
        attempts = following.attempts
        waits.append((following.until - NOW).total_seconds())
    assert len(waits) == LIMITS.attempts - 1
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert attempts.made == attempts.counted == LIMITS.attempts - 1


def test_a_limit_is_slept_out_to_its_end_and_does_not_count() -> None:
    end = NOW + timedelta(hours=2)
    attempts = Attempts()
    for _ in range(20):
        following = after(Kind.USAGE_LIMIT, attempts, reset=end)
        assert following
        assert following.until == end
        attempts = following.attempts
    assert (attempts.made, attempts.counted) == (20, 0)


def test_a_limit_that_ends_in_days_is_looked_at_again_after_the_longest_sleep() -> None:
    following = after(Kind.USAGE_LIMIT, reset=NOW + timedelta(days=3), luck=1.0)
    assert following
    assert following.until == NOW + timedelta(seconds=LIMITS.max_limit_sleep)


def test_a_provider_that_is_out_of_reach_costs_no_attempt_for_as_long_as_may_be_waited() -> None:
    following = after(Kind.NETWORK, unreached=True)
    assert following
    assert following.attempts.counted == 0
    long_ago = Attempts(cut_off=(NOW - timedelta(hours=9)).isoformat(), counted=4, made=90)
    assert after(Kind.NETWORK, long_ago, unreached=True) is None
    reached = after(Kind.NETWORK, Attempts(cut_off=NOW.isoformat(), made=3))
    assert reached
    assert (reached.attempts.counted, reached.attempts.cut_off) == (1, None)


@pytest.mark.parametrize("kind", [Kind.USAGE_LIMIT, Kind.AUTH, Kind.QUOTA])
def test_another_agent_takes_over_where_one_is_named_and_begins_a_session_of_its_own(kind: Kind) -> None:
    following = after(kind, Attempts(session="s", told=Usage(cost_usd=1.0)), fallback="codex", session="s")
    assert following
    assert (following.until, following.attempts.agent) == (NOW, "codex")
    assert (following.attempts.session, following.attempts.told) == (None, None)


def test_a_session_that_is_of_no_use_any_more_is_left_once() -> None:
    first = after(Kind.OVERFLOW, session="s")
    assert first
    assert (first.attempts.session, first.attempts.fresh) == (None, True)
    assert after(Kind.OVERFLOW, first.attempts, session="t") is None
    lost = after(Kind.CONFIG, Attempts(session="s"))
    assert lost
    assert lost.attempts.session is None


@given(
    st.sampled_from(PASSING), st.integers(0, 60), st.integers(0, 4), st.floats(0, 1), st.none() | st.integers(-9, 10**6)
)
def test_no_pause_is_longer_than_may_be_waited(
    kind: Kind, made: int, counted: int, luck: float, reset: int | None
) -> None:
    end = None if reset is None else NOW + timedelta(seconds=reset)
    following = after(kind, Attempts(made=made, counted=counted), luck=luck, reset=end)
    if following:
        assert NOW <= following.until <= NOW + timedelta(seconds=LIMITS.max_limit_sleep)
        assert following.attempts.counted < LIMITS.attempts


def test_what_a_session_counts_through_is_counted_once() -> None:
    first = Ending(
        kind=Kind.SERVER, reason="", session="s", usage=Usage(cost_usd=0.5, input_tokens=10), cumulative=("cost_usd",)
    )
    following = again(Tried(first, "claude", None), Attempts(), LIMITS, NOW, 0.0)
    assert following
    second = Ending(
        kind=Kind.OK, reason="", session="s", usage=Usage(cost_usd=0.75, input_tokens=7), cumulative=("cost_usd",)
    )
    assert used(following.attempts, second) == Usage(cost_usd=0.75, input_tokens=17)
    other = Ending(
        kind=Kind.OK, reason="", session="t", usage=Usage(cost_usd=0.75, input_tokens=7), cumulative=("cost_usd",)
    )
    assert used(following.attempts, other) == Usage(cost_usd=1.25, input_tokens=17)
    assert used(following.attempts, Ending(kind=Kind.OK, reason="")) == Usage(cost_usd=0.5, input_tokens=10)


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
