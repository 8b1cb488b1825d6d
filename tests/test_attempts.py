"""Attempts inside a turn: which failures pass, for how long they are waited out, by whom, and what it costs."""

import json
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cast import TOO_FAST, WORKS, Cast, Hours, claude, codex_ok, limited
from conftest import Capture, Project, person, script
from orchestration import failpoints, runner
from orchestration.attempts import Again, Tried, after, again
from orchestration.clock import iso
from orchestration.endings import Ending, Kind, Usage
from orchestration.journal import Attempts
from orchestration.settings import LimitSettings
from pair import events, pair, running, until
from test_remote_bus import take_over
from test_waiting import BEATS, LEASE, counted_beats

NOW = datetime(2026, 1, 20, 3, 29, 29, tzinfo=UTC)
PASSES = [Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK, Kind.USAGE_LIMIT]
STANDS = sorted(set(Kind) - {*PASSES, Kind.OK, Kind.OVERFLOW})
LIMITS = LimitSettings()


def failed(kind: Kind, **facts: Any) -> Tried:  # noqa: ANN401 - any field of an ending
    """Return an attempt of the agent `one` that failed."""
    return Tried(Ending(kind=kind, reason="it says so", **facts), "one", None)


# --- the policy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (Kind.RATE_LIMIT, [60, 120, 240, 480]),
        (Kind.SERVER, [30, 60, 120, 240]),
        (Kind.NETWORK, [15, 30, 60, 120]),
        (Kind.USAGE_LIMIT, [900, 1800, 3600, 3600]),
    ],
)
def test_what_passes_is_tried_again_ever_later_and_five_times_in_all(kind: Kind, seconds: list[float]) -> None:
    before, pauses = Attempts(), list[float]()
    while following := again(failed(kind), before, LIMITS, NOW, 0.0):
        pauses.append((following.until - NOW).total_seconds())
        before = following.attempts
    assert pauses == seconds
    assert (before.made, before.counted) == (4, 4)


@pytest.mark.parametrize("kind", STANDS)
def test_what_does_not_pass_by_itself_is_not_tried_again(kind: Kind) -> None:
    assert again(failed(kind), Attempts(), LIMITS, NOW, 0.5) is None


@given(
    kinds=st.lists(st.sampled_from(PASSES), min_size=1, max_size=40),
    attempts=st.integers(1, 9),
    longest=st.integers(1, 100_000),
    luck=st.floats(0, 1),
    resets=st.lists(st.none() | st.integers(1, 1_000_000), min_size=40, max_size=40),
)
@settings(deadline=None)
def test_attempts_are_bounded_and_no_pause_is_longer_than_a_limit_is_slept_out(
    kinds: list[Kind], attempts: int, longest: int, luck: float, resets: list[int | None]
) -> None:
    limits = LimitSettings(attempts=attempts, max_limit_sleep=longest)
    before, now, counted = Attempts(), NOW, 0
    for kind, left in zip(kinds, resets, strict=False):
        limited = kind in {Kind.USAGE_LIMIT, Kind.RATE_LIMIT}
        reset = now + timedelta(seconds=left) if limited and left is not None else None
        following = again(failed(kind, reset=reset), before, limits, now, luck)
        counted += not (kind is Kind.USAGE_LIMIT and left and min(left + 60 * luck, longest) > 300)
        assert (following is None) == (counted >= attempts)
        if following is None:
            return
        pause = (following.until - now).total_seconds()
        assert 0 <= pause <= longest
        assert reset is None or following.until >= min(reset, now + timedelta(seconds=longest))
        assert reset is None or following.until <= reset + timedelta(seconds=60)
        assert following.attempts.counted == counted
        before, now = following.attempts, following.until


def test_a_usage_limit_that_always_ends_in_a_moment_counts() -> None:
    before, made = Attempts(), 1
    while following := again(failed(Kind.USAGE_LIMIT, reset=NOW + timedelta(seconds=1)), before, LIMITS, NOW, 0.5):
        before, made = following.attempts, made + 1
    assert made == LIMITS.attempts


