"""Hermetic ground: a sealed home, real git repositories, agents that are real executables."""

import json
import os
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration import cli

DOOR = Path(__file__).resolve().parents[1] / "scripts" / "orchestration" / "orchestrator.py"


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
    """Write an executable file and return its path."""
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


@pytest.fixture
def bare_project(tmp_path: Path) -> Project:
    """Give a repository that knows nothing of this tool."""
    return repository(tmp_path / "project")


@pytest.fixture
def project(bare_project: Project) -> Project:
    """Give a repository that `init` has set up."""
    assert bare_project.call("init", "--json") == 0
    return bare_project
