"""The documentation is true: generated pages, links, selectors, commands, and every command line, run as it stands."""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

import generate_docs
from generate_docs import GENERATED, REMEDY
from orchestration.cli import cli
from pages import ROOT, Page, dead_links, every_page, pages
from transcripts import Session, broken_promise, faults, run, sessions

SESSIONS = [session for page in pages() for session in sessions(page)]
SELECTOR = re.compile(r"(?<![\w/.])tests/[\w/]+\.py(?:::\w+)*(?:\[[^\]\n]*\])?")


def fail_with(complaints: Iterable[str]) -> None:
    told = "\n".join(complaints)
    if told:
        pytest.fail(told, pytrace=False)


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_as_the_program_writes_it(name: str) -> None:
    found, wanted = (ROOT / name).read_text().splitlines(), GENERATED[name]().splitlines()

    drift = list(difflib.unified_diff(found, wanted, name, f"{name}, generated", lineterm="", n=1))

    fail_with([REMEDY, *drift] if drift else [])


@pytest.mark.parametrize("session", [*SESSIONS], ids=str)
def test_a_transcript_does_what_the_page_shows(session: Session, tmp_path: Path) -> None:
    fail_with([broken_promise(session, run(session, tmp_path))])


def test_every_command_line_is_run_or_says_why_not() -> None:
    fail_with(fault for page in pages() for fault in faults(page))


def test_every_link_leads_somewhere() -> None:
    fail_with(fault for page in every_page() for fault in dead_links(page))


def test_every_selector_collects_tests() -> None:
    fail_with(fault for page in pages() for fault in empty_selectors(page))


def test_every_command_in_the_text_is_one() -> None:
    fail_with(fault for page in pages() for fault in unknown_commands(page))


def empty_selectors(page: Page) -> Iterator[str]:
    """Tell which names of tests in a page collect nothing."""
    tests = generate_docs.selectors()
    for selector in SELECTOR.findall(page.text):
        helper = not Path(selector).name.startswith("test_") and (ROOT / selector).is_file()
        if not helper and not any(f"{test}::".startswith((f"{selector}::", f"{selector}[")) for test in tests):
            yield f"{page.name}: {selector} collects nothing"


def unknown_commands(page: Page) -> Iterator[str]:
    """Tell which code spans name a command or an option of the program that there is not."""
    for line, code in page.code:
        if code.startswith("orchestrator "):
            wrong = unknown_word(shlex.split(code)[1:])
            if wrong:
                yield f"{page.name}:{line}: `{code}`: there is no {wrong}"


def unknown_word(words: list[str]) -> str:
    command: click.Command = cli
    context = click.Context(cli)
    if words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}:
        words = ["run", *words]
    for word in words:
        if word.isupper():  # a placeholder stands for any command
            return ""
        if word.startswith("-"):
            known = {name for param in command.get_params(context) for name in [*param.opts, *param.secondary_opts]}
            if word.partition("=")[0] not in {*known, "-h"}:
                return word
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return word
            command = found
    return ""


# --- the judges are judged --------------------------------------------------------------------------------------------


