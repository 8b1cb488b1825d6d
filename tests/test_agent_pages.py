"""The pages about agents: every ending is in the table, and the sandbox that they show keeps an agent in."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import Project, executable
from orchestration.config import resolve
from orchestration.endings import Kind
from pages import ROOT, read

PAGE = read(ROOT / "docs" / "agents.md")


def test_the_table_holds_every_kind_of_ending() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE.text, re.MULTILINE)) == sorted(Kind)


@pytest.mark.parametrize("name", ["agents", "claude", "codex", "overnight"])
def test_every_setting_that_a_page_shows_is_one(name: str, tmp_path: Path) -> None:
    shown = [block for block in read(ROOT / "docs" / f"{name}.md").blocks if block.kind == "yaml"]
    assert shown

    for block in shown:
        file = tmp_path / "orchestration.yaml"
        file.write_text("\n".join(block.lines) + "\n")
        assert resolve(file, {}, {}, tmp_path).warnings == []


def require_bubblewrap() -> None:
    """Skip where it is not there, or may make no sandbox."""
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("no bubblewrap here; on Debian: apt-get install bubblewrap")
    tried = subprocess.run(
        [program, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"bubblewrap makes no sandbox here: {tried.stderr.strip()}")


ESCAPES = """
cat >/dev/null
try() { if sh -c "$2" 2>/dev/null; then echo "$1: yes"; else echo "$1: no"; fi >>plans/seen.md; }
mkdir -p plans
try 'reads a key' 'cat "$HOME/.ssh/id"'
try 'writes beside the project' 'touch ../outside'
try 'plants a hook' 'echo true >.git/hooks/pre-commit'
try 'changes what git obeys' 'git config core.pager evil'
try 'changes the journal' 'echo >.git/orchestration/journal.json'
try 'sees other processes' 'test -e /proc/{pid}/environ'
try 'writes its TMPDIR' 'touch "$TMPDIR/mine"'
try 'keeps a session' 'touch "$HOME/.claude/session"'
try 'commits' 'echo more >>src/app.py; git commit -qam "from inside"'
setsid sleep 600 >/dev/null 2>&1 &
"""


def test_the_sandbox_on_the_page_keeps_an_agent_in(project: Project) -> None:
    require_bubblewrap()
    (recipe,) = ["\n".join(block.lines) for block in PAGE.blocks if "exec bwrap" in "\n".join(block.lines)]
    home = Path(os.environ["HOME"])
    for folder in (".ssh", ".claude"):
        (home / folder).mkdir()
    (home / ".ssh" / "id").write_text("a key\n")
    executable(project.path / "sandbox.sh", recipe + "\n")
    agent = project.agent(ESCAPES.replace("{pid}", str(os.getpid())))
    project.write("orchestration.yaml", f"agents: {{mine: {{command: [{agent}], wrap: [./sandbox.sh]}}}}\n")
    project.commit("a sandbox")

    assert project.run("run", "--once", "-q", "--agent", "mine").returncode == 0

    seen = dict(line.split(": ") for line in project.git("show", "HEAD:plans/seen.md").splitlines())
    assert [what for what, can in seen.items() if can == "yes"] == ["writes its TMPDIR", "keeps a session", "commits"]
    assert len(seen) == 9
    assert "from inside" in project.subjects()
    assert (home / ".claude" / "session").exists()
    assert not (project.path.parent / "outside").exists()
