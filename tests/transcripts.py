"""The command lines that pages show, run as they stand: what a page says happens, happens.

A ```console block is a transcript: `$ command`, continued by `> ` lines, and what it prints. A comment above a block
says where it runs: `<!-- run: in=GROUND -->` begins a fresh ground that lasts until the next such comment; a page
begins in `project`. `<!-- not run: reason -->` excuses one block. An indented block with a run-comment is command
lines alone.
"""

import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from conftest import DOOR, Project, executable, repository
from pages import ROOT, Block, Page

PATIENCE = 120.0
"""Seconds after which a transcript counts as hanging."""
ANYTHING = "[...]"
"""In what a page shows: any lines, where it stands alone; otherwise any rest of a line."""
PLACE = "/home/you/project"
"""How a page writes the folder in which its commands run."""

_END = "--- end of the command, exit"
_PROGRAMS = re.compile(r"(\$ |(orchestrator|scripts/\w+|pytest|python3?|pipx?|git)( |$))")
_SHELLS = {"console", "sh", "bash", "zsh", "shell", "shell-session"}
_VARIES = {
    re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z"): "TIME",
    re.compile(r"\b\d+(\.\d+)? ?(s|seconds?|min|minutes?)\b( ago)?"): "N s",
    re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b"): "ID",
    re.compile(r"\b(process|pid) \d+"): r"\1 N",
}


class Step(NamedTuple):
    """One command line, the exit code that the page promises, and the lines that it shows (none: it does not say)."""

    line: int
    command: str
    exit_code: int
    shown: list[str]


class Session(NamedTuple):
    """Command lines that one shell runs, one after another, on one ground."""

    page: str
    ground: str
    steps: list[Step]

    def __str__(self) -> str:
        """Name the session by the first line that it runs."""
        return f"{self.page}:{self.steps[0].line}"


class Printed(NamedTuple):
    """How a command line ended."""

    exit_code: int
    lines: list[str]


# --- reading ----------------------------------------------------------------------------------------------------------


def sessions(page: Page) -> list[Session]:
    """Return what a page asks to run."""
    found: list[Session] = []
    ground = _ground("")
    fresh = True
    for block in page.blocks:
        if block.mark.startswith("run:"):
            ground, fresh = _ground(block.mark), True
        if not _runs(block):
            continue
        if fresh:
            found.append(Session(page.name, ground, []))
            fresh = False
        found[-1].steps.extend(_steps(block))
    return [session for session in found if session.steps]


def faults(page: Page) -> Iterator[str]:
    """Tell what keeps a command line of a page from being run."""
    for block in page.blocks:
        where = f"{page.name}:{block.line}:"
        if block.mark.startswith("run:") and _ground(block.mark) not in GROUNDS:
            yield f"{where} `{block.mark}`: write `run: in=` and one of {', '.join(GROUNDS)}"
        elif block.mark.startswith("not run:") and not block.mark.removeprefix("not run:").strip():
            yield f"{where} `not run:` gives no reason"
        elif _runs(block) and not _steps(block):
            yield f"{where} a console block begins with `$ ` and a command"
        elif not _runs(block) and not block.mark and _holds_commands(block):
            yield f"{where} nobody runs this: make it a console block, or say above it <!-- not run: why -->"


def _runs(block: Block) -> bool:
    asked = block.kind == "console" or (block.kind == "indented" and block.mark.startswith("run:"))
    return asked and not block.mark.startswith("not run:")


def _holds_commands(block: Block) -> bool:
    return block.kind in _SHELLS or any(_PROGRAMS.match(line) for line in block.lines)


def _ground(mark: str) -> str:
    return mark.removeprefix("run:").strip().removeprefix("in=") if mark else "project"


def _steps(block: Block) -> list[Step]:
    lines = [f"$ {line}" for line in block.lines] if block.kind == "indented" else block.lines
    found: list[Step] = []
    if not lines[0].startswith("$ "):
        return found
    for number, line in enumerate(lines, block.line + (block.kind != "indented")):
        if line.startswith("$ "):
            promised = re.search(r"# exit (\d+)\s*$", line)
            found.append(Step(number, line[2:], int(promised[1]) if promised else 0, []))
        elif re.match(r">( |$)", line) and not found[-1].shown:
            found[-1] = found[-1]._replace(command=f"{found[-1].command}\n{line[2:]}")
        elif line.strip():
            found[-1].shown.append(line.rstrip())
    return found


