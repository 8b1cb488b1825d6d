"""`run --dry-run` says what the next start would do and does nothing; a start tells what an agent may do."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Capture, Project, everything, executable, person, script, scripted
from orchestration import failpoints

QUIET = "cat >/dev/null\n"
WORK = """
cat >/dev/null
case "$ORCH_PROMPT" in router.md) echo reviewer.md; exit;; esac
mkdir -p plans; echo plan >plans/one.md; [ "$ORCH_ACTOR" = galph ] || echo more >>src/app.py
"""


@pytest.fixture
def work(project: Project) -> str:
    """Give an agent that leaves a document, and as ralph also code; a router prompt gets the reviewer's."""
    return project.agent(WORK, "worker")


def marks(project: Project) -> dict[str, Any]:
    """Return every file with its bytes and times, but for git's objects, and what git itself says."""
    files = {name: facts for name, facts in everything(project.path).items() if not (project.path / name).is_dir()}
    return {
        "files": {name: facts for name, facts in files.items() if not name.startswith(".git/objects/")},
        "refs": project.git("for-each-ref"),
        "status": project.git("--no-optional-locks", "status", "--porcelain", "-uall", "--ignored"),
    }


@pytest.fixture
def rehearse(project: Project, capsys: Capture) -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a dry run, for a person and for a script: it must leave every mark as it was."""

    def both(*options: str, code: int = 0) -> dict[str, Any]:
        (project.path / "README.md").touch()  # the index does not know this time: `git status` would refresh it
        before = marks(project)
        told = person(project, capsys, "run", "--dry-run", *options, code=code)
        seen: dict[str, Any] = script(project, capsys, "run", "--dry-run", *options, code=code)
        assert marks(project) == before
        return {**seen, "told": told}

    yield both
    assert not list(project.path.rglob("*.tmp"))


def record(project: Project, index: int = -1) -> dict[str, Any]:
    """Return the record of a turn of the newest run."""
    folder = project.path / "logs" / "main" / "latest"
    loaded: dict[str, Any] = json.loads(sorted(folder.glob("iter-*.json"))[index].read_text())
    return loaded


# options of the run | commands before | prompt, reason
ROUTES: dict[str, tuple[list[str], list[str], str, str]] = {
    "galph": ([], [], "supervisor.md", "galph's own prompt"),
    "ralph": ([], ["stamp galph ok"], "main.md", "ralph's own prompt"),
    "review": (["--router-review-every-n", "1"], [], "reviewer.md", "review: iteration 1 is a multiple of 1"),
    "no router": (
        ["--no-router", "--router-review-every-n", "1"],
        [],
        "supervisor.md",
        "galph's own prompt (the router is off)",
    ),
    "ralph is not asked": (["--router-prompt", "router"], ["stamp galph ok"], "main.md", "ralph's own prompt"),
}


@pytest.mark.parametrize("case", ROUTES)
def test_what_it_says_is_what_the_run_then_does(
    project: Project, rehearse: Callable[..., dict[str, Any]], work: str, case: str
) -> None:
    options, commands, prompt, reason = ROUTES[case]
    for command in commands:
        assert project.call(*command.split()) == 0
    project.write("shopping.txt", "milk\n")

    seen = rehearse("--agent", work, *options)

    assert (seen["prompt"], seen["reason"], seen["argv"]) == (prompt, reason, [work])
    assert (seen["blocked"], seen["goes_on"], seen["uncommitted"]["left_alone"]) == (None, False, ["shopping.txt"])
    assert f"prompt  {prompt}: {reason}\nagent   worker: {work}\nwhere   {project.path}" in seen["told"]
    assert "yours   shopping.txt: left alone" in seen["told"]
    assert seen["told"].endswith("a dry run: nothing was run or written\n")
    assert project.call("run", "--once", "-q", "--agent", work, *options) == 0
    done = record(project)
    assert (done["prompt"], done["routed"], done["argv"]) == (prompt, reason, [work])
    assert (done["iteration"], done["actor"]) == (seen["iteration"], seen["actor"])
    assert project.subjects()[-1].startswith(f"{seen['hand_off']} ")
    assert project.dirt() == "?? shopping.txt"


def test_a_router_prompt_is_named_with_the_agent_that_will_answer_it(
    project: Project, rehearse: Callable[..., dict[str, Any]], work: str
) -> None:
    other = project.agent(QUIET, "other")
    options = ["--router-prompt", "router", "--agent", work, "--agent-prompt", f"router.md={other}"]

    seen = rehearse(*options)

    assert (seen["prompt"], seen["reason"], seen["argv"]) == ("router.md", "it will choose galph's prompt", [other])
    assert project.call("run", "--once", "-q", *options[:4]) == 0
    assert [event["prompt"] for event in project.events() if event["event"] == "turn-started"] == [
        "router.md",
        "reviewer.md",
    ]


def test_limits_rules_and_gates_are_told(project: Project, rehearse: Callable[..., dict[str, Any]], work: str) -> None:
    text = "actors: {galph: {leftovers: keep, scope: [plans/], gates: ['true', 'test -e README.md'], timeout: 90}}\n"
    project.write("orchestration.yaml", text)
    project.commit("rules")

    seen = rehearse("--agent", work)

    assert (seen["leftovers"], seen["scope"], seen["timeout"]) == ("keep", ["plans/"], 90)
    for row in (", at most 90 s", "scope   plans/", "gate    true", "gate    test -e README.md", "is kept in a rescue"):
        assert row in seen["told"]
    assert project.call("run", "--once", "-q", "--agent", work) == 0


# --- what would not begin --------------------------------------------------------------------------------------------


def dirty(project: Project) -> None:
    """Change a tracked file."""
    project.write("src/app.py", "changed\n")


def failed(project: Project) -> None:
    """Fail galph's turn."""
    assert project.call("run", "-q", "--agent", project.agent("exit 3\n", "failing")) == 4


