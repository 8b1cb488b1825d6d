"""Presets: what is no preset is refused, a command line holds what was asked for, and settings go before the data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import environment, presets
from orchestration.agents import Agent, choose, named
from orchestration.config import resolve
from orchestration.errors import UsageError
from orchestration.presets import Match, argv, load, read, text_at
from orchestration.state import Actor

CLAUDE = ["-p", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"]
CODEX = [
    "--json",
    "--skip-git-repo-check",
    "--dangerously-bypass-approvals-and-sandbox",
    "-c",
    "analytics.enabled=false",
    "-c",
    "features.plugins=false",
    "-c",
    "features.unbounded_connection_retries=false",
]
DATA = presets.FILE.read_text(encoding="utf-8")


# --- the data --------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_presets_in_their_order() -> None:
    assert presets.names() == list(load()) == ["claude", "codex"]


# what is changed | into what | words of the refusal
WRONG = [
    ('  verified: "2.1.329"', '  verified: "2.1.329"\n  colour: red', "unknown field `colour`"),
    ('  verified: "2.1.329"', "  verified: 2", "Expected `str`, got `int`"),
    ("outcome: quota", "outcome: poverty", "Invalid enum value 'poverty'"),
    ("take: sum", "take: most", "Invalid enum value 'most'"),
    ("exit: [0]", "exit: [0], colour: red", "unknown field `colour`"),
    ("path: result, match", "pth: result, match", "unknown field `pth`"),
    ('match: "^5\\\\d\\\\d$"', 'match: "("', "unterminated"),
    ('"{model}"', '"{modle}"', "{modle}, which stands for nothing"),
    ('["{session}"]', '["{}"]', "{}, which stands for nothing"),
    ("idle_timeout: 900", "idle_timeout: soon", "Expected `float`, got `str`"),
    ("claude:\n", "claude: [x]\nmore:\n", "Expected `object`, got `array`"),
    ("  ok: {event: {type: result", "  good: {event: {type: result", "unknown field `good`"),
]


@pytest.mark.parametrize(("given", "wrong", "said"), WRONG)
def test_what_is_no_preset_is_refused(tmp_path: Path, given: str, wrong: str, said: str) -> None:
    assert given in DATA
    file = tmp_path / "presets.yaml"
    file.write_text(DATA.replace(given, wrong, 1), encoding="utf-8")

    with pytest.raises(UsageError, match=re.escape(said)) as refusal:
        read(file)
    assert refusal.value.code == "config-bad-value"


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_waits_for_an_agent_as_long_as_the_agent_waits_for_its_own_children(name: str) -> None:
    preset = load()[name]
    ceiling = int(preset.env.get("CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS", "0")) / 1000

    assert ceiling < preset.exit_grace < preset.idle_timeout


EVENT = {"type": "a", "n": {"code": 529, "text": "x y", "list": ["one", 2, "two"], "none": None, "yes": True}}


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (Match(event={"type": "a"}), ""),
        (Match(event={"type": ["b", "a"]}), ""),
        (Match(event={"type": ["b", "c"]}), None),
        (Match(event={"n.code": 529, "n.yes": True}), ""),
        (Match(event={"n.code.deeper": 529}), None),
        (Match(event={"n": "a"}), None),
        (Match(event={"absent": None, "n.none": None}), ""),
        (Match(event={}, path="n.code", match="^5"), "529"),
        (Match(event={}, path="n.text", match="y$"), "x y"),
        (Match(event={}, path="n.text", match="^y"), None),
        (Match(event={}, path="n.list"), "one; two"),
        (Match(event={}, path="n.none"), None),
        (Match(event={}, path="n.yes"), None),
        (Match(event={}, path="n"), None),
        (Match(event={}, path="absent", match=""), None),
    ],
)
def test_an_event_is_meant_by_what_stands_at_its_paths(match: Match, text: str | None) -> None:
    assert match.within(EVENT) == text
    assert match.fits(EVENT) == (text is not None)


@pytest.mark.parametrize("value", ["half \ud83d", ["half \ud83d"]])
def test_a_text_that_no_file_could_hold_is_made_one(value: object) -> None:
    assert (text_at({"text": value}, "text") or "").encode() == b"half ?"


# --- the command line ------------------------------------------------------------------------------------------------


def test_what_has_no_value_is_left_out_of_the_command_line() -> None:
    claude, codex = load()["claude"], load()["codex"]

    assert argv(claude) == ["claude", *CLAUDE]
    assert argv(claude, model="opus", max_turns=3, budget_usd=0.5, session="s-1") == [
        *("claude", *CLAUDE, "--model", "opus", "--max-turns", "3", "--max-budget-usd", "0.5", "--resume", "s-1"),
    ]
    assert argv(codex) == ["codex", "exec", *CODEX, "-"]
    assert argv(codex, model="m {x}", max_turns=3) == ["codex", "exec", *CODEX, "-m", "m {x}", "-"]
    assert argv(codex, session="s-1", model="m") == ["codex", "exec", "resume", *CODEX, "-m", "m", "s-1", "-"]


# --- as settings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def install(shelf: Path, *programs: str) -> None:
    for program in programs:
        (shelf / program).write_text("#!/bin/sh\n")
        (shelf / program).chmod(0o755)


def chosen(shelf: Path, text: str, actor: Actor = Actor.RALPH) -> Agent:
    file = shelf.parent / "orchestration.yaml"
    file.write_text(text, encoding="utf-8")
    config = resolve(file, {}, {}, shelf.parent).config
    return choose(config, actor, "main.md", shelf.parent, {"PATH": str(shelf)})


def test_a_preset_is_an_agent_by_its_name_alone(shelf: Path) -> None:
    install(shelf, "claude", "codex")

    agent = chosen(shelf, "agent: {default: claude, roles: {ralph: codex}}\n")

    assert (agent.name, agent.argv) == ("codex", [str(shelf / "codex"), "exec", *CODEX, "-"])
    assert agent.resumed("s-1") == [str(shelf / "codex"), "exec", "resume", *CODEX, "s-1", "-"]
    assert agent.resumed(None) == agent.argv
    assert (agent.preset, agent.idle_timeout, agent.exit_grace) == (load()["codex"], 900.0, 30.0)
    assert [number.name for number, _ in agent.ladder] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert {"HOME", "PATH", "OPENAI_API_KEY"} <= set(agent.passed)
    assert "ANTHROPIC_API_KEY" not in agent.passed


def test_what_is_set_goes_before_the_preset(shelf: Path) -> None:
    install(shelf, "claude")
    text = """
