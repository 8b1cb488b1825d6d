"""Where a setting comes from, what a bad one is told, and which agent runs."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from conftest import Project, executable
from orchestration.config import Resolved, resolve
from orchestration.errors import UsageError
from orchestration.keys import LEAVES, variable
from orchestration.layers import FILE, from_flags, from_pairs
from orchestration.plainly import plainly
from orchestration.router import Mode
from orchestration.settings import Config
from orchestration.state import Actor

Capture = pytest.CaptureFixture[str]


def merge(
    folder: Path,
    text: str | bytes | None = None,
    *,
    environment: dict[str, str] | None = None,
    pairs: tuple[str, ...] = (),
    flags: dict[str, str | bool] | None = None,
) -> Resolved:
    """Merge the layers as the command line does, from a folder that holds `text` as orchestration.yaml."""
    file = None
    if text is not None:
        file = folder / FILE
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    return resolve(file, environment or {}, {**from_pairs(list(pairs)), **from_flags(flags or {})}, folder)


def at(config: Config, path: str) -> Any:  # noqa: ANN401 - the value of any option
    """Return the value of a dotted key."""
    value: Any = config
    for word in path.split("."):
        value = getattr(value, word)
    return value


# --- the merge -------------------------------------------------------------------------------------------------------

# A dotted key and, as text, three values that are not its default: orchestration.yaml, environment, flag.
GIVEN = {
    "limits.iterations": ("3", "4", "5"),
    "sync.poll_interval": ("1.5", "2", "2.5"),
    "sync.max_wait": ("1", "2", "3"),
    "sync.branch": ("one", "two", "three"),
    "router.enabled": ("false", "true", "false"),
    "router.mode": ("first", "router-first", "router_first"),
    "router.review_every_n": ("1", "2", "3"),
    "router.allowlist": ("[a.md]", "a.md, b.md", "c.md"),
    "agent.default": ("one", "two", "three"),
    "agent.roles": ("{galph: one}", "galph=two", "supervisor=three"),
    "state_file": ("a/state.json", "b/state.json", "c/state.json"),
}


@pytest.mark.parametrize("path", GIVEN)
def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(tmp_path: Path, path: str) -> None:
    in_file, in_environment, on_line = GIVEN[path]
    key = tuple(path.split("."))
    text = "".join(f"{'  ' * depth}{word}:\n" for depth, word in enumerate(key)).rstrip("\n") + f" {in_file}\n"
    line = f"{FILE}:{len(key)}"
    name = variable(key)
    flag = LEAVES[key].opt.flag or ""
    use, _, leave = flag.partition("/")
    assert not leave or on_line == "false"
    spoken: dict[str, str | bool] = {flag: on_line == "true" if leave else on_line}

    layers: list[tuple[Resolved, str, str | None]] = [
        (merge(tmp_path), "default", None),
        (merge(tmp_path, text), "file", line),
        (merge(tmp_path, text, environment={name: in_environment}), "environment", name),
        (merge(tmp_path, text, environment={name: in_environment}, flags=spoken), "flag", leave or use),
        (
            merge(tmp_path, text, environment={name: in_environment}, pairs=(f"{path}={on_line}",)),
            "-c",
            f"-c {path}",
        ),
    ]
    values = [at(resolved.config, path) for resolved, _, _ in layers]
    below = {"flag": f"{line}, {name}, ", "-c": f"{line}, {name}, ", "environment": f"{line}, "}
    stacked = below if path == "agent.roles" else {}

    assert [resolved.sources.get(path) for resolved, _, _ in layers] == [
        source and stacked.get(layer, "") + source for _, layer, source in layers
    ]
    assert values[3] == values[4]
    if path == "router.enabled":
        assert values[:4] == [True, False, True, False]
    elif path == "router.mode":
        assert values[:4] == [Mode.DEFAULT, Mode.FIRST, Mode.FIRST, Mode.FIRST]
    else:
        assert len({repr(value) for value in values[:4]}) == 4
    assert at(Config(), path) == values[0]


def test_text_becomes_the_type_that_its_option_has(tmp_path: Path) -> None:
    config = merge(
        tmp_path,
        pairs=(
            "agents.mine.command=./agent, --fast",
            "agents.mine.timeout=2.5",
            "agent.prompts=reviewer.md=mine, main=mine",
            "router.enabled=no",
            "doc_whitelist=",
            "actors.ralph.leftovers=keep",
            "limits.iterations=0",
        ),
    ).config

    assert config.agents["mine"].command == ["./agent", "--fast"]
    assert config.agents["mine"].timeout == 2.5
    assert config.agent.prompts == {"reviewer.md": "mine", "main.md": "mine"}
    assert config.router.enabled is False
    assert config.doc_whitelist == []
    assert (config.actors.ralph.leftovers, config.actors.galph.leftovers) == ("keep", "fail")
    assert config.limits.iterations == 0


def test_empty_text_unsets_what_the_file_set(tmp_path: Path) -> None:
    text = "router: {prompt: router.md}\nagent: {default: claude}\nsync: {max_wait: 9}\n"

    resolved = merge(
        tmp_path, text, environment={"ORCHESTRATION_AGENT_DEFAULT": ""}, pairs=("router.prompt=", "sync.max_wait=")
    )

    assert (resolved.config.agent.default, resolved.config.router.prompt, resolved.config.sync.max_wait) == (None,) * 3
    assert resolved.sources["agent.default"] == "ORCHESTRATION_AGENT_DEFAULT"


def test_galph_keeps_its_own_default_where_the_file_sets_another_of_its_keys(tmp_path: Path) -> None:
    config = merge(tmp_path, "actors: {galph: {timeout: 60}, ralph: {timeout: 90}}\n").config

    assert (config.actors.galph.leftovers, config.actors.galph.timeout) == ("fail", 60)
    assert (config.actors.ralph.leftovers, config.actors.ralph.timeout) == ("commit", 90)


@pytest.mark.parametrize("word", ["default", "first", "only"])
@pytest.mark.parametrize("form", ["{}", "router_{}", "router-{}"])
def test_every_name_of_a_router_mode_means_that_mode(tmp_path: Path, form: str, word: str) -> None:
    named = form.format(word)

    assert merge(tmp_path, f"router: {{mode: {named}, prompt: r.md}}").config.router.mode == f"router_{word}"
    assert merge(tmp_path, pairs=(f"router.mode={named}", "router.prompt=r.md")).config.router.mode == f"router_{word}"


# --- what a bad value is told ----------------------------------------------------------------------------------------

BOMB = ", ".join(f"&a{level} [*a{level - 1}, *a{level - 1}]" for level in range(1, 40))
"""Lists of one another: written out they would fill the memory."""

# text of orchestration.yaml | line that is named | words of the message | words of the remedy
BAD_FILES: list[tuple[str | bytes, int, str, str]] = [
    # unknown keys, at every level
    ("logs_dir: logs\nrouterr: {}\n", 2, "unknown key `routerr`", "did you mean `router`?"),
    ("router:\n  enabled: true\n  mod: only\n", 3, "unknown key `router.mod`", "did you mean `router.mode`?"),
    ("actors:\n  galf: {}\n", 2, "unknown key `actors.galf`", "did you mean `actors.galph`?"),
    ("actors: {ralph: {\n leftover: keep}}", 2, "`actors.ralph.leftover`", "did you mean `actors.ralph.leftovers`?"),
    ("agents:\n  mine:\n    comand: [x]\n", 3, "`agents.mine.comand`", "did you mean `agents.mine.command`?"),
    ("zzz: 1", 1, "unknown key `zzz`", "known here: actors, agent, agents,"),
    ("<<: {logs_dir: x}", 1, "merge keys (`<<`) are not read", "write its keys out"),
    ("true: 1", 1, "unknown key `true`", ""),
    # twice, at every level
    ("logs_dir: a\ninput_file: b\nlogs_dir: c\n", 3, "`logs_dir` stands twice", "remove one"),
    ("router:\n  mode: only\n  mode: first\n", 3, "`router.mode` stands twice", "remove one"),
    ("agent:\n  prompts:\n    main.md: a\n    main.md: b\n", 4, "`agent.prompts.main.md` stands twice", "remove one"),
    # not YAML, not UTF-8, not text
    ("router: {mode: only\nlogs_dir: x\n", 2, "not YAML: ", "correct "),
    ("logs_dir: logs\n\tinput_file: x\n", 2, "not YAML: ", "correct "),
    ("logs_dir: a\n---\nlogs_dir: b\n", 2, "not YAML: ", "correct "),
    ("logs_dir: a\ninput_file: \0\n", 2, "not YAML: special characters are not allowed", "correct "),
    ('logs_dir: a\ninput_file: "\\U99999999"\n', 1, "not YAML: ", "correct "),
    (b"logs_dir: a\ninput_file: caf\xe9\n", 2, "not UTF-8", "correct "),
    ("[" * 5000, 1, "not YAML: ", "correct "),
    ("? [a, b]\n: c\n", 1, "a key is not text", "write `key: value`"),
    ("agent: {roles: {\n[galph]: x}}", 2, "a key below `agent.roles` is not text", "write `key: value`"),
    # not a map
    ("- logs_dir: x\n", 1, f"`{FILE}` must be a map of keys", "indent"),
    ("just words", 1, f"`{FILE}` must be a map of keys", "indent"),
    ("logs_dir: x\nrouter: [enabled]\n", 2, "`router` must be a map of keys", "indent"),
    ("agent: claude\n", 1, "`agent` must be a map of keys", "indent"),
    ("agents: [claude]\n", 1, "`agents` must be a map of keys", "indent"),
    ("agents:\n  mine: ./agent.sh\n", 2, "`agents.mine` must be a map of keys", "indent"),
    ("agents:\n  mine:\n", 2, "`agents.mine` must be a map of keys", "indent"),
    ("actors: {galph: fail}", 1, "`actors.galph` must be a map of keys", "indent"),
    # what stands for nothing
    ("logs_dir:\n", 1, "`logs_dir` is None: must be text, not nothing", "takes a relative path"),
    ("input_file: a\nrouter: {enabled: ~}\n", 2, "`router.enabled` is None", "takes true or false"),
    ("agent: {roles: }", 1, "`agent.roles` is None", "takes a map (as text: a=b,c=d) of galph, ralph,"),
    ("router: {allowlist: [main.md, ]\n  , mode: ''}", 2, "`router.mode` is ''", "takes one of router_default,"),
    # what YAML 1.1 makes of a text, and what its versions do not agree on
    ("agent: {default: no}", 1, "`agent.default` is False", "put text that looks like something else in quotes"),
    ("sync: {branch: 2024-01-01}", 1, "`sync.branch` is 2024-01-01: ", "in quotes"),
    ("sync: {branch: 2024-01-01 10:00:00}", 1, "`sync.branch` is 2024-01-01 10:00:00: ", "in quotes"),
    ("sync: {branch: 1e3}", 1, "`sync.branch` is 1000.0", "in quotes"),
    ("router: {allowlist: [main.md, off]}", 1, "not true or false (item 2)", "in quotes"),
    ("agent: {prompts: {main: on}}", 1, "`agent.prompts` is {'main': True}", "in quotes"),
    ("limits: {iterations: 010}", 1, "`limits.iterations` is 010, which YAML's versions read diff", "leading zero"),
    ("limits:\n  turn_timeout: 1:30:00\n", 2, "`limits.turn_timeout` is 1:30:00, which YAML's versions", "colon"),
    ("limits: {iterations: 0o17}", 1, "`limits.iterations` is '0o17'", "takes a whole number"),
    # merge keys, at every level, and anchors that are entangled
    ("agent:\n  roles: &r {galph: a}\n  prompts:\n    <<: *r\n", 4, "merge keys (`<<`) are not read", "write its keys"),
    ("router: &r\n  <<: *r\n", 2, "merge keys (`<<`) are not read", "write its keys"),
    ("router: &r\n  mode: *r\n", 1, "cannot be read: found unconstructable recursive node", "quotes"),
    ("logs_dir: *nowhere\n", 1, "not YAML: found undefined alias 'nowhere'", "correct "),
    (f"doc_whitelist: [&a0 [x, x], {BOMB}]", 1, "`doc_whitelist` is [['x', 'x'], ", "takes a list"),
    ("doc_whitelist: " + "[" * 150 + "]" * 150, 1, "`doc_whitelist` is [[[...]]]: ", "takes a list"),
    # two names of one thing
    ("agent:\n  roles: {galph: a, supervisor: b}\n", 2, "`agent.roles` names galph twice, once as supervisor", "one"),
    ("agent:\n  roles: {loop: a, main: a}\n", 2, "`agent.roles` names ralph twice, once as main", "one"),
    # the nearest word
    ("router: {mode: router_fist, prompt: r}", 1, "'router_fist' is none of its words", "did you mean router_first?"),
    ("actors: {ralph: {leftovers: commt}}", 1, "'commt' is none of its words", "did you mean commit?"),
    ("agent: {roles: {ralp: x}}", 1, "'ralp' is none of its words (a key)", "did you mean ralph?"),
    # too large
    (
        "limits: {iterations: 5_000_000_000}",
        1,
        "`limits.iterations` is 5000000000: must be a whole number of at most",
        "whole number",
    ),
    ("limits: {iterations: 0x" + "f" * 6000 + "}", 1, "is a number of thousands of digits", "takes a whole number"),
    ("limits: {snapshot_file: .inf}", 1, "`limits.snapshot_file` is inf", "takes a number"),
    (
        "sync: {poll_interval: 2_000_001}",
        1,
        "`sync.poll_interval` is 2000001: must be a number of at most",
        "takes a number",
    ),
    # a value of another type
    ("router:\n  enabled: maybe\n", 2, "`router.enabled` is 'maybe': must be true or false", "takes true or false"),
    ("limits:\n  iterations: many\n", 2, "`limits.iterations` is 'many'", "takes a whole number"),
    ("limits: {iterations: true}", 1, "`limits.iterations` is True", "takes a whole number"),
    ("limits: {iterations: -1}", 1, "`limits.iterations` is -1", "takes a whole number"),
    ("limits: {iterations: 1.5}", 1, "`limits.iterations` is 1.5", "takes a whole number"),
    ("sync: {poll_interval: 0}", 1, "`sync.poll_interval` is 0", "takes a number"),
    ("sync: {max_wait: .inf}", 1, "`sync.max_wait` is inf", "takes a number"),
    ("sync: {max_wait: .nan}", 1, "`sync.max_wait` is nan", "takes a number"),
    ("router: {mode: sometimes}", 1, "`router.mode` is 'sometimes'", "router_default, router_first, router_only"),
    ("router: {mode: [only]}", 1, "`router.mode` is ['only']", "router_default, router_first, router_only"),
    ("actors: {galph: {leftovers: burn}}", 1, "`actors.galph.leftovers` is 'burn'", "one of commit, fail, keep"),
    ("logs_dir: [a]", 1, "`logs_dir` is ['a']", "takes a relative path below"),
    ("logs_dir: 7", 1, "`logs_dir` is 7", "put text that looks like something else in quotes"),
    ("doc_whitelist: input.md", 1, "`doc_whitelist` is 'input.md'", "takes a list"),
    ("agent: {roles: [galph]}", 1, "`agent.roles` is ['galph']", "takes a map"),
    ("agent: {roles: {galph: [x]}}", 1, "`agent.roles` is {'galph': ['x']}", "takes a map"),
    ("agents: {mine: {command: ./agent.sh}}", 1, "`agents.mine.command` is './agent.sh'", "takes a list"),
    ("agents: {mine: {command: [a], stop: [TURM 8]}}", 1, "`agents.mine.stop` is ['TURM 8']", '"TERM 4", "KILL"'),
    ("agents: {mine: {command: [a], stop: [TERM soon]}}", 1, "`agents.mine.stop`", '"TERM 4", "KILL"'),
    # a scalar that does not fit its tag
    ("input_file: a\nlogs_dir: 2001-99-99\n", 2, "`logs_dir` cannot be read: ", "in quotes"),
    ("limits: {iterations: !!int many}", 1, "`limits.iterations` cannot be read: ", "in quotes"),
    ("limits: {iterations: " + "1" * 5000 + "}", 1, "`limits.iterations` cannot be read: ", "in quotes"),
    ("router: {enabled: !!bool perhaps}", 1, "`router.enabled` cannot be read: ", "in quotes"),
    ("logs_dir: !!timestamp now", 1, "`logs_dir` cannot be read: ", "in quotes"),
    ("logs_dir: !!python/name:os.system x", 1, "`logs_dir` cannot be read: ", "in quotes"),
    ("agent: {roles: &a {galph: *a}}", 1, "`agent.roles.galph` cannot be read: ", "in quotes"),
    ("doc_whitelist: &a [*a]", 1, "`doc_whitelist` cannot be read: ", "in quotes"),
    # what must go together
    ("agents:\n  mine:\n    timeout: 3\n", 3, "the agent `mine` has no command", "add `command: [program, argument]`"),
    ("agents: {mine: {command: []}}", 1, "`agents.mine.command` is []", "takes a list (as text: a,b), such as"),
    ("agents:\n  mine: {}\n", 2, "the agent `mine` has no command", "add `command: [program, argument]`"),
    ("router:\n  mode: only\n", 2, "`router.mode` is router_only, but no `router.prompt` is set", "`router.prompt`"),
    (
        "agent: {roles: {boss: x}}",
        1,
        "`agent.roles` is {'boss': 'x'}: 'boss' is none of its words",
        "of galph, ralph, loop, main, supervisor",
    ),
    # paths that leave the project
    ('logs_dir: "a\\nb"\n', 1, "`logs_dir` is 'a\\nb': must be a relative path below", "a relative path"),
    ('main_prompt: "a\\\\b"\n', 1, "`main_prompt` is ", "the name of a file below prompts/"),
    ('main_prompt: "a/ b"\n', 1, "`main_prompt` is 'a/ b'", "the name of a file below prompts/"),
    ("logs_dir: /var/log\n", 1, "`logs_dir` is '/var/log': must be a relative path below", "a relative path"),
    ("state_file: ../state.json\n", 1, "`state_file` is '../state.json'", "a relative path"),
    ("prompts_dir: a/../../b\n", 1, "`prompts_dir` is 'a/../../b'", "a relative path"),
    ("prompts_dir: .\n", 1, "`prompts_dir` is '.'", "a relative path"),
    ("tmp_dir: ''\n", 1, "`tmp_dir` is ''", "a relative path"),
    ("input_file: /etc/passwd\n", 1, "`input_file` is '/etc/passwd'", "a relative path"),
    ('logs_dir: "a\\0b"\n', 1, "`logs_dir` is ", "a relative path"),
    (
        "main_prompt: /etc/passwd\n",
        1,
        "`main_prompt` is '/etc/passwd': must be the name of a file below prompts/",
        "below prompts/",
    ),
    (
        "router:\n  prompt: ../router.md\n",
        2,
        "`router.prompt` is '../router.md': must be the name of a file",
        "below prompts/",
    ),
    ("router: {allowlist: [a.md, /b.md]}", 1, "must be the name of a file below prompts/ (item 2)", "takes a list"),
    ("agent: {prompts: {../main.md: x}}", 1, "must be the name of a file below prompts/ (a key)", "takes a map"),
    ("supervisor_prompt: ''", 1, "`supervisor_prompt` is '': must be the name", "below prompts/"),
]


@pytest.mark.parametrize(("text", "line", "cause", "remedy"), BAD_FILES, ids=[str(row[0])[:40] for row in BAD_FILES])
def test_a_bad_file_is_refused_with_its_line_what_was_expected_and_the_nearest_key(
    tmp_path: Path, text: str | bytes, line: int, cause: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as caught:
        merge(tmp_path, text)

    assert caught.value.message.startswith(f"{FILE}:{line}: ")
    assert cause in caught.value.message
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (b"", "logs_dir", "logs"),
        (b"\xef\xbb\xbflogs_dir: x\n", "logs_dir", "x"),
        (b"# only words\r\nlogs_dir: x\r\nrouter:\r\n  enabled: off\r\n", "router.enabled", False),
        (b"router:\nagent:\nagents:\nactors:\n  galph:\n", "actors.galph.leftovers", "fail"),
        (b"router: {enabled: NO}", "router.enabled", False),
        (b"limits: {iterations: 1_000}", "limits.iterations", 1000),
        (b"limits: {iterations: 1e3}", "limits.iterations", 1000),
        (b"limits: {iterations: 0x10}", "limits.iterations", 16),
        (b"limits: {turn_timeout: 0.5}", "limits.turn_timeout", 0.5),
        (b"sync: {branch: '2024-01-01'}", "sync.branch", "2024-01-01"),
        (b"agent: {prompts: {no: a, 010: b}}", "agent.prompts", {"no.md": "a", "010.md": "b"}),
        (b"logs_dir: &a x\ntmp_dir: *a\n", "tmp_dir", "x"),
        (b"actors: {galph: &a {leftovers: keep}, ralph: *a}", "actors.ralph.leftovers", "keep"),
        (b'"logs_dir": "x"\n', "logs_dir", "x"),
    ],
)
def test_what_is_readable_is_read(tmp_path: Path, text: bytes, path: str, value: object) -> None:
    assert at(merge(tmp_path, text).config, path) == value


def test_what_stands_in_the_files_place_and_cannot_be_read_is_refused(tmp_path: Path) -> None:
    place = tmp_path / FILE
    makers: list[tuple[Callable[[], None], str]] = [
        (place.mkdir, "is not a file"),
        (lambda: os.mkfifo(place), "is not a file"),
        (lambda: place.symlink_to(tmp_path / "gone"), "No such file or directory"),
        (lambda: place.symlink_to(place), "Too many levels of symbolic links"),
    ]
    for make, cause in makers:
        make()
        with pytest.raises(UsageError, match=f"^{FILE}: {cause}") as caught:
            resolve(place, {}, {}, tmp_path)
        assert caught.value.code == "config-unreadable"
        assert str(place) in caught.value.remedy
        place.rmdir() if place.is_dir() else place.unlink()


# -c | words of the message | words of the remedy
BAD_PAIRS = [
    ("router.mode", "-c router.mode: no value", "write -c key.path=value"),
    ("=x", "-c =x: unknown key ``", "known here"),
    ("agent=claude", "`agent` is a map, not a value", "agent.default"),
    ("agents.mine=x", "`agents.mine` is a map, not a value", "agents.mine.command"),
    ("routr.mode=only", "unknown key `routr.mode`", "did you mean `router.mode`?"),
    ("router.mode.x=1", "unknown key `router.mode.x`", "did you mean `router.mode`?"),
    ("router.mod=only", "unknown key `router.mod`", "did you mean `router.mode`?"),
    ("agents.mine.timeot=1", "unknown key `agents.mine.timeot`", "did you mean `agents.mine.timeout`?"),
    ("agents.mine.timeout=1", "the agent `mine` has no command", "add `command:"),
    ("limits.iterations=2001-99-99", "`limits.iterations` is '2001-99-99'", "takes a whole number"),
    ("limits.iterations=" + "1" * 5000, "`limits.iterations` is '111", "takes a whole number"),
    ("limits.iterations=010", "`limits.iterations` is '010'", "takes a whole number"),
    ("limits.iterations=[1]", "`limits.iterations` is '[1]'", "takes a whole number"),
    ("limits.iterations={", "`limits.iterations` is '{'", "takes a whole number"),
    ("limits.iterations=", "`limits.iterations` is ''", "takes a whole number"),
    ("router.enabled=2", "`router.enabled` is 2", "takes true or false"),
    ("sync.poll_interval=soon", "`sync.poll_interval` is 'soon'", "takes a number"),
    ("agent.roles=galph", "`agent.roles` is 'galph'", "takes a map (as text: a=b,c=d)"),
    ("agent.roles=galph=", "`agent.roles` is 'galph='", "takes a map (as text: a=b,c=d)"),
    ("agent.roles=boss=x", "-c agent.roles: `agent.roles` is {'boss': 'x'}", "of galph, ralph"),
    ("router.mode=fist", "'fist' is none of its words", "did you mean first?"),
    ("agent.roles=galph=a,supervisor=b", "`agent.roles` names galph twice", "remove one"),
    ("main_prompt=../x", "-c main_prompt: `main_prompt` is '../x'", "the name of a file below"),
]


@pytest.mark.parametrize(("pair", "cause", "remedy"), BAD_PAIRS, ids=[row[0][:30] for row in BAD_PAIRS])
def test_a_bad_pair_is_refused_by_name(tmp_path: Path, pair: str, cause: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        merge(tmp_path, pairs=(pair,))

    assert cause in caught.value.message
    assert caught.value.message.startswith("-c ")
    assert remedy in caught.value.remedy


def test_a_bad_variable_and_a_bad_flag_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^environment: unknown variable ORCHESTRATION_ROUTER_MOD$") as caught:
        merge(tmp_path, environment={"ORCHESTRATION_ROUTER_MOD": "only"})
    assert caught.value.remedy == "did you mean ORCHESTRATION_ROUTER_MODE?"

    with pytest.raises(UsageError, match=r"^ORCHESTRATION_LIMITS_ITERATIONS: `limits.iterations` is 'x'"):
        merge(tmp_path, environment={"ORCHESTRATION_LIMITS_ITERATIONS": "x"})

    with pytest.raises(UsageError, match=r"^--sync-loops: `limits.iterations` is 'x'"):
        merge(tmp_path, flags={"--sync-loops": "x"})


SNIPPETS = [
    *sorted({word for key in LEAVES for word in key}),
    *("agents", "mine", "command", "stop"),
    *":\n,[]{}&*!|>'\"%@`-?#~\t\0= ",
    *(": ", "\n  ", "\n    ", "- ", "---\n", "!!int ", "!!bool ", "!!set ", "!!binary ", "!!timestamp ", "<<"),
    *("1", "-1", "1e9", ".inf", ".nan", "0x", "1:2", "2001-99-99", "null", "true", "/x", "../x", "\\U", "\x85"),
]
text_like_yaml = st.one_of(st.text(), st.lists(st.sampled_from(SNIPPETS)).map("".join))


def refused_or_typed(folder: Path, text: bytes | None = None, pairs: tuple[str, ...] = ()) -> UsageError | None:
    """Return how a configuration is refused; anything else must be wholly typed."""
    try:
        config = merge(folder, text, pairs=pairs).config
    except UsageError as error:
        return error
    assert msgspec.convert(msgspec.to_builtins(config), Config) == config
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(text_like_yaml.map(str.encode), st.binary()))
@example(b'"\\U99999999"')
@example(b"!!timestamp ? x")
@example(b"%YAML 1." + b"9" * 5000)
def test_arbitrary_bytes_as_configuration_are_a_configuration_or_a_usage_error(tmp_path: Path, text: bytes) -> None:
    refusal = refused_or_typed(tmp_path, text)
    assert refusal is None or (refusal.message.startswith(f"{FILE}:") and refusal.remedy)


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from([".".join(key) for key in LEAVES]), text_like_yaml).map("=".join)))
def test_arbitrary_text_as_a_pair_is_a_configuration_or_a_usage_error(pairs: list[str]) -> None:
    refusal = refused_or_typed(Path("/nowhere"), pairs=tuple(pairs))
    assert refusal is None or (refusal.message.startswith("-c ") and refusal.remedy)


# --- the same, at the command line -----------------------------------------------------------------------------------


# command line | orchestration.yaml | words of the message
WRONG = [
    ("run --agnet x", "", "--agnet"),
    ("--mode role", "", "--mode"),
    ("run -c router.mode", "", "-c router.mode: no value"),
    ("run --poll-interval soon", "", "--poll-interval: `sync.poll_interval` is 'soon'"),
    ("status", "agnet: {}", f"{FILE}:1: unknown key `agnet`"),
    ("route", "router: {mode: only}", f"{FILE}:1: `router.mode` is router_only"),
    ("bogus", "", "No such command 'bogus'"),
    ("stauts", "", "No such command 'stauts'. Did you mean status?"),
    ("-c limits.iterations=1 route", "", "(route); put the command first: `orchestrator route -c ...`"),
    ("status status", "", "unexpected extra argument (status)"),
    ("stamp boss ok", "", "'boss' is not one of 'galph', 'ralph'"),
]


@pytest.mark.parametrize(("line", "text", "named"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_usage_exits_2_for_a_person_and_for_a_script_and_runs_nothing(
    bare_project: Project, capsys: Capture, line: str, text: str, named: str
) -> None:
    args = line.split()
    bare_project.write(FILE, text)
    before = bare_project.dirt()

    assert bare_project.call(*args) == 2
    told = capsys.readouterr()
    assert named in told.err
    assert told.out == ""

    assert bare_project.call(*args, "--json") == 2
    refusal = json.loads(capsys.readouterr().out)
    assert refusal["exit_code"] == 2
    assert named in refusal["message"]
    assert refusal["remedy"]
    assert bare_project.dirt() == before
    assert not (bare_project.path / ".git" / "orchestration").exists()


def test_every_generated_flag_is_in_the_help_of_run_once_with_its_help(bare_project: Project, capsys: Capture) -> None:
    assert bare_project.call("run", "--help") == 0

    flat = " ".join(capsys.readouterr().out.split())
    declared = [leaf.opt for leaf in LEAVES.values() if leaf.opt.flag]
    assert len(declared) > 15
    for opt in declared:
        shown = (opt.flag or "").replace("/", " / ")
        assert len(re.findall(rf"(?<![\w-]){re.escape(shown)}(?![\w-])", flat)) == 1, shown
        assert flat.count(opt.help) == 1, opt.help
    assert flat.count("-n, --sync-loops N ") == 1


def test_the_file_is_found_upwards_and_never_past_the_repository(bare_project: Project, capsys: Capture) -> None:
    (bare_project.path.parent / FILE).write_text("not: ours\n")
    bare_project.write("deep/er/here.txt", "")
    bare_project.write(FILE, "logs_dir: 7\n")

    assert Project(bare_project.path / "deep" / "er").call("status") == 2
    assert f"{FILE}:1: `logs_dir` is 7" in capsys.readouterr().err

    (bare_project.path / FILE).unlink()
    assert Project(bare_project.path / "deep" / "er").call("status") == 3
    assert "state-missing" in capsys.readouterr().err

    (bare_project.path / "deep" / FILE).mkdir()
    assert Project(bare_project.path / "deep" / "er").call("status") == 2
    assert f"{FILE}: is not a file" in capsys.readouterr().err


# --- which agent -----------------------------------------------------------------------------------------------------


def who_ran(project: Project) -> dict[str, str]:
    """Return prompt → agent from the newest run's records."""
    records = (project.path / "logs" / "main" / "latest").glob("iter-*.json")
    loaded = [json.loads(path.read_text()) for path in sorted(records)]
    return {record["prompt"]: record["agent"] for record in loaded}