def exiting(project: Project) -> None:
    """Set the exit flag."""
    flag = """sed -i 's/"exit": false/"exit": true/' sync/state.json\n"""
    assert project.call("run", "-q", "--agent", project.agent(flag, "leaving")) == 0


def paused(project: Project) -> None:
    """Pause this clone."""
    assert project.call("pause") == 0


def other_branch(project: Project) -> None:
    """Stand on a branch that was made from main."""
    project.git("switch", "-qc", "side")


def turn_on_other_branch(project: Project) -> None:
    """Interrupt a turn, and leave its branch."""
    interrupted(project)
    project.git("switch", "-qc", "side")


def elsewhere(project: Project) -> None:
    """Interrupt a turn of galph alone."""
    died = project.run("supervisor", "--agent", project.agent(QUIET), env={failpoints.VARIABLE: "turn.ran:KILL"})
    assert died.returncode == -signal.SIGKILL


def backwards(project: Project) -> None:
    """Take back galph's turn, which this clone has seen."""
    assert project.call("stamp", "galph", "ok") == 0
    project.git("reset", "-q", "--hard", "HEAD^")


def out_of_scope(project: Project) -> None:
    """Fail galph's turn for a file outside its scope."""
    project.write("orchestration.yaml", "actors: {galph: {scope: [plans/]}}\n")
    project.commit("rules")
    outside = "cat >/dev/null; echo x >out.md; git add out.md; git commit -qm out\n"
    assert project.call("run", "-q", "--agent", project.agent(outside, "outside")) == 4


def cut_short(project: Project) -> None:
    """Kill a decision before its commit is on the branch."""
    died = project.run("stamp", "galph", "ok", env={failpoints.VARIABLE: "settle.before_ref:KILL"})
    assert died.returncode == -signal.SIGKILL


def detached(project: Project) -> None:
    """Begin a bisection, on the branch."""
    project.git("bisect", "start")


def interrupted(project: Project, failpoint: str = "turn.before_spawn:KILL", agent: str = QUIET) -> None:
    """Kill the daemon in galph's turn."""
    died = project.run("run", "--agent", project.agent(agent, "first"), env={failpoints.VARIABLE: failpoint})
    assert died.returncode == -signal.SIGKILL


BLOCKS: dict[Callable[[Project], None], tuple[str, str, int]] = {
    dirty: ("tracked files are changed and not committed:\n  src/app.py", "commit them", 3),
    failed: ("galph's turn of iteration 1 failed", "`orchestrator retry`", 4),
    exiting: ("the exit flag is set", "`orchestrator resume`", 0),
    paused: ("this clone is paused", "`orchestrator resume`", 0),
    other_branch: ("the state belongs to the branch main", "`orchestrator init --adopt`", 3),
    turn_on_other_branch: ("in progress on the branch main, which is not checked out", "`git switch main`", 3),
    elsewhere: ("is in progress in this work tree, in another project or another way", "with --once", 3),
    cut_short: ("a decision was cut short", "any start finishes it", 0),
    detached: ("a bisect is in progress", "`git bisect reset`", 3),
}


