"""The table of faults is whole: every promise has a test that says so in its name, or is known to be open."""

import re
from collections.abc import Iterator

import pytest

import faults
import generate_docs
from faults import FAULTS
from pages import ROOT

PAGE = ROOT / "docs/faults.md"
MAY_BE_OPEN = {*range(47, 56), 64, 65, *range(70, 81)}
"""The faults whose part of the program is still to be built: no other promise may wait."""


def numbered() -> list[str]:
    """Return the node ids of the collected tests that are about faults."""
    return [node for node in generate_docs.selectors() if faults.numbers(node)]


def cells() -> Iterator[list[str]]:
    """Yield the cells of every row that the page has."""
    for line in PAGE.read_text().splitlines():
        if re.match(r"\| \d+ \|", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_every_number_stands_in_the_table_once() -> None:
    assert [int(row[0]) for row in cells()] == [*range(1, 81)] == [*FAULTS]


def test_a_test_with_a_faults_number_stands_in_its_row_and_nowhere_else() -> None:
    wanted = {(number, node.partition("[")[0]) for node in numbered() for number in faults.numbers(node)}
    found = [(int(row[0]), test) for row in cells() for test in re.findall(r"`([^`]+::[^`]+)`", row[3])]

    assert sorted(found) == sorted(wanted)


def test_every_promise_has_a_test_or_waits_for_what_is_still_to_be_built() -> None:
    without = {number for number, tests in faults.rows(numbered()).items() if not tests}

    assert {number for number, fault in FAULTS.items() if fault.open} <= MAY_BE_OPEN
    assert without - MAY_BE_OPEN == set(), "these promises have no test"
    assert all(FAULTS[number].open for number in without)


@pytest.mark.parametrize(
    ("test", "numbers"),
    [
        ("test_fault_7_killed", [7]),
        ("test_fault_03_killed[late]", [3]),
        ("test_killed[fault-05-turn.ran]", [5]),
        ("test_fault_30_and_fault_31_two[x]", [30, 31]),
        ("test_default_7_is_used", []),
        ("test_a_fault_of_a_page_is_told", []),
    ],
    ids=["in the name", "padded", "in a parameter", "two", "another word", "no number"],
)
def test_an_id_tells_its_numbers(test: str, numbers: list[int]) -> None:
    assert faults.numbers(f"tests/test_module.py::{test}") == numbers


def test_a_promise_that_nothing_proves_is_shown_as_such() -> None:
    assert faults.table([]).count(f"| {faults.UNPROVED} |") == sum(not fault.open for fault in FAULTS.values())
