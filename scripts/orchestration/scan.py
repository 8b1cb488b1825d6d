"""What a turn would publish: no secret and no file that a host refuses, in any commit of it or in what it left.

A secret that one commit adds and the next takes out is published all the same, so every commit counts. What the branch
held before is nobody's doing now.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestration.collect import MIB, Rules, printable
from orchestration.git import Git
from orchestration.masking import Word, known, words
from orchestration.settings import Config
from orchestration.shapes import SOURCES, Hit
from orchestration.state import SECRET, TOO_LARGE, Failure
from orchestration.tree import Change, Past

_NAMED = 5
"""Findings that a message names before it only counts."""
_LEAST_LETTERS = 8
"""Different bytes of a token: one of fewer is a placeholder."""
_HEAD = 8000
"""Bytes in which a NUL makes a file binary, as git decides it."""
_KEY = re.compile(rb"""(?:\r?\n|\\+[rn])[ \t"'+]*(?:[A-Za-z0-9+/=]{16}|Proc-Type)""")
"""What follows the first line of a key that is one."""
_INSIDE_A_WORD = re.compile(rb"(?<!\\)[A-Za-z0-9]\Z|\\[^nrt]\Z")
_ONE_WORD = re.compile(rb"[A-Za-z]+")


class Blob(NamedTuple):
    """Bytes that would be published: path, commit (None: it is to be made), and names of what was there before."""

    oid: str
    path: str
    commit: str | None
    before: tuple[str, ...]


class Found(NamedTuple):
    """Something that must not be published: its failure's code, and text for a person that never holds a secret."""

    code: str
    text: str


class Scanner:
    """Looks through what would be published.

    Args:
        git: the verbs; the secrets of its environment are looked for.
        rules: says which files may hold what looks like a token.
        config: how large a file may be, and the secrets that it gives agents.

    """

    def __init__(self, git: Git, rules: Rules, config: Config) -> None:
        self._git = git
        self._rules = rules
        self._limit = config.limits.publish_file
        secrets = [secret for secret in known(git.environment, *config.environments) if not _ONE_WORD.fullmatch(secret)]
        self._own = words(secrets, by_line=False)

    def commits(self, base: str, head: str) -> Failure | None:
        """Return why the commits of base..head must not be published; asks nothing where there are none."""
        if base == head:
            return None
        found: list[Found] = []
        blobs: dict[str, Blob] = {}
        for past in self._git.history(base, head):
            message = f"the message of {past.commit[:10]}"
            found += [Found(SECRET, f"{message} holds {what}") for _, what in self._secrets(past.message, b"", message)]
            blobs |= {blob.oid: blob for blob in _blobs(past, base)}
        return _failure([*found, *self._in(list(blobs.values()))])

    def leftovers(self, head: str, changes: Sequence[Change]) -> Failure | None:
        """Return why changes that are to be committed on `head` must not be published."""
        there = [change for change in changes if change.mode not in {"0", "160000"}]
        return _failure(self._in([Blob(each.oid, each.path, None, (f"{head}:{each.path}",)) for each in there]))

    def _in(self, blobs: Sequence[Blob]) -> list[Found]:
        """Look through blobs, one at a time; one over the limit is not read."""
        sizes = self._git.sizes(blob.oid for blob in blobs)
        found: list[Found] = []
        for blob in blobs:
            where = f" (commit {blob.commit[:10]})" if blob.commit else ""
            size = sizes.get(blob.oid, 0)
            if size > self._limit * MIB:
                text = f"is {size / MIB:.1f} MiB, more than limits.publish_file ({self._limit:g} MiB)"
                found.append(Found(TOO_LARGE, f"{printable(blob.path)} {text}{where}"))
                continue
            data = self._git.blobs([blob.oid])[0] or b""
            for line, what in self._secrets_of(blob, data):
                found.append(Found(SECRET, f"{printable(blob.path)}:{line} holds {what}{where}"))
        return found

    def _secrets_of(self, blob: Blob, data: bytes) -> list[tuple[int, str]]:
        """Return the first new secret of a blob, line and name; what was there before is read only if there is one."""
        if not self._secrets(data, b"", blob.path):
            return []
        names = [name for name in blob.before if "\n" not in name]
        before = b"\n".join(text for text in self._git.blobs(names) if text is not None)
        return self._secrets(data, before, blob.path)

    def _secrets(self, data: bytes, before: bytes, path: str) -> list[tuple[int, str]]:
        hits = [hit for word in self._own for hit in _of_word(word, data)]
        if not self._rules.may_show(path):
            hits += _shaped(data)
        fresh = [hit for hit in hits if _text(data, hit) not in before]
        first = min(fresh, key=lambda hit: hit.start, default=None)
        return [(data.count(b"\n", 0, first.start) + 1, first.shape.name)] if first else []


def _blobs(past: Past, base: str) -> Iterator[Blob]:
    for change in past.changes:
        if change.mode not in {"0", "160000"}:
            origin = past.origins[change.path]
            before = (f"{base}:{change.path}", *([origin] if origin.strip("0") else []))
            yield Blob(change.oid, change.path, past.commit, before)


def _of_word(word: Word, data: bytes) -> Iterator[Hit]:
    hit = word.find(data, 0) if word.anchor in data else None
    if hit:
        yield hit


def _shaped(data: bytes) -> list[Hit]:
    """Return what looks like a token, and is no part of a word, no guess and no example; of a binary, keys alone."""
    binary = b"\0" in data[:_HEAD]
    return [
        hit
        for source in SOURCES
        if source.anchor in data
        for hit in source.all(data)
        if not hit.shape.guess
        and (_is_key(data, hit) if hit.shape.rest is None else not binary and _is_real(data, hit))
    ]


def _is_key(data: bytes, hit: Hit) -> bool:
    return _KEY.match(data, hit.end) is not None


def _is_real(data: bytes, hit: Hit) -> bool:
    text = _text(data, hit)
    if b"EXAMPLE" in text.upper() or len(set(text)) < _LEAST_LETTERS:
        return False
    if text.startswith(b"eyJ") and text.count(b".") < 2:  # noqa: PLR2004 - a JSON web token has three parts
        return False
    return hit.shape.named or not _INSIDE_A_WORD.search(data[max(0, hit.context - 2) : hit.context])


def _text(data: bytes, hit: Hit) -> bytes:
    """Return the whole secret; of a key, its first line."""
    rest = re.compile(hit.shape.rest if hit.shape.rest is not None else _KEY.pattern).match(data, hit.end)
    return data[hit.start : rest.end() if rest else hit.end]


def _failure(found: Sequence[Found]) -> Failure | None:
    if not found:
        return None
    code = SECRET if any(each.code == SECRET for each in found) else TOO_LARGE
    texts = [each.text for each in sorted(found, key=lambda each: each.code != code)]
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    hint = "; tokens that may be published: limits.secrets" if code == SECRET else ""
    return Failure(reason=f"it must not be published: {'; '.join([*texts[:_NAMED], *more])}{hint}", code=code)
