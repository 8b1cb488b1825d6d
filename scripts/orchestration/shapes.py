"""What tokens, keys and passwords look like: one list, for what is printed (masking) and what is published (scan)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_HEAD = 4096
"""Bytes that a secret of a known shape, with what stands before it, is known by at the latest."""

_WORD = rb"[A-Za-z0-9_-]"


class Shape(NamedTuple):
    """How one kind of secret is found.

    `anchor` is a byte that each of them holds, rare enough to look for. One of the texts `before`, all of one length,
    stands before it: that belongs to the secret or, where it is `named`, only tells what it is. `after` is a pattern of
    what comes then; its group is the first part of the secret, enough to be sure of it. `rest` is what may follow,
    None: the lines of a block. A `guess` is good enough to hide a text, not to fail a turn.
    """

    name: str
    anchor: bytes
    before: tuple[bytes, ...]
    after: bytes
    rest: bytes | None = rb"[A-Za-z0-9_]*"
    named: bool = False
    guess: bool = False

    @property
    def pattern(self) -> bytes:
        """The pattern from the anchor on."""
        known = b"|".join(map(re.escape, self.before))
        return self.anchor + b"(?<=(?:" + known + b")" + self.anchor + b")" + self.after


class Hit(NamedTuple):
    """A secret's place: `context` is where what tells of it begins, `start` to `end` is its first part."""

    start: int
    end: int
    context: int
    shape: Shape


_GAP = rb"""[ \t\\"']{0,8}"""
_AWS = _GAP + rb"([A-Za-z0-9/+]{40})"
_AWS_REST = rb"[A-Za-z0-9/+=]*"
_ENDS = (rb"", rb'"', rb"'", rb"\"")
"""What stands between a name and its colon: nothing, or the end of a string."""

SHAPES = (
    Shape("a GitHub token", b"_", (b"ghp", b"gho", b"ghu", b"ghs", b"ghr"), rb"([A-Za-z0-9]{30})"),
    Shape("a GitHub token", b"_", (b"github_pat",), rb"([A-Za-z0-9]{20})"),
    Shape("an npm token", b"_", (b"npm",), rb"([A-Za-z0-9]{30})"),
    Shape("a Stripe key", b"_", (b"sk_live", b"rk_live"), rb"([A-Za-z0-9]{16})"),
    Shape("an AWS secret key", b"_", (b"access",), b"key" + _GAP + b"[:=]" + _AWS, _AWS_REST, named=True),
    Shape("an AWS secret key", b"_", (b"ACCESS",), b"KEY" + _GAP + b"[:=]" + _AWS, _AWS_REST, named=True),
    Shape(
        "an API key (sk-)",
        b"-",
        (b"sk",),
        rb"((?:ant|proj|svcacct|admin|or|lf|live)-" + _WORD + rb"{20}|[A-Za-z0-9]{20})",
        _WORD + b"*",
    ),
    Shape("a GitLab token", b"-", (b"glpat",), b"(" + _WORD + b"{20})", rb"[A-Za-z0-9_.-]*"),
    Shape("a PyPI token", b"-", (b"pypi",), b"(AgE" + _WORD + b"{20}|" + _WORD + b"{80})", _WORD + b"*"),
    Shape(
        "a Slack token",
        b"-",
        tuple(b"xox" + kind for kind in (b"a", b"b", b"c", b"e", b"o", b"p", b"r", b"s")),
        rb"([A-Za-z0-9]{2}[A-Za-z0-9-]{8})",
        rb"[A-Za-z0-9-]*",
    ),
    Shape("a private key", b"-", (b"",), b"----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----()", None, named=True),
    Shape("an AWS access key id", b"I", (b"AK", b"AS"), rb"(A[A-Z0-9]{16})", rb"[A-Z0-9]*"),
    Shape("a Google API key", b"I", (b"A",), b"(za" + _WORD + b"{35})", _WORD + b"*"),
    Shape("a JSON web token", b"J", (b"ey",), b"(" + _WORD + rb"{8,1024}\." + _WORD + b"{8})", rb"[A-Za-z0-9_.-]*"),
    Shape(
        "a password in a URL",
        b":",
        (b"",),
        rb"""//[^\s/:@"'\\<>]{0,200}:([^\s/@"'\\<>]{1,500})(?=@)""",
        b"",
        named=True,
        guess=True,
    ),
    *(
        Shape(
            "an Authorization header",
            b":",
            (b"uthorization" + end,),
            _GAP + rb"(?:[Bb]earer|[Bb]asic|[Tt]oken)[ \t]{1,4}([A-Za-z0-9._~+/=-]{6})",
            rb"[A-Za-z0-9._~+/=-]*",
            named=True,
            guess=True,
        )
        for end in _ENDS
    ),
    *(Shape("an AWS secret key", b":", (b"AccessKey" + end,), _AWS, _AWS_REST, named=True) for end in _ENDS),
)

PREFIXES = frozenset(text[:size] for shape in SHAPES for text in shape.before for size in range(1, len(text) + 1))
"""What data may end in when an anchor that is still to come would make a secret of it."""


class Source:
    """All shapes with one anchor, as one search."""

    def __init__(self, anchor: bytes) -> None:
        self.anchor = anchor
        self._shapes = [shape for shape in SHAPES if shape.anchor == anchor]
        self._pattern = re.compile(b"|".join(shape.pattern for shape in self._shapes))

    def find(self, data: bytes, begin: int) -> Hit | None:
        """Return the first secret whose context begins at `begin` or later."""
        for match in self._matches(data, begin):
            shape = self._shapes[(match.lastindex or 1) - 1]
            start, end = match.span(match.lastindex or 1)
            context = match.start() - len(shape.before[0])
            if context >= begin:
                return Hit(start if shape.named else context, end, context, shape)
        return None

    def all(self, data: bytes) -> Iterator[Hit]:
        """Return every secret, none within another."""
        begin = 0
        while hit := self.find(data, begin):
            yield hit
            begin = max(hit.end, hit.context + 1)

    def _matches(self, data: bytes, begin: int) -> Iterator[re.Match[bytes]]:
        while match := self._pattern.search(data, begin):
            yield match
            begin = match.start() + 1


SOURCES = tuple(Source(anchor) for anchor in dict.fromkeys(shape.anchor for shape in SHAPES))
