"""`orchestrator config`: what holds here and why, and the schema for editors."""

import functools
import operator

import click
import msgspec
import yaml

from orchestration import config_schema
from orchestration.cli.options import configured, here, json_option
from orchestration.config import Resolved
from orchestration.console import Console
from orchestration.keys import NAME, SETTINGS, below


@click.group()
def config() -> None:
    """See the settings that hold here, and their schema."""


@config.command()
@click.option("--changed", is_flag=True, help="Only what is not default.")
@json_option
@configured
def show(*, flags: dict[str, str | bool], pairs: tuple[str, ...], changed: bool, as_json: bool) -> int:
    """Print every setting with its value and where that is from.

    A line of orchestration.yaml, an environment variable, a flag, -c, or the default. Takes the options of `run`, and
    tells what they would do.
    """
    resolved = here(flags, pairs).resolved
    console = Console(as_json=as_json)
    settings = {
        key: (value, resolved.sources.get(key, "default"))
        for key, value in _values(resolved).items()
        if key in resolved.sources or not changed
    }
    if as_json:
        told = {key: {"value": value, "source": source} for key, (value, source) in settings.items()}
        console.dump({"settings": told, "warnings": resolved.warnings})
        return 0
    lines = {f"{key} = {_flow(value)}": source for key, (value, source) in settings.items()}
    width = min(max(map(len, lines), default=0), 56)
    for line, source in lines.items():
        console.say(f"{line:<{width}}   {click.style(f'# {source}', dim=True)}")
    for warning in resolved.warnings:
        console.say(click.style(f"# {warning}", fg="yellow"))
    return 0


def _values(resolved: Resolved) -> dict[str, object]:
    """Return dotted key → plain value, in the order in which docs/configuration.md tells of them."""
    names = list(resolved.config.agents)
    paths = [key for key in SETTINGS if NAME not in key]
    after = next(place for place, key in enumerate(paths) if key[0] == "agent") + len(below(("agent",)))
    paths[after:after] = [("agents", name, word) for name in names for word in below(("agents", NAME))]
    plain = msgspec.to_builtins(resolved.config)
    return {".".join(path): functools.reduce(operator.getitem, path, plain) for path in paths}


def _flow(value: object) -> str:
    """Return a value as it would stand on one line of orchestration.yaml."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


@config.command()
def schema() -> int:
    """Print the JSON Schema of orchestration.yaml.

    `init` writes it to .orchestration.schema.json, which the first line of orchestration.yaml names to editors.
    """
    Console().say(config_schema.text().removesuffix("\n"))
    return 0
