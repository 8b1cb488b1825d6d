"""Presets: what a known agent is started with and what its events mean, as data (presets.yaml)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from msgspec import field

from orchestration.endings import Kind
from orchestration.errors import UsageError
from orchestration.yaml_file import compose, constructed

FILE = Path(__file__).with_name("presets.yaml")
WORDS = ("model", "session", "max_turns", "budget_usd")
"""What a word in braces may stand for in an argument list."""

Scalar = str | int | float | bool | None
Event = Mapping[str, Any]

_WORD = re.compile(r"\{(\w*)\}")
_TEXT = 4096
"""Characters of an event's text that an expression is held against."""


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A map of presets.yaml: what it may not hold is an error."""


class Match(_Data, frozen=True, kw_only=True):
    """Which events are meant: those that have these values at these dotted paths, and `match` in the text at `path`."""

    event: dict[str, Scalar | list[Scalar]]
    path: str | None = None
    match: str | None = None

    def fits(self, event: Event) -> bool:
        """Tell whether an event is meant."""
        return self.within(event) is not None

    def within(self, event: Event) -> str | None:
        """Return the text at `path`, from where `match` fits; None if the event is not meant, or has no text there."""
        for path, wanted in self.event.items():
            value = at(event, path)
            if value not in (wanted if isinstance(wanted, list) else [wanted]):
                return None
        text = "" if self.path is None else text_at(event, self.path)
        if text is None or self.match is None:
            return text
        found = re.search(self.match, text[:_TEXT])
        return None if found is None else text


class ErrorRule(_Data, frozen=True, kw_only=True):
    """What kind of failure an event, or a text on standard error, means; `unreached`: no provider was."""

    outcome: Kind
    unreached: bool = False
    event: dict[str, Scalar | list[Scalar]] | None = None
    path: str | None = None
    match: str | None = None
    stderr: str | None = None

    def where(self) -> Match | None:
        """Return the events that it is about."""
        return None if self.event is None else Match(event=self.event, path=self.path, match=self.match)


class OkRule(_Data, frozen=True, kw_only=True):
    """The last terminal event of a success, and its exit codes."""

    event: dict[str, Scalar | list[Scalar]]
    exit: list[int]


class UsageRule(_Data, frozen=True, kw_only=True):
    """Where an event tells what was used, and whether the last such event counts or all of them do.

    `cumulative`: the numbers count through all runs of the session.
    """

    event: dict[str, Scalar | list[Scalar]]
    take: Literal["last", "sum"]
    cumulative: bool = False
    cost_usd: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    cache_read_tokens: str | None = None
    cache_write_tokens: str | None = None

    def paths(self) -> dict[str, str]:
        """Return what it tells: a field of `Usage` → a dotted path."""
        names = ("cost_usd", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


class Resume(_Data, frozen=True, kw_only=True):
    """How a session is gone on with: another command, or arguments after the options."""

    command: list[str] = []
    args: list[str] = []


class Login(_Data, frozen=True, kw_only=True):
    """Where it can be seen for free that an agent is logged in: a variable, or a file of its own.

    `folder` holds the file, below HOME, unless the variable `home` names another one.
    """

    variables: list[str]
    home: str
    folder: str
    file: str


class Preset(_Data, frozen=True, kw_only=True):
    """An agent whose output is understood; `idle_timeout` and `exit_grace` are seconds.

    The prompt is its standard input. `exit_grace` is how long it may take to exit after its terminal event.
    """

    verified: str
    command: list[str]
    session: Match
    done: Match
    ok: OkRule
    final_text: Match
    errors: list[ErrorRule]
    stop: list[str]
    idle_timeout: float
    exit_grace: float
    env_pass: list[str]
    prompt: Literal["stdin"] = "stdin"
    model_args: list[str] = []
    max_turns_args: list[str] = []
    budget_args: list[str] = []
    resume: Resume = field(default_factory=Resume)
    tail: list[str] = []
    env: dict[str, str] = {}
    env_optional: list[str] = []
    login: Login | None = None
    root_env: dict[str, str] = {}
    usage: list[UsageRule] = []
    noise: list[Match] = []
    resets: list[Match] = []
    reasons: list[Match] = []


def at(event: Event, path: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Return what stands at a dotted path of an event, None if nothing does."""
    value: Any = event
    for word in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(word)
    return value


