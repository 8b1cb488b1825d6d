"""What a git call to a remote has come to, and what to type about it.

Only OK and ALREADY say that a ref is where it was to be. After anything else the remote is read again: a push that
"failed" may have landed, or land later.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orchestration.process import Completed, Why
from orchestration.remote_kinds import Kind


class Trouble(NamedTuple):
    """A failed call for people: git's own decisive line without credentials, and what to type ("" for nothing)."""

    kind: Kind
    text: str
    remedy: str


def classify(done: Completed, ref: str = "") -> Kind:
    """Tell what a call has come to; of a push with `--porcelain`, for the full name of a ref there ("": the worst)."""
    return _found(done, ref)[0]


def trouble(done: Completed, remote: str, branch: str) -> Trouble:
    """Explain what a call to `remote` about `branch` (or a ref by its full name) has come to."""
    kind, line = _found(done, branch if branch.startswith("refs/") else f"refs/heads/{branch}")
    where = {"remote": shlex.quote(_masked(remote)), "branch": shlex.quote(branch)}
    return Trouble(kind, _plain(line), _remedy(kind, done, line).format(**where))


# --- what git said ----------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A line of `push --porcelain`."""

    flag: str
    ref: str
    summary: str


_Rules = Sequence[tuple[Kind, re.Pattern[str]]]


def _rules(*pairs: tuple[Kind, str]) -> _Rules:
    return [(kind, re.compile(pattern)) for kind, pattern in pairs]


_CORRUPT = (
    r"object file .* is empty|loose object .* is corrupt|packed object .* is corrupt|\bbad object |reference broken"
    r"|index file smaller than expected|index file corrupt|bad index file|unable to read tree"
)
_FULL = "No space left on device|Disk quota exceeded"
_LOCKED = r"\.lock': File exists"

_UNSENT = _rules((Kind.LOCAL_CORRUPT, _CORRUPT))
"""Why the objects did not leave this machine."""

_UNPACKING = _rules(
    (Kind.REMOTE_FULL, _FULL),
    (Kind.POLICY, "exceeds maximum allowed size|fsck error"),
)
"""Why the remote could not take the objects."""

_MOVING = _rules(
    (Kind.CAS_LOST, "but expected"),
    (Kind.REMOTE_BUSY, _LOCKED),
    (Kind.REMOTE_FULL, _FULL),
    (Kind.POLICY, "exists; cannot create"),
    (Kind.REMOTE_BROKEN, r"Unable to create '.*\.lock'|reference broken|couldn't (?:write|set) "),
)
"""Why the remote could not move the ref."""

_MOVED = re.compile(
    "failed to update ref|transaction failed|cannot lock ref|incorrect old value"
    "|reference already exists|reference does not exist|non-fast-forward"
)
_BROKEN = re.compile("missing necessary objects|Internal Server Error|fatal error in commit_refs")

_HTTP = "(?:returned error:|RPC failed; HTTP) "
_MISTRUST = (
    r"terminal prompts disabled|Authentication failed for|Permission denied \(|Too many authentication failures"
    r"|Host key verification failed|SSL certificate problem|certificate verification failed|service not enabled"
    rf"|Permission to .* denied|{_HTTP}(?:401|403|407)\b"
)
_NOWHERE = (
    r"does not appear to be a git repository|repository '.*' not found|ERROR: Repository not found"
    rf"|access denied or repository not exported|no such repository|{_HTTP}(?:404|410)\b"
)
_UNREACHED = (
    r"unable to access '|[Cc]ould not resolve host|unable to look up |unable to connect to |connect to host "
    r"|Connection (?:refused|timed out|closed by|reset by)|Operation timed out|Network is unreachable"
    r"|No route to host|kex_exchange_identification|ssh_dispatch_run_fatal"
)
_DAMAGED = _rules((Kind.REMOTE_BROKEN, "aborting due to possible repository corruption on the remote side"))
_CALL = _rules(
    (Kind.OWNERSHIP, "detected dubious ownership"),
    (Kind.LOCAL_CORRUPT, _CORRUPT),
    (Kind.LOCAL_FULL, _FULL),
    (Kind.LOCAL_LOCK, _LOCKED),
    (Kind.LOCAL_TREE, "would be overwritten by|Not possible to fast-forward"),
    (Kind.MISSING, "couldn't find remote ref"),
    (Kind.THROTTLED, rf"{_HTTP}429\b"),
    (Kind.AUTH, _MISTRUST),
    (Kind.NOT_FOUND, _NOWHERE),
    (Kind.POLICY, rf"{_HTTP}(?:413|422)\b"),
    (Kind.UNKNOWN, "RPC failed|unexpected disconnect|the remote end hung up unexpectedly"),
    (Kind.NETWORK, _UNREACHED),
)
"""What a call says that has no word about a ref. The first that fits: a cut one may have moved it, so it comes before
the causes of not being reached, and after what a host answers. `Could not read from remote repository` is the tail of
several, and says nothing."""


