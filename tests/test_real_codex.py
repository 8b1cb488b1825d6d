"""A real codex takes turns: against a model on the loopback, sealed, where npm can install it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from conftest import DOOR, Project
from fake_model import FakeModel
from orchestration.presets import load
from real_agents import AGENTS, Sealed, install, seal


@pytest.fixture(scope="session")
def codex() -> str:
    """Install codex once for all workers, or skip and say why."""
    AGENTS.mkdir(exist_ok=True)
    with FileLock(AGENTS / "lock"):
        missing = install("codex")
    if missing:
        pytest.skip(missing)
    return "codex"


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """Run a model server."""
    with FakeModel() as model:
        yield model


def turn(project: Project, agent: Sealed) -> tuple[int, str]:
    """Run one turn in a process whose environment is the agent's; return the exit code and what was said."""
    daemon = agent.daemon(project.path, "--once")
    try:
        said, _ = daemon.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        daemon.terminate()
        raise
    return daemon.returncode, said


def test_nothing_of_a_sealed_agent_reaches_beyond_the_loopback(model: FakeModel, tmp_path: Path) -> None:
    sealed = seal("codex", tmp_path / "sealed", model)
    asks = "import urllib.request as web, sys; web.urlopen(sys.argv[1], timeout=60)"
    told = ("https://model.invalid/v1/responses", "http://model.invalid/v1/models", f"{model.url}/v1/models")

    codes = [subprocess.run([sys.executable, "-c", asks, url], env=sealed.env, check=False).returncode for url in told]

    assert codes == [1, 1, 0]
    assert model.strays == ["CONNECT model.invalid:443", f"GET {told[1]}"]


def test_galph_plans_and_ralph_commits_with_a_real_codex(
    project: Project, codex: str, model: FakeModel, tmp_path: Path
) -> None:
    agent = seal(codex, tmp_path / "sealed", model)

    for _ in ("galph", "ralph"):
        code, said = turn(project, agent)
        assert code == 0, said

    assert project.state()["iteration"] == 2
    assert (project.path / "input.md").read_text() == "Do Now: T1\n"
    assert (project.path / "src/work.py").read_text() == "# 1/ralph\n"
    assert "T1: worked" in project.subjects()
    assert project.dirt() == ""
    assert model.counted.requests == 5
    assert model.strays == []


def test_the_server_counts_the_tokens_that_a_real_codex_reports(
    project: Project, codex: str, model: FakeModel, tmp_path: Path
) -> None:
    counted = []
    for run in ("first", "second"):
        assert turn(project, seal(codex, tmp_path / "sealed", model, url=model.at(run=run)))[0] == 0
        counted.append(model.counted_of(run))
        log = next((project.path / "logs/main/latest").glob("iter-*.log")).read_text()
        reported = json.loads(next(line for line in log.splitlines() if '"turn.completed"' in line))["usage"]

        assert reported["input_tokens"] == counted[-1].input_tokens
        assert reported["cached_input_tokens"] == counted[-1].cached_tokens
        assert reported["output_tokens"] == counted[-1].output_tokens

    assert [each.requests for each in counted] == [2, 3]
    assert model.counted == tuple(map(sum, zip(*counted, strict=True)))


def test_a_turn_fails_when_the_account_of_a_real_codex_has_no_money_left(
    project: Project, codex: str, model: FakeModel, tmp_path: Path
) -> None:
    model.scenario("quota")

    code, said = turn(project, seal(codex, tmp_path / "sealed", model))

    assert code == 4, said
    assert "Quota exceeded" in said
    assert project.state()["status"] == "failed"
    assert model.counted.requests == 1


def test_the_doctor_finds_version_and_flags_of_a_real_codex(
    project: Project, codex: str, model: FakeModel, tmp_path: Path
) -> None:
    agent = seal(codex, tmp_path / "sealed", model)

    done = subprocess.run(
        [sys.executable, DOOR, "doctor", "--json", "--agent", codex],
        cwd=project.path,
        env=agent.env,
        capture_output=True,
        text=True,
        check=False,
    )

    told = [finding["found"] for finding in json.loads(done.stdout) if finding["name"] == "agents"]
    assert f"codex: codex-cli {load()[codex].verified}" in told
    assert "codex is given OPENAI_API_KEY" in told
    assert not any("does not know" in text for text in told)