def text_at(event: Event, path: str) -> str | None:
    """Return the text at a dotted path: a number's digits, a list's texts; None if there is none."""
    value = at(event, path)
    if isinstance(value, list):
        value = "; ".join(part for part in value if isinstance(part, str)) or None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # JSON may hold half a character
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@cache
def load() -> dict[str, Preset]:
    """Return every preset by its agent's name, in the order in which they are preferred."""
    return read(FILE)


@cache
def names() -> list[str]:
    """Return the names of all presets, in the order in which they are preferred; no more of the file is read."""
    found: list[str] = re.findall(r"^(\w+):", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name in found if name != "defaults"]


def read(file: Path) -> dict[str, Preset]:
    """Read a file of presets.

    Raises:
        UsageError: it cannot be read, or a preset holds what it may not (code `config-bad-value`).

    """
    node = compose(file)
    held = constructed(node, (), file.name) if isinstance(node, yaml.MappingNode) else {}
    defaults = held.pop("defaults", None) or {}
    return {name: _checked(name, defaults, given, file) for name, given in held.items()}


def _checked(name: str, defaults: Mapping[str, Any], given: object, file: Path) -> Preset:
    try:
        preset = msgspec.convert({**defaults, **given} if isinstance(given, dict) else given, Preset)
        for expression in _expressions(preset):
            re.compile(expression)
    except (msgspec.ValidationError, re.error) as error:
        raise UsageError(
            f"{file.name}: the preset `{name}`: {error}", code="config-bad-value", remedy=f"correct {file}"
        ) from None
    argv(preset, model="", session="", max_turns=0, budget_usd=0.0)
    return preset


def _expressions(preset: Preset) -> Iterator[str]:
    for rule in preset.errors:
        yield from (text for text in (rule.match, rule.stderr) if text is not None)
    for match in (*preset.noise, *preset.resets, *preset.reasons):
        yield from () if match.match is None else (match.match,)


def argv(
    preset: Preset,
    *,
    model: str | None = None,
    session: str | None = None,
    max_turns: int | None = None,
    budget_usd: float | None = None,
) -> list[str]:
    """Return a preset's command line; what has no value is left out of it.

    Args:
        preset: the agent.
        model: which model it is to use.
        session: the session that it is to go on with.
        max_turns: how many turns of its own it may take.
        budget_usd: US dollars that it may spend.

    Raises:
        UsageError: an argument holds an unknown word in braces (code `config-bad-value`).

    """
    values = {"model": model, "session": session, "max_turns": max_turns, "budget_usd": budget_usd}
    said = {
        word: f"{value:g}" if isinstance(value, float) else str(value)
        for word, value in values.items()
        if value is not None
    }
    resumed = session is not None
    groups: list[Sequence[str]] = [preset.model_args, preset.max_turns_args, preset.budget_args]
    groups += [preset.resume.args] if resumed else []
    command = preset.resume.command if resumed and preset.resume.command else preset.command
    return [*command, *(word for group in (*groups, preset.tail) for word in _filled(group, said))]


def _filled(group: Sequence[str], said: Mapping[str, str]) -> list[str]:
    used = {word for text in group for word in _WORD.findall(text)}
    if unknown := sorted(used.difference(WORDS)):
        raise UsageError(
            f"an argument holds {{{unknown[0]}}}, which stands for nothing",
            code="config-bad-value",
            remedy=f"known are {', '.join(f'{{{word}}}' for word in WORDS)}",
        )
    return [_WORD.sub(lambda found: said[found[1]], text) for text in group] if used.issubset(said) else []
