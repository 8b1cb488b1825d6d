"""The doctor finds what is wrong with real clones, says what to type, and changes nothing."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import DOOR, Project, executable
from orchestration.clock import SystemClock
from orchestration.doctor import CHECKS
from orchestration.environment import inherited
from orchestration.findings import Finding, Level, Scene
from orchestration.git import Git
from orchestration.lock import held
from orchestration.process import Loop
from orchestration.setup_checks import clock, file_events
from orchestration.workspace import Workspace

Capture = pytest.CaptureFixture[str]
OK, ADVICE, WARNING, PROBLEM = Level


@dataclass
class Bench:
    """A project on which something is arranged; what must be undone is undone at the end."""

    project: Project
    patch: pytest.MonkeyPatch
    stack: ExitStack

    @property
    def here(self) -> Path:
        """The person's folder."""
        return self.project.path

    def git_that(self, script: str) -> None:
        """Put a git before the real one on PATH."""
        folder = self.here.parent / "bin"
        folder.mkdir()
        executable(folder / "git", f'#!/bin/sh\n{script}\nexec {shutil.which("git")} "$@"\n')
        self.patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def state(self, **changes: object) -> None:
        """Commit an edit of the state."""
        state = self.project.state() | changes
        self.project.write("sync/state.json", json.dumps(state) + "\n")
        self.project.git("commit", "--quiet", "-am", "edited")

    def process(self, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a process in the project's folder that lives until the end."""
        begun = subprocess.Popen(argv, cwd=self.here, env={**os.environ, **env}, stdin=subprocess.PIPE)
        self.stack.callback(begun.wait)
        self.stack.callback(begun.kill)
        return begun

    def killed(self) -> None:
        """Begin a turn whose daemon is killed."""
        agent = self.project.agent("exit 0")
        self.project.run("run", "--agent", agent, env={"GALPH_FAILPOINT": "turn.ran:KILL"})
        assert self.project.journal() == "running"

    def examined(self, capsys: Capture, *args: str) -> tuple[list[Finding], int]:
        """Run the doctor; return what it found, and its exit code."""
        capsys.readouterr()
        code = self.project.call("doctor", "--json", *args)
        said = json.loads(capsys.readouterr().out)
        return [Finding(**{**finding, "level": Level(finding["level"])}) for finding in said], code


@pytest.fixture
def bench(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(project, monkeypatch, stack)


# --- arrangements ----------------------------------------------------------------------------------------------------


def nothing(bench: Bench) -> None:
    """Leave it as init made it."""


def no_git(bench: Bench) -> None:
    bench.patch.setenv("PATH", str(bench.here / "src"))


def old_git(bench: Bench) -> None:
    bench.git_that('case "$*" in *--version) echo git version 2.20.1; exit;; esac')


def strange_git(bench: Bench) -> None:
    bench.git_that('case "$*" in *--version) echo git of my own; exit;; esac')


def nobody(bench: Bench) -> None:
    (bench.here.parent / "home/.gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")


def no_repository(bench: Bench) -> None:
    shutil.rmtree(bench.here / ".git")


def bare(bench: Bench) -> None:
    copy = bench.here.parent / "bare"
    bench.project.git("clone", "--quiet", "--bare", ".", str(copy))
    bench.project = Project(copy)


def untrusted(bench: Bench) -> None:
    bench.git_that("export GIT_TEST_ASSUME_DIFFERENT_OWNER=1")


def shallow(bench: Bench) -> None:
    copy = bench.here.parent / "shallow"
    bench.project.git("clone", "--quiet", "--depth", "1", f"file://{bench.here}", str(copy))
    bench.project = Project(copy)


def hub(bench: Bench) -> None:
    there = bench.here.parent / "hub.git"
    bench.project.git("clone", "--quiet", "--bare", ".", str(there))
    bench.project.git("remote", "add", "origin", str(there))


def hub_gone(bench: Bench) -> None:
    hub(bench)
    shutil.rmtree(bench.here.parent / "hub.git")


def hub_behind(bench: Bench) -> None:
    hub(bench)
    bench.project.git("commit", "--quiet", "--allow-empty", "-m", "mine")


def hub_refuses(bench: Bench) -> None:
    hub(bench)
    bench.project.git("config", "remote.origin.receivepack", "false")


def submodules(bench: Bench) -> None:
    hub(bench)
    bench.project.write(".gitmodules", "")


def detached(bench: Bench) -> None:
    bench.project.git("switch", "--quiet", "--detach")


def merging(bench: Bench) -> None:
    bench.project.git("switch", "--quiet", "-c", "side")
    for branch, text in (("side", "a\n"), ("main", "b\n")):
        bench.project.git("switch", "--quiet", branch)
        bench.project.write("README.md", text)
        bench.project.commit(text)
    bench.project.git("merge", "side", check=False)


def own_branch(bench: Bench) -> None:
    bench.project.git("switch", "--quiet", "-c", "work")
    bench.state(branch="work")


def trunk(bench: Bench) -> None:
    bench.project.git("branch", "--quiet", "-m", "trunk")
    copy = bench.here.parent / "clone"
    bench.project.git("clone", "--quiet", ".", str(copy))
    bench.project = Project(copy)


def no_file(bench: Bench) -> None:
    (bench.here / "orchestration.yaml").unlink()


def file(text: str) -> Callable[[Bench], None]:
    def write(bench: Bench) -> None:
        bench.project.write("orchestration.yaml", text)
        bench.project.commit("settings")

    return write


def variable(bench: Bench) -> None:
    bench.patch.setenv("ORCHESTRATION_AGENT_DEFALT", "claude")


def state_missing(bench: Bench) -> None:
    bench.project.git("rm", "--quiet", "sync/state.json")
    bench.project.git("commit", "--quiet", "-m", "gone")


def state_not_committed(bench: Bench) -> None:
    assert bench.project.call("init", "--undo", "--json") == 0
    assert bench.project.call("init", "--no-commit", "--json") == 0


def state_cut(bench: Bench) -> None:
    bench.project.write("sync/state.json", '{"iteration": 1')
    bench.project.commit("cut")


def state_elsewhere(bench: Bench) -> None:
    bench.project.git("switch", "--quiet", "-c", "other")


def failed(bench: Bench) -> None:
    assert bench.project.call("run", "--json", "--agent", bench.project.agent("exit 3")) == 4


def rescued(bench: Bench) -> None:
    agent = bench.project.agent("echo more >> src/app.py; exit 3")
    assert bench.project.call("run", "--json", "--agent", agent) == 4


def exit_flag(bench: Bench) -> None:
    bench.state(exit=True, exit_reason="all done")


def paused(bench: Bench) -> None:
    assert bench.project.call("pause", "--json") == 0


def running_elsewhere(bench: Bench) -> None:
    bench.state(status="running-galph", last_update="2026-01-20T03:29:29Z")


def prompts_gone(bench: Bench) -> None:
    (bench.here / "prompts/main.md").unlink()
    (bench.here / "prompts/supervisor.md").unlink()


def prompt_empty(bench: Bench) -> None:
    bench.project.write("prompts/main.md", " \n")


def review_gone(bench: Bench) -> None:
    (bench.here / "prompts/reviewer.md").unlink()


def agent_not_executable(bench: Bench) -> None:
    bench.project.write("my-agent.sh", "#!/bin/sh\n")


def unsandboxed(bench: Bench) -> None:
    bench.project.agent("", "claude")
    bench.patch.setenv("PATH", f"{bench.here.parent}:{os.environ['PATH']}")
    file("agents: {c: {command: [claude, -p, --dangerously-skip-permissions]}}\n")(bench)


def yes_man(bench: Bench) -> None:
    gemini = bench.project.agent("", "gemini")
    file(f"agents: {{c: {{command: [env, A=b, {gemini}, -y]}}}}\n")(bench)


def holder(bench: Bench) -> None:
    own = bench.here / ".git/orchestration"
    place = Workspace(bench.here, bench.here, own, own / "journal.json", [own])
    bench.stack.enter_context(held(place, datetime.now(UTC)))


def index_lock(bench: Bench) -> None:
    bench.project.write(".git/index.lock", "")


def lock_of_a_git(bench: Bench) -> None:
    index_lock(bench)
    bench.process("git", "cat-file", "--batch")


def lock_of_a_turn(bench: Bench) -> None:
    bench.killed()
    index_lock(bench)


def turn_elsewhere(bench: Bench) -> None:
    bench.killed()
    bench.project.git("switch", "--quiet", "-c", "other")


def left_process(bench: Bench) -> None:
    bench.process("sleep", "600", ORCH_TURN_STAMP="abc")
    bench.state(nonce="abc")


def process_of_the_turn(bench: Bench) -> None:
    bench.killed()
    journal = json.loads((bench.here / ".git/orchestration/journal.json").read_text())
    bench.process("sleep", "600", ORCH_TURN_STAMP=journal["entry"]["turn"]["claim"]["token"]["nonce"])


def changed(bench: Bench) -> None:
    bench.project.write("src/app.py", "print('changed')\n")


def carried_and_changed(bench: Bench) -> None:
    """Leave a file as a turn was allowed to, and skip it; then a person changes another one."""
    file("actors: {galph: {leftovers: keep}}\n")(bench)
    assert bench.project.call("run", "--json", "--once", "--agent", bench.project.agent("echo >> src/app.py")) == 0
    bench.project.write("README.md", "changed\n")


def journal_broken(bench: Bench) -> None:
    bench.project.write(".git/orchestration/journal.json", "{")


def free(size: int) -> Callable[[Bench], None]:
    def measure(bench: Bench) -> None:
        usage = shutil.disk_usage(bench.here)._replace(free=size)
        bench.patch.setattr(shutil, "disk_usage", lambda _: usage)

    return measure


def logs_in_the_way(bench: Bench) -> None:
    bench.project.write("diary", "")


def no_tmpdir(bench: Bench) -> None:
    bench.project.write("../taken", "")
    bench.patch.setenv("TMPDIR", str(bench.here.parent / "taken"))


def own_folder_in_the_way(bench: Bench) -> None:
    shutil.rmtree(bench.here / ".git/orchestration")
    bench.project.write(".git/orchestration", "")


def commit_of_tomorrow(bench: Bench) -> None:
    bench.patch.setenv("GIT_COMMITTER_DATE", "2090-01-01T00:00:00Z")
    bench.project.git("commit", "--quiet", "--allow-empty", "-m", "from the future")


def state_of_tomorrow(bench: Bench) -> None:
    bench.state(last_update="2090-01-01T00:00:00Z")


# --- what is found ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What is arranged, and the finding that must be among the doctor's."""

    arrange: Callable[[Bench], None]
    name: str
    level: Level
    found: str
    remedy: str = ""
    args: Sequence[str] = ()


ROWS = [
    Row(nothing, "git", OK, "git version 2."),
    Row(no_git, "git", PROBLEM, "git was not found", "install git 2.38"),
    Row(old_git, "git", PROBLEM, "git version 2.20.1, and 2.38", "install git 2.38"),
    Row(strange_git, "git", PROBLEM, "git of my own, and 2.38", "install git 2.38"),
    Row(nobody, "git", ADVICE, "will be by orchestrator", "git config --global user.name"),
    Row(nothing, "repository", OK, "/project"),
    Row(no_repository, "repository", PROBLEM, "not a git repository", "`git init`"),
    Row(bare, "repository", PROBLEM, "work tree", "clone it"),
    Row(untrusted, "repository", PROBLEM, "dubious ownership", "git config --global --add safe.directory"),
    Row(shallow, "repository", ADVICE, "shallow", "`git fetch --unshallow`"),
    Row(own_branch, "branch", OK, "work"),
    Row(nothing, "branch", ADVICE, "main is the branch that others build on", "`git switch -c agents && "),
    Row(state_missing, "branch", ADVICE, "main is the branch that others build on", "`git switch -c agents`"),
    Row(trunk, "branch", ADVICE, "trunk is the branch that others build on", "`git switch -c agents"),
    Row(detached, "branch", PROBLEM, "HEAD is detached", "`git switch "),
    Row(detached, "branch", PROBLEM, "HEAD is detached", "`git switch main`", ["--branch", "main"]),
    Row(merging, "branch", PROBLEM, "a merge is in progress", "`git merge --abort`"),
    Row(nothing, "branch", PROBLEM, "there is no branch work", "`git switch -c work`", ["--branch", "work"]),
    Row(own_branch, "branch", PROBLEM, "checked out is work, not main", "`git switch main`", ["--branch", "main"]),
    Row(nothing, "configuration", OK, "/orchestration.yaml can be read"),
    Row(no_file, "configuration", ADVICE, "no orchestration.yaml", "`orchestrator init`"),
    Row(file("spec_bootstrap: {}\n"), "configuration", WARNING, "orchestration.yaml:1: `spec_bootstrap`", "delete"),
    Row(file("router: {promt: x}\n"), "configuration", PROBLEM, "orchestration.yaml:1: unknown key", "`router.prompt`"),
    Row(nothing, "configuration", PROBLEM, "`limits.iterations` is 'many'", "a whole number", ["-n", "many"]),
    Row(nothing, "configuration", WARNING, "names foo.md, which no turn runs", "", ["--agent-prompt", "foo=checklist"]),
    Row(
        file("agent: {prompts: {revewer.md: checklist}}\n"),
        "configuration",
        WARNING,
        "orchestration.yaml:1: `agent.prompts` names revewer.md, which no turn runs; did you mean reviewer.md?",
        "correct it",
    ),
    Row(file("notify: {command: [tell-me]}\n"), "configuration", WARNING, "'tell-me' was not found", "correct"),
    Row(
        file("actors: {ralph: {gates: [X=1 pytset -q]}}\n"),
        "configuration",
        WARNING,
        "actors.ralph.gates: 'pytset' was not found: `X=1 pytset -q` would fail every turn",
        "install it",
    ),
    Row(variable, "configuration", PROBLEM, "ORCHESTRATION_AGENT_DEFALT", "ORCHESTRATION_AGENT_DEFAULT"),
    Row(nothing, "sharing", OK, "not shared with other clones"),
    Row(hub, "sharing", OK, "origin has main at ", args=["--sync-via-git"]),
    Row(nothing, "sharing", PROBLEM, "there is no remote called origin", "`git remote add origin", ["--sync-via-git"]),
    Row(hub_gone, "sharing", PROBLEM, "does not appear to be a git repository", "set-url", ["--sync-via-git"]),
    Row(hub_behind, "sharing", PROBLEM, "has commits that origin lacks", "`git push origin main`", ["--sync-via-git"]),
    Row(hub_refuses, "sharing", PROBLEM, "nothing can be pushed", "", ["--sync-via-git"]),
    Row(submodules, "sharing", ADVICE, "submodules: their commits", "check", ["--sync-via-git"]),
    Row(nothing, "state", OK, "galph, iteration 1 (idle)"),
    Row(state_missing, "state", PROBLEM, "is missing", "`orchestrator init`"),
    Row(state_not_committed, "state", PROBLEM, "is not committed", "`orchestrator init`"),
    Row(state_cut, "state", PROBLEM, "ends before its object is closed", "git checkout COMMIT -- sync/state.json"),
    Row(state_elsewhere, "state", PROBLEM, "belongs to the branch main", "`git switch main`"),
    Row(running_elsewhere, "state", PROBLEM, "galph runs since 2026-01-20", "`orchestrator stamp galph fail`"),
    Row(failed, "state", PROBLEM, "galph's turn of iteration 1 failed: the agent agent ended", "`orchestrator retry`"),
    Row(exit_flag, "state", WARNING, "all done", "`orchestrator resume`"),
    Row(paused, "state", WARNING, "paused", "`orchestrator resume`"),
    Row(nothing, "prompts", OK, "supervisor.md, main.md, reviewer.md in "),
    Row(nothing, "prompts", OK, "supervisor.md, main.md in", args=["--no-router", "--router-allowlist", "main"]),
    Row(prompts_gone, "prompts", PROBLEM, "supervisor.md, main.md", "`orchestrator init`"),
    Row(nothing, "prompts", PROBLEM, "prompts: choose.md", "`orchestrator init`", ["--router-prompt", "choose"]),
    Row(nothing, "prompts", PROBLEM, "supervisor.md", "`router.allowlist`", ["--router-allowlist", "main,reviewer"]),
    Row(prompt_empty, "prompts", WARNING, "/main.md is empty", "write it"),
    Row(
        review_gone,
        "prompts",
        WARNING,
        "router.md may choose what is not in",
        "`router.allowlist`",
        ["--router-prompt", "router", "--router-review-every-n", "0"],
    ),
    Row(
        nothing, "agents", OK, "galph supervisor.md, ralph main.md, galph reviewer.md: ", args=["--agent", "checklist"]
    ),
    Row(nothing, "agents", OK, "ralph main.md: ", args=["--agent-role", "ralph=checklist"]),
    Row(nothing, "agents", PROBLEM, "no agent is configured to run supervisor.md for galph", "give --agent"),
    Row(nothing, "agents", PROBLEM, "'claud' was not found", "checklist", ["--agent", "claud"]),
    Row(agent_not_executable, "agents", PROBLEM, "is not executable", "chmod +x", ["--agent", "./my-agent.sh"]),
    Row(
        unsandboxed, "agents", ADVICE, "asks nobody before it acts: it runs unsandboxed", "container", ["--agent", "c"]
    ),
    Row(yes_man, "agents", ADVICE, "-y asks nobody before it acts", "container", ["--agent", "c"]),
    Row(nothing, "locks", OK, "nobody holds this clone"),
    Row(holder, "locks", ADVICE, f"process {os.getpid()} holds this clone", "`orchestrator stop`"),
    Row(lock_of_a_git, "locks", ADVICE, "a git works here", "let it end"),
    Row(lock_of_a_turn, "locks", ADVICE, "is left of galph's turn of iteration 1", "the next start removes it"),
    Row(index_lock, "locks", PROBLEM, "a git has died and left ", "/.git/index.lock`"),
    Row(nothing, "leftovers", OK, "nothing is left"),
    Row(holder, "leftovers", OK, "a daemon runs"),
    Row(Bench.killed, "leftovers", ADVICE, "galph's turn of iteration 1 is in progress", "`orchestrator run --once`"),
    Row(turn_elsewhere, "leftovers", PROBLEM, "in progress on the branch main", "`git switch main`"),
    Row(left_process, "leftovers", WARNING, "processes of an earlier turn still live", "`kill "),
    Row(
        process_of_the_turn, "leftovers", WARNING, "processes of an earlier turn still live", "the next start ends them"
    ),
    Row(changed, "leftovers", PROBLEM, "changed and not committed: src/app.py", "`git stash`"),
    Row(carried_and_changed, "leftovers", PROBLEM, "changed and not committed: README.md", "`git stash`"),
    Row(rescued, "leftovers", ADVICE, "1 rescue ref of", "`orchestrator rescue list`"),
    Row(journal_broken, "leftovers", PROBLEM, "the journal cannot be read", "mv "),
    Row(nothing, "disk", OK, "free for the project, git's own files, logs"),
    Row(free((1 << 30) - 1), "disk", WARNING, "1023 MiB free for the project", "df -h"),
    Row(free((100 << 20) - 1), "disk", PROBLEM, "99 MiB free for the project", "df -h"),
    Row(logs_in_the_way, "disk", WARNING, "no log will be kept", "ls -ld ", ["--logdir", "diary/logs"]),
    Row(no_tmpdir, "disk", WARNING, "another folder will be used", "ls -ld "),
    Row(own_folder_in_the_way, "disk", PROBLEM, "git's own files cannot be written", "ls -ld "),
    Row(nothing, "clock", OK, "20"),
    Row(commit_of_tomorrow, "clock", WARNING, "the last commit is dated 2090-01-01T00:00:00Z", "timedatectl"),
    Row(state_of_tomorrow, "clock", WARNING, "the state is dated 2090-01-01T00:00:00Z", "timedatectl"),
    Row(nothing, "file events", OK, "are noticed at once"),
]


def called(row: Row) -> str:
    return f"{row.name}-{row.level}-{row.arrange.__name__}"


@pytest.mark.parametrize("row", ROWS, ids=called)
def test_the_doctor_finds(row: Row, bench: Bench, capsys: Capture) -> None:
    row.arrange(bench)

    findings, code = bench.examined(capsys, *row.args)

    fits = [item for item in findings if (item.name, item.level) == (row.name, row.level) and row.found in item.found]
    assert fits, findings
    assert row.remedy in fits[0].remedy
    assert (fits[0].remedy == "") == (row.level is OK)
    assert (code == 0) == all(finding.level is not PROBLEM for finding in findings)


def test_every_check_has_its_rows() -> None:
    assert {row.name for row in ROWS} == {check.name for check in CHECKS}


@pytest.fixture
def scene(project: Project) -> Iterator[Scene]:
    with Loop(SystemClock()) as loop:
        yield Scene(Git(loop, project.path, inherited()), inherited(), {}, SystemClock())


def test_a_clock_that_forgot_the_year_is_told(scene: Scene) -> None:
    class Reset(SystemClock):
        def now(self) -> datetime:
            return datetime(1970, 1, 1, tzinfo=UTC)

    told = list(clock(Scene(scene.here, scene.environment, {}, Reset())))

    assert {finding.level for finding in told} == {WARNING}
    assert told[0].found == "the machine's clock says 1970-01-01T00:00:00Z"
    assert any("the last commit is dated" in finding.found for finding in told)


def test_a_system_without_a_file_watch_left_is_told(scene: Scene) -> None:
    assert scene.workspace
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # the next descriptor is refused
    try:
        told = list(file_events(scene))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert [finding.level for finding in told] == [ADVICE]
    assert "max_user_instances" in told[0].remedy


# --- what is not wrong -----------------------------------------------------------------------------------------------


def ignored(bench: Bench) -> None:
    bench.project.write(".gitignore", "sync/\nprompts/\nlogs/\n")
    bench.project.commit("ignored")


def untracked(bench: Bench) -> None:
    bench.project.write("notes.txt", "mine\n")


def carried(bench: Bench) -> None:
    file("actors: {galph: {leftovers: keep}}\n")(bench)
    assert bench.project.call("run", "--json", "--once", "--agent", bench.project.agent("echo >> src/app.py")) == 0


def to_be_retried(bench: Bench) -> None:
    rescued(bench)
    assert bench.project.call("retry", "--json") == 0
    bench.project.write("README.md", "a person helps\n")


def gates(bench: Bench) -> None:
    """Set gates whose first word only a shell can judge, or finds, and a command that is there."""
    file('actors: {ralph: {gates: ["[ -e x ]", "cd src && ls", "(exit 0)", "test -d src", "./run.sh"]}}\n')(bench)
    bench.project.write(
        "orchestration.yaml", (bench.here / "orchestration.yaml").read_text() + "notify: {command: [./run.sh]}\n"
    )
    executable(bench.here / "run.sh", "#!/bin/sh\n")
    bench.project.commit("programs")


@pytest.mark.parametrize("arrange", [ignored, untracked, carried, to_be_retried, Bench.killed, gates])
def test_what_a_run_would_take_is_no_problem(arrange: Callable[[Bench], None], bench: Bench, capsys: Capture) -> None:
    arrange(bench)

    findings, code = bench.examined(capsys, "--agent", "checklist")

    assert [finding for finding in findings if finding.level in {WARNING, PROBLEM}] == []
    assert code == 0
    assert bench.project.call("run", "--once", "--agent", bench.project.agent("exit 0")) in {0, 4}  # not refused


# --- the whole -------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time of change and bytes of every file and folder below."""
    paths = sorted(folder.rglob("*"))
    return {str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.mark.parametrize(
    "arrange", [nothing, no_repository, own_folder_in_the_way, Bench.killed, carried_and_changed, merging, index_lock]
)
def test_nothing_is_changed(arrange: Callable[[Bench], None], bench: Bench, capsys: Capture) -> None:
    arrange(bench)
    before = everything(bench.here)

    bench.examined(capsys)

    assert everything(bench.here) == before


def test_a_first_problem_does_not_hide_the_others(bench: Bench, capsys: Capture) -> None:
    failed(bench)
    old_git(bench)
    merging(bench)
    index_lock(bench)
    prompts_gone(bench)
    variable(bench)
    free(0)(bench)

    findings, code = bench.examined(capsys)

    wrong = {finding.name for finding in findings if finding.level is PROBLEM}
    assert wrong == {"git", "branch", "configuration", "state", "prompts", "agents", "locks", "disk"}
    assert code == 3


def test_what_cannot_be_looked_at_is_named(bench: Bench, capsys: Capture) -> None:
    no_repository(bench)
    bench.project.write("orchestration.yaml", "nonsense: 1\n")

    findings, _ = bench.examined(capsys)

    assert findings[-1] == Finding(
        "left out",
        ADVICE,
        "not looked at: branch, sharing, state, prompts, agents, locks, leftovers, file events",
        "mend the problems above, and look again",
    )


@pytest.mark.parametrize(
    ("arrange", "args", "code"),
    [
        (nothing, ["--agent", "checklist"], 0),
        (nothing, [], 2),
        (prompts_gone, ["--agent", "checklist", "-c", "limits.iterations=x"], 2),
        (failed, [], 3),
        (nothing, ["--agnet", "checklist"], 2),
        (nothing, ["-c", "limits.iteratoins=1"], 2),
    ],
)
def test_the_exit_code_says_who_must_act(
    arrange: Callable[[Bench], None], args: list[str], code: int, bench: Bench
) -> None:
    arrange(bench)

    assert bench.project.call("doctor", *args) == code


def test_a_person_reads_a_line_a_finding_and_its_remedy_below(bench: Bench, capsys: Capture) -> None:
    failed(bench)
    capsys.readouterr()

    assert bench.project.call("doctor") == 3

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✓ git           git version 2.")
    agents = next(number for number, line in enumerate(lines) if line.startswith("✗ agents"))
    assert lines[agents + 1] == "                no agent is configured to run main.md for ralph"
    assert lines[agents + 3].startswith("                give --agent, or set `agent.default`")
    assert any(line.startswith("! branch        main") for line in lines)
    assert any(line.startswith("✗ state         galph's turn") for line in lines)


def type_remedy(bench: Bench, capsys: Capture, name: str) -> None:
    """Type the first command that stands in a check's remedy."""
    programs = bench.here.parent / "programs"
    programs.mkdir(exist_ok=True)
    executable(programs / "orchestrator", f'#!/bin/sh\nexec {sys.executable} {DOOR} "$@"\n')
    findings, _ = bench.examined(capsys, "--agent", "checklist")
    command = next(finding for finding in findings if finding.name == name).remedy.split("`")[1]
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", command], cwd=bench.here, check=True, capture_output=True, env={**os.environ, "PATH": path}
    )


def test_what_it_says_to_type_leads_from_an_empty_folder_to_a_run(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fresh").mkdir()
    bench = Bench(Project(tmp_path / "fresh"), monkeypatch, ExitStack())

    for name in ("repository", "state", "branch"):
        type_remedy(bench, capsys, name)

    findings, code = bench.examined(capsys, "--agent", "checklist")
    assert {finding.level for finding in findings} == {OK}
    assert code == 0
    assert bench.project.call("run", "--once", "--agent", bench.project.agent("exit 0")) == 0
    assert bench.project.git("branch", "--show-current") == "agents"


def test_a_branch_of_its_own_goes_on_after_turns_on_another_and_that_one_still_can(
    bench: Bench, capsys: Capture
) -> None:
    agent = bench.project.agent("exit 0")
    assert bench.project.call("run", "--json", "-n", "2", "--agent", agent) == 0

    type_remedy(bench, capsys, "branch")

    assert bench.project.call("run", "--json", "-n", "1", "--agent", agent) == 0
    assert (bench.project.state()["branch"], bench.project.state()["iteration"]) == ("agents", 4)
    bench.project.git("switch", "--quiet", "main")
    assert bench.project.call("run", "--json", "-n", "1", "--agent", agent) == 0
    assert (bench.project.state()["branch"], bench.project.state()["iteration"]) == ("main", 4)
