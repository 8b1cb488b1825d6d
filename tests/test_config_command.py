"""What a person and an editor are told of the settings: `config show`, `config schema`, docs/configuration.md."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import config_reference
from conftest import Project
from orchestration import config_schema
from orchestration.cli.options import flag_option
from orchestration.config import resolve
from orchestration.errors import UsageError
from orchestration.keys import LEAVES, SECTIONS, SETTINGS, Leaf, variable
from orchestration.layers import FILE
from orchestration.router import normalise
from orchestration.settings import Opt, Prompt
from orchestration.yaml_file import Key

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[1]
SCHEMA = config_schema.schema()


# --- the schema accepts what the loader accepts ----------------------------------------------------------------------

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
_TOLD = {"$schema", "title", "description", "default", "examples", "deprecated", "deprecationMessage", "if", "then"}


def is_a(value: object, name: str) -> bool:
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def fits(schema: Mapping[str, Any], value: Any) -> bool:  # noqa: ANN401 - any document
    """Validate against the words of JSON Schema that are in use; another word is an error of this test."""
    checks: dict[str, Callable[[Any], bool]] = {
        "type": lambda kinds: any(is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "enum": lambda words: any(type(word) is type(value) and word == value for word in words),
        "const": lambda word: type(word) is type(value) and word == value,
        "anyOf": lambda ways: any(fits(way, value) for way in ways),
        "allOf": lambda ways: all(fits(way, value) for way in ways),
        "not": lambda way: not fits(way, value),
        "pattern": lambda text: not isinstance(value, str) or re.search(text, value) is not None,
        "minimum": lambda least: not is_a(value, "number") or value >= least,
        "maximum": lambda most: not is_a(value, "number") or value <= most,
        "exclusiveMinimum": lambda least: not is_a(value, "number") or value > least,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "items": lambda item: not isinstance(value, list) or all(fits(item, part) for part in value),
        "required": lambda words: not isinstance(value, dict) or set(words) <= set(value),
        "propertyNames": lambda name: not isinstance(value, dict) or all(fits(name, word) for word in value),
        "properties": lambda known: (
            not isinstance(value, dict) or all(fits(known[word], value[word]) for word in known if word in value)
        ),
        "additionalProperties": lambda rest: (
            not isinstance(value, dict)
            or all(
                rest is not False and fits(rest, value[word]) for word in set(value) - set(schema.get("properties", ()))
            )
        ),
    }
    then = "if" not in schema or not fits(schema["if"], value) or fits(schema["then"], value)
    return then and all(checks[word](part) for word, part in schema.items() if word not in _TOLD)


def loads(folder: Path, document: object) -> bool:
    """Tell whether the loader takes a document."""
    file = folder / FILE
    file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    try:
        resolve(file, {}, {}, folder)
    except UsageError:
        return False
    return True


def nested(key: Key, value: object) -> object:
    """Return a document with one setting; an agent of any name has a command."""
    document: object = value
    for word in reversed(key):
        document = {word: document}
    if key[0] == "agents" and key[2] != "command":
        return {"agents": {key[1]: {"command": ["x"], key[2]: value}}}
    return document


NUMBERS = [True, False, 0, 1, -1, 3.0, 0.5, 1_000_000_000, 1_000_000_001, 2_000_000, 2_000_000.5, 1e22, 10**30]
WORDS = [
    *(
        "",
        " ",
        ".",
        "..",
        "...",
        "main",
        "main.md",
        "claims",
        "standby",
        "prompts/main.md",
        " main.md ",
        "/x",
        "../x",
        "a/../b",
        "a/..",
        "./a",
    ),
    *("a/", "a//b", "a/ b", "a /b", "/ ", "./", "a\\b", "a\nb", "a\n", "a\tb", "a..b", "..a", "caf\u00e9.md", "\u3000"),
    *(
        "router_default",
        "router-first",
        "first",
        "only",
        "Only",
        "router",
        "commit",
        "keep",
        "galph",
        "true",
        "1",
        "null",
    ),
    *("TERM", "TERM 8", "SIGINT 0.5", "KILL\n", "TURM 8", "TERM soon"),
]
WRONG: list[object] = [None, 1, True, ["x"], {}]
HELD: list[object] = [None, {}, [], "x", 1]
MAPS: list[object] = [
    {},
    *({role: "x"} for role in ("galph", "ralph", "supervisor", "loop", "main", "boss", "main.md", "../x", "")),
    *({"galph": wrong} for wrong in WRONG),
    *({role: "x", other: "y"} for role in ("galph", "ralph", "loop") for other in ("supervisor", "main", "loop")),
]
VALUES: list[object] = [None, *NUMBERS, *WORDS, [], [1], [None], [["x"]], *([word] for word in WORDS), *MAPS]


@pytest.mark.parametrize("key", SETTINGS, ids=".".join)
def test_the_schema_takes_of_every_setting_what_the_loader_takes(tmp_path: Path, key: Key) -> None:
    documents = [nested(key, value) for value in VALUES]
    taken = [loads(tmp_path, document) for document in documents]

    assert [fits(SCHEMA, document) for document in documents] == taken
    assert 0 < sum(taken) < len(taken)


DOCUMENTS: list[object] = [
    *(None, {}, [], "words", 7, {"zzz": 1}, {"router": {"zzz": 1}}, {"agents": {"mine": {"command": ["a"], "zzz": 1}}}),
    *({section: held} for section in ("router", "agent", "agents", "actors", "sync", "limits") for held in HELD),
    *({"actors": {actor: held}} for actor in ("galph", "ralph", "boss") for held in HELD),
    *(
        {"agents": {name: held}}
        for name in ("mine", "claude")
        for held in [
            *(*HELD, {"timeout": 1}, {"command": []}, {"command": ["x"]}, {"command": None}, {"preset": None}),
            *({"preset": "codex"}, {"preset": "claud"}, {"preset": ""}, {"preset": "codex", "command": ["x"]}),
        ]
    ),
    *({key: held} for key in ("spec_bootstrap", "findings_file") for held in [*HELD, {"any": [1, {"thing": None}]}]),
    *(
        {"router": {"mode": mode, **more}}
        for mode in ("only", "router_only", "router-only", "first")
        for more in ({}, {"prompt": None}, {"prompt": "r.md"}, {"enabled": False}, {"enabled": True})
    ),
]


def test_the_schema_takes_of_whole_documents_what_the_loader_takes(tmp_path: Path) -> None:
    for document in DOCUMENTS:
        assert fits(SCHEMA, document) == loads(tmp_path, document), document
    assert fits(SCHEMA, yaml.safe_load((ROOT / "tests" / "data" / "ancestor.yaml").read_text()))


PATHS = st.sampled_from([tuple("mine" if word == "NAME" else word for word in key) for key in SETTINGS])
GOOD = st.sampled_from([*SETTINGS.values()]).flatmap(
    lambda leaf: st.just((leaf.key, msgspec.to_builtins(leaf.default) or (["x"] if "command" in leaf.key else None)))
)


def assembled(parts: list[tuple[Key, object]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in parts:
        place = document
        for word in key[:-1]:
            place = place.setdefault(word, {})
        place[key[-1]] = value
    return document


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(GOOD, GOOD, GOOD, st.tuples(PATHS, st.sampled_from(VALUES))), max_size=6))
def test_the_schema_takes_of_arbitrary_documents_what_the_loader_takes(
    tmp_path: Path, parts: list[tuple[Key, object]]
) -> None:
    document = assembled(parts)

    assert fits(SCHEMA, document) == loads(tmp_path, document)


@given(
    st.one_of(
        st.text(), st.sampled_from(WORDS), st.lists(st.sampled_from(["..", ".", "/", " ", "a", "\n"])).map("".join)
    )
)
@example("prompts")
@example("./ 0")
def test_what_passes_as_a_prompts_name_the_router_can_use(name: str) -> None:
    try:
        msgspec.convert(name, Prompt)
    except msgspec.ValidationError:
        return
    for folder in ("prompts", "agents/prompts", "prompts/"):
        assert normalise(name, folder)


# --- where an editor finds it ----------------------------------------------------------------------------------------


def test_the_first_line_names_a_schema_that_init_writes_and_undo_removes(project: Project, capsys: Capture) -> None:
    first = (project.path / FILE).read_text().splitlines()[0]
    named = project.path / first.removeprefix("# yaml-language-server: $schema=")
    assert named == project.path / ".orchestration.schema.json"
    assert named.name in project.git("ls-files")
    capsys.readouterr()

    assert project.call("config", "schema") == 0
    assert capsys.readouterr().out == named.read_text()
    assert json.loads(named.read_text()) == SCHEMA
    assert fits(SCHEMA, yaml.safe_load((project.path / FILE).read_text()))

    assert project.call("init", "--undo") == 0
    assert not named.exists()


def test_this_repository_has_the_schema_that_init_writes() -> None:
    assert (ROOT / config_schema.FILE).read_text() == config_schema.text()
    assert (ROOT / FILE).read_text().startswith(f"# yaml-language-server: $schema={config_schema.FILE}\n")
    assert fits(SCHEMA, yaml.safe_load((ROOT / FILE).read_text()))


# --- what is told of a setting ---------------------------------------------------------------------------------------


def test_every_setting_and_every_section_is_told_of_in_one_declaration() -> None:
    for key, leaf in SETTINGS.items():
        assert re.fullmatch(r"[A-Z][^\n]{9,100}\.", leaf.opt.help), f"{'.'.join(key)} has no help of one line"
        assert leaf.opt.flag is None or leaf.opt.flag.startswith("--")
    assert len({leaf.opt.help for leaf in SETTINGS.values()}) == len(SETTINGS) - 4  # both actors have the same four
    assert all(prose.endswith(".") for prose in SECTIONS.values())
    assert SCHEMA["properties"]["router"]["properties"]["prompt"]["description"] == LEAVES["router", "prompt"].opt.help


def test_the_reference_is_made_of_the_declarations() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()

    assert re.findall(r"^- \*\*`(.*?)`", page, re.MULTILINE) == [
        ".".join(key) for section in SECTIONS for key in SETTINGS if key[:-1] == section
    ]
    row = config_reference.rows(("limits",))[0]
    assert row[:5] == ("limits.iterations", "a whole number", "20", "--sync-loops", "ORCHESTRATION_LIMITS_ITERATIONS")


def test_every_variable_is_spelled_in_the_reference() -> None:
    page = config_reference.page()

    assert [variable(key) for key in LEAVES if f"`{variable(key)}`" not in page] == []


@pytest.mark.parametrize(("given_line", "said"), [((), None), (("--dry",), True)])
def test_a_truth_without_an_opposite_is_a_switch(given_line: tuple[str, ...], said: bool | None) -> None:
    leaf = Leaf(("dry",), bool, Opt("--dry", "Change nothing."), default=False)
    heard: list[bool | None] = []

    def hear(*, dry: bool | None) -> None:
        heard.append(dry)

    command = click.command("x")(flag_option(leaf)(hear))

    assert CliRunner().invoke(command, given_line).exit_code == 0
    assert heard == [said]
    assert "[default" not in CliRunner().invoke(command, ["--help"]).output


# --- config show -----------------------------------------------------------------------------------------------------

GIVEN = """\
logs_dir: logs
router:
  enabled: false
  allowlist: [main.md, "a b.md"]