def test_who_is_cut_off_from_its_provider_loses_no_attempt_for_as_long_as_a_limit_is_slept_out() -> None:
    before, now, made = Attempts(), NOW, 0
    while following := again(failed(Kind.NETWORK, unreached=True), before, LIMITS, now, 1.0):
        assert following.attempts.counted == 0 or now - NOW >= timedelta(seconds=LIMITS.max_limit_sleep)
        before, now, made = following.attempts, following.until, made + 1
    assert timedelta(hours=8) <= now - NOW <= timedelta(hours=8, minutes=40)
    assert before.counted == LIMITS.attempts - 1
    assert made == before.made


def test_whoever_was_reached_once_is_cut_off_anew() -> None:
    cut = Attempts(cut_off=iso(NOW - timedelta(hours=9)))
    reached = again(failed(Kind.SERVER), cut, LIMITS, NOW, 0.0)
    assert reached
    assert reached.attempts.cut_off is None
    later = again(failed(Kind.NETWORK, unreached=True), reached.attempts, LIMITS, NOW, 0.0)
    assert later
    assert (later.attempts.cut_off, later.attempts.counted) == (iso(NOW), 1)


@pytest.mark.parametrize("kind", [Kind.USAGE_LIMIT, Kind.AUTH, Kind.QUOTA])
def test_a_turn_is_taken_over_at_once_and_once(kind: Kind) -> None:
    ending = Ending(kind=kind, reason="no more", session="s", usage=Usage(input_tokens=5))
    first = again(Tried(ending, "one", "two"), Attempts(session="s"), LIMITS, NOW, 0.5)
    taken = Attempts(made=1, agent="two", used=Usage(input_tokens=5))
    assert first == Again(taken, NOW, "one: no more; two takes over")

    second = again(Tried(ending, "two", "one"), taken, LIMITS, NOW, 0.5)
    assert (second is None) == (kind is not Kind.USAGE_LIMIT)
    assert second is None or second.attempts.agent == "two"


@pytest.mark.parametrize("kind", [Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK, Kind.CONFIG, Kind.IDLE])
def test_what_is_no_limit_and_no_login_is_not_taken_over(kind: Kind) -> None:
    following = again(Tried(Ending(kind=kind, reason="no"), "one", "two"), Attempts(), LIMITS, NOW, 0.5)
    assert following is None or following.attempts.agent is None


@pytest.mark.parametrize("kind", [Kind.OVERFLOW, Kind.CONFIG])
def test_a_session_that_is_of_no_use_is_left_for_a_new_one_once(kind: Kind) -> None:
    before = Attempts(session="old", told=Usage(cost_usd=1.0), made=1, counted=1)
    first = again(failed(kind), before, LIMITS, NOW, 0.5)
    assert first
    assert first[:2] == (Attempts(made=2, counted=1, fresh=True), NOW)
    assert again(failed(kind, session="new"), first.attempts, LIMITS, NOW, 0.5) is None


# --- what it has used ------------------------------------------------------------------------------------------------


def spent(*runs: tuple[str | None, Usage | None]) -> Usage | None:
    """Return what runs of one turn used, each of a session and with its own count, whose cost is cumulative."""
    before = Attempts()
    for session, usage in runs:
        ending = Ending(kind=Kind.SERVER, reason="", session=session, usage=usage, cumulative=("cost_usd",))
        before = after(before, ending)
    return before.used


def told(cost: float, tokens: int) -> Usage:
    """Return a session's own count: its cost up to now, the tokens of its last run."""
    return Usage(cost_usd=cost, input_tokens=tokens)


def test_what_a_session_counts_through_is_counted_once() -> None:
    assert spent(("a", told(1, 10)), ("a", told(3, 10))) == told(3, 20)
    assert spent(("a", told(1, 10)), ("b", told(3, 10))) == told(4, 20)
    assert spent(("a", told(1, 10)), ("a", None), ("a", told(3, 10))) == told(3, 20)
    assert spent(("a", told(1, 10)), (None, None), ("a", told(3, 10))) == told(3, 20)
    assert spent((None, None), ("a", None)) is None


