"""The state file: what is refused, what survives, and how an event moves it."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestration.errors import Refused
from orchestration.state import (
    Actor,
    Failure,
    State,
    Status,
    Token,
    check_forward,
    encode,
    failed,
    initial,
    message,
    parse,
    resumed,
    retried,
    running,
    skipped,
    subject,
    succeeded,
)

NOON = datetime(2026, 1, 20, 14, 0, 5, tzinfo=timezone(timedelta(hours=2)))
MIB = 1024 * 1024

# Every known key, and strings that would fool whoever counts braces and quotes instead of reading them.
RICH = r"""{
  "schema": 1,
  "branch": "we}}]]ird/\"quoted\\",
  "iteration": 17,
  "expected_actor": "ralph",
  "status": "failed",
  "last_update": "2026-01-20T03:29:29Z",
  "lease_expires_at": "2026-01-20T03:39:29Z",
  "galph_commit": "0123456789abcdef0123456789abcdef01234567",
  "ralph_commit": "abc1234",
  "last_prompt": "main.md",
  "last_prompt_actor": "ralph",
  "exit": true,
  "exit_reason": "Größe erreicht: 完了 🦉",
  "failure": {
    "reason": "the gate `pytest` exited 1\n<<<<<<< not a conflict",
    "exit_code": 1,
    "code": "gate-failed",
    "tail": [
      "assert {\"a\": [1, 2]} == {",
      "E   path C:\\temp\\"
    ],
    "log": "logs/main/2026-01-20T032929Z/iter-00017_ralph_main.log"
  },
  "epoch": 34,
  "holder": "h-1",
  "nonce": "00ff",
  "claim_base": "fedcba9876543210fedcba9876543210fedcba98",
  "workflow": {
    "zeta": [
      1,
      2.5,
      null,
      {
        "}": "{",
        "": "\u0000\\"
      }
    ],
    "alpha": "]"
  },
  "extra": {},
  "schlüssel": "ü"
}
"""

ANCESTOR = """{
  "iteration": 17,
  "expected_actor": "galph",
  "status": "complete",
  "last_update": "2026-01-20T03:29:29Z",
  "lease_expires_at": "2026-01-20T03:39:29Z",
  "galph_commit": "abc1234",
  "ralph_commit": "def5678",
  "workflow_name": "main-loop"
}"""

CONFLICTED = """{
  "iteration": 17,
<<<<<<< HEAD
  "expected_actor": "galph",
=======
  "expected_actor": "ralph",
>>>>>>> origin/main
  "status": "idle"
}
"""


def rich(**changes: object) -> bytes:
    """Return the rich file with some values changed; `...` drops a key."""
    values = json.loads(RICH) | changes
    return (json.dumps({key: value for key, value in values.items() if value is not ...}) + "\n").encode()


def refusal(data: bytes | None) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(data)
    return caught.value


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(RICH.encode(), id="as we write it"),
        pytest.param(RICH.replace("\n", "\r\n").encode(), id="with carriage returns"),
        pytest.param(rich(), id="on one line, ASCII only"),
    ],
)
def test_no_proper_prefix_of_a_file_is_a_state(whole: bytes) -> None:
    parse(whole)
    for length in range(len(whole)):
        prefix = whole[:length]
        splits_a_character = prefix != prefix.decode(errors="ignore").encode()
        expected = "state-encoding" if splits_a_character else "state-truncated"
        assert refusal(prefix).code == expected, prefix[-40:]


DAMAGE: dict[str, dict[str, bytes | None]] = {
    "state-missing": {"no file": None},
    "state-truncated": {
        "an empty file": b"",
        "white space": b" \n\n",
        "100,000 open brackets": b"[" * 100_000,
        "100,000 open objects": b'{"a":' * 100_000,
        "the ancestor's file cut short": ANCESTOR[:-1].encode(),
    },
    "state-conflicted": {
        "a merge conflict": CONFLICTED.encode(),
        "a left-over first marker": b"<<<<<<< HEAD\n" + RICH.encode(),
        "a left-over separator": RICH.encode() + b"=======\n",
        "a left-over last marker": RICH.encode() + b">>>>>>> origin/main\n",
    },
    "state-bom": {
        "UTF-8 with a mark": RICH.encode("utf-8-sig"),
        "UTF-16, little end first": b"\xff\xfe" + RICH.encode("utf-16-le"),
        "UTF-16, big end first": b"\xfe\xff" + RICH.encode("utf-16-be"),
    },
    "state-nul": {
        "a crash left zeros only": bytes(512),
        "a crash left zeros at the end": RICH.encode() + bytes(512),
        "UTF-16 without a mark": RICH.encode("utf-16-le"),
    },
    "state-encoding": {"Latin-1": RICH.replace("完了 🦉", "").encode("latin-1")},
    "state-too-large": {
        "one byte over a MiB": RICH.encode() + b" " * (MIB - len(RICH.encode())) + b"\n",
        "16 MiB of brackets": b"[" * (16 * MIB),
    },
    "state-not-json": {
        "prose": b"iteration 17, ralph is next\n",
        "a comma too many": RICH.replace('"ü"\n', '"ü",\n').encode(),
        "single quotes": RICH.replace('"idle"', "'idle'").replace('"failed"', "'failed'").encode(),
        "a brace too many": RICH.encode() + b"}\n",
        "two files in one": RICH.encode() * 2,
        "a line break after a backslash": rich(workflow="?").replace(b"?", b"\\\n"),
        "200,000 nested lists, all closed": b"[" * 200_000 + b"]" * 200_000 + b"\n",
        "a number of 5,000 digits": rich(iteration=...).replace(b"}\n", b', "iteration": ' + b"1" * 5_000 + b"}\n"),
    },
    "state-not-object": {"a list": b"[]\n", "a number": b"17\n", "a string": b'"galph"\n', "null": b"null\n"},
    "state-future": {"schema 2": rich(schema=2), "a schema and words of tomorrow": rich(schema=9, status="musing")},
    "state-unknown-actor": {
        "a third actor": rich(expected_actor="bart"),
        "an actor in capitals": rich(expected_actor="Galph"),
        "the last prompt's actor": rich(last_prompt_actor="lisa"),
    },
    "state-unknown-status": {"a new status": rich(status="musing"), "an empty status": rich(status="")},
    "state-invalid": {
        "a key twice": RICH.replace('"epoch": 34', '"iteration": 34').encode(),
        "a key twice in an unknown object": RICH.replace('"alpha"', '"zeta"').encode(),
        "not a number": rich(workflow=float("nan")),
        "infinity": rich(workflow=[float("inf")]),
        "minus infinity": rich(workflow=[float("-inf")]),
        "no iteration": rich(iteration=...),
        "no actor": rich(expected_actor=...),
        "no status": rich(status=...),
        "iteration 0": rich(iteration=0),
        "iteration true": rich(iteration=True),
        "iteration as text": rich(iteration="17"),
        "iteration 17.0": rich(iteration=17.0),
        "an actor as a number": rich(expected_actor=0),
        "a status as a list": rich(status=["idle"]),
        "schema true": rich(schema=True),
        "schema as text": rich(schema="1"),
        "schema null": rich(schema=None),
        "schema -1": rich(schema=-1),
        "epoch -1": rich(epoch=-1),
        "epoch true": rich(epoch=True),
        "exit as a number": rich(exit=1),
        "exit as text": rich(exit="false"),
        "a branch as a number": rich(branch=1),
        "a commit as a number": rich(galph_commit=1234567),
        "a failure as text": rich(failure="it broke"),
        "a failure without a reason": rich(failure={"exit_code": 1}),
        "a tail of numbers": rich(failure={"reason": "it broke", "tail": [1]}),
    },
}


@pytest.mark.parametrize(
    ("code", "data"),
    [pytest.param(code, data, id=f"{code}: {name}") for code, files in DAMAGE.items() for name, data in files.items()],
)
def test_each_kind_of_damage_has_its_own_code(code: str, data: bytes | None) -> None:
    error = refusal(data)
    assert (error.code, error.exit_code) == (code, 3)
    assert error.message.startswith("the state file ")
    assert error.remedy
    assert "{" not in error.remedy.replace("{path}", "")  # whoever knows the path can fill it in


@pytest.mark.parametrize(
    ("data", "named"),
    [
        pytest.param(rich(expected_actor="bart"), ["'bart'", "expected_actor", "galph", "ralph"], id="unknown actor"),
        pytest.param(rich(status="musing"), ["'musing'", "running-galph", "complete"], id="unknown status"),
        pytest.param(rich(schema=7), ["schema 7", "knows 1"], id="future"),
        pytest.param(rich(iteration=0), ["at least 1", "(at iteration)"], id="iteration 0"),
        pytest.param(DAMAGE["state-invalid"]["a key twice"], ["'iteration'", "twice"], id="duplicate key"),
        pytest.param(rich(workflow=float("nan")), ["NaN"], id="not a number"),
        pytest.param(RICH.encode()[:50] + b"\xff", ["byte 50"], id="not UTF-8"),
    ],
)
def test_a_refusal_names_what_it_found(data: bytes, named: list[str]) -> None:
    assert [word for word in named if word not in refusal(data).message] == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(RICH.encode() + b" " * (MIB - len(RICH.encode()) - 1) + b"\n", id="exactly a MiB"),
        pytest.param(rich(workflow="<<<<<<< HEAD\n=======\n>>>>>>> theirs"), id="conflict markers inside a string"),
        pytest.param(rich(workflow="\ufeff"), id="a byte order mark inside a string"),
        pytest.param(rich(workflow=[{"iteration": 1}, {"iteration": 1}]), id="one key in two objects"),
        pytest.param(rich(workflow=10**40, epoch=10**20), id="integers beyond 64 bits"),
        pytest.param(rich(schema=0)[:-1], id="schema 0 without a final newline"),
    ],
)
def test_what_only_looks_like_damage_is_read(data: bytes) -> None:
    assert parse(data).iteration == 17


def test_a_string_that_never_ends_is_refused_at_once() -> None:
    started = time.process_time()
    assert refusal(b'{"' + b'\\"' * 12_000).code == "state-truncated"
    assert time.process_time() - started < 0.5


def test_a_repeated_key_among_many_is_refused_at_once() -> None:
    started = time.process_time()
    pairs = ",".join(f'"{number}":0' for number in [*range(15_000), 14_999])
    assert "'14999' twice" in refusal(f"{{{pairs}}}".encode()).message
    assert time.process_time() - started < 0.5


def test_nothing_is_read_that_could_not_be_written_and_read_again() -> None:
    unwritable = {
        "half a surrogate pair": r'"\ud800"',
        "a number beyond floating point": "1e999",
        "nested until its indentation fills a MiB": "[" * 900 + "]" * 900,
        "a list that outgrows a MiB, one element a line": f"[{'1,' * 400_000}1]",
    }
    files = {name: rich(workflow="?").replace(b'"?"', value.encode()) for name, value in unwritable.items()}
    assert [name for name, data in files.items() if isinstance(verdict(data), State)] == []


def verdict(data: bytes) -> State | Refused:
    try:
        return parse(data)
    except Refused as error:
        return error


# --- what survives ---------------------------------------------------------------------------------------------------


def test_a_file_is_written_exactly_as_it_was_read() -> None:
    state = parse(RICH.encode())
    assert encode(state).decode() == RICH
    assert state == State(
        schema=1,
        branch='we}}]]ird/"quoted\\',
        iteration=17,
        expected_actor=Actor.RALPH,
        status=Status.FAILED,
        last_update="2026-01-20T03:29:29Z",
        lease_expires_at="2026-01-20T03:39:29Z",
        galph_commit="0123456789abcdef0123456789abcdef01234567",
        ralph_commit="abc1234",
        last_prompt="main.md",
        last_prompt_actor=Actor.RALPH,
        exit=True,
        exit_reason="Größe erreicht: 完了 🦉",
        failure=Failure(
            reason="the gate `pytest` exited 1\n<<<<<<< not a conflict",
            exit_code=1,
            code="gate-failed",
            tail=['assert {"a": [1, 2]} == {', "E   path C:\\temp\\"],
            log="logs/main/2026-01-20T032929Z/iter-00017_ralph_main.log",
        ),
        epoch=34,
        holder="h-1",
        nonce="00ff",
        claim_base="fedcba9876543210fedcba9876543210fedcba98",
        extra={
            "workflow": {"zeta": [1, 2.5, None, {"}": "{", "": "\0\\"}], "alpha": "]"},
            "extra": {},
            "schlüssel": "ü",
        },
    )


def test_the_known_keys_come_in_one_order_and_the_unknown_ones_keep_theirs() -> None:
    shuffled = dict(sorted(json.loads(RICH).items(), key=lambda pair: pair[0][::-1]))
    written = list(json.loads(encode(parse(json_line(shuffled)))))
    unknown = [key for key in shuffled if key in {"workflow", "extra", "schlüssel"}]
    assert written == [key for key in json.loads(RICH) if key not in unknown] + unknown


def json_line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def test_the_ancestors_file_is_read_as_schema_0_and_upgraded_when_it_is_written() -> None:
    old = parse(ANCESTOR.encode())
    assert (old.schema, old.epoch, old.holder, old.nonce) == (0, 0, None, None)
    assert (old.iteration, old.expected_actor, old.status) == (17, Actor.GALPH, Status.COMPLETE)
    assert (old.galph_commit, old.ralph_commit) == ("abc1234", "def5678")

    written = encode(old)
    assert written.endswith(b"}\n")
    assert json.loads(ANCESTOR).items() <= json.loads(written).items()
    assert parse(written) == replace(old, schema=1)


def test_init_writes_galphs_first_turn() -> None:
    assert encode(initial("feature/x", NOON)).decode() == (
        """{
  "schema": 1,
  "branch": "feature/x",
  "iteration": 1,
  "expected_actor": "galph",
  "status": "idle",
  "last_update": "2026-01-20T12:00:05Z",
  "lease_expires_at": null,
  "galph_commit": null,
  "ralph_commit": null,
  "last_prompt": null,
  "last_prompt_actor": null,
  "exit": false,
  "exit_reason": null,
  "failure": null,
  "epoch": 0,
  "holder": null,
  "nonce": null,
  "claim_base": null
}
"""
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
known_keys = frozenset(json.loads(RICH)) - {"workflow", "extra", "schlüssel"}
unknown_keys = st.sampled_from(["extra", "", "Schema", "__proto__", "🦉"]) | st.text().filter(
    lambda key: key not in known_keys
)
counts = st.integers(min_value=0)
actors = st.sampled_from(Actor)
words = st.none() | st.text()
failures = st.builds(
    Failure, reason=st.text(), exit_code=st.none() | st.integers(), code=st.text(), tail=st.lists(st.text()), log=words
)
states = st.builds(
    State,
    schema=st.just(1),
    branch=words,
    iteration=st.integers(min_value=1),
    expected_actor=actors,
    status=st.sampled_from(Status),
    last_update=words,
    lease_expires_at=words,
    galph_commit=words,
    ralph_commit=words,
    last_prompt=words,
    last_prompt_actor=st.none() | actors,
    exit=st.booleans(),
    exit_reason=words,
    failure=st.none() | failures,
    epoch=counts,
    holder=words,
    nonce=words,
    claim_base=words,
    extra=st.dictionaries(unknown_keys, json_values, max_size=4),
)


@given(states, st.data())
@settings(deadline=None, max_examples=60)
def test_every_state_is_read_back_as_it_was_written_and_no_prefix_of_it_is(state: State, data: st.DataObject) -> None:
    written = encode(state)
    again = parse(written)
    assert again == state
    assert encode(again) == written
    assert written.endswith(b"}\n")
    cut = data.draw(st.integers(min_value=0, max_value=len(written) - 1))
    assert refusal(written[:cut]).code in {"state-truncated", "state-encoding"}


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    """Draw a valid file of which one stretch was lost, doubled or overwritten."""
    whole = draw(st.sampled_from([RICH, ANCESTOR])).encode()
    start, end = sorted(draw(st.tuples(*[st.integers(min_value=0, max_value=len(whole))] * 2)))
    return whole[:start] + draw(st.binary(max_size=8) | st.just(whole[start:end] * 2)) + whole[end:]


objects = st.dictionaries(st.sampled_from(sorted(known_keys)) | st.text(), json_values)
near_misses = st.tuples(st.sampled_from(sorted(known_keys)), json_values).map(lambda pair: rich(**{pair[0]: pair[1]}))


@given(st.binary() | spliced() | objects.map(json_line) | near_misses)
@settings(deadline=None, max_examples=300)
def test_whatever_the_bytes_they_are_refused_or_a_state_that_can_be_written(data: bytes) -> None:
    found = verdict(data)
    if isinstance(found, State):
        assert found.iteration >= 1
        assert parse(encode(found)) == replace(found, schema=1)
    else:
        assert found.code in {*DAMAGE}
        assert found.exit_code == 3


# --- how an event moves it -------------------------------------------------------------------------------------------

MINE = Token(epoch=35, holder="h-2", nonce="beef")
WORK = "1111111222222233333334444444555555566666"
BASE = "9999999888888877777776666666555555544444"
BROKEN = Failure(reason="the gate `pytest` exited 1\nits log says more", exit_code=1)


class Row(NamedTuple):
    """One row of the transitions: (iteration, expected actor, status) before and after, and what else changes."""

    event: str
    before: tuple[int, str, str]
    after: tuple[int, str, str]
    also: dict[str, object]
    subject: str


TABLE = [
    Row(
        "galph claims",
        (17, "galph", "idle"),
        (17, "galph", "running-galph"),
        {"claim_base": BASE},
        "[SYNC i=17] actor=galph status=running",
    ),
    Row(
        "galph claims",
        (17, "galph", "complete"),
        (17, "galph", "running-galph"),
        {"claim_base": BASE},
        "[SYNC i=17] actor=galph status=running",
    ),
    Row(
        "galph succeeds",
        (17, "galph", "running-galph"),
        (17, "ralph", "waiting-ralph"),
        {"galph_commit": WORK},
        "[SYNC i=17] actor=galph → next=ralph status=ok galph_commit=1111111",
    ),
    Row(
        "galph fails",
        (17, "galph", "running-galph"),
        (17, "galph", "failed"),
        {"galph_commit": WORK, "failure": BROKEN},
        "[SYNC i=17] actor=galph status=fail the gate `pytest` exited 1",
    ),
    Row(
        "ralph claims",
        (17, "ralph", "waiting-ralph"),
        (17, "ralph", "running-ralph"),
        {"claim_base": BASE},
        "[SYNC i=17] actor=ralph status=running",
    ),
    Row(
        "ralph succeeds",
        (17, "ralph", "running-ralph"),
        (18, "galph", "complete"),
        {"ralph_commit": WORK},
        "[SYNC i=18] actor=ralph → next=galph status=ok ralph_commit=1111111",
    ),
    Row(
        "ralph fails",
        (17, "ralph", "running-ralph"),
        (17, "ralph", "failed"),
        {"ralph_commit": WORK, "failure": BROKEN},
        "[SYNC i=17] actor=ralph status=fail the gate `pytest` exited 1",
    ),
    Row(
        "operator retry",
        (17, "galph", "failed"),
        (17, "galph", "idle"),
        {"failure": None},
        "[SYNC i=17] operator=retry → next=galph status=idle",
    ),
    Row(
        "operator retry",
        (17, "ralph", "failed"),
        (17, "ralph", "waiting-ralph"),
        {"failure": None},
        "[SYNC i=17] operator=retry → next=ralph status=waiting-ralph",
    ),
    Row(
        "operator skip",
        (17, "galph", "failed"),
        (17, "ralph", "waiting-ralph"),
        {"failure": None, "galph_commit": WORK},
        "[SYNC i=17] operator=skip → next=ralph status=waiting-ralph",
    ),
    Row(
        "operator skip",
        (17, "ralph", "failed"),
        (18, "galph", "complete"),
        {"failure": None, "ralph_commit": WORK},
        "[SYNC i=18] operator=skip → next=galph status=complete",
    ),
    Row(
        "operator stamp ok",
        (17, "galph", "idle"),
        (17, "ralph", "waiting-ralph"),
        {"galph_commit": WORK},
        "[SYNC i=17] operator=stamp → next=ralph status=waiting-ralph",
    ),
    Row(
        "operator stamp fail",
        (17, "ralph", "waiting-ralph"),
        (17, "ralph", "failed"),
        {"ralph_commit": WORK, "failure": BROKEN},
        "[SYNC i=17] operator=stamp → next=ralph status=failed",
    ),
    Row(
        "operator resume",
        (17, "ralph", "waiting-ralph"),
        (17, "ralph", "waiting-ralph"),
        {"exit": False, "exit_reason": None},
        "[SYNC i=17] operator=resume → next=ralph status=waiting-ralph",
    ),
]

VERBS: dict[str, Callable[[State], State]] = {
    "claims": lambda state: running(state, MINE, BASE, NOON),
    "succeeds": lambda state: succeeded(state, MINE, WORK, NOON),
    "fails": lambda state: failed(state, MINE, WORK, BROKEN, NOON),
    "retry": lambda state: retried(state, MINE, NOON),
    "skip": lambda state: skipped(state, MINE, WORK, NOON),
    "ok": lambda state: succeeded(state, MINE, WORK, NOON),
    "fail": lambda state: failed(state, MINE, WORK, BROKEN, NOON),
    "resume": lambda state: resumed(state, MINE, NOON),
}


def standing(iteration: int, actor: str, status: str) -> State:
    """Return a state at this place of the loop in which every other field is set."""
    values = json.loads(RICH) | {"iteration": iteration, "expected_actor": actor, "status": status}
    return parse(json_line(values if status == "failed" else values | {"failure": None}))


@pytest.mark.parametrize("row", TABLE, ids=[f"{row.event} on {row.before[2]} ({row.before[1]})" for row in TABLE])
def test_an_event_changes_what_the_table_says_and_nothing_else(row: Row) -> None:
    before = standing(*row.before)
    kept = msgspec.structs.asdict(before)
    after = VERBS[row.event.split()[-1]](before)
    iteration, actor, status = row.after
    token = {"epoch": 35, "holder": "h-2", "nonce": "beef", "last_update": "2026-01-20T12:00:05Z"}
    place = {"iteration": iteration, "expected_actor": actor, "status": status}
    assert msgspec.structs.asdict(after) == kept | place | token | row.also
    assert msgspec.structs.asdict(before) == kept
    assert parse(encode(after)) == after  # above all the unknown keys

    operator = row.event.split()[1] if row.event.startswith("operator") else None
    assert subject(before, after, operator=operator) == row.subject
    assert message(before, after, operator=operator) == (
        f"{row.subject}\n\nOrchestration-Epoch: 35\nOrchestration-Holder: h-2\nOrchestration-Nonce: beef\n"
    )


def test_only_a_failed_state_carries_a_failure() -> None:
    stale = replace(standing(17, "ralph", "waiting-ralph"), failure=BROKEN)
    assert running(stale, MINE, BASE, NOON).failure is None
    assert succeeded(stale, MINE, WORK, NOON).failure is None


@pytest.mark.parametrize("verb", ["retry", "skip"])
@pytest.mark.parametrize("actor", Actor)
@pytest.mark.parametrize("status", [status for status in Status if status is not Status.FAILED])
def test_only_a_failed_turn_is_retried_or_skipped(verb: str, actor: Actor, status: Status) -> None:
    with pytest.raises(Refused) as caught:
        VERBS[verb](standing(17, actor, status))
    assert (caught.value.code, caught.value.exit_code) == ("operator-not-now", 3)
    assert f"`{verb}`" in caught.value.message
    assert status in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        pytest.param("killed", "[SYNC i=17] actor=galph status=fail killed", id="a word"),
        pytest.param("a" * 60, f"[SYNC i=17] actor=galph status=fail {'a' * 60}", id="as long as may be"),
        pytest.param("a" * 61, f"[SYNC i=17] actor=galph status=fail {'a' * 59}…", id="cut"),
        pytest.param("no space left\non the disk", "[SYNC i=17] actor=galph status=fail no space left", id="two lines"),
        pytest.param("x" * 500, f"[SYNC i=17] actor=galph status=fail {'x' * 59}…", id="a long line"),
    ],
)
def test_a_failures_subject_is_one_short_line(reason: str, expected: str) -> None:
    before = standing(17, "galph", "running-galph")
    assert subject(before, failed(before, MINE, WORK, Failure(reason=reason), NOON)) == expected


def test_a_failure_without_words_has_a_subject_too() -> None:
    before = standing(17, "galph", "running-galph")
    after = failed(before, MINE, WORK, Failure(reason=""), NOON)
    assert subject(before, after) == "[SYNC i=17] actor=galph status=fail"


def test_the_ancestors_failure_has_a_subject_without_a_cause() -> None:
    before = standing(17, "galph", "running-galph")
    assert subject(before, replace(before, status=Status.FAILED)) == "[SYNC i=17] actor=galph status=fail"


@pytest.mark.parametrize(
    ("actor", "changed"),
    [
        pytest.param("galph", {"expected_actor", "status", "last_update", "galph_commit"}, id="galph's"),
        pytest.param("ralph", {"iteration", "expected_actor", "status", "last_update", "ralph_commit"}, id="ralph's"),
    ],
)
def test_a_hand_off_is_a_diff_of_a_few_lines(actor: str, changed: set[str]) -> None:
    claimed = running(standing(17, actor, "idle"), MINE, BASE, NOON)
    handed = succeeded(claimed, MINE, WORK, NOON + timedelta(minutes=9))
    old, new = (encode(state).decode().splitlines() for state in (claimed, handed))
    pairs = [(before, after) for before, after in zip(old, new, strict=True) if before != after]
    assert {after.split('"')[1] for _, after in pairs} == changed
    assert len(pairs) == len(changed)


@pytest.mark.parametrize(
    ("epoch", "iteration", "accepted"),
    [
        pytest.param(34, 17, True, id="nothing new"),
        pytest.param(33, 17, True, id="a newer epoch"),
        pytest.param(33, 16, True, id="a newer iteration"),
        pytest.param(0, 1, True, id="a first look"),
        pytest.param(35, 17, False, id="an older epoch"),
        pytest.param(34, 18, False, id="an older iteration"),
        pytest.param(35, 16, False, id="an older epoch with a newer iteration"),
        pytest.param(33, 18, False, id="an older iteration with a newer epoch"),
    ],
)
def test_a_state_from_the_past_is_refused(epoch: int, iteration: int, accepted: bool) -> None:
    state = parse(RICH.encode())
    if accepted:
        check_forward(state, epoch=epoch, iteration=iteration)
        return
    with pytest.raises(Refused) as caught:
        check_forward(state, epoch=epoch, iteration=iteration)
    assert (caught.value.code, caught.value.exit_code) == ("state-backwards", 3)
    assert f"epoch 34, iteration 17; this clone has seen epoch {epoch}, iteration {iteration}" in caught.value.message


class Walk:
    """What a person would keep on paper: how many turns are done, and how the present one stands."""

    def __init__(self) -> None:
        self.done = 0
        self.stands = "open"
        self.fresh = True  # nothing failed since the last hand-off

    @property
    def place(self) -> tuple[int, str, str]:
        """The iteration, actor and status that the paper predicts."""
        actor = "ralph" if self.done % 2 else "galph"
        ready = "waiting-ralph" if self.done % 2 else "complete" if self.done and self.fresh else "idle"
        status = {"open": ready, "running": f"running-{actor}", "failed": "failed"}[self.stands]
        return 1 + self.done // 2, actor, status

    def note(self, event: str) -> None:
        """Write down what happened."""
        if event in {"succeed", "skip", "stamp ok"}:
            self.done, self.stands, self.fresh = self.done + 1, "open", True
        elif event in {"fail", "stamp fail"}:
            self.stands, self.fresh = "failed", False
        else:
            self.stands = {"claim": "running", "retry": "open", "resume": self.stands}[event]


NEXT_EVENTS = {
    "open": ["claim", "stamp ok", "stamp fail", "resume"],
    "running": ["succeed", "fail"],
    "failed": ["retry", "skip", "resume"],
}


def step(state: State, event: str, number: int) -> State:
    """Return the state after the event; an owner's hand-off carries its claim's token, anything else a new one."""
    epoch = state.epoch + (event not in {"succeed", "fail"})
    token = Token(epoch=epoch, holder="h", nonce=f"{epoch:032x}")
    commit, now = f"{number:040x}", NOON + timedelta(seconds=number)
    moves: dict[str, Callable[[], State]] = {
        "claim": lambda: running(state, token, commit, now),
        "succeed": lambda: succeeded(state, token, commit, now),
        "stamp ok": lambda: succeeded(state, token, commit, now),
        "fail": lambda: failed(state, token, commit, BROKEN, now),
        "stamp fail": lambda: failed(state, token, commit, BROKEN, now),
        "retry": lambda: retried(state, token, now),
        "skip": lambda: skipped(state, token, commit, now),
        "resume": lambda: resumed(state, token, now),
    }
    return moves[event]()


@given(st.data(), st.dictionaries(unknown_keys, json_values, max_size=2))
@settings(deadline=None, max_examples=60)
def test_every_walk_through_the_loop_alternates_and_counts(data: st.DataObject, extra: dict[str, Any]) -> None:
    state = replace(initial("main", NOON), extra=extra)
    paper, hand_offs, epochs = Walk(), [], [0]
    for number in range(data.draw(st.integers(min_value=0, max_value=30), label="steps")):
        event = data.draw(st.sampled_from(NEXT_EVENTS[paper.stands]), label="event")
        after = step(state, event, number)
        paper.note(event)
        assert (after.iteration, after.expected_actor, after.status) == paper.place
        assert (after.failure is not None) == (paper.stands == "failed")
        assert after.extra == extra
        assert parse(encode(after)) == after
        check_forward(after, epoch=state.epoch, iteration=state.iteration)
        if after.expected_actor is not state.expected_actor:
            hand_offs.append((state.iteration, state.expected_actor))
        if event not in {"succeed", "fail"}:
            epochs.append(after.epoch)
            with pytest.raises(Refused):
                check_forward(state, epoch=after.epoch, iteration=after.iteration)
        state = after
    assert epochs == sorted(set(epochs))
    assert hand_offs == [(turn // 2 + 1, ("galph", "ralph")[turn % 2]) for turn in range(paper.done)]
