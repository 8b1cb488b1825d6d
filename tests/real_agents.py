"""Real command lines of coding agents, sealed: dummy keys, a home of their own, and no way beyond the loopback."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import DOOR
from fake_model import FakeModel
from orchestration.presets import argv, load

ROOT = Path(__file__).resolve().parents[1]
AGENTS = ROOT / ".agents"
"""Where `scripts/setup-agents` puts them."""
NAMES = ("claude", "codex")

CODEX = """
model = "fake-model"
model_provider = "fake"

[features]
plugins = false  # at every start it would fetch lists of them from three hosts

[model_providers.fake]
name = "fake"
base_url = "{base}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
"""Codex knows its provider from its home: its command line stays as people have it."""


@dataclass(frozen=True)
class Sealed:
    """How one command line is started: the prompt comes on standard input, and `env` is all of its environment."""

    name: str
    argv: list[str]
    env: dict[str, str]

    def daemon(self, folder: Path, *args: str) -> subprocess.Popen[str]:
        """Start `orchestrator run` in a project, with this command line as its agent and nothing else of ours."""
        return subprocess.Popen(
            [sys.executable, str(DOOR), "run", "--agent", self.name, *args],
            cwd=folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def install(*names: str, folder: Path = AGENTS) -> str:
    """Install command lines if they are not there; return why one cannot be had, or nothing."""
    done = subprocess.run(
        [ROOT / "scripts" / "setup-agents", folder, *names], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def seal(
    name: str, home: Path, model: FakeModel, *, url: str = "", subscription: bool = False, folder: Path = AGENTS
) -> Sealed:
    """Return how a command line is run against a model.

    Whatever else it asks for goes to the model's proxy, which refuses it and writes it down.

    Args:
        name: which one.
        home: a folder that becomes its home; made, with a git identity, if it is not there.
        model: whom it asks.
        url: the base URL (without `/v1`), if not the model's own.
        subscription: whether it is logged in as those are who have usage limits (claude).
        folder: where it is installed.

    """
    base = url or model.url
    home.mkdir(exist_ok=True)
    (home / ".gitconfig").write_text(
        "[user]\n\tname = An Agent\n\temail = agent@localhost\n[init]\n\tdefaultBranch = main\n"
    )
    env = {
        "HOME": str(home),
        "PATH": f"{folder / name}/node_modules/.bin:{os.environ['PATH']}",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "TZ": "UTC",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        env[variable] = env[variable.upper()] = model.url
    preset = load()[name]
    env |= preset.env | preset.root_env
    if name == "claude":
        key = "CLAUDE_CODE_OAUTH_TOKEN" if subscription else "ANTHROPIC_API_KEY"
        return Sealed(name, argv(preset), env | {"ANTHROPIC_BASE_URL": base, key: "dummy"})
    (home / ".codex").mkdir(exist_ok=True)
    (home / ".codex" / "config.toml").write_text(CODEX.format(base=base))
    return Sealed(name, argv(preset), env | {"OPENAI_API_KEY": "dummy"})
