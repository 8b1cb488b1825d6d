"""One long-lived `git cat-file`: what a name means and what an object holds, without a process for every question."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestration.process import Child, Completed, Loop, Request, Why


class Answer(NamedTuple):
    """An object's id and size in bytes, where there is one, and its bytes, where they were asked for."""

    oid: str | None = None
    data: bytes | None = None
    size: int | None = None


_FIXED = re.compile(r"[0-9a-f]{40,64}(:|\^\{tree\}$)")
"""Names that mean the same for ever: what a commit, named by its full id, holds."""
_REMEMBERED = 32
_SMALL = 1 << 16


class ReaderEndedError(Exception):
    """git cat-file ended or stalled; `done` is how."""

    def __init__(self, done: Completed) -> None:
        super().__init__(done.stderr.decode(errors="replace"))
        self.done = done


class ObjectReader:
    """Answers in the order of the questions; refs are read anew for each of them, what a commit holds is remembered.

    Args:
        loop: serves its pipes.
        argv: git with its flags.
        cwd: a folder of the repository.
        env: git's environment.
        timeout: seconds that an answer may take.

    """

    def __init__(self, loop: Loop, argv: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float) -> None:
        self._loop = loop
        self._request = Request(argv=(*argv, "cat-file", "--batch-command"), cwd=cwd, env=dict(env), interactive=True)
        self._timeout = timeout
        self._child: Child | None = None
        self._heard: dict[str, bytearray] = {}
        self._known: dict[str, Answer] = {}

    def ids(self, names: Sequence[str]) -> list[str | None]:
        """Return the object id that each name means, None where it means none.

        Raises:
            ReaderEndedError: git ended instead of answering.

        """
        return [answer.oid for answer in self._ask("info", names)]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Return the size in bytes of each object, None where there is none.

        Raises:
            ReaderEndedError: git ended instead of answering.

        """
        return [answer.size for answer in self._ask_git("info", names)]

    def contents(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of each object, None where there is none.

        Raises:
            ReaderEndedError: git ended instead of answering.

        """
        return [answer.data for answer in self._ask("contents", names)]

    def learn(self, name: str, oid: str, data: bytes | None = None) -> None:
        """Remember what is known of a commit that was just made."""
        self._known[name] = Answer(oid, data)

    def _ask(self, question: str, names: Sequence[str]) -> list[Answer]:
        """Answer what is known already, and ask git for the rest."""
        fresh = [name for name in dict.fromkeys(names) if not self._knows(question, name)]
        answers = dict(zip(fresh, self._ask_git(question, fresh), strict=True)) if fresh else {}
        found = [answers[name] if name in answers else self._known[name] for name in names]
        for name, answer in answers.items():
            if _FIXED.match(name) and answer.oid and len(answer.data or b"") <= _SMALL:
                self._known[name] = answer
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return found

    def _knows(self, question: str, name: str) -> bool:
        return name in self._known and (question == "info" or self._known[name].data is not None)

    def _ask_git(self, question: str, names: Sequence[str]) -> list[Answer]:
        if any("\n" in name for name in names):
            raise ValueError(names)
        child = self._child if self._child and self._child.completed is None else self.begin()
        child.send(b"".join(os.fsencode(f"{question} {name}\n") for name in names))
        timer = self._loop.after(self._timeout, lambda: child.stop(Why.TIMEOUT))
        try:
            return [self._answer(child, with_data=question == "contents") for _ in names]
        finally:
            timer.cancel()

    def begin(self) -> Child:
        """Start the git that answers."""
        self._heard = {"stdout": bytearray(), "stderr": bytearray()}
        self._child = self._loop.spawn(self._request, lambda name, data: self._heard[name].extend(data))
        return self._child

    def _answer(self, child: Child, *, with_data: bool) -> Answer:
        words = self._take_line(child).split()
        if len(words) != 3 or not words[2].isdigit():  # noqa: PLR2004 - oid, type, size; else "... missing"
            return Answer()
        data = self._take(child, int(words[2]) + 1)[:-1] if with_data else None
        return Answer(words[0].decode(), data, int(words[2]))

    def _take_line(self, child: Child) -> bytes:
        while (end := self._heard["stdout"].find(b"\n")) < 0:
            self._wait(child)
        return self._take(child, end + 1)

    def _take(self, child: Child, size: int) -> bytes:
        heard = self._heard["stdout"]
        while len(heard) < size:
            self._wait(child)
        taken = bytes(heard[:size])
        del heard[:size]
        return taken

    def _wait(self, child: Child) -> None:
        if child.completed:
            raise ReaderEndedError(child.completed)
        self._loop.step()
