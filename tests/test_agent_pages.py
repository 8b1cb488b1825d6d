"""The pages about agents: every ending is in the table, and the sandbox that they show keeps an agent in."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Project, executable
from orchestration.config import resolve
from orchestration.endings import Kind
from pages import ROOT, read
from pair import until

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
try() {{ if sh -c "$2" 2>/dev/null; then echo "$1: yes"; else echo "$1: no"; fi >>plans/seen.md; }}
mkdir -p plans
try 'reads a key' 'cat "{home}/.ssh/id"'
echo >../outside
try 'plants a hook' 'echo true >.git/hooks/pre-commit'
try 'changes what git obeys' 'git config core.pager evil'
try 'changes the journal' 'echo >.git/orchestration/journal.json'
try 'sees other processes' 'test -e /proc/{pid}/environ'
try 'writes its TMPDIR' 'echo >"$TMPDIR/mine"'
try 'commits' 'echo more >>src/app.py; git commit -qam "from inside"'
"""


def recipe(program: str) -> str:
    """Return the script of the page that starts a program."""
    (found,) = ["\n".join(block.lines) for block in PAGE.blocks if f"exec {program}" in "\n".join(block.lines)]
    return f"{found}\n"


def seen(project: Project) -> list[str]:
    """Return what the agent could do, of what it tried."""
    tried = dict(line.split(": ") for line in project.git("show", "HEAD:plans/seen.md").splitlines())
    assert len(tried) > 6
    assert not (project.path.parent / "outside").exists()
    return [what for what, can in tried.items() if can == "yes"]


def escapes() -> str:
    """Return what an agent tries, beside a person's key in the home."""
    home = Path(os.environ["HOME"])
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("a key\n")
    return ESCAPES.format(home=home, pid=os.getpid())


def test_the_sandbox_on_the_page_keeps_an_agent_in(project: Project) -> None:
    require_bubblewrap()
    home = Path(os.environ["HOME"])
    (home / ".claude").mkdir()
    executable(project.path / "sandbox.sh", recipe("bwrap"))
    session = """try 'keeps a session' 'touch "$HOME/.claude/session"'\nsetsid sleep 600 >/dev/null 2>&1 &\n"""
    agent = project.agent(escapes() + session)
    project.write("orchestration.yaml", f"agents: {{mine: {{command: [{agent}], wrap: [./sandbox.sh]}}}}\n")
    project.commit("a sandbox")

    assert project.run("run", "--once", "-q", "--agent", "mine").returncode == 0

    assert seen(project) == ["writes its TMPDIR", "commits", "keeps a session"]
    assert "from inside" in project.subjects()
    assert (home / ".claude" / "session").exists()


PODMAN = """#!/bin/sh
export CONTAINERS_CONF={folder}/containers.conf CONTAINERS_STORAGE_CONF={folder}/storage.conf
exec unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"' podman "$@"
"""
"""podman as docker, for a machine that lets it make no cgroups: crun refuses a hierarchy of both versions."""
CONTAINERS = """[containers]
cgroups = "disabled"
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "crun"
"""
STORAGE = """[storage]
driver = "vfs"
graphroot = "{folder}/images"
runroot = "{folder}/containers"
"""


def require_docker(folder: Path, image: str) -> Path:
    """Return a folder with a program `docker` in it that has an image with a shell and git; skip where none runs."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "docker"
    real = shutil.which("docker")
    if real and subprocess.run([real, "info"], capture_output=True, check=False).returncode == 0:
        program.symlink_to(real)
    elif shutil.which("podman") and shutil.which("unshare") and os.getuid() == 0:
        executable(program, PODMAN.format(folder=folder))
        (folder / "containers.conf").write_text(CONTAINERS)
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    else:
        pytest.skip("no container engine here; on Debian, as root: apt-get install podman crun catatonit")
    root = folder / "root"
    for name in ("sh", "git", "cat", "sleep", "mkdir", "id", "env", "test"):
        found = Path(shutil.which(name) or name).resolve()
        libraries = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        for file in [str(found), *re.findall(r"/\S+", libraries)]:
            (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / file[1:])
        (root / "bin").mkdir(exist_ok=True)
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to(found)
    (root / "tmp").mkdir()
    packed = shutil.make_archive(str(folder / "image"), "tar", root)
    for words in (["import", packed, image], ["run", "--rm", image, "git", "--version"]):
        tried = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no container runs here: {tried.stderr.strip()}")
    return program.parent


def removed(folder: Path) -> bool:
    """Remove what can be removed by now; tell whether that was all."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def boxed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Return a project whose agent, the file agent.sh in it, runs in the container of the page."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # the engine's sockets want a short path
    try:
        monkeypatch.setenv("PATH", f"{require_docker(folder, 'localhost/box:1')}:{os.environ['PATH']}")
        executable(project.path / "sandbox.sh", recipe("docker").replace("my-image", "localhost/box:1"))
        project.write("orchestration.yaml", "agents: {mine: {command: [sh, ./agent.sh], wrap: [./sandbox.sh]}}\n")
        yield project
    finally:  # the engine tidies up behind a client that was killed
        until(lambda: removed(folder))


def test_the_container_on_the_page_keeps_an_agent_in(boxed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "of-the-environment")
    environment = (
        """try 'has the environment' 'test -n "$OTHER_TOKEN"'\ntry 'knows its turn' 'test "$ORCH_ACTOR" = galph'\n"""
    )
    boxed.write("agent.sh", escapes() + environment)
    boxed.commit("a container")

    done = boxed.run("run", "--once", "-q", "--agent", "mine")
    assert done.returncode == 0, done.stdout

    assert seen(boxed) == ["writes its TMPDIR", "commits", "knows its turn"]
    assert "from inside" in boxed.subjects()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_runs_in_the_container_ends_with_its_daemon(boxed: Project, number: signal.Signals) -> None:
    seconds = f"1{os.getpid()}"
    boxed.write("agent.sh", f"cat >/dev/null; exec sleep {seconds}\n")
    boxed.commit("a container")
    daemon = boxed.start("run", "--once", "-q", "--agent", "mine")
    until(lambda: sleeping(seconds))

    daemon.send_signal(number)
    daemon.communicate(timeout=60)
    if number is signal.SIGKILL:
        assert sleeping(seconds)
        assert boxed.run("run", "--once", "-q", "--agent", "true").returncode == 0

    until(lambda: not sleeping(seconds))


def sleeping(seconds: str) -> bool:
    """Tell whether a process sleeps that long."""
    wanted = f"sleep\0{seconds}\0".encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes() == wanted:
                return True
    return False
