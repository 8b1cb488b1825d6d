"""Every way in leads to the same program, whatever the user's repository looks like."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DOOR, Project, executable
from orchestration import cli
from orchestration.errors import Refused
from pages import ROOT

CONSOLE_SCRIPT = str(Path(sys.executable).with_name("orchestrator"))


def ways() -> dict[str, list[str]]:
    return {
        "console script": [CONSOLE_SCRIPT],
        "module": [sys.executable, "-m", "orchestration"],
        "file": [sys.executable, str(DOOR)],
        "file by another name": [sys.executable, str(DOOR.parent / ".." / "orchestration" / "orchestrator.py")],
    }


@pytest.mark.parametrize("way", ways())
def test_every_door_runs_the_loop_in_a_repository_that_has_its_own_scripts_package(project: Project, way: str) -> None:
    project.write("scripts/__init__.py", "raise SystemExit('the user\\'s scripts package was imported')\n")
    project.write("scripts/orchestration.py", "raise SystemExit('the user\\'s module was imported')\n")
    project.write("deep/er/keep", "")
    project.commit("scripts of their own")
    agent = project.agent("exit 0")

    done = subprocess.run(
        [*ways()[way], "--mode", "combined", "-n", "1", "--agent", agent],
        cwd=project.path / "deep" / "er",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert project.state()["iteration"] == 2


@pytest.mark.parametrize("way", ways())
def test_every_door_knows_its_version(tmp_path: Path, way: str) -> None:
    done = subprocess.run(
        [*ways()[way], "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.startswith("orchestrator 0.")


@pytest.mark.parametrize("module", ["click", "msgspec"])
@pytest.mark.parametrize("way", ways())
def test_ctrl_c_while_a_door_opens_ends_it_without_a_word(tmp_path: Path, way: str, module: str) -> None:
    interrupts = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / f"{module}.py").write_text(interrupts)

    done = subprocess.run(
        [*ways()[way], "status"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_a_door_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(DOOR)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "is not installed" in done.stderr
    assert "pip install" in done.stderr


def test_a_daemon_started_from_a_git_hook_works_on_its_own_repository(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", str(other)], check=True)
    hook = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git/index")}

    done = project.run("-n", "1", "--agent", project.agent("git rev-parse --show-toplevel"), env=hook)

    assert done.returncode == 0, done.stdout
    assert str(project.path) in done.stdout
    assert os.listdir(other) == [".git"]  # noqa: PTH208 - names are wanted
    assert not (other / ".git/index").exists()


def test_windows_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match="sessions") as refused:
        cli.require_posix("win32")

    assert (refused.value.exit_code, refused.value.remedy) == (3, "use WSL")


def test_a_first_start_without_a_network_says_so_in_one_line(tmp_path: Path) -> None:
    python = executable(
        tmp_path / "python3",
        f"""#!/bin/sh
        case "$*" in
        *"pip --version"*) exit 0 ;;
        *"pip --python"*) echo "Traceback: no route to host" >&2; exit 1 ;;
        esac
        exec {sys.executable} "$@"
        """,
    )
    for name in ("scripts/setup-venv", "pyproject.toml"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)

    done = subprocess.run(
        [tmp_path / "clone/scripts/setup-venv"],
        env={**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    _, told = done.stderr.splitlines()
    assert told.startswith("error: pip could not install what is needed, for which it needs a network once")
    assert "no route to host" in Path(told.rpartition(" ")[2]).read_text()
    assert not (tmp_path / "clone/.venv/ready").exists()
