"""What the documentation repeats from the code is written by this program, `scripts/docs`, and held to it by a test."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click

import config_reference
import faults
from orchestration import config_schema
from orchestration.cli import cli
from pages import ROOT, Page, pages, read

NOTICE = "<!-- Generated: `scripts/docs` writes this page. -->"
REMEDY = "run `scripts/docs` and commit what it writes"

# --- the command line -------------------------------------------------------------------------------------------------


def cli_reference() -> str:
    """Return the page about every command."""
    commands = list(_commands(click.Context(cli, info_name="orchestrator")))
    contents = "\n".join(
        f"- [`{context.command_path}`](#{context.command_path.replace(' ', '-')}): {_first_line(context)}"
        for context in commands[1:]
    )
    intro = (
        "Every command with its options, as `--help` has them. Exit codes are in the [README](../README.md#exit-codes)."
    )
    parts = ["# Command line", NOTICE, intro, contents, *(_command(context) for context in commands)]
    return "\n\n".join(parts) + "\n"


def _commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command and not command.hidden:
                yield from _commands(click.Context(command, info_name=name, parent=context))


def _first_line(context: click.Context) -> str:
    return inspect.cleandoc(context.command.help or "").partition("\n")[0]


def _command(context: click.Context) -> str:
    pieces = [piece.replace("[COMMAND]", "COMMAND") for piece in context.command.collect_usage_pieces(context)]
    usage = " ".join([context.command_path, *pieces])  # not every click puts brackets round a command
    parts = [f"## {context.command_path}", f"`{usage}`", _help(context.command), _options(context)]
    return "\n\n".join(part for part in parts if part)


def _help(command: click.Command) -> str:
    """Return the help text; what click is told not to wrap is a code block."""
    paragraphs = inspect.cleandoc(command.help or "").partition("\f")[0].strip().split("\n\n")
    return "\n\n".join(
        f"<!-- not run: as --help has it -->\n```text\n{part[2:]}\n```" if part.startswith("\b\n") else part
        for part in paragraphs
    )


def _options(context: click.Context) -> str:
    options = [param for param in context.command.params if isinstance(param, click.Option)]
    records = filter(None, (option.get_help_record(context) for option in options))
    rows = [f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in records]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) if rows else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- the tests --------------------------------------------------------------------------------------------------------


class Test(NamedTuple):
    """A test function, and with how many sets of parameters it runs."""

    module: str
    name: str
    runs: int


@cache
def selectors() -> list[str]:
    """Return the node ids of all tests, skipped ones too, in the order in which they stand in their modules."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"),
            *("--color=no", "-p", "no:randomly", "-p", "no:cacheprovider"),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the tests cannot be collected:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def tests() -> dict[str, list[Test]]:
    """Return the test functions by module."""
    found: dict[str, list[Test]] = {}
    for node, count in Counter(node.partition("[")[0] for node in selectors()).items():
        module, _, name = node.partition("::")
        found.setdefault(module, []).append(Test(module, name, count))
    return dict(sorted(found.items()))


def testing_guide() -> str:
    """Return the guide with its registry of today."""
    rows = [
        f"| [`{Path(module).name}`](../{module}) | {sum(test.runs for test in functions)} | {_cell(_guards(module))} "
        f"| `pytest {module}` |"
        for module, functions in tests().items()
    ]
    table = "\n".join(["| module | tests | what it guards | selector |", "|---|---:|---|---|", *rows])
    total = f"{len(selectors())} tests in {len(rows)} modules."
    return _replaced(read(ROOT / "docs/TESTING_GUIDE.md").text, "test registry", f"{total}\n\n{table}")


def faults_page() -> str:
    """Return the page of the faults with the tests of today."""
    return _replaced(read(ROOT / "docs/faults.md").text, "faults", faults.table(selectors()))


def suite_index() -> str:
    """Return the page that tells every test as a sentence."""
    intro = (
        "Every test function as the sentence that its name is, by module. A number is how many sets of parameters it "
        "runs with. How to choose and run tests: [TESTING_GUIDE.md](../TESTING_GUIDE.md)."
    )
    modules = [
        f"## {module.removeprefix('tests/')}\n\n{_guards(module)} `pytest {module}`\n\n"
        + "\n".join(f"- {sentence(test.name)}{f' ({test.runs})' * (test.runs > 1)}" for test in functions)
        for module, functions in tests().items()
    ]
    return "\n\n".join(["# Test suite index", NOTICE, intro, *modules]) + "\n"


def sentence(name: str) -> str:
    """Return a test's name as the sentence that it is."""
    words = re.sub(r" s\b", "'s", name.rpartition("::")[2].removeprefix("test_").replace("_", " "))
    return words[0].upper() + words[1:]


def _guards(module: str) -> str:
    """Return the first line of a module's docstring, without the source of the rule that a reader of the test wants."""
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text())) or ""
    return re.sub(r" \([^()]*\)\.$", ".", docstring.partition("\n")[0])


def _replaced(text: str, name: str, new: str) -> str:
    begin, end = f"<!-- generated: {name} -->", "<!-- end of what is generated -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"the page has no part from {begin} to {end}")
    return f"{head}{begin}\n\n{new}\n\n{end}{tail}"


# --- the pages --------------------------------------------------------------------------------------------------------


def index() -> str:
    """Return the page that leads to every other."""
    intro = "Every page of the documentation, in one line each."
    others = [page for page in pages() if page.name != "docs/index.md"]
    rows = [f"- [{page.title}]({_from_docs(page)}): {page.summary}" for page in others]
    return "\n\n".join(["# Documentation", NOTICE, intro, "\n".join(rows)]) + "\n"


def _from_docs(page: Page) -> str:
    return os.path.relpath(page.path, ROOT / "docs")


GENERATED: dict[str, Callable[[], str]] = {
    ".orchestration.schema.json": config_schema.text,
    "docs/cli.md": cli_reference,
    "docs/configuration.md": config_reference.page,
    "docs/TESTING_GUIDE.md": testing_guide,
    "docs/development/TEST_SUITE_INDEX.md": suite_index,
    "docs/faults.md": faults_page,
    "docs/index.md": index,  # reads the others: last
}
"""Each page that is written from the code, wholly or in part, and what writes it."""


def main() -> None:
    """Write every generated page that is not as it should be, and name it."""
    for name, generate in GENERATED.items():
        path, text = ROOT / name, generate()
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
