"""JSON objects out of a stream of bytes: whatever a pipe cuts, glues together or mixes in, the rest is read."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

LINE = 32 << 20
"""Bytes of a line above which it is dropped."""

Event = dict[str, Any]

_DECODE = msgspec.json.Decoder().decode
_LENIENT = json.JSONDecoder(strict=False)
_TRIES = 100
"""Places of one line at which an object is looked for, so that a line of braces ends."""


class EventStream:
    """A stream of JSON objects, one a line as a rule; it holds no more than one unfinished line.

    Args:
        cap: bytes of a line above which it is dropped.

    """

    def __init__(self, cap: int = LINE) -> None:
        self._cap = cap
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take what was read, and yield the objects of the lines that are complete with it."""
        head, *rest = data.split(b"\n")
        if not rest:
            self._keep(head)
            return iter(())
        tail = rest.pop()
        lines = [self._line(head), *rest]
        self._keep(tail)
        return (event for line in lines for event in _objects(line))

    def close(self) -> Iterator[Event]:
        """Yield the objects of a last line without its end."""
        return _objects(self._line(b""))

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._cap:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _line(self, end: bytes) -> bytes:
        self._keep(end)
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line


def _objects(line: bytes) -> Iterator[Event]:
    if b"{" not in line:
        return
    try:
        found = _DECODE(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from _salvaged(line)
    else:
        if isinstance(found, dict):
            yield found


def _salvaged(line: bytes) -> Iterator[Event]:
    """Yield the objects of a line that is not one JSON value: glued together, or with something else between.

    What an object that breaks off holds is no event: the rest of such a line is left out.
    """
    text, at, tries = line.decode(errors="replace"), 0, _TRIES
    while tries and (at := text.find("{", at)) >= 0:
        try:
            found, at = _LENIENT.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if text[at + 1 : error.pos].strip():
                return
            at, tries = at + 1, tries - 1  # a brace, and no object
        except (ValueError, RecursionError):  # a number of thousands of digits, a depth of thousands
            return
        else:
            yield found
