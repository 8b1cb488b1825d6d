"""Secrets are hidden in what a child prints, at the one place where its output passes.

A stream is read as it comes. Where a secret may have begun since its last line break, what came since then is held
back, but no more than 4 KiB or the longest secret; the end of the stream lets it through. The first bytes of a secret
make it known, and all of it becomes one `***`: no byte of JSON's syntax and no line break is ever a part of it.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from urllib.parse import unquote

from orchestration.shapes import MAX_HEAD, PREFIXES, SOURCES, Hit, Shape, Source

HIDDEN = b"***"
SHORTEST = 8
"""Bytes of a value of the environment that may be a secret: shorter ones are words."""

_NAMES = re.compile(
    r"(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASS|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|PAT)(?:_\d+)?$"
    r"|PASSWORD|^AUTH(?!ORS?(?:_|$))|SECRET_|_APIKEY",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(?:~|\.{1,2})/.*|/[\w.@ +-]+/[\w.@ +/-]*|[\d.,:_-]+|true|false", re.IGNORECASE)
"""Values that are nobody's secret: paths, numbers, switches."""
_IN_URL = re.compile(r"""://[^\s/:@"']*:([^\s/@"']+)@""")

_LINE = 4096
"""Bytes of a line of a key block that are looked at together."""
_BREAK = re.compile(rb"\r?\n|\\+[rn]")
"""Ends a line of a key block, also in JSON, and in JSON in JSON."""
_BODY = re.compile(
    rb"(?:[ \t0-9|>:]|\\+t|\xe2\x86\x92){0,24}"  # what a tool puts before the lines that it shows
    rb"((?:Proc-Type|DEK-Info|Version|Comment|Hash): [^\\\"\n]*|[A-Za-z0-9+/=]*)"
)
_PIECE = 256 << 10
"""Bytes that are looked at for every anchor before the next are: what fits the processor's cache is read once."""
_FRONT = 64
"""Bytes of a secret among which is the one to look for."""
_COMMON = b" etaoinsrhldcumfpgwybvkxjqz0123456789"


def known(*environments: Mapping[str, str]) -> list[bytes]:
    """Return the secrets that environments hold: values under a secret's name, and passwords in addresses."""
    found: dict[bytes, None] = {}
    for name, value in chain.from_iterable(environment.items() for environment in environments):
        values = [value] if _NAMES.search(name) and not _PLAIN.fullmatch(value) else []
        passwords = _IN_URL.findall(value)
        for text in [*values, *passwords, *map(unquote, passwords)]:
            data = text.strip().encode(errors="surrogateescape")
            if len(data) >= SHORTEST:
                found[data] = None
    return list(found)


_EXACT = Shape("a secret of the environment", b"", (), b"", b"")
_BASE64 = _EXACT._replace(rest=b"[A-Za-z0-9+/=_-]*")


class Word:
    """A way to write a secret of the environment, to be found as it is; its rarest byte tells where it cannot be."""

    def __init__(self, text: bytes, shape: Shape) -> None:
        self.anchor = bytes([min(text[:_FRONT], key=_COMMON.find)])
        self.prefixes = {text[:size] for size in range(1, text.index(self.anchor) + 1)}
        self.text = text
        self._shape = shape

    def find(self, data: bytes, begin: int) -> Hit | None:
        """Return its first place at `begin` or later."""
        start = data.find(self.text, begin)
        return Hit(start, start + len(self.text), start, self._shape) if start >= 0 else None


