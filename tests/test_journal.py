"""The journal: one entry, written whole or not at all, and understood or refused."""

import resource
from pathlib import Path

import msgspec
import pytest

from orchestration.errors import Refused
from orchestration.journal import (
    Carry,
    Checked,
    Claim,
    Claimed,
    Claiming,
    Entry,
    HandOff,
    Idle,
    Journal,
    Judged,
    Outcome,
    Posted,
    Ran,
    Routed,
    Running,
    Stamped,
    Turn,
    claim_of,
)
from orchestration.router import Decision, Source
from orchestration.state import Actor, Failure, Token

CLAIM = Claim(Actor.RALPH, 17, Token(33, "holder", "nonce"), "main", "b" * 40, "2026-01-20T03:29:29Z")
TURN = Turn(CLAIM, "t" * 40, pin="refs/rescue/main/ralph/33-nonce/1", reruns=1, interrupted=True)
DECISION = Decision("main.md", Source.ACTOR, "ralph's own prompt")
FAILURE = Failure(reason="it failed", exit_code=3, tail=["last line"], log="logs/x.log")
OUTCOME = Outcome(failure=FAILURE, exit_code=3, seconds=1.5, message="### Turn Summary\nünïcode")
CHECKED = Checked(TURN, DECISION, OUTCOME, "w" * 40, "l" * 40, FAILURE, "all done", unpin=True)
CARRY = Carry(Actor.RALPH, 17, "t" * 40, "l" * 40)
HAND_OFF = HandOff("c" * 40, "w" * 40)

IN_A_TURN: list[Entry] = [
    Claiming(CLAIM, "t" * 40, "o" * 40, CARRY),
    Claimed(TURN),
    Routed(TURN, DECISION),
    Running(TURN, DECISION, "process", "boot", "2026-01-20T03:29:30Z"),
    Ran(TURN, None, OUTCOME),
    Judged(TURN, DECISION, OUTCOME, "w" * 40, "l" * 40, "all done"),
    CHECKED,
    Stamped(CHECKED, HAND_OFF),
]
BETWEEN: list[Entry] = [Idle(), Idle(32, 17, CARRY), Posted(HAND_OFF, Idle(32, 17), Idle(33, 18))]


@pytest.mark.parametrize("entry", [*IN_A_TURN, *BETWEEN], ids=lambda entry: type(entry).__name__)
def test_every_entry_is_read_as_it_was_written(tmp_path: Path, entry: Entry) -> None:
    journal = Journal(tmp_path / "own" / "journal.json")
    journal.write(Idle(1, 1))
    journal.write(entry)

    assert Journal(journal.path).read() == entry
    assert list(journal.path.parent.iterdir()) == [journal.path]


def test_a_missing_journal_is_a_fresh_one(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal.json").read() == Idle(0, 1, None)


def test_every_truncation_is_refused_and_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.write(IN_A_TURN[-1])
    whole = journal.path.read_bytes()

    for length in range(len(whole) - 1):  # without its final newline it is whole
        journal.path.write_bytes(whole[:length])
        with pytest.raises(Refused) as refused:
            journal.read()
        assert refused.value.code == "journal-unreadable"
        assert str(journal.path) in refused.value.remedy
        assert journal.path.read_bytes() == whole[:length]


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"[]", b'{"schema":1,"entry":{"type":"unheard-of"}}', b'{"schema":2,"entry":{"type":"idle"}}']
)
def test_what_is_not_a_journal_is_refused(tmp_path: Path, data: bytes) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.path.write_bytes(data)

    with pytest.raises(Refused):
        journal.read()


@pytest.mark.parametrize("entry", IN_A_TURN, ids=lambda entry: type(entry).__name__)
def test_a_turn_in_progress_has_a_claim_and_is_in_the_way_of_decisions(tmp_path: Path, entry: Entry) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.write(entry)

    assert claim_of(entry) == CLAIM
    with pytest.raises(Refused, match="ralph's turn of iteration 17 is in progress"):
        journal.between_turns()


@pytest.mark.parametrize("entry", BETWEEN, ids=repr)
def test_between_turns_there_is_no_claim(tmp_path: Path, entry: Entry) -> None:
    journal = Journal(tmp_path / "journal.json")
    journal.write(entry)

    assert claim_of(entry) is None
    assert journal.between_turns() == entry


def test_a_disk_that_takes_no_more_leaves_the_old_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "own" / "journal.json")
    journal.write(Idle(5, 3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.write(IN_A_TURN[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert journal.read() == Idle(5, 3)
    assert list(journal.path.parent.iterdir()) == [journal.path]


def test_names_are_those_of_the_field() -> None:
    tags = {msgspec.json.decode(msgspec.json.encode(entry))["type"] for entry in [*IN_A_TURN, *BETWEEN]}

    assert tags == {"idle", "claiming", "claimed", "routed", "running", "ran", "judged", "checked", "stamped", "posted"}