def _found(done: Completed, ref: str) -> tuple[Kind, str]:
    """Return the kind, and the line that decided it."""
    if done.why is not Why.EXITED:
        return Kind.UNKNOWN, f"git was ended after {done.seconds:.0f} s ({done.why})"
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    rows = list(_rows(done))
    row = max((row for row in rows if ref in {"", row.ref}), key=_gravity, default=None)
    if row:
        return _pushed(row, said, whole=not done.code or any(other.flag == "!" for other in rows))
    if "ls-remote" in done.argv and done.code in {0, 2}:
        return _looked(done.stdout)
    if done.code:
        return _failed(said, done)
    if ref and "--porcelain" in done.argv:
        return Kind.UNKNOWN, f"git does not say what became of {ref}"
    return Kind.OK, ""


def _looked(listed: bytes) -> tuple[Kind, str]:
    """Judge a look: git calls it a success also when it was told of nothing, or of a ref that a power cut emptied."""
    if empty := re.search(r"^0+\t(.*)", listed.decode(errors="replace"), re.MULTILINE):
        return Kind.REMOTE_BROKEN, f"the remote lists a ref without a value: {empty[1]}"
    return (Kind.OK, "") if listed else (Kind.MISSING, "the remote lists no such ref")


def _rows(done: Completed) -> Iterable[_Row]:
    for line in done.stdout.decode(errors="replace").splitlines():
        flag, names, summary = (*line.split("\t"), "", "")[:3]
        if len(flag) == 1 and summary:
            yield _Row(flag, names.rpartition(":")[2], summary)


def _gravity(row: _Row) -> tuple[bool, bool, bool]:
    return row.flag == "!", row.flag not in " *+=", row.flag == "="


def _pushed(row: _Row, said: Sequence[str], *, whole: bool) -> tuple[Kind, str]:
    """Judge one ref of a push; `whole`: the exit code is accounted for."""
    if row.flag in " *+=" and whole:
        return (Kind.ALREADY if row.flag == "=" else Kind.OK), row.summary
    if row.summary.startswith("[rejected]"):
        return Kind.CAS_LOST, row.summary
    if row.summary.startswith("[remote rejected]"):
        return _rejected(row, said)
    return Kind.UNKNOWN, row.summary


def _rejected(row: _Row, said: Sequence[str]) -> tuple[Kind, str]:
    """Judge what the remote refused: `remote rejected` does not mean that its owner forbids it."""
    about = [line for line in said if f"'{row.ref}'" in line] or said
    if "unpacker error" in row.summary:
        why = _first(_UNSENT, _ours(said)) or _first(_UNPACKING, said)
        return why or (Kind.REMOTE_BROKEN, _told(row, [line for line in said if "remote unpack failed" in line]))
    if _MOVED.search(row.summary):
        return _first(_MOVING, [row.summary, *about]) or (Kind.CAS_LOST, row.summary)
    if _BROKEN.search(row.summary):
        return Kind.REMOTE_BROKEN, row.summary
    return Kind.POLICY, _told(row, [line for line in said if line.startswith("remote: ")])


def _told(row: _Row, lines: Sequence[str]) -> str:
    """Return a summary with the first of the lines."""
    return ": ".join([row.summary, *(line.removeprefix("remote: ") for line in lines[:1])])


def _failed(said: Sequence[str], done: Completed) -> tuple[Kind, str]:
    ours = _ours(said)
    last = next((line for line in reversed(ours) if line.startswith(("fatal: ", "error: "))), f"git exits {done.code}")
    return _first(_DAMAGED, said) or _first(_CALL, ours) or (Kind.UNKNOWN, last)


