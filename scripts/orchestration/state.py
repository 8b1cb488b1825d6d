"""The state of the loop: a strict parse and pure transitions.

The truth about whose turn it is. Nothing here reads a file, a clock or a repository.
"""

import json
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field
from msgspec.structs import replace

from orchestration.clock import iso
from orchestration.errors import Refused
from orchestration.plainly import plainly

SCHEMA = 1
MAX_BYTES = 1 << 20
_REASON = 64 << 10
"""Characters of an agent's reason that are read."""
_SUBJECT = 60
"""Characters of a failure's reason in the subject of its commit."""


class Actor(StrEnum):
    """Who runs a turn: galph supervises, ralph implements."""

    GALPH = "galph"
    RALPH = "ralph"

    @property
    def other(self) -> "Actor":
        """The actor whose turn comes after this one's."""
        return Actor.RALPH if self is Actor.GALPH else Actor.GALPH


class Status(StrEnum):
    """Where the loop stands."""

    IDLE = "idle"
    RUNNING_GALPH = "running-galph"
    WAITING_RALPH = "waiting-ralph"
    RUNNING_RALPH = "running-ralph"
    COMPLETE = "complete"
    FAILED = "failed"


READY = {Actor.GALPH: Status.IDLE, Actor.RALPH: Status.WAITING_RALPH}
RUNNING = {Actor.GALPH: Status.RUNNING_GALPH, Actor.RALPH: Status.RUNNING_RALPH}
DONE = {Actor.GALPH: Status.WAITING_RALPH, Actor.RALPH: Status.COMPLETE}

SCOPE = "scope"
SECRET = "secret"  # noqa: S105 - the code of a failure
TOO_LARGE = "too-large"
LEFTOVERS = "leftovers"
CONFLICT = "conflict"
"""The code of a failure whose work does not go together with what was committed meanwhile."""
ACCEPTED = {
    SCOPE: "put these files back",
    SECRET: "take it out of the files and of every commit that holds it",
    TOO_LARGE: "take it out of the files and of every commit that holds it",
}
"""The codes of failures that only `skip --accept-CODE` passes over, and what to do before a `retry`."""
WITHHELD = {*ACCEPTED, "rewrote-history"}
"""The codes of failures after which nothing of the turn's work may be published."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a turn failed, for the peer and for a person who looks in the morning."""

    reason: str
    exit_code: int | None = None
    code: str = "turn-failed"
    tail: list[str] = field(default_factory=list)
    log: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One valid `sync/state.json`; `extra` holds the keys that this version does not know."""

    schema: Annotated[int, Meta(ge=0)] = 0
    branch: str | None = None
    iteration: Annotated[int, Meta(ge=1)]
    expected_actor: Actor
    status: Status
    last_update: str | None = None
    lease_expires_at: str | None = None
    galph_commit: str | None = None
    ralph_commit: str | None = None
    last_prompt: str | None = None
    last_prompt_actor: Actor | None = None
    exit: bool = False
    exit_reason: str | None = None
    failure: Failure | None = None
    epoch: Annotated[int, Meta(ge=0)] = 0
    holder: str | None = None
    nonce: str | None = None
    claim_base: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Token(msgspec.Struct, frozen=True):
    """The fencing token of one claim (docs/protocol.md): whoever holds the newest epoch owns the turn."""

    epoch: int
    holder: str
    nonce: str


KNOWN = frozenset(State.__struct_fields__) - {"extra"}


def initial(branch: str | None, now: datetime) -> State:
    """Return the state that `init` writes: galph's first turn."""
    return State(
        schema=SCHEMA,
        branch=branch,
        iteration=1,
        expected_actor=Actor.GALPH,
        status=Status.IDLE,
        last_update=iso(now),
    )


# --- reading and writing ---------------------------------------------------------------------------------------------


def _refuse(code: str, cause: str, remedy: str = "") -> Refused:
    last_valid = (
        "restore the last valid version: `git log --oneline -- {path}` names them; "
        "`git checkout COMMIT -- {path} && git commit -m 'the state, restored' -- {path}`"
    )
    return Refused(f"the state file {cause}", code=f"state-{code}", remedy=remedy or last_valid)


def _ends_early(text: str) -> bool:
    """Tell whether `text` opens a JSON object that it never closes."""
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|"|[{}\[\]]', text, re.DOTALL):
        mark = match[0]
        if mark == '"':  # a string that never ends
            return True
        depth += (mark in "{[") - (mark in "}]") if len(mark) == 1 else 0
    return depth > 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise _refuse("invalid", f"holds the key {key!r} twice")
        unique[key] = value
    return unique