def page(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(text)
    return Page(path, text, tmp_path)


FAULTS = {
    "```console\nno prompt\n```": "page.md:1: a console block begins with `$ `",
    "```sh\nls\n```": "page.md:1: nobody runs this",
    "```text\n$ ls\n```": "page.md:1: nobody runs this",
    "Type\n\n    orchestrator status\n": "page.md:3: nobody runs this",
    "<!-- not run: -->\n```console\n$ ls\n```": "page.md:2: `not run:` gives no reason",
    "<!-- run: in=space -->\n```console\n$ ls\n```": "page.md:2: `run: in=space`: write",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_command_line_that_nobody_runs_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = faults(page(tmp_path, text))

    assert fault.startswith(FAULTS[text])


TRUE = """
```console
$ export GREETING=hello; mkdir -p deep; cd deep
$ printf '%s\\n' "$GREETING" "$PWD" it took "3.2 s"
hello
/home/you/project/deep
[...]
took
0.1 s
$ cat <<END
> one
>
> END
one
$ echo any; false  # exit 1
$ echo one two three
one [...] three
```

<!-- not run: it would end the shell -->
```console
$ exit 3
```

<!-- run: in=empty -->

    test "$(basename "$PWD")" = project
    test ! -e orchestration.yaml
"""


def test_a_true_transcript_passes_in_one_shell_for_each_ground(tmp_path: Path) -> None:
    in_project, in_empty = sessions(page(tmp_path, TRUE))
    assert [in_project.ground, in_empty.ground] == ["project", "empty"]
    assert [len(in_project.steps), len(in_empty.steps)] == [5, 2]

    for number, session in enumerate((in_project, in_empty)):
        assert broken_promise(session, run(session, tmp_path / str(number))) == ""


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("$ echo 1\n2", "prints something else"),
        ("$ printf '1\\n2\\n'\n1", "prints something else"),
        ("$ printf '1\\n2\\n'\n[...]\n1", "prints something else"),
        ("$ false", "exit 1, not 0"),
        ("$ true  # exit 1", "exit 0, not 1"),
        ("$ no-such-program", "exit 127, not 0"),
        ("$ if", "exit 2, not 0"),
        ("$ true\n$ exit 0", "ended the shell"),
    ],
)
def test_a_false_transcript_is_told_with_its_line(tmp_path: Path, block: str, told: str) -> None:
    (session,) = sessions(page(tmp_path, f"<!-- run: in=empty -->\n```console\n{block}\n```"))

    problem = broken_promise(session, run(session, tmp_path / "ground"))

    assert problem.startswith(f"page.md:{4 if 'exit 0' in block else 3}: $ ")
    assert told in problem


def test_a_dead_link_or_anchor_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Two `code` words, and a comma\n\n## Twice\n\n## Twice\n")
    good = (
        "[a](other.md#two-code-words-and-a-comma) [b](other.md#twice-1) [c](#here) [d](https://localhost/x)\n\n# Here\n"
    )
    assert dead_links(page(tmp_path, good)) == []

    bad = "[a](other.md#thrice)\n\n[b](none.md)\n\n[c](#nowhere)\n\n![d](none.png)\n\n[e](../)\n"
    told = [fault.split()[:2] for fault in dead_links(page(tmp_path, bad))]
    assert told == [
        ["page.md:1:", "other.md#thrice"],
        ["page.md:3:", "none.md"],
        ["page.md:5:", "#nowhere"],
        ["page.md:7:", "none.png"],
        ["page.md:9:", "../"],
    ]


def test_a_selector_that_collects_nothing_is_told(tmp_path: Path) -> None:
    real = "test_every_link_leads_somewhere"
    good = f"`tests/test_docs.py` `tests/test_docs.py::{real}` `tests/conftest.py`"
    assert list(empty_selectors(page(tmp_path, good))) == []

    for bad in ("tests/test_none.py", "tests/none.py", f"tests/test_docs.py::{real[:-1]}"):
        assert list(empty_selectors(page(tmp_path, f"`pytest {bad}`"))) == [f"page.md: {bad} collects nothing"]


def test_a_command_that_there_is_not_is_told(tmp_path: Path) -> None:
    good = (
        "`orchestrator rescue list --json` `orchestrator COMMAND --help` `orchestrator -n 2 --no-router` `orchestrate`"
    )
    assert list(unknown_commands(page(tmp_path, good))) == []

    for bad, word in {
        "halt": "halt",
        "rescue burn": "burn",
        "status --colour": "--colour",
        "--speed 3": "--speed",
    }.items():
        (told,) = unknown_commands(page(tmp_path, f"`orchestrator {bad}`"))
        assert told.endswith(f"there is no {word}")
