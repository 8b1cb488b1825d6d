"""A daemon dies at its agent's end: what the agent had told by then decides; its exit code alone says nothing."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from cast import TOO_FAST, WORKS, Cast, claude, codex_ok, limited, says
from conftest import Project
from orchestration import recall
from pair import running, until

RUN = ("run", "--once", "--agent", "fake")
SOON = ("-c", "limits.max_limit_sleep=0.1")
ROUTER = ("--router-prompt", "router.md")
HANGS = "exec sleep 100000"


@pytest.fixture
def cast(project: Project) -> Cast:
    """Give the agents of a project."""
    return Cast(project)


def ready(cast: Cast) -> Path:
    """Name the file that an agent touches when its daemon may die."""
    return cast.project.path.parent / "ready"


def killed(cast: Cast, *options: str) -> None:
    """Run a turn until its agent is ready, and kill the daemon alone."""
    ready(cast).unlink(missing_ok=True)
    daemon = cast.project.start(*RUN, *options)
    with running(daemon):
        until(ready(cast).exists)
    assert daemon.stdout
    daemon.stdout.close()


def log(cast: Cast) -> Path:
    """Name the raw log of galph's first turn."""
    return cast.project.path / "logs/main/latest/iter-00001_galph_supervisor.log"


def heard(cast: Cast, what: str) -> str:
    """Return shell text that waits until what was printed is in the log, and says that it is."""
    return f"until grep -q {what} {log(cast)}; do sleep 0.05; done; touch {ready(cast)}"


def reruns(cast: Cast) -> list[str]:
    """Return the kinds of the attempts that the newest run has seen fail."""
    return [event["kind"] for event in cast.project.events() if event["event"] == "attempt-ended"]


def test_an_agent_that_exits_with_0_and_has_told_nothing_has_not_ended_its_turn(cast: Cast) -> None:
    go = cast.project.path.parent / "go"
    os.mkfifo(go)
    begun = says({"type": "system", "subtype": "init", "session_id": "s-1"})
    half = f"{begun}\necho half >half.txt\n{heard(cast, 's-1')}\nread -r x <{go}; exit 0"
    cast.agent(half, f"rm half.txt; {WORKS}\n{claude('s-1', 0.5)}", preset="claude")
    killed(cast)
    go.write_text("\n")
    until(lambda: list((cast.project.path / ".git/orchestration").glob("exit-*")))

    assert cast.project.call(*RUN) == 0
    assert ["--resume s-1" in line for line in cast.ran()] == [False, True]
    assert "interrupted" in cast.prompt()
    assert cast.project.dirt() == ""


@pytest.mark.parametrize("died", ["KILL", "EIO"])
@pytest.mark.parametrize("code", [0, 1])
def test_what_an_agent_complained_of_is_tried_again_as_if_its_daemon_had_lived(
    cast: Cast, died: str, code: int
) -> None:
    cast.agent(TOO_FAST.replace("exit 1", f"exit {code}"), f"{WORKS}\n{codex_ok()}")
    done = cast.project.run(*RUN, env={"GALPH_FAILPOINT": f"turn.agent_ended:{died}"})
    assert (done.returncode, cast.project.journal()) == (-signal.SIGKILL if died == "KILL" else 3, "running")

    assert cast.project.call(*RUN, *SOON) == 0
    assert (reruns(cast), len(cast.ran())) == (["rate_limit"], 2)
    assert cast.record()["attempts"] == 2


def test_an_agent_that_had_told_of_its_success_is_not_paid_twice(cast: Cast) -> None:
    cast.agent(f"{WORKS}\n{claude('s-1', 0.5)}\n{heard(cast, 'total_cost')}\n{HANGS}", preset="claude")
    killed(cast)

    assert cast.project.call(*RUN) == 0
    assert (len(cast.ran()), cast.project.state()["status"]) == (1, "waiting-ralph")
    assert cast.counters()["today"]["cost_usd"] == 0.5
    assert any(event.get("code") == "agent-ended" for event in cast.project.events())


def test_a_stop_signal_that_reached_the_agent_too_does_not_unsay_what_it_had_told(cast: Cast) -> None:
    cast.agent(f"{codex_ok()}\nkill -TERM $$")
    assert cast.project.run(*RUN, env={"GALPH_FAILPOINT": "turn.agent_ended:KILL"}).returncode == -signal.SIGKILL
    assert cast.project.call(*RUN) == 0
    assert len(cast.ran()) == 1


