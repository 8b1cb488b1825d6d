"""The event stream: every whole object of a torn, glued, polluted or huge stream is read, and nothing else is."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.event_stream import Event, EventStream

OK = {"type": "result", "is_error": False}
LINE = json.dumps(OK).encode()


def read(*pieces: bytes, cap: int = 32 << 20) -> list[Event]:
    stream = EventStream(cap)
    return [*(event for piece in pieces for event in stream.feed(piece)), *stream.close()]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), values, max_size=4), max_size=6)
ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n", b"\n\0\n", b"\n\xff\xfe\n", b"\nwarning: {not} [json]\n"])


@given(st.data(), objects, st.booleans())
def test_objects_are_read_wherever_the_pipe_cuts_and_whatever_stands_between_the_lines(
    data: st.DataObject, told: list[Event], ascii_only: bool
) -> None:
    text = b"".join(json.dumps(event, ensure_ascii=ascii_only).encode() + data.draw(ends) for event in told)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    assert read(*pieces) == told


@given(objects, st.sampled_from([b"", b" ", b"\0", b"\r", b",", b" junk { ", b"\xff"]))
def test_objects_that_are_glued_to_one_line_are_read_one_by_one(told: list[Event], between: bytes) -> None:
    assert read(between.join(json.dumps(event).encode() for event in told)) == told


# a line | the objects that it holds
LINES = {
    "nothing": (b"", []),
    "text": (b"Done: I created hello.txt.", []),
    "another value": (b'"type" 7 null', []),
    "a list is no event, nor is what it holds": (b'[{"type": "result"}]', []),
    "a word before": (b"warning: " + LINE, [OK]),
    "a byte order mark": (b"\xef\xbb\xbf" + LINE, [OK]),
    "carriage returns": (b"\r" + LINE + b"\r", [OK]),
    "NUL before and after": (b"\0\0" + LINE + b"\0", [OK]),
    "a brace before": (b"{ [{x}] " + LINE, [OK]),
    "a tab inside a string": (b'{"a": "\t"}', [{"a": "\t"}]),
    "NUL inside a string": (b'{"a": "\0"}', [{"a": "\0"}]),
    "invalid UTF-8 inside a string": (b'{"a": "\xff\xc3("}', [{"a": "\ufffd\ufffd("}]),
    "half an object": (LINE[:-1], []),
    "half an object does not end inside another": (b'{"type": "user", "x": ' + LINE, []),
    "an object inside one that breaks off": (b'{"type": "user", "x": ' + LINE + b', "y": "cut', []),
    "an object in a text that breaks off": (b'{"type": "user", "x": "say ' + LINE, []),
    "half an object after a whole one": (LINE + LINE[:20], [OK]),
    "a number of thousands of digits": (b'{"a": ' + b"9" * 5000 + b"} x", []),
    "a depth of thousands": (b'{"a":' * 100_000, []),
    "a million braces": (b"{" * 1_000_000, []),
}


@pytest.mark.parametrize(("line", "told"), LINES.values(), ids=LINES.keys())
def test_a_line_yields_its_whole_objects_and_the_lines_after_it_are_read(line: bytes, told: list[Event]) -> None:
    assert read(line + b"\n" + LINE + b"\n") == [*told, OK]
    assert read(line) == told


def test_ten_megabytes_in_one_line_are_read_and_come_in_pieces_without_being_copied_again_and_again() -> None:
    event = {"type": "user", "text": "ü\n" * (3 << 20)}
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    pieces = [line[at : at + 4096] for at in range(0, len(line), 4096)]

    told = read(*pieces, LINE)

    assert len(line) > 10 << 20
    assert [len(told), told[0] == event, told[-1]] == [2, True, OK]  # no diff of ten megabytes


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_above_the_cap_is_dropped_and_holds_no_memory(end: bytes) -> None:
    stream = EventStream(cap=1 << 20)
    tracemalloc.start()
    told = [event for _ in range(64) for event in stream.feed(b'{"a": "' + b"x" * (1 << 18))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert told == []
    assert peak < 4 << 20
    assert [*stream.feed(b'"}' + end), *stream.close()] == []
    assert list(stream.feed(LINE + b"\n")) == [OK]


def test_a_stream_that_is_closed_can_begin_anew() -> None:
    stream = EventStream()

    assert list(stream.feed(LINE)) == []
    assert list(stream.close()) == [OK]
    assert list(stream.close()) == []