REFUSALS: dict[Callable[[Project], None], tuple[str, str]] = {
    failed: ("galph's turn of iteration 1 failed: the agent failing ended", "`orchestrator retry` runs it again"),
    out_of_scope: ("galph's turn of iteration 1 failed: ", "or let them pass: `orchestrator skip --accept-scope`"),
    exiting: ("the exit flag is set", "`orchestrator resume` clears it"),
    other_branch: ("the state belongs to the branch main", "`orchestrator init --adopt`"),
    backwards: ("sync/state.json on main: the state file went backwards: epoch", "`orchestrator init --adopt`"),
    turn_on_other_branch: ("in progress on the branch main, which is not checked out", "`git switch main`"),
    elsewhere: ("in progress in this work tree, in another project or another way", "with --once"),
}


@pytest.mark.parametrize("block", REFUSALS)
def test_status_and_doctor_see_what_refuses_the_start(
    project: Project, capsys: Capture, work: str, block: Callable[[Project], None]
) -> None:
    block(project)
    tip = project.git("rev-parse", "HEAD")
    said, remedy = REFUSALS[block]

    rows = [row for row in script(project, capsys, "status")["unusual"] if said in row]
    capsys.readouterr()
    code = project.call("doctor", "--agent", work, "--json")
    findings = [item for item in json.loads(capsys.readouterr().out) if said in item["found"]]

    assert [remedy in row for row in rows] == [True]
    assert "\n" not in rows[0]
    assert [(item["level"], remedy in item["remedy"]) for item in findings] == [
        ("warning" if block is exiting else "problem", True)
    ]
    assert code == (0 if block is exiting else 3)
    assert project.call("run", "--once", "-q", "--agent", work) in {0, 3, 4}
    assert project.git("rev-parse", "HEAD") == tip


def test_a_decision_that_was_cut_short_is_no_turn(project: Project, capsys: Capture) -> None:
    cut_short(project)

    seen = script(project, capsys, "status")

    assert seen["turn"] is None
    assert seen["unusual"] == ["a decision was cut short; the next start finishes it first"]


def test_what_is_said_without_git_is_to_be_typed_so(project: Project, capsys: Capture, work: str) -> None:
    assert project.call("pause", "--no-git") == 0

    seen = script(project, capsys, "run", "--dry-run", "--no-git", "--agent", work)
    findings = script(project, capsys, "doctor", "--no-git", "--agent", work)

    lifted = "`orchestrator resume --no-git` lets it go on"
    assert seen["remedy"] == lifted
    assert lifted in [item["remedy"] for item in findings if item["name"] == "state"]


@pytest.mark.parametrize("block", BLOCKS)
def test_what_would_keep_a_start_from_a_turn_is_named_with_its_remedy(
    project: Project,
    rehearse: Callable[..., dict[str, Any]],
    capsys: Capture,
    work: str,
    block: Callable[[Project], None],
) -> None:
    block(project)
    said, remedy, code = BLOCKS[block]

    seen = rehearse("--agent", work)

    assert said in seen["blocked"]
    assert remedy in seen["remedy"]
    assert f"blocked {seen['blocked']}\n        {seen['remedy']}\n" in seen["told"]
    *_, last = scripted(project, capsys, "run", "--once", "--agent", work, code=code)
    end = json.loads(last)
    if block is not cut_short:  # a start finishes it
        assert said in end.get("reason", end.get("message"))
        assert not end.get("turns")


def test_a_running_daemon_is_named(project: Project, rehearse: Callable[..., dict[str, Any]]) -> None:
    fifo = project.path.parent / "began"
    os.mkfifo(fifo)
    agent = project.agent(f"cat >/dev/null; echo >{fifo}; exec sleep 1000\n", "waiting")
    daemon = project.start("run", "--agent", agent)
    fifo.read_bytes()

    seen = rehearse("--agent", agent)

    assert seen["blocked"].startswith(f"process {daemon.pid} runs here since ")
    assert (seen["remedy"], seen["goes_on"]) == ("`orchestrator status`", True)
    assert project.call("stop", "--now") == 0
    daemon.communicate(timeout=60)


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        ([], 2, "agent-missing"),
        (["--agent", "nobody-at-all"], 2, "agent-not-found"),
        (["--agent", "checklist", "--agent-prompt", "reviewer.md=nobody-at-all"], 2, "agent-not-found"),
        (["--agent", "checklist", "--prompt-supervisor", "nowhere"], 2, "route-missing-file"),
        (["--agent", "checklist", "--state-file", "nowhere.json"], 3, "state-missing"),
    ],
)
def test_where_no_turn_can_be_named_it_is_refused(
    project: Project, rehearse: Callable[..., dict[str, Any]], options: list[str], code: int, error: str
) -> None:
    assert rehearse(*options, code=code)["error"] == error
    assert project.journal() == "idle"