def agents(project: Project, *names: str) -> dict[str, str]:
    """Make an agent of each name that reads its prompt and succeeds; return name → path."""
    return {name: project.agent("cat >/dev/null\necho done\n", name) for name in names}


def test_an_executable_is_found_by_relative_path_from_where_the_person_stands_and_from_path(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "#!/bin/sh\ncat >/dev/null\n"
    for folder in ("sub/tools", "tools"):
        (project.path / folder).mkdir(parents=True)
    executable(project.path / "sub" / "near.sh", body)
    executable(project.path / "sub" / "tools" / "nested.sh", body)
    executable(project.path / "top.sh", body)
    (project.path / "tools" / "linked").symlink_to(project.path / "top.sh")
    on_path = project.path.parent / "bin"
    on_path.mkdir()
    executable(on_path / "found-on-path", body)
    monkeypatch.setenv("PATH", f"{on_path}{os.pathsep}{os.environ['PATH']}")
    project.commit("agents")
    below = Project(project.path / "sub")

    for path, name in {
        "./near.sh": "near.sh",
        "../top.sh": "top.sh",
        "tools/nested.sh": "nested.sh",
        "../tools/linked": "linked",
        "found-on-path": "found-on-path",
        str(project.path / "top.sh"): "top.sh",
    }.items():
        assert below.call("run", "--once", "-q", "--agent", path) == 0, path
        assert set(who_ran(project).values()) == {name}

    project.write(FILE, "agent: {default: ./top.sh}\n")
    project.commit("a path in the file is relative to the file")
    assert below.call("run", "--once", "-q") == 0
    assert set(who_ran(project).values()) == {"top.sh"}


@pytest.mark.parametrize(
    ("agent", "cause", "remedy"),
    [
        (
            "./missing.sh",
            "missing.sh' was not found",
            "use `checklist`, a name under `agents:`, or an executable's path",
        ),
        ("no-such-program", "the agent 'no-such-program' was not found", "use `checklist`"),
        ("./plain.sh", "plain.sh' is not executable", "chmod +x "),
        ("./src", "src' was not found", "use `checklist`"),
        ("plain.sh", "'plain.sh' was not found on PATH", "did you mean ./plain.sh?"),
        ("cat -n", "'cat -n' was not found", "`agents: {NAME: {command: [cat, -n]}}`; then name it so: --agent NAME"),
        ("no-such -n", "'no-such -n' was not found", "use `checklist`"),
        ("codex", "'codex' was not found on PATH", "install codex"),
        ("claud", "'claud' was not found", "did you mean claude?"),
        (
            "",
            "no agent is configured to run supervisor.md for galph",
            "to one of: checklist, mine, claude, codex, auto, any executable",
        ),
    ],
)
def test_an_agent_that_cannot_run_is_found_before_the_first_turn(
    project: Project, capsys: Capture, agent: str, cause: str, remedy: str
) -> None:
    project.write("plain.sh", "#!/bin/sh\n")
    project.write(FILE, "agents: {mine: {command: [cat]}}\n")
    tip = project.commit("files")
    capsys.readouterr()

    assert project.call("run", "--agent", agent) == 2

    told = capsys.readouterr()
    assert cause in told.err
    assert remedy in told.err
    assert told.out == ""
    assert project.git("rev-parse", "HEAD") == tip
    assert project.journal() == "idle"
    assert not (project.path / "logs" / "main").exists()


def test_no_agent_is_never_a_silent_fall_back(project: Project, capsys: Capture) -> None:
    capsys.readouterr()

    assert project.call("run") == 2
    assert "no agent is configured to run supervisor.md for galph" in capsys.readouterr().err

    assert project.call("run", "--agent-role", "galph=checklist") == 2
    assert "no agent is configured to run main.md for ralph" in capsys.readouterr().err
    assert project.subjects() == ["first", "orchestrator init: two agents take turns here"]


def layered(given: dict[str, str], text: str, *flags: str) -> Callable[[Project], dict[str, str]]:
    """Return a run of two iterations, the second with a review."""

    def run(project: Project) -> dict[str, str]:
        filled = text
        for name, path in given.items():
            filled = filled.replace(f"<{name}>", path)
        project.write(FILE, f"router: {{review_every_n: 2}}\n{filled}")
        project.commit("agents")
        spoken = [given.get(flag.rpartition("=")[2], "") for flag in flags]
        args = [
            f"{flag.rpartition('=')[0]}={path}" if path and "=" in flag else path or flag
            for flag, path in zip(flags, spoken, strict=True)
        ]
        assert project.call("run", "-q", "-n", "2", *args) == 0
        return who_ran(project)

    return run


# orchestration.yaml | flags | agent of supervisor.md, main.md, reviewer.md; flag prompts > flag roles > file prompts >
# file roles > default
LAYERS = [
    ("agent: {default: <a>}", (), "a a a"),
    ("agent: {default: <a>, roles: {ralph: <b>}}", (), "a b a"),
    ("agent: {default: <a>, roles: {supervisor: <b>}, prompts: {reviewer: <c>}}", (), "b a c"),
    ("agent: {default: <a>, prompts: {prompts/reviewer.md: <c>}}", ("--agent-role", "galph=b"), "b a b"),
    ("agent: {default: <a>, prompts: {main: <c>}}", ("--agent-role", "galph=b"), "b c b"),
    ("agent: {default: <a>, prompts: {main: <c>}}", ("--agent-role", "loop=b"), "a b a"),
    ("agent: {default: <a>, prompts: {reviewer: <c>}}", ("--agent-prompt", "supervisor=b"), "b a c"),
    ("agent: {roles: {galph: <a>, ralph: <a>}}", ("--agent", "b"), "b b b"),
    (
        "agent: {roles: {galph: <a>, ralph: <a>}}",
        ("--agent-role", "galph=b", "--agent-prompt", "reviewer.md=c"),
        "b a c",
    ),
]


@pytest.mark.parametrize(("text", "flags", "expected"), LAYERS, ids=[f"{row[0]} {' '.join(row[1])}" for row in LAYERS])
def test_flag_prompts_go_before_flag_roles_before_file_prompts_before_file_roles_before_the_default(
    project: Project, text: str, flags: tuple[str, ...], expected: str
) -> None:
    given = agents(project, "a", "b", "c")

    ran = layered(given, text, *flags)(project)

    assert " ".join(ran[prompt] for prompt in ("supervisor.md", "main.md", "reviewer.md")) == expected


def test_a_defined_agent_runs_with_its_arguments_and_its_limits_and_is_ended_by_its_own_ladder(
    project: Project, capsys: Capture
) -> None:
    """`INT` comes first as its definition says; the shell notes which signal it was given."""
    noted = project.path.parent / "noted"
    project.agent(
        f"""
        trap 'echo INT >>{noted}; exit 9' INT
        trap 'echo TERM >>{noted}; exit 9' TERM
        echo "$@" >{noted}
        while :; do read -r line </dev/null; done
        """,
        "slow",
    )
    project.write(
        FILE,
        "agents: {mine: {command: [../slow, --fast, a b], timeout: 0.5, stop: [INT 8, TERM 4, KILL]}}\n"
        "agent: {default: mine}\n",
    )
    project.commit("an agent of my own")

    assert project.call("run", "--once") == 4

    assert noted.read_text() == "--fast a b\nINT\n"
    told = capsys.readouterr().out
    assert "the agent mine ran longer than 0.5 s and was ended" in told
    assert project.state()["failure"]["code"] == "agent-timeout"


def test_a_definition_may_take_the_built_in_agents_name(project: Project) -> None:
    mine = agents(project, "mine")["mine"]
    shutil.move(mine, project.path.parent / "other")
    project.write(FILE, "agents: {checklist: {command: [../other]}}\nagent: {default: checklist}\n")
    project.commit("my own checklist")

    assert project.call("run", "--once", "-q") == 0
    assert who_ran(project) == {"supervisor.md": "checklist"}
    record = next((project.path / "logs" / "main" / "latest").glob("iter-*.json"))
    assert json.loads(record.read_text())["argv"] == [str(project.path / "../other")]


# --- in a person's words ---------------------------------------------------------------------------------------------


class _Deep(msgspec.Struct):
    words: list[str] | None = None
    many: dict[Actor, Annotated[float, Meta(gt=0)]] = {}
    name: Annotated[str, Meta(min_length=2)] = "ab"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"words": "a"}, "must be a list or nothing, not text (at words)"),
        ({"words": ["a", 1]}, "must be text, not a whole number (item 2)"),
        ({"many": {"galph": 0}}, "must be a number above 0.0 (at many[...])"),
        ({"many": {"gaph": 1}}, "'gaph' is none of its words (a key)"),
        ({"name": "a"}, "must be text of at least length 2 (at name)"),
        ([], "must be a map, not a list"),
    ],
)
def test_what_the_library_says_of_a_wrong_value_is_told_in_plain_words(wrong: object, told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(wrong, _Deep)

    assert plainly(str(raised.value)) == told
