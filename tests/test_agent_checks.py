"""The doctor's look at agents: version, flags, sandbox and login are told for free, and none of it is a problem."""

import os
import pwd
import shlex
from pathlib import Path

import pytest

from conftest import Capture, Project, executable, script
from orchestration.presets import load

FLAGS = {"claude": "--output-format --verbose --dangerously-skip-permissions --max-turns <n> --model <m>"}
FLAGS["codex"] = "--json, --skip-git-repo-check\n  --dangerously-bypass-approvals-and-sandbox"
VERSION = {"claude": "2.1.329 (Claude Code)", "codex": "codex-cli 0.169.0"}


@pytest.fixture
def bench(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give a project on whose PATH the agents are only what a test puts there."""
    (project.path.parent / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{project.path.parent / 'bin'}:/usr/bin:/bin")
    for preset in load().values():
        for name in preset.login.variables if preset.login else []:
            monkeypatch.delenv(name, raising=False)
    return project


def install(bench: Project, name: str, *, version: str | None = None, flags: str | None = None) -> Path:
    """Put a fake command line on PATH: it tells its version and its options, and notes what it was asked."""
    told = shlex.quote(VERSION[name] if version is None else version)
    known = shlex.quote(FLAGS[name] if flags is None else flags)
    text = f'echo "$*" >>"$0.asked"\ncase "$*" in *--version) echo {told};; *--help) echo {known};; *) exit 1;; esac\n'
    return Path(executable(bench.path.parent / "bin" / name, f"#!/bin/sh\n{text}"))


def found(bench: Project, capsys: Capture, name: str, settings: str = "") -> dict[str, list[str]]:
    """Return what the doctor says of an agent, by level."""
    bench.write("orchestration.yaml", f"agent: {{default: {name}}}\n{settings}")
    if bench.dirt():
        bench.commit("settings")
    levels: dict[str, list[str]] = {"ok": [], "advice": [], "warning": [], "problem": []}
    for finding in script(bench, capsys, "doctor"):
        if finding["name"] == "agents":
            levels[finding["level"]].append(f"{finding['found']} | {finding['remedy']}")
    assert levels["warning"] + levels["problem"] == []
    return levels


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_an_agent_that_fits_is_told_with_its_version(bench: Project, capsys: Capture, name: str) -> None:
    program = install(bench, name)

    seen = found(bench, capsys, name)

    assert f"{name}: {VERSION[name]} | " in seen["ok"]
    assert not any("does not know" in text for text in seen["advice"])
    asked = program.with_name(f"{name}.asked").read_text().splitlines()
    assert asked == ["--version", "--help" if name == "claude" else "exec --help"]


def test_another_version_than_the_known_one_is_told(bench: Project, capsys: Capture) -> None:
    install(bench, "codex", version="codex-cli 0.200.0")

    seen = found(bench, capsys, "codex")

    assert "codex: codex-cli 0.200.0; what its output means was seen in 0.169.0 | " in seen["ok"]


def test_a_flag_that_is_gone_is_advice(bench: Project, capsys: Capture) -> None:
    install(bench, "claude", flags="--output-format --verbose-mode --dangerously-skip-permissions")

    seen = found(bench, capsys, "claude", "agents: {claude: {max_turns: 30}}\n")

    (told,) = [text for text in seen["advice"] if "does not know" in text]
    assert told.startswith("claude --help does not know --verbose | see `")
    assert "install 2.1.329" in told


@pytest.mark.parametrize("does", ["exit 3", "true", "echo gone >&2; kill -9 $$"])
def test_an_agent_that_tells_no_version_is_advice(bench: Project, capsys: Capture, does: str) -> None:
    executable(bench.path.parent / "bin" / "codex", f"#!/bin/sh\n{does}\n")

    seen = found(bench, capsys, "codex")

    assert any(text.startswith("codex does not tell its version | try it as it stands: `") for text in seen["advice"])


def test_an_agent_that_hangs_is_not_waited_for(
    bench: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.agent_checks.PATIENCE", 0.1)
    executable(bench.path.parent / "bin" / "codex", "#!/bin/sh\nexec sleep 600\n")

    seen = found(bench, capsys, "codex")

    assert any("does not tell its version" in text for text in seen["advice"])


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_a_login_is_seen_by_its_file_or_its_key(
    bench: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(bench, name)
    login = load()[name].login
    assert login
    home = Path(os.environ["HOME"])

    (told,) = [text for text in found(bench, capsys, name)["advice"] if "no login" in text]
    assert str(home / login.folder / login.file) in told
    assert login.variables[0] in told

    (home / login.folder).mkdir()
    (home / login.folder / login.file).write_text("{}")
    assert f"{name} is logged in: {home / login.folder / login.file} | " in found(bench, capsys, name)["ok"]

    monkeypatch.setenv(login.home, str(home / "elsewhere"))
    (told,) = [text for text in found(bench, capsys, name)["advice"] if "no login" in text]
    assert str(home / "elsewhere" / login.file) in told

    monkeypatch.setenv(login.variables[0], "not-shown")
    seen = found(bench, capsys, name)
    assert f"{name} is given {login.variables[0]} | " in seen["ok"]
    assert "not-shown" not in str(seen)


def test_a_key_that_the_agent_is_not_given_is_no_login(
    bench: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bench, "claude")
    monkeypatch.setenv("OPENAI_API_KEY", "another agent's")

    assert any("no login of claude" in text for text in found(bench, capsys, "claude")["advice"])


def test_a_wrapped_agent_is_asked_in_its_sandbox(bench: Project, capsys: Capture) -> None:
    box = executable(bench.path.parent / "bin" / "box", '#!/bin/sh\nshift 2\nexec "$@"\n')
    program = install(bench, "claude")

    seen = found(bench, capsys, "claude", "agents: {claude: {wrap: [box, --name, 'a b']}}\n")

    assert seen["advice"] == []
    assert any(text.startswith(f"{Path(box).name} --dangerously-skip-permissions") for text in seen["ok"])
    assert any("in the sandbox that `box --name 'a b'` makes" in text for text in seen["ok"])
    assert program.with_name("claude.asked").read_text().splitlines() == ["--version", "--help"]


def test_what_nobody_sandboxes_is_told_with_its_user(bench: Project, capsys: Capture) -> None:
    install(bench, "claude")

    seen = found(bench, capsys, "claude")

    user = pwd.getpwuid(os.geteuid()).pw_name
    assert any(f"asks nobody before it acts: it runs unsandboxed as {user}, so" in text for text in seen["advice"])