agents:
  two: {command: [two, "--x y"]}
  one:
    command: [one]
    timeout: 60
agent:
  roles: {galph: two}
"""


def shown(text: str) -> dict[str, tuple[str, str]]:
    """Read what `config show` prints: key → value, source."""
    found = [re.fullmatch(r"(\S+) = (.*?) +# (.*)", line) for line in text.splitlines()]
    return {match[1]: (match[2], match[3]) for match in found if match}


def test_show_prints_every_setting_in_order_with_its_value_and_its_source(
    project: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(FILE, GIVEN)
    monkeypatch.setenv("ORCHESTRATION_ROUTER_MODE", "router-first")
    capsys.readouterr()

    assert project.call("config", "show", "-n", "3", "-c", "sync.branch=no", "--agent-role", "ralph=one") == 0
    text = capsys.readouterr().out
    told = shown(text)

    assert told["logs_dir"] == ("logs", f"{FILE}:1")
    assert told["router.enabled"] == ("false", f"{FILE}:3")
    assert told["router.allowlist"] == ("[main.md, a b.md]", f"{FILE}:4")
    assert told["agents.two.command"] == ("[two, --x y]", f"{FILE}:6")
    assert told["agents.one.timeout"] == ("60.0", f"{FILE}:9")
    assert told["agents.two.timeout"] == ("null", "default")
    assert told["router.mode"] == ("router_first", "ORCHESTRATION_ROUTER_MODE")
    assert told["limits.iterations"] == ("3", "--sync-loops")
    assert told["sync.branch"] == ("'no'", "-c sync.branch")
    assert told["agent.roles"] == ("{galph: two, ralph: one}", f"{FILE}:11, --agent-role")
    assert told["agent.default"] == ("null", "default")
    assert told["actors.galph.leftovers"] == ("fail", "default")
    agents = [f"agents.{name}.{key[-1]}" for name in ("two", "one") for key in SETTINGS if key[0] == "agents"]
    declared = [".".join(key) for key in LEAVES]
    at = declared.index("agent.prompts") + 1
    assert list(told) == [*declared[:at], *agents, *declared[at:]]
    assert len(told) == len(text.splitlines())


def test_every_value_that_show_prints_reads_back_as_itself(project: Project, capsys: Capture, tmp_path: Path) -> None:
    project.write(FILE, GIVEN)
    capsys.readouterr()
    assert project.call("config", "show", "-c", "agent.prompts=main=./a,reviewer=b") == 0

    parts = [(tuple(key.split(".")), value) for key, (value, _) in shown(capsys.readouterr().out).items()]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(assembled([(key, yaml.safe_load(value)) for key, value in parts])))

    first = resolve(project.path / FILE, {}, {}, project.path).config
    second = resolve(again, {}, {}, project.path).config
    prompts = {"main.md": f"{project.path}/./a", "reviewer.md": "b"}
    assert {name: str(Path(agent)) if "/" in agent else agent for name, agent in second.agent.prompts.items()} == {
        name: str(Path(agent)) if "/" in agent else agent for name, agent in prompts.items()
    }
    assert msgspec.structs.replace(second, agent=first.agent) == first


def test_show_changed_is_what_somebody_set_and_json_is_for_scripts(project: Project, capsys: Capture) -> None:
    project.write(FILE, "logs_dir: logs\nfindings_file: x\n")
    capsys.readouterr()

    assert project.call("config", "show", "--changed", "--router-prompt", "router") == 0
    said = capsys.readouterr().out
    assert shown(said) == {"logs_dir": ("logs", f"{FILE}:1"), "router.prompt": ("router", "--router-prompt")}
    assert said.endswith(f"# {FILE}:2: `findings_file` has no effect: agents find it through their prompts\n")

    assert project.call("config", "show", "--changed", "--json", "--no-router") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == {
        "logs_dir": {"value": "logs", "source": f"{FILE}:1"},
        "router.enabled": {"value": False, "source": "--no-router"},
    }
    assert told["warnings"] == [f"{FILE}:2: `findings_file` has no effect: agents find it through their prompts"]

    project.write(FILE, "")
    assert project.call("config", "show", "--changed") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "--agnet", "x"), "No such option.*--agent"),
        (("config", "show", "--pol-interval", "1"), "No such option.*--poll-interval"),
        (("--router-mod", "only"), "No such option.*--router-mode"),
        (("config", "shwo"), "No such command 'shwo'"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_one_that_was_meant(
    project: Project, capsys: Capture, args: tuple[str, ...], said: str
) -> None:
    capsys.readouterr()

    assert project.call(*args) == 2
    assert re.search(said, capsys.readouterr().err)