# --- running ----------------------------------------------------------------------------------------------------------


def run(session: Session, folder: Path) -> list[Printed]:
    """Run a session on a fresh ground in `folder`; a command that ends the shell is the last of what is returned."""
    ground = GROUNDS[session.ground](folder)
    script = "".join(
        f"eval {shlex.quote(step.command)} </dev/null 2>&1; printf '\\n{_END} %d\\n' \"$?\"\n" for step in session.steps
    )
    path = os.pathsep.join([str(_programs(folder / "bin")), str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-c", script],
        cwd=ground,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output = shell.communicate(timeout=PATIENCE)[0]
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    parts = re.split(rf"\n{_END} (\d+)\n", output.replace(str(ground), PLACE))
    return [Printed(int(code), text.splitlines()) for text, code in zip(parts[::2], parts[1::2], strict=False)]


def broken_promise(session: Session, printed: list[Printed]) -> str:
    """Return the first difference between what a page promises and what happened; "" if there is none."""
    for step, done in zip(session.steps, printed, strict=False):
        told = f"{session.page}:{step.line}: $ {step.command}\n"
        if done.exit_code != step.exit_code:
            return f"{told}exit {done.exit_code}, not {step.exit_code}\n" + "\n".join(done.lines)
        shown, lines = timeless(step.shown), timeless(done.lines)
        if shown and not _matches(shown, lines):
            difference = difflib.unified_diff(shown, lines, "shown", "printed", lineterm="")
            return f"{told}prints something else; `{ANYTHING}` stands for what is left out\n" + "\n".join(difference)
    if len(printed) < len(session.steps):
        step = session.steps[len(printed)]
        return f"{session.page}:{step.line}: $ {step.command}\nended the shell"
    return ""


def _matches(shown: list[str], printed: list[str]) -> bool:
    pattern = "".join(
        "(.*\n)*" if line == ANYTHING else re.escape(line).replace(re.escape(ANYTHING), ".*") + "\n" for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def timeless(lines: list[str]) -> list[str]:
    """Return the lines that are not blank, without what differs from run to run: times, commit ids, process ids."""
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    for varies, constant in _VARIES.items():
        text = varies.sub(constant, text)
    return text.splitlines()


# --- grounds ----------------------------------------------------------------------------------------------------------


def _programs(folder: Path) -> Path:
    """Make a folder with the programs that a page takes for granted, run from these sources."""
    folder.mkdir(parents=True)
    for name, words in {"orchestrator": [str(DOOR)], "python": [], "python3": [], "pytest": ["-m", "pytest"]}.items():
        executable(folder / name, f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
    return folder


def _folder(folder: Path) -> Path:
    """Make an empty folder, for a git that nobody has told how to call a first branch."""
    path = folder / "project"
    path.mkdir()
    subprocess.run(["git", "config", "--global", "--unset", "init.defaultBranch"], check=True)
    return path


def _empty(folder: Path) -> Path:
    made = repository(folder / "project")
    made.write("my-agent.sh", "#!/bin/sh\nexit 0\n").chmod(0o755)
    made.commit("an agent that does nothing")
    return made.path


def _project(folder: Path) -> Path:
    path = _empty(folder)
    assert Project(path).run("init").returncode == 0
    return path


def _clone(folder: Path) -> Path:
    """Copy this project, with an environment that its doors find ready."""
    path = folder / "galph"
    unwanted = shutil.ignore_patterns(".?*", "__pycache__", "galph-demo*", "logs", "dist")
    shutil.copytree(ROOT, path, ignore=unwanted)
    _programs(path / ".venv" / "bin")
    wanted = next(line for line in (path / "scripts/setup-venv").read_text().splitlines() if line.startswith("want="))
    mark = f'group=dev; {wanted}\necho "$want" >.venv/ready'
    subprocess.run(["sh", "-c", mark], cwd=path, check=True)
    return path


GROUNDS: dict[str, Callable[[Path], Path]] = {"project": _project, "empty": _empty, "folder": _folder, "clone": _clone}
"""Where a session may run: a project that `init` has set up, one that knows nothing of it, a folder, this project."""
