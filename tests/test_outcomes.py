"""Outcomes: every recorded run of a real agent is understood, a torn one is no success, and prose decides nothing."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.outcomes import Ending, Kind, Reader, Usage
from orchestration.presets import load, names
from orchestration.process import Why

RECORDED = Path(__file__).parent / "data" / "transcripts"
NOW = datetime(2026, 11, 21, 2, 45, tzinfo=UTC)
NOTHING = Usage(cost_usd=0.0)
DONE = "Done: I created hello.txt."


def utc(day: int, hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


def claude(cost: float, tokens: tuple[int, int, int]) -> Usage:
    return Usage(cost_usd=cost, input_tokens=tokens[0], output_tokens=tokens[1], cache_read_tokens=tokens[2])


def codex(*tokens: int) -> Usage:
    return Usage(input_tokens=tokens[0], output_tokens=tokens[1], cache_read_tokens=tokens[2])


class Run(NamedTuple):
    """A recorded run: how it exited, and what there is to read in what it printed."""

    code: int
    kind: Kind
    says: str
    session: str | None = None
    usage: Usage | None = None
    message: str = ""
    reset: datetime | None = None
    why: Why = Why.EXITED
    zone: str = "UTC"


ONE, TWO, THREE = (1200, 80, 200), (2400, 160, 400), (3600, 240, 600)
RUNS = {
    "claude-ok": Run(0, Kind.OK, "success", "e19a4a4d", claude(0.00972, TWO), DONE),
    "claude-ok-bgtask": Run(0, Kind.OK, "success", "60add27e", claude(0.01458, THREE), "all clear"),
    "claude-ok-json": Run(0, Kind.OK, "success", None, claude(0.00972, TWO), DONE),
    "claude-ok-noperm": Run(0, Kind.OK, "success", None, claude(0.01288, TWO), DONE),
    "claude-lie": Run(0, Kind.OK, "success", "32ea8b01", claude(0.00486, ONE), DONE),
    "claude-lie-s2": Run(0, Kind.OK, "success", "b6367da0", claude(0.00972, ONE), DONE),
    "claude-lie-s4": Run(1, Kind.CONFIG, "No conversation found with session ID: aa8e54ea", None, NOTHING),
    "claude-401": Run(1, Kind.AUTH, "Invalid API key", "5531efef", NOTHING, "Invalid API key · Fix external API key"),
    "claude-404": Run(1, Kind.CONFIG, "issue with the selected model", "23aeee53", NOTHING, "There's an issue"),
    "claude-429": Run(1, Kind.RATE_LIMIT, "Request rejected (429)", "66939352", NOTHING, "API Error: Request rej"),
    "claude-500": Run(1, Kind.SERVER, "API Error: 500 Internal", "f0284c15", NOTHING, "API Error: 500"),
    "claude-529": Run(1, Kind.SERVER, "API Error: 529 Overloaded", "7bb55245", NOTHING, "API Error: 529"),
    "claude-html": Run(1, Kind.NETWORK, "empty or malformed response", "a45bf451", NOTHING, "API Error: API returned"),
    "claude-ok-refused": Run(1, Kind.NETWORK, "ECONNREFUSED", "5bf1a5a9", NOTHING, "API Error: Connection refused"),
    "claude-ok-noauth": Run(1, Kind.AUTH, "Not logged in", "cb220673", NOTHING, "Not logged in · Please run /login"),
    "claude-quota": Run(1, Kind.QUOTA, "Credit balance", "c17d6cc5", NOTHING, "Credit balance is too low"),
    "claude-overflow": Run(1, Kind.OVERFLOW, "Prompt is too long", "875b4a77", NOTHING, "Prompt is too long"),
    "claude-loop-budget": Run(
        1, Kind.BUDGET, "Reached maximum budget ($0.03)", "dc364fe5", claude(0.03402, (7200, 480, 1200))
    ),
    "claude-loop-maxturns": Run(1, Kind.MAX_TURNS, "number of turns (3)", "209ccccc", claude(0.01458, THREE)),
    "claude-usage-oauth": Run(
        *(1, Kind.USAGE_LIMIT, "hit your limit · resets 3:59am (UTC)", "7f203337", NOTHING, "You've hit your limit"),
        reset=utc(21, 3, 59, 38),
    ),
    "claude-usage_300000-oauth-Asia_Tokyo": Run(
        *(1, Kind.USAGE_LIMIT, "resets Nov 24, 11:21pm", "1459650c", NOTHING, "You've hit your limit"),
        reset=utc(24, 14, 21, 55),
        zone="Asia/Tokyo",
    ),
    "claude-usage_5000-oauth-America_New_York": Run(
        *(1, Kind.USAGE_LIMIT, "resets 11:25pm", "7e3b690c", NOTHING, "You've hit your limit"),
        reset=utc(21, 4, 25, 23),
        zone="America/New_York",
    ),
    "claude-usage_20-watchdog": Run(
        143, Kind.USAGE_LIMIT, "usage limit", "99d23a7a", reset=utc(21, 3, 25, 14), why=Why.IDLE
    ),
    "claude-hang-INT": Run(0, Kind.NO_RESULT, "exited with 0", "3ba15408"),
    "claude-ok-grp-INT": Run(0, Kind.FAILED, "[ede_diagnostic]", "80657834", claude(0.00486, ONE)),
    "claude-ok-noverbose": Run(1, Kind.CONFIG, "requires --verbose"),
    "claude-ok-root": Run(1, Kind.CONFIG, "cannot be used with root/sudo"),
    "claude-ok-text": Run(0, Kind.NO_RESULT, "exited with 0"),
    "claude-usage-text": Run(1, Kind.CRASHED, "exit code 1"),
    "codex-ok": Run(0, Kind.OK, "success", "01a1fc2e-3920", codex(*TWO), DONE),
    "codex-lie": Run(0, Kind.OK, "success", "01a1fc2e-3a63", codex(*ONE), DONE),
    "codex-lie-s2": Run(0, Kind.OK, "success", "01a1fc1c-993d", codex(*TWO), DONE),
    "codex-ok-sb-default": Run(0, Kind.OK, "success", "01a1fc1b-2fa6", codex(*TWO), DONE),
    "codex-ok-sb-ww-commit": Run(0, Kind.OK, "success", "01a1fc1b-a0d0", codex(*TWO), "ok"),
    "codex-401": Run(1, Kind.AUTH, "unexpected status 401 Unauthorized", "01a1fbfd-a823"),
    "codex-404": Run(1, Kind.CONFIG, "does not exist", "01a1fc00-e91e"),
    "codex-429": Run(1, Kind.RATE_LIMIT, "last status: 429", "01a1fbfa-f311"),
    "codex-429_20": Run(1, Kind.RATE_LIMIT, "last status: 429", "01a1fc1f-c3d6"),
    "codex-500": Run(1, Kind.SERVER, "high demand", "01a1fbfa-f17d"),
    "codex-503": Run(1, Kind.SERVER, "at capacity", "01a1fc01-bf99"),
    "codex-drop": Run(1, Kind.NETWORK, "stream disconnected", "01a1fc2e-4136"),
    "codex-stall": Run(1, Kind.NETWORK, "idle timeout waiting for SSE", "01a1fc0b-1a34"),
    "codex-quota": Run(1, Kind.QUOTA, "Quota exceeded", "01a1fbfe-0c10"),
    "codex-overflow": Run(1, Kind.OVERFLOW, "ran out of room", "01a1fc01-3ecd"),
    "codex-ok-noauth": Run(1, Kind.AUTH, "Missing environment variable", "01a1fc16-bb52"),
    "codex-ok-nogit": Run(1, Kind.CONFIG, "Not inside a trusted directory"),
    "codex-ok-argopen": Run(143, Kind.IDLE, "no progress", why=Why.IDLE),
    "codex-ok-refused": Run(143, Kind.NETWORK, "waiting for network", "01a1fc19-2124", why=Why.IDLE),
    "codex-ok-text": Run(0, Kind.NO_RESULT, "exited with 0"),
    "codex-usage": Run(1, Kind.USAGE_LIMIT, "hit your usage limit", "01a1fbfd-e377", reset=utc(21, 3, 44)),
    "codex-usage_300000-America_New_York": Run(
        *(1, Kind.USAGE_LIMIT, "Nov 24th, 2026 9:22 AM", "01a1fc0d-be97"),
        reset=utc(24, 14, 22),
        zone="America/New_York",
    ),
    "codex-usage_5000-Asia_Tokyo": Run(
        1, Kind.USAGE_LIMIT, "try again at 1:25 PM", "01a1fc0d-b590", reset=utc(21, 4, 25), zone="Asia/Tokyo"
    ),
    "codex-usage-text": Run(1, Kind.CRASHED, "hit your usage limit"),
}
GOOD = [name for name, run in RUNS.items() if run.kind is Kind.OK]
RETRIED = {Kind.USAGE_LIMIT, Kind.RATE_LIMIT, Kind.SERVER, Kind.NETWORK}


def recorded(name: str, stream: str = "stdout") -> bytes:
    file = RECORDED / f"{name}.{stream}"
    return file.read_bytes() if file.exists() else b""


def reader(name: str) -> Reader:
    return Reader(load()[name.partition("-")[0]])


def read(name: str, stdout: bytes, code: int = 0, why: Why = Why.EXITED, chunk: int = 1 << 20) -> Ending:
    mine = reader(name)
    for at in range(0, len(stdout), chunk):
        mine.feed("stdout", stdout[at : at + chunk])
    mine.feed("stderr", recorded(name, "stderr"))
    return mine.ended(code, why, NOW.astimezone(ZoneInfo(RUNS[name].zone)))


def test_every_recorded_run_is_expected_to_mean_something() -> None:
    assert {path.stem for path in RECORDED.iterdir()} == set(RUNS)
    assert {name.partition("-")[0] for name in RUNS} == set(names())


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_is_understood(name: str) -> None:
    run = RUNS[name]

    ending = read(name, recorded(name), run.code, run.why)

    assert (ending.kind, ending.reset) == (run.kind, run.reset)
    assert run.says in ending.reason
    assert "\n" not in ending.reason
    assert (ending.session or "").startswith(run.session or "")
    assert (ending.session is None) == (run.session is None)
    assert ending.message.startswith(run.message)
    assert bool(ending.message) == bool(run.message)
    assert (ending.usage is None) == (run.usage is None)
    if ending.usage and run.usage:
        assert msgspec.structs.astuple(ending.usage) == pytest.approx(msgspec.structs.astuple(run.usage))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_it_means_the_same_however_the_pipe_cuts_it(name: str, chunk: int) -> None:
    run, text = RUNS[name], recorded(name)
    whole = read(name, text, run.code, run.why)

    assert read(name, text, run.code, run.why, chunk) == whole
    assert read(name, text.replace(b"\n", b"\r\n"), run.code, run.why) == whole
    assert read(name, text.replace(b"}\n{", b"}{"), run.code, run.why) == whole
    assert read(name, text.rstrip(b"\n"), run.code, run.why) == whole


many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOISE = {
    "claude": [
        b'{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795233578}}',
        b'{"type":"system","subtype":"api_retry","attempt":1,"error_status":429,"error":"rate_limit"}',
    ],
    "codex": [
        b'{"type":"error","message":"Reconnecting... 1/5 (exceeded retry limit, last status: 429 Too Many Requests)"}',
        b'{"type":"error","message":"Reconnecting... waiting for network (Connection failed)"}',
    ],
}
JUNK = [b"", b"\0\0", b"\xff\xfe", b"warning: {x}", b"[1, {}]", b'{"type": "result"', b"HTTP 429 usage limit reached"]


@many
@given(st.data(), st.sampled_from(GOOD))
def test_noise_and_junk_between_the_lines_of_a_success_leave_it_one(data: st.DataObject, name: str) -> None:
    lines = recorded(name).splitlines()
    between = st.lists(st.sampled_from([*NOISE[name.partition("-")[0]], *JUNK]), max_size=3)
    mixed = [part for line in lines for part in (*data.draw(between), line)]

    ending = read(name, b"\n".join([*mixed, *data.draw(between)]) + b"\n")

    assert (ending.kind, ending.message) == (Kind.OK, RUNS[name].message)


@many
@given(st.data(), st.sampled_from(GOOD), st.sampled_from([0, 1, 137, 143]))
def test_what_is_cut_before_the_result_is_no_success_and_nothing_to_retry(
    data: st.DataObject, name: str, code: int
) -> None:
    text = recorded(name)
    terminal = [
        line for line in text.splitlines(keepends=True) if b'"type":"result"' in line or b"turn.completed" in line
    ]
    first = text.index(terminal[0])
    cut = data.draw(st.integers(0, first + len(terminal[0].rstrip()) - 1))

    ending = read(name, text[:cut], code)

    assert ending.kind is (Kind.CRASHED if code else Kind.NO_RESULT)


@many
@given(st.data(), st.sampled_from(sorted(RUNS)), st.integers(0, 3))
def test_lines_told_twice_or_left_out_never_make_a_success_of_a_failure(
    data: st.DataObject, name: str, times: int
) -> None:
    run, lines = RUNS[name], recorded(name).splitlines(keepends=True)
    chosen = [line for line in lines for _ in range(data.draw(st.sampled_from([1, times])))]

    ending = read(name, b"".join(chosen), run.code, run.why)

    assert ending.kind is not Kind.OK or run.kind is Kind.OK


PROSE = [
    "You've hit your limit · resets 3:59am (UTC)",
    "Claude AI usage limit reached|1795233578",
    "Credit balance is too low",
    "Not logged in · Please run /login",
    "API Error: Connection refused (ECONNREFUSED), timed out",
    "You\u2019ve hit your usage limit. try again at 3:44 AM.",
    "exceeded retry limit, last status: 429 Too Many Requests",
    "stream disconnected before completion",
]
FORMS = {
    "claude": [
        '{"type":"assistant","message":{"content":[{"type":"text","text":%s}]},"session_id":"s"}',
        '{"type":"user","message":{"content":[{"type":"tool_result","content":%s,"is_error":true}]}}',
        '{"type":"user","message":{"content":[]},"tool_use_result":{"type":"result","is_error":true,"result":%s}}',
    ],
    "codex": [
        '{"type":"item.completed","item":{"type":"agent_message","text":%s}}',
        '{"type":"item.completed","item":{"type":"command_execution","aggregated_output":%s,"exit_code":1}}',
        '{"type":"item.completed","item":{"type":"error","message":%s}}',
    ],
}
SUCCESS = {
    "claude": '{"type":"result","subtype":"success","is_error":false,"result":%s}',
    "codex": '{"type":"item.completed","item":{"type":"agent_message","text":%s}}\n{"type":"turn.completed"}',
}


@pytest.mark.parametrize("agent", FORMS)
@pytest.mark.parametrize("prose", PROSE)
@pytest.mark.parametrize(("code", "kind"), [(0, Kind.OK), (1, Kind.CRASHED)])
def test_an_agent_that_writes_about_limits_has_none(agent: str, prose: str, code: int, kind: Kind) -> None:
    mine, said = Reader(load()[agent]), msgspec.json.encode(prose).decode()
    for form in FORMS[agent]:
        mine.feed("stdout", f"{form % said}\n".encode())
    mine.feed("stdout", (SUCCESS[agent] % said).encode() + b"\n")

    ending = mine.ended(code, Why.EXITED, NOW)

    assert (ending.kind, ending.message, ending.reset) == (kind, prose, None)


@pytest.mark.parametrize("agent", FORMS)
@pytest.mark.parametrize("prose", PROSE)
@pytest.mark.parametrize(
    ("code", "why", "kind"),
    [
        (0, Why.EXITED, Kind.NO_RESULT),
        (137, Why.EXITED, Kind.CRASHED),
        (143, Why.IDLE, Kind.IDLE),
        (143, Why.TIMEOUT, Kind.TIMEOUT),
        (0, Why.STOPPED, Kind.STOPPED),
    ],
)
def test_nor_has_one_that_is_killed_while_it_does(agent: str, prose: str, code: int, why: Why, kind: Kind) -> None:
    mine, said = Reader(load()[agent]), msgspec.json.encode(prose).decode()
    for form in FORMS[agent]:
        mine.feed("stdout", f"{form % said}\n".encode())

    assert mine.ended(code, why, NOW).kind is kind


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    ("code", "why", "kind"),
    [
        (143, Why.GRACE, Kind.OK),
        (143, Why.EXITED, Kind.CRASHED),
        (0, Why.STOPPED, Kind.STOPPED),
        (143, Why.TIMEOUT, Kind.TIMEOUT),
        (143, Why.IDLE, Kind.IDLE),
    ],
)
def test_what_has_reported_success_and_does_not_exit_is_one_if_its_grace_was_over(
    name: str, code: int, why: Why, kind: Kind
) -> None:
    assert read(name, recorded(name), code, why).kind is kind


def test_a_failure_that_does_not_exit_is_the_failure_that_it_reported() -> None:
    assert read("codex-401", recorded("codex-401"), 143, Why.GRACE).kind is Kind.AUTH


def test_what_an_agent_got_over_is_not_what_ended_it() -> None:
    mine = reader("codex")
    mine.feed("stdout", NOISE["codex"][1] + b'\n{"type":"turn.started"}\n')

    assert mine.ended(143, Why.IDLE, NOW).kind is Kind.IDLE


def test_noise_and_standard_error_are_no_progress_and_events_are() -> None:
    mine = reader("codex")

    assert not mine.feed("stderr", b"WARNING\n")
    assert not mine.feed("stdout", b"not an event\n\n")
    assert not mine.feed("stdout", NOISE["codex"][0] + b"\n")
    assert not mine.feed("stdout", b'{"type":"turn.started"}')
    assert mine.feed("stdout", b"\n")
    assert mine.feed("stdout", NOISE["codex"][0] + b'\n{"type":"turn.started"}\n' + NOISE["codex"][0] + b"\n")


def test_done_is_what_has_reported_and_not_begun_anew() -> None:
    mine, done = reader("claude"), []
    lines = recorded("claude-ok-bgtask").splitlines(keepends=True)
    for line in lines:
        mine.feed("stdout", line)
        done.append(mine.done)

    first, again, last = 6, 10, 12
    assert b'"type":"result"' in lines[first]
    assert b'"subtype":"init"' in lines[again]
    assert done == [first <= at < again or at == last for at in range(len(lines))]


def test_what_an_agent_floods_is_read_in_bounded_memory() -> None:
    mine = reader("claude")
    for _ in range(100):
        mine.feed("stderr", b"x" * (1 << 20))
    mine.feed("stderr", b"\nNo conversation found with session ID: 7\n")

    assert mine.ended(1, Why.EXITED, NOW).kind is Kind.CONFIG


@pytest.mark.parametrize(
    ("code", "why", "kind"),
    [
        (0, Why.EXITED, Kind.OK),
        (3, Why.EXITED, Kind.FAILED),
        (137, Why.EXITED, Kind.FAILED),
        (143, Why.TIMEOUT, Kind.TIMEOUT),
        (143, Why.IDLE, Kind.IDLE),
        (0, Why.STOPPED, Kind.STOPPED),
    ],
)
def test_of_a_bare_executable_the_exit_code_decides_and_any_output_is_progress(code: int, why: Why, kind: Kind) -> None:
    mine = Reader(None)

    assert mine.feed("stdout", recorded("claude-429"))
    assert mine.feed("stderr", b"x")
    assert not mine.done
    ending = mine.ended(code, why, NOW)
    assert (ending.kind, ending.usage, ending.session) == (kind, None, None)


def test_what_counts_through_a_session_is_told_by_its_difference() -> None:
    first, second = (read("codex-lie", recorded(name)) for name in ("codex-lie", "codex-lie-s2"))

    assert second.cumulative == ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    assert second.used(first.usage) == codex(*ONE)
    assert second.used() == codex(*TWO)


def test_a_cost_counts_through_a_session_and_tokens_do_not() -> None:
    first, second = (read("claude-lie", recorded(name)) for name in ("claude-lie", "claude-lie-s2"))

    assert second.cumulative == ("cost_usd",)
    used = second.used(first.usage)
    assert used is not None
    assert used.cost_usd == pytest.approx(0.00486)
    assert used.input_tokens == 1200


def test_usage_adds_up_and_a_count_that_begins_anew_is_taken_as_it_is() -> None:
    mine, other = Usage(cost_usd=0.5, input_tokens=3), Usage(input_tokens=4, output_tokens=1)

    assert mine.plus(other) == other.plus(mine) == Usage(cost_usd=0.5, input_tokens=7, output_tokens=1, unpriced=5)
    assert mine.since(other, ("input_tokens", "cost_usd")) == mine
    assert other.since(mine, ("input_tokens", "cost_usd")) == Usage(input_tokens=1, output_tokens=1)


@pytest.mark.parametrize("value", ["1", True, -1, None, [1], {}])
def test_a_count_that_is_none_is_left_out(value: object) -> None:
    event = {"type": "turn.completed", "usage": {"input_tokens": value, "output_tokens": 5}}
    mine = reader("codex")
    mine.feed("stdout", msgspec.json.encode(event) + b"\n")

    assert mine.ended(0, Why.EXITED, NOW).usage == Usage(output_tokens=5)