# --- a turn in progress ----------------------------------------------------------------------------------------------


def test_an_interrupted_turn_goes_on_with_its_leftovers_sorted(
    project: Project, rehearse: Callable[..., dict[str, Any]], capsys: Capture
) -> None:
    """What was there before, what a rule allows, what none allows, and what is outside of any turn: the state."""
    project.write("shopping.txt", "milk\n")
    agent = project.agent(
        "cat >/dev/null; mkdir -p plans; echo half >plans/one.md; echo half >half.py; echo x >>sync/state.json\n"
        "kill -KILL $PPID; exec sleep 1000\n",
        "killer",
    )
    quick = project.agent(QUIET, "quick")
    fifo = project.path.parent / "left"
    os.mkfifo(fifo)
    text = (project.path.parent / "killer").read_text().replace("kill -KILL $PPID", f"echo >{fifo}")
    executable(Path(agent), text)
    daemon = project.start("run", "--agent", agent)
    fifo.read_bytes()
    daemon.send_signal(signal.SIGINT)
    daemon.communicate(timeout=60)
    project.write("mine.py", "written after the stop\n")

    seen = rehearse("--agent", quick)

    assert (seen["goes_on"], seen["blocked"], seen["agent_ended"]) == (True, None, False)
    assert seen["uncommitted"] == {
        "left_alone": ["mine.py", "shopping.txt"],
        "allowed": ["plans/one.md"],
        "rest": ["half.py"],
    }
    assert "turn    galph, iteration 1 on main (goes on)" in seen["told"]
    assert "left    plans/one.md: would be committed\nleft    half.py: no rule allows them" in seen["told"]
    told = person(project, capsys, "run", "--once", "--agent", quick, code=4)
    assert "galph left files uncommitted that it must not write: half.py (" in told


def test_an_agent_that_has_ended_is_not_run_again_and_a_choice_that_was_made_stands(
    project: Project, rehearse: Callable[..., dict[str, Any]], work: str
) -> None:
    options = ["--router-prompt", "router", "--agent", work]
    died = project.run("run", *options, env={failpoints.VARIABLE: "turn.before_spawn:KILL:2"})
    assert died.returncode == -signal.SIGKILL
    seen = rehearse(*options)
    assert (seen["prompt"], seen["goes_on"]) == ("reviewer.md", True)

    for failpoint in ("turn.checked", "settle.before_ref"):
        died = project.run("run", *options, env={failpoints.VARIABLE: f"{failpoint}:KILL"})
        assert died.returncode == -signal.SIGKILL
        seen = rehearse(*options)
        assert (seen["prompt"], seen["agent_ended"], seen["blocked"]) == ("reviewer.md", True, None)
        assert f"agent   worker: {work} (has ended, is not run again)" in seen["told"]

    ran = project.git("rev-list", "--count", "HEAD")
    assert project.call("run", "--once", "-q", *options) == 0
    assert project.subjects()[-1].startswith(seen["hand_off"])
    assert project.git("rev-list", "--count", "HEAD") == str(int(ran) + 1)


def test_what_a_failed_attempt_left_is_the_retrys_and_what_a_person_wrote_since_is_theirs(
    project: Project, rehearse: Callable[..., dict[str, Any]]
) -> None:
    project.write("shopping.txt", "milk\n")
    assert project.call("stamp", "galph", "ok") == 0
    half = project.agent("cat >/dev/null; mkdir -p plans; echo half >plans/one.md; exit 3\n", "half")
    assert project.call("run", "-q", "--once", "--agent", half) == 4
    project.write("mine.py", "written after the failure\n")
    files = {"left_alone": ["mine.py", "shopping.txt"], "allowed": ["plans/one.md"], "rest": []}
    quick = project.agent(QUIET, "quick")

    assert rehearse("--agent", quick)["uncommitted"] == files
    assert project.call("retry") == 0
    assert rehearse("--agent", quick)["uncommitted"] == files
    claiming = {failpoints.VARIABLE: "rescue.after_ref:KILL"}
    died = project.run("run", "--once", "--agent", quick, env=claiming)
    assert (died.returncode, project.journal()) == (-signal.SIGKILL, "claiming")
    assert rehearse("--agent", quick)["uncommitted"] == files

    assert project.call("run", "-q", "--once", "--agent", quick) == 0
    assert project.dirt() == "?? mine.py\n?? shopping.txt"