def _no_constant(name: str) -> None:
    raise _refuse("invalid", f"holds {name}, which is not JSON")


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _refuse("too-large", f"is {len(data):,} bytes; more than {MAX_BYTES:,} cannot be a state")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _refuse("bom", "begins with a byte order mark", "save {path} as UTF-8 without a byte order mark")
    if b"\0" in data:
        raise _refuse("nul", "holds NUL bytes: it was half written by a crash")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _refuse("encoding", f"is not UTF-8 at byte {error.start}") from None


def _load(text: str) -> dict[str, Any]:
    if re.search(r"^(<{7}|={7}|>{7})", text, re.MULTILINE):
        raise _refuse("conflicted", "holds merge conflict markers", "resolve the conflict in {path} and commit it")
    try:
        raw = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        if not text.strip() or _ends_early(text):
            raise _refuse("truncated", "ends before its object is closed") from None
        raise _refuse("not-json", f"is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise _refuse("not-object", "is JSON, but not an object")
    return raw


def _check_vocabulary(raw: dict[str, Any]) -> None:
    if isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
        raise _refuse(
            "future",
            f"has schema {raw['schema']}; this version knows {SCHEMA}",
            "upgrade this clone's `galph` to the version that wrote it",
        )
    for key in ("expected_actor", "last_prompt_actor"):
        if isinstance(raw.get(key), str) and raw[key] not in set(Actor):
            raise _refuse("unknown-actor", f"names the actor {raw[key]!r} in {key}; known are galph and ralph")
    if isinstance(raw.get("status"), str) and raw["status"] not in set(Status):
        raise _refuse("unknown-status", f"has the status {raw['status']!r}; known are {', '.join(Status)}")


def _check_writable(state: State) -> None:
    """Refuse what a hand-off could not write, or could not read again: better before the turn than after it."""
    try:
        size = len(encode(state))
    except (ValueError, RecursionError) as error:  # half a surrogate pair, 1e999, too deep
        raise _refuse("invalid", f"could not be written again: {error}") from None
    if size > MAX_BYTES:
        raise _refuse("too-large", f"would be written as {size:,} bytes; more than {MAX_BYTES:,} cannot be a state")


def parse(data: bytes | None) -> State:
    """Read the bytes of a state file; None stands for a missing file.

    Unknown keys are kept in `extra`. A file without `schema` is the ancestor's (schema 0) and is upgraded when it is
    next written.

    Raises:
        Refused: with a `code` of its own for every kind of damage; `{path}` in the remedy is the caller's to fill.

    """
    if data is None:
        raise _refuse("missing", "is missing", "`orchestrator init` creates one; an older one: `git log -- {path}`")
    text = _decode(data)
    raw = _load(text)
    _check_vocabulary(raw)
    extra = {key: value for key, value in raw.items() if key not in KNOWN}
    known = {key: value for key, value in raw.items() if key in KNOWN}
    try:
        state = msgspec.convert({**known, "extra": extra}, State)
    except msgspec.ValidationError as error:
        raise _refuse("invalid", f"is not valid: {plainly(str(error))}") from None
    if state.schema == SCHEMA and not text.endswith("\n"):
        raise _refuse("truncated", "lacks its final newline")
    _check_writable(state)
    return state


def requested_exit(data: bytes | None) -> str | None:
    """Return the reason if an agent's copy of the state asks the loop to end, else None.

    Only `exit: true` and a text in `exit_reason` are taken; whatever else is wrong with the copy does not matter.
    """
    try:
        raw = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.get("exit") is not True:
        return None
    reason = raw.get("exit_reason")
    return (
        reason[:_REASON].encode(errors="replace").decode() if isinstance(reason, str) else ""
    )  # JSON may halve a character


def with_exit(data: bytes, reason: str) -> bytes:
    """Return the bytes of a valid state with the exit flag set."""
    return encode(replace(parse(data), exit=True, exit_reason=reason))


def differs_in_exit_only(ours: bytes | None, copy: bytes | None) -> bool:
    """Tell whether an agent's copy of the state is ours but for the exit flag."""
    try:
        mine, theirs = parse(ours), parse(copy)
    except Refused:
        return False
    return replace(theirs, exit=mine.exit, exit_reason=mine.exit_reason) == mine


def encode(state: State) -> bytes:
    """Return two-space JSON in a stable key order with a final newline: a hand-off is a small diff."""
    raw = msgspec.to_builtins(replace(state, schema=SCHEMA))
    extra = raw.pop("extra")
    return (json.dumps({**raw, **extra}, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def check_forward(state: State, *, epoch: int, iteration: int, remedy: str = "") -> None:
    """Refuse a state that lies before one which this clone has already seen; `remedy` is what to type then.

    Raises:
        Refused: code `state-backwards`.

    """
    if state.epoch < epoch or state.iteration < iteration:
        raise _refuse(
            "backwards",
            f"went backwards: epoch {state.epoch}, iteration {state.iteration}; "
            f"this clone has seen epoch {epoch}, iteration {iteration}",
            remedy,
        )


# --- transitions ------------------------------------------------------------------------------------------------------


def _own(state: State, token: Token, now: datetime) -> State:
    return replace(state, epoch=token.epoch, holder=token.holder, nonce=token.nonce, last_update=iso(now))


def running(state: State, token: Token, base: str, now: datetime) -> State:
    """Return the state while `state.expected_actor` owns the turn."""
    return replace(_own(state, token, now), status=RUNNING[state.expected_actor], claim_base=base, failure=None)


def _commit_of(actor: Actor, commit: str) -> dict[str, str]:
    return {f"{actor}_commit": commit}


def succeeded(state: State, token: Token, commit: str, now: datetime) -> State:
    """Return the state after the expected actor's success; ralph's success begins the next iteration."""
    actor = state.expected_actor
    return replace(
        _own(state, token, now),
        expected_actor=actor.other,
        status=DONE[actor],
        iteration=state.iteration + (actor is Actor.RALPH),
        failure=None,
        **_commit_of(actor, commit),
    )


def failed(state: State, token: Token, commit: str, failure: Failure, now: datetime) -> State:
    """Return the state after the expected actor's failure: the same actor's turn, until a person decides."""
    return replace(
        _own(state, token, now), status=Status.FAILED, failure=failure, **_commit_of(state.expected_actor, commit)
    )


def _require(state: State, *statuses: Status, verb: str) -> None:
    if state.status not in statuses:
        raise Refused(
            f"`{verb}` is for a turn that is {' or '.join(statuses)}; the state is {state.status}",
            code="operator-not-now",
            remedy="`orchestrator status` shows what can be done now",
        )


def retried(state: State, token: Token, now: datetime) -> State:
    """Return the state after `orchestrator retry`: the failed actor's turn stands open again."""
    _require(state, Status.FAILED, verb="retry")
    return replace(_own(state, token, now), status=READY[state.expected_actor], failure=None)


def skipped(state: State, token: Token, commit: str, now: datetime) -> State:
    """Return the state after `orchestrator skip`: as that actor's success."""
    _require(state, Status.FAILED, verb="skip")
    return succeeded(state, token, commit, now)


def resumed(state: State, token: Token, now: datetime) -> State:
    """Return the state with the exit flag cleared."""
    return replace(_own(state, token, now), exit=False, exit_reason=None)


def taken_over(state: State, token: Token, now: datetime) -> State:
    """Return the state after `orchestrator takeover`: the running turn stands open again, and its holder is fenced."""
    _require(state, *RUNNING.values(), verb="takeover")
    return replace(_own(state, token, now), status=READY[state.expected_actor])


def adopted(state: State, token: Token, now: datetime) -> State:
    """Return the state as another branch's own; whoever runs it there is fenced off by the new epoch."""
    return replace(_own(state, token, now), branch=None)


def subject(before: State, after: State, *, operator: str | None = None) -> str:
    """Return the subject line of the commit that turns `before` into `after`.

    A success names the iteration that it leads to, so that ralph's names the new one.
    """
    if operator:
        return f"[SYNC i={after.iteration}] operator={operator} → next={after.expected_actor} status={after.status}"
    actor = before.expected_actor
    if after.status is Status.FAILED:
        reason = (after.failure.reason.partition(" (")[0].splitlines() or [""])[0] if after.failure else ""
        reason = reason if len(reason) <= _SUBJECT else f"{reason[: _SUBJECT - 1].rstrip()}…"
        return f"[SYNC i={after.iteration}] actor={actor} status=fail {reason}".rstrip()
    if after.status in RUNNING.values():
        return f"[SYNC i={after.iteration}] actor={actor} status=running"
    commit = getattr(after, f"{actor}_commit") or ""
    return f"[SYNC i={after.iteration}] actor={actor} → next={actor.other} status=ok {actor}_commit={commit[:7]}"


def message(before: State, after: State, *, operator: str | None = None, skip_ci: bool = False) -> str:
    """Return the whole message of a state commit: subject and the fencing token as trailers.

    With `skip_ci` the body tells the usual CI services to let it pass.
    """
    note = "[skip ci]\n\n" if skip_ci else ""
    return (
        f"{subject(before, after, operator=operator)}\n\n{note}Orchestration-Epoch: {after.epoch}\n"
        f"Orchestration-Holder: {after.holder}\nOrchestration-Nonce: {after.nonce}\n"
    )