def test_tokens_whose_cost_nobody_told_stay_so_beside_those_that_have_one() -> None:
    free, unknown = Usage(cost_usd=0.0, input_tokens=5), Usage(input_tokens=60)
    for runs in ([("a", free), ("b", unknown)], [("b", unknown), ("a", free)]):
        used = spent(*runs, ("b", unknown))
        assert used == Usage(cost_usd=0.0, input_tokens=125, unpriced=120)
        assert used.without_cost == 120


def test_the_count_of_one_session_is_not_taken_for_anothers() -> None:
    assert spent(("a", told(2, 10)), ("b", None), ("b", told(3, 10))) == told(5, 20)


def test_a_session_that_counts_anew_is_believed() -> None:
    assert spent(("a", told(2, 10)), ("a", told(1, 10))) == told(3, 20)


# --- the loop --------------------------------------------------------------------------------------------------------


SOON = ("-c", "limits.max_limit_sleep=0.1")
"""So that no pause is worth a wait."""


@pytest.fixture
def cast(project: Project) -> Cast:
    """Give the agents of a project."""
    return Cast(project)


def said(cast: Cast, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind of the newest run."""
    return [event for event in cast.project.events() if event["event"] == kind]


def test_a_turn_whose_provider_is_slow_is_tried_again_on_its_tree_and_hands_off_once(cast: Cast) -> None:
    halfway = f"echo half >half.txt\n{TOO_FAST}"
    agent = cast.agent(halfway, TOO_FAST, f"[ -e half.txt ] && {WORKS}; rm half.txt\n{codex_ok('All is done.')}")
    assert cast.project.call("run", "--once", "--agent", agent, *SOON) == 0

    assert len(cast.ran()) == 3
    assert "interrupted" in cast.prompt()
    attempts = [(event["kind"], event["agent"], event["attempt"]) for event in said(cast, "attempt-ended")]
    assert attempts == [("rate_limit", "fake", 1), ("rate_limit", "fake", 2)]
    (ended,) = said(cast, "turn-ended")
    assert (ended["ok"], ended["attempts"], ended["tokens"]) == (True, 3, 110)
    record = cast.record()
    assert (record["attempts"], record["outcome"], record["usage"]["input_tokens"]) == (3, "ok", 100)
    assert [subject for subject in cast.project.subjects() if subject.startswith("[SYNC")] == [ended_subject(cast)]
    assert cast.project.dirt() == ""


def ended_subject(cast: Cast) -> str:
    """Return the newest subject, which is a hand-off's."""
    return cast.project.subjects()[-1]


def test_half_a_character_in_what_an_agent_says_costs_no_turn(cast: Cast) -> None:
    slow = claude("s-1", 0.5, is_error=True, api_error_status=429, result="slow \ud83d")
    done = claude("s-1", 0.75, result="Done \ud83d")
    agent = cast.agent(slow, f"{WORKS}\n{done}", preset="claude")
    ran = cast.project.run("run", "--once", "--agent", agent, *SOON)
    assert (ran.returncode, len(cast.ran())) == (0, 2), ran.stdout + ran.stderr
    assert "Done ?" in ran.stdout
    assert "slow ?" in said(cast, "attempt-ended")[0]["why"]


def test_a_provider_that_stays_slow_fails_the_turn_after_its_attempts(cast: Cast) -> None:
    agent = cast.agent(TOO_FAST)
    assert cast.project.call("run", "--agent", agent, *SOON, "-c", "limits.attempts=3") == 4
    assert len(cast.ran()) == 3
    failure = cast.project.state()["failure"]
    assert (failure["code"], "429 Too Many Requests" in failure["reason"]) == ("agent-rate-limit", True)
    assert said(cast, "turn-ended")[0]["attempts"] == 3


def test_the_next_attempt_goes_on_with_the_session_and_its_cost_is_counted_once(cast: Cast) -> None:
    slow = claude("s-1", 0.5, is_error=True, api_error_status=429, result="slow down")
    agent = cast.agent(slow, claude("s-1", 0.75), preset="claude")
    assert cast.project.call("run", "--once", "--agent", agent, *SOON) == 0
    assert ["--resume s-1" in line for line in cast.ran()] == [False, True]
    used = cast.record()["usage"]
    assert (used["cost_usd"], used["input_tokens"]) == (0.75, 200)
    assert cast.counters()["today"]["cost_usd"] == 0.75


def test_a_session_that_cannot_be_gone_on_with_is_left_for_a_new_one(cast: Cast) -> None:
    slow = claude("s-1", 0.5, is_error=True, api_error_status=529, result="overloaded")
    gone = "echo 'No conversation found with session ID: s-1' >&2; exit 1"
    agent = cast.agent(slow, gone, claude("s-2", 0.25), preset="claude")
    assert cast.project.call("run", "--once", "--agent", agent, *SOON) == 0
    assert ["--resume" in line for line in cast.ran()] == [False, True, False]
    assert cast.record()["usage"]["cost_usd"] == 0.75


def test_a_fallback_takes_the_turn_over_and_is_named_in_its_record(cast: Cast) -> None:
    agent = cast.agent(limited("in 5 hours"), fallback="other")
    cast.agent(f"{WORKS}\n{codex_ok()}", name="other", fallback="fake")
    assert cast.project.call("run", "--once", "--agent", agent) == 0
    assert (len(cast.ran()), len(cast.ran("other"))) == (1, 1)
    record = cast.record()
    assert (record["agent"], record["attempts"]) == ("other", 2)


def test_a_fallback_that_cannot_be_started_is_found_before_the_first_turn(cast: Cast, capsys: Capture) -> None:
    agent = cast.agent(codex_ok(), fallback="./nowhere")
    assert script(cast.project, capsys, "run", "--agent", agent, code=2)["error"] == "agent-not-found"
    assert cast.ran() == []


# --- a long sleep ----------------------------------------------------------------------------------------------------


def asleep(cast: Cast) -> bool:
    """Tell whether a turn waits for its agent's next attempt."""
    return cast.project.journal() == "held"


def later(cast: Cast, monkeypatch: pytest.MonkeyPatch, *args: str, ahead: float) -> int:
    """Run one turn on a clock that is ahead; return the exit code."""
    clock = Hours(ahead)
    monkeypatch.setattr("orchestration.cli.run.SystemClock", lambda: clock)
    return cast.project.call("run", "--once", "--agent", "fake", *args)


def test_a_usage_limit_is_slept_out_to_its_end_and_does_not_count(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOK", 0.001)
    cast.agent(limited("in 7 hours"), limited("in 7 hours"), codex_ok())
    assert later(cast, monkeypatch, "-c", "limits.attempts=1", ahead=0) == 0

    ends = [datetime.fromisoformat(event["at"]) for event in said(cast, "attempt-ended")]
    begins = [datetime.fromisoformat(event["at"]) for event in said(cast, "turn-started")]
    slept = [after - before for before, after in zip(ends, begins[1:], strict=True)]
    assert all(timedelta(hours=7) <= pause <= timedelta(hours=7.5) for pause in slept), slept
    assert said(cast, "turn-ended")[0]["attempts"] == 3


def test_a_limit_that_ends_in_days_is_slept_out_no_longer_than_is_allowed(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LOOK", 0.001)
    cast.agent(limited("in 6 days"), codex_ok())
    assert later(cast, monkeypatch, "-c", "limits.max_limit_sleep=7200", ahead=0) == 0
    (held,) = said(cast, "attempt-ended")
    assert datetime.fromisoformat(held["until"]) - datetime.fromisoformat(held["at"]) <= timedelta(hours=2)


def test_a_sleep_is_the_clocks_and_no_shorter(cast: Cast) -> None:
    cast.agent(limited("in 2 seconds"), f"date +%s >$ORCH_REPORT_DIR/began\n{codex_ok()}")
    assert cast.project.call("run", "--once", "--agent", "fake", "-c", "limits.max_limit_sleep=2") == 0
    (held,) = said(cast, "attempt-ended")
    began = datetime.fromtimestamp(int((cast.project.path / "logs/main/latest/began").read_text()), UTC)
    assert began >= datetime.fromisoformat(held["until"])


def test_a_sleep_outlives_its_daemon_and_no_agent_runs_before_its_end(
    cast: Cast, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = cast.agent(limited("in 5 hours"), f"{WORKS}\n{codex_ok()}")
    command = ("run", "--once", "--agent", agent)
    daemon = cast.project.start(*command)
    with running(daemon):
        until(lambda: asleep(cast))
        held = cast.entry()
        daemon.kill()
        daemon.wait()
    assert timedelta(hours=4) < datetime.fromisoformat(held["until"]) - datetime.now(UTC) < timedelta(hours=5.1)
    shown = person(cast.project, capsys, "status")
    assert re.search(rf"the next attempt begins in [45] h \({held['until']}\)", shown)
    assert "its usage limit is reached" in shown
    now = script(cast.project, capsys, "status")["turn"]
    assert (now["step"], now["waits_until"]) == ("held", held["until"])

    for ends, code in ((["stop"], 0), (["stop", "--now"], 143), ([], 128 + signal.SIGTERM)):
        daemon = cast.project.start(*command, "--json")
        with running(daemon):
            until_waits(daemon)
            if ends:
                assert cast.project.run(*ends).returncode == 0
            else:
                daemon.send_signal(signal.SIGTERM)
            ended = events(daemon)[-1]
        assert (daemon.returncode, ended["turns"]) == (code, 0)
        assert cast.entry() == held
    assert len(cast.ran()) == 1

    assert later(cast, monkeypatch, ahead=6 * 3600) == 0
    assert len(cast.ran()) == 2
    assert cast.record()["attempts"] == 2


def test_an_end_that_was_noted_by_a_clock_that_was_ahead_is_not_slept_out_for_years(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LOOK", 0.001)
    stop = ": >.git/orchestration/control/stop"
    cast.agent(f"{stop}\n{limited('in 5 hours')}", codex_ok())
    assert cast.project.call("run", "--once", "--agent", "fake") == 0
    file = cast.project.path / ".git/orchestration/journal.json"
    file.write_text(file.read_text().replace(cast.entry()["until"], "2126-01-01T00:00:00Z"))

    assert later(cast, monkeypatch, ahead=0) == 0
    (waits,) = said(cast, "waiting")
    until = datetime.fromisoformat(waits["why"].rpartition(" ")[2])
    assert timedelta(hours=7) < until - datetime.fromisoformat(waits["at"]) <= timedelta(hours=8, minutes=1)


def until_waits(daemon: subprocess.Popen[str]) -> None:
    """Read what a daemon prints until it waits."""
    assert daemon.stdout
    assert any(json.loads(line)["event"] == "waiting" for line in daemon.stdout)


def test_what_a_person_changes_during_a_sleep_stays_theirs(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = cast.agent(f"echo agent >>src/app.py\n{limited('in 5 hours')}", f"{WORKS}\n{codex_ok()}")
    assert cast.project.call("stamp", "galph", "ok", "--json") == 0
    daemon = cast.project.start("run", "--once", "--agent", agent)
    with running(daemon):
        until(lambda: asleep(cast))
        cast.project.write("mine.txt", "a person's\n")
        daemon.terminate()
        daemon.wait()

    assert later(cast, monkeypatch, ahead=6 * 3600) == 0

    assert cast.project.dirt() == "?? mine.txt"
    assert cast.project.git("show", "HEAD:src/app.py").endswith("agent")
    assert "mine.txt" not in cast.project.git("ls-tree", "-r", "--name-only", "HEAD")


# --- the router prompt -----------------------------------------------------------------------------------------------


ROUTER = ("--router-prompt", "router.md")


def test_a_router_prompts_final_text_decides_and_its_attempts_are_the_turns(cast: Cast) -> None:
    agent = cast.agent(TOO_FAST, f"touch of-the-router\n{codex_ok('reviewer.md', 1000)}", codex_ok())
    options = (*ROUTER, *SOON, "-c", "limits.attempts=2", "-c", "actors.galph.leftovers=keep")
    assert cast.project.call("run", "--once", "--agent", agent, *options) == 0

    assert cast.ran() == ["router.md -", "router.md -", "reviewer.md -"]
    assert "interrupted" not in cast.prompt()
    assert said(cast, "turn-ended")[0]["tokens"] == 1120
    assert cast.counters()["turn"]["tokens"] == 1120


def test_a_router_prompt_that_stays_slow_fails_the_turn(cast: Cast) -> None:
    agent = cast.agent(TOO_FAST)
    options = (*ROUTER, *SOON, "-c", "limits.attempts=2")
    assert cast.project.call("run", "--once", "--agent", agent, *options) == 4
    assert cast.ran() == ["router.md -"] * 2
    assert cast.project.state()["failure"]["code"] == "agent-rate-limit"


def test_a_stop_while_the_router_prompt_sleeps_loses_neither_it_nor_its_use(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = ": >.git/orchestration/control/stop"
    agent = cast.agent(f"{stop}\n{limited('in 5 hours')}", codex_ok("reviewer.md", 1000), codex_ok())
    assert cast.project.call("run", "--once", "--agent", agent, *ROUTER) == 0
    assert (cast.entry()["type"], cast.entry()["decision"], len(cast.ran())) == ("held", None, 1)
    assert later(cast, monkeypatch, *ROUTER, ahead=6 * 3600) == 0
    assert cast.ran() == ["router.md -", "router.md -", "reviewer.md -"]


# --- the hand-off ----------------------------------------------------------------------------------------------------


def test_a_turn_that_sleeps_shows_life_and_is_left_when_it_is_taken(tmp_path: Path) -> None:
    two = pair(tmp_path)
    cast = Cast(two.galph)
    agent = cast.agent(limited("in 5 hours"), codex_ok())
    two.galph.git("push", "--quiet")
    note = Path(counted_beats(two))
    daemon = two.start("galph", "--once", "--json", *BEATS, agent=agent)
    with running(daemon):
        until(lambda: asleep(cast))
        before = len(note.read_text().splitlines())
        until(lambda: len(note.read_text().splitlines()) > before + 2)
        assert two.hub.git("log", "-1", "--format=%B", LEASE).split()[1] == two.stamps()[0].nonce
        take_over(two)
        ended = events(daemon)[-1]
    assert (ended["exit_code"], ended["code"]) == (8, "fenced")
    assert (len(cast.ran()), two.galph.journal()) == (1, "idle")
    two.check()


def test_a_turn_that_was_taken_while_its_machine_slept_is_left_before_an_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pair(tmp_path)
    cast = Cast(two.galph)
    agent = cast.agent(f"(cd {two.person().path}; git pull -q)\n{limited('in 5 hours')}", codex_ok())
    two.galph.git("push", "--quiet")
    hit = failpoints.hit

    def taken(name: str) -> None:
        hit(name)
        if name == "journal.after_write" and asleep(cast):
            take_over(two)

    monkeypatch.setattr(failpoints, "hit", taken)
    monkeypatch.setattr(runner, "_LOOK", 0.001)
    clock = Hours()
    monkeypatch.setattr("orchestration.cli.run.SystemClock", lambda: clock)
    code = two.galph.call("--role", "galph", "--once", "--json", "--agent", agent)
    assert (code, len(cast.ran())) == (8, 1)
    two.check()


def test_an_agent_that_has_told_how_it_went_is_not_run_again_for_a_stop(cast: Cast) -> None:
    agent = cast.agent(f"{codex_ok()}\nexec sleep 30000")
    log = cast.project.path / "logs/main/latest/iter-00001_galph_supervisor.log"
    daemon = cast.project.start("run", "--agent", agent)
    with running(daemon):
        until(lambda: log.exists() and "turn.completed" in log.read_text())
        daemon.terminate()
        daemon.wait(timeout=30)
    assert daemon.returncode == 128 + signal.SIGTERM
    assert cast.project.state()["status"] == "waiting-ralph"