@pytest.mark.parametrize(
    ("gates", "failpoint", "entry"),
    [(["true"], "turn.before_spawn:KILL:2", "judged"), ([], "turn.ran:KILL", "running")],
)
def test_an_agent_that_ended_before_its_gates_or_unseen_is_not_run_again(
    project: Project, rehearse: Callable[..., dict[str, Any]], gates: list[str], failpoint: str, entry: str
) -> None:
    project.write("orchestration.yaml", f"actors: {{galph: {{gates: {json.dumps(gates)}}}}}\n")
    project.commit("gates")
    agent = project.agent(f"echo ran >>{project.path.parent / 'runs'}\n{WORK}", "counting")
    died = project.run("run", "--once", "--agent", agent, env={failpoints.VARIABLE: failpoint})
    assert (died.returncode, project.journal()) == (-signal.SIGKILL, entry)

    seen = rehearse("--agent", agent)

    assert (seen["agent_ended"], seen["goes_on"], seen["blocked"]) == (True, True, None)
    assert project.call("run", "--once", "-q", "--agent", agent) == 0
    assert (project.path.parent / "runs").read_text() == "ran\n"


def test_without_git_nothing_would_be_committed(
    project: Project, rehearse: Callable[..., dict[str, Any]], work: str
) -> None:
    shutil.rmtree(project.path / ".git" / "orchestration")

    seen = rehearse("--no-git", "--agent", work)

    assert (seen["branch"], seen["hand_off"], seen["blocked"]) == ("no-git", None, None)
    assert "commits" not in seen["told"]
    assert project.call("run", "--no-git", "--once", "-q", "--agent", work) == 0
    died = project.run("run", "--no-git", "--agent", work, env={failpoints.VARIABLE: "turn.before_spawn:KILL"})
    assert died.returncode == -signal.SIGKILL
    seen = rehearse("--no-git", "--agent", work)
    assert (seen["prompt"], seen["goes_on"], seen["blocked"]) == ("main.md", True, None)


# --- what a start says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["claude", "-p", "--dangerously-skip-permissions"], "claude --dangerously-skip-permissions asks nobody"),
        (["codex", "exec", "--dangerously-bypass-approvals-and-sandbox", "-"], "asks nobody before it acts and leaves"),
        (["gemini", "--yolo"], "gemini --yolo asks nobody"),
        (["gemini", "-y"], "gemini -y asks nobody"),
        (["claude", "-p", "-y"], None),
        (["claude", "-p"], None),
    ],
)
def test_a_start_says_where_it_works_with_whom_and_who_asks_nobody(
    project: Project, capsys: Capture, flags: list[str], said: str | None
) -> None:
    program = executable(project.path.parent / flags[0], "#!/bin/sh\ncat >/dev/null\n")
    project.write("orchestration.yaml", f"agents: {{mine: {{command: {json.dumps([program, *flags[1:]])}}}}}\n")
    project.commit("an agent")

    told = person(project, capsys, "run", "-n", "1", "--agent", "mine").splitlines()

    assert told[0] == (
        "branch main · at most 1 iteration · one state commit a turn · Ctrl-C stops safely, the next start goes on"
    )
    assert " ".join([program, *flags[1:]]) in told[1]
    warnings = [line for line in told if "[permissions]" in line]
    assert len(warnings) == (said is not None)
    if said:
        assert told[2] == warnings[0]
        assert said in warnings[0]
        assert "it may do whatever you may" in warnings[0]
    assert not person(project, capsys, "run", "--once", "-q", "--agent", "mine")
    assert "no state commits" in person(project, capsys, "loop", "-n", "1", "--agent", "mine")


def test_a_start_says_of_an_agent_in_a_sandbox_that_it_is_in_one(project: Project, capsys: Capture) -> None:
    program = executable(project.path.parent / "box", "#!/bin/sh\ncat >/dev/null\n")
    project.write("orchestration.yaml", f"agents: {{mine: {{command: [do, --yolo], wrap: [{program}, -x]}}}}\n")
    project.commit("an agent")

    told = person(project, capsys, "run", "--once", "--agent", "mine")

    assert f"asks nobody before it acts, in the sandbox that `{program} -x` makes  [permissions]" in told
    assert "whatever you may" not in told
