"""What the README shows is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from conftest import Project

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def timeless(line: str) -> str:
    return re.sub(r"\d+\.\d+ ?s\b", "N s", line.rstrip())


def test_the_run_in_the_readme_is_as_the_program_prints_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = README.partition("<!-- demo -->\n```text\n")[2].partition("```")[0]
    assert Project(tmp_path).call("demo", "shown") == 0
    printed = iter([timeless(line) for line in capfd.readouterr().out.splitlines()])

    wanted = [timeless(line) for line in shown.splitlines() if line.strip() and line != "[...]"]
    assert len(wanted) >= 20
    for line in wanted:
        assert line in printed, f"not printed, or not in this order: {line}"


def test_the_three_lines_for_ones_own_repository_work_as_typed(bare_project: Project) -> None:
    block = README.partition("Then, in your project:\n\n")[2].partition("\n\n")[0]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [words[0] for words in commands] == ["orchestrator"] * 3
    agent = bare_project.write("my-agent.sh", "#!/bin/sh\nexit 0\n")
    agent.chmod(0o755)

    for words in commands:
        assert bare_project.call(*words[1:]) == 0

    assert bare_project.state()["iteration"] == 3
