"""The loop as a whole: real repositories, real agents, the seed's own test names (003, "Testing Integration")."""

import json
from pathlib import Path

import pytest

from conftest import Project

WITNESS = """
echo "$ORCH_ITERATION/$ORCH_ACTOR/$ORCH_PROMPT" >> "{ledger}"
cat > "{ledger}.$ORCH_ITERATION.$ORCH_ACTOR.$ORCH_PROMPT"
[ "$ORCH_ACTOR" = galph ] && echo "Do Now: $ORCH_ITERATION" > input.md || echo "$ORCH_ITERATION" >> src/work.txt
if [ "$ORCH_PROMPT" = router.md ]; then {answer}; fi
exit 0
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Name the file outside of the repository to which agents write which turn they were given."""
    return tmp_path / "ledger"


def witness(project: Project, ledger: Path, answer: str = "true") -> str:
    return project.agent(WITNESS.format(ledger=ledger, answer=answer))


def turns(ledger: Path) -> list[str]:
    return ledger.read_text().split()


def test_combined_sequence(project: Project, ledger: Path) -> None:
    assert project.call("--mode", "combined", "-n", "2", "--agent", witness(project, ledger)) == 0

    assert turns(ledger) == ["1/galph/supervisor.md", "1/ralph/main.md", "2/galph/supervisor.md", "2/ralph/main.md"]
    assert Path(f"{ledger}.1.ralph.main.md").read_text().startswith((project.path / "prompts/main.md").read_text())
    assert [subject.partition("_commit=")[0] for subject in project.subjects()[2:]] == [
        "SUPERVISOR AUTO (prompt=supervisor.md) (iter=00001): 1 file: input.md",
        "[SYNC i=1] actor=galph → next=ralph status=ok galph",
        "RALPH AUTO (prompt=main.md) (iter=00001): 1 file: src/work.txt",
        "[SYNC i=2] actor=ralph → next=galph status=ok ralph",
        "SUPERVISOR AUTO (prompt=supervisor.md) (iter=00002): 1 file: input.md",
        "[SYNC i=2] actor=galph → next=ralph status=ok galph",
        "RALPH AUTO (prompt=main.md) (iter=00002): 1 file: src/work.txt",
        "[SYNC i=3] actor=ralph → next=galph status=ok ralph",
    ]
    state = project.state()
    assert (state["iteration"], state["expected_actor"], state["status"], state["epoch"]) == (3, "galph", "complete", 4)
    assert state["last_prompt"] == "main.md"
    assert state["ralph_commit"] == project.git("rev-parse", "HEAD^")
    assert json.loads((project.path / "sync/state.json").read_text()) == state
    assert project.dirt() == ""


def test_review_cadence_single(project: Project, ledger: Path) -> None:
    agent = witness(project, ledger)
    assert project.call("run", "-n", "4", "--agent", agent, "--router-review-every-n", "2") == 0

    reviews = [turn for turn in turns(ledger) if turn.endswith("reviewer.md")]
    assert reviews == ["2/galph/reviewer.md", "4/galph/reviewer.md"]
    assert [turn for turn in turns(ledger) if "ralph" in turn] == [f"{i}/ralph/main.md" for i in range(1, 5)]


@pytest.mark.parametrize("mode", ["router_default", "router_first", "router_only"])
def test_router_override_galph_only(project: Project, ledger: Path, mode: str) -> None:
    agent = witness(project, ledger, answer="echo reviewer.md")
    options = ["--router-prompt", "router.md", "--router-mode", mode, "--router-review-every-n", "0"]
    assert project.call("run", "-n", "1", "--agent", agent, *options) == 0

    assert turns(ledger) == ["1/galph/router.md", "1/galph/reviewer.md", "1/ralph/main.md"]
    assert project.state("HEAD~2")["last_prompt"] == "reviewer.md"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("echo main.md", "route-gated"),
        ("echo plan.md", "route-unlisted"),
        ("true", "route-no-choice"),
        ("printf 'reviewer.md\\nmain.md\\n'", "route-no-choice"),
        ("exit 3", "agent-failed"),
    ],
)
def test_a_router_that_answers_wrongly_fails_the_turn(project: Project, ledger: Path, answer: str, code: str) -> None:
    agent = witness(project, ledger, answer=answer)
    assert project.call("run", "--agent", agent, "--router-prompt", "router") == 4

    assert turns(ledger) == ["1/galph/router.md"]
    failure = project.state()["failure"]
    assert failure["code"] == code
    assert project.subjects()[-1].startswith("[SYNC i=1] actor=galph status=fail")


def test_router_disabled_uses_actor_prompts(project: Project, ledger: Path) -> None:
    agent = witness(project, ledger)
    options = ["--no-router", "--router-review-every-n", "1", "--router-prompt", "router.md"]
    assert project.call("run", "-n", "2", "--agent", agent, *options) == 0

    assert {turn.partition("/")[2] for turn in turns(ledger)} == {"galph/supervisor.md", "ralph/main.md"}
    assert project.state()["last_prompt"] is None


def test_a_failure_stops_at_once_and_stays_until_a_person_decides(
    project: Project, ledger: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = project.agent(
        f'echo "$ORCH_TURN" >> {ledger}; echo half done > src/half.txt; echo "disk on fire" >&2; exit 3'
    )
    assert project.call("run", "--agent", agent) == 4
    first = capfd.readouterr().out
    assert "ended with exit code 3" in first
    assert "disk on fire" in first
    assert "orchestrator retry" in first

    assert project.call("run", "--agent", agent) == 4
    assert "disk on fire" in capfd.readouterr().out
    assert turns(ledger) == ["1/galph"]  # the second start ran nothing
    assert project.state()["failure"]["tail"] == ["disk on fire"]
    assert (project.path / "src/half.txt").read_text() == "half done\n"
    assert "half done" in project.git("show", f"{project.rescued()[-1]}:src/half.txt")

    assert project.call("retry") == 0
    mended = project.agent("rm -f src/half.txt; exit 0", name="mended")
    assert project.call("run", "--once", "--agent", mended) == 0
    assert (project.state()["expected_actor"], project.state()["failure"]) == ("ralph", None)


def test_state_in_the_commit_decides_and_not_the_file(project: Project, ledger: Path) -> None:
    state = {**project.state(), "expected_actor": "ralph", "status": "waiting-ralph"}
    project.write("sync/state.json", json.dumps(state, indent=2) + "\n")

    assert project.call("run", "--agent", witness(project, ledger)) == 3  # and says that the file is changed

    assert not ledger.exists()
    assert json.loads((project.path / "sync/state.json").read_text()) == state
