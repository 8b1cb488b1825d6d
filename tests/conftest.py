"""Hermetic ground: a sealed home, real git repositories, agents that are real executables."""

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestration import cli, failpoints

Capture = pytest.CaptureFixture[str]
Meanwhile = Callable[[str, Callable[[], object]], None]

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "orchestration" / "orchestrator.py"
SUBJECT = "RALPH AUTO (prompt=main.md) (iter=00001): "
"""How the subject of a commit of ralph's first leftovers begins."""


@pytest.fixture(autouse=True)
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's git configuration, credentials or environment reaches a test."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "ORCH", "GALPH_", "SSH_", "XDG_", "CLAUDE", "ANTHROPIC", "OPENAI")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A Person\n\temail = person@localhost\n[init]\n\tdefaultBranch = main\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name, value in {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "TMPDIR": str(scratch),
        "NO_COLOR": "1",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))


@dataclass(frozen=True)
class Project:
    """A person's repository, and the ways to use the tool in it."""

    path: Path

    def git(self, *args: str, check: bool = True) -> str:
        """Run git here, as the person would."""
        done = subprocess.run(["git", *args], cwd=self.path, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"git {args}: {done.stderr}"
        return done.stdout.rstrip("\n")

    def write(self, path: str, text: str | bytes) -> Path:
        """Write a file of the work tree."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def commit(self, message: str) -> str:
        """Commit everything that is in the work tree."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)
        return self.git("rev-parse", "HEAD")

    def agent(self, script: str, name: str = "agent") -> str:
        """Make an executable outside of the repository from shell text; return its path for --agent."""
        return executable(self.path.parent / name, "#!/bin/sh\n" + textwrap.dedent(script))

    def python_agent(self, script: str, name: str = "agent") -> str:
        """Make an executable outside of the repository from Python text; return its path for --agent."""
        return executable(self.path.parent / name, f"#!{sys.executable}\n" + textwrap.dedent(script))

    def call(self, *args: str) -> int:
        """Run a command line in this process and return its exit code."""
        before = Path.cwd()
        os.chdir(self.path)
        try:
            return cli.execute(list(args))
        finally:
            os.chdir(before)

    def run(
        self, *args: str, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line in a process of its own."""
        return subprocess.run(
            [sys.executable, str(DOOR), *args],
            cwd=self.path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command line and return its process."""
        return subprocess.Popen(
            [sys.executable, str(DOOR), *args],
            cwd=self.path,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def state(self, revision: str = "HEAD") -> dict[str, Any]:
        """Read the state that is committed."""
        loaded: dict[str, Any] = json.loads(self.git("show", f"{revision}:sync/state.json"))
        return loaded

    def subjects(self) -> list[str]:
        """Return the subjects of the branch's commits, oldest first."""
        return self.git("log", "--reverse", "--format=%s").splitlines()

    def dirt(self) -> str:
        """Return what differs from HEAD and what is untracked."""
        return self.git("status", "--porcelain", "-uall")

    def events(self) -> list[dict[str, Any]]:
        """Read the events of the newest run."""
        text = (self.path / "logs" / "main" / "latest" / "events.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def journal(self) -> str:
        """Return the journal's entry by name."""
        file = self.path / ".git" / "orchestration" / "journal.json"
        return json.loads(file.read_text())["entry"]["type"] if file.exists() else "idle"

    def rescued(self) -> list[str]:
        """Return the rescue refs."""
        return self.git("for-each-ref", "--format=%(refname)", "refs/rescue/").split()


def executable(path: Path, text: str) -> str:
    """Write an executable file and return its path; one that is there already may be just starting, and is left."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def repository(path: Path) -> Project:
    """Make a repository with one commit that knows nothing of this tool."""
    path.mkdir(parents=True)
    project = Project(path)
    project.git("init", "--quiet")
    project.write("README.md", "# A project\n")
    project.write("src/app.py", "print('hello')\n")
    project.commit("first")
    return project


def script(project: Project, capsys: Capture, *args: str, code: int = 0) -> Any:  # noqa: ANN401 - any JSON
    """Run a command as a script does; return what it printed."""
    capsys.readouterr()
    assert project.call(*args, "--json") == code
    return json.loads(capsys.readouterr().out)


def person(project: Project, capsys: Capture, *args: str, code: int = 0) -> str:
    """Run a command as a person does; return what it printed."""
    capsys.readouterr()
    assert project.call(*args) == code
    told = capsys.readouterr()
    return told.out + told.err


def scripted(project: Project, capsys: Capture, *args: str, code: int = 0) -> list[str]:
    """Run the daemon as a script does; return its lines."""
    capsys.readouterr()
    assert project.call(*args, "--json") == code
    return capsys.readouterr().out.splitlines()


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file and folder below: mode, time of change, bytes."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_mtime_ns, data)
    return found


@pytest.fixture
def bare_project(tmp_path: Path) -> Project:
    """Give a repository that knows nothing of this tool."""
    return repository(tmp_path / "project")


@pytest.fixture
def project(bare_project: Project) -> Project:
    """Give a repository that `init` has set up."""
    assert bare_project.call("init", "--json") == 0
    return bare_project


class Ran(NamedTuple):
    """One started daemon: its exit code, how it ended, and what it warned of."""

    exit_code: int
    code: str
    reason: str
    remedy: str
    notices: dict[str, str]


@pytest.fixture
def ralphs_turn(project: Project) -> None:
    """Make it ralph's turn, whose policy is to commit leftovers."""
    assert project.call("stamp", "galph", "ok", "--json") == 0


@pytest.fixture
def run(project: Project, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ralph's turn, or with --once galph's, with an agent made from shell text."""

    def one_turn(script: str = "true", *options: str, agent: str | None = None, where: Project = project) -> Ran:
        capsys.readouterr()
        code = where.call("run", "-n", "1", "--json", "--agent", agent or project.agent(script), *options)
        return told(code, capsys.readouterr().out)

    return one_turn


def told(code: int, out: str) -> Ran:
    """Read what a daemon printed with --json: events, and perhaps a refusal."""
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    if "error" in events[-1]:
        return Ran(code, events[-1]["error"], events[-1]["message"], events[-1]["remedy"], {})
    notices = {event["code"]: event["text"] for event in events if event.get("level") == "warning"}
    return Ran(code, events[-1]["code"], events[-1]["reason"], events[-1]["remedy"], notices)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Let a person act, once, at a named moment of a run."""

    def at(name: str, act: Callable[[], object]) -> None:
        pending = [name]

        def hit(here: str) -> None:
            if here in pending:
                pending.remove(here)
                act()

        monkeypatch.setattr(failpoints, "hit", hit)

    return at


def assert_at_rest(project: Project) -> None:
    """Commit, index and work tree hold the same state, and nothing is staged."""
    committed = project.git("show", "HEAD:sync/state.json") + "\n"
    assert (project.path / "sync/state.json").read_text() == committed
    assert project.git("diff", "--cached", "--name-status") == ""
    assert "sync/" not in project.dirt()
    assert project.journal() == "idle"


def untouched(project: Project) -> dict[str, object]:
    """Return all that a refusal must leave alone: refs, HEAD, the index's bytes, every file."""
    seen: dict[str, object] = {"refs": project.git("for-each-ref")}
    git_dir = Path(project.git("rev-parse", "--absolute-git-dir"))
    for name in ("HEAD", "index", "MERGE_MSG"):
        seen[name] = (git_dir / name).read_bytes() if (git_dir / name).exists() else None
    for path in project.path.rglob("*"):
        if ".git" not in path.parts and path.is_file():
            seen[str(path)] = (path.lstat().st_mode, path.read_bytes())
    return seen


def kept(project: Project, ref: str, path: str) -> str:
    """Return a file of a commit."""
    return project.git("show", f"{ref}:{path}")


def full_tree(project: Project) -> str:
    """Return the tree of the whole work tree but the state, as git itself would record it."""
    index = project.path.parent / "full-index"
    shutil.copy(project.path / ".git/index", index)
    tree = ""
    for command in (["add", "-A"], ["rm", "-q", "--cached", "--ignore-unmatch", "sync/state.json"], ["write-tree"]):
        environment = {**os.environ, "GIT_INDEX_FILE": str(index)}
        done = subprocess.run(
            ["git", *command], cwd=project.path, env=environment, capture_output=True, text=True, check=True
        )
        tree = done.stdout.strip()
    return tree


def entries(project: Project, tree: str) -> list[str]:
    """Return the entries of a tree, but for the state."""
    return [entry for entry in project.git("ls-tree", "-r", tree).splitlines() if not entry.endswith("sync/state.json")]