agent: {default: quick}
agents:
  quick:
    preset: claude
    model: haiku
    max_turns: 7
    budget_usd: 1.5
    env: {DISABLE_AUTOUPDATER: "0", MY: x}
    env_optional: [NPM_TOKEN]
    fallback: checklist
    idle_timeout: 60
    timeout: 61
    stop: [HUP 1]
"""
    agent = chosen(shelf, text)

    assert agent.name == "quick"
    assert agent.argv[6:] == ["--model", "haiku", "--max-turns", "7", "--max-budget-usd", "1.5"]
    assert agent.env["DISABLE_AUTOUPDATER"] == "0"
    assert agent.env["API_TIMEOUT_MS"] == "300000"
    assert (agent.env["MY"], agent.env.get("IS_SANDBOX")) == ("x", "1" if os.geteuid() == 0 else None)
    assert agent.passed[-1] == "NPM_TOKEN"
    assert (agent.fallback, agent.idle_timeout, agent.timeout, len(agent.ladder)) == ("checklist", 60.0, 61.0, 2)


@pytest.mark.parametrize(
    ("preset", "more", "resumed"),
    [("claude", ["--model", "m"], ["--resume", "s"]), ("codex", ["-m", "m", "-"], None)],
)
def test_a_command_of_three_lines_may_speak_as_a_preset_does(
    shelf: Path, preset: str, more: list[str], resumed: list[str] | None
) -> None:
    install(shelf, "mine")
    agent = chosen(
        shelf,
        "agent: {default: mine}\n"
        f"agents:\n  mine:\n    command: [bin/mine, --fast]\n    preset: {preset}\n    model: m\n",
    )

    assert agent.argv == [str(shelf / "mine"), "--fast", *more]
    assert agent.resumed("s") == [*agent.argv, *(resumed or [])]
    assert agent.preset is not None


def test_a_command_that_is_no_preset_is_a_bare_executable_as_ever(shelf: Path) -> None:
    install(shelf, "mine")
    agent = chosen(shelf, "agent: {default: mine}\nagents: {mine: {command: [bin/mine, '{model}'], env: {A: b}}}\n")

    assert (agent.argv, agent.preset, agent.idle_timeout, agent.env) == (
        *([str(shelf / "mine"), "{model}"], None, None, {"A": "b"}),
    )
    assert (agent.resumed("s"), agent.exit_grace) == (agent.argv, None)


def test_a_sandbox_goes_before_the_command_and_finds_its_program_itself(shelf: Path) -> None:
    install(shelf, "docker")
    agent = chosen(shelf, "agent: {default: claude}\nagents: {claude: {wrap: [docker, run, -i, image]}}\n")

    assert agent.argv == [str(shelf / "docker"), "run", "-i", "image", "claude", *CLAUDE]
    assert agent.resumed("s") == [*agent.argv, "--resume", "s"]


def test_auto_is_the_first_preset_that_is_installed(shelf: Path) -> None:
    install(shelf, "codex")
    assert chosen(shelf, "agent: {default: auto}\n").name == "codex"
    install(shelf, "claude")
    assert chosen(shelf, "agent: {default: auto}\n").name == "claude"
    install(shelf, "box")
    assert chosen(shelf, "agent: {default: auto}\nagents: {claude: {command: [gone]}}\n").name == "codex"


def test_auto_that_finds_none_names_the_choices(shelf: Path) -> None:
    with pytest.raises(UsageError, match="`auto` finds none of claude, codex") as refusal:
        chosen(shelf, "agent: {default: auto}\nagents: {mine: {command: [x]}}\n")
    assert refusal.value.remedy.endswith(
        "one of: checklist, mine, any executable that reads a prompt on standard input"
    )


@pytest.mark.parametrize(("own", "budget"), [("", "2.5"), ("budget_usd: 1.25", "1.25")])
def test_a_turns_ceiling_is_the_budget_of_an_agent_that_has_none_of_its_own(shelf: Path, own: str, budget: str) -> None:
    install(shelf, "claude")
    limits = "limits: {turn_cost: 2.5}\n"
    agent = chosen(shelf, f"agent: {{default: claude}}\nagents:\n  claude: {{{own}}}\n{limits}")
    assert agent.argv[-2:] == ["--max-budget-usd", budget]


@pytest.mark.parametrize("zone", ["Nowhere/Town", "/etc", "JST-9"])
def test_a_time_zone_in_which_a_limits_end_cannot_be_read_is_refused(shelf: Path, zone: str) -> None:
    install(shelf, "claude")
    text = "agent: {{default: claude}}\nagents:\n  claude: {{env: {{TZ: {}}}}}\n"
    assert chosen(shelf, text.format("Asia/Tokyo")).env["TZ"] == "Asia/Tokyo"
    with pytest.raises(UsageError, match="which is no time zone here"):
        chosen(shelf, text.format(zone))


def test_a_fallback_is_an_agent_by_its_name(shelf: Path) -> None:
    install(shelf, "codex")
    config = resolve(None, {}, {}, shelf).config

    assert named("codex", config, Actor.GALPH, shelf, {"PATH": str(shelf)}).name == "codex"


@pytest.mark.parametrize("agents", ["claude:", "claude: {}", "claude: {model: opus}", "mine: {preset: claude}"])
def test_a_preset_gives_the_command(shelf: Path, agents: str) -> None:
    install(shelf, "claude")

    agent = chosen(shelf, f"agent: {{default: {agents.partition(':')[0]}}}\nagents:\n  {agents}\n")

    assert agent.argv[:6] == [str(shelf / "claude"), *CLAUDE]


@pytest.mark.parametrize(
    ("agents", "said", "remedy"),
    [
        ("mine: {model: opus}", "the agent `mine` has no command", "or `preset:` with one of claude, codex"),
        ("mine: {preset: claud}", "`agents.mine.preset` is 'claud', which is no preset", "did you mean claude?"),
        ("claude: {max_turns: 0}", "`agents.claude.max_turns` is 0", "takes a whole number"),
        ("claude: {env: {A=B: c}}", "`agents.claude.env` is {'A=B': 'c'}", "takes a map"),
        ('claude: {env: {A: "b\\0"}}', "`agents.claude.env`", "takes a map"),
    ],
)
def test_a_setting_that_makes_no_agent_is_refused(shelf: Path, agents: str, said: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as refusal:
        chosen(shelf, f"agents:\n  {agents}\n")
    assert remedy in refusal.value.remedy


def test_no_preset_is_read_where_none_is_named() -> None:
    code = "import sys, pathlib, orchestration.cli, orchestration.status, orchestration.config as config\n"
    code += "config.resolve(None, {}, {}, pathlib.Path('/'))\nprint('orchestration.presets' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert said.stdout == "False\n"


# --- the environment -------------------------------------------------------------------------------------------------


def test_a_preset_inherits_what_is_named_and_no_key_that_lies_around() -> None:
    ours = {
        "HOME": "/h",
        "PATH": "/p",
        "TZ": "Asia/Tokyo",
        "AWS_SECRET_ACCESS_KEY": "k",
        "OPENAI_API_KEY": "o",
        "ORCH_TURN": "1/galph",
        "GIT_AUTHOR_NAME": "a",
        "GIT_COMMITTER_EMAIL": "c",
        "GIT_DIR": "/other",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "n",
        "MY": "theirs",
    }

    given = environment.for_preset(ours, ["HOME", "PATH", "OPENAI_API_KEY", "ABSENT"], {"MY": "own"})

    assert given == {
        **{name: ours[name] for name in ("HOME", "PATH", "OPENAI_API_KEY", "ORCH_TURN", "GIT_AUTHOR_NAME")},
        "GIT_COMMITTER_EMAIL": "c",
        "TZ": "UTC",
        "MY": "own",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "n",
        "GIT_CONFIG_KEY_1": "core.fsync",
        "GIT_CONFIG_VALUE_1": "all",
    }
    assert environment.for_preset(ours, [], {"TZ": "Europe/Berlin"})["TZ"] == "Europe/Berlin"