def test_the_exit_code_that_our_own_signal_made_is_not_the_agents(cast: Cast) -> None:
    cast.agent(f"trap 'exit 1' TERM\n{codex_ok()}\nwhile :; do sleep 0.1; done")
    grace = ("-c", "agents.fake.exit_grace=0.2", "-c", "agents.fake.stop=[TERM 8]")
    died = cast.project.run(*RUN, *grace, env={"GALPH_FAILPOINT": "turn.agent_ended:KILL"})
    assert (died.returncode, cast.project.call(*RUN)) == (-signal.SIGKILL, 0)
    assert len(cast.ran()) == 1


def test_a_limit_that_ends_in_hours_ends_so_many_hours_after_it_was_told(cast: Cast) -> None:
    cast.agent(limited("in 2 hours"), codex_ok())
    cast.project.run(*RUN, env={"GALPH_FAILPOINT": "turn.agent_ended:KILL"})
    long_ago = log(cast).stat().st_mtime - 3 * 3600
    os.utime(log(cast), (long_ago, long_ago))
    assert cast.project.call(*RUN, *SOON) == 0
    assert reruns(cast) == ["usage_limit"]
    (ended,) = [event for event in cast.project.events() if event["event"] == "attempt-ended"]
    assert ended["until"] <= ended["at"][:17] + "59Z"


def test_what_an_earlier_attempt_told_is_not_this_ones(cast: Cast) -> None:
    cast.agent(TOO_FAST, f"touch {ready(cast)}; {HANGS}", codex_ok())
    killed(cast, *SOON)
    assert cast.project.call(*RUN, *SOON) == 0
    assert (reruns(cast), len(cast.ran())) == ([], 3)


@pytest.mark.parametrize("lost", ["gone", "so long that it may be cut"])
def test_a_log_that_is_not_whole_tells_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    cast.agent(f"{codex_ok()}\n{heard(cast, 'turn.completed')}\n{HANGS}", codex_ok())
    killed(cast)
    if lost == "gone":
        shutil.rmtree(cast.project.path / "logs/main")
    else:
        monkeypatch.setattr(recall, "CAP", 2 * log(cast).stat().st_size)
    assert cast.project.call(*RUN) == 0
    assert len(cast.ran()) == 2


# --- the router prompt -----------------------------------------------------------------------------------------------


def test_a_router_prompt_in_which_the_daemon_dies_too_often_fails_the_turn(cast: Cast) -> None:
    cast.agent(f"touch {ready(cast)}; {HANGS}")
    for _ in range(2):
        killed(cast, *ROUTER, "-c", "limits.interrupted_reruns=1")
    assert cast.project.call(*RUN, *ROUTER, "-c", "limits.interrupted_reruns=1") == 4
    assert cast.ran() == ["router.md -"] * 2
    assert cast.project.state()["failure"]["code"] == "interrupted"


def test_a_router_prompt_that_has_answered_is_not_asked_again(cast: Cast) -> None:
    answers = heard(cast, "turn.completed").replace("galph_supervisor", "galph_router")
    cast.agent(f"{codex_ok('reviewer.md', 1000)}\n{answers}\n{HANGS}", codex_ok())
    killed(cast, *ROUTER)
    assert cast.project.call(*RUN, *ROUTER) == 0
    assert cast.ran() == ["router.md -", "reviewer.md -"]
    assert "interrupted" not in cast.prompt()
    assert cast.counters()["turn"]["tokens"] == 1120


def test_an_answer_that_may_have_come_in_part_is_asked_for_again(project: Project) -> None:
    agent = project.agent('cat >/dev/null; echo "$ORCH_PROMPT" >>../ran; echo reviewer.md')
    options = ("run", "--once", "--agent", agent, *ROUTER)
    assert project.run(*options, env={"GALPH_FAILPOINT": "turn.agent_ended:KILL"}).returncode == -signal.SIGKILL
    assert project.call(*options) == 0
    assert (project.path.parent / "ran").read_text().split() == ["router.md", "router.md", "reviewer.md"]


def test_a_router_prompt_that_was_stopped_is_asked_again_and_what_it_left_is_the_turns(cast: Cast) -> None:
    stops = ": >.git/orchestration/control/stop-now"
    cast.agent(f"echo left >input.md; {stops}; {HANGS}", codex_ok("reviewer.md"), codex_ok())
    assert cast.project.call(*RUN, *ROUTER, "-c", "limits.interrupted_reruns=0") == 143
    assert (cast.project.journal(), bool(cast.entry()["turn"]["stopped"])) == ("claimed", True)
    assert cast.project.call(*RUN, *ROUTER, "-c", "limits.interrupted_reruns=0") == 0
    assert cast.ran() == ["router.md -", "router.md -", "reviewer.md -"]
    assert cast.project.dirt() == ""