def _ours(said: Sequence[str]) -> list[str]:
    """Return the lines of our own side: what a hook over there prints decides nothing here."""
    return [line for line in said if not line.startswith("remote:")]


def _first(rules: _Rules, lines: Sequence[str]) -> tuple[Kind, str] | None:
    hits = ((kind, line) for kind, pattern in rules for line in lines if pattern.search(line))
    return next(hits, None)


# --- what people read -------------------------------------------------------------------------------------------------

_SECRET = re.compile(r"(?<=://)[^/\s':]*:[^/\s']*@|(?:(?<=https://)|(?<=http://))[^/\s']+@")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]+")
_LONGEST = 300

_REMEDIES: dict[Kind, str] = {
    Kind.OK: "",
    Kind.ALREADY: "",
    Kind.CAS_LOST: "nothing to do: {branch} is read again; look with `git fetch {remote} {branch}`",
    Kind.REMOTE_BUSY: "if no push runs to {remote}, a git died there: on its machine remove %s",
    Kind.POLICY: "let this account push {branch} to {remote} (its rules, hooks, limits), then start again",
    Kind.REMOTE_FULL: "free space on the machine of {remote}; it is tried again",
    Kind.REMOTE_BROKEN: "on the machine of {remote}: `git fsck --full`, and make it writable; it is tried again",
    Kind.UNKNOWN: "nothing to do: it is tried again; look with `git ls-remote {remote} {branch}`",
    Kind.NETWORK: "nothing to do: it is tried again; look with `git ls-remote {remote} {branch}`",
    Kind.THROTTLED: "nothing to do: it is tried again later; a longer poll interval asks {remote} less often",
    Kind.AUTH: "let git reach {remote} without a prompt, until `git ls-remote {remote}` answers; it is tried again",
    Kind.NOT_FOUND: "mend the address: `git remote set-url {remote} <url>`, until `git ls-remote {remote}` answers",
    Kind.MISSING: "if {branch} was never there: `git push {remote} {branch}`; if it was deleted, find out why first",
    Kind.LOCAL_LOCK: "if no git runs here, one has died: `rm %s`",
    Kind.LOCAL_CORRUPT: "see what is damaged: `git fsck --full`; keep a copy of the folder, and clone {remote} anew",
    Kind.LOCAL_TREE: "commit or move what `git status` shows, then `git pull {remote} {branch}`",
    Kind.LOCAL_FULL: "free space here; it is tried again",
    Kind.OWNERSHIP: "as the user that git runs as: `%s`",
}
_KEYS = "`ssh-add <key>`, or name one with `git config core.sshCommand`, until `git ls-remote {remote}` answers"
_HOST = "compare the host's key with what its owner publishes; then `%s`, and answer `git ls-remote {remote}` by hand"
_LOGIN = "store a login: `git config credential.helper store`, then answer `git ls-remote {remote}` by hand, once"


def _remedy(kind: Kind, done: Completed, line: str) -> str:
    """Return what to type, with `{remote}` and `{branch}` to be filled in."""
    said = done.stderr.decode(errors="replace")
    if "Host key verification failed" in line:
        return _with(_HOST, re.search("ssh-keygen -f .* -R .*", said), "ssh-keygen -R <host>")
    if "Permission denied (" in line:
        return _KEYS
    if "terminal prompts" in line or "Authentication failed" in line:
        return _LOGIN
    if kind is Kind.OWNERSHIP:
        return _with(_REMEDIES[kind], re.search("git config --global --add .*", said), "git config --global ...")
    return _with(_REMEDIES[kind], re.search(r"(?<=Unable to create ').*?\.lock(?=')", line), "the lock")


def _with(remedy: str, found: re.Match[str] | None, otherwise: str) -> str:
    """Return a remedy with what git itself names."""
    named = found[0].strip() if found else otherwise
    return remedy.replace("%s", named.replace("{", "{{").replace("}", "}}"))


def _masked(text: str) -> str:
    return _SECRET.sub("***@", text)


def _plain(line: str) -> str:
    """Return a line without credentials and without what moves a terminal's cursor."""
    return _CONTROL.sub("", _masked(line)).strip()[:_LONGEST]