def words(secrets: Iterable[bytes], *, by_line: bool) -> list[Word]:
    """Return the ways to write secrets: as they are, whole or line by line, and as JSON and base64 have them."""
    found: dict[bytes, Shape] = {}
    for secret in secrets:
        whole = secret[: len(secret) // 3 * 3]  # what follows it decides about its last letters
        found |= {base64.b64encode(whole): _BASE64, base64.urlsafe_b64encode(whole): _BASE64}
        once = _as_json({secret})
        lines = [line for line in secret.splitlines() if len(line) >= SHORTEST] if by_line else [secret]
        found |= dict.fromkeys([*once, *_as_json(once), *lines], _EXACT)
    return [Word(text, shape) for text, shape in found.items() if text]


def _as_json(texts: Iterable[bytes]) -> set[bytes]:
    """Return texts as they stand in a JSON string, with other letters than ASCII's as they are or escaped."""
    decoded = [text.decode(errors="surrogateescape") for text in texts]
    written = [json.dumps(text, ensure_ascii=plain)[1:-1] for text in decoded for plain in (True, False)]
    return {text.encode(errors="surrogateescape") for text in written}


class Mask:
    """Hides secrets in one stream.

    Args:
        secrets: of the environment.

    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        own = words(secrets, by_line=True)
        self._finders: list[Source | Word] = [*SOURCES, *own]
        self._most = max([MAX_HEAD, *(len(word.text) for word in own)])
        self._open = tuple(PREFIXES.union([b"\\"], *(word.prefixes for word in own)))
        self._held = b""
        self._within: Shape | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what came; return what may be shown by now."""
        return self._pass(self._held + data, last=False)

    def close(self) -> bytes:
        """Return what was held back, at the end of the stream."""
        return self._pass(self._held, last=True)

    def _pass(self, data: bytes, *, last: bool) -> bytes:
        out: list[bytes] = []
        at = self._go_on(data, 0, out, last=last)
        settled = len(data) if last else self._settled(data)
        search = _Search(data, self._finders)
        while self._within is None and (hit := search.first(at)) and hit.start < settled:
            out += [data[at : hit.start + _escaped(data, at, hit.start)], HIDDEN]
            self._within = hit.shape
            at = self._go_on(data, hit.end, out, last=last)
        settled = min([settled, *search.contexts()])
        if self._within is None and at < settled:
            out.append(data[at:settled])
            at = settled
        self._held = data[at:]
        return b"".join(out)

    def _settled(self, data: bytes) -> int:
        """Return up to where no secret begins that is not there as far as is needed to know it."""
        line = data.rfind(b"\n") + 1
        if not data.endswith(self._open) and not any(data.find(each.anchor, line) >= 0 for each in self._finders):
            return len(data)
        far = len(data) - self._most
        if far <= line:
            return line
        return far - (far - len(data[:far].rstrip(b"\\"))) % 2  # what is escaped stays with its backslash

    def _go_on(self, data: bytes, at: int, out: list[bytes], *, last: bool) -> int:
        """Pass over the rest of the secret that `at` is within; return where it ends, or what cannot be told yet."""
        if self._within is None:
            return at
        if self._within.rest is None:
            return self._pass_block(data, at, out, last=last)
        rest = re.compile(self._within.rest).match(data, at)
        end = rest.end() if rest else at
        if end < len(data) or last:
            self._within = None
        return end

    def _pass_block(self, data: bytes, at: int, out: list[bytes], *, last: bool) -> int:
        """Pass over the lines of a key, but for their ends; a line of which a part alone could be one ends it."""
        while last or len(data) - at >= _LINE or _BREAK.search(data, at):
            ends = _BREAK.search(data, at, at + _LINE)
            stop = ends.start() if ends else min(len(data), at + _LINE)
            body = _BODY.match(data, at, stop)
            if body is None or body.end() < stop or at == len(data):
                self._within = None
                return body.end() if body and body[1] else at
            out.append(b"\n" if ends and ends[0].endswith(b"\n") else b"")
            at = ends.end() if ends else stop
        return at


def masked(text: str, secrets: Sequence[bytes]) -> str:
    """Return a text without secrets, and without halves of characters, which no file holds."""
    mask = Mask(secrets)
    return (mask.feed(text.encode(errors="replace")) + mask.close()).decode(errors="replace")


class MaskedSink:
    """Takes what comes from the streams of a child, and passes it on without secrets.

    Args:
        sink: takes the name of the stream and its data.
        secrets: of the environment; None: everything is passed on as it is.

    """

    def __init__(self, sink: Callable[[str, bytes], bool], secrets: Sequence[bytes] | None) -> None:
        self._sink = sink
        self._masks = {} if secrets is None else {name: Mask(secrets) for name in ("stdout", "stderr")}

    def __call__(self, name: str, data: bytes) -> bool:
        """Take what came on a stream; return what the sink says of it."""
        return self._sink(name, self._masks[name].feed(data) if self._masks else data)

    def close(self) -> None:
        """Pass on what was held back: the streams have ended."""
        for name, mask in self._masks.items():
            self._sink(name, mask.close())


class _Search:
    """The secrets of one piece of a stream, in their order."""

    def __init__(self, data: bytes, finders: Iterable[Source | Word]) -> None:
        self._data = data
        self._next: dict[Source | Word, Hit | None] = dict.fromkeys(_met(data, finders))

    def first(self, begin: int) -> Hit | None:
        """Return the first secret at `begin` or later, the longest of several."""
        for each, hit in list(self._next.items()):
            if hit is None or hit.context < begin:
                found = each.find(self._data, begin)
                if found:
                    self._next[each] = found
                else:
                    del self._next[each]
        return min(filter(None, self._next.values()), key=lambda hit: (hit.start, -hit.end), default=None)

    def contexts(self) -> list[int]:
        """Return where what was found and not taken yet begins."""
        return [hit.context for hit in self._next.values() if hit]


def _met(data: bytes, finders: Iterable[Source | Word]) -> list[Source | Word]:
    """Return those of whose secrets there may be one, by their anchors."""
    left, met = list(finders), list[Source | Word]()
    for begin in range(0, len(data), _PIECE):
        met += [each for each in left if data.find(each.anchor, begin, begin + _PIECE) >= 0]
        left = [each for each in left if each not in met]
    return met


def _escaped(data: bytes, begin: int, start: int) -> int:
    """Return 1 where the byte at `start` belongs to a backslash before it: then it is no part of a secret."""
    return (start - len(data[begin:start].rstrip(b"\\")) - begin) % 2
